"""The page in a bundle that a person reads: what it is, how near to the checkpoint, how large."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from export.to_onnx import GraphSize
from mip_edge.artifact import Manifest
from mip_edge.spec import Modality

REPORT_NAME = "report.md"


def write_report(
    draft: Path, manifest: Manifest, graphs: Mapping[Modality, GraphSize], *, drawn: bool
) -> None:
    """Write report.md into the draft of a bundle."""
    sizes = {
        entry.name: entry.stat().st_size
        for entry in sorted(draft.iterdir())
        if entry.suffix in {".onnx", ".bin"}
    }
    (draft / REPORT_NAME).write_text(
        format_report(manifest, graphs, sizes, drawn=drawn), encoding="utf-8"
    )


def format_report(
    manifest: Manifest,
    graphs: Mapping[Modality, GraphSize],
    sizes: Mapping[str, int],
    *,
    drawn: bool,
) -> str:
    """The page as Markdown; equal bundles give equal pages."""
    model = manifest.model
    height, width = model["image_size"]
    crops = "synthetic people" if drawn else "crops given with --crops"
    network = (
        f"MIP of width {model['width']}, {model['heads']} heads, crops {height}x{width}, stride "
        f"{model['stride']}; embeddings of {5 * model['width']} numbers."
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
        "## Parity with PyTorch",
        "",
        f"Measured on {crops}.",
        "",
        "| graph | precision | camera | crops | smallest cosine | mean cosine | same top-1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for precision, held in manifest.precisions.items():
        for modality, graph in held.graphs.items():
            assert graph.parity is not None  # the report is written after the check
            lines.append(
                f"| {graph.file} | {precision} | {manifest.camera[modality]} "
                f"| {graph.parity.crops} | {graph.parity.smallest_cosine:.6f} "
                f"| {graph.parity.mean_cosine:.6f} | {graph.parity.top1_agreement:.1%} |"
            )
    lines += ["", "## Files", "", "| file | bytes |", "|---|---|"]
    lines += [f"| {name} | {size} |" for name, size in sizes.items()]
    lines += ["", "## Operators", ""]
    for modality, size in graphs.items():
        counts = ", ".join(f"{count} {operator}" for operator, count in size.operators.items())
        lines += [f"{modality.value}: {size.nodes} nodes ({counts}).", ""]
    return "\n".join(lines)
