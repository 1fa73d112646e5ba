"""The command `mip-edge search`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from mip_edge.commands.shared import (
    batch_option,
    engine_option,
    engine_options_option,
    precision_option,
    read_engine_options,
)


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path), metavar="WEIGHTS|BUNDLE")
@click.argument(
    "queries",
    type=click.Path(exists=True, path_type=Path),
    nargs=-1,
    required=True,
    metavar="QUERY...",
)
@click.argument("gallery", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--query-modality",
    type=click.Choice(["visible", "infrared"]),
    required=True,
    help="The light that the query images were taken in.",
)
@click.option(
    "--gallery-modality",
    type=click.Choice(["visible", "infrared"]),
    show_default="what the .npz says; for images the one that the queries are not",
    help="The light that the gallery images were taken in.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Answers to each query, at most.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="none",
    help="Write the ranked lists as PNG or JPEG.",
)
@engine_option
@precision_option
@engine_options_option
@batch_option
@click.option("--json", "as_json", is_flag=True, help="Print the ranked lists as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace a picture that exists.")
def search(
    model: Path,
    queries: tuple[Path, ...],
    gallery: Path,
    query_modality: str,
    gallery_modality: str | None,
    top: int,
    picture: Path | None,
    engine: str | None,
    precision: str,
    engine_options: tuple[str, ...],
    batch: int,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Search query images in a folder of gallery images.

    QUERY is an image, several, or a folder. GALLERY is a folder of images, searched at every
    depth, or an .npz that `mip-edge embed` made with the same model.
    """
    from mip_edge.search import SearchOptions, format_answers
    from mip_edge.search import search as search_files
    from mip_edge.spec import Modality

    options = SearchOptions(
        Modality(query_modality),
        Modality(gallery_modality) if gallery_modality else None,
        top=top,
        batch=batch,
    )
    lists = search_files(
        model,
        queries,
        gallery,
        options,
        engine=engine,
        precision=precision,
        engine_options=read_engine_options(model, engine, engine_options),
        picture=picture,
        overwrite=overwrite,
    )
    if as_json:
        click.echo(json.dumps([asdict(ranked) for ranked in lists], indent=2))
    else:
        click.echo(format_answers(lists))
