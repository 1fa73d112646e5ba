"""What INT8 costs and brings on this machine, as a page and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.machine import describe_machine
from export.exported import ExportReport
from export.int8_speed import TimedPoint
from mip_edge.folder import refuse_existing, write_folder
from mip_edge.look.canvas import open_figure, write_figure

PAGE_NAME = "int8.md"
PICTURE_NAME = "int8.png"
_KIND = "a report on INT8"
_WORST = 12
_BAR_COLOUR, _LINE_COLOUR, _CHOSEN_COLOUR = "#7c3aed", "#0369a1", "#d97706"


def check_int8_report(folder: Path, *, overwrite: bool) -> None:
    """Refuse, before minutes of calibrating, a place that cannot be written.

    Raises: OutputError if the folder exists and is no such report, or `overwrite` is not given.
    """
    open_figure(1, 1)  # tells at once whether matplotlib is installed
    refuse_existing(folder, _KIND, _is_report, overwrite=overwrite)


def write_int8_report(folder: Path, report: ExportReport, *, overwrite: bool = False) -> None:
    """Write int8.md and int8.png of an export that was asked to time its INT8 graphs.

    Raises: OutputError as `check_int8_report`.
    """
    machine = describe_machine()
    with write_folder(folder, _KIND, _is_report, overwrite=overwrite) as draft:
        (draft / PAGE_NAME).write_text(_page(report, machine), encoding="utf-8")
        _draw(draft / PICTURE_NAME, report, machine)


def _is_report(folder: Path) -> bool:
    return {one.name for one in folder.iterdir()} <= {PAGE_NAME, PICTURE_NAME}


def _page(report: ExportReport, machine: str) -> str:
    lines = [
        "# INT8",
        "",
        f"Loss is 1 minus the mean cosine with float32. Times on {machine};",
        "ONNX Runtime, batches of 8, medians of calls in turn with the same graph in float32. The",
        "bundle's own float32 graph is written for CPUs and may be faster than that one:",
        "`mip-edge benchmark` compares what is in a bundle.",
        "",
        f"![Loss against speed]({PICTURE_NAME})",
        "",
        "| maps in floating point | of all operations in INT8 | loss | ms a crop | x float32 |",
        "|---|---|---|---|---|",
        *_point_lines(report.timed),
        "",
        "Every map alone in INT8:",
        "",
        "| map | loss |",
        "|---|---|",
        *(f"| {one.path} | {one.loss:.6f} |" for one in report.sensitivity),
        "",
    ]
    return "\n".join(lines)


def _point_lines(timed: Sequence[TimedPoint]) -> list[str]:
    return [
        f"| {one.point.kept}{' (in the bundle)' if one.chosen else ''} | {one.point.share:.1%} "
        f"| {one.point.loss:.6f} | {one.milliseconds:.2f} | {one.speedup:.2f} |"
        for one in timed
    ]


def _draw(path: Path, report: ExportReport, machine: str) -> None:
    figure = open_figure(10, 4.6)
    line, bars = figure.subplots(1, 2)
    times = [one.speedup for one in report.timed]
    losses = [one.point.loss for one in report.timed]
    line.plot(times, losses, color=_LINE_COLOUR, marker="o", markersize=5, zorder=2)
    for one in report.timed:
        line.annotate(
            f"{one.point.share:.0%}",
            (one.speedup, one.point.loss),
            xytext=(5, 6),
            textcoords="offset points",
            fontsize=8,
        )
        if one.chosen:
            line.scatter([one.speedup], [one.point.loss], s=110, color=_CHOSEN_COLOUR, zorder=3)
    line.set_xlabel("times as fast as the same graph in float32 (ONNX Runtime, batch 8)")
    line.set_ylabel("loss: 1 - mean cosine with float32")
    line.set_title("Share of operations in INT8; orange: in the bundle", fontsize=10)
    line.grid(alpha=0.3)
    line.margins(0.12)
    worst = report.sensitivity[:_WORST]
    bars.barh([one.path for one in worst], [one.loss for one in worst], color=_BAR_COLOUR)
    bars.invert_yaxis()
    bars.tick_params(axis="y", labelsize=8)
    bars.set_xlabel("loss of the map alone in INT8")
    bars.set_title("The maps that INT8 costs most", fontsize=10)
    bars.grid(axis="x", alpha=0.3)
    bars.set_axisbelow(True)
    figure.suptitle(machine, fontsize=9)
    write_figure(figure, path)
