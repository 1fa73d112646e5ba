"""The curves of a training run as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mip_edge.look.canvas import open_figure, write_figure


def draw_curves(
    rows: Sequence[Mapping[str, Any]], path: Path, *, title: str, measured_on: str = "validation"
) -> None:
    """Losses (left) and figures of `measured_on` identities (right) over the epochs, as PNG.

    `rows` are the metrics of a run: "epoch", "loss_*" and "rank1", "mAP", "mINP" as fractions
    where an epoch was measured.
    """
    figure = open_figure(10, 4)
    losses, figures = figure.subplots(1, 2)
    # a loss may begin late, and the start of a fine-tuning has none: dict keeps the order
    for name in dict.fromkeys(key for row in rows for key in row if key.startswith("loss_")):
        known = [(row["epoch"], row[name]) for row in rows if name in row]
        if not any(value for _, value in known):
            continue  # a loss that was off
        epochs_known, values = zip(*known, strict=True)
        losses.plot(epochs_known, values, marker=".", label=name.removeprefix("loss_"))
    measured = [row for row in rows if "rank1" in row]
    for name in ("rank1", "mAP", "mINP"):
        epochs = [row["epoch"] for row in measured]
        figures.plot(epochs, [100 * row[name] for row in measured], marker=".", label=name)
    losses.set(title="Losses, as weighted in the total", xlabel="epoch")
    figures.set(title=f"Rank-1, mAP and mINP of {measured_on} identities", xlabel="epoch")
    figures.set(ylabel="per cent", ylim=(0, 100))
    for axes in (losses, figures):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(title)
    write_figure(figure, path)
