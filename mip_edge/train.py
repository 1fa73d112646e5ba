"""Training of MIP on a folder of crops: the published losses, schedule and sampler, in the open."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from mip_edge.checkpoint import initialize, load_vit_weights, read_metadata, save
from mip_edge.curves import draw_curves
from mip_edge.data.augment import augment, normalize
from mip_edge.data.cache import load_crops
from mip_edge.data.folder import Sample, label_identities, read_folder, split_validation
from mip_edge.data.sampler import IdentitySampler
from mip_edge.errors import CheckpointError, OptionError, TrainingError
from mip_edge.evaluate import DirectionResult, evaluate_embeddings
from mip_edge.metrics import best_threshold
from mip_edge.model.losses import Losses, losses
from mip_edge.model.mip import MIP, TrainOutput
from mip_edge.model.optimizer import OptimizerOptions, build_optimizer, set_learning_rates
from mip_edge.model.options import MIPOptions
from mip_edge.run import append_metrics, start_run
from mip_edge.spec import Embeddings, Modality

logger = logging.getLogger(__name__)

STARTER = Path(__file__).parent / "assets" / "mip_tiny_synthetic.safetensors"
"""The checkpoint that comes with the package; `--init synthetic` means it."""
AMP_CHOICES = ("auto", "on", "off")


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
        if self.amp not in AMP_CHOICES:
            raise OptionError(f"--amp must be one of {', '.join(AMP_CHOICES)}, got {self.amp!r}")
        if self.lr_per not in ("epoch", "step"):
            raise OptionError(f"--lr-per must be epoch or step, got {self.lr_per!r}")
        OptimizerOptions(kind=self.optimizer, lr=self.lr)

    @property
    def identities(self) -> int:
        """Identities of a batch (P)."""
        return self.batch // (2 * self.images)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training left behind, and how good its best epoch was."""

    best: Path
    last: Path
    curves: Path
    epoch: int
    """The epoch that `best` holds."""
    rank1: float
    mAP: float  # noqa: N815 - the name the field uses
    """Of the validation identities, mean of both directions."""
    min_similarity: float
    seconds: float


def train(data: Path, options: TrainOptions, folder: Path) -> TrainReport:
    """Train on `data`/train; leave best and last .safetensors, metrics.jsonl and curves.png.

    The best epoch is the one with the greatest (Rank-1 + mAP) / 2 on validation identities, which
    are taken from the training identities; query and gallery are not read.
    Raises: DatasetError, CheckpointError, OptionError; TrainingError when the loss is not finite.
    """
    started = time.monotonic()
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
    start_run(folder, "train", {**asdict(options), "data": str(data)})
    size = model.options.image_size
    crops = torch.from_numpy(load_crops(split.train, size))
    held_out = load_crops(split.query, size)
    targets, modality = torch.from_numpy(labels), _modality_flags(split.train)
    optimizer = build_optimizer(model, OptimizerOptions(kind=options.optimizer, lr=options.lr))
    amp = choose_amp(model, options)
    scaler = torch.amp.GradScaler(device.type, enabled=amp and device.type == "cuda")
    generator = torch.Generator().manual_seed(options.seed)
    logger.info(
        "training on %d crops of %d identities, validating on %d crops, mixed precision %s",
        len(crops),
        len(names),
        len(held_out),
        "on" if amp else "off",
    )
    rows: list[dict[str, Any]] = []
    report: TrainReport | None = None
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        for epoch in range(1, options.epochs + 1):
            model.train()
            batches = sampler.epoch()
            task = progress.add_task(f"epoch {epoch}/{options.epochs}", total=len(batches))
            sums: dict[str, float] = {}
            for step, indices in enumerate(batches):
                reached = (
                    epoch if options.lr_per == "epoch" else epoch - 1 + (step + 1) / len(batches)
                )
                set_learning_rates(optimizer, reached, epochs=options.epochs)
                chosen = torch.from_numpy(indices)
                images = augment(crops[chosen], generator).to(device)
                with torch.autocast(device.type, dtype=_amp_type(device), enabled=amp):
                    output = model(images, modality[chosen].to(device))
                batch_losses = losses(
                    _in_float32(output),
                    targets[chosen].to(device),
                    modality[chosen].to(device),
                    msel=epoch >= options.msel_start,
                )
                total = batch_losses.total
                if not bool(torch.isfinite(total)):
                    paths = ", ".join(str(split.train[index].path) for index in indices[:4])
                    raise TrainingError(
                        f"the loss is {total.item()} in epoch {epoch}, step {step + 1} (batch of "
                        f"{paths}, ...); take a smaller --lr than {options.lr} or --amp off"
                    )
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(total).backward()  # type: ignore[no-untyped-call]
                scaler.step(optimizer)
                scaler.update()
                for name, loss in _named(batch_losses).items():
                    sums[name] = sums.get(name, 0.0) + loss / len(batches)
                progress.advance(task)
            progress.remove_task(task)
            if epoch % options.evaluate_every and epoch != options.epochs:
                continue
            embeddings = embed_crops(model, held_out, split.query)
            row: dict[str, Any] = {
                "epoch": epoch,
                "seconds": round(time.monotonic() - started, 2),
                "lr": optimizer.param_groups[0]["lr"],
                **{f"loss_{name}": value for name, value in sums.items()},
                **_mean_figures(
                    evaluate_embeddings(embeddings, split.query, embeddings, split.query)
                ),
                "min_similarity": _threshold(embeddings, split.query),
            }
            rows.append(row)
            append_metrics(folder, row)
            logger.info(
                "epoch %d: loss %.3f, validation Rank-1 %.1f%%, mAP %.1f%%",
                epoch,
                sum(sums.values()),
                100 * row["rank1"],
                100 * row["mAP"],
            )
            _save(model, folder / "last.safetensors", options, data, row, len(crops), len(names))
            if report is None or row["rank1"] + row["mAP"] > report.rank1 + report.mAP:
                shutil.copyfile(folder / "last.safetensors", folder / ".best.part")
                os.replace(folder / ".best.part", folder / "best.safetensors")
                report = TrainReport(
                    best=folder / "best.safetensors",
                    last=folder / "last.safetensors",
                    curves=folder / "curves.png",
                    epoch=epoch,
                    rank1=row["rank1"],
                    mAP=row["mAP"],
                    min_similarity=row["min_similarity"],
                    seconds=0.0,
                )
            draw_curves(rows, folder / "curves.png", title=f"{options.model} on {data}")
    assert report is not None  # epochs >= 1, and the last one is always validated
    return TrainReport(**{**asdict(report), "seconds": time.monotonic() - started})


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


