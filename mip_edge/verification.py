"""The proof that a bundle is whole: its files, and that each graph opens and keeps its promises."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mip_edge.artifact import Bundle, read_bundle, verify_file
from mip_edge.errors import BundleError
from mip_edge.manifest import MANIFEST_NAME
from mip_edge.spec import EmbedderSpec, Embeddings, Modality

if TYPE_CHECKING:
    import onnxruntime

SPEC_KEY = "mip_edge.spec"
FINGERPRINT_KEY = "mip_edge.fingerprint"
LENGTH_TOLERANCE = 1e-3
"""How far from 1 an embedding may be long: half precision rounds to about this."""
_GREY = 128
_ANEW = "Export the bundle anew with: mip-edge export WEIGHTS -o BUNDLE"


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """A file that is the one that was exported."""

    file: str
    bytes: int


@dataclass(frozen=True, slots=True)
class VerifiedGraph:
    """A graph that opened, says of itself what the manifest says, and embedded one grey crop."""

    file: str
    precision: str
    modality: Modality
    length: float
    """Euclidean length of the grey crop's embedding."""
    tensorrt_rtx: tuple[str, ...] | None = None
    """What TensorRT-RTX warned of when it built the graph; None if it was not asked."""


@dataclass(frozen=True, slots=True)
class Verification:
    """All that was found right; what is wrong is an error instead."""

    path: Path
    fingerprint: str
    files: tuple[VerifiedFile, ...]
    graphs: tuple[VerifiedGraph, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {
            "bundle": str(self.path),
            "fingerprint": self.fingerprint,
            "whole": True,
            "files": [asdict(file) for file in self.files],
            "graphs": [
                {**asdict(graph), "modality": graph.modality.value} for graph in self.graphs
            ],
        }


Found = VerifiedFile | VerifiedGraph


def verify_bundle(
    path: str | Path,
    *,
    tensorrt_rtx: bool = False,
    tell: Callable[[Found], None] | None = None,
) -> Verification:
    """Schema and hashes, then each graph in ONNX Runtime (with `tensorrt_rtx` in that too).

    `tell` is given each file and graph as soon as it is found right.
    Raises: BundleError naming the file at fault; EngineError if TensorRT-RTX is not installed, or
    refuses a graph.
    """
    bundle = read_bundle(path)
    found: list[Found] = []
    for one in _verify(bundle, tensorrt_rtx):
        found.append(one)
        if tell is not None:
            tell(one)
    return Verification(
        bundle.path,
        bundle.manifest.fingerprint,
        tuple(one for one in found if isinstance(one, VerifiedFile)),
        tuple(one for one in found if isinstance(one, VerifiedGraph)),
    )


def _verify(bundle: Bundle, tensorrt_rtx: bool) -> Iterator[Found]:
    yield VerifiedFile(MANIFEST_NAME, (bundle.path / MANIFEST_NAME).stat().st_size)
    for name, record in bundle.manifest.files.items():
        verify_file(bundle, name)
        yield VerifiedFile(name, record.bytes)
    built: dict[Path, tuple[str, ...]] = {}
    for precision, held in bundle.manifest.precisions.items():
        for modality, graph in held.graphs.items():
            file = bundle.graph_path(modality, precision)
            length = _check_graph(bundle, modality, file)
            if tensorrt_rtx and file not in built:
                built[file] = _build(file)
            yield VerifiedGraph(graph.file, precision, modality, length, built.get(file))


def _check_graph(bundle: Bundle, modality: Modality, file: Path) -> float:
    """Length of the grey crop's embedding by a graph that keeps what the manifest promises."""
    spec = bundle.manifest.specs[modality]
    session = _open(file)
    metadata = session.get_modelmeta().custom_metadata_map
    _check_spec(file, metadata.get(SPEC_KEY), spec.promise(unified=bundle.unified))
    if metadata.get(FINGERPRINT_KEY) != spec.fingerprint:
        raise BundleError(
            f"{file} says it is of the model {metadata.get(FINGERPRINT_KEY)}, its manifest says "
            f"{spec.fingerprint}. {_ANEW}"
        )
    channels = Modality.VISIBLE.channels if bundle.unified else spec.channels
    images = np.full((1, spec.height, spec.width, channels), _GREY, dtype=np.uint8)
    inputs = {"images": images}
    if bundle.unified:
        inputs["modality"] = np.array([modality.row], dtype=np.int64)
    return _length(file, spec, _embed(file, session, inputs))


def _check_spec(file: Path, text: str | None, expected: dict[str, Any]) -> None:
    if text is None:
        raise BundleError(f"{file} carries no {SPEC_KEY} in its metadata. {_ANEW}")
    try:
        said = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{file} carries a {SPEC_KEY} that is no JSON ({error})") from error
    if said != expected:
        raise BundleError(
            f"{file} says of itself {json.dumps(said, sort_keys=True)}, its manifest says "
            f"{json.dumps(expected, sort_keys=True)}. {_ANEW}"
        )


def _open(file: Path) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no base class but this
        raise _refused(file, error) from error


def _embed(file: Path, session: Any, inputs: dict[str, Any]) -> Embeddings:
    names = {one.name for one in session.get_inputs()}
    outputs = [one.name for one in session.get_outputs()]
    if names != set(inputs) or outputs != ["embeddings"]:
        raise BundleError(
            f"{file} has the inputs {', '.join(sorted(names))} and the outputs "
            f"{', '.join(outputs)}, expected {', '.join(inputs)} and embeddings. {_ANEW}"
        )
    try:
        embeddings: Embeddings = session.run(["embeddings"], inputs)[0]
    except Exception as error:  # as above
        raise _refused(file, error) from error
    return embeddings


def _length(file: Path, spec: EmbedderSpec, embeddings: Embeddings) -> float:
    if embeddings.shape != (1, spec.dimension) or embeddings.dtype != np.float32:
        raise BundleError(
            f"{file} makes {embeddings.dtype} of shape {embeddings.shape} of one crop, expected "
            f"float32 of shape (1, {spec.dimension}). {_ANEW}"
        )
    length = float(np.linalg.norm(embeddings.astype(np.float64)))
    if not abs(length - 1) <= LENGTH_TOLERANCE:  # a NaN fails too
        raise BundleError(
            f"{file} embeds a grey {spec.modality.value} crop into a vector of length "
            f"{length:.6f}, expected 1 within {LENGTH_TOLERANCE}. {_ANEW}"
        )
    return length


def _build(file: Path) -> tuple[str, ...]:
    from engines.build_trt import check_graph

    return check_graph(file).warnings


def _refused(file: Path, error: Exception) -> BundleError:
    import onnxruntime

    words = str(error).strip().splitlines() or [type(error).__name__]
    return BundleError(f"onnxruntime {onnxruntime.__version__} refuses {file}: {words[0]}")
