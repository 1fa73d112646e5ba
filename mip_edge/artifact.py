"""The bundle: a folder that travels to the device, whole or not at all, with all it promises."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mip_edge import __version__
from mip_edge.errors import BundleError, MipEdgeError, OutputError
from mip_edge.spec import EmbedderSpec, Modality

SCHEMA_VERSION = 2
FORMAT = "mip-edge bundle"
MANIFEST_NAME = "manifest.json"
_ANEW = "Export it anew with: mip-edge export WEIGHTS -o BUNDLE"
_CHUNK_BYTES = 1 << 20
_MANIFEST_KEYS = (
    "format",
    "schema_version",
    "created_by",
    "fingerprint",
    "model",
    "modalities",
    "camera",
    "layout",
    "surgery",
    "checkpoint",
    "projection",
    "precisions",
    "thresholds",
    "provenance",
    "licence",
    "files",
    "digest",
)
_DIGEST_KEY = "digest"
"""Where the manifest holds the SHA-256 of all its other keys."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the embeddings of one engine are from those of its reference, crop by crop."""

    smallest_cosine: float
    """Cosine of the worst crop."""
    mean_cosine: float
    """Mean over the crops."""
    top1_agreement: float
    """Share of crops whose nearest other crop is the same in both."""
    crops: int
    """Crops that were compared."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one crop costs, counted from the graph."""

    macs: int
    """Multiply-accumulates of convolutions and matrix products."""
    parts: Mapping[str, int]
    """The same by part: patches, blocks, ipg, head."""
    weight_bytes: int
    """Bytes of all constants, as stored."""
    peak_activation_bytes: int
    """Most bytes of intermediate tensors alive at once, nodes run in the order of the file."""


@dataclass(frozen=True, slots=True)
class Graph:
    """One ONNX file of a bundle for one modality at one precision."""

    file: str
    """Name inside the bundle; in the layout `unified` that of both modalities."""
    parity: Parity | None = None
    """Measured against PyTorch when the bundle was made; None in a draft only."""
    cost: Cost | None = None
    """Counted when the bundle was made; None in a draft only."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Figures of one search direction on labelled crops, in percent."""

    rank1: float
    mean_ap: float
    queries: int
    gallery: int


@dataclass(frozen=True, slots=True)
class Precision:
    """All graphs of one precision and what they are worth."""

    graphs: Mapping[Modality, Graph]
    accuracy: Mapping[str, Accuracy] | None = None
    """By direction, such as `infrared to visible`; None where no labelled data was given."""
    kept_float32: tuple[str, ...] = ()
    """Prefixes of node names that stay in float32 in graphs of lower precision."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file of the bundle must be, to the byte."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a bundle says of itself; no clock and no path, so equal input gives equal bytes."""

    fingerprint: str
    """SHA-256 of the model's weights and options."""
    model: Mapping[str, Any]
    """Options of the network that was exported."""
    specs: Mapping[Modality, EmbedderSpec]
    """Input and output of each modality."""
    camera: Mapping[Modality, str]
    """Camera policy baked into each graph: `none`, `mean`, or the name of a camera."""
    precisions: Mapping[str, Precision]
    """`fp32`, `fp16`, ... to its graphs."""
    layout: str = "per-modality"
    """`per-modality` (a graph for each) or `unified` (one graph that takes the modality)."""
    surgery: str = "full"
    """How the network was rewritten; `none` is the published computation."""
    checkpoint: str = ""
    """Fingerprint of the checkpoint; differs from `fingerprint` where a projection follows."""
    projection: Mapping[str, Any] | None = None
    """How embeddings were reduced (method, dimensions, what it was learnt on), or None."""
    min_similarity: float | None = None
    """Cosine from which two embeddings are taken for one person, if it was measured."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What the model was trained on, as the checkpoint tells it."""
    licence: str = ""
    """Terms of the weights, as the checkpoint tells them."""
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    """Every other file of the folder; filled by `seal`."""
    schema_version: int = SCHEMA_VERSION
    created_by: str = f"mip-edge {__version__}"

    def to_json(self) -> str:
        """Text of manifest.json, keys sorted."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "schema_version": self.schema_version,
            "created_by": self.created_by,
            "fingerprint": self.fingerprint,
            "model": dict(self.model),
            "modalities": {
                modality.value: {
                    "height": spec.height,
                    "width": spec.width,
                    "channels": spec.channels,
                    "dimension": spec.dimension,
                }
                for modality, spec in self.specs.items()
            },
            "camera": {modality.value: policy for modality, policy in self.camera.items()},
            "layout": self.layout,
            "surgery": self.surgery,
            "checkpoint": self.checkpoint,
            "projection": None if self.projection is None else dict(self.projection),
            "precisions": {
                name: {
                    "graphs": {
                        modality.value: asdict(graph)
                        for modality, graph in precision.graphs.items()
                    },
                    "accuracy": None
                    if precision.accuracy is None
                    else {
                        direction: asdict(found) for direction, found in precision.accuracy.items()
                    },
                    "kept_float32": list(precision.kept_float32),
                }
                for name, precision in self.precisions.items()
            },
            "thresholds": {"min_similarity": self.min_similarity},
            "provenance": dict(self.provenance),
            "licence": self.licence,
            "files": {name: asdict(record) for name, record in self.files.items()},
        }
        document[_DIGEST_KEY] = _digest(document)
        return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: every file is there and is the one that was exported."""

    path: Path
    manifest: Manifest

    def graph_path(self, modality: Modality, precision: str = "fp32") -> Path:
        """The ONNX file of one modality.

        Raises: BundleError if the bundle does not hold it.
        """
        held = self.manifest.precisions.get(precision)
        if held is None:
            known = ", ".join(sorted(self.manifest.precisions))
            raise BundleError(f"{self.path} holds no {precision} graphs; it holds: {known}")
        if modality not in held.graphs:
            raise BundleError(f"{self.path} holds no {precision} graph for {modality.value} crops")
        return self.path / held.graphs[modality].file


