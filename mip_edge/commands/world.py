"""The commands `mip-edge world ...`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.group()
def world() -> None:
    """Film a synthetic site with several cameras, day and night, whose truth is known."""


@world.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--cameras",
    type=click.IntRange(1, 64),
    show_default="4",
    help="Cameras: of each four the first sees visible light, the second, beside it, infrared, and "
    "the others switch at dusk.",
)
@click.option(
    "--people",
    type=click.IntRange(min=1),
    show_default="12, with --small 10",
    help="People who come during the film: one of six only by day, one of six only by night.",
)
@click.option(
    "--at-once",
    type=click.FloatRange(min=0.1),
    show_default="10",
    help="How many of them are on the site at one time, on average; about half of it is in view.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    show_default="60, with --small 24",
    help="Length of the film, half of it day and half night.",
)
@click.option("--rate", type=click.FloatRange(min=1), show_default="10", help="Frames a second.")
@click.option(
    "--size",
    type=click.IntRange(min=120),
    nargs=2,
    show_default="480 640, with --small 240 320",
    help="Height and width of a frame in pixels, both even.",
)
@click.option(
    "--nights",
    type=click.IntRange(min=1),
    show_default="1",
    help="Nights in the film: cameras switch at each dusk, and back at each dawn between.",
)
@click.option(
    "--noise",
    type=click.FloatRange(min=0),
    show_default="1",
    help="Noise of the cameras, times what is usual; 0.2 makes the files of a long film smaller.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    show_default="7",
    help="Which world; the same seed and options give the same frames and truth.",
)
@click.option("--small", is_flag=True, help="A short film of small frames, made in seconds.")
@click.option("--overwrite", is_flag=True, help="Replace a world that lies in FOLDER.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def make(folder: Path, small: bool, overwrite: bool, as_json: bool, **given: Any) -> None:
    """Film a site into FOLDER: a video and its truth for each camera, and cameras.toml.

    People walk between the cameras, hide each other, stand and turn; at dusk cameras switch from
    visible to infrared. Look at FOLDER/world.png; then run
    `mip-edge live BUNDLE --cameras FOLDER/cameras.toml --truth FOLDER`.
    """
    from dataclasses import replace

    from mip_edge.synthetic.footage import SMALL, FilmOptions, write_film

    asked = {name: value for name, value in given.items() if value is not None}
    options = replace(SMALL if small else FilmOptions(), **asked)
    record = write_film(folder, options, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(record.as_dict(), indent=2))
        return
    click.echo(record.table())
    click.echo(f"wrote {options.cameras} cameras of {options.frames} frames each to {folder}")
