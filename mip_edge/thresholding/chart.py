"""Learnt thresholds as a picture: similarities of one person and of two, and TAR against FAR."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mip_edge.look.canvas import COLOURS, DIFFERENT, SAME, open_figure, write_figure
from mip_edge.spec import Modality
from mip_edge.thresholding.learning import BINS, Curve, Learning
from mip_edge.thresholds import ModalityPair
from mip_edge.thresholds_record import PairThreshold

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES: Mapping[ModalityPair, tuple[str, str]] = {
    ModalityPair.VISIBLE_VISIBLE: (COLOURS[Modality.VISIBLE], "-"),
    ModalityPair.INFRARED_INFRARED: (COLOURS[Modality.INFRARED], "--"),
    ModalityPair.VISIBLE_INFRARED: ("#0f766e", "-."),
}
"""Colour and line of a pair; the lines tell them apart on grey paper."""


def check_drawing() -> None:
    """Tell before anything is embedded whether matplotlib is installed. Raises: its absence."""
    open_figure(1, 1)


def draw_thresholds(learning: Learning, far: float, path: Path, *, title: str) -> None:
    """Three histograms with their thresholds, and one ROC plane, as PNG. Raises: OutputError."""
    figure = open_figure(11.0, 8.2)
    places = figure.subplots(2, 2).ravel()
    edges = np.linspace(-1, 1, BINS + 1)
    counted = np.sum(
        [np.add(one.genuine, one.impostor) for one in learning.curves.values()], axis=0
    )
    first, last = np.flatnonzero(counted)[[0, -1]]
    for axes, (pair, one) in zip(places, learning.pairs.items(), strict=False):
        _draw_pair(axes, edges, learning.curves[pair], one)
        axes.set_title(f"{pair.value}: same person from {one.threshold:.3f}", fontsize=10)
        axes.set_xlim(edges[first] - 0.03, edges[last + 1] + 0.03)
    places[0].set_ylabel("share of the comparisons of its kind, %")
    places[2].set_ylabel("share of the comparisons of its kind, %")
    _draw_rates(places[3], learning, far)
    figure.suptitle(title, fontsize=11)
    write_figure(figure, path)


def _draw_pair(axes: Axes, edges: NDArray[np.float64], curve: Curve, one: PairThreshold) -> None:
    for counts, colour, label in (
        (curve.impostor, DIFFERENT, "two people"),
        (curve.genuine, SAME, "one person"),
    ):
        total = sum(counts)
        if total == 0:
            continue
        share = 100 * np.array(counts) / total
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.45)
        axes.stairs(share, edges, color=colour, linewidth=1.2, label=label)
    axes.axvspan(one.threshold_low, one.threshold_high, color="#be123c", alpha=0.12, linewidth=0)
    axes.axvline(
        one.threshold, color="#be123c", linewidth=1.5, label="threshold, 95% interval shaded"
    )
    axes.set_xlabel("cosine similarity, as a live run compares")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    axes.legend(fontsize=8, loc="upper left")


def _draw_rates(axes: Axes, learning: Learning, far: float) -> None:
    for pair, curve in learning.curves.items():
        if not curve.tar:
            continue
        colour, line = _STYLES[pair]
        tar = learning.pairs[pair].tar
        label = pair.value if tar is None else f"{pair.value}: TAR {100 * tar:.1f}%"
        rates = 100 * np.array(curve.tar)
        axes.plot(curve.far, rates, color=colour, linestyle=line, label=label)
    axes.axvline(far, color="#be123c", linewidth=1, linestyle=":", label=f"FAR {far:g}")
    axes.set_xscale("log")
    axes.set_ylim(0, 102)
    axes.set_xlabel("share of comparisons of two people accepted (FAR)")
    axes.set_ylabel("one person accepted (TAR), %")
    axes.set_title("what a smaller FAR costs", fontsize=10)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, loc="lower right")
