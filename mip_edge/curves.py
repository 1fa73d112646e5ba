"""The curves of a training run as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Losses (left) and validation figures (right) over the epochs, as PNG.

    `rows` are the metrics of a run: "epoch", "loss_*" and "rank1", "mAP", "mINP" as fractions.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, figures = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    for name in [key for key in rows[-1] if key.startswith("loss_")]:
        known = [(row["epoch"], row[name]) for row in rows if name in row]
        if not any(value for _, value in known):
            continue  # a loss that was off
        epochs_known, values = zip(*known, strict=True)
        losses.plot(epochs_known, values, marker=".", label=name.removeprefix("loss_"))
    for name in ("rank1", "mAP", "mINP"):
        figures.plot(epochs, [100 * row[name] for row in rows], marker=".", label=name)
    losses.set(title="Losses, as weighted in the total", xlabel="epoch")
    figures.set(title="Validation identities, mean of both directions", xlabel="epoch")
    figures.set(ylabel="per cent", ylim=(0, 100))
    for axes in (losses, figures):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    beside = path.with_name(f".{path.name}.part")
    figure.savefig(beside, dpi=110, format="png")
    beside.replace(path)