@torch.inference_mode()
def embed_crops(
    model: MIP, crops: NDArray[np.uint8], samples: Sequence[Sample], *, batch: int = 128
) -> Embeddings:
    """Embeddings (N, D) of unit length of crops (N, H, W, 3), without camera embedding."""
    device = next(model.parameters()).device
    flags = _modality_flags(samples)
    model.eval()
    parts = []
    for start in range(0, len(crops), batch):
        images = normalize(torch.from_numpy(crops[start : start + batch])).to(device)
        raw = model(images, flags[start : start + batch].to(device))
        parts.append(F.normalize(raw, dim=1).float().cpu().numpy())
    return np.concatenate(parts)


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


def _modality_flags(samples: Sequence[Sample]) -> Tensor:
    """1 visible, 0 infrared, as the network takes them, (N,)."""
    return torch.tensor([int(sample.modality is Modality.VISIBLE) for sample in samples])


def _in_float32(output: TrainOutput) -> TrainOutput:
    return TrainOutput(
        [scores.float() for scores in output.scores],
        [features.float() for features in output.features],
        [scores.float() for scores in output.instance_scores],
    )


def _named(batch_losses: Losses) -> dict[str, float]:
    return {name: getattr(batch_losses, name).item() for name in Losses.__dataclass_fields__}


def _mean_figures(directions: Sequence[DirectionResult]) -> dict[str, float]:
    return {
        name: float(np.mean([getattr(direction.ranking, name) for direction in directions]))
        for name in ("rank1", "mAP", "mINP")
    }


def _threshold(embeddings: Embeddings, samples: Sequence[Sample]) -> float:
    """The similarity that best tells same from different across the modalities."""
    infrared = np.array([sample.modality is Modality.INFRARED for sample in samples])
    identity = np.array([sample.identity for sample in samples])
    similarities = embeddings[infrared] @ embeddings[~infrared].T
    return best_threshold(similarities, identity[infrared][:, None] == identity[~infrared])


def _save(
    model: MIP,
    path: Path,
    options: TrainOptions,
    data: Path,
    row: dict[str, Any],
    crops: int,
    identities: int,
) -> None:
    training = {
        "data": {"folder": data.name, "crops": crops, "identities": identities},
        "options": asdict(options),
        "validation": row,
    }
    save(model, path, training=training, min_similarity=row["min_similarity"])
