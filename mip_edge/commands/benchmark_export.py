"""`mip-edge benchmark-export`: what the rewriting of the graph gives, on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from export.form import TRIED
from mip_edge.commands.shared import batches_option, engines_option, threads_option


@click.command("benchmark-export")
@click.argument(
    "weights", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--model",
    type=click.Choice(["tiny", "small", "base"]),
    show_default="base",
    help="Size of a network of random weights: width 192, 384 or 768.",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    show_default="12",
    help="Its pixels from patch to patch.",
)
@click.option(
    "--instance-queries",
    type=click.Choice(["zero", "learnable"]),
    show_default="zero",
    help="What asks its instance prompt generator.",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=16),
    nargs=2,
    show_default="256 128",
    help="Height and width of its crops in pixels.",
)
@click.option(
    "--form",
    "forms",
    multiple=True,
    type=click.Choice(list(TRIED)),
    show_default="straight, rows, full and cpu",
    help="Another form of the graph to time beside these; may be given several times.",
)
@engines_option
@click.option(
    "--modality",
    "modalities",
    multiple=True,
    type=click.Choice(["visible", "infrared"]),
    default=("visible", "infrared"),
    show_default=True,
    help="Whose graphs are timed; may be given several times.",
)
@batches_option
@click.option(
    "--repeats",
    default=10,
    show_default=True,
    type=click.IntRange(min=1),
    help="Timed calls of each graph, engine, modality and batch.",
)
@threads_option
@click.option(
    "--chart", type=click.Path(dir_okay=False, path_type=Path), help="Draw the times as PNG."
)
@click.option("--overwrite", is_flag=True, help="Replace an older --chart.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def benchmark_export(
    weights: Path | None,
    modalities: tuple[str, ...],
    chart: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Time the exported graph beside the published one and the steps between, in turn.

    The network of WEIGHTS, or one of random weights, is exported as published (straight), without
    the rows that nobody reads (rows), with all that is folded away (full), and so for a CPU (cpu).
    The bundles lie in a temporary folder: base needs 1.5 GB there, and TMPDIR says where.
    """
    from mip_edge.benchmark_export import ExportBenchmarkOptions, format_export_benchmark
    from mip_edge.benchmark_export import benchmark_export as run
    from mip_edge.spec import Modality
    from mip_edge.surgery_chart import check_chart, draw_chart

    chosen = tuple(dict.fromkeys(Modality(modality) for modality in modalities))
    settings = ExportBenchmarkOptions(modalities=chosen, **options)
    if chart is not None:
        check_chart(chart, overwrite=overwrite)
    result = run(settings, weights)
    if chart is not None:
        draw_chart(result, chart)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        click.echo(format_export_benchmark(result))
