"""The command `mip-edge synthetic`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--train-identities",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="People of the training part.",
)
@click.option(
    "--test-identities",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Other people, for query and gallery.",
)
@click.option(
    "--crops",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Crops of a training person in each light.",
)
@click.option(
    "--test-crops",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Crops of a test person in each light, in query and in gallery each.",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=16),
    nargs=2,
    default=(128, 64),
    show_default=True,
    help="Height and width of a crop in pixels.",
)
@click.option(
    "--difficulty",
    type=click.FloatRange(0, 1),
    default=0.8,
    show_default=True,
    help="0: plain backgrounds, whole people, even light; 1: vivid, occluded, harsh.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Which world; two seeds share nobody.",
)
def synthetic(folder: Path, image_size: tuple[int, int], **options: float) -> None:
    """Draw a data set of synthetic people.

    FOLDER gets {train,query,gallery}/{visible,infrared}/<identity>/*.png. A person's brightness
    in infrared is drawn apart from the colours, so that colour does not tell who it is.
    """
    from mip_edge.synthetic.world import DatasetOptions, write_dataset

    written = write_dataset(folder, DatasetOptions(image_size=image_size, **options))  # type: ignore[arg-type]
    click.echo(f"wrote {written} synthetic crops to {folder}")
