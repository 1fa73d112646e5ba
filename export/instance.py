"""The instance prompt generator as it is exported; its queries are constants of the network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from export.attention import ExportedMeans, ExportedMlp, ask, key_map, passed_on
from export.fold import Constants, LinearMap, behind_norm, for_each, normalise, wide
from mip_edge.model.prompts import InstancePrompts


class FoldedInstancePrompts(nn.Module):
    """Logits by one product with folded queries, values of means: no key or value of a patch.

    Normalised zero queries are zero: they look at themselves with a constant logit, and add
    nothing to a mean.
    """

    def __init__(self, prompts: InstancePrompts, constants: Constants) -> None:
        super().__init__()
        block = prompts.block
        queries = queries_of(prompts)
        own = normalise(queries)
        folded = ask(block, own) @ key_map(block)  # (heads, R, D)
        self.rows, self.width, self.heads = len(queries), prompts.width, block.attn.heads
        self.queries = constants(queries)
        self.query_map = constants(folded.flatten(0, 1).T)
        own_logits = (folded @ own.T).flatten(0, 1) + math.log(prompts.length / self.rows)
        self.own_logits = constants(own_logits)  # (heads R, R)
        self.own = constants(own) if prompts.queries is not None else None
        self.means = ExportedMeans(block, self.rows, constants)
        self.mlp = ExportedMlp(block, constants)

    def forward(self, patches: Tensor, crops: int) -> Tensor:
        """Normalised patches (N, P, D) to (N, R, D); R is 1 for zero queries."""
        logits = (patches @ self.query_map).transpose(1, 2)
        logits = torch.cat([for_each(self.own_logits, crops), logits], dim=2)
        weights = torch.softmax(logits, dim=-1)
        means = weights[:, :, self.rows :] @ patches
        if self.own is not None:
            means = means + weights[:, :, : self.rows] @ self.own
        means = means.reshape(-1, self.heads, self.rows, self.width).transpose(1, 2)
        rows: Tensor = self.mlp(self.queries + self.means(means))
        return rows


class ProjectedInstancePrompts(nn.Module):
    """Keys and values of every patch; of the generator's rows only the prompts are computed."""

    def __init__(self, prompts: InstancePrompts, constants: Constants) -> None:
        super().__init__()
        block = prompts.block
        queries = queries_of(prompts).expand(prompts.length, -1)
        own = normalise(queries)
        key_weight, _ = behind_norm(block.attn.k, block.norm1)
        value_weight, value_bias = behind_norm(block.attn.v, block.norm1)
        self.rows, self.width, self.heads = prompts.length, prompts.width, block.attn.heads
        self.queries = constants(queries)
        self.asking = constants(ask(block, own))
        self.k = LinearMap(key_weight, None, constants)
        self.v = LinearMap(value_weight, None, constants)
        self.own_keys, self.own_values = (
            constants(own @ key_weight.T),
            constants(own @ value_weight.T),
        )
        self.proj = LinearMap(
            wide(block.attn.proj.weight), passed_on(block.attn, value_bias), constants
        )
        self.mlp = ExportedMlp(block, constants)

    def forward(self, patches: Tensor, crops: int) -> Tensor:
        """Normalised patches (N, P, D) to (N, T, D)."""
        keys = torch.cat([for_each(self.own_keys, crops), self.k(patches)], dim=1)
        values = torch.cat([for_each(self.own_values, crops), self.v(patches)], dim=1)
        weights = torch.softmax(
            self.asking @ self._split(keys, patches).permute(0, 2, 3, 1), dim=-1
        )
        attended = weights @ self._split(values, patches).permute(0, 2, 1, 3)
        joined = attended.permute(0, 2, 1, 3).reshape(-1, self.rows, self.width)
        rows: Tensor = self.mlp(self.queries + self.proj(joined))
        return rows

    def _split(self, rows: Tensor, patches: Tensor) -> Tensor:
        count = self.rows + patches.shape[1]
        return rows.reshape(-1, count, self.heads, self.width // self.heads)


def queries_of(prompts: InstancePrompts) -> Tensor:
    """Learned queries (T, D), or the one zero row that stands for T, in float64."""
    if prompts.queries is None:
        return torch.zeros(1, prompts.width, dtype=torch.float64)
    return wide(prompts.queries[0])
