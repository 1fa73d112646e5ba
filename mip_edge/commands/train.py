"""The command `mip-edge train`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from mip_edge.commands.train_options import data_argument, train_options


@click.command()
@data_argument
@train_options
@click.option(
    "--tensorboard",
    is_flag=True,
    default=False,
    help="Write the figures for TensorBoard into the run too.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/train"),
    show_default=True,
    help="Folder of the run; it must be empty.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the run in --output from its last state, with the same options.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def train(data: Path, output: Path, resume: bool, as_json: bool, **options: Any) -> None:
    """Train a model on a data set.

    Some of the training identities are kept aside to choose the best epoch; the test part is not
    read, unless --recipe official or --select test asks for it. For several GPUs or machines:

    torchrun --nproc-per-node 2 $(which mip-edge) train DATA --device cuda ...
    """
    from mip_edge.processes import is_first
    from mip_edge.recipe import TrainOptions
    from mip_edge.train import train as run

    report = run(data, TrainOptions(**options), output, resume=resume)
    if not is_first():
        return
    if as_json:
        click.echo(json.dumps(asdict(report), default=str, indent=2))
        return
    chosen = f"last epoch {report.epoch}"
    if report.rank1 is not None and report.mAP is not None:
        chosen = (
            f"best epoch {report.epoch}: {report.selected_by} Rank-1 {100 * report.rank1:.1f}%, "
            f"mAP {100 * report.mAP:.1f}%"
        )
    click.echo(
        f"{chosen}, in {report.seconds:.0f} s\nwrote {report.best}, {report.last}, {report.curves}"
    )
