"""Checkpoints: one safetensors file that holds a MIP network and all that is known of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mip_edge import __version__
from mip_edge.errors import CheckpointError, OptionError, OutputError
from mip_edge.model.foreign import from_official, from_vit, official_options
from mip_edge.model.mip import MIP
from mip_edge.model.options import MIPOptions
from mip_edge.model.vit import resize_positions
from mip_edge.output import write_beside
from mip_edge.spec import Modality

FORMAT = "mip-edge checkpoint"
VERSION = 1
_METADATA_KEY = "mip_edge"
_PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".tar")
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_PREPROCESSING = {"channels": "RGB", "mean": 0.5, "std": 0.5, "resize": "bilinear"}


def save(
    model: MIP,
    path: str | os.PathLike[str],
    *,
    training: Mapping[str, Any] | None = None,
    cameras: Sequence[Mapping[str, str]] | None = None,
    min_similarity: float | None = None,
    dtype: str = "float32",
) -> None:
    """Write `model` to one .safetensors file, beside first and then renamed.

    `training` says what it was trained on, `cameras` names the rows of the camera embedding
    ({"name", "modality"}). Tensors of equal bytes are stored once.
    Raises: OutputError if the place cannot be written; OptionError for a camera table, dtype
    or training record that cannot be; CheckpointError for a weight beyond float16.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise OutputError(f"{path} must end in .safetensors")
    if dtype not in _DTYPES:
        raise OptionError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    stored, aliases = _store_once(_cast(model, _DTYPES[dtype]))
    record = {
        "format": FORMAT,
        "version": VERSION,
        "code_version": __version__,
        "options": model.options.to_dict(),
        "preprocessing": _PREPROCESSING,
        "cameras": _camera_table(cameras, model.options),
        "training": None if training is None else dict(training),
        "min_similarity": min_similarity,
        "aliases": aliases,
    }
    try:
        metadata = {_METADATA_KEY: json.dumps(record, allow_nan=False)}
    except (TypeError, ValueError) as error:
        raise OptionError(f"the training record is no plain JSON: {error}") from error
    content = safetensors.torch.save(stored, metadata)
    with write_beside(path) as stream:
        stream.write(content)


