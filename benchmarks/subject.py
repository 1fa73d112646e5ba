"""What is measured: one network in several forms, the crops it sees, its operations counted."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.lean import LeanMIP
from benchmarks.maps import Map, watch_tops
from benchmarks.precision import Precision
from export.form import Form
from export.straight import StraightBlock, StraightExport
from export.wrapper import ExportedMIP, unit
from mip_edge.model.mip import MIP
from mip_edge.spec import Modality

VARIANTS: Mapping[str, str] = {
    "straight": "the published forward, every row computed",
    "plain": "the rewritten network as it is exported (plain products and softmax)",
    "lean": "the same as a GPU likes it: joined q, k and v, fused attention, few launches",
    "tanh": "lean, with GELU by tanh inside the products (not the exact function)",
}
"""What `--variant` takes."""
_CALIBRATION_CROPS = 64
_SEED = 7


class DeviceStraight(StraightExport):
    """The straight network with its flags made where the crops are, and float32 at the end."""

    def forward(self, images: Tensor) -> Tensor:
        """As `StraightExport.forward`, always float32."""
        crops = images.shape[0]
        modality = torch.full((crops,), self.row, dtype=torch.int64, device=images.device)
        tokens = self.patches(images, crops)
        for block in self.blocks:
            tokens = block(tokens, modality)
        return unit(self.head(tokens).float())


class DevicePlain(ExportedMIP):
    """The exported network with float32 at the end, as its float16 graphs have it."""

    def forward(self, images: Tensor, modality: Tensor | None = None) -> Tensor:
        """As `ExportedMIP.forward`, always float32."""
        crops = images.shape[0]
        tokens = self.patches(images, modality, crops)
        for block in self.blocks:
            tokens = block(tokens, modality, crops)
        return unit(self.head(tokens).float())


def draft(variant: str, model: MIP, modality: Modality) -> nn.Module:
    """One variant in float32, where the model is."""
    if variant == "straight":
        return DeviceStraight(copy.deepcopy(model), modality).eval()
    if variant == "plain":
        return DevicePlain(model, modality, form=Form().for_gpu()).eval()
    return LeanMIP(model, modality, tanh=variant == "tanh").eval()


def build(source: nn.Module, precision: Precision, calibration: Tensor) -> nn.Module:
    """A copy of a draft in the precision, on the device of `calibration` (N, H, W, C), with which
    INT8 and FP8 find the largest absolute input of each map (per tensor, no smoothing)."""
    network = copy.deepcopy(source).to(calibration.device)
    if isinstance(network, DevicePlain):
        network.patches.dtype = precision.dtype
    if precision.quantized is None or not isinstance(network, LeanMIP):
        return network.to(precision.dtype)
    with watch_tops(network.blocks) as tops, torch.inference_mode():
        network(calibration[:_CALIBRATION_CROPS])
    # Made of the float32 weights, before all else is rounded.
    made = {
        path: precision.quantized(module, tops[path], precision.dtype)
        for path, module in network.blocks.named_modules()
        if isinstance(module, Map) and path in tops
    }
    network = network.to(precision.dtype)
    for path, module in made.items():
        parent, _, name = path.rpartition(".")
        setattr(network.blocks.get_submodule(parent), name, module)
    return network


def compile_blocks(
    network: nn.Module, *, mode: str = "default", backend: str = "inductor"
) -> nn.Module:
    """A copy whose blocks are compiled for the shapes they meet: the code of one block, once."""
    copied = copy.deepcopy(network)
    for block in cast(nn.ModuleList, copied.blocks):
        parts: list[nn.Module | None] = [block]
        if isinstance(block, StraightBlock):
            # What is the same in every layer; the block itself holds its layer's number.
            parts = [block.block, block.instance]
        for part in parts:
            if part is not None:
                chosen = None if mode == "default" else mode
                # Whole graphs only: what falls back to plain calls is an error, not a slow row.
                part.compile(fullgraph=True, dynamic=False, backend=backend, mode=chosen)
    return copied


def draw_network(model: MIP) -> MIP:
    """Every parameter a little off where training starts, so that no bias or gain is left out."""
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def draw_crops(model: MIP, modality: Modality, count: int) -> Tensor:
    """(N, H, W, C) uint8: soft coloured patches under a little noise."""
    generator = torch.Generator().manual_seed(_SEED)
    height, width = model.options.image_size
    coarse = torch.rand(count, modality.channels, 8, 4, generator=generator)
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
    noise = 0.05 * torch.randn(smooth.shape, generator=generator)
    pixels = ((smooth + noise).clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous()


def count_macs(network: nn.Module, crop: Tensor) -> int:
    """Multiply-accumulates of one crop (1, H, W, C), as torch counts its products."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(crop)
    return int(counter.get_total_flops()) // 2


def smallest_cosine(reference: Tensor, found: Tensor) -> float:
    """Smallest cosine of rows with the same rows of the reference; NaN if one is not finite."""
    first, second = reference.double(), found.double()
    return float(F.cosine_similarity(first, second, dim=1, eps=1e-30).min().clamp(max=1.0))
