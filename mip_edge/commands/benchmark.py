"""`mip-edge benchmark`: milliseconds a crop of each engine, on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The weights that the bundle was made of: PyTorch is timed first, for comparison.",
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    default=("onnxruntime",),
    show_default=True,
    type=str,
    help="Engine to time; may be given several times.",
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    default=(1, 8),
    show_default=True,
    type=click.IntRange(min=1),
    help="Crops of one call; may be given several times.",
)
@click.option(
    "--repeats",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="Timed calls of each engine, modality and batch.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads of each engine.  [default: as the runtime chooses]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def benchmark(
    bundle: Path,
    checkpoint: Path | None,
    engines: tuple[str, ...],
    batches: tuple[int, ...],
    repeats: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Time engines on BUNDLE, in turn: median and 95th percentile of milliseconds a crop."""
    from mip_edge.benchmark import BenchmarkOptions, format_timings
    from mip_edge.benchmark import benchmark as run_benchmark

    options = BenchmarkOptions(engines, batches, repeats, threads)
    timings = run_benchmark(bundle, options, checkpoint=checkpoint)
    if as_json:
        click.echo(json.dumps([timing.to_dict() for timing in timings], indent=2))
    else:
        click.echo(format_timings(timings))
