"""How the starting checkpoint was made: MIP learns synthetic people, from attributes to identities.

A vision transformer learns little from identities alone in hours of a CPU; told what each person
looks like (garments, patterns, things carried), it does. People are drawn on the fly and none
comes twice; views grow harder; then visible and infrared crops of a person attract each other.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from mip_edge.checkpoint import save
from mip_edge.data.augment import normalize
from mip_edge.errors import CheckpointError, OptionError
from mip_edge.journal import embed_crops
from mip_edge.metrics import evaluate_ranking
from mip_edge.model.mip import MIP
from mip_edge.model.options import LOCAL_GROUPS, MIPOptions
from mip_edge.output import write_beside
from mip_edge.run import append_metrics, start_run
from mip_edge.synthetic.identity import ATTRIBUTES, MEASURES, PARTS, TOP_PATTERNS
from mip_edge.synthetic.world import PairBatch, draw_pairs

logger = logging.getLogger(__name__)

# A plain top, and one of two halves, have no period to be seen.
WITHOUT_PERIOD = [TOP_PATTERNS.index("plain"), TOP_PATTERNS.index("halves")]
GPU_ATTENTION = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
TEST_WORLD = 990_001
"""The world of the people that the figures are measured on; `--seed` may not name it."""


@dataclass(frozen=True, slots=True)
class PretrainOptions:
    """What made the shipped checkpoint; the defaults are its command line."""

    model: str = "tiny"
    """Preset of the network."""
    image_size: tuple[int, int] = (128, 64)
    """Height and width of the crops in pixels."""
    stride: int = 16
    """Pixels from patch to patch."""
    steps: int = 1600
    """Batches in all."""
    people: int = 64
    """People of a batch; each gives one visible and one infrared crop."""
    lr: float = 1e-3
    """Learning rate after the warm-up, until the last quarter lets it fall to zero."""
    warmup: int = 200
    """Steps in which the learning rate rises."""
    difficulty: float = 0.65
    """Hardest views, reached after `curriculum` steps."""
    curriculum: int = 1200
    """Steps in which the views grow harder."""
    contrast_start: int = 400
    """Step from which crops of a person attract each other across the lights."""
    temperature: float = 0.1
    """Of the contrast between identities."""
    evaluate_every: int = 250
    """Steps between two measurements and two resumable states."""
    test_people: int = 100
    """People of the test world that a measurement looks for."""
    seed: int = 7
    """Which world the people come from, and how the network starts."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1."""
    threads: int = 2
    """Threads of a CPU."""

    def __post_init__(self) -> None:
        for name in ("steps", "people", "evaluate_every", "threads"):
            if getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise OptionError(f"{flag} must be at least 1, got {getattr(self, name)}")
        if self.seed == TEST_WORLD:
            raise OptionError(f"--seed {TEST_WORLD} is the world of the test people; take another")

    def lr_at(self, step: int) -> float:
        """Linear rise, plateau, and a linear fall over the last quarter."""
        fall = 4 * (self.steps - step) / self.steps
        return self.lr * min(1.0, (step + 1) / self.warmup, fall)

    def hardest_at(self, step: int) -> float:
        """The hardest view of a step: the curriculum."""
        return self.difficulty * min(1.0, 0.1 + 0.9 * step / self.curriculum)


class _Steps(Dataset[PairBatch]):
    """Step number to its batch, the same in every run."""

    def __init__(self, options: PretrainOptions, grid: tuple[int, int]) -> None:
        self.options = options
        self.grid = grid

    def __len__(self) -> int:
        return self.options.steps

    def __getitem__(self, step: int) -> PairBatch:
        options = self.options
        people, views = options.people, (0.0, options.hardest_at(step))
        first, size = step * people, options.image_size
        return draw_pairs(options.seed, first, people, size, views, grid=self.grid)


class Teaching(nn.Module):
    """What tokens and embeddings tell of a person's look; thrown away after pre-training."""

    def __init__(self, width: int, dimension: int) -> None:
        super().__init__()
        self.parts = nn.Linear(width, len(PARTS))
        self.choices = nn.ModuleList(nn.Linear(dimension, count) for count in ATTRIBUTES.values())
        self.measures = nn.Linear(dimension, len(MEASURES))

    def forward(self, tokens: Tensor, parts: Tensor) -> Tensor:
        """Loss of the body parts seen in each patch: tokens (B, P, D), shares (B, P, parts)."""
        predicted: Tensor = self.parts(tokens).log_softmax(dim=-1)
        return -(parts * predicted).sum(dim=-1).mean()

    def attributes(self, features: Tensor, attributes: Tensor, measures: Tensor) -> Tensor:
        """Mean loss over all attributes of rows (N, 5 D), (N, 8), (N, 4)."""
        losses: list[Tensor] = []
        for column, (name, head) in enumerate(zip(ATTRIBUTES, self.choices, strict=True)):
            wanted = attributes[:, column]
            if name == "period":
                pattern = attributes[:, list(ATTRIBUTES).index("top_pattern")]
                hidden = torch.isin(pattern, torch.tensor(WITHOUT_PERIOD, device=pattern.device))
                wanted = wanted.masked_fill(hidden, -100)
            losses.append(F.cross_entropy(head(features), wanted, ignore_index=-100))
        error = F.mse_loss(self.measures(features), measures)
        return torch.stack(losses).mean() + error


def contrast(embeddings: Tensor, temperature: float) -> Tensor:
    """Cross-modal InfoNCE in both directions; rows (2 N, D), row i and row N + i are one person."""
    visible, infrared = F.normalize(embeddings, dim=1).chunk(2)
    logits = visible @ infrared.T / temperature
    same = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2


