"""`mip-edge benchmark-live`: whether the live loop keeps up on this machine."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mip_edge.commands.live_options import (
    detect_every_option,
    detector_option,
    live_threads_option,
    max_identities_option,
)
from mip_edge.commands.shared import (
    embedder_engine_option,
    engine_options_option,
    precision_option,
    read_engine_options,
)

if TYPE_CHECKING:
    from mip_edge.benchmark_live import LiveBenchmarkOptions
    from mip_edge.benchmark_live_result import LiveBenchmark


@click.command("benchmark-live")
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--film",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder that `mip-edge world make` wrote; its cameras are played.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    show_default="the film once",
    help="Play for so long in real time, the film again and again.",
)
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    help="Play so many hours of film as fast as it goes instead, and watch the memory.",
)
@embedder_engine_option
@precision_option
@engine_options_option
@detector_option(
    "motion",
    recorded=False,
    note=" motion finds the drawn people of a film best, nanodet costs what real cameras cost.",
)
@detect_every_option("--hours")
@max_identities_option
@click.option(
    "--gallery",
    "gallery_path",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="a file that is removed",
    help="Where the gallery is kept.",
)
@live_threads_option
@click.option(
    "--markdown",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures as Markdown too.",
)
@click.option("--overwrite", is_flag=True, help="Replace an older file of --markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def benchmark_live(
    bundle: Path,
    film: Path,
    seconds: float | None,
    hours: float | None,
    engine: str,
    precision: str,
    engine_options: tuple[str, ...],
    gallery_path: Path | None,
    markdown: Path | None,
    overwrite: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Play a synthetic film through the live loop: latency, drops, memory and their growth.

    The people are synthetic; what is measured is time and memory.
    """
    from mip_edge.benchmark_live import LiveBenchmarkOptions
    from mip_edge.benchmark_table import check_markdown
    from mip_edge.output import write_text

    options = LiveBenchmarkOptions(film, seconds=seconds, hours=hours)
    options.check_film()
    if markdown is not None:
        check_markdown(markdown, overwrite=overwrite)
    opening = {
        "engine": engine,
        "precision": precision,
        **read_engine_options(bundle, engine, engine_options),
    }
    with ExitStack() as stack:
        if gallery_path is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mip-edge-"))
            gallery_path = Path(folder) / "benchmark.gallery"
        found = run(options, bundle, opening, gallery_path, stack, values)
    if markdown is not None:
        write_text(markdown, found.markdown())
    click.echo(json.dumps(found.as_dict(), indent=2) if as_json else found.table())


def run(
    options: LiveBenchmarkOptions,
    bundle: Path,
    opening: dict[str, Any],
    gallery_path: Path,
    stack: ExitStack,
    values: dict[str, Any],
) -> LiveBenchmark:
    """Open embedder and gallery and measure; a line of progress on a terminal."""
    from rich.console import Console

    from mip_edge.benchmark_live import benchmark_live as measure
    from mip_edge.benchmark_live_result import Setting
    from mip_edge.benchmark_machine import describe_machine
    from mip_edge.commands.live import progress
    from mip_edge.embedder import Embedder
    from mip_edge.gallery.base import GalleryBounds
    from mip_edge.gallery.sqlite import SqliteGallery
    from mip_edge.live.options import LiveOptions

    threads, bounds = values["threads"], GalleryBounds(max_identities=values.pop("max_identities"))
    embedder = stack.enter_context(Embedder.open(bundle, threads=threads, **opening))
    gallery = SqliteGallery.open(
        gallery_path,
        fingerprint=embedder.fingerprint,
        dimension=embedder.dimension,
        bounds=bounds,
    )
    stack.callback(gallery.close)

    def live(**asked: Any) -> LiveOptions:
        return LiveOptions(**asked, **values, bounds=bounds)

    setting = Setting(embedder.engine, embedder.precision, describe_machine(threads))
    if not sys.stderr.isatty():
        return measure(options, live, embedder, gallery, setting=setting)
    with Console(stderr=True).status("opening the film") as status:
        return measure(
            options,
            live,
            embedder,
            gallery,
            setting=setting,
            on_step=lambda cameras: status.update(progress(cameras)),
        )
