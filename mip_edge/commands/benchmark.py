"""`mip-edge benchmark`: milliseconds a crop of each engine, on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from mip_edge.commands.shared import (
    batches_option,
    engines_option,
    precision_option,
    threads_option,
)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The weights that the bundle was made of: PyTorch is timed first, for comparison.",
)
@engines_option
@batches_option
@click.option(
    "--repeats",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="Timed calls of each engine, modality and batch.",
)
@threads_option
@precision_option
@click.option(
    "--share-weights",
    is_flag=True,
    help="Time onnxruntime a second time, as it runs where two engines share their weights.",
)
@click.option(
    "--memory",
    is_flag=True,
    help="Measure memory too: each engine in a process of its own, both modalities open; "
    "onnxruntime also sharing weights. Linux only.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def benchmark(
    bundle: Path,
    checkpoint: Path | None,
    engines: tuple[str, ...],
    batches: tuple[int, ...],
    repeats: int,
    threads: int | None,
    precision: str,
    share_weights: bool,
    memory: bool,
    as_json: bool,
) -> None:
    """Time engines on BUNDLE, in turn: median and 95th percentile of milliseconds a crop."""
    from mip_edge.benchmark import BenchmarkOptions, format_timings
    from mip_edge.benchmark import benchmark as run_benchmark
    from mip_edge.memory import format_memory, measure_memory

    options = BenchmarkOptions(engines, batches, repeats, threads, precision, share_weights)
    # Memory first: while an engine is open here, the child's weights would count by halves.
    measured = (
        measure_memory(bundle, engines, batches, precision=precision, threads=threads)
        if memory
        else None
    )
    timings = run_benchmark(bundle, options, checkpoint=checkpoint)
    if as_json:
        document = {
            "timings": [timing.to_dict() for timing in timings],
            "memory": None if measured is None else [asdict(one) for one in measured],
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo(format_timings(timings))
    if measured is not None:
        click.echo("\n" + format_memory(measured))
