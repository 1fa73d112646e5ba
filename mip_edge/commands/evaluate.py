"""The command `mip-edge evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mip_edge.commands.shared import batch_option, engine_option


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path), metavar="WEIGHTS|BUNDLE")
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@engine_option
@batch_option
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="none",
    help="Write the ranked lists of some infrared queries as PNG or JPEG.",
)
@click.option(
    "--picture-queries",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Queries in the picture, each of another person.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON, as fractions.")
@click.option("--overwrite", is_flag=True, help="Replace a picture that exists.")
def evaluate(
    model: Path,
    data: Path,
    engine: str | None,
    batch: int,
    picture: Path | None,
    picture_queries: int,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Measure Rank-k, mAP and mINP of a model in both directions.

    DATA holds {query,gallery}/{visible,infrared}/<identity>/*.png|jpg|jpeg. Infrared queries are
    searched among the visible gallery images, and visible ones among the infrared.
    """
    from mip_edge.evaluate.evaluation import evaluate_model, format_table

    report = evaluate_model(
        model,
        data,
        engine=engine,
        batch=batch,
        picture=picture,
        picture_queries=picture_queries,
        overwrite=overwrite,
    )
    click.echo(json.dumps(report.figures(), indent=2) if as_json else format_table(report))
