"""State dicts of other programmes, in our names: the published MIP code, timm, Hugging Face."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from mip_edge.errors import CheckpointError, OptionError
from mip_edge.model.options import LOCAL_GROUPS, MIPOptions
from mip_edge.model.vit import resize_positions

State = Mapping[str, Tensor]

_PARAMETERS = ("weight", "bias")
_FUSED = ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_NECK = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_HUGGING_FACE_BLOCK = {
    "norm1": "layernorm_before",
    "attn.q": "attention.attention.query",
    "attn.k": "attention.attention.key",
    "attn.v": "attention.attention.value",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def take(state: State, key: str) -> Tensor:
    """One tensor of a foreign state dict. Raises: CheckpointError naming what is missing."""
    try:
        return state[key]
    except KeyError:
        raise CheckpointError(f"{key!r} is missing") from None


def official_options(
    state: State,
    *,
    heads: int,
    image_size: tuple[int, int],
    stride: int,
    instance_queries: str,
    iael: bool,
    iael_block: bool,
) -> MIPOptions:
    """Options of a published MIP state dict, read from the shapes of its tensors."""
    library = _shaped(state, "base.prompt_embeddings", 3)
    deep = _shaped(state, "base.deep_prompt_embeddings", 4)
    sie = state.get("base.sie_embed")
    classifier = state.get("classifier.weight")
    return MIPOptions(
        width=library.shape[2],
        heads=heads,
        depth=deep.shape[1],
        image_size=image_size,
        patch=_shaped(state, "base.patch_embed.proj.weight", 4).shape[2],
        stride=stride,
        prompt_length=library.shape[1],
        instance_queries=instance_queries,
        cameras=0 if sie is None else sie.shape[0],
        classes=0 if classifier is None else classifier.shape[0],
        iael=iael,
        iael_block=iael_block,
    )


def from_official(state: State, options: MIPOptions) -> dict[str, Tensor]:
    """A published MIP state dict in our names; keys that are not needed are left."""
    named = {
        ours: take(state, f"base.{ours}")
        for ours in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
    }
    if options.cameras:
        named["sie_embed"] = take(state, "base.sie_embed")
    first = take(state, "base.prompt_embeddings").unsqueeze(1)
    deep = take(state, "base.deep_prompt_embeddings")[:, : options.layers - 1]
    named["modality_prompts.library"] = torch.cat([first, deep], dim=1)
    named |= _module(state, "base.prompt_proj", "modality_prompts.proj")
    named |= _fused_block(state, "base.instance_prompt_generator", "instance_prompts.block")
    if options.instance_queries == "learnable":
        named["instance_prompts.queries"] = take(state, "base.prompt_embed")
    for layer in range(options.layers):
        named |= _fused_block(state, f"base.blocks.{layer}", f"blocks.{layer}")
    for theirs, ours in (("b1", "global"), ("b2", "local")):
        named |= _fused_block(state, f"{theirs}.0", f"head.{ours}_block")
        named |= _module(state, f"{theirs}.1", f"head.{ours}_norm")
    return named | _official_necks(state, options)


def _official_necks(state: State, options: MIPOptions) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for part in range(1 + LOCAL_GROUPS):
        suffix = f"_{part}" if part else ""
        named |= _module(state, f"bottleneck{suffix}", f"necks.{part}", _NECK)
        if options.classes:
            named |= _module(state, f"classifier{suffix}", f"classifiers.{part}", ("weight",))
    for layer in range(options.layers if options.iael else 0):
        for theirs, ours, parameters in (
            ("bottlenecks_ins_prompts", "instance_necks", _NECK),
            ("classifiers_ins_prompts", "instance_classifiers", ("weight",)),
        ):
            named |= _module(state, f"{theirs}.{layer}", f"{ours}.{layer}", parameters)
    if options.iael_block:
        named["instance_row.token"] = take(state, "zero_token")
        named |= _fused_block(state, "b3.0", "instance_row.block")
        named |= _module(state, "b3.1", "instance_row.norm")
    return named


def from_vit(state: State, options: MIPOptions, *, prompts_from_block0: bool) -> dict[str, Tensor]:
    """A ViT state dict (timm or Hugging Face) in our names; its last block and norm for each part
    of the head, and for the extra block of IAEL if there is one.

    Raises: OptionError for `prompts_from_block0` if there are no instance prompts.
    """
    if prompts_from_block0 and not options.instance_prompts:
        raise OptionError("instance prompts cannot start from block 0: this model has none")
    class_key = next((key for key in state if key.split(".")[-1] == "cls_token"), None)
    if class_key is None:
        raise CheckpointError("no 'cls_token' is in it; expected a ViT of timm or Hugging Face")
    prefix = class_key.removesuffix("cls_token")
    if prefix.endswith("embeddings."):
        named, blocks, norm = _hugging_face(state, prefix.removesuffix("embeddings."), options)
    else:
        named, blocks, norm = _timm(state, prefix, options)
    positions = named["pos_embed"]
    if positions.dim() != 3 or positions.shape[1] < 2:
        raise CheckpointError(f"its position embedding has the shape {tuple(positions.shape)}")
    named["pos_embed"] = resize_positions(
        positions, _grid(positions.shape[1] - 1, options), options.grid
    )
    for layer in range(options.layers):
        named |= _prefixed(blocks[layer], f"blocks.{layer}")
    for part in ("global", "local"):
        named |= _prefixed(blocks[options.depth - 1], f"head.{part}_block")
        named |= _prefixed(norm, f"head.{part}_norm")
    if options.iael_block:
        named |= _prefixed(blocks[options.depth - 1], "instance_row.block")
        named |= _prefixed(norm, "instance_row.norm")
    if prompts_from_block0:
        named |= _prefixed(blocks[0], "instance_prompts.block")
    return named


_Vit = tuple[dict[str, Tensor], dict[int, dict[str, Tensor]], dict[str, Tensor]]


def _timm(state: State, prefix: str, options: MIPOptions) -> _Vit:
    named = {
        ours: take(state, prefix + ours)
        for ours in ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
    }
    blocks = {
        layer: _fused_block(state, f"{prefix}blocks.{layer}", "") for layer in _needed(options)
    }
    return named, blocks, _module(state, f"{prefix}norm", "")


def _hugging_face(state: State, prefix: str, options: MIPOptions) -> _Vit:
    embeddings = f"{prefix}embeddings"
    named = {
        "cls_token": take(state, f"{embeddings}.cls_token"),
        "pos_embed": take(state, f"{embeddings}.position_embeddings"),
    }
    named |= _module(state, f"{embeddings}.patch_embeddings.projection", "patch_embed.proj")
    blocks: dict[int, dict[str, Tensor]] = {}
    for layer in _needed(options):
        blocks[layer] = {}
        for ours, theirs in _HUGGING_FACE_BLOCK.items():
            blocks[layer] |= _module(state, f"{prefix}encoder.layer.{layer}.{theirs}", ours)
    return named, blocks, _module(state, f"{prefix}layernorm", "")


def _needed(options: MIPOptions) -> list[int]:
    return [*range(options.layers), options.depth - 1]


def _grid(patches: int, options: MIPOptions) -> tuple[int, int]:
    side = math.isqrt(patches)
    if side * side == patches:
        return side, side
    if patches == options.patches:
        return options.grid
    raise CheckpointError(f"its position embedding has {patches} patches, which are no square")


def _fused_block(state: State, theirs: str, ours: str) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name in _FUSED:
        named |= _module(state, f"{theirs}.{name}", _join(ours, name))
    for parameter in _PARAMETERS:
        key = f"{theirs}.attn.qkv.{parameter}"
        fused = take(state, key)
        if fused.dim() == 0 or fused.shape[0] % 3:
            raise CheckpointError(
                f"{key!r} has the shape {tuple(fused.shape)}, which is not three maps in one"
            )
        for name, one in zip("qkv", fused.chunk(3), strict=True):
            named[_join(ours, f"attn.{name}.{parameter}")] = one
    return named


def _module(
    state: State, theirs: str, ours: str, parameters: Iterable[str] = _PARAMETERS
) -> dict[str, Tensor]:
    return {
        _join(ours, parameter): take(state, f"{theirs}.{parameter}") for parameter in parameters
    }


def _prefixed(named: State, prefix: str) -> dict[str, Tensor]:
    return {_join(prefix, name): tensor for name, tensor in named.items()}


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _shaped(state: State, key: str, dimensions: int) -> Tensor:
    tensor = take(state, key)
    if tensor.dim() != dimensions:
        raise CheckpointError(
            f"{key!r} has the shape {tuple(tensor.shape)}, expected {dimensions} dimensions"
        )
    return tensor
