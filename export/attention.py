"""Attention as it is exported: biases that change nothing are gone, few queries need no keys."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.fold import Constants, LinearMap, UnitNorm, behind_norm, for_each, wide
from export.form import Form
from mip_edge.model.vit import Attention, Block


class ExportedAttention(nn.Module):
    """All tokens look at themselves, at constant prompts and at generated ones.

    The key bias adds the same to all logits of a query, and the softmax takes it out; weights sum
    to one, so the value bias is added to every row, and goes into the bias of the last map.
    """

    def __init__(
        self,
        block: Block,
        prompts: Tensor | None,
        *,
        tokens: int,
        generated: tuple[int, int],
        form: Form,
        constants: Constants,
    ) -> None:
        """`prompts` (M, T, D): this layer's modality prompts, normalised, of one modality or both;
        `generated` (R, T): R instance prompts that stand for T."""
        super().__init__()
        attn, norm = block.attn, block.norm1
        query_weight, query_bias = behind_norm(attn.q, norm)
        key_weight, _ = behind_norm(attn.k, norm)
        value_weight, value_bias = behind_norm(attn.v, norm)
        self.heads, self.width = attn.heads, attn.q.in_features
        self.tokens = tokens
        self.generated, length = generated
        self.apart = form.seen == "apart" and self.generated > 0
        self.q = LinearMap(query_weight * attn.scale, query_bias * attn.scale, constants)
        self.k = LinearMap(key_weight, None, constants)
        self.v = LinearMap(value_weight, None, constants)
        self.proj = LinearMap(wide(attn.proj.weight), passed_on(attn, value_bias), constants)
        self.keys = self.values = self.weight = None
        self.copies, self.rows = self.generated, tokens + self.generated
        if prompts is not None:
            self.keys = constants(prompts @ key_weight.T)
            self.values = constants(prompts @ value_weight.T)
            self.rows += prompts.shape[1]
        if self.generated < length and form.equal == "repeated":
            self.rows += length - self.generated
            self.copies = length
        elif self.generated < length:
            weight = torch.zeros(self.rows, dtype=torch.float64)
            weight[self.rows - tokens - self.generated : self.rows - tokens] = math.log(
                length / self.generated
            )
            self.weight = constants(weight)

    def forward(
        self, tokens: Tensor, instance: Tensor | None, modality: Tensor | None, crops: int
    ) -> Tensor:
        """Tokens (N, 1 + P, D) and instance prompts (N, R, D) or none, both normalised, to
        (N, 1 + P, D)."""
        keys, values = (self._see(part, tokens, instance, crops) for part in (self.k, self.v))
        if self.keys is not None and self.values is not None:
            keys = torch.cat([of_crop(self.keys, modality, crops), keys], dim=1)
            values = torch.cat([of_crop(self.values, modality, crops), values], dim=1)
        queries = self._split(self.q(tokens), self.tokens).permute(0, 2, 1, 3)
        logits = queries @ self._split(keys, self.rows).permute(0, 2, 3, 1)
        if self.weight is not None:
            logits = logits + self.weight
        split_values = self._split(values, self.rows).permute(0, 2, 1, 3)
        attended = (torch.softmax(logits, dim=-1) @ split_values).permute(0, 2, 1, 3)
        rows: Tensor = self.proj(attended.reshape(-1, self.tokens, self.width))
        return rows

    def _see(self, part: LinearMap, tokens: Tensor, instance: Tensor | None, crops: int) -> Tensor:
        """Keys or values of instance prompts and tokens, (N, R or T + 1 + P, D)."""
        if instance is None:
            seen: Tensor = part(tokens)
            return seen
        if self.apart:
            first, rest = part(instance), part(tokens)
        else:
            seen = part(torch.cat([instance, tokens], dim=1))
            if self.copies == self.generated:
                return seen
            first, rest = seen[:, : self.generated], seen[:, self.generated :]
        if self.copies > self.generated:
            first = first.expand(crops, self.copies, self.width)
        return torch.cat([first, rest], dim=1)

    def _split(self, rows: Tensor, count: int) -> Tensor:
        return rows.reshape(-1, count, self.heads, self.width // self.heads)


class ExportedMeans(nn.Module):
    """Attention-weighted means of tokens to the attention's output: the value of the mean."""

    def __init__(self, block: Block, rows: int, constants: Constants) -> None:
        super().__init__()
        attn = block.attn
        self.rows = rows
        self.heads, self.width = attn.heads, attn.v.in_features
        weight, bias = behind_norm(attn.v, block.norm1)
        self.value_map = constants(weight.view(self.heads, -1, self.width).transpose(1, 2))
        self.proj = LinearMap(wide(attn.proj.weight), passed_on(attn, bias), constants)

    def forward(self, means: Tensor) -> Tensor:
        """(N, R, heads, D) to (N, R, D)."""
        # One product for each head over all rows of the batch, so that a weight is read once.
        by_head = means.permute(2, 0, 1, 3).reshape(self.heads, -1, self.width) @ self.value_map
        values = by_head.transpose(0, 1).reshape(-1, self.rows, self.width)
        projected: Tensor = self.proj(values)
        return projected


