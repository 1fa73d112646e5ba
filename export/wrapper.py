"""The network as it is exported: prepared crops in, unit-length embeddings out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.attention import ExportedAttention, ExportedMlp, HalvedMlp
from export.fold import Constants, LinearMap, UnitNorm, for_each, normalise, wide
from export.form import Form
from export.head import ExportedHead
from export.instance import FoldedInstancePrompts, ProjectedInstancePrompts
from mip_edge.model.mip import MIP
from mip_edge.model.vit import Block
from mip_edge.spec import Modality

PIXEL_HALF = 127.5
"""(x / 255 - 0.5) / 0.5 = x / 127.5 - 1."""

Cameras = Mapping[Modality, Tensor | None]
"""What the camera policy adds to every token of a modality, (D,), or None."""
Generator = FoldedInstancePrompts | ProjectedInstancePrompts


class ExportedMIP(nn.Module):
    """A trained network rewritten with constants for all that does not depend on the crop.

    The network itself stays as it is: its weights are folded in float64 and copied here.
    """

    def __init__(
        self,
        model: MIP,
        modality: Modality | None,
        cameras: Cameras | None = None,
        *,
        form: Form = Form(),  # noqa: B008  it is frozen
        projection: tuple[Tensor, Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """For crops of one modality, or with `modality` None for both, told by a second input.

        `projection` (matrix (5 D, d), bias (d,)) follows the embedding; `dtype` is that of all
        constants and of the embeddings.
        """
        super().__init__()
        options, constants = model.options, Constants(dtype)
        cameras = cameras or {}
        self.patches = ExportedPatches(model, modality, cameras, constants)
        generator = exported_generator(model, form, constants)
        self.blocks = nn.ModuleList(
            ExportedBlock(model, layer, prompts, generator, form, constants)
            for layer, prompts in enumerate(modality_prompts(model, modality))
        )
        self.head = ExportedHead(model, form.head, constants)
        self.output = ExportedOutput(projection, constants)
        self.dimension = options.dimension if projection is None else projection[0].shape[1]

    def forward(self, images: Tensor, modality: Tensor | None = None) -> Tensor:
        """(N, H, W, C) uint8, and each crop's `Modality.row` (N,) if both are taken, to (N, D)
        with rows of unit length."""
        # The batch size is read here once; all other shapes are constants of the graph.
        crops = images.shape[0]
        tokens = self.patches(images, modality, crops)
        for block in self.blocks:
            tokens = block(tokens, modality, crops)
        embeddings: Tensor = self.output(self.head(tokens))
        return embeddings


class ExportedPatches(nn.Module):
    """Crops to tokens; normalisation, positions, camera and both biases are folded in."""

    def __init__(
        self, model: MIP, modality: Modality | None, cameras: Cameras, constants: Constants
    ) -> None:
        super().__init__()
        conv = model.patch_embed.proj
        weight = wide(conv.weight)
        assert conv.bias is not None
        self.dtype, self.stride = constants.dtype, model.options.stride
        self.width, self.count = model.options.width, model.options.patches
        # Exact inside the map: it has no padding.
        if modality is Modality.INFRARED:
            self.weight = constants(weight.sum(dim=1, keepdim=True) / PIXEL_HALF)
        else:
            self.weight = constants(weight / PIXEL_HALF)
        shifts = [camera_shift(model, cameras.get(one)) for one in sorted_rows(modality)]
        positions = wide(model.pos_embed)[0]
        self.camera = None
        if len(shifts) == 1 or torch.equal(*shifts):
            positions = positions + shifts[0]
        else:
            self.camera = constants(torch.stack(shifts)[:, None])
        self.cls_token = constants(wide(model.cls_token)[0] + positions[:1])
        self.positions = constants(positions[1:] + wide(conv.bias) - weight.sum(dim=(1, 2, 3)))

    def forward(self, images: Tensor, modality: Tensor | None, crops: int) -> Tensor:
        """(N, H, W, C) uint8 to (N, 1 + P, D)."""
        # TensorRT takes uint8 only where the input goes straight into a cast.
        pixels = images.to(self.dtype).permute(0, 3, 1, 2)
        grid = F.conv2d(pixels, self.weight, stride=self.stride)
        patches = grid.reshape(-1, self.width, self.count).transpose(1, 2) + self.positions
        tokens = torch.cat([for_each(self.cls_token, crops), patches], dim=1)
        if self.camera is None or modality is None:
            return tokens
        return tokens + self.camera[modality]


class ExportedBlock(nn.Module):
    """A prompted block; modality prompts are constant keys and values."""

    def __init__(
        self,
        model: MIP,
        layer: int,
        prompts: Tensor | None,
        generator: Generator | None,
        form: Form,
        constants: Constants,
    ) -> None:
        """`prompts` (M, T, D): the projected modality prompts of this layer, or None; `generator`
        is that of all blocks."""
        super().__init__()
        options, block = model.options, model.blocks[layer]
        assert isinstance(block, Block)
        self.norm1 = UnitNorm(options.width, constants)
        self.instance = generator
        self.norm_instance = None
        rows = 0
        if generator is not None:
            self.norm_instance = UnitNorm(options.width, constants)
            rows = generator.rows
        self.attention = ExportedAttention(
            block,
            None if prompts is None else normalise(prompts),
            tokens=1 + options.patches,
            generated=(rows, options.prompt_length if rows else 0),
            form=form,
            constants=constants,
        )
        self.mlp = (ExportedMlp if form.mlp == "whole" else HalvedMlp)(block, constants)

    def forward(self, tokens: Tensor, modality: Tensor | None, crops: int) -> Tensor:
        """(N, 1 + P, D) to (N, 1 + P, D)."""
        # The generator's norm is the block's but for gain and shift, which are in the maps.
        seen = self.norm1(tokens)
        instance = None
        if self.instance is not None and self.norm_instance is not None:
            instance = self.norm_instance(self.instance(seen[:, 1:], crops))
        rows: Tensor = self.mlp(tokens + self.attention(seen, instance, modality, crops))
        return rows


class ExportedOutput(nn.Module):
    """Features to unit length, through the projection if there is one."""

    def __init__(self, projection: tuple[Tensor, Tensor] | None, constants: Constants) -> None:
        super().__init__()
        self.projection = None
        self.centred = False
        if projection is not None:
            matrix, bias = projection
            self.centred = bool(wide(bias).any())
            shift = wide(bias) if self.centred else None
            self.projection = LinearMap(wide(matrix).T, shift, constants)

    def forward(self, features: Tensor) -> Tensor:
        """(N, 5 D) to (N, D) of unit length."""
        if self.projection is None:
            return unit(features)
        # Without a centre the length of what is projected does not matter.
        return unit(self.projection(unit(features) if self.centred else features))


def unit(rows: Tensor) -> Tensor:
    """Rows (N, D) divided by their lengths."""
    return rows / torch.sqrt((rows * rows).sum(dim=1, keepdim=True))


def exported_generator(model: MIP, form: Form, constants: Constants) -> Generator | None:
    """The instance prompt generator in its form, or None where the network has none."""
    if model.instance_prompts is None:
        return None
    if form.instance == "folded":
        return FoldedInstancePrompts(model.instance_prompts, constants)
    return ProjectedInstancePrompts(model.instance_prompts, constants)


def modality_prompts(model: MIP, modality: Modality | None) -> list[Tensor | None]:
    """For each layer the projected prompts of one modality (1, T, D), or of both, in float64."""
    if model.modality_prompts is None:
        return [None] * model.options.layers
    prompts = model.modality_prompts
    projected = wide(prompts.library) @ wide(prompts.proj.weight).T + wide(prompts.proj.bias)
    rows = [one.row for one in sorted_rows(modality)]
    return list(projected[rows].transpose(0, 1).unbind(0))


def sorted_rows(modality: Modality | None) -> list[Modality]:
    """The modalities that a graph takes, in the order of their rows."""
    if modality is not None:
        return [modality]
    return sorted(Modality, key=lambda one: one.row)


def camera_shift(model: MIP, camera: Tensor | None) -> Tensor:
    """What a camera adds to every token, (D,), in float64."""
    if camera is None:
        return torch.zeros(model.options.width, dtype=torch.float64)
    return wide(camera)
