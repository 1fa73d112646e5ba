"""Options that several commands have in the same words."""

from __future__ import annotations

import click

engine_option = click.option(
    "--engine",
    type=str,
    show_default="torch for a .safetensors file, onnxruntime for a bundle",
    help="What runs the model: onnxruntime, openvino, torch or auto.",
)
batch_option = click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Images read and embedded at once.",
)
