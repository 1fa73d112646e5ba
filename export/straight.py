"""The published forward as a graph, dead work and all: what the rewritten one is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from export.wrapper import Cameras, camera_shift, unit
from mip_edge.model.head import jigsaw_order
from mip_edge.model.mip import MIP
from mip_edge.model.options import LOCAL_GROUPS
from mip_edge.model.prompts import InstancePrompts, ModalityPrompts
from mip_edge.model.straight import generated_prompts, projected_prompts, whole_block
from mip_edge.model.vit import Block
from mip_edge.spec import Modality


class StraightExport(nn.Module):
    """Crops of one modality to unit-length embeddings, every row computed that is published.

    The network's own parameters are used, in their own type; only normalisation is added.
    """

    def __init__(self, model: MIP, modality: Modality, cameras: Cameras | None = None) -> None:
        super().__init__()
        self.row = modality.row
        self.patches = StraightPatches(model, modality, (cameras or {}).get(modality))
        self.blocks = nn.ModuleList(
            StraightBlock(model, layer) for layer in range(model.options.layers)
        )
        self.head = StraightHead(model)
        self.output = StraightOutput()

    def forward(self, images: Tensor) -> Tensor:
        """(N, H, W, C) uint8 to (N, 5 D)."""
        crops = images.shape[0]
        # As tensors of the batch, so that prompts are projected for each crop as published.
        modality = torch.full((crops,), self.row, dtype=torch.int64)
        tokens = self.patches(images, crops)
        for block in self.blocks:
            tokens = block(tokens, modality)
        embeddings: Tensor = self.output(self.head(tokens))
        return embeddings


class StraightPatches(nn.Module):
    """Normalised pixels through the convolution; positions and camera added to the tokens."""

    def __init__(self, model: MIP, modality: Modality, camera: Tensor | None) -> None:
        super().__init__()
        self.copies = 3 // modality.channels
        self.patch_embed, self.cls_token = model.patch_embed, model.cls_token
        self.pos_embed = model.pos_embed
        shift = camera_shift(model, camera).to(model.pos_embed.dtype)
        self.camera = nn.Parameter(shift, requires_grad=False)

    def forward(self, images: Tensor, crops: int) -> Tensor:
        pixels = images.to(self.pos_embed.dtype).permute(0, 3, 1, 2)
        normalised = (pixels / 255 - 0.5) / 0.5
        rgb = torch.cat([normalised] * self.copies, dim=1) if self.copies > 1 else normalised
        classes = self.cls_token.expand(crops, 1, self.cls_token.shape[2])
        tokens = torch.cat([classes, self.patch_embed(rgb)], dim=1)
        return tokens + self.pos_embed + self.camera


class StraightBlock(nn.Module):
    """A whole block over class row, both kinds of prompts and patches."""

    def __init__(self, model: MIP, layer: int) -> None:
        super().__init__()
        block = model.blocks[layer]
        assert isinstance(block, Block)
        self.patches = model.options.patches
        self.prompts = self.instance = None
        if model.modality_prompts is not None:
            self.prompts = StraightModalityPrompts(model.modality_prompts, layer)
        if model.instance_prompts is not None:
            self.instance = StraightInstancePrompts(model.instance_prompts)
        self.block = WholeBlock(block)

    def forward(self, tokens: Tensor, modality: Tensor) -> Tensor:
        patches = tokens[:, 1:]
        rows = [tokens[:, :1]]
        if self.prompts is not None:
            rows.append(self.prompts(modality))
        if self.instance is not None:
            rows.append(self.instance(patches))
        seen = self.block(torch.cat([*rows, patches], dim=1))
        return torch.cat([seen[:, :1], seen[:, -self.patches :]], dim=1)


class StraightModalityPrompts(nn.Module):
    def __init__(self, prompts: ModalityPrompts, layer: int) -> None:
        super().__init__()
        self.prompts, self.layer = prompts, layer

    def forward(self, modality: Tensor) -> Tensor:
        return projected_prompts(self.prompts, self.layer, modality)


class StraightInstancePrompts(nn.Module):
    def __init__(self, prompts: InstancePrompts) -> None:
        super().__init__()
        self.prompts = prompts

    def forward(self, patches: Tensor) -> Tensor:
        return generated_prompts(self.prompts, patches)


class WholeBlock(nn.Module):
    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor) -> Tensor:
        return whole_block(self.block, tokens)


class StraightHead(nn.Module):
    """Five whole blocks over all tokens or a group; of each, one row is kept."""

    order: Tensor

    def __init__(self, model: MIP) -> None:
        super().__init__()
        head, patches = model.head, model.options.patches
        self.length = patches // LOCAL_GROUPS
        self.register_buffer("order", 1 + jigsaw_order(patches)[: LOCAL_GROUPS * self.length])
        self.add_module("global", WholeBlock(head.global_block))
        self.add_module("local", WholeBlock(head.local_block))
        self.global_norm, self.local_norm = head.global_norm, head.local_norm
        self.necks = model.necks if model.options.neck == "after" else None

    def forward(self, tokens: Tensor) -> Tensor:
        classes, shuffled = tokens[:, :1], tokens.index_select(1, self.order)
        global_block, local_block = (getattr(self, name) for name in ("global", "local"))
        features = [self.global_norm(global_block(tokens))[:, 0]]
        for group in range(LOCAL_GROUPS):
            own = shuffled[:, group * self.length : (group + 1) * self.length]
            rows = local_block(torch.cat([classes, own], dim=1))
            features.append(self.local_norm(rows)[:, 0])
        if self.necks is not None:
            features = [neck(one) for neck, one in zip(self.necks, features, strict=True)]
        overall, *local = features
        return torch.cat([overall, *(one / LOCAL_GROUPS for one in local)], dim=1)


class StraightOutput(nn.Module):
    """To unit length."""

    def forward(self, features: Tensor) -> Tensor:
        return unit(features)
