"""`mip-edge pretrain`: the one command that made the shipped starting checkpoint."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/pretrain"),
    show_default=True,
    help="Folder of the run; it must be empty, except with --resume.",
)
@click.option("--resume", is_flag=True, help="Go on from the last state in --output.")
@click.option(
    "--model",
    type=click.Choice(["tiny", "small", "base"]),
    default="tiny",
    show_default=True,
    help="Size of the network.",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=16),
    nargs=2,
    default=(128, 64),
    show_default=True,
    help="Height and width of the crops in pixels.",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Pixels from patch to patch.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=1600,
    show_default=True,
    help="Batches of 64 people, one visible and one infrared crop each.",
)
@click.option(
    "--lr", type=float, default=1e-3, show_default=True, help="Learning rate after the warm-up."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=7,
    show_default=True,
    help="World of the people, and start of the network.",
)
@click.option(
    "--device", default="cpu", show_default=True, help="Where to train: cpu, cuda, cuda:1."
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Threads of a CPU."
)
def pretrain(
    output: Path,
    resume: bool,
    model: str,
    image_size: tuple[int, int],
    stride: int,
    steps: int,
    lr: float,
    seed: int,
    device: str,
    threads: int,
) -> None:
    """Make the starting checkpoint from synthetic people.

    People are drawn on the fly and none comes twice. The network first learns to name what they
    wear and carry, then to recognise them across visible and infrared. Hours on two CPU cores.
    """
    from mip_edge.pretrain import PretrainOptions
    from mip_edge.pretrain import pretrain as run

    options = PretrainOptions(
        model=model,
        image_size=image_size,
        stride=stride,
        steps=steps,
        lr=lr,
        seed=seed,
        device=device,
        threads=threads,
    )
    click.echo(run(options, output, resume=resume))
