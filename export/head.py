"""The head as it is exported: one global class row and four local ones, all from the same norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.attention import ExportedMeans, ExportedMlp, key_map, passed_on
from export.fold import Constants, LinearMap, UnitNorm, behind_norm, wide
from mip_edge.model.head import jigsaw_order
from mip_edge.model.mip import MIP
from mip_edge.model.options import LOCAL_GROUPS
from mip_edge.model.vit import Block

HIDDEN = -30000.0
"""Logit of a token outside a group: its exponential is zero in every type, and float16 holds it."""


class ExportedHead(nn.Module):
    """Tokens to the five features; what scales and shifts them (last norms, shares, necks) is one
    map."""

    def __init__(self, model: MIP, form: str, constants: Constants) -> None:
        super().__init__()
        head, width = model.head, model.options.width
        patches, count = model.options.patches, 1 + model.options.patches
        self.norm = UnitNorm(width, constants)
        rows = FoldedClassRows if form == "folded" else ProjectedClassRows
        everything = torch.arange(count)[None]
        self.add_module("global", rows(head.global_block, everything, count, constants))
        groups = local_groups(patches)
        self.add_module("local", rows(head.local_block, groups, count, constants))
        self.last_norm = UnitNorm(width, constants)
        scale, shift = features_map(model)
        self.scale, self.shift = constants(scale), constants(shift)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, 1 + P, D) to (N, 5 D), not of unit length."""
        seen, class_row = self.norm(tokens), tokens[:, :1]
        rows = [getattr(self, name)(class_row, seen) for name in ("global", "local")]
        features = self.last_norm(torch.cat(rows, dim=1)) * self.scale + self.shift
        joined: Tensor = features.reshape(-1, self.scale.numel())
        return joined


class FoldedClassRows(nn.Module):
    """The class row of a block for each group of tokens; its one query needs no keys."""

    def __init__(self, block: Block, groups: Tensor, count: int, constants: Constants) -> None:
        """`groups` (G, R): the tokens that each sees, the class row first, of `count` tokens."""
        super().__init__()
        weight, bias = behind_norm(block.attn.q, block.norm1)
        self.heads, self.width, self.count = block.attn.heads, block.attn.q.in_features, count
        self.groups = len(groups)
        self.q = LinearMap(weight * block.attn.scale, bias * block.attn.scale, constants)
        self.key_map = constants(key_map(block))
        self.mask = None
        if self.groups > 1:
            mask = torch.full((self.groups, count), HIDDEN).scatter(1, groups, 0.0)
            self.mask = constants(mask[:, None])
        self.means = ExportedMeans(block, self.groups, constants)
        self.mlp = ExportedMlp(block, constants)

    def forward(self, class_row: Tensor, seen: Tensor) -> Tensor:
        """Class row (N, 1, D) and normalised tokens (N, 1 + P, D) to (N, G, D)."""
        query = self.q(seen[:, :1]).reshape(-1, self.heads, self.width // self.heads)
        folded = (query.transpose(0, 1) @ self.key_map).transpose(0, 1)  # (N, heads, D)
        logits = (folded @ seen.transpose(1, 2)).reshape(-1, 1, self.heads, self.count)
        if self.mask is not None:
            logits = logits + self.mask
        weights = torch.softmax(logits, dim=-1).reshape(-1, self.groups * self.heads, self.count)
        means = (weights @ seen).reshape(-1, self.groups, self.heads, self.width)
        rows: Tensor = self.mlp(class_row + self.means(means))
        return rows


class ProjectedClassRows(nn.Module):
    """The same by keys and values of every token."""

    used: Tensor | None

    def __init__(self, block: Block, groups: Tensor, count: int, constants: Constants) -> None:
        super().__init__()
        attn, norm = block.attn, block.norm1
        weight, bias = behind_norm(attn.q, norm)
        value_weight, value_bias = behind_norm(attn.v, norm)
        self.heads, self.width = attn.heads, attn.q.in_features
        self.groups, self.rows = groups.shape
        # The class row, then each group's own tokens; one group has all of them in their order.
        used = torch.cat([groups[:1, 0], groups[:, 1:].flatten()]) if self.groups > 1 else None
        self.register_buffer("used", used)
        self.q = LinearMap(weight * attn.scale, bias * attn.scale, constants)
        self.k = LinearMap(behind_norm(attn.k, norm)[0], None, constants)
        self.v = LinearMap(value_weight, None, constants)
        self.proj = LinearMap(wide(attn.proj.weight), passed_on(attn, value_bias), constants)
        self.mlp = ExportedMlp(block, constants)

    def forward(self, class_row: Tensor, seen: Tensor) -> Tensor:
        """Class row (N, 1, D) and normalised tokens (N, 1 + P, D) to (N, G, D)."""
        used = seen if self.used is None else seen.index_select(1, self.used)
        keys, values = self._group(self.k(used)), self._group(self.v(used))
        query = self.q(seen[:, :1]).reshape(-1, 1, self.heads, 1, self.width // self.heads)
        weights = torch.softmax(query @ keys.transpose(3, 4), dim=-1)
        attended = (weights @ values).reshape(-1, self.groups, self.width)
        rows: Tensor = self.mlp(class_row + self.proj(attended))
        return rows

    def _group(self, rows: Tensor) -> Tensor:
        """(N, R, D) to (N, G, heads, rows of a group, d)."""
        size = self.width // self.heads
        if self.used is None:
            return rows.reshape(-1, 1, self.rows, self.heads, size).transpose(2, 3)
        own = rows[:, 1:].reshape(-1, self.groups, self.rows - 1, self.width)
        shared = torch.cat([rows[:, None, :1]] * self.groups, dim=1)
        grouped = torch.cat([shared, own], dim=2)
        return grouped.reshape(-1, self.groups, self.rows, self.heads, size).transpose(2, 3)


def local_groups(patches: int) -> Tensor:
    """Tokens of the four local groups, (4, 1 + P // 4), the class row first."""
    length = patches // LOCAL_GROUPS
    order = jigsaw_order(patches)[: LOCAL_GROUPS * length].view(LOCAL_GROUPS, length)
    return torch.cat([torch.zeros(LOCAL_GROUPS, 1, dtype=torch.int64), 1 + order], dim=1)


def features_map(model: MIP) -> tuple[Tensor, Tensor]:
    """What the five normalised features are multiplied by and what is added, (5, D) each: the
    gains of the last norms, the shares of the local features, and the necks if they are used."""
    norms = [model.head.global_norm] + [model.head.local_norm] * LOCAL_GROUPS
    scale = torch.stack([wide(norm.weight) for norm in norms])
    shift = torch.stack([wide(norm.bias) for norm in norms])
    if model.options.neck == "after":
        for row, neck in enumerate(model.necks):
            assert isinstance(neck, nn.BatchNorm1d)
            assert neck.running_mean is not None
            assert neck.running_var is not None
            gain = wide(neck.weight) / (wide(neck.running_var) + neck.eps).sqrt()
            scale[row] = scale[row] * gain
            shift[row] = (shift[row] - wide(neck.running_mean)) * gain + wide(neck.bias)
    scale[1:] /= LOCAL_GROUPS
    shift[1:] /= LOCAL_GROUPS
    return scale, shift