def open_bundle(path: str | Path) -> Bundle:
    """Read the manifest and verify every file against it.

    Raises: BundleError naming the file at fault and what to do.
    """
    folder = Path(path)
    manifest_path = folder / MANIFEST_NAME
    if not manifest_path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it holds no {MANIFEST_NAME}. "
            "Make one with: mip-edge export WEIGHTS -o BUNDLE"
        )
    manifest = _parse(manifest_path)
    for name, record in manifest.files.items():
        _verify(folder / name, record)
    return Bundle(folder, manifest)


@contextmanager
def write_bundle(target: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A draft folder beside `target` that takes its name when the block ends well.

    On any error the draft is removed and an older bundle stays as it was.
    Raises: OutputError if `target` exists (without `overwrite`) or cannot be written.
    """
    target = Path(target)
    _refuse_existing(target, overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.draft-", dir=target.parent))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {_reason(error)}") from error
    try:
        draft.chmod(0o755)  # mkdtemp gives 0o700; a bundle is read by other accounts on a device
        yield draft
        _take_place(draft, target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {_reason(error)}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def seal(draft: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of a draft, with size and SHA-256 of every file that lies in it."""
    names = sorted(entry.name for entry in draft.iterdir() if entry.name != MANIFEST_NAME)
    sealed = replace(manifest, files={name: _record(draft / name) for name in names})
    (draft / MANIFEST_NAME).write_text(sealed.to_json(), encoding="utf-8")
    return sealed


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise OutputError(f"{target} exists already; choose another place or add --overwrite")
    is_bundle = (target / MANIFEST_NAME).is_file()
    if not target.is_dir() or not (is_bundle or not any(target.iterdir())):
        raise OutputError(
            f"{target} is no bundle, so --overwrite leaves it alone; remove it yourself"
        )


def _take_place(draft: Path, target: Path) -> None:
    """Rename the draft to the target; an older bundle goes only when the new one stands."""
    if not target.exists():
        draft.replace(target)
        return
    older = Path(tempfile.mkdtemp(prefix=f".{target.name}.older-", dir=target.parent))
    target.replace(older)
    try:
        draft.replace(target)
    except OSError:
        older.replace(target)
        raise
    shutil.rmtree(older, ignore_errors=True)


def _record(path: Path) -> FileRecord:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return FileRecord(sha256=digest.hexdigest(), bytes=path.stat().st_size)


def _verify(path: Path, expected: FileRecord) -> None:
    if not path.is_file():
        raise BundleError(f"{path} is missing from the bundle. Copy the folder again or: {_ANEW}")
    try:
        found = path.stat().st_size
        if found != expected.bytes:
            raise BundleError(
                f"{path} has {found} bytes, its manifest says {expected.bytes}: "
                f"truncated or replaced. Copy the folder again. {_ANEW}"
            )
        if _record(path).sha256 != expected.sha256:
            raise BundleError(
                f"{path} differs from what was exported (SHA-256): altered or damaged. "
                f"Copy the folder again. {_ANEW}"
            )
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {_reason(error)}") from error


def _parse(path: Path) -> Manifest:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read as JSON ({error}). {_ANEW}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BundleError(f"{path} is not the manifest of a mip-edge bundle. {_ANEW}")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}; this mip-edge {__version__} reads "
            f"{SCHEMA_VERSION}. Use the mip-edge that made it, or: {_ANEW}"
        )
    try:
        manifest = _manifest(document)
    except (MipEdgeError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise BundleError(f"{path} does not follow its schema: {reason}. {_ANEW}") from error
    if document.get(_DIGEST_KEY) != _digest(document):
        raise BundleError(
            f"{path} differs from what was exported (SHA-256): altered or damaged. "
            f"Copy the folder again. {_ANEW}"
        )
    return manifest


def _manifest(document: dict[str, Any]) -> Manifest:
    _only_keys(document, _MANIFEST_KEYS)
    _only_keys(document["thresholds"], ["min_similarity"])
    fingerprint = str(document["fingerprint"])
    files = {_plain(name): _build(FileRecord, item) for name, item in document["files"].items()}
    precisions = {name: _precision(item, files) for name, item in document["precisions"].items()}
    return Manifest(
        fingerprint=fingerprint,
        model=document["model"],
        specs={
            Modality(key): _spec(Modality(key), item, fingerprint)
            for key, item in document["modalities"].items()
        },
        camera={Modality(key): str(policy) for key, policy in document["camera"].items()},
        precisions=precisions,
        layout=document["layout"],
        surgery=document["surgery"],
        checkpoint=document["checkpoint"],
        projection=document["projection"],
        min_similarity=document["thresholds"]["min_similarity"],
        provenance=document["provenance"],
        licence=document["licence"],
        files=files,
        created_by=document["created_by"],
    )


def _digest(document: Mapping[str, Any]) -> str:
    others = {key: item for key, item in document.items() if key != _DIGEST_KEY}
    canonical = json.dumps(others, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _spec(modality: Modality, item: dict[str, Any], fingerprint: str) -> EmbedderSpec:
    _only_keys(item, ["height", "width", "channels", "dimension"])
    if item["channels"] != modality.channels:
        raise BundleError(f"{modality.value} crops of {item['channels']} channels")
    return EmbedderSpec(modality, item["height"], item["width"], item["dimension"], fingerprint)


def _precision(item: dict[str, Any], files: Mapping[str, FileRecord]) -> Precision:
    _only_keys(item, ["graphs", "accuracy", "kept_float32"])
    accuracy = item["accuracy"]
    return Precision(
        graphs={Modality(key): _graph(graph, files) for key, graph in item["graphs"].items()},
        accuracy=None
        if accuracy is None
        else {direction: _build(Accuracy, found) for direction, found in accuracy.items()},
        kept_float32=tuple(item["kept_float32"]),
    )


def _graph(item: dict[str, Any], files: Mapping[str, FileRecord]) -> Graph:
    _only_keys(item, ["file", "parity", "cost"])
    if item["file"] not in files:
        raise BundleError(f"the graph {item['file']!r} is not among its files")
    parity, cost = item["parity"], item["cost"]
    return Graph(
        item["file"],
        None if parity is None else _build(Parity, parity),
        None if cost is None else _build(Cost, cost),
    )


def _build(kind: Any, item: dict[str, Any]) -> Any:
    names = [entry.name for entry in fields(kind)]
    _only_keys(item, names)
    return kind(**{name: item[name] for name in names})


def _plain(name: str) -> str:
    """A name inside the bundle; a path that leads out of it is refused."""
    if name != Path(name).name or name in ("", ".", ".."):
        raise BundleError(f"the file name {name!r} leads out of the bundle")
    return name


def _only_keys(item: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = sorted(set(item) - set(known))
    if unknown:
        raise BundleError(f"unknown key {', '.join(map(repr, unknown))}")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
