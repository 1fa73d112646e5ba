"""The network as it is exported: one modality, prepared crops in, unit-length embeddings out."""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mip_edge.model.head import jigsaw_order
from mip_edge.model.mip import MIP
from mip_edge.model.options import LOCAL_GROUPS, MIPOptions
from mip_edge.model.prompts import InstancePrompts
from mip_edge.model.vit import Attention, Block, Mlp
from mip_edge.spec import Modality


class ExportedMIP(nn.Module):
    """A trained network rewritten with constants for all that does not depend on the crop.

    The network itself stays as it is: its weights are copied here in the form the graph needs.
    """

    def __init__(self, model: MIP, modality: Modality, camera: Tensor | None = None) -> None:
        """`camera` (D,) is what the camera policy adds to every token, or None."""
        super().__init__()
        options = model.options
        self.batch_shape = (*options.image_size, modality.channels)
        self.patches = ExportedPatches(model, modality, camera)
        self.instance = (
            None
            if model.instance_prompts is None
            else ExportedInstancePrompts(model.instance_prompts)
        )
        prompts = (
            [None] * options.layers
            if model.modality_prompts is None
            else model.modality_prompts().detach()[modality.row]
        )
        self.blocks = nn.ModuleList(
            ExportedBlock(_block(block), layer_prompts, options)
            for block, layer_prompts in zip(model.blocks, prompts, strict=True)
        )
        self.head = ExportedHead(model)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, H, W, C) uint8 to (N, 5 D) float32, rows of unit length."""
        # The batch size is read here once; all other shapes are constants of the graph.
        crops = images.shape[0]
        tokens = self.patches(images, crops)
        for block in self.blocks:
            instance = None if self.instance is None else self.instance(tokens, crops)
            tokens = block(tokens, instance, crops)
        raw = self.head(tokens)
        unit: Tensor = raw / torch.sqrt((raw * raw).sum(dim=1, keepdim=True))
        return unit


class ExportedPatches(nn.Module):
    """Crops to tokens; normalisation, positions, camera and both biases are folded in."""

    def __init__(self, model: MIP, modality: Modality, camera: Tensor | None) -> None:
        super().__init__()
        conv = model.patch_embed.proj
        weight = conv.weight.detach().double()
        bias = torch.zeros(len(weight)) if conv.bias is None else conv.bias.detach()
        # (x / 255 - 0.5) / 0.5 = x / 127.5 - 1, exact inside the map: it has no padding.
        self.stride = model.options.stride
        if modality.channels == 1:
            self.weight = _constant(weight.sum(dim=1, keepdim=True) / 127.5)
        else:
            self.weight = _constant(weight / 127.5)
        positions = model.pos_embed.detach()[0].double()
        if camera is not None:
            positions = positions + camera.double()
        self.cls_token = _constant(model.cls_token.detach()[0].double() + positions[:1])
        self.positions = _constant(positions[1:] + bias.double() - weight.sum(dim=(1, 2, 3)))

    def forward(self, images: Tensor, crops: int) -> Tensor:
        """(N, H, W, C) uint8 to (N, 1 + P, D)."""
        pixels = images.permute(0, 3, 1, 2).to(torch.float32)
        grid = F.conv2d(pixels, self.weight, stride=self.stride)
        columns = grid.reshape(-1, self.weight.shape[0], self.positions.shape[0])
        patches = columns.transpose(1, 2) + self.positions
        return torch.cat([_for_each(self.cls_token, crops), patches], dim=1)


class ExportedInstancePrompts(nn.Module):
    """The instance prompt generator; its queries are constants, so keys are never computed."""

    def __init__(self, prompts: InstancePrompts) -> None:
        super().__init__()
        block, learned = prompts.block, prompts.queries
        length, width = prompts.length, prompts.width
        # Equal queries give equal prompts: one row is computed, and repeated at the end.
        queries = torch.zeros(1, width) if learned is None else learned.detach()[0]
        with torch.no_grad():
            asking = block.norm1(queries)
            folded = block.attn.fold_queries(asking).transpose(0, 1)  # (heads, R, D)
        self.length = length
        self.rows = len(queries)
        self.heads = block.attn.heads
        self.queries = _constant(queries)
        # As keys, too, the equal rows count as often as there are of them.
        self.own = _constant(asking.expand(length, -1))
        self.norm = deepcopy(block.norm1)
        self.query_map = _constant(folded.flatten(0, 1).T)
        self.means = ExportedMeans(block.attn, self.rows)
        self.mlp = ExportedMlp(block)

    def forward(self, tokens: Tensor, crops: int) -> Tensor:
        """(N, 1 + P, D) to (N, T, D); the class row is not looked at."""
        patches = self.norm(tokens[:, 1:])
        seen = torch.cat([_for_each(self.own, crops), patches], dim=1)
        weights = torch.softmax((seen @ self.query_map).transpose(1, 2), dim=-1)
        means = (weights @ seen).reshape(-1, self.heads, self.rows, self.queries.shape[1])
        prompts: Tensor = self.mlp(self.queries + self.means(means.transpose(1, 2)))
        if self.rows == self.length:
            return prompts
        return prompts.expand(crops, self.length, self.queries.shape[1])


class ExportedBlock(nn.Module):
    """A prompted block; the modality prompts are constant keys and values."""

    def __init__(self, block: Block, prompts: Tensor | None, options: MIPOptions) -> None:
        """`prompts` (T, D): the projected modality prompts of this layer, or None."""
        super().__init__()
        attn = block.attn
        self.tokens = 1 + options.patches
        self.instance_length = options.prompt_length if options.instance_prompts else 0
        self.heads, self.width = attn.heads, options.width
        self.norm = deepcopy(block.norm1)
        self.q = LinearMap(attn.q, factor=attn.scale)
        self.k = LinearMap(attn.k)
        self.v = LinearMap(attn.v)
        self.proj = LinearMap(attn.proj)
        self.keys = self.values = None
        if prompts is not None:
            with torch.no_grad():
                keys, values = block.prompt_keys_values(prompts)
            self.keys, self.values = _constant(keys), _constant(values)
        self.mlp = ExportedMlp(block)

    def forward(self, tokens: Tensor, instance: Tensor | None, crops: int) -> Tensor:
        """Tokens (N, 1 + P, D) and instance prompts (N, T, D) or none to tokens."""
        own, all_rows = self.tokens, self.instance_length + self.tokens
        seen = self.norm(tokens if instance is None else torch.cat([instance, tokens], dim=1))
        keys, values = self.k(seen), self.v(seen)
        if self.keys is not None and self.values is not None:
            keys = torch.cat([_for_each(self.keys, crops), keys], dim=1)
            values = torch.cat([_for_each(self.values, crops), values], dim=1)
            all_rows += self.keys.shape[0]
        asking = seen if instance is None else seen[:, self.instance_length :]
        queries = self._split(self.q(asking), own).permute(0, 2, 1, 3)
        split_keys = self._split(keys, all_rows).permute(0, 2, 3, 1)
        split_values = self._split(values, all_rows).permute(0, 2, 1, 3)
        weights = torch.softmax(queries @ split_keys, dim=-1)
        attended = (weights @ split_values).permute(0, 2, 1, 3).reshape(-1, own, self.width)
        rows: Tensor = self.mlp(tokens + self.proj(attended))
        return rows

    def _split(self, rows: Tensor, count: int) -> Tensor:
        return rows.reshape(-1, count, self.heads, self.width // self.heads)


class ExportedHead(nn.Module):
    """Five class rows of two blocks: one sees all patches, four see a group of shuffled ones."""

    def __init__(self, model: MIP) -> None:
        super().__init__()
        patches, head = model.options.patches, model.head
        length = patches // LOCAL_GROUPS
        order = jigsaw_order(patches)[: LOCAL_GROUPS * length].view(LOCAL_GROUPS, length)
        class_row = torch.zeros(LOCAL_GROUPS, 1, dtype=torch.int64)
        everything = torch.arange(1 + patches)[None]
        local = torch.cat([class_row, 1 + order], dim=1)
        self.overall = ExportedClassRow(head.global_block, head.global_norm, everything)
        self.local = ExportedClassRow(head.local_block, head.local_norm, local)
        scale, shift = _necks(model)
        self.scale = _constant(scale)
        self.shift = _constant(shift) if bool(shift.any()) else None

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, 1 + P, D) to (N, 5 D), not of unit length."""
        features = torch.cat([self.overall(tokens), self.local(tokens)], dim=1) * self.scale
        if self.shift is not None:
            features = features + self.shift
        return features.reshape(-1, self.scale.numel())


