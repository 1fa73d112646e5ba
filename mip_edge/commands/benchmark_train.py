"""`mip-edge benchmark-train`: what a training step costs, beside the published code's."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command("benchmark-train")
@click.option(
    "--model",
    type=click.Choice(["tiny", "small", "base"]),
    default="base",
    show_default=True,
    help="Size of the network: width 192, 384 or 768.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Crops of a step, a multiple of 4.",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=16),
    nargs=2,
    default=(256, 128),
    show_default=True,
    help="Height and width of a crop in pixels.",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    help="Pixels from patch to patch.",
)
@click.option(
    "--instance-queries",
    type=click.Choice(["zero", "learnable"]),
    default="zero",
    show_default=True,
    help="What asks the instance prompt generator.",
)
@click.option(
    "--iael/--no-iael",
    default=False,
    show_default=True,
    help="Train with the instance-aware enhancement loss.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Timed steps of each, after one to warm up.",
)
@click.option(
    "--accumulate",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Parts in which a batch goes through the network.",
)
@click.option(
    "--amp",
    type=click.Choice(["on", "off"]),
    default="off",
    show_default=True,
    help="Mixed precision: float16 on CUDA, bfloat16 on a CPU.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--threads", type=click.IntRange(min=1), show_default="all cores", help="Threads of a CPU."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def benchmark_train(amp: str, as_json: bool, **options: Any) -> None:
    """Time a whole training step beside the published forward with its dead work, in turn.

    Random crops through forward, losses, backward and SGD step; both share weights, batch and
    optimizer. The peak memory is that of the training alone: weights, gradients, momentum and
    activations, on a CPU measured in a fresh process of each.
    """
    from mip_edge.benchmark_train import TrainBenchmarkOptions, format_train_benchmark
    from mip_edge.benchmark_train import benchmark_train as run

    result = run(TrainBenchmarkOptions(amp=amp == "on", **options))
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        click.echo(format_train_benchmark(result))
