"""The command group `mip-edge data`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mip_edge.commands.shared import dataset_option


@click.group()
def data() -> None:
    """Look through a data set before training on it."""


@data.command()
@click.argument("folder", metavar="DATA", type=click.Path(path_type=Path))
@dataset_option()
@click.option(
    "--split",
    type=click.IntRange(1, 10),
    show_default="all ten",
    help="The one split of RegDB to look at.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Threads that decode.",
)
@click.option(
    "--decode/--no-decode",
    default=True,
    show_default=True,
    help="Open every image, or only look at names and lists.",
)
@click.option(
    "--totals/--no-totals",
    default=True,
    show_default=True,
    help="Compare with the known size of the data set, or take a subset as it is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it all as JSON.")
def check(
    folder: Path,
    dataset: str,
    split: int | None,
    workers: int,
    decode: bool,
    totals: bool,
    as_json: bool,
) -> None:
    """Count people, images and cameras, and name what is missing or unreadable.

    Exit code 1 if anything is wrong: a layout that is not that of the data set, an image that
    cannot be decoded, a number that differs from the known one.
    """
    from mip_edge.data.check import check_dataset, format_report

    report = check_dataset(
        dataset, folder, split=split, workers=workers, decode=decode, totals=totals
    )
    click.echo(json.dumps(report.figures(), indent=2) if as_json else format_report(report))
    if not report.sound:
        click.get_current_context().exit(1)
