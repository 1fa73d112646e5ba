"""A figure to draw on and the PNG it becomes, without pyplot and its global state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mip_edge.output import write_beside
from mip_edge.spec import Modality

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 110
COLOURS = {Modality.VISIBLE: "#d97706", Modality.INFRARED: "#7c3aed"}
"""Of curves that belong to one light, told apart also by those who do not see red and green."""
SAME, DIFFERENT, CHANCE = "#15803d", "#64748b", "#9ca3af"


def open_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches that lays itself out."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(figure: Figure, path: Path) -> None:
    """The figure as PNG, whole or not at all. Raises: OutputError if it cannot be written."""
    with write_beside(path, lasting=False) as stream:
        figure.savefig(stream, dpi=DOTS_PER_INCH, format="png")
