"""The vision transformer's parts: patches, attention with prompts, blocks, positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6
MLP_RATIO = 4
INITIAL_STD = 0.02


class PatchEmbed(nn.Module):
    """Overlapping patches to tokens, row by row: (B, 3, H, W) to (B, P, D)."""

    def __init__(self, width: int, patch: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=stride)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return tokens


class Attention(nn.Module):
    """Multi-head attention, whole or for a few rows only."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, tokens: Tensor, prompt_keys: Sequence[Tensor], prompt_values: Sequence[Tensor]
    ) -> Tensor:
        """Tokens (B, N, D) look at themselves and at kinds of prompts (B, S, D): (B, N, D)."""
        keys = torch.cat([self.k(tokens), *prompt_keys], dim=1)
        values = torch.cat([self.v(tokens), *prompt_values], dim=1)
        queries = self._split(self.q(tokens))
        attended = self._attend(queries, self._split(keys), self._split(values))
        return self.proj(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def fold_queries(self, queries: Tensor) -> Tensor:
        """Queries (..., D) through the key map, (..., heads, D): a dot product with a token
        is then its logit, and no key is computed.

        The key bias adds the same to all logits of a query, and the softmax takes it out.
        """
        split = (self.q(queries) * self.scale).unflatten(-1, (self.heads, -1))
        key_map = torch.unflatten(self.k.weight, 0, (self.heads, -1))
        return torch.einsum("...hd,hdm->...hm", split, key_map)

    def project_means(self, means: Tensor) -> Tensor:
        """Attention-weighted means of tokens (..., heads, D) to the output (..., D).

        The mean of values is the value of the mean: no value of a token is computed.
        """
        value_map = torch.unflatten(self.v.weight, 0, (self.heads, -1))
        values = torch.einsum("...hm,hdm->...hd", means, value_map).flatten(-2) + self.v.bias
        return self.proj(values)  # type: ignore[no-any-return]

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if self.training and queries.dtype == torch.bfloat16 and queries.device.type == "cpu":
            # Torch's own bfloat16 kernel goes back so slowly on a CPU that plain products save
            # a third of a training step.
            logits = (queries * self.scale) @ keys.transpose(-2, -1)
            return torch.softmax(logits, dim=-1) @ values
        return F.scaled_dot_product_attention(queries, keys, values)

    def _split(self, tokens: Tensor) -> Tensor:
        return torch.unflatten(tokens, -1, (self.heads, -1)).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear maps with the exact GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block whose prompts are keys and values only."""

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width)

    def forward(
        self, tokens: Tensor, prompt_keys: Sequence[Tensor], prompt_values: Sequence[Tensor]
    ) -> Tensor:
        """(B, N, D) to (B, N, D); each kind of prompts (B, S, D) as `prompt_keys_values` gives."""
        attended = self.attn(self.norm1(tokens), prompt_keys, prompt_values)
        return self.add_mlp(tokens + self.drop(attended))

    def prompt_keys_values(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of prompts (..., D); a prompt gives nothing else."""
        normalised = self.norm1(prompts)
        return self.attn.k(normalised), self.attn.v(normalised)

    def add_mlp(self, rows: Tensor) -> Tensor:
        """The second half of the block, for any rows (..., D)."""
        return rows + self.drop(self.mlp(self.norm2(rows)))

    def drop(self, branch: Tensor) -> Tensor:
        """Stochastic depth: in training a branch (B, N, D) of a crop is left out at random."""
        return self._drop(branch, (branch.shape[0], 1, 1))

    def drop_rows(self, branch: Tensor) -> Tensor:
        """The same for rows (B, G, D) that each come from a pass of their own."""
        return self._drop(branch, (*branch.shape[:2], 1))

    def _drop(self, branch: Tensor, shape: tuple[int, ...]) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        kept = torch.rand(shape, device=branch.device) < keep
        return branch * (kept.to(branch.dtype) / keep)


def initialize(module: nn.Module) -> None:
    """Truncated normal maps, zero biases, unit norms; for `nn.Module.apply`."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def resize_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embedding (1, 1 + rows * columns, D) for another grid (rows, columns).

    The class row stays; the grid is bilinear without antialiasing, as published.
    """
    if old == new:
        return positions
    width = positions.shape[-1]
    grid = positions[:, 1:].reshape(1, *old, width).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=new, mode="bilinear", align_corners=False)
    return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
