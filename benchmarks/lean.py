"""The rewritten network for a GPU: few and large products, fused attention, no row copied twice."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.maps import Map, TanhMap
from export.attention import ExportedMeans, ExportedMlp
from export.fold import LinearMap, for_each, normalise
from export.form import Form
from export.head import ExportedHead
from export.instance import FoldedInstancePrompts
from export.wrapper import PIXEL_HALF, ExportedBlock, ExportedMIP, modality_prompts, unit
from mip_edge.model.mip import MIP
from mip_edge.model.vit import NORM_EPS
from mip_edge.spec import Modality

ALIGNED = 16
"""Columns of a product are filled up to a multiple of this, so that tensor cores take it."""


class LeanMIP(nn.Module):
    """What `ExportedMIP` computes for crops of one modality, in the order a GPU likes.

    Differences from the exported module: patches by one product, no convolution; q, k and v by
    one product over prompts and tokens together, so that no key or value is copied; attention by
    torch's fused kernel, which takes no mask where equal prompts are repeated; the unit norm of a
    block's output is made by the block itself, beside the sum that it follows.
    """

    def __init__(self, model: MIP, modality: Modality, *, tanh: bool = False) -> None:
        """`tanh` computes GELU by tanh within the first map of each MLP."""
        super().__init__()
        exported = ExportedMIP(model, modality, form=Form().for_gpu())
        prompts = modality_prompts(model, modality)
        first = cast(ExportedBlock, exported.blocks[0])
        generator = None
        if first.instance is not None:
            generator = LeanGenerator(cast(FoldedInstancePrompts, first.instance))
        self.patches = LeanPatches(exported, model.options.patch, modality)
        self.generator = generator
        self.blocks = nn.ModuleList(
            LeanBlock(
                cast(ExportedBlock, block),
                None if one is None else normalise(one),
                copies=model.options.prompt_length if generator is not None else 0,
                tanh=tanh,
            )
            for block, one in zip(exported.blocks, prompts, strict=True)
        )
        self.head = LeanHead(exported.head)

    def forward(self, images: Tensor) -> Tensor:
        """(N, H, W, C) uint8 to float32 (N, 5 D) with rows of unit length."""
        tokens = self.patches(images)
        seen = unit_norm(tokens)
        for block in self.blocks:
            tokens, seen = block(tokens, seen, self.generator)
        return unit(self.head(tokens, seen).float())


class LeanPatches(nn.Module):
    """Pixels to tokens by one product, for the class row too, which sees nothing."""

    def __init__(self, exported: ExportedMIP, patch: int, modality: Modality) -> None:
        super().__init__()
        source = exported.patches
        self.patch, self.stride, self.channels = patch, source.stride, modality.channels
        weight = source.weight.detach().double().permute(0, 2, 3, 1).flatten(1)
        # Pixels are centred here, which is exact in half too: folded into the map as in the
        # exported graph, the rounding of large weighted sums would stay behind.
        positions = source.positions.detach().double() + PIXEL_HALF * weight.sum(dim=1)
        self.map = Map(weight.float(), None)
        rows = torch.cat([source.cls_token.detach().double(), positions])
        self.positions = nn.Parameter(rows.float(), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, H, W, C) uint8 to (N, 1 + P, D)."""
        side = self.patch * self.channels
        windows = images.flatten(2).unfold(1, self.patch, self.stride)
        windows = windows.unfold(2, side, self.stride * self.channels)  # (N, rows, columns, 16, .)
        shape = (len(images), len(self.positions), self.patch * side)
        pixels = self.positions.new_empty(shape)
        pixels[:, 0].zero_()
        grid = torch.unflatten(pixels[:, 1:], 1, windows.shape[1:3])
        grid = torch.unflatten(grid, 3, windows.shape[3:])
        torch.sub(windows, PIXEL_HALF, out=grid)
        tokens: Tensor = self.map(pixels) + self.positions
        return tokens


class LeanGenerator(nn.Module):
    """Instance prompts by products whose sides are aligned: queries stand in columns."""

    def __init__(self, source: FoldedInstancePrompts) -> None:
        super().__init__()
        self.rows, self.heads, self.width = source.rows, source.heads, source.width
        self.asked = source.rows * source.heads
        fill = -self.asked % ALIGNED
        self.query_map = Map(F.pad(source.query_map.detach().T, (0, 0, 0, fill)), None)
        own_logits = F.pad(source.own_logits.detach().T, (0, fill))  # (R, heads R filled up)
        self.own_logits = nn.Parameter(own_logits.contiguous(), requires_grad=False)
        self.queries, self.own = source.queries, source.own
        self.means = LeanMeans(source.means)
        self.mlp = LeanMlp(source.mlp)

    def forward(self, seen: Tensor) -> Tensor:
        """Normalised tokens (N, 1 + P, D), the class row unread, to (N, R, D)."""
        crops, rows = len(seen), self.rows
        logits = torch.cat([for_each(self.own_logits, crops), self.query_map(seen)[:, 1:]], dim=1)
        weights = torch.softmax(logits, dim=1).transpose(1, 2)  # (N, heads R filled up, R + P)
        means = weights[:, :, rows:] @ seen[:, 1:]
        if self.own is not None:
            means = means + weights[:, :, :rows] @ self.own
        means = torch.unflatten(means[:, : self.asked], 1, (self.heads, rows)).transpose(1, 2)
        made: Tensor = self.mlp(self.queries + self.means(means))
        return made


