"""The two kinds of prompts: learned for a modality, generated from an instance."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mip_edge.model.options import MIPOptions
from mip_edge.model.vit import INITIAL_STD, Block


class ModalityPrompts(nn.Module):
    """MPL: a library of prompts for each modality and layer, through one shared map."""

    def __init__(self, options: MIPOptions) -> None:
        super().__init__()
        self.dropout = options.prompt_dropout
        self.library = nn.Parameter(
            torch.empty(2, options.layers, options.prompt_length, options.width)
        )
        self.proj = nn.Linear(options.width, options.width)
        bound = options.prompt_scale * math.sqrt(6 / (3 * options.patch**2 + options.width))
        nn.init.uniform_(self.library, -bound, bound)

    def reset_projection(self) -> None:
        """The published start of the shared map (its bias as torch gives it)."""
        self.proj.reset_parameters()
        nn.init.kaiming_normal_(self.proj.weight, mode="fan_out")

    def forward(self) -> Tensor:
        """Projected prompts of both modalities and all layers, (2, layers, T, D)."""
        return self.proj(self.library)  # type: ignore[no-any-return]

    def keys_values(self, block: Block, prompts: Tensor, modality: Tensor) -> tuple[Tensor, Tensor]:
        """One layer's keys and values for each crop, (B, T, D) each.

        `prompts` (2, T, D) is that layer's share of `forward`, `modality` (B,) picks the row.
        """
        if self.training and self.dropout > 0:
            # Dropout acts on each crop, so each crop has prompts of its own.
            return block.prompt_keys_values(F.dropout(prompts[modality], self.dropout))
        keys, values = block.prompt_keys_values(prompts)
        return keys[modality], values[modality]


class InstancePrompts(nn.Module):
    """IPG: one block, shared by all layers, that draws prompts from the crop's own patches."""

    def __init__(self, options: MIPOptions) -> None:
        super().__init__()
        self.length = options.prompt_length
        self.width = options.width
        self.block = Block(options.width, options.heads)
        self.queries: nn.Parameter | None = None
        if options.instance_queries == "learnable":
            self.queries = nn.Parameter(torch.empty(1, options.prompt_length, options.width))
            nn.init.trunc_normal_(self.queries, std=INITIAL_STD)

    def forward(self, tokens: Tensor) -> Tensor:
        """Prompts (B, R, D) from tokens (B, 1 + P, D), whose class row is not looked at.

        R is the prompt length; 1 for zero queries, whose prompts are all the same.
        """
        attn, queries = self.block.attn, self._queries(tokens)
        rows = len(queries)
        asking, seen = self.block.norm1(queries), self.block.norm1(tokens)
        folded = attn.fold_queries(asking).flatten(0, 1)
        # Equal rows are one row that counts as often as there are rows.
        own_logits = F.linear(folded, asking) + math.log(self.length / rows)
        logits = F.linear(seen, folded).transpose(1, 2)[..., 1:]
        own_logits = own_logits.to(logits.dtype).expand(len(tokens), -1, -1)
        weights = torch.softmax(torch.cat([own_logits, logits], dim=-1), dim=-1)
        means = weights[..., rows:] @ seen[:, 1:] + weights[..., :rows] @ asking
        attended = attn.project_means(means.unflatten(1, (rows, -1)))
        return self.block.add_mlp(queries + attended)

    def expand(self, rows: Tensor) -> Tensor:
        """(B, R, D) to (B, T, D)."""
        return rows.expand(-1, self.length, -1)

    def _queries(self, tokens: Tensor) -> Tensor:
        if self.queries is not None:
            return self.queries[0]
        return torch.zeros(1, self.width, dtype=self.block.norm1.weight.dtype, device=tokens.device)