def load(path: str | os.PathLike[str]) -> MIP:
    """The network of a checkpoint, float32, in eval mode; no code of the file is run.

    Raises: CheckpointError for a file that is absent, truncated, altered or of another kind.
    """
    record, state = _read(Path(path))
    options = _options(record, Path(path))
    with torch.device("meta"):
        model = MIP(options)
    with _naming(path):
        _check_tensors(model.state_dict(), state)
    model.load_state_dict(state, assign=True)
    return model.eval()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a checkpoint says of itself, without its weights: options, preprocessing, cameras,
    training, min_similarity, format, version, code_version."""
    with _open(Path(path)) as file:
        record = _parse(file.metadata(), Path(path))
    record.pop("aliases", None)
    return record


def initialize(
    model: MIP, path: str | os.PathLike[str], *, classifiers: bool = True, prompts: bool = True
) -> list[str]:
    """Start `model` from a checkpoint of other image size, stride, classes or cameras.

    The position embedding is resized; classifiers and necks are left out when the classes
    differ, camera embeddings when their number does, and prompts and the parts of IAEL that one
    of both does not have. Without `classifiers` those are left out too (the same number of
    classes is not the same people), without `prompts` all prompts and their generator. Gives the
    names that kept their start.
    Raises: CheckpointError if the networks differ in more than that.
    """
    record, state = _read(Path(path))
    theirs, ours = _options(record, Path(path)), model.options
    target = model.state_dict()
    left = ["sie_embed"] if theirs.cameras != ours.cameras else []
    if theirs.classes != ours.classes or not classifiers:
        left += ["necks", "classifiers", "instance_necks", "instance_classifiers"]
    if theirs.iael != ours.iael:
        left += ["instance_necks", "instance_classifiers"]
    if theirs.iael_block != ours.iael_block or not prompts:
        left += ["instance_row"]
    if theirs.modality_prompts != ours.modality_prompts or not prompts:
        left += ["modality_prompts"]
    if theirs.instance_prompts != ours.instance_prompts or not prompts:
        left += ["instance_prompts"]
    if theirs.instance_queries != ours.instance_queries:
        left += ["instance_prompts.queries"]
    chosen = {
        name: tensor
        for name, tensor in state.items()
        if not any(name == part or name.startswith(f"{part}.") for part in left)
    }
    kept = [name for name in target if name not in chosen]
    with _naming(path):
        if theirs.heads != ours.heads:
            raise CheckpointError(f"it has {theirs.heads} heads, this model {ours.heads}")
        positions = chosen.get("pos_embed")
        if positions is not None and positions.shape[1] == 1 + theirs.patches:
            chosen["pos_embed"] = resize_positions(positions, theirs.grid, ours.grid)
        expected = {
            name: tensor
            for name, tensor in target.items()
            if not any(name == part or name.startswith(f"{part}.") for part in left)
        }
        _check_tensors(expected, chosen)
    model.load_state_dict(chosen, strict=False)
    return kept


def fingerprint(model: MIP) -> str:
    """SHA-256 over the options and every weight as float32, 64 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(model.options.to_dict(), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def import_official(
    path: str | os.PathLike[str],
    image_size: tuple[int, int] = (256, 128),
    stride: int = 12,
    instance_queries: str = "zero",
    *,
    heads: int = 12,
    iael: bool = False,
    iael_block: bool = False,
) -> MIP:
    """A checkpoint of the published MIP code (.pth), in eval mode; keys it does not need are
    passed over. `iael` takes the instance classifiers too, `iael_block` the block before them.

    Raises: CheckpointError naming what is missing or has the wrong shape.
    """
    state = _read_foreign(Path(path))
    with _naming(path):
        options = official_options(
            state,
            heads=heads,
            image_size=image_size,
            stride=stride,
            instance_queries=instance_queries,
            iael=iael,
            iael_block=iael_block,
        )
        model = MIP(options)
        named = from_official(state, options)
        _check_tensors(model.state_dict(), named)
    model.load_state_dict(named)
    return model.eval()


def load_vit_weights(
    model: MIP,
    path: str | os.PathLike[str],
    *,
    instance_prompts_from_block0: bool = False,
) -> None:
    """Start `model` from a plain ViT of timm or Hugging Face (.safetensors or .pth).

    Its last block and norm start both parts of the head, and IAEL's extra block. The instance
    prompt generator keeps its random start, as published, unless it shall start from block 0.
    Raises: CheckpointError naming what is missing or has the wrong shape.
    """
    state = _read_foreign(Path(path))
    with _naming(path):
        named = from_vit(state, model.options, prompts_from_block0=instance_prompts_from_block0)
        target = model.state_dict()
        _check_tensors({name: target[name] for name in named}, named)
    model.load_state_dict(named, strict=False)


def _cast(model: MIP, dtype: torch.dtype) -> dict[str, Tensor]:
    cast: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.is_floating_point():
            # Running statistics are few and may be large: they stay float32.
            half = dtype if "running_" not in name else torch.float32
            narrowed = tensor.to(half)
            if half == torch.float16 and not bool(torch.isfinite(narrowed).all()):
                raise CheckpointError(f"{name!r} holds values beyond float16; save it as float32")
            tensor = narrowed
        cast[name] = tensor
    return cast


def _store_once(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    stored: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    for name, tensor in state.items():
        content = hashlib.sha256(tensor.numpy().tobytes()).digest()
        key = (str(tensor.dtype), tuple(tensor.shape), content)
        if key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            # A tensor may be a view of another; the file wants each in memory of its own.
            stored[name] = tensor.clone()
    return stored, aliases


def _camera_table(
    cameras: Sequence[Mapping[str, str]] | None, options: MIPOptions
) -> list[dict[str, str]]:
    table = [dict(camera) for camera in cameras or ()]
    if cameras is not None and len(table) != options.cameras:
        raise OptionError(f"{len(table)} cameras are named, the model knows {options.cameras}")
    known = [modality.value for modality in Modality]
    for camera in table:
        if set(camera) != {"name", "modality"} or camera["modality"] not in known:
            raise OptionError(
                f"a camera needs a name and a modality ({' or '.join(known)}), got {camera}"
            )
    return [{"name": str(camera["name"]), "modality": str(camera["modality"])} for camera in table]


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the file's name before an error of what it holds."""
    try:
        yield
    except (CheckpointError, OptionError) as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error


def _check_tensors(expected: Mapping[str, Tensor], came: Mapping[str, Tensor]) -> None:
    for names, trouble in (
        ([name for name in expected if name not in came], "is missing"),
        ([name for name in came if name not in expected], "is not of this model"),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise CheckpointError(f"{names[0]!r} {trouble}{more}")
    for name, tensor in expected.items():
        given = came[name]
        if given.shape != tensor.shape:
            raise CheckpointError(
                f"{name!r} has the shape {tuple(given.shape)}, expected {tuple(tensor.shape)}"
            )
        if given.is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(f"{name!r} has the type {given.dtype}, expected {tensor.dtype}")


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; expected a .safetensors checkpoint")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (OSError, safetensors.SafetensorError) as error:
        way = "copy or make it anew"
        if path.suffix in _PICKLED:
            way = (
                "take the best.safetensors that training wrote; a checkpoint of the published MIP "
                "code becomes one by mip_edge.checkpoint.import_official and save"
            )
        raise CheckpointError(f"{path} is no whole safetensors file ({error}); {way}") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with _open(path) as file:
        record = _parse(file.metadata(), path)
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in stored.items()
    }
    aliases = record.get("aliases", {})
    if not isinstance(aliases, dict):
        raise CheckpointError(f"{path}: its alias table is no table")
    for name, source in aliases.items():
        if str(source) not in stored:
            raise CheckpointError(f"{path}: {source!r} is missing")
        state[name] = state[str(source)].clone()
    return record, state


def _parse(metadata: Mapping[str, str] | None, path: Path) -> dict[str, Any]:
    text = (metadata or {}).get(_METADATA_KEY)
    if text is None:
        raise CheckpointError(
            f"{path} is a safetensors file of another kind; expected one that mip-edge wrote "
            "(a ViT can start a training: mip-edge train --init)"
        )
    try:
        record = json.loads(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: its metadata is no JSON ({error})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(f"{path}: its metadata is not of a {FORMAT}")
    if record.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has the format version {record.get('version')!r}, "
            f"this mip-edge reads {VERSION}; update mip-edge"
        )
    return record


def _options(record: Mapping[str, Any], path: Path) -> MIPOptions:
    values = record.get("options")
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: its metadata has no model options")
    with _naming(path):
        return MIPOptions.from_dict(values)


def _read_foreign(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with _open(path) as file:
            return {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; expected a .pth or .safetensors state dict")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in reason:  # torch's advice is to unpickle whatever it holds
            reason = "torch reads no tensors in it, and nothing else of it is unpickled"
        raise CheckpointError(f"{path} is no state dict of plain tensors ({reason})") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise CheckpointError(f"{path} holds no state dict (names and tensors)")
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in content.items()
    }
