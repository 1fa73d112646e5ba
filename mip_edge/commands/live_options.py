"""Options of the live loop, for every command that runs it."""

from __future__ import annotations

from collections.abc import Callable

import click

from mip_edge.commands.shared import Command

max_identities_option = click.option(
    "--max-identities",
    default=10_000,
    show_default=True,
    type=click.IntRange(min=1),
    help="People that the gallery keeps; those seen longest ago go first.",
)
live_threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    show_default="the runtime's choice",
    help="Threads of the detector and of the embedder.",
)


def detector_option(
    default: str, *, recorded: bool, note: str = ""
) -> Callable[[Command], Command]:
    """`--detector`; with `recorded` boxes that lie beside a video may be taken too."""
    word, boxes = "", ""
    if recorded:
        word, boxes = "file|", "boxes from VIDEO.boxes.jsonl beside a recorded video, "
    return click.option(
        "--detector",
        default=default,
        show_default=True,
        metavar=f"nanodet|motion|{word}FILE.toml",
        help="Who finds the people: the network that comes with mip-edge, motion before a camera "
        f"that stands still, {boxes}or an ONNX network of your own that FILE.toml describes.{note}",
    )


def detect_every_option(unhurried: str) -> Callable[[Command], Command]:
    """`--detect-every`; `unhurried` is the flag with which no frame is dropped."""
    return click.option(
        "--detect-every",
        type=click.IntRange(min=1),
        show_default=f"as often as the machine can; every frame with {unhurried}",
        help="Look for people in every n-th frame; between them tracks are moved on.",
    )
