"""Who learns how fast: parameter groups and the schedule of the published training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from mip_edge.errors import OptionError
from mip_edge.model.mip import MIP

KINDS = ("sgd", "adamw")
PUBLISHED_EPOCHS = 80
_WARM_UP = 5
_CYCLE = 30
FIRST_CYCLE = (_CYCLE - 1e-6) / PUBLISHED_EPOCHS
"""Share of the schedule that its warm-up and first cycle take."""
_WARM_UP_START = 0.01
_FLOOR = 1e-5
_DECAY = 0.1


@dataclass(frozen=True, slots=True)
class OptimizerOptions:
    """The published recipe by default."""

    kind: str = "sgd"
    """"sgd" as published, or "adamw"."""
    lr: float = 0.01
    """Learning rate of a weight; the groups have multiples of it."""
    weight_decay: float = 1e-4
    """Of weights and biases."""
    momentum: float = 0.9
    """Of SGD; AdamW has its own."""
    bias_multiplier: float = 2.0
    """Learning rate of biases, in units of `lr`."""
    modality_multiplier: float = 5.0
    """Learning rate of the modality prompts, in units of `lr`."""
    instance_multiplier: float = 15.0
    """Learning rate of the instance prompt generator with its biases, in units of `lr`."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise OptionError(f"--optimizer must be {' or '.join(KINDS)}, got {self.kind!r}")
        if not 0 < self.lr < math.inf:
            raise OptionError(f"--lr must be above 0, got {self.lr}")
        if not 0 <= self.weight_decay < math.inf:
            raise OptionError(f"--weight-decay must be at least 0, got {self.weight_decay}")
        if not 0 <= self.momentum < 1:
            raise OptionError(f"--momentum must be in [0, 1), got {self.momentum}")
        for name in ("bias_multiplier", "modality_multiplier", "instance_multiplier"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"{name} must be at least 0, got {getattr(self, name)}")

    def multiplier(self, name: str) -> float:
        """Learning rate of the parameter `name`, in units of `lr`."""
        if name.startswith("instance_prompts.block."):
            return self.instance_multiplier
        if name == "modality_prompts.library":
            return self.modality_multiplier
        return self.bias_multiplier if "bias" in name else 1.0


def parameter_groups(model: MIP, options: OptimizerOptions) -> list[dict[str, Any]]:
    """Groups of equal learning rate, each with its `peak` and the `base` rate; frozen
    parameters are in none."""
    members: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault(options.multiplier(name), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": options.lr * multiplier,
            "peak": options.lr * multiplier,
            "base": options.lr,
        }
        for multiplier, parameters in sorted(members.items())
    ]


def build_optimizer(model: MIP, options: OptimizerOptions) -> torch.optim.Optimizer:
    """The optimizer of all that learns in `model`."""
    groups = parameter_groups(model, options)
    if options.kind == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr, weight_decay=options.weight_decay)
    return torch.optim.SGD(
        groups, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay
    )


def cosine_refine(epoch: float, *, peak: float, base: float, epochs: int) -> float:
    """Learning rate at `epoch`, counted from 1 to `epochs`; fractions serve steps in between.

    A linear warm-up, then cosine cycles of which each starts at a tenth of the one before. The
    published run has 80 epochs, 5 of warm-up and cycles of 30; another length is stretched.
    """
    now = epoch * PUBLISHED_EPOCHS / epochs
    if now < _WARM_UP:
        start = _WARM_UP_START * base
        return start + now * (peak - start) / _WARM_UP
    cycle, position = divmod(now, _CYCLE)
    decay: float = _DECAY**cycle
    floor = _FLOOR * base * decay
    return floor + 0.5 * (peak * decay - floor) * (1 + math.cos(math.pi * position / _CYCLE))


def set_learning_rates(optimizer: torch.optim.Optimizer, epoch: float, *, epochs: int) -> None:
    """Give every group its learning rate of `epoch`."""
    for group in optimizer.param_groups:
        group["lr"] = cosine_refine(epoch, peak=group["peak"], base=group["base"], epochs=epochs)
