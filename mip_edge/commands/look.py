"""The command `mip-edge look`."""

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
    split_option,
)


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path), metavar="WEIGHTS|BUNDLE")
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for the pictures, index.html and look.json.",
)
@dataset_option()
@split_option
@click.option(
    "--part",
    type=click.Choice(("test", "train")),
    default="test",
    show_default=True,
    help="Look at query and gallery, or at the people the model was trained on.",
)
@click.option(
    "--map",
    "map_method",
    type=click.Choice(("tsne", "umap", "none")),
    default="tsne",
    show_default=True,
    help="Method of the map.",
)
@engine_option
@precision_option
@engine_options_option
@batch_option
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON, as fractions.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier look in --output.")
def look(
    model: Path,
    data: Path,
    output: Path,
    dataset: str,
    split: int,
    part: str,
    map_method: str,
    engine: str | None,
    precision: str,
    engine_options: tuple[str, ...],
    batch: int,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Draw what a model does with a data set: CMC, similarities, a map, and its prompts.

    MODEL is a checkpoint or a bundle; prompts can be seen in a checkpoint alone. Warns where
    prompts have collapsed: modality prompts that do not differ or have no effect, instance prompts
    that are the same for everybody.
    """
    from mip_edge.look.look import LookOptions, format_look
    from mip_edge.look.look import look as look_at

    options = LookOptions(
        dataset=dataset,
        split=split,
        part=part,
        map=None if map_method == "none" else map_method,
        engine=engine,
        precision=precision,
        engine_options=read_engine_options(model, engine, engine_options),
        batch=batch,
    )
    report = look_at(model, data, output, options, overwrite=overwrite)
    click.echo(json.dumps(report.figures(), indent=2) if as_json else format_look(report))
