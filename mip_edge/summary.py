"""A bundle's manifest as a page for people."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mip_edge.manifest import Accuracy, Cost, Graph, Manifest, Parity, Precision
from mip_edge.spec import Modality
from mip_edge.thresholds import ModalityPair

UNKNOWN = "not measured"
_LABEL_WIDTH = 14
_MEGABYTE = 1e6
_SHORT = 100
"""Characters of the provenance that are shown; `--json` has all of it."""


def format_manifest(manifest: Manifest) -> str:
    """What a bundle is, costs and is worth; what was not measured says so."""
    return "\n".join([*_head(manifest), *_precisions(manifest), *_files(manifest)])


def _head(manifest: Manifest) -> Iterator[str]:
    model = manifest.model
    options = [f"{key} {_plain(model[key])}" for key in sorted(model)]
    similarity = manifest.min_similarity
    yield _row("fingerprint", manifest.fingerprint)
    if manifest.checkpoint != manifest.fingerprint:
        yield _row("checkpoint", manifest.checkpoint or "not known")
    yield _row("made by", manifest.created_by)
    yield _row("model", ", ".join(options))
    for modality, spec in manifest.specs.items():
        yield _row(
            modality.value,
            f"crops {spec.height}x{spec.width}x{spec.channels}, embeddings of {spec.dimension} "
            f"numbers, camera policy {manifest.camera.get(modality, 'not stated')}",
        )
    yield _row("layout", manifest.layout)
    yield _row("surgery", manifest.surgery)
    yield _row("projection", _plain(manifest.projection) if manifest.projection else "none")
    yield _row("same person", UNKNOWN if similarity is None else f"from cosine {similarity:g}")
    yield from _thresholds(manifest)
    yield _row("licence", manifest.licence or "not stated in the checkpoint")
    yield _row("provenance", _shortened(_plain(manifest.provenance)))


def _thresholds(manifest: Manifest) -> Iterator[str]:
    learnt = manifest.learnt
    if learnt is None:
        return
    data = learnt.data
    yield _row(
        "thresholds",
        f"at FAR {learnt.far:g}, of {data['identities']} people of {data['folder']} "
        f"({data['part']} part)",
    )
    for pair in ModalityPair:
        one = learnt.pairs[pair]
        tar = UNKNOWN if one.tar is None else f"{one.tar:.1%}"
        yield _row("", f"{pair.value} from cosine {one.threshold:.3f}, TAR {tar}")


def _precisions(manifest: Manifest) -> Iterator[str]:
    for name, precision in manifest.precisions.items():
        yield ""
        yield name
        for modality, graph in precision.graphs.items():
            yield from _graph(modality, graph)
        yield from _accuracies(precision)
        if precision.int8_share:
            yield f"  {_row('in INT8', f'{precision.int8_share:.1%} of all operations')}"
        if name != "fp32":
            yield f"  {_row('more bits', ', '.join(precision.kept_float32) or 'nothing')}"


def _graph(modality: Modality, graph: Graph) -> Iterator[str]:
    yield f"  {modality.value}: {graph.file}"
    yield f"    {_row('cost', _cost(graph.cost))}"
    yield f"    {_row('parity', _parity(graph.parity))}"


def _cost(cost: Cost | None) -> str:
    if cost is None:
        return UNKNOWN
    parts = ", ".join(f"{part} {macs / 1e9:.3f}" for part, macs in cost.parts.items())
    return (
        f"{cost.macs / 1e9:.3f} GMAC a crop ({parts}), weights "
        f"{cost.weight_bytes / _MEGABYTE:.1f} MB, activations at most "
        f"{cost.peak_activation_bytes / _MEGABYTE:.1f} MB"
    )


def _parity(parity: Parity | None) -> str:
    if parity is None:
        return UNKNOWN
    return (
        f"smallest cosine {parity.smallest_cosine:.6f}, mean {parity.mean_cosine:.6f}, "
        f"same top-1 {100 * parity.top1_agreement:.1f}% of {parity.crops} crops"
    )


def _accuracies(precision: Precision) -> Iterator[str]:
    if precision.accuracy is None:
        yield f"  {_row('accuracy', UNKNOWN)}"
    for direction, found in (precision.accuracy or {}).items():
        yield f"  {_row('accuracy', _accuracy(direction, found))}"


def _accuracy(direction: str, found: Accuracy) -> str:
    return (
        f"{direction} Rank-1 {found.rank1:.1f}%, mAP {found.mean_ap:.1f}% "
        f"({found.queries} queries, {found.gallery} gallery crops)"
    )


def _files(manifest: Manifest) -> Iterator[str]:
    yield ""
    yield "files"
    for name, record in sorted(manifest.files.items()):
        yield f"  {record.bytes:>13,}  {name}"


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL_WIDTH}}{text}"


def _plain(value: Any) -> str:
    """A value of the manifest in words, without the signs of JSON where they say nothing."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(one)}" for key, one in sorted(value.items()))
    if isinstance(value, list | tuple):
        return "x".join(map(_plain, value))
    return value if isinstance(value, str) else json.dumps(value)


def _shortened(text: str) -> str:
    if len(text) <= _SHORT:
        return text or "not stated in the checkpoint"
    return f"{text[:_SHORT]}... (all of it with --json)"
