"""Trained weights as a graph's constants: folded in float64, stored in the graph's own type."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mip_edge.model.vit import NORM_EPS


class Constants:
    """Turns tensors into constants of one floating-point type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, values: Tensor) -> nn.Parameter:
        """A copy that no gradient reaches."""
        stored = values.detach().to(self.dtype).contiguous().clone()
        return nn.Parameter(stored, requires_grad=False)


class UnitNorm(nn.Module):
    """Layer normalisation whose gain and shift went into the maps behind it.

    Its gain stays a constant of the graph (ones), so that the operator stays whole.
    """

    def __init__(self, width: int, constants: Constants) -> None:
        super().__init__()
        self.width = width
        self.weight = constants(torch.ones(width))
        self.bias = constants(torch.zeros(width))

    def forward(self, rows: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return F.layer_norm(rows, (self.width,), self.weight, self.bias, NORM_EPS)


class LinearMap(nn.Module):
    """A linear map stored (in, out), so that the graph holds one plain product and one sum."""

    def __init__(self, weight: Tensor, bias: Tensor | None, constants: Constants) -> None:
        """`weight` (out, in) as torch keeps it."""
        super().__init__()
        self.weight = constants(weight.T)
        self.bias = None if bias is None else constants(bias)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        mapped = rows @ self.weight
        return mapped if self.bias is None else mapped + self.bias


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float64, in which everything is folded."""
    return tensor.detach().double()


def behind_norm(linear: nn.Linear, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Weight (out, in) and bias of a map that takes what `UnitNorm` gives instead of `norm`."""
    weight = wide(linear.weight)
    bias = weight @ wide(norm.bias) + wide(linear.bias)
    return weight * wide(norm.weight), bias


def normalise(rows: Tensor) -> Tensor:
    """What `UnitNorm` gives, in float64."""
    return F.layer_norm(wide(rows), rows.shape[-1:], eps=NORM_EPS)


def for_each(constant: Tensor, crops: int) -> Tensor:
    """A constant (R, D) once for each crop, (N, R, D)."""
    return constant.expand(crops, constant.shape[0], constant.shape[1])
