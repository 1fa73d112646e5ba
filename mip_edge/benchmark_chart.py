"""A benchmark as two pictures: what speed costs in accuracy, and what a larger batch gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mip_edge.benchmark_result import Benchmark, Timing
from mip_edge.errors import OutputError
from mip_edge.look.canvas import open_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

ACCURACY, THROUGHPUT = "accuracy.png", "throughput.png"
_COLOURS = ("#64748b", "#0369a1", "#d97706", "#15803d", "#7c3aed", "#be123c", "#0f766e", "#4d7c0f")
_MARKERS = {"fp32": "o", "fp16": "s", "int8": "^", "int8-fp16": "D"}
_LEAST_ROOM = {True: 1.0, False: 0.002}
"""Above and below the points: Rank-1 in percent, or a cosine."""
_OTHER_MARKER = "v"


def check_plots(folder: Path, *, overwrite: bool) -> None:
    """Refuse, before anything is timed, a folder that the pictures cannot go to.

    Raises: OutputError for a file in its place, or a picture that exists (without `overwrite`).
    """
    open_figure(1, 1)  # tells at once whether matplotlib is installed
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"--plots {folder} is a file; choose a folder")
    for name in (ACCURACY, THROUGHPUT):
        if (folder / name).exists() and not overwrite:
            raise OutputError(
                f"{folder / name} exists already; choose another --plots or add --overwrite"
            )


def draw_plots(benchmark: Benchmark, folder: Path) -> None:
    """`accuracy.png` and `throughput.png` in `folder`, which is made where it is missing.

    Raises: OutputError if they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--plots {folder} cannot be made: {error.strerror}") from error
    _draw(benchmark, folder / ACCURACY, _plot_accuracy)
    _draw(benchmark, folder / THROUGHPUT, _plot_throughput)


def _draw(
    benchmark: Benchmark,
    path: Path,
    plot: Callable[[Axes, Sequence[Timing], Sequence[Timing]], None],
) -> None:
    """One panel for each modality, all with one legend and one scale."""
    modalities = list(dict.fromkeys(one.modality for one in benchmark.timings))
    figure = open_figure(max(8.0, 1.5 + 4.8 * len(modalities)), 4.9)
    panels = figure.subplots(1, len(modalities), squeeze=False, sharey=True)[0]
    for axes, modality in zip(panels, modalities, strict=True):
        shown = [one for one in benchmark.timings if one.modality == modality]
        plot(axes, shown, benchmark.timings)
        axes.set_title(f"{modality} crops", fontsize=10)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    found: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= {str(label): one for label, one in zip(labels, handles, strict=True)}
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=4, fontsize=9
    )
    figure.suptitle(f"{benchmark.subject}\n{benchmark.machine}", fontsize=9)
    write_figure(figure, path)


def _plot_accuracy(axes: Axes, timings: Sequence[Timing], everything: Sequence[Timing]) -> None:
    """Each engine and precision at each batch; a line where no figure is known (PyTorch)."""
    from matplotlib.ticker import LogLocator

    labelled = any(one.rank1 is not None for one in everything)
    names = _names(everything)
    for one in timings:
        value = _worth(one, labelled)
        style = _style(one, names)
        words = f"{one.name} {one.precision}"
        if value is None:
            axes.axvline(one.median_ms, color=style["color"], linestyle=":", label=words, zorder=1)
            axes.text(
                one.median_ms, 0.02, f"batch {one.batch}", fontsize=7, rotation=90, ha="right",
                va="bottom", transform=axes.get_xaxis_transform(),
            )  # fmt: skip
            continue
        axes.plot(one.median_ms, value, linestyle="none", markersize=7, label=words, **style)
        above = (0, 6 + 8 * names.index(one.name))  # engines near each other are told apart
        axes.annotate(
            str(one.batch), (one.median_ms, value), above, textcoords="offset points", fontsize=7,
            ha="center", color=style["color"],
        )  # fmt: skip
    axes.set_xscale("log", subs=[])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(x=0.12)
    axes.ticklabel_format(axis="y", useOffset=False)
    values = [one for one in (_worth(one, labelled) for one in everything) if one is not None]
    if values:  # differences that do not matter must not fill the picture
        room = max(_LEAST_ROOM[labelled], 0.15 * (max(values) - min(values)))
        axes.set_ylim(min(values) - room, max(values) + room / 2)
    axes.set_xlabel("milliseconds a crop, median; numbers: batch")
    axes.set_ylabel("Rank-1, %" if labelled else "smallest cosine with PyTorch")


def _plot_throughput(axes: Axes, timings: Sequence[Timing], everything: Sequence[Timing]) -> None:
    """Crops a second against the batch, a line for each engine and precision."""
    batches = sorted({one.batch for one in timings})
    for name, precision in dict.fromkeys((one.name, one.precision) for one in timings):
        shown = sorted(
            (one for one in timings if (one.name, one.precision) == (name, precision)),
            key=lambda one: one.batch,
        )
        axes.plot(
            [one.batch for one in shown],
            [one.crops_s for one in shown],
            label=f"{name} {precision}",
            **_style(shown[0], _names(everything)),
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    axes.set_ylim(0, 1.08 * max(one.crops_s for one in everything))
    axes.set_xlabel("crops of one call")
    axes.set_ylabel("crops a second, by the median")


def _names(timings: Sequence[Timing]) -> list[str]:
    return list(dict.fromkeys(one.name for one in timings))


def _worth(one: Timing, labelled: bool) -> float | None:
    """Rank-1 where the bundle has it, else the cosine of the worst crop."""
    return one.rank1 if labelled else one.smallest_cosine


def _style(one: Timing, names: list[str]) -> dict[str, Any]:
    """A colour for the engine, a marker for the precision."""
    return {
        "color": _COLOURS[names.index(one.name) % len(_COLOURS)],
        "marker": _MARKERS.get(one.precision, _OTHER_MARKER),
    }
