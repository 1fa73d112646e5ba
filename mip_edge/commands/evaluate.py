"""The command `mip-edge evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mip_edge.commands.shared import (
    batch_option,
    dataset_option,
    engine_option,
    engine_options_option,
    precision_option,
    read_engine_options,
)


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@dataset_option(note="; each has its own protocols")
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    metavar="NAME",
    show_default="all standard ones of the data set",
    help="Protocol to score by; repeat for more. official-mip (sysu) adds the published MIP code's "
    "single gallery beside the standard ones.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Galleries drawn at random, with seeds 0, 1, ..., where the protocol draws them.",
)
@click.option(
    "--split",
    type=click.Choice([*map(str, range(1, 11)), "all"]),
    default="1",
    show_default=True,
    metavar="1..10|all",
    help="Split of RegDB. With all, MODEL names one model for each: runs/regdb-{split}/...",
)
@click.option("--rerank", is_flag=True, help="Add rows of the k-reciprocally re-ranked lists.")
@click.option(
    "--camera",
    metavar="own|mean|none|NAME",
    show_default="own if the checkpoint knows the cameras of DATA, else mean",
    help="Camera embedding that each image of a checkpoint gets.",
)
@click.option(
    "--save-embeddings",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="none",
    help="Write the embeddings to this .npz, to be scored again as MODEL.",
)
@engine_option
@precision_option
@engine_options_option
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
@click.option("--overwrite", is_flag=True, help="Replace a picture or embeddings that exist.")
def evaluate(
    model: str,
    data: Path,
    dataset: str,
    protocols: tuple[str, ...],
    trials: int,
    split: str,
    rerank: bool,
    camera: str | None,
    save_embeddings: Path | None,
    engine: str | None,
    precision: str,
    engine_options: tuple[str, ...],
    batch: int,
    picture: Path | None,
    picture_queries: int,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Measure Rank-k, mAP and mINP of a model in both directions.

    MODEL is a checkpoint (.safetensors), a bundle, or embeddings saved before (.npz). DATA is
    SYSU-MM01, RegDB or LLCM as published, or a folder of
    {query,gallery}/{visible,infrared}/<identity>/*.png|jpg|jpeg|bmp. Queries are searched among
    images of the other light; with several trials or splits the table has mean ± sample deviation.
    A second table is for galleries in which not everybody is: TAR and DIR at false-accept rates.
    """
    from mip_edge.evaluate.evaluation import (
        EvaluateOptions,
        evaluate_model,
        evaluate_splits,
        fill_split,
        format_table,
    )

    number = 1 if split == "all" else int(split)
    options = EvaluateOptions(dataset, protocols, trials, number, rerank, camera)
    opening = read_engine_options(Path(model), engine, engine_options)
    if split == "all":
        if picture is not None:
            raise click.UsageError("--picture is of one model; choose one --split")
        report = evaluate_splits(
            model,
            data,
            options,
            engine=engine,
            precision=precision,
            engine_options=opening,
            batch=batch,
            save_embeddings=save_embeddings,
            overwrite=overwrite,
        )
    else:
        path = fill_split(model, number)
        if not path.exists():
            raise click.BadParameter(f"Path '{path}' does not exist.", param_hint="'MODEL'")
        report = evaluate_model(
            path,
            data,
            options,
            engine=engine,
            precision=precision,
            engine_options=opening,
            batch=batch,
            picture=picture,
            picture_queries=picture_queries,
            save_embeddings=save_embeddings,
            overwrite=overwrite,
        )
    click.echo(json.dumps(report.figures(), indent=2) if as_json else format_table(report))
