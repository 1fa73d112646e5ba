"""The head: one global and four local class rows, after TransReID's jigsaw patch module; and
the row that reads instance prompts for IAEL."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mip_edge.model.options import LOCAL_GROUPS, MIPOptions
from mip_edge.model.vit import NORM_EPS, Block

ROTATION = 4
"""Patches that move from the front to the back; the published "shift 5" rotates by 4."""


def jigsaw_order(patches: int) -> Tensor:
    """Indices of the patches after rotation and shuffle, (P,), or (P + 1,) for an odd P."""
    rotated = torch.roll(torch.arange(patches, device="cpu"), -ROTATION)
    if patches % 2:
        rotated = torch.cat([rotated, rotated[-2:-1]])
    return rotated.view(2, -1).T.flatten()


def group_mask(patches: int) -> Tensor:
    """What each local group may look at, (4, 1 + P): 0 for the class row and its own patches,
    minus infinity elsewhere; patches left over after four equal groups are in none."""
    length = patches // LOCAL_GROUPS
    mask = torch.full((LOCAL_GROUPS, 1 + patches), -torch.inf, device="cpu")
    mask[:, 0] = 0
    groups = jigsaw_order(patches)[: LOCAL_GROUPS * length].view(LOCAL_GROUPS, length)
    return mask.scatter(1, 1 + groups, 0.0)


class Head(nn.Module):
    """Two blocks, of which only the class rows are computed."""

    mask: Tensor

    def __init__(self, options: MIPOptions) -> None:
        super().__init__()
        width, heads = options.width, options.heads
        self.global_block = Block(width, heads, options.drop_path)
        self.global_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.local_block = Block(width, heads, options.drop_path)
        self.local_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.register_buffer("mask", group_mask(options.patches), persistent=False)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Tokens (B, 1 + P, D) to five features (B, D): global, then the four groups."""
        everything = torch.zeros_like(self.mask[:1])
        overall = self.global_norm(class_rows(self.global_block, tokens, everything))
        local = self.local_norm(class_rows(self.local_block, tokens, self.mask))
        return [overall[:, 0], *local.unbind(1)]


class InstanceRow(nn.Module):
    """One more block, whose first row reads a layer's instance prompts; all layers share it.

    The second published form of IAEL (option IPIL_SIMPLE off); its token starts at zero.
    """

    def __init__(self, options: MIPOptions) -> None:
        super().__init__()
        self.length = options.prompt_length
        self.token = nn.Parameter(torch.zeros(1, 1, options.width))
        self.block = Block(options.width, options.heads, options.drop_path)
        self.norm = nn.LayerNorm(options.width, eps=NORM_EPS)

    def forward(self, instances: Tensor) -> Tensor:
        """Instance prompts (B, R, D), of which R stand for all T, to one row each (B, D)."""
        rows = instances.shape[1]
        # Equal prompts are one that counts as often as there are of them.
        mask = instances.new_full((1, 1 + rows), math.log(self.length / rows))
        mask[:, 0] = 0
        token = self.token.expand(len(instances), -1, -1).to(instances.dtype)
        seen = torch.cat([token, instances], dim=1)
        row: Tensor = self.norm(class_rows(self.block, seen, mask))[:, 0]
        return row


def class_rows(block: Block, tokens: Tensor, mask: Tensor) -> Tensor:
    """The class row of `block`, once for each row of a mask (G, N) on its logits: (B, G, D)."""
    attn, seen = block.attn, block.norm1(tokens)
    folded = attn.fold_queries(seen[:, 0])
    logits = folded @ seen.transpose(1, 2)
    weights = torch.softmax(logits.unsqueeze(1) + mask[:, None], dim=-1)
    means = (weights.flatten(1, 2) @ seen).unflatten(1, weights.shape[1:3])
    rows = tokens[:, :1] + block.drop_rows(attn.project_means(means))
    return rows + block.drop_rows(block.mlp(block.norm2(rows)))
