"""The published forward as it was written, dead work and all: what MIP is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mip_edge.model.head import Head, jigsaw_order
from mip_edge.model.mip import MIP, TrainOutput
from mip_edge.model.options import LOCAL_GROUPS
from mip_edge.model.prompts import InstancePrompts, ModalityPrompts
from mip_edge.model.vit import Attention, Block


class Straight(nn.Module):
    """A MIP, its weights shared, that computes every row the published code computes.

    Whole blocks over all rows, prompts too; the generator as a whole block over patches and equal
    zero queries; the head's blocks over all tokens, the local one four times; prompts projected
    for each crop. Attention in plain products. What comes out is what the MIP gives, to rounding.
    """

    def __init__(self, model: MIP) -> None:
        super().__init__()
        self.model = model
        self.options = model.options
        self.train(model.training)

    def forward(
        self,
        images: Tensor,
        modality: Tensor,
        camera: Tensor | None = None,
        *,
        camera_vector: Tensor | None = None,
    ) -> Tensor | TrainOutput:
        """As `MIP.forward`."""
        features, instances = self.features(images, modality, camera, camera_vector=camera_vector)
        if self.model.training:
            return self.scores(features, instances)
        return self.model.join(features)

    def features(
        self,
        images: Tensor,
        modality: Tensor,
        camera: Tensor | None = None,
        *,
        camera_vector: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As `MIP.features`."""
        tokens = self.model.embed_patches(images, camera, camera_vector)
        tokens, instances = self.encode(tokens, modality)
        kept = instances if self.model.instance_classifiers else []
        return head_features(self.model.head, tokens), [self._read(prompts) for prompts in kept]

    def scores(self, features: Sequence[Tensor], instances: Sequence[Tensor]) -> TrainOutput:
        """As `MIP.scores`, which has no dead work."""
        return self.model.scores(features, instances)

    def encode(self, tokens: Tensor, modality: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Through the prompted blocks: tokens (B, 1 + P, D), each layer's prompts (B, T, D)."""
        model, instances = self.model, []
        for layer, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            rows = [tokens[:, :1]]
            if model.modality_prompts is not None:
                rows.append(projected_prompts(model.modality_prompts, layer, modality))
            if model.instance_prompts is not None:
                instances.append(generated_prompts(model.instance_prompts, tokens[:, 1:]))
                rows.append(instances[-1])
            rows = [*rows, tokens[:, 1:]]
            seen = whole_block(block, torch.cat(rows, dim=1))
            tokens = torch.cat([seen[:, :1], seen[:, -model.options.patches :]], dim=1)
        return tokens, instances

    def _read(self, instance: Tensor) -> Tensor:
        extra = self.model.instance_row
        if extra is None:
            return instance.mean(dim=1)
        token = extra.token.expand(len(instance), -1, -1).to(instance.dtype)
        row: Tensor = extra.norm(whole_block(extra.block, torch.cat([token, instance], dim=1)))
        return row[:, 0]


def whole_block(block: Block, tokens: Tensor) -> Tensor:
    """A plain transformer block over all rows, (B, N, D) to (B, N, D)."""
    attended = whole_attention(block.attn, block.norm1(tokens))
    return block.add_mlp(tokens + block.drop(attended))


def whole_attention(attn: Attention, tokens: Tensor) -> Tensor:
    """All rows look at all rows, (B, N, D) to (B, N, D)."""
    queries, keys, values = (
        linear(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for linear in (attn.q, attn.k, attn.v)
    )
    weights = torch.softmax(queries @ keys.transpose(-2, -1) * attn.scale, dim=-1)
    attended: Tensor = attn.proj((weights @ values).transpose(1, 2).flatten(2))
    return attended


def projected_prompts(prompts: ModalityPrompts, layer: int, modality: Tensor) -> Tensor:
    """One layer's modality prompts, projected anew for each crop: (B, T, D)."""
    projected = prompts.proj(prompts.library[modality, layer])
    return nn.functional.dropout(projected, prompts.dropout, prompts.training)


def generated_prompts(prompts: InstancePrompts, patches: Tensor) -> Tensor:
    """Instance prompts (B, T, D): the first rows of a block over queries and patches (B, P, D)."""
    if prompts.queries is None:
        queries = patches.new_zeros(patches.shape[0], prompts.length, prompts.width)
    else:
        queries = prompts.queries.expand(patches.shape[0], -1, -1).to(patches.dtype)
    rows = whole_block(prompts.block, torch.cat([queries, patches], dim=1))
    return rows[:, : prompts.length]


def head_features(head: Head, tokens: Tensor) -> list[Tensor]:
    """Tokens (B, 1 + P, D) to five features (B, D): whole blocks of which row 0 is kept."""
    overall = head.global_norm(whole_block(head.global_block, tokens))
    patches = tokens.shape[1] - 1
    order = jigsaw_order(patches).to(tokens.device)
    shuffled = tokens[:, 1:].index_select(1, order)
    length = patches // LOCAL_GROUPS
    features = [overall[:, 0]]
    for group in shuffled[:, : LOCAL_GROUPS * length].chunk(LOCAL_GROUPS, dim=1):
        rows = whole_block(head.local_block, torch.cat([tokens[:, :1], group], dim=1))
        features.append(head.local_norm(rows)[:, 0])
    return features
