"""The state of a training that a killed run goes on from, bit for bit."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.optim.swa_utils import AveragedModel

from mip_edge.errors import CheckpointError
from mip_edge.model.mip import MIP
from mip_edge.output import write_beside

VERSION = 1
FILE = "state.pt"


@dataclass(frozen=True, slots=True)
class Learner:
    """All that changes while a network learns."""

    model: MIP
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    """Of the weights, if one is kept."""
    generator: torch.Generator
    """Of the augmentation."""

    @property
    def kept(self) -> MIP:
        """The network that is validated and saved."""
        return self.model if self.average is None else cast(MIP, self.average.module)

    def state(self) -> dict[str, Any]:
        """What all processes have alike."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def random(self) -> dict[str, Any]:
        """All that this process draws random numbers from, but the sampler."""
        states = {"torch": torch.get_rng_state(), "augmentation": self.generator.get_state()}
        if self.generator.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.generator.device)
        return states

    def restore(self, state: dict[str, Any], random: dict[str, Any]) -> None:
        """The inverse of `state` and `random`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        torch.set_rng_state(random["torch"])
        self.generator.set_state(random["augmentation"])
        if self.generator.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.generator.device)


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state whole or not at all; the one before stays until then.

    `state` holds tensors, numbers, texts, lists and dicts. Raises: OutputError.
    """
    with write_beside(folder / FILE) as stream:
        torch.save({"version": VERSION, **state}, stream)


def load_state(folder: Path) -> dict[str, Any] | None:
    """The state of the run in `folder`; None if it was killed before it had one.

    No code of the file is run. Raises: CheckpointError if it cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read ({reason}); start without --resume"
        ) from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise CheckpointError(f"{path} is of another mip-edge; start without --resume")
    return state
