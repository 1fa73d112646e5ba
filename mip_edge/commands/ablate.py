"""The command `mip-edge ablate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mip_edge.commands.train_options import data_argument, train_options


@click.command()
@data_argument
@train_options
@click.option(
    "--variant",
    "variants",
    type=click.Choice(["baseline", "no MPL", "no IPG", "no IAEL", "full"]),
    multiple=True,
    show_default="all five",
    help="What to train; repeatable.",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Trainings of each variant, with the seeds --seed, --seed + 1, ...",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/ablate"),
    show_default=True,
    help="Folder of all runs; it must be empty.",
)
@click.option("--resume", is_flag=True, help="Go on with the ablation in --output.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON, as fractions.")
def ablate(
    data: Path,
    variants: tuple[str, ...],
    runs: int,
    output: Path,
    resume: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train without each part of MIP, and draw one table of what each gives.

    The test part of DATA scores them. --no-init-prompts starts all of them from the plain ViT of
    --init, so that none has prompts that another has not.
    """
    from mip_edge.ablate import VARIANTS, format_ablation
    from mip_edge.ablate import ablate as run
    from mip_edge.recipe import TrainOptions

    chosen = TrainOptions(**options)
    seeds = range(chosen.seed, chosen.seed + runs)
    report = run(
        data, chosen, output, seeds=seeds, variants=variants or tuple(VARIANTS), resume=resume
    )
    if as_json:
        click.echo(json.dumps(report.figures(), indent=2))
        return
    click.echo(f"{format_ablation(report)}\nwrote {report.table}, {report.picture}")
