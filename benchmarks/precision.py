"""The precisions that are measured, where they run, and the matmul ceiling of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from benchmarks.maps import FP8, Float8Map, Int8Map
from benchmarks.timing import median_ms

_SIDES: Mapping[str, tuple[int, ...]] = {"cuda": (4096, 8192), "cpu": (256,)}
"""Sides of the square products whose best rate is the ceiling."""


@dataclass(frozen=True, slots=True)
class Precision:
    """In what the network computes."""

    name: str
    dtype: torch.dtype
    """Of constants and of all that flows; under INT8 and FP8, of all but the maps of the blocks."""
    maps: Literal["float", "int8", "fp8"] = "float"
    tf32: bool = False
    """Whether float32 products may be rounded to TF32 (tensor cores)."""

    @property
    def quantized(self) -> type[Int8Map | Float8Map] | None:
        """The kind of the blocks' maps, None where they are as all else."""
        return {"float": None, "int8": Int8Map, "fp8": Float8Map}[self.maps]

    def find_missing(self, device: torch.device) -> str | None:
        """Why the device cannot, or None."""
        if device.type != "cuda":
            return f"{self.name} is of CUDA devices" if self.tf32 else None
        capability = torch.cuda.get_device_capability(device)
        needed = (8, 9) if self.maps == "fp8" else (7, 5) if self.maps == "int8" else (7, 0)
        if self.tf32 or self.dtype is torch.bfloat16:
            needed = max(needed, (8, 0))
        if capability >= needed:
            return None
        have, want = (".".join(map(str, one)) for one in (capability, needed))
        return f"{self.name} needs compute capability {want}, this GPU has {have}"


PRECISIONS: Mapping[str, Precision] = {
    one.name: one
    for one in (
        Precision("fp16", torch.float16),
        Precision("bf16", torch.bfloat16),
        Precision("int8", torch.float16, maps="int8"),
        Precision("fp8", torch.bfloat16, maps="fp8"),
        Precision("tf32", torch.float32, tf32=True),
        Precision("fp32", torch.float32),
    )
}
"""In the order they are measured: what matters most first, in case time runs out."""


@contextmanager
def rounding(tf32: bool) -> Iterator[None]:
    """While it lasts, whether float32 products and convolutions on CUDA are rounded to TF32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def measure_ceiling(precision: Precision, device: torch.device, *, repeats: int = 10) -> float:
    """TFLOP/s of a large square product in this precision, the best of the sides tried.

    Random operands: zeros would draw less power and let the clock run higher.
    """
    best = 0.0
    with rounding(precision.tf32):
        for side in _SIDES[device.type]:
            took = median_ms(_product(precision, side, device), device, repeats=repeats)
            best = max(best, 2 * side**3 / took / 1e9)
    return best


def _product(precision: Precision, side: int, device: torch.device) -> Callable[[], Tensor]:
    generator = torch.Generator(device=device).manual_seed(5)
    first, second = (torch.randn(side, side, generator=generator, device=device) for _ in range(2))
    if precision.maps == "int8":
        one, other = ((matrix * 40).clamp(-127, 127).to(torch.int8) for matrix in (first, second))
        return lambda: torch._int_mm(one, other.t())
    if precision.maps == "fp8":
        low, high = first.to(FP8), second.to(FP8)
        unit = torch.ones((), device=device)
        return lambda: cast(Any, torch)._scaled_mm(
            low,
            high.t(),
            scale_a=unit,
            scale_b=unit,
            out_dtype=precision.dtype,
            use_fast_accum=True,
        )
    left, right = first.to(precision.dtype), second.to(precision.dtype)
    return lambda: left @ right.t()
