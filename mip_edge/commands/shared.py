"""Options that several commands have in the same words."""

from __future__ import annotations

import click

engine_option = click.option(
    "--engine",
    type=str,
    show_default="torch for a .safetensors file, onnxruntime for a bundle",
    help="What runs the model: onnxruntime, openvino, torch or auto.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="Graphs of the bundle to run. fp16 (mip-edge export --fp16) is made for GPUs; on a CPU it "
    "is mostly slower. A .safetensors file runs in fp32.",
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
