"""The page in a bundle that a person reads: what it is, how near to the checkpoint, how large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.accuracy import GALLERY, DimensionRow
from export.cost import GraphSize
from export.int8 import Point, Quantized
from mip_edge.artifact import Accuracy, Cost, Manifest, Parity
from mip_edge.spec import Modality

REPORT_NAME = "report.md"
_WORST_SHOWN = 10


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """What the manifest does not hold."""

    module: Mapping[Modality, Parity]
    """Parity of the exported module in PyTorch."""
    sizes: Mapping[str, GraphSize]
    """What each graph file is made of."""
    dimensions: Sequence[DimensionRow]
    """What each length of `--dim` reaches, the full width first."""
    drawn: bool
    """Whether the crops of the parity check are drawn."""
    accuracy: Mapping[str, Accuracy] | None
    """Of the checkpoint in PyTorch, projected where the graphs are; None without a data set."""
    quantized: Quantized | None
    """What was found on the way to INT8."""


def write_report(draft: Path, manifest: Manifest, facts: ReportFacts) -> None:
    """Write report.md into the draft of a bundle."""
    sizes = {
        entry.name: entry.stat().st_size
        for entry in sorted(draft.iterdir())
        if entry.suffix in {".onnx", ".bin"}
    }
    text = format_report(manifest, facts, sizes)
    (draft / REPORT_NAME).write_text(text, encoding="utf-8")


def format_report(manifest: Manifest, facts: ReportFacts, sizes: Mapping[str, int]) -> str:
    """The page as Markdown; equal bundles give equal pages."""
    model = manifest.model
    height, width = model["image_size"]
    dimension = manifest.specs[Modality.VISIBLE].dimension
    network = (
        f"MIP of width {model['width']}, {model['heads']} heads, crops {height}x{width}, stride "
        f"{model['stride']}; embeddings of {dimension} numbers. Layout {manifest.layout}, surgery "
        f"{manifest.surgery}."
    )
    lines = [
        "# Bundle",
        "",
        network,
        "",
        f"Fingerprint `{manifest.fingerprint}`, made by {manifest.created_by}.",
        "",
        f"Licence of the weights: {manifest.licence or 'not stated in the checkpoint'}.",
        "",
        *_parity_lines(manifest, facts),
        *_accuracy_lines(manifest, facts),
        *_dimension_lines(manifest, facts.dimensions),
        *_int8_lines(manifest, facts.quantized),
        *_cost_lines(manifest),
        "## Files",
        "",
        "| file | bytes |",
        "|---|---|",
        *(f"| {name} | {size} |" for name, size in sizes.items()),
        "",
        "## Operators",
        "",
    ]
    for name, size in facts.sizes.items():
        counts = ", ".join(f"{count} {operator}" for operator, count in size.operators.items())
        lines += [f"{name}: {size.nodes} nodes ({counts}).", ""]
    return "\n".join(lines)


def _parity_lines(manifest: Manifest, facts: ReportFacts) -> list[str]:
    crops = "synthetic people" if facts.drawn else "crops that were given"
    lines = [
        "## Parity with PyTorch",
        "",
        f"Measured on {crops}.",
        "",
        "| graph | precision | camera | crops | smallest cosine | mean cosine | same top-1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for modality, parity in facts.module.items():
        name = f"{modality.value}, exported module"
        lines.append(_parity_line(name, "fp32", manifest.camera[modality], parity))
    for precision, held in manifest.precisions.items():
        for modality, graph in held.graphs.items():
            assert graph.parity is not None  # the report is written after the check
            name = f"{modality.value}, {graph.file}"
            lines.append(_parity_line(name, precision, manifest.camera[modality], graph.parity))
    lines.append("")
    if "fp16" in manifest.precisions:
        kept = ", ".join(manifest.precisions["fp16"].kept_float32) or "nothing more"
        lines.append(
            "fp16, also that around int8 maps, is measured as a GPU computes it: every stored "
            "number rounded to float16, sums inside an operator in float32. In float32 stay the "
            f"final normalisation, and: {kept}.\n"
        )
    return lines


def _parity_line(name: str, precision: str, camera: str, parity: Parity) -> str:
    return (
        f"| {name} | {precision} | {camera} | {parity.crops} | {parity.smallest_cosine:.6f} "
        f"| {parity.mean_cosine:.6f} | {parity.top1_agreement:.1%} |"
    )


def _accuracy_lines(manifest: Manifest, facts: ReportFacts) -> list[str]:
    if facts.accuracy is None:
        return []
    lines = [
        "## Accuracy",
        "",
        "| by | direction | queries | gallery | Rank-1 | mAP |",
        "|---|---|---|---|---|---|",
        *_accuracy_rows("PyTorch", facts.accuracy),
    ]
    for precision, held in manifest.precisions.items():
        lines += _accuracy_rows(precision, held.accuracy or {})
    return [*lines, ""]


def _accuracy_rows(name: str, accuracy: Mapping[str, Accuracy]) -> list[str]:
    return [
        f"| {name} | {direction} | {found.queries} | {found.gallery} | {found.rank1:.2f}% "
        f"| {found.mean_ap:.2f}% |"
        for direction, found in accuracy.items()
    ]


def _dimension_lines(manifest: Manifest, rows: Sequence[DimensionRow]) -> list[str]:
    if not rows:
        return []
    built_in = manifest.specs[Modality.VISIBLE].dimension
    directions = list(rows[0].accuracy)
    titles = "".join(f" {direction} Rank-1 | mAP |" for direction in directions)
    lines = [
        "## Dimension",
        "",
        f"| numbers | variance kept |{titles} bytes an embedding | MB of {GALLERY:,} |",
        "|---|---|" + "---|---|" * len(directions) + "---|---|",
    ]
    for row in rows:
        chosen = " (built in)" if row.projected and row.dimension == built_in else ""
        figures = "".join(
            f" {row.accuracy[direction].rank1:.2f}% | {row.accuracy[direction].mean_ap:.2f}% |"
            for direction in directions
        )
        lines.append(
            f"| {row.dimension}{chosen} | {row.explained:.2%} |{figures} {row.bytes_each} "
            f"| {row.gallery_bytes / 1e6:.1f} |"
        )
    return [*lines, ""]


def _int8_lines(manifest: Manifest, quantized: Quantized | None) -> list[str]:
    if quantized is None:
        return []
    share = manifest.precisions["int8"].int8_share
    kept = ", ".join(quantized.kept) or "none"
    return [
        "## INT8",
        "",
        f"{share:.1%} of all multiply-accumulates run on 8-bit integers.",
        f"Scales, the {len(quantized.crops)} crops that they were found on, and all figures are",
        f"in calibration.json. Maps that stay in floating point: {kept}.",
        "",
        "Loss is 1 minus the mean cosine with float32. Keeping the worst maps out of INT8:",
        "",
        "| maps kept | of all operations in INT8 | loss |",
        "|---|---|---|",
        *(_point_line(point, len(quantized.kept)) for point in quantized.points),
        "",
        f"Every map alone in INT8, at most the worst {_WORST_SHOWN}:",
        "",
        "| map | loss |",
        "|---|---|",
        *(f"| {one.path} | {one.loss:.6f} |" for one in quantized.sensitivity[:_WORST_SHOWN]),
        "",
    ]


def _point_line(point: Point, kept: int) -> str:
    here = " (this bundle)" if point.kept == kept else ""
    return f"| {point.kept}{here} | {point.share:.1%} | {point.loss:.6f} |"


def _cost_lines(manifest: Manifest) -> list[str]:
    lines = [
        "## Cost of one crop",
        "",
        "| graph | million MACs | patches | blocks | ipg | head | weights, MB | activations, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    costs: dict[str, Cost] = {}
    for held in manifest.precisions.values():
        for graph in held.graphs.values():
            if graph.cost is not None:
                costs[graph.file] = graph.cost
    for name, cost in costs.items():
        parts = " | ".join(
            f"{cost.parts[part] / 1e6:.1f}" for part in ("patches", "blocks", "ipg", "head")
        )
        lines.append(
            f"| {name} | {cost.macs / 1e6:.1f} | {parts} | {cost.weight_bytes / 1e6:.1f} "
            f"| {cost.peak_activation_bytes / 1e6:.1f} |"
        )
    return [*lines, ""]
