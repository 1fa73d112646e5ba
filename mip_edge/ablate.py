"""The ablation: the same training without each part of MIP, and one table of what each gives."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mip_edge.errors import OptionError
from mip_edge.evaluate.evaluation import EvaluateOptions, evaluate_model
from mip_edge.look.canvas import open_figure, write_figure
from mip_edge.output import write_text
from mip_edge.recipe import TrainOptions
from mip_edge.run import resume_run, start_run
from mip_edge.train import train

logger = logging.getLogger(__name__)

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "baseline": {"modality_prompts": False, "instance_prompts": False, "iael": False},
    "no MPL": {"modality_prompts": False},
    "no IPG": {"instance_prompts": False, "iael": False},
    "no IAEL": {"iael": False},
    "full": {},
}
"""What each leaves out of MIP. Without the generator (IPG) there is nothing for IAEL to train."""
RATES = ("rank1", "mAP", "mINP")
_HEADS = {"rank1": "Rank-1", "mAP": "mAP", "mINP": "mINP"}


@dataclass(frozen=True, slots=True)
class Variant:
    """What one variant reached on the test part, for each protocol and seed."""

    name: str
    protocols: tuple[str, ...]
    """Titles, as tables write them."""
    figures: dict[str, list[list[float]]]
    """Of each rate: for each protocol, one figure a seed; fractions."""
    seconds: float

    def mean(self, rate: str, protocol: int) -> float:
        """Over the seeds."""
        return float(np.mean(self.figures[rate][protocol]))

    def deviation(self, rate: str, protocol: int) -> float | None:
        """Sample deviation over the seeds; None with one."""
        found = self.figures[rate][protocol]
        return float(np.std(found, ddof=1)) if len(found) > 1 else None


@dataclass(frozen=True, slots=True)
class AblationReport:
    """The whole ablation, and the files that show it."""

    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    table: Path
    picture: Path

    def figures(self) -> dict[str, object]:
        """For `--json`; rates are fractions."""
        return {
            "seeds": list(self.seeds),
            "variants": [asdict(variant) for variant in self.variants],
            "table": str(self.table),
            "picture": str(self.picture),
        }


def ablate(
    data: Path,
    options: TrainOptions,
    folder: Path,
    *,
    seeds: Sequence[int] = (1234,),
    variants: Sequence[str] = tuple(VARIANTS),
    resume: bool = False,
) -> AblationReport:
    """Train every variant with every seed, score its best checkpoint on the test part of `data`.

    All that is not left out is the same in all: data, start, schedule and seed. One folder for
    each run; with `resume` the runs that are done stay, the others go on.
    Raises: OptionError for a variant that does not exist, or no seed; what `train` raises.
    """
    unknown = [name for name in variants if name not in VARIANTS]
    if unknown or not seeds or not variants:
        raise OptionError(
            f"--variant {unknown[0]!r} does not exist; there are: {', '.join(VARIANTS)}"
            if unknown
            else "an ablation needs at least one variant and one seed"
        )
    if not resume or resume_run(folder, "ablate") is None:
        asked = {"data": str(data), "seeds": list(seeds), "variants": list(variants)}
        start_run(folder, "ablate", {**asdict(options), **asked})
    found = []
    for name in variants:
        found.append(_run_variant(name, data, options, folder, seeds, resume=resume))
    report = AblationReport(
        tuple(found), tuple(seeds), folder / "ablation.md", folder / "ablation.png"
    )
    draw_ablation(report)
    write_text(report.table, format_ablation(report))
    write_text(folder / "ablation.json", json.dumps(report.figures(), indent=2) + "\n")
    return report


def _run_variant(
    name: str,
    data: Path,
    options: TrainOptions,
    folder: Path,
    seeds: Sequence[int],
    *,
    resume: bool,
) -> Variant:
    scored = EvaluateOptions(dataset=options.dataset, split=options.split)
    figures: dict[str, list[list[float]]] = {rate: [] for rate in RATES}
    seconds = 0.0
    protocols: tuple[str, ...] = ()
    for seed in seeds:
        logger.info("ablation: %s, seed %d", name, seed)
        chosen = replace(options, **VARIANTS[name], seed=seed)
        run = folder / f"{name.replace(' ', '-')}-{seed}"
        report = train(data, chosen, run, resume=resume)
        seconds += report.seconds
        results = evaluate_model(report.best, data, scored).results
        protocols = tuple(result.title for result in results)
        for rate in RATES:
            columns = figures[rate] or [[] for _ in results]
            for column, result in zip(columns, results, strict=True):
                column.append(result.mean()[rate])
            figures[rate] = columns
    return Variant(name, protocols, figures, round(seconds, 1))


def format_ablation(report: AblationReport) -> str:
    """A Markdown table, a row a variant: Rank-1, mAP and mINP of each protocol in per cent."""
    titles = report.variants[0].protocols
    heads = [f"{title} {_HEADS[rate]}" for title in titles for rate in RATES]
    lines = [
        "| variant | " + " | ".join([*heads, "seconds"]) + " |",
        "| --- " * (len(heads) + 2) + "|",
    ]
    for variant in report.variants:
        cells = []
        for number in range(len(titles)):
            for rate in RATES:
                spread = variant.deviation(rate, number)
                more = "" if spread is None else f" ± {100 * spread:.1f}"
                cells.append(f"{100 * variant.mean(rate, number):.1f}{more}")
        lines.append(f"| {variant.name} | " + " | ".join([*cells, f"{variant.seconds:.0f}"]) + " |")
    seeds = ", ".join(map(str, report.seeds))
    over = f"mean ± sample deviation over the seeds {seeds}" if len(report.seeds) > 1 else ""
    notes = f"Per cent on the test part; {over or f'one run each, seed {seeds}'}."
    return "\n".join([*lines, "", notes, ""])


def draw_ablation(report: AblationReport) -> None:
    """Rank-1 and mAP of every variant as bars, a panel for each protocol."""
    titles = report.variants[0].protocols
    figure = open_figure(5.2 * len(titles), 3.6)
    places = np.arange(len(report.variants))
    for number, (title, axes) in enumerate(
        zip(titles, np.atleast_1d(figure.subplots(1, len(titles), sharey=True)), strict=True)
    ):
        for rate, offset, colour in (("rank1", -0.2, "#1d4ed8"), ("mAP", 0.2, "#d97706")):
            heights = [100 * variant.mean(rate, number) for variant in report.variants]
            spreads = [100 * (one.deviation(rate, number) or 0) for one in report.variants]
            bars = axes.bar(
                places + offset, heights, 0.38, yerr=spreads, color=colour, label=_HEADS[rate]
            )
            axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=1)
        axes.set_xticks(places, [variant.name for variant in report.variants], fontsize=8)
        axes.set(title=title, ylabel="per cent" if number == 0 else "")
        axes.margins(y=0.15)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    write_figure(figure, report.picture)
