"""The command `mip-edge train`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--dataset",
    type=click.Choice(["folder"]),
    default="folder",
    show_default=True,
    help="Layout of DATA.",
)
@click.option(
    "--model",
    type=click.Choice(["tiny", "small", "base"]),
    default="base",
    show_default=True,
    help="Size of the network: width 192, 384 or 768.",
)
@click.option(
    "--init",
    type=str,
    show_default="random",
    help="What to start from: a mip-edge checkpoint, a timm or Hugging Face ViT file, or "
    '"synthetic" for the tiny checkpoint that comes with mip-edge.',
)
@click.option(
    "--image-size",
    type=click.IntRange(min=16),
    nargs=2,
    show_default="that of --init, else 256 128",
    help="Height and width of a prepared crop in pixels.",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    show_default="that of --init, else 12",
    help="Pixels from patch to patch.",
)
@click.option(
    "--instance-queries",
    type=click.Choice(["zero", "learnable"]),
    show_default="those of --init, else learnable",
    help="What asks the instance prompt generator.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=80, show_default=True, help="Epochs.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Crops of a batch, half visible and half infrared.",
)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Crops of one identity in one modality in a batch.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adamw"]),
    default="sgd",
    show_default=True,
    help="sgd is the published one.",
)
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    default=0.01,
    show_default=True,
    help="Learning rate; prompts, generator and biases have multiples of it.",
)
@click.option(
    "--lr-per",
    type=click.Choice(["epoch", "step"]),
    default="epoch",
    show_default=True,
    help="How often the learning rate moves; short trainings want step.",
)
@click.option(
    "--schedule",
    type=click.Choice(["published", "cosine"]),
    default="published",
    show_default=True,
    help="published: cosine cycles, each at a tenth of the one before; cosine: one cycle.",
)
@click.option(
    "--augmentation",
    type=click.Choice(["published", "light"]),
    default="published",
    show_default=True,
    help="light changes a crop little (flip, shift, jitter), to fine-tune on few crops.",
)
@click.option(
    "--lr-groups",
    type=click.Choice(["published", "equal"]),
    default="published",
    show_default=True,
    help="Multiples of --lr for prompts (5), generator (15) and biases (2), or one rate for all.",
)
@click.option(
    "--msel-start",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="First epoch with the modality-shared enhancement loss.",
)
@click.option(
    "--iael/--no-iael",
    default=True,
    show_default=True,
    help="Instance-aware enhancement loss.",
)
@click.option(
    "--validation-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of the training identities that selects the best epoch.",
)
@click.option(
    "--evaluate-every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Epochs from one validation to the next.",
)
@click.option(
    "--amp",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Mixed precision; auto takes it on CUDA, and on a CPU if a timed step is faster.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=1234, show_default=True, help="Random seed."
)
@click.option(
    "--device",
    type=str,
    default="cpu",
    show_default=True,
    help="Where to train: cpu, cuda, cuda:1.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), show_default="all cores", help="Threads of a CPU."
)
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/train"),
    show_default=True,
    help="Folder of the run; it must be empty.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def train(
    data: Path,
    dataset: str,
    output: Path,
    as_json: bool,
    image_size: tuple[int, int] | None,
    **options: str | float | bool | None,
) -> None:
    """Train a model on a folder of crops.

    DATA holds train/{visible,infrared}/<identity>/*.png|jpg|jpeg. Some of the training identities
    are kept aside to select the best epoch; query and gallery are not read.
    """
    from mip_edge.train import TrainOptions
    from mip_edge.train import train as run

    del dataset  # one layout so far; the choice has checked it
    report = run(data, TrainOptions(image_size=image_size, **options), output)  # type: ignore[arg-type]
    if as_json:
        click.echo(json.dumps(asdict(report), default=str, indent=2))
        return
    click.echo(
        f"best epoch {report.epoch}: validation Rank-1 {100 * report.rank1:.1f}%, "
        f"mAP {100 * report.mAP:.1f}%, in {report.seconds:.0f} s\n"
        f"wrote {report.best}, {report.last}, {report.curves}"
    )
