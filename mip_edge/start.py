"""What a training starts from: the network and its first weights, the teacher, the device."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import torch

from mip_edge.checkpoint import initialize, load, load_vit_weights, read_metadata
from mip_edge.errors import CheckpointError, OptionError
from mip_edge.hub import fetch_weights, is_hub_name
from mip_edge.model.mip import MIP
from mip_edge.model.options import MIPOptions
from mip_edge.objective import Teacher
from mip_edge.recipe import RECIPES, TrainOptions
from mip_edge.training_set import TrainingSet

logger = logging.getLogger(__name__)

STARTER_MODEL = "tiny"
STARTER = Path(__file__).parent / "assets" / "mip_tiny_synthetic.safetensors"
"""The checkpoint that comes with the package; `--init synthetic` means it."""


def build_model(
    options: TrainOptions, *, names: list[str], cameras: int = 0
) -> tuple[MIP, dict[str, Any] | None]:
    """The network that `options` (resolved) name, and which weights of the hub it has, if any.

    `names` are the identities that its classifiers tell apart. Classifiers of `options.init` are
    taken only if they tell apart the same.
    Raises: CheckpointError, OptionError.
    """
    classes = len(names)
    if options.init is None:
        return MIP(_model_options(options, classes, cameras, {})), None
    weights = None
    if options.init == "synthetic":
        if options.model != STARTER_MODEL:
            raise OptionError(
                f"--init synthetic is a {STARTER_MODEL} network, --model is {options.model}; "
                f"choose --model {STARTER_MODEL}, or another --init"
            )
        path = STARTER
    elif is_hub_name(options.init):
        fetched = fetch_weights(options.init)
        path, weights = fetched.path, dict(fetched.record())
    else:
        path = Path(options.init)
    if not path.is_file():
        raise CheckpointError(f"--init {options.init}: there is no such file")
    try:
        record = read_metadata(path)
    except CheckpointError:
        # Not ours: the weights of a plain ViT, or a file that load_vit_weights will name.
        model = MIP(_model_options(options, classes, cameras, {}))
        load_vit_weights(model, path)
        return model, weights
    model = MIP(_model_options(options, classes, cameras, record["options"]))
    known = _identities(record)
    if known is not None and known != names:
        logger.info("--init %s knows other people: its classifiers start anew", options.init)
    initialize(model, path, classifiers=known == names, prompts=options.init_prompts)
    return model, weights


def open_teacher(options: TrainOptions, samples: TrainingSet) -> Teacher | None:
    """The network of `--teacher`; its scores count if it tells apart all identities of `samples`.

    Raises: CheckpointError if the file is no checkpoint.
    """
    if options.teacher is None:
        return None
    path = Path(options.teacher)
    model, known = load(path), _identities(read_metadata(path))
    columns = None
    if known is not None and model.options.classes and set(samples.names) <= set(known):
        row = {name: number for number, name in enumerate(known)}
        columns = torch.tensor([row[name] for name in samples.names])
    cameras = read_metadata(path).get("cameras") or None
    return Teacher(model, columns, cameras=cameras == samples.camera_table())


def open_device(options: TrainOptions) -> torch.device:
    """The device of this process: under torchrun each process has the CUDA device of its number.

    Raises: OptionError if it cannot be used.
    """
    name = options.device
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"--device {options.device} cannot be used ({reason})") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return device


def choose_amp(model: MIP, options: TrainOptions) -> bool:
    """Whether to train in mixed precision; on a CPU with "auto" one timed step of each decides."""
    device = next(model.parameters()).device
    if options.amp != "auto":
        return options.amp == "on"
    if device.type != "cpu":
        return True
    images = torch.zeros(16, 3, *model.options.image_size)
    flags = torch.arange(16) % 2
    seconds = {}
    with torch.random.fork_rng(devices=[]):
        for amp in (False, True, False, True):
            begun = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
                output = model.train()(images, flags)
            torch.stack([one.float().sum() for one in output.features]).sum().backward()  # type: ignore[no-untyped-call]
            seconds[amp] = time.perf_counter() - begun
    model.zero_grad(set_to_none=True)
    return seconds[True] < seconds[False]


def amp_type(device: torch.device) -> torch.dtype:
    """Of mixed precision: float16 on CUDA as published, bfloat16 elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def _model_options(
    options: TrainOptions, classes: int, cameras: int, known: dict[str, Any]
) -> MIPOptions:
    queries = RECIPES[options.recipe]["instance_queries"]
    return MIPOptions.preset(
        options.model,
        image_size=options.image_size or tuple(known.get("image_size", (256, 128))),
        stride=options.stride or known.get("stride", 12),
        prompt_length=known.get("prompt_length", 16),
        instance_queries=options.instance_queries or known.get("instance_queries", queries),
        modality_prompts=options.modality_prompts,
        instance_prompts=options.instance_prompts,
        prompt_scale=options.prompt_scale,
        cameras=cameras,
        classes=classes,
        iael=bool(options.iael),
        iael_block=options.iael_block,
    )


def _identities(record: dict[str, Any]) -> list[str] | None:
    training = record.get("training") or {}
    data = training.get("data") if isinstance(training, dict) else None
    names = data.get("names") if isinstance(data, dict) else None
    return names if isinstance(names, list) else None