class ExportedClassRow(nn.Module):
    """The class row of a block for each group of tokens; its one query needs no keys."""

    index: Tensor

    def __init__(self, block: Block, norm: nn.LayerNorm, index: Tensor) -> None:
        """`index` (G, R): the tokens of each group, the class row first."""
        super().__init__()
        width = block.attn.q.in_features
        self.register_buffer("index", index.flatten(), persistent=False)
        self.groups, self.rows = index.shape
        self.heads = block.attn.heads
        self.norm = deepcopy(block.norm1)
        self.q = LinearMap(block.attn.q, factor=block.attn.scale)
        self.key_map = _constant(block.attn.k.weight.detach().view(self.heads, -1, width))
        self.means = ExportedMeans(block.attn, self.groups)
        self.mlp = ExportedMlp(block)
        self.last_norm = deepcopy(norm)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, 1 + P, D) to (N, G, D)."""
        seen = self.norm(tokens)
        query = self.q(seen[:, :1]).reshape(-1, self.heads, self.key_map.shape[1])
        folded = (query.transpose(0, 1) @ self.key_map).transpose(0, 1)  # (N, heads, D)
        if self.groups > 1:
            seen = seen.index_select(1, self.index)
        seen = seen.reshape(-1, self.groups, self.rows, self.key_map.shape[2])
        logits = folded.unsqueeze(1) @ seen.transpose(2, 3)
        means = torch.softmax(logits, dim=-1) @ seen  # (N, G, heads, D)
        features: Tensor = self.last_norm(self.mlp(tokens[:, :1] + self.means(means)))
        return features


class ExportedMeans(nn.Module):
    """Attention-weighted means of tokens to the attention's output: the value of the mean."""

    def __init__(self, attn: Attention, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.heads, width = attn.heads, attn.v.in_features
        value_map = attn.v.weight.detach().view(self.heads, -1, width).transpose(1, 2)
        self.value_map = _constant(value_map)
        self.value_bias = _constant(attn.v.bias.detach())
        self.proj = LinearMap(attn.proj)

    def forward(self, means: Tensor) -> Tensor:
        """(N, R, heads, D) to (N, R, D)."""
        width = self.value_bias.shape[0]
        # One product for each head over all rows of the batch, so that a weight is read once.
        by_head = means.permute(2, 0, 1, 3).reshape(self.heads, -1, width) @ self.value_map
        values = by_head.transpose(0, 1).reshape(-1, self.rows, width) + self.value_bias
        projected: Tensor = self.proj(values)
        return projected


class ExportedMlp(nn.Module):
    """The second half of a block, the rows it adds to included."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        mlp: Mlp = block.mlp
        self.norm = deepcopy(block.norm2)
        self.fc1 = LinearMap(mlp.fc1)
        self.fc2 = LinearMap(mlp.fc2)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, R, D) to (N, R, D)."""
        changed: Tensor = rows + self.fc2(F.gelu(self.fc1(self.norm(rows))))
        return changed


class LinearMap(nn.Module):
    """A linear map stored (in, out), so that the graph holds one plain product and one sum."""

    def __init__(self, linear: nn.Linear, factor: float = 1.0) -> None:
        super().__init__()
        self.weight = _constant(linear.weight.detach().T * factor)
        self.bias = _constant(linear.bias.detach() * factor)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return rows @ self.weight + self.bias


def _necks(model: MIP) -> tuple[Tensor, Tensor]:
    """What the five features are multiplied by and what is added, (5, D) each."""
    shares = torch.tensor([1.0] + [1 / LOCAL_GROUPS] * LOCAL_GROUPS, dtype=torch.float64)[:, None]
    scale = torch.ones(1 + LOCAL_GROUPS, model.options.width, dtype=torch.float64)
    shift = torch.zeros_like(scale)
    if model.options.neck == "after":
        for row, neck in enumerate(model.necks):
            assert isinstance(neck, nn.BatchNorm1d)
            assert neck.running_mean is not None
            assert neck.running_var is not None
            spread = (neck.running_var.double() + neck.eps).sqrt()
            scale[row] = neck.weight.detach().double() / spread
            shift[row] = neck.bias.detach().double() - neck.running_mean.double() * scale[row]
    return scale * shares, shift * shares


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.float().contiguous().clone(), requires_grad=False)


def _for_each(constant: Tensor, crops: int) -> Tensor:
    """A constant (R, D) once for each crop, (N, R, D)."""
    return constant.expand(crops, constant.shape[0], constant.shape[1])


def _block(module: nn.Module) -> Block:
    assert isinstance(module, Block)
    return module
