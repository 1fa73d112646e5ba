"""The times of differently rewritten graphs as bars."""

from __future__ import annotations

from pathlib import Path

from mip_edge.benchmark_export import NAMES, STRAIGHT, ExportBenchmark
from mip_edge.errors import OutputError
from mip_edge.look.canvas import open_figure, write_figure

_COLOURS = ("#64748b", "#d97706", "#15803d", "#7c3aed", "#0369a1", "#be123c", "#0f766e", "#4d7c0f")


def check_chart(path: Path, *, overwrite: bool) -> None:
    """Refuse, before hours of timing, a picture that cannot be written.

    Raises: OutputError for a file that exists (without `overwrite`), a name that does not end in
    .png, or a folder that does not exist.
    """
    open_figure(1, 1)  # tells at once whether matplotlib is installed
    if path.suffix.lower() != ".png":
        raise OutputError(f"--chart {path} must end in .png")
    if not path.parent.is_dir():
        raise OutputError(f"--chart {path} cannot be written: {path.parent} is not a folder")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; choose another --chart or add --overwrite")


def draw_chart(benchmark: ExportBenchmark, path: Path) -> None:
    """Milliseconds a crop of each graph as bars, a panel for each engine and modality, as PNG."""
    timings = benchmark.timings
    panels = list(dict.fromkeys((one.engine, one.modality) for one in timings))
    graphs = list(dict.fromkeys(one.graph for one in timings))
    batches = list(dict.fromkeys(one.batch for one in timings))
    thickness = 0.8 / len(graphs)
    figure = open_figure(9, 1.1 + len(panels) * (0.5 + 0.3 * len(graphs) * len(batches)))
    columns = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    longest = max(one.median_ms for one in timings)
    for axes, panel in zip(columns, panels, strict=True):
        for row, graph in enumerate(graphs):
            shown = [
                one for one in timings if (one.engine, one.modality, one.graph) == (*panel, graph)
            ]
            places = [
                batches.index(one.batch) + thickness * (row - (len(graphs) - 1) / 2)
                for one in shown
            ]
            colour = _COLOURS[row % len(_COLOURS)]
            bars = axes.barh(
                places, [one.median_ms for one in shown], 0.9 * thickness, color=colour, label=graph
            )
            words = [
                f"{one.median_ms:.1f} ms, {one.macs / 1e9:.2f} GMAC"
                + ("" if graph == NAMES[STRAIGHT] else f", {one.speedup:.2f}x as fast")
                for one in shown
            ]
            axes.bar_label(bars, words, padding=3, fontsize=8)
        axes.set_title(f"{panel[0]}, {panel[1]} crops", fontsize=10)
        axes.set_yticks(range(len(batches)), [f"batch {batch}" for batch in batches])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.45 * longest)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    columns[-1].set_xlabel("milliseconds a crop, median")
    handles, labels = columns[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(graphs), fontsize=9)
    figure.suptitle(f"{benchmark.subject}\n{benchmark.machine}", fontsize=10)
    write_figure(figure, path)
