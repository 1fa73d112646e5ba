"""The command `mip-edge card`: what a checkpoint is, and what it must not be used for."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    show_default="none: the accuracy is unknown",
    help="Output of `mip-edge evaluate CHECKPOINT DATA --json`; may be given several times.",
)
@click.option(
    "--data-licence",
    metavar="TEXT",
    show_default="unknown",
    help="Terms under which the training data may be used.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="beside CHECKPOINT, <name>.md",
    help="The Markdown file to write.",
)
@click.option("--overwrite", is_flag=True, help="Replace a card that exists.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def card(
    checkpoint: Path,
    evaluations: tuple[Path, ...],
    data_licence: str | None,
    output: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the model card of CHECKPOINT: data, figures, uses and limits.

    Markdown with a YAML head as the Hugging Face hub reads it. `mip-edge export` takes the card
    beside a checkpoint into the bundle. What is not known is written as unknown.
    """
    from mip_edge.card.model_card import write_card

    report = write_card(
        checkpoint,
        output,
        evaluations=evaluations,
        data_licence=data_licence,
        overwrite=overwrite,
    )
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
        return
    click.echo(
        f"{report.path}  fingerprint {report.fingerprint[:12]}, {report.parameters:,} parameters, "
        f"evaluations: {report.evaluations}"
    )
    if report.unknown:
        click.echo(f"unknown in it: {', '.join(report.unknown)}")
