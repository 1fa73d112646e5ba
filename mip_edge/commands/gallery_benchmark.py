"""The command `mip-edge gallery benchmark`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click


@click.command()
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.IntRange(min=100),
    default=(1_000, 10_000, 100_000),
    show_default=True,
    help="Embeddings in the gallery; may be given several times. 1000000 takes some minutes.",
)
@click.option(
    "--dimension",
    type=click.IntRange(min=2),
    default=512,
    show_default=True,
    help="Length of one embedding.",
)
@click.option(
    "--queries",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Searches timed at each size.",
)
@click.option(
    "--spread",
    type=click.Choice(["people", "random"]),
    default="people",
    show_default=True,
    help="people: ten views of each; random: directions that no model makes, the worst case.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--markdown", is_flag=True, help="Print the table in Markdown.")
def benchmark(
    sizes: tuple[int, ...],
    dimension: int,
    queries: int,
    spread: str,
    as_json: bool,
    markdown: bool,
) -> None:
    """Time a gallery of drawn embeddings at several sizes.

    It lies in a temporary folder, and is removed. Each size: adding one by one and many at once,
    opening, naming the ten nearest, searching for ten identities, recall, memory, file.
    """
    from rich.console import Console
    from rich.progress import Progress

    from mip_edge.gallery_benchmark import measure_gallery

    costs = []
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar:
        for size in sizes:
            task = bar.add_task(f"{size:,} embeddings", total=size)
            costs.append(
                measure_gallery(
                    size,
                    dimension,
                    queries=queries,
                    spread=spread,
                    tell=lambda done, task=task: bar.update(task, completed=done),  # type: ignore[misc]
                )
            )
    if as_json:
        click.echo(json.dumps([asdict(cost) for cost in costs], indent=2))
        return
    head = ["size", "index", "add/s", "bulk/s", "open s", "nearest ms", "query ms", "p95 ms"]
    head += ["recall@10", "index MB", "process MB", "file MB"]
    rows = [[str(v) for k, v in asdict(c).items() if k != "dimension"] for c in costs]
    if markdown:
        lines = [head, ["---"] * len(head), *rows]
        click.echo("\n".join(f"| {' | '.join(line)} |" for line in lines))
        return
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    for line in (head, *rows):
        click.echo("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
