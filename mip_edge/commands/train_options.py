"""The options of a training, for every command that trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mip_edge.commands.shared import Command, dataset_option, split_option

_POSITIVE = click.IntRange(min=1)
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
_BELOW_1 = click.FloatRange(0, 1, max_open=True)


def _option(flag: str, kind: Any, default: Any, text: str, **more: Any) -> Callable[..., Any]:
    more.setdefault("show_default", True)
    return click.option(flag, type=kind, default=default, help=text, **more)


_OPTIONS = [
    dataset_option(note="; our own is train/{visible,infrared}/<identity>/*"),
    split_option,
    _option(
        "--recipe",
        click.Choice(["paper", "official"]),
        "paper",
        "paper: learnable instance queries, IAEL, chosen on validation identities. official: the "
        "published train.sh, with zero queries, no IAEL, chosen on the TEST part.",
    ),
    _option(
        "--model",
        click.Choice(["tiny", "small", "base"]),
        "base",
        "Size of the network: width 192, 384 or 768.",
    ),
    _option(
        "--init",
        str,
        None,
        "What to start from: a mip-edge checkpoint, a timm or Hugging Face ViT (a file, or "
        'hf:ORG/NAME@REVISION), or "synthetic" for the tiny checkpoint that comes with mip-edge.',
        show_default="random",
    ),
    _option(
        "--init-prompts/--no-init-prompts",
        None,
        True,
        "Take the prompts of --init too, or its plain ViT alone.",
    ),
    _option(
        "--image-size",
        click.IntRange(min=16),
        None,
        "Height and width of a prepared crop in pixels.",
        nargs=2,
        show_default="that of --init, else 256 128",
    ),
    _option(
        "--stride",
        _POSITIVE,
        None,
        "Pixels from patch to patch.",
        show_default="that of --init, else 12",
    ),
    _option(
        "--instance-queries",
        click.Choice(["zero", "learnable"]),
        None,
        "What asks the instance prompt generator.",
        show_default="those of --init, else the recipe's",
    ),
    _option(
        "--modality-prompts/--no-modality-prompts",
        None,
        True,
        "Modality prompts (MPL); without them only to see what they give.",
    ),
    _option(
        "--instance-prompts/--no-instance-prompts",
        None,
        True,
        "Instance prompt generator (IPG); without it only to see what it gives.",
    ),
    _option(
        "--prompt-scale",
        click.FloatRange(min=0, min_open=True),
        20.0,
        "Factor of the modality prompts' starting range.",
    ),
    _option(
        "--camera-embedding/--no-camera-embedding",
        None,
        True,
        "Learn an embedding of each camera (SIE) where the data set names its cameras.",
    ),
    _option("--epochs", _POSITIVE, 80, "Passes over the training identities."),
    _option(
        "--batch",
        _POSITIVE,
        64,
        "Crops of a batch over all processes, half visible and half infrared.",
    ),
    _option("--images", _POSITIVE, 4, "Crops of one identity in one modality in a batch."),
    _option(
        "--accumulate",
        _POSITIVE,
        1,
        "Parts in which a batch goes through the network, to fit a small GPU: same gradient, one "
        "more forward pass.",
    ),
    _option("--optimizer", click.Choice(["sgd", "adamw"]), "sgd", "sgd is the published one."),
    _option(
        "--lr",
        click.FloatRange(min=0, min_open=True),
        None,
        "Learning rate; prompts, generator and biases have multiples of it.",
        show_default="0.01, for RegDB 0.008",
    ),
    _option(
        "--lr-per",
        click.Choice(["epoch", "step"]),
        "epoch",
        "How often the learning rate moves; short trainings want step.",
    ),
    _option(
        "--schedule",
        click.Choice(["published", "cosine"]),
        "published",
        "published: cosine cycles, each at a tenth of the one before; cosine: one cycle.",
    ),
    _option(
        "--augmentation",
        click.Choice(["published", "light"]),
        "published",
        "light changes a crop little (flip, shift, jitter), to fine-tune on few crops.",
    ),
    _option(
        "--channels",
        click.Choice(["keep", "grey", "exchange"]),
        "keep",
        "Of visible crops at random: make them grey, or put one channel in place of all (CAJ).",
    ),
    _option(
        "--lr-groups",
        click.Choice(["published", "equal"]),
        "published",
        "Multiples of --lr for prompts (5), generator (15) and biases (2), or one rate for all.",
    ),
    _option(
        "--label-smoothing",
        _BELOW_1,
        0.0,
        "Share of the identity loss's target that goes to all identities.",
    ),
    _option(
        "--msel-start", _POSITIVE, 10, "First epoch with the modality-shared enhancement loss."
    ),
    _option(
        "--iael/--no-iael",
        None,
        None,
        "Instance-aware enhancement loss.",
        show_default="the recipe's",
    ),
    _option(
        "--iael-block/--no-iael-block",
        None,
        False,
        "Let one more block read the instance prompts for IAEL, in place of their mean.",
    ),
    _option(
        "--ema",
        _BELOW_1,
        0.0,
        "Decay of an average of the weights that is kept instead of them (0.999, say); 0 is off.",
    ),
    _option(
        "--teacher",
        click.Path(exists=True, dir_okay=False),
        None,
        "A trained checkpoint whose similarities and scores the network learns to repeat.",
        show_default="none",
    ),
    _option("--relation-weight", click.FloatRange(min=0), 10.0, "Of the teacher's similarities."),
    _option("--logits-weight", click.FloatRange(min=0), 1.0, "Of the teacher's scores."),
    _option(
        "--select",
        click.Choice(["validation", "test", "last"]),
        None,
        "What chooses the best epoch: identities kept aside, the test part, or nothing.",
        show_default="the recipe's",
    ),
    _option(
        "--validation-share",
        _SHARE,
        0.1,
        "Share of the training identities that --select validation keeps aside.",
    ),
    _option("--evaluate-every", _POSITIVE, 1, "Epochs from one validation to the next."),
    _option(
        "--save-every",
        click.IntRange(min=0),
        0,
        "Steps from one resumable state to the next; 0 has one after each epoch.",
    ),
    _option(
        "--amp",
        click.Choice(["auto", "on", "off"]),
        "auto",
        "Mixed precision; auto takes it on CUDA, and on a CPU if a timed step is faster.",
    ),
    _option("--seed", click.IntRange(min=0), 1234, "Random seed."),
    _option("--device", str, "cpu", "Where to train: cpu, cuda, cuda:1."),
    _option("--threads", _POSITIVE, None, "Threads of a CPU.", show_default="all cores"),
    _option("--workers", _POSITIVE, 2, "Threads that decode images."),
    _option(
        "--cache",
        click.Path(file_okay=False),
        None,
        "Folder for decoded crops, to be mapped into memory; it may be deleted at any time.",
        show_default="none, in memory",
    ),
    _option(
        "--licence",
        str,
        None,
        "Licence of the weights that come out, for checkpoint, card and bundle.",
        show_default="unknown",
    ),
]


def train_options(command: Command) -> Command:
    """Give a command the fields of TrainOptions as keywords, all but `tensorboard`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def data_argument(command: Command) -> Command:
    """The folder that is learned from."""
    path = click.Path(exists=True, file_okay=False, path_type=Path)
    return click.argument("data", type=path)(command)
