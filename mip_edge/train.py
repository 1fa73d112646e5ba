"""Training of MIP on a folder of crops: the published losses, schedule and sampler, in the open."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from mip_edge.checkpoint import initialize, load_vit_weights, read_metadata
from mip_edge.data.augment import LIGHT, PUBLISHED, augment
from mip_edge.data.cache import load_crops
from mip_edge.data.dataset import Sample
from mip_edge.data.folder import label_identities, read_folder, split_validation
from mip_edge.data.sampler import IdentitySampler
from mip_edge.errors import CheckpointError, OptionError, TrainingError
from mip_edge.journal import Journal, TrainReport, modality_flags
from mip_edge.model.losses import Losses, losses
from mip_edge.model.mip import MIP, TrainOutput
from mip_edge.model.optimizer import (
    FIRST_CYCLE,
    OptimizerOptions,
    build_optimizer,
    set_learning_rates,
)
from mip_edge.model.options import MIPOptions
from mip_edge.run import start_run

logger = logging.getLogger(__name__)

STARTER = Path(__file__).parent / "assets" / "mip_tiny_synthetic.safetensors"
"""The checkpoint that comes with the package; `--init synthetic` means it."""
_CHOICES = {
    "amp": ("auto", "on", "off"),
    "lr_per": ("epoch", "step"),
    "lr_groups": ("published", "equal"),
    "schedule": ("published", "cosine"),
    "augmentation": ("published", "light"),
}


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a MIP is trained; the defaults are the published recipe where it says anything."""

    model: str = "base"
    """Preset of the network: tiny, small or base."""
    init: str | None = None
    """A mip-edge checkpoint, a timm or Hugging Face ViT, or "synthetic" for the shipped one."""
    image_size: tuple[int, int] | None = None
    """Height and width of a prepared crop; None takes that of `init`, else 256 x 128."""
    stride: int | None = None
    """Pixels from patch to patch; None takes that of `init`, else 12."""
    instance_queries: str | None = None
    """"zero" or "learnable"; None takes that of `init`, else "learnable"."""
    epochs: int = 80
    """Passes over the training identities."""
    batch: int = 64
    """Crops of a batch: half of them visible, half infrared."""
    images: int = 4
    """Crops of one identity in one modality in a batch (K)."""
    optimizer: str = "sgd"
    """"sgd" as published, or "adamw"."""
    lr: float = 0.01
    """Learning rate; the parameter groups have multiples of it."""
    lr_per: str = "epoch"
    """Move the learning rate once an "epoch" as published, or every "step"."""
    schedule: str = "published"
    """"published": cosine cycles, each a tenth of the one before; "cosine": the first one alone."""
    augmentation: str = "published"
    """"published", or "light" (flip, shift, jitter) to fine-tune on few crops."""
    lr_groups: str = "published"
    """"published" multiples of the learning rate for prompts, generator and biases, or "equal"."""
    msel_start: int = 10
    """First epoch with the modality-shared enhancement loss."""
    iael: bool = True
    """Train with the instance-aware enhancement loss."""
    validation_share: float = 0.1
    """Share of the training identities that select the checkpoint and are not learned from."""
    evaluate_every: int = 1
    """Epochs from one validation to the next; the last epoch always has one."""
    amp: str = "auto"
    """Mixed precision: "on", "off", or "auto": on CUDA on, on a CPU whichever is faster."""
    seed: int = 1234
    """Of the start, the sampler and the augmentation."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1."""
    threads: int | None = None
    """Threads of a CPU; None takes all cores."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "images", "evaluate_every", "msel_start"):
            if getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise OptionError(f"{flag} must be at least 1, got {getattr(self, name)}")
        if self.batch % (2 * self.images):
            raise OptionError(
                f"--batch must be a multiple of {2 * self.images} (both modalities x --images "
                f"{self.images}), got {self.batch}"
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                flag, listed = "--" + name.replace("_", "-"), " or ".join(choices)
                raise OptionError(f"{flag} must be {listed}, got {getattr(self, name)!r}")
        self.optimizer_options()

    def optimizer_options(self) -> OptimizerOptions:
        """Of all groups. Raises: OptionError for a learning rate or kind that cannot be."""
        published = OptimizerOptions(kind=self.optimizer, lr=self.lr)
        if self.lr_groups == "published":
            return published
        return replace(
            published, bias_multiplier=1.0, modality_multiplier=1.0, instance_multiplier=1.0
        )

    def reached(self, epoch: int, step: int, steps: int) -> float:
        """Where in the schedule step `step` of `steps` of an epoch (from 1) stands."""
        now = epoch if self.lr_per == "epoch" else epoch - 1 + (step + 1) / steps
        return now if self.schedule == "published" else now * FIRST_CYCLE

    @property
    def identities(self) -> int:
        """Identities of a batch (P)."""
        return self.batch // (2 * self.images)


def train(data: Path, options: TrainOptions, folder: Path) -> TrainReport:
    """Train on `data`/train; leave best and last .safetensors, metrics.jsonl and curves.png.

    The best epoch is the one with the greatest (Rank-1 + mAP) / 2 on validation identities, which
    are taken from the training identities; query and gallery are not read. A start from `init` is
    validated too, as epoch 0, so that a training that harms it is seen.
    Raises: DatasetError, CheckpointError, OptionError; TrainingError when the loss is not finite.
    """
    device = _open_device(options)
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    samples = read_folder(data, parts=("train",)).train
    split = split_validation(samples, options.validation_share, rng)
    labels, names = label_identities(split.train)
    model = build_model(options, classes=len(names)).to(device)
    sampler = IdentitySampler(
        split.train, identities=options.identities, images=options.images, rng=rng
    )
    size = model.options.image_size
    crops, held_out = torch.from_numpy(load_crops(split.train, size)), load_crops(split.query, size)
    targets, modality = torch.from_numpy(labels), modality_flags(split.train)
    start_run(folder, "train", {**asdict(options), "data": str(data)})
    journal = Journal(folder, asdict(options), data, split, held_out)
    optimizer = build_optimizer(model, options.optimizer_options())
    augmentation = PUBLISHED if options.augmentation == "published" else LIGHT
    amp = choose_amp(model, options)
    scaler = torch.amp.GradScaler(device.type, enabled=amp and device.type == "cuda")
    generator = torch.Generator().manual_seed(options.seed)
    logger.info(
        "training on %d crops of %d identities, validating on %d crops, mixed precision %s",
        *(len(crops), len(names), len(held_out), "on" if amp else "off"),
    )
    if options.init is not None:
        journal.validate(model, 0, {})
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        for epoch in range(1, options.epochs + 1):
            model.train()
            batches = sampler.epoch()
            sums: dict[str, float] = dict.fromkeys(Losses.__dataclass_fields__, 0.0)
            title = f"epoch {epoch}/{options.epochs}"
            for step, indices in enumerate(progress.track(batches, description=title)):
                set_learning_rates(
                    optimizer, options.reached(epoch, step, len(batches)), epochs=options.epochs
                )
                chosen = torch.from_numpy(indices)
                images = augment(crops[chosen], generator, augmentation).to(device)
                flags, labels_here = modality[chosen].to(device), targets[chosen].to(device)
                with torch.autocast(device.type, dtype=_amp_type(device), enabled=amp):
                    output = model(images, flags)
                parts = losses(
                    _in_float32(output), labels_here, flags, msel=epoch >= options.msel_start
                )
                if not bool(torch.isfinite(parts.total)):
                    raise _not_finite(parts, epoch, step, [split.train[row] for row in indices])
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(parts.total).backward()  # type: ignore[no-untyped-call]
                scaler.step(optimizer)
                scaler.update()
                for name in sums:
                    sums[name] += getattr(parts, name).item() / len(batches)
            if epoch % options.evaluate_every == 0 or epoch == options.epochs:
                figures = {f"loss_{name}": value for name, value in sums.items()}
                journal.validate(model, epoch, {"lr": optimizer.param_groups[0]["lr"], **figures})
    return journal.report()


def build_model(options: TrainOptions, *, classes: int) -> MIP:
    """The network that `options` name, started from `options.init` if there is one."""
    if options.init is None:
        return MIP(_model_options(options, classes, {}))
    path = STARTER if options.init == "synthetic" else Path(options.init)
    if not path.is_file():
        raise CheckpointError(f"--init {options.init}: there is no such file")
    try:
        known = read_metadata(path)["options"]
    except CheckpointError:
        # Not ours: the weights of a plain ViT, or a file that load_vit_weights will name.
        model = MIP(_model_options(options, classes, {}))
        load_vit_weights(model, path)
        return model
    model = MIP(_model_options(options, classes, known))
    initialize(model, path)
    return model


def _model_options(options: TrainOptions, classes: int, known: dict[str, Any]) -> MIPOptions:
    size = options.image_size or tuple(known.get("image_size", (256, 128)))
    return MIPOptions.preset(
        options.model,
        image_size=size,
        stride=options.stride or known.get("stride", 12),
        prompt_length=known.get("prompt_length", 16),
        instance_queries=options.instance_queries or known.get("instance_queries", "learnable"),
        classes=classes,
        iael=options.iael,
    )


def choose_amp(model: MIP, options: TrainOptions) -> bool:
    """Whether to train in mixed precision; on a CPU with "auto" one timed step of each decides."""
    device = next(model.parameters()).device
    if options.amp != "auto":
        return options.amp == "on"
    if device.type != "cpu":
        return True
    images = torch.zeros(16, 3, *model.options.image_size)
    flags = torch.arange(16) % 2
    seconds = {}
    with torch.random.fork_rng(devices=[]):
        for amp in (False, True, False, True):
            begun = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
                output = model.train()(images, flags)
            torch.stack([one.float().sum() for one in output.features]).sum().backward()  # type: ignore[no-untyped-call]
            seconds[amp] = time.perf_counter() - begun
    model.zero_grad(set_to_none=True)
    return seconds[True] < seconds[False]


def _open_device(options: TrainOptions) -> torch.device:
    try:
        device = torch.device(options.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"--device {options.device} cannot be used ({reason})") from error
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return device


def _amp_type(device: torch.device) -> torch.dtype:
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def _in_float32(output: TrainOutput) -> TrainOutput:
    return TrainOutput(
        [scores.float() for scores in output.scores],
        [features.float() for features in output.features],
        [scores.float() for scores in output.instance_scores],
    )


def _not_finite(parts: Losses, epoch: int, step: int, samples: Sequence[Sample]) -> TrainingError:
    """Which batch it was, and what may help."""
    shown = ", ".join(str(sample.path) for sample in samples[:4])
    return TrainingError(
        f"the loss is {parts.total.item()} in epoch {epoch}, step {step + 1} (batch of {shown}, "
        "...); take a smaller --lr, or --amp off"
    )