def pretrain(options: PretrainOptions, folder: Path, *, resume: bool = False) -> Path:
    """Train, and leave `checkpoint.safetensors` (float16) and `metrics.jsonl` in `folder`.

    With `resume` it goes on from the folder's last state; `steps` may differ as long as the
    learning rate has not begun to fall, since nothing before depends on it.
    """
    if not resume:
        start_run(folder, "pretrain", asdict(options))
    torch.manual_seed(options.seed)
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    model = build_model(options).to(device)
    teaching = Teaching(model.options.width, model.options.dimension).to(device)
    parameters = [*model.parameters(), *teaching.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [one for one in parameters if one.ndim > 1], "weight_decay": 0.05},
            {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    state = folder / "state.pt"
    first = _restore(state, model, teaching, optimizer) if resume else 0
    started = time.monotonic()
    sums: dict[str, float] = {}
    measured = first
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("pretrain", total=options.steps, completed=first)
        for step, batch in enumerate(_batches(options, model.options.grid, first), start=first):
            for group in optimizer.param_groups:
                group["lr"] = options.lr_at(step)
            losses = _losses(model, teaching, batch, options, step, device)
            optimizer.zero_grad(set_to_none=True)
            sum(losses.values(), start=torch.zeros((), device=device)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + loss.item()
            progress.advance(task)
            done = step + 1
            if done % options.evaluate_every == 0 or done == options.steps:
                row: dict[str, Any] = {
                    "step": done,
                    "seconds": round(time.monotonic() - started, 1),
                }
                row |= {name: value / (done - measured) for name, value in sums.items()}
                row |= measure(model, people=options.test_people)
                sums, measured = {}, done
                append_metrics(folder, row)
                logger.info("pretrain %s", row)
                _keep(state, done, model, teaching, optimizer)
    path = folder / "checkpoint.safetensors"
    training = {
        "licence": "Apache-2.0",
        "data": "synthetic people of mip_edge.synthetic",
        "pretrain": asdict(options),
    }
    save(model.eval(), path, training=training, dtype="float16")
    return path


def _batches(options: PretrainOptions, grid: tuple[int, int], first: int) -> Iterator[PairBatch]:
    """The batches from step `first` on, drawn in a process of their own."""
    remaining = range(first, options.steps)
    return iter(
        DataLoader(_Steps(options, grid), batch_size=None, sampler=remaining, num_workers=1)
    )


def _losses(
    model: MIP,
    teaching: Teaching,
    batch: PairBatch,
    options: PretrainOptions,
    step: int,
    device: torch.device,
) -> dict[str, Tensor]:
    images = np.concatenate([batch.visible, batch.infrared])
    people = len(batch.visible)
    modality = torch.cat([torch.ones(people), torch.zeros(people)]).long().to(device)
    inputs = normalize(torch.from_numpy(images).to(device))
    # On a CPU the fused attention's backward pass takes a third of a step; plain matmuls do not.
    kernels = [SDPBackend.MATH] if device.type == "cpu" else list(GPU_ATTENTION)
    with sdpa_kernel(kernels), torch.autocast(device.type, dtype=torch.bfloat16):
        tokens, _ = model.encode(model.embed_patches(inputs), modality)
        overall, *local = (feature.float() for feature in model.head(tokens))
    attributes = torch.from_numpy(np.tile(batch.attributes, (2, 1))).to(device)
    measures = torch.from_numpy(np.tile(batch.measures, (2, 1))).to(device)
    features = torch.cat([overall, *local], dim=1)
    losses = {
        "parts": teaching(tokens[:, 1:].float(), torch.from_numpy(batch.parts).to(device)),
        "attributes": teaching.attributes(features, attributes, measures),
    }
    if step >= options.contrast_start:
        embeddings = torch.cat([overall, *(one / LOCAL_GROUPS for one in local)], dim=1)
        losses["contrast"] = contrast(embeddings, options.temperature)
    return losses


def _keep(path: Path, step: int, model: MIP, teaching: nn.Module, optimizer: Optimizer) -> None:
    state = {"step": step, "model": model.state_dict(), "teaching": teaching.state_dict()}
    with write_beside(path) as stream:
        torch.save({**state, "optimizer": optimizer.state_dict()}, stream)


def _restore(path: Path, model: MIP, teaching: nn.Module, optimizer: Optimizer) -> int:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; start without --resume")
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    teaching.load_state_dict(state["teaching"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def build_model(options: PretrainOptions) -> MIP:
    """A MIP whose two heads are one, as the published training starts: copies of one block."""
    model = MIP(
        MIPOptions.preset(
            options.model,
            image_size=options.image_size,
            stride=options.stride,
            drop_path=0.0,
            prompt_dropout=0.0,
        )
    )
    model.head.local_block = model.head.global_block
    model.head.local_norm = model.head.global_norm
    return model


def measure(model: MIP, *, people: int = 100, difficulty: float = 0.8) -> dict[str, float]:
    """Rank-1 and mAP, infrared to visible, on people of the test world, four crops each."""
    size, views = model.options.image_size, (difficulty, difficulty)
    rounds = [draw_pairs(TEST_WORLD, 0, people, size, views, shot=shot) for shot in range(4)]
    ids = np.tile(np.arange(people), len(rounds))
    infrared, visible = (
        embed_crops(model, images, torch.full((len(images),), flag))
        for flag, images in (
            (0, np.concatenate([one.infrared for one in rounds])),
            (1, np.concatenate([one.visible for one in rounds])),
        )
    )
    model.train()
    ranking = evaluate_ranking(1 - infrared @ visible.T, ids, ids)
    return {"rank1": ranking.rank1, "mAP": ranking.mAP}
