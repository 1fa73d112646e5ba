"""The prompt report as a picture: modality prompts left, instance prompts beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mip_edge.look.canvas import CHANCE, SAME, open_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mip_edge.look.prompts import PromptReport

_LIMIT = "#b91c1c"
_MODALITY, _VARIATION, _SPREAD = "#0369a1", "#7c3aed", "#d97706"


def draw_prompts(report: PromptReport, path: Path, *, same: float, title: str) -> None:
    """Three panels over the layers as PNG; red is the limit `same` below which prompts collapse.

    Left the two lights' prompts, in the middle how instance prompts vary, right how much of it
    is between people.
    """
    figure = open_figure(13, 4.4)
    modality, variation, identity = figure.subplots(1, 3)
    _draw_lengths(modality, {"to the other light": (report.modality_distance, _MODALITY)}, same)
    swap = report.modality_swap
    moved = (
        ""
        if swap is None
        else f"\nexchanging them moves an embedding by {100 * swap:.0f}% of its length"
    )
    modality.set_title(f"Modality prompts{moved}", fontsize=10)
    among = "0, as queries are zero" if report.queries == "zero" else f"{report.queries} queries"
    _draw_lengths(
        variation,
        {
            "from crop to crop": (report.instance_variation, _VARIATION),
            f"among themselves ({among})": (report.instance_spread, _SPREAD),
        },
        same,
    )
    variation.set_title("Instance prompts\nhow far apart they are", fontsize=10)
    layers = range(1, len(report.identity_share) + 1)
    if report.identity_share:
        identity.bar(layers, [100 * one for one in report.identity_share], color=SAME, alpha=0.7)
        chance = [100 * one for one in report.identity_chance]
        identity.step(
            *(layers, chance), where="mid", color=_LIMIT, label="names shuffled, the best of 19"
        )
        identity.axhline(0, color=CHANCE, linewidth=0.8)
        identity.set_ylim(top=1.2 * max(100 * max(report.identity_share), *chance, 1.0))
        identity.legend(fontsize=8, loc="upper right")
    else:
        _tell_absent(identity)
    identity.set(xlabel="layer", ylabel="per cent of the variance")
    identity.set_title("Instance prompts\nshare of variance between people", fontsize=10)
    for axes in (modality, variation, identity):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{title} ({report.crops} crops of {report.identities} people)")
    write_figure(figure, path)


def _draw_lengths(
    axes: Axes, curves: dict[str, tuple[tuple[float, ...], str]], same: float
) -> None:
    """Relative lengths in per cent over the layers, and the limit."""
    axes.set(xlabel="layer", ylabel="per cent of a prompt's length")
    if not any(values for values, _ in curves.values()):
        _tell_absent(axes)
        return
    for label, (values, colour) in curves.items():
        layers = range(1, len(values) + 1)
        axes.plot(
            layers,
            [100 * one for one in values],
            marker="o",
            color=colour,
            label=label,
            clip_on=False,
        )
    axes.axhline(100 * same, color=_LIMIT, linewidth=1, linestyle="--", label="collapsed below")
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    axes.legend(fontsize=8, loc="upper right")


def _tell_absent(axes: Axes) -> None:
    axes.text(0.5, 0.5, "this model has none", ha="center", transform=axes.transAxes)
