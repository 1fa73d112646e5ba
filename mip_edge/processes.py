"""Several processes that train one network: who they are, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from mip_edge.errors import OptionError

Value = TypeVar("Value")
_PATIENCE = timedelta(hours=2)
"""How long the others wait while the first process validates."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that torchrun has started; alone without torchrun."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes files and tells of progress."""
        return self.rank == 0

    def own_rows(self, identities: int, images: int) -> list[NDArray[np.int64]]:
        """For each process the rows of a batch that are its share, whole identities.

        A batch holds `images` infrared rows of each identity, then the visible ones in the same
        order; a process has both of its people.
        Raises: OptionError if the identities cannot be divided.
        """
        if identities % self.size:
            raise OptionError(
                f"a batch of {identities} identities cannot be divided among {self.size} "
                "processes; choose --batch so that each has as many"
            )
        rows = np.arange(2 * identities * images).reshape(2, self.size, -1)
        return [rows[:, rank].ravel() for rank in range(self.size)]

    def share(self, value: Value) -> Value:
        """What the first process has of this, for all."""
        if self.size == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def collect(self, value: Value) -> list[Value]:
        """Every process's own, in the order of ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def open_processes(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun has started (NCCL on CUDA, gloo on CPU), leave at the end.

    Raises: OptionError if they cannot be joined.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Processes()
        return
    rank = int(os.environ["RANK"])
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"process {rank} of {size} cannot join the others ({reason})") from error
    try:
        yield Processes(rank, size)
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that prints, before and after the processes are open."""
    return int(os.environ.get("RANK", "0")) == 0


class _Gather(torch.autograd.Function):
    """Rows of all processes; backwards each gets the sum of what all ask of its own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.rows = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (B, D) of every process as (size * B, D), through which gradients flow back.

    Every process then computes the same loss of all rows; DistributedDataParallel averages
    gradients, and the sum taken here makes up for it: the result is the gradient of one process.
    """
    return _Gather.apply(rows)  # type: ignore[no-any-return,no-untyped-call]
