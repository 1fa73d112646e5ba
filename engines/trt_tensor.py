"""Inputs and outputs of a plan: what its bundle promises of them, and their memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engines.cuda import Device
from mip_edge.spec import EmbedderSpec, Modality


class Signature(NamedTuple):
    """What a plan says of one input or output."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """-1 is the number of crops."""
    is_input: bool


def promised(specs: Mapping[Modality, EmbedderSpec]) -> dict[str, Signature]:
    """By name what the plan of a graph of these modalities has, and nothing else."""
    spec = specs.get(Modality.VISIBLE) or next(iter(specs.values()))
    expected = {
        "images": Signature(np.dtype(np.uint8), (-1, *spec.batch_shape), True),
        "embeddings": Signature(np.dtype(np.float32), (-1, spec.dimension), False),
    }
    if len(specs) > 1:
        expected["modality"] = Signature(np.dtype(np.int64), (-1,), True)
    return expected


def in_words(signatures: Mapping[str, Signature]) -> str:
    """For a message, by name."""
    return ", ".join(
        f"{'input' if is_input else 'output'} {name} {dtype} {shape}"
        for name, (dtype, shape, is_input) in sorted(signatures.items())
    )


@dataclass(frozen=True, slots=True)
class Tensor:
    """Memory of one input or output, on both sides: a row is what belongs to one crop."""

    row: tuple[int, ...]
    dtype: np.dtype[Any]
    address: int
    host: NDArray[Any]
    """Pinned, (rows, *row)."""

    @classmethod
    def make(
        cls,
        device: Device,
        row: tuple[int, ...],
        dtype: np.dtype[Any],
        rows: int,
        *,
        stack: ExitStack,
    ) -> Tensor:
        """Room for so many rows, which `stack` gives back. Raises: CudaError."""
        size = rows * int(np.prod(row, dtype=np.int64)) * dtype.itemsize
        address = device.allocate(size)
        stack.callback(device.free, address)
        pinned = device.pin(size)
        stack.callback(device.unpin, pinned)
        return cls(row, dtype, address, pinned.view(dtype).reshape(rows, *row))

    def upload(self, device: Device, count: int, stream: int) -> None:
        """The first `count` rows to the device."""
        device.upload(self.address, self.host[:count].reshape(-1).view(np.uint8), stream)

    def download(self, device: Device, count: int, stream: int) -> None:
        """The first `count` rows from the device."""
        device.download(self.host[:count].reshape(-1).view(np.uint8), self.address, stream)
