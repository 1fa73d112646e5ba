"""Options that several commands have in the same words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

engine_option = click.option(
    "--engine",
    type=str,
    show_default="torch for a .safetensors file, onnxruntime for a bundle",
    help="What runs the model: onnxruntime, openvino, torch, tensorrt, tensorrt-rtx, or auto: the "
    "fastest that is installed, measured once.",
)
embedder_engine_option = click.option(
    "--engine",
    default="onnxruntime",
    show_default=True,
    metavar="NAME",
    help="Runtime of the embedder; `mip-edge doctor` lists those that open here.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8", "int8-fp16", "auto"]),
    default="fp32",
    show_default=True,
    help="Graphs of the bundle to run. int8 (mip-edge export --int8) is made for CPUs; fp16 and "
    "int8-fp16 for GPUs, on a CPU they are mostly slower. auto takes the fastest that the bundle "
    "holds, measured once. A .safetensors file runs in fp32.",
)
engine_options_option = click.option(
    "--engine-option",
    "engine_options",
    multiple=True,
    metavar="KEY=VALUE",
    show_default="none",
    help="Told to the engine, such as hint=throughput to openvino; may be given several times. An "
    "unknown KEY names those that the engine has.",
)
share_weights_option = click.option(
    "--share-weights",
    is_flag=True,
    help="Keep the weights of both modalities in memory once, for a somewhat slower call "
    "(onnxruntime; a bundle of the layout unified has them once anyway).",
)
engines_option = click.option(
    "--engine",
    "engines",
    multiple=True,
    default=("onnxruntime",),
    show_default=True,
    type=str,
    help="Engine to time; may be given several times.",
)
batches_option = click.option(
    "--batch",
    "batches",
    multiple=True,
    default=(1, 8),
    show_default=True,
    type=click.IntRange(min=1),
    help="Crops of one call; may be given several times.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    show_default="as the runtime chooses",
    help="Threads of each engine.",
)
batch_option = click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Images read and embedded at once.",
)
split_option = click.option(
    "--split",
    type=click.IntRange(1, 10),
    default=1,
    show_default=True,
    help="Which of the ten splits of RegDB.",
)


def dataset_option(of: str = "DATA", *, note: str = "") -> Callable[[Command], Command]:
    """`--dataset`; `of` is what the command calls the data set."""
    return click.option(
        "--dataset",
        type=click.Choice(("folder", "sysu", "regdb", "llcm")),
        default="folder",
        show_default=True,
        help=f"Layout of {of}: our own, or SYSU-MM01, RegDB or LLCM as they are handed out{note}.",
    )


def read_engine_options(model: Path, engine: str | None, texts: Iterable[str]) -> dict[str, Any]:
    """Typed values of --engine-option for the engine that opens `model`.

    Raises: OptionError naming what the engine has; EngineError for an unknown engine.
    """
    texts = tuple(texts)
    if not texts:
        return {}
    from engines.table import read_options
    from mip_edge.embedding import default_engine

    return read_options(engine or default_engine(model), texts)
