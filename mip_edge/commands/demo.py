"""The command `mip-edge demo`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click


@click.command()
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder for everything the demo makes; it must be empty.",
)
@click.option(
    "--train-identities",
    type=click.IntRange(min=40),
    default=400,
    show_default=True,
    help="Synthetic people to fine-tune on.",
)
@click.option(
    "--test-identities",
    type=click.IntRange(min=2),
    default=100,
    show_default=True,
    help="Other synthetic people, to be found again.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Passes of the fine-tuning.",
)
@click.option(
    "--people",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="People who cross before both live cameras.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=11, show_default=True, help="World of the people."
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier demo in --output.")
@click.option(
    "--threads", type=click.IntRange(min=1), show_default="all cores", help="Threads of a CPU."
)
def demo(output: Path, overwrite: bool, **options: int | None) -> None:
    """Walk one crop all the way on synthetic people, from training to a match across cameras.

    Draws a data set, fine-tunes the shipped checkpoint, scores it beside an untrained one, exports
    it, times it, and runs two live cameras whose truth is known.
    """
    from mip_edge.demo import DemoOptions, run_demo

    run_demo(output, DemoOptions(**options), click.echo, overwrite=overwrite)  # type: ignore[arg-type]
    program = program_name()
    click.echo(
        f"""
Look at
  {output}/report.md        all figures, and what each step took
  {output}/ranked.png       infrared queries and whom they found
  {output}/train/curves.png the fine-tuning
  {output}/match.png        one person on both cameras
  {output}/live.mp4         both cameras with identities
  {output}/events.jsonl     what happened, line by line
  {output}/bundle           what goes to the device

Next
  {program} live {output}/bundle --source name=door,url=VIDEO,modality=visible --save door.mp4
  {program} train DATA --model base --init VIT_WEIGHTS     with crops of your own
  {program} doctor          which engines this machine has"""
    )


def program_name() -> str:
    """What to type for this program: its name, or its path where the shell would not find it."""
    name = "mip-edge"
    started = Path(sys.argv[0])
    if shutil.which(name) is None and started.name == name:
        return os.path.relpath(started)
    return name
