"""`mip-edge benchmark`: how fast each engine and precision of a bundle is on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mip_edge.commands.shared import batches_option, engines_option, threads_option


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--checkpoint",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The weights that the bundle was made of: PyTorch with the published-style forward is "
    "timed first, and all others are measured by it.",
)
@engines_option
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(["all", "fp32", "fp16", "int8", "int8-fp16"]),
    default=("all",),
    show_default=True,
    help="Graphs of the bundle to time; may be given several times. all: every one it holds.",
)
@batches_option
@click.option(
    "--modality",
    "modalities",
    multiple=True,
    type=click.Choice(["visible", "infrared"]),
    show_default="both",
    help="Whose graphs are timed; may be given twice.",
)
@click.option(
    "--repeats",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="Timed calls of each engine, precision, modality and batch; a p99 wants 100.",
)
@threads_option
@click.option(
    "--engine-option",
    "engine_options",
    multiple=True,
    metavar="[ENGINE.]KEY=VALUE",
    show_default="none",
    help="For every engine that knows KEY, or for one; may be given several times.",
)
@click.option(
    "--share-weights",
    is_flag=True,
    help="Time onnxruntime a second time, as it runs where two engines share their weights.",
)
@click.option(
    "--memory",
    is_flag=True,
    help="Measure memory too: each engine and precision in a process of its own, both modalities "
    "open; onnxruntime also sharing weights. Linux only.",
)
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the tables as Markdown too.",
)
@click.option(
    "--plots",
    type=click.Path(path_type=Path),
    help="Folder for two pictures: accuracy against latency, throughput against batch.",
)
@click.option("--overwrite", is_flag=True, help="Replace older files of --markdown and --plots.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def benchmark(
    bundle: Path,
    checkpoint: Path | None,
    modalities: tuple[str, ...],
    markdown: Path | None,
    plots: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Time engines and precisions of BUNDLE in turn, beside accuracy, memory and machine's peak.

    In every round each engine embeds the same crops once, so that a busy machine is busy for all.
    """
    from mip_edge.benchmark import BenchmarkOptions, run_benchmark
    from mip_edge.benchmark_chart import check_plots, draw_plots
    from mip_edge.benchmark_table import check_markdown, format_benchmark, write_markdown
    from mip_edge.spec import Modality

    chosen = tuple(dict.fromkeys(Modality(modality) for modality in modalities))
    settings = BenchmarkOptions(modalities=chosen, ceiling=True, **options)
    if markdown is not None:
        check_markdown(markdown, overwrite=overwrite)
    if plots is not None:
        check_plots(plots, overwrite=overwrite)
    result = run_benchmark(bundle, settings, checkpoint=checkpoint)
    if markdown is not None:
        write_markdown(result, markdown)
    if plots is not None:
        draw_plots(result, plots)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        click.echo(format_benchmark(result))
