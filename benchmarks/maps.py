"""Linear maps of the blocks in floating point, INT8 and FP8, and what flows into them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INT8_TOP = 127.0
FP8 = torch.float8_e4m3fn
FP8_TOP = float(torch.finfo(FP8).max)


class Map(nn.Module):
    """A linear map stored (out, in), as the matrix libraries like it best."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().contiguous().clone(), requires_grad=False)
        self.bias = None
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return F.linear(rows, self.weight, self.bias)


class TanhMap(Map):
    """A map with GELU in its epilogue, which cuBLASLt computes by tanh: no pass of its own."""

    def forward(self, rows: Tensor) -> Tensor:
        assert self.bias is not None
        flat = rows.flatten(0, -2)
        made: Tensor = torch._addmm_activation(self.bias, flat, self.weight.t(), use_gelu=True)
        return torch.unflatten(made, 0, rows.shape[:-1])


class Int8Map(nn.Module):
    """W8A8: weights symmetric by output channel, activations symmetric by one static scale."""

    weight: Tensor
    scale: Tensor
    to_steps: Tensor
    bias: Tensor | None

    def __init__(self, source: Map, top: float, dtype: torch.dtype) -> None:
        """`top` is the largest absolute activation; `dtype` that of what comes and goes."""
        super().__init__()
        weight = source.weight.detach().float()
        channel = weight.abs().amax(dim=1).clamp_min(1e-12) / INT8_TOP
        step = max(top, 1e-12) / INT8_TOP
        self.dtype = dtype
        rounded = (weight / channel[:, None]).round().to(torch.int8)
        self.register_buffer("weight", rounded)
        self.register_buffer("scale", channel * step)
        # A tensor, not a number: a compiler would make a kernel of its own for each number.
        self.register_buffer("to_steps", torch.tensor(1 / step, device=weight.device))
        self.register_buffer("bias", None if source.bias is None else source.bias.detach().float())

    def forward(self, rows: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        flat = rows.flatten(0, -2)
        steps = (flat.float() * self.to_steps).round().clamp(-INT8_TOP, INT8_TOP).to(torch.int8)
        made = torch._int_mm(steps, self.weight.t()) * self.scale
        if self.bias is not None:
            made = made + self.bias
        return torch.unflatten(made.to(self.dtype), 0, rows.shape[:-1])


class Float8Map(nn.Module):
    """FP8 (e4m3): one static scale for the weights, one for the activations; bias inside."""

    weight: Tensor
    weight_scale: Tensor
    scale: Tensor
    to_steps: Tensor
    bias: Tensor | None

    def __init__(self, source: Map, top: float, dtype: torch.dtype) -> None:
        """As `Int8Map`."""
        super().__init__()
        weight = source.weight.detach().float()
        weight_step = float(weight.abs().amax().clamp_min(1e-12)) / FP8_TOP
        step = max(top, 1e-12) / FP8_TOP
        self.dtype = dtype
        self.register_buffer("weight", (weight / weight_step).clamp(-FP8_TOP, FP8_TOP).to(FP8))
        self.register_buffer("weight_scale", torch.tensor(weight_step, device=weight.device))
        self.register_buffer("scale", torch.tensor(step, device=weight.device))
        self.register_buffer("to_steps", torch.tensor(1 / step, device=weight.device))
        self.register_buffer(
            "bias", None if source.bias is None else source.bias.detach().to(dtype)
        )

    def forward(self, rows: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        flat = rows.flatten(0, -2)
        # Out of range would become NaN.
        steps = (flat.float() * self.to_steps).clamp(-FP8_TOP, FP8_TOP).to(FP8)
        made: Tensor = cast(Any, torch)._scaled_mm(
            steps,
            self.weight.t(),
            scale_a=self.scale,
            scale_b=self.weight_scale,
            bias=self.bias,
            out_dtype=self.dtype,
            use_fast_accum=True,
        )
        return torch.unflatten(made, 0, rows.shape[:-1])


@contextmanager
def watch_tops(network: nn.Module) -> Iterator[dict[str, float]]:
    """While it lasts, the largest absolute input of every `Map` within, by the map's path."""
    tops: dict[str, float] = {}

    def watch(path: str) -> Any:
        def take(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            tops[path] = max(tops.get(path, 0.0), float(inputs[0].detach().abs().amax()))

        return take

    with ExitStack() as stack:
        for path, module in network.named_modules():
            if isinstance(module, Map):
                stack.callback(module.register_forward_pre_hook(watch(path)).remove)
        yield tops
