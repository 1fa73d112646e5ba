"""What the graphs of a bundle cost, counted anew from the files and held against the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from export.cost import count_cost, measure_graph
from mip_edge.artifact import Bundle, Cost, open_bundle
from mip_edge.errors import BundleError
from mip_edge.spec import Modality


@dataclass(frozen=True, slots=True)
class InspectedGraph:
    """One ONNX file of a bundle."""

    file: str
    precision: str
    modalities: tuple[Modality, ...]
    """Both where one graph serves them."""
    cost: Cost
    """Counted from the file."""
    nodes: int
    operators: dict[str, int]
    """Operator to how often it stands in the graph, the most frequent first."""
    differences: tuple[str, ...]
    """Where the manifest tells another cost, in words."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """All graphs of one bundle."""

    path: Path
    fingerprint: str
    layout: str
    surgery: str
    graphs: tuple[InspectedGraph, ...]

    @property
    def differences(self) -> list[str]:
        """Where the manifest and its graphs disagree."""
        return [f"{one.file}: {words}" for one in self.graphs for words in one.differences]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {
            "bundle": str(self.path),
            "fingerprint": self.fingerprint,
            "layout": self.layout,
            "surgery": self.surgery,
            "graphs": [
                {**asdict(one), "modalities": [modality.value for modality in one.modalities]}
                for one in self.graphs
            ],
        }


def inspect_bundle(path: str | Path) -> Inspection:
    """Count every graph of a bundle; its weights are verified, but not loaded.

    Raises: BundleError for a bundle that is altered, or a graph whose cost cannot be counted.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    graphs = []
    for precision, held in manifest.precisions.items():
        for file in dict.fromkeys(graph.file for graph in held.graphs.values()):
            told = {
                modality: graph.cost
                for modality, graph in held.graphs.items()
                if graph.file == file
            }
            graphs.append(_inspect(bundle, precision, file, told))
    return Inspection(
        bundle.path, manifest.fingerprint, manifest.layout, manifest.surgery, tuple(graphs)
    )


def format_inspection(inspection: Inspection) -> str:
    """For each graph a table of its parts, and below it what it holds, for the console."""
    subject = (
        f"{inspection.path}  fingerprint {inspection.fingerprint[:12]}, "
        f"layout {inspection.layout}, surgery {inspection.surgery}"
    )
    lines = [subject]
    for one in inspection.graphs:
        lights = " and ".join(modality.value for modality in one.modalities)
        lines += ["", f"{one.file}  {one.precision}, {lights} crops"]
        lines.append(f"  {'part':<9} {'MACs a crop':>15} {'share':>7}")
        rows = [*one.cost.parts.items(), ("all", one.cost.macs)]
        lines += [
            f"  {part:<9} {macs:>15,} {macs / max(one.cost.macs, 1):>7.2%}" for part, macs in rows
        ]
        if one.cost.int8_macs:
            share = one.cost.int8_macs / one.cost.macs
            lines.append(f"  {'in INT8':<9} {one.cost.int8_macs:>15,} {share:>7.2%}")
        lines.append(
            f"  weights {one.cost.weight_bytes / 1e6:.2f} MB, peak of activations "
            f"{one.cost.peak_activation_bytes / 1e6:.2f} MB a crop, {one.nodes} operators"
        )
        counts = ", ".join(f"{count} {operator}" for operator, count in one.operators.items())
        lines.append(f"  {counts}")
    return "\n".join(lines)


def _inspect(
    bundle: Bundle, precision: str, file: str, told: dict[Modality, Cost | None]
) -> InspectedGraph:
    path = bundle.path / file
    try:
        graph = onnx.load(str(path), load_external_data=False)
        cost = count_cost(graph)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    size = measure_graph(graph)
    # In a unified graph both modalities tell of the same file; a difference is told once.
    words = dict.fromkeys(
        difference for claimed in told.values() for difference in _compare(cost, claimed)
    )
    return InspectedGraph(
        file=file,
        precision=precision,
        modalities=tuple(told),
        cost=cost,
        nodes=size.nodes,
        operators=size.operators,
        differences=tuple(words),
    )


def _compare(counted: Cost, told: Cost | None) -> Sequence[str]:
    """Each figure of the manifest that is not the graph's, in words."""
    if told is None:
        return ["the manifest tells no cost"]
    pairs = [
        ("MACs", told.macs, counted.macs),
        ("MACs in INT8", told.int8_macs, counted.int8_macs),
        *(
            (f"MACs of {part}", told.parts.get(part, 0), counted.parts.get(part, 0))
            for part in dict.fromkeys([*counted.parts, *told.parts])
        ),
        ("bytes of weights", told.weight_bytes, counted.weight_bytes),
        ("bytes of activations", told.peak_activation_bytes, counted.peak_activation_bytes),
    ]
    return [
        f"the manifest tells {claim:,} {what}, the graph has {found:,}"
        for what, claim, found in pairs
        if claim != found
    ]
