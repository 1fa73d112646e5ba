"""The MIP network: a ViT with modality and instance prompts, five features of one crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mip_edge.errors import OptionError
from mip_edge.model.head import Head, InstanceRow
from mip_edge.model.options import LOCAL_GROUPS, MIPOptions
from mip_edge.model.prompts import InstancePrompts, ModalityPrompts
from mip_edge.model.vit import INITIAL_STD, Block, PatchEmbed, initialize

CLASSIFIER_STD = 0.001


@dataclass(frozen=True, slots=True)
class TrainOutput:
    """What the losses need of one batch."""

    scores: list[Tensor]
    """Five times (B, classes), from the normalised features; empty without classes."""
    features: list[Tensor]
    """Five times (B, D), before the necks: global, then the four groups."""
    instance_scores: list[Tensor] = field(default_factory=list)
    """For each layer (B, classes), from the instance prompts; empty without IAEL."""


class MIP(nn.Module):
    """Images of both modalities, mixed in one batch, to embeddings of one space."""

    def __init__(self, options: MIPOptions) -> None:
        super().__init__()
        self.options = options
        width, layers = options.width, options.layers
        last = options.depth - 1
        self.patch_embed = PatchEmbed(width, options.patch, options.stride)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + options.patches, width))
        self.sie_embed = (
            nn.Parameter(torch.empty(options.cameras, 1, width)) if options.cameras else None
        )
        self.modality_prompts = ModalityPrompts(options) if options.modality_prompts else None
        self.instance_prompts = InstancePrompts(options) if options.instance_prompts else None
        self.blocks = nn.ModuleList(
            Block(width, options.heads, options.drop_path * layer / last) for layer in range(layers)
        )
        self.head = Head(options)
        self.necks = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(1 + LOCAL_GROUPS))
        self.classifiers = nn.ModuleList(
            nn.Linear(width, options.classes, bias=False)
            for _ in range(1 + LOCAL_GROUPS if options.classes else 0)
        )
        instance_layers = layers if options.iael else 0
        self.instance_necks = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(instance_layers))
        self.instance_classifiers = nn.ModuleList(
            nn.Linear(width, options.classes, bias=False) for _ in range(instance_layers)
        )
        self.instance_row = InstanceRow(options) if options.iael_block else None
        self._initialize()

    def _initialize(self) -> None:
        self.apply(initialize)
        if self.modality_prompts is not None:
            self.modality_prompts.reset_projection()
        for token in (self.cls_token, self.pos_embed, self.sie_embed):
            if token is not None:
                nn.init.trunc_normal_(token, std=INITIAL_STD)
        for classifier in (*self.classifiers, *self.instance_classifiers):
            assert isinstance(classifier, nn.Linear)
            nn.init.normal_(classifier.weight, std=CLASSIFIER_STD)
        for neck in self.necks:
            assert isinstance(neck, nn.BatchNorm1d)
            neck.bias.requires_grad_(False)

    def forward(
        self,
        images: Tensor,
        modality: Tensor,
        camera: Tensor | None = None,
        *,
        camera_vector: Tensor | None = None,
    ) -> Tensor | TrainOutput:
        """Normalised images (B, 3, H, W), modality (B,) with 1 visible and 0 infrared.

        `camera` (B,) adds the embedding of a known camera; `camera_vector` (D,) adds a given
        one instead, already times the SIE coefficient. Neither adds none.
        In eval mode the embedding (B, 5 D), not of unit length; in train mode a TrainOutput.
        """
        features, instances = self.features(images, modality, camera, camera_vector=camera_vector)
        if self.training:
            return self.scores(features, instances)
        return self.join(features)

    def features(
        self,
        images: Tensor,
        modality: Tensor,
        camera: Tensor | None = None,
        *,
        camera_vector: Tensor | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Five features (B, D) before the necks, and what IAEL reads of each layer's instance
        prompts (B, D): their mean, or the row of the extra block; without IAEL none.

        What a crop gives here depends on no other crop of the batch.
        """
        tokens = self.embed_patches(images, camera, camera_vector)
        tokens, instances = self.encode(tokens, modality)
        kept = instances if self.instance_classifiers else []
        if self.instance_row is None or not kept:
            return self.head(tokens), [instance.mean(dim=1) for instance in kept]
        rows = self.instance_row(torch.cat(kept))
        return self.head(tokens), list(rows.chunk(len(kept)))

    def embed_patches(
        self, images: Tensor, camera: Tensor | None = None, camera_vector: Tensor | None = None
    ) -> Tensor:
        """The tokens that enter the first block, (B, 1 + P, D)."""
        size = tuple(images.shape[1:])
        if size != (3, *self.options.image_size):
            expected = "x".join(str(side) for side in (3, *self.options.image_size))
            came = "x".join(str(side) for side in size)
            raise OptionError(f"images are {came}; this model takes {expected}")
        classes = self.cls_token.expand(len(images), -1, -1)
        patches = self.patch_embed(images)
        tokens = torch.cat([classes.to(patches.dtype), patches], dim=1) + self.pos_embed
        if camera_vector is not None:
            return tokens + camera_vector
        if camera is None:
            return tokens
        if self.sie_embed is None:
            raise OptionError("a camera is given, but this model knows no cameras (cameras=0)")
        return tokens + self.options.sie_coefficient * self.sie_embed[camera]

    def encode(self, tokens: Tensor, modality: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Through the blocks: tokens (B, 1 + P, D), and each layer's instance prompts (B, R, D),
        where R is 1 for zero queries; an empty list without instance prompts."""
        library = None if self.modality_prompts is None else self.modality_prompts()
        instances = []
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            keys, values = [], []
            if self.modality_prompts is not None and library is not None:
                modality_keys, modality_values = self.modality_prompts.keys_values(
                    block, library[:, layer], modality
                )
                keys.append(modality_keys)
                values.append(modality_values)
            if self.instance_prompts is not None:
                instance = self.instance_prompts(tokens)
                instance_keys, instance_values = block.prompt_keys_values(instance)
                keys.append(self.instance_prompts.expand(instance_keys))
                values.append(self.instance_prompts.expand(instance_values))
                instances.append(instance)
            tokens = block(tokens, keys, values)
        return tokens, instances

    def join(self, features: Sequence[Tensor]) -> Tensor:
        """Five features (B, D) to the embedding (B, 5 D), not of unit length."""
        if self.options.neck == "after":
            features = [neck(one) for neck, one in zip(self.necks, features, strict=True)]
        overall, *local = features
        return torch.cat([overall, *(one / LOCAL_GROUPS for one in local)], dim=1)

    def scores(self, features: Sequence[Tensor], instances: Sequence[Tensor]) -> TrainOutput:
        """What `features` gave, through necks and classifiers: here the crops of a batch meet."""
        scores = [
            classifier(neck(one))
            for classifier, neck, one in zip(self.classifiers, self.necks, features, strict=False)
        ]
        instance_scores = [
            classifier(neck(instance))
            for classifier, neck, instance in zip(
                self.instance_classifiers, self.instance_necks, instances, strict=True
            )
        ]
        return TrainOutput(scores, list(features), instance_scores)