class LeanMeans(nn.Module):
    """As `ExportedMeans`, its last map with the bias inside."""

    def __init__(self, source: ExportedMeans) -> None:
        super().__init__()
        self.heads, self.width = source.heads, source.width
        self.value_map, self.proj = source.value_map, as_map(source.proj)

    def forward(self, means: Tensor) -> Tensor:
        """(N, R, heads, D) to (N, R, D)."""
        crops, rows = means.shape[:2]
        by_head = means.permute(2, 0, 1, 3).reshape(self.heads, crops * rows, self.width)
        values = (by_head @ self.value_map).transpose(0, 1).reshape(crops, rows, self.width)
        projected: Tensor = self.proj(values)
        return projected


class LeanMlp(nn.Module):
    """As `ExportedMlp`, its maps with the bias inside."""

    def __init__(self, source: ExportedMlp, *, tanh: bool = False) -> None:
        super().__init__()
        self.fc1 = as_map(source.fc1, TanhMap if tanh else Map)
        self.fc2 = as_map(source.fc2)
        self.tanh = tanh

    def forward(self, rows: Tensor) -> Tensor:
        """(N, R, D) to (N, R, D)."""
        hidden = self.fc1(unit_norm(rows))
        if not self.tanh:
            # In place: what was just written is still in the cache.
            hidden = torch.ops.aten.gelu_(hidden)
        changed: Tensor = rows + self.fc2(hidden)
        return changed


class LeanBlock(nn.Module):
    """One prompted block; all blocks run the same code, so that one compilation serves them all."""

    def __init__(
        self, source: ExportedBlock, prompts: Tensor | None, *, copies: int, tanh: bool
    ) -> None:
        """`prompts` (1, T, D): this layer's modality prompts, normalised; `copies`: how many rows
        the instance prompts fill, however few of them are computed."""
        super().__init__()
        attention = source.attention
        self.heads, self.copies = attention.heads, copies
        maps = (attention.q, attention.k, attention.v)
        weight = torch.cat([one.weight.detach().T for one in maps])
        assert maps[0].bias is not None
        bias = F.pad(maps[0].bias.detach(), (0, 2 * attention.width))
        self.qkv, self.proj = Map(weight, bias), as_map(attention.proj)
        self.mlp = LeanMlp(cast(ExportedMlp, source.mlp), tanh=tanh)
        self.prompts = None
        if prompts is not None:
            self.prompts = nn.Parameter(prompts[0].float(), requires_grad=False)

    def forward(
        self, tokens: Tensor, seen: Tensor, generator: LeanGenerator | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens (N, 1 + P, D) and the same normalised, to both after this block."""
        crops, count = tokens.shape[:2]
        ahead = [] if self.prompts is None else [for_each(self.prompts, crops)]
        if generator is not None:
            ahead.append(unit_norm(generator(seen)).expand(-1, self.copies, -1))
        rows = torch.cat([torch.cat(ahead, dim=1), seen], dim=1) if ahead else seen
        split = torch.unflatten(self.qkv(rows), -1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = split.unbind(0)
        attended = F.scaled_dot_product_attention(queries[:, :, -count:], keys, values, scale=1.0)
        changed: Tensor = self.mlp(tokens + self.proj(attended.transpose(1, 2).flatten(2)))
        return changed, unit_norm(changed)


class LeanHead(nn.Module):
    """The exported head on tokens that are normalised already."""

    def __init__(self, source: ExportedHead) -> None:
        super().__init__()
        self.source = source

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """Tokens (N, 1 + P, D) and the same normalised to (N, 5 D)."""
        source, class_row = self.source, tokens[:, :1]
        rows = [getattr(source, name)(class_row, seen) for name in ("global", "local")]
        features = unit_norm(torch.cat(rows, dim=1)) * source.scale + source.shift
        return features.flatten(1)


def unit_norm(rows: Tensor) -> Tensor:
    """As `UnitNorm`, (..., D) to (..., D)."""
    return F.layer_norm(rows, rows.shape[-1:], eps=NORM_EPS)


def as_map(source: nn.Module, kind: type[Map] = Map) -> Map:
    """A `LinearMap` of the exported module, stored the other way round."""
    linear = cast(LinearMap, source)
    return kind(linear.weight.detach().T, linear.bias)