class ExportedMlp(nn.Module):
    """The second half of a block, the rows it adds to included."""

    def __init__(self, block: Block, constants: Constants) -> None:
        super().__init__()
        self.norm = UnitNorm(block.mlp.fc1.in_features, constants)
        self.fc1 = LinearMap(*behind_norm(block.mlp.fc1, block.norm2), constants)
        self.fc2 = LinearMap(wide(block.mlp.fc2.weight), wide(block.mlp.fc2.bias), constants)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, R, D) to (N, R, D)."""
        changed: Tensor = rows + self.fc2(F.gelu(self.fc1(self.norm(rows))))
        return changed


class HalvedMlp(nn.Module):
    """The same in two halves of the hidden rows: a long row costs a CPU's cache more than two."""

    def __init__(self, block: Block, constants: Constants) -> None:
        super().__init__()
        self.norm = UnitNorm(block.mlp.fc1.in_features, constants)
        weight, bias = behind_norm(block.mlp.fc1, block.norm2)
        self.fc1 = nn.ModuleList(
            LinearMap(part, shift, constants)
            for part, shift in zip(weight.chunk(2), bias.chunk(2), strict=True)
        )
        shifts = (None, wide(block.mlp.fc2.bias))
        self.fc2 = nn.ModuleList(
            LinearMap(part, shift, constants)
            for part, shift in zip(wide(block.mlp.fc2.weight).chunk(2, dim=1), shifts, strict=True)
        )

    def forward(self, rows: Tensor) -> Tensor:
        """(N, R, D) to (N, R, D)."""
        seen = self.norm(rows)
        first, second = (
            fc2(F.gelu(fc1(seen))) for fc1, fc2 in zip(self.fc1, self.fc2, strict=True)
        )
        changed: Tensor = rows + (first + second)
        return changed


def passed_on(attn: Attention, value_bias: Tensor) -> Tensor:
    """Bias of the attention's last map when the value bias goes through it, (D,)."""
    return wide(attn.proj.weight) @ value_bias + wide(attn.proj.bias)


def key_map(block: Block) -> Tensor:
    """The key weights behind the norm by head, (heads, d, D), in float64."""
    weight, _ = behind_norm(block.attn.k, block.norm1)
    by_head: Tensor = weight.view(block.attn.heads, -1, block.attn.k.in_features)
    return by_head


def ask(block: Block, queries: Tensor) -> Tensor:
    """Normalised queries (R, D) through the query map, (heads, R, d), in float64, scaled."""
    weight, bias = behind_norm(block.attn.q, block.norm1)
    asking = (queries @ weight.T + bias) * block.attn.scale
    return torch.unflatten(asking, -1, (block.attn.heads, -1)).transpose(0, 1)


def of_crop(constant: Tensor, modality: Tensor | None, crops: int) -> Tensor:
    """Constants of one modality (1, R, D), or each crop's row of (2, R, D): (N, R, D)."""
    if modality is None:
        return for_each(constant[0], crops)
    return constant[modality]
