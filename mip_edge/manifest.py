"""The manifest of a bundle: all that it promises, written and read to the byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mip_edge import __version__
from mip_edge.errors import BundleError
from mip_edge.schema import find_fault
from mip_edge.spec import EmbedderSpec, Modality
from mip_edge.thresholds_record import FIGURES, LearntThresholds

SCHEMA_VERSION = 4
FORMAT = "mip-edge bundle"
MANIFEST_NAME = "manifest.json"
_ANEW = "it anew with: mip-edge export WEIGHTS -o BUNDLE"
EXPORT_ANEW = f"Export {_ANEW}"
COPY_AGAIN = f"Copy the folder again, or export {_ANEW}"
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
    int8_macs: int = 0
    """Those multiply-accumulates that run on 8-bit integers."""


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
    """Heads of node names that stay above the precision of the graphs."""

    @property
    def int8_share(self) -> float:
        """Of all multiply-accumulates of its graphs, those on 8-bit integers."""
        costs = [graph.cost for graph in self.graphs.values() if graph.cost is not None]
        counted = sum(cost.macs for cost in costs)
        return sum(cost.int8_macs for cost in costs) / counted if counted else 0.0


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
    learnt: LearntThresholds | None = None
    """Thresholds for each pair of lights, if `mip-edge calibrate-thresholds` learnt them."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What the model was trained on, as the checkpoint tells it."""
    licence: str = ""
    """Terms of the weights, as the checkpoint tells them."""
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    """Every other file of the folder; filled by `seal`."""
    schema_version: int = SCHEMA_VERSION
    created_by: str = f"mip-edge {__version__}"

    def to_json(self) -> str:
        """Text of manifest.json, keys sorted; it follows `assets/manifest.schema.json`."""
        document: dict[str, Any] = {
            "format": FORMAT,
            "schema_version": self.schema_version,
            "created_by": self.created_by,
            "fingerprint": self.fingerprint,
            "model": dict(self.model),
            "modalities": {
                modality.value: {
                    "index": modality.row,
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
            "thresholds": {
                "min_similarity": self.min_similarity,
                "learnt": None if self.learnt is None else self.learnt.to_dict(),
            },
            "provenance": dict(self.provenance),
            "licence": self.licence,
            "files": {name: asdict(record) for name, record in self.files.items()},
        }
        document[_DIGEST_KEY] = _digest(document)
        return _text(document)


def parse_manifest(content: bytes, path: Path) -> Manifest:
    """The manifest that `content` holds; `path` is what errors call it.

    Raises: BundleError if it is of another version, outside its schema, or altered by one byte.
    """
    try:
        text = content.decode("utf-8")
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read as JSON ({error}). {EXPORT_ANEW}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BundleError(f"{path} is not the manifest of a mip-edge bundle. {EXPORT_ANEW}")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}; this mip-edge {__version__} reads "
            f"{SCHEMA_VERSION}. Use the mip-edge that made it, or export {_ANEW}"
        )
    fault = find_fault(document) or _find_contradiction(document)
    if fault is not None:
        raise BundleError(f"{path} does not follow its schema: {fault}. {EXPORT_ANEW}")
    # The text too: a changed blank would leave the document, and so its digest, as they were.
    if document[_DIGEST_KEY] != _digest(document) or text != _text(document):
        raise BundleError(
            f"{path} differs from what was exported (SHA-256): altered or damaged. {COPY_AGAIN}"
        )
    return _manifest(document)


def _find_contradiction(document: dict[str, Any]) -> str | None:
    """What a schema cannot say: parts of the document that must agree."""
    for name, precision in document["precisions"].items():
        files = {graph["file"] for graph in precision["graphs"].values()}
        for modality, graph in precision["graphs"].items():
            if graph["file"] not in document["files"]:
                return f"the graph {graph['file']!r} is not among its files"
            if modality not in document["modalities"]:
                return f"there is a graph for {modality} crops, which modalities does not hold"
        expected = 1 if document["layout"] == "unified" else len(precision["graphs"])
        if len(files) != expected:
            return f"precision {name} has {len(files)} graph files in layout {document['layout']}"
    if document["thresholds"]["learnt"] is not None and FIGURES not in document["files"]:
        return f"it holds learnt thresholds, but {FIGURES} is not among its files"
    return None


def _manifest(document: dict[str, Any]) -> Manifest:
    """The values of a document that follows the schema."""
    fingerprint, learnt = document["fingerprint"], document["thresholds"]["learnt"]
    return Manifest(
        fingerprint=fingerprint,
        model=document["model"],
        specs={
            Modality(key): EmbedderSpec(
                Modality(key), item["height"], item["width"], item["dimension"], fingerprint
            )
            for key, item in document["modalities"].items()
        },
        camera={Modality(key): policy for key, policy in document["camera"].items()},
        precisions={name: _precision(item) for name, item in document["precisions"].items()},
        layout=document["layout"],
        surgery=document["surgery"],
        checkpoint=document["checkpoint"],
        projection=document["projection"],
        min_similarity=document["thresholds"]["min_similarity"],
        learnt=None if learnt is None else LearntThresholds.from_dict(learnt),
        provenance=document["provenance"],
        licence=document["licence"],
        files={name: FileRecord(**record) for name, record in document["files"].items()},
        created_by=document["created_by"],
    )


def _precision(item: dict[str, Any]) -> Precision:
    accuracy = item["accuracy"]
    return Precision(
        graphs={Modality(key): _graph(graph) for key, graph in item["graphs"].items()},
        accuracy=None
        if accuracy is None
        else {direction: Accuracy(**found) for direction, found in accuracy.items()},
        kept_float32=tuple(item["kept_float32"]),
    )


def _graph(item: dict[str, Any]) -> Graph:
    parity, cost = item["parity"], item["cost"]
    return Graph(
        item["file"],
        None if parity is None else Parity(**parity),
        None if cost is None else Cost(**cost),
    )


def _text(document: Mapping[str, Any]) -> str:
    """A manifest as it is written, to the byte."""
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _digest(document: Mapping[str, Any]) -> str:
    others = {key: item for key, item in document.items() if key != _DIGEST_KEY}
    canonical = json.dumps(others, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
