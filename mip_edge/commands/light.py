"""The command `mip-edge light`."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument(
    "videos", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=-1, required=True
)
@click.option(
    "--infrared-below",
    type=click.FloatRange(min=0.0, min_open=True),
    default=3.0,
    show_default=True,
    help="Chroma, in grey levels, below which a picture is infrared.",
)
@click.option(
    "--visible-above",
    type=click.FloatRange(min=0.0, min_open=True),
    default=4.0,
    show_default=True,
    help="Chroma from which it is visible; between the two nothing changes.",
)
@click.option(
    "--hold",
    type=click.FloatRange(min=0.0),
    default=2.0,
    show_default=True,
    help="Seconds for which the other light must be seen without a break.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the reports as JSON.")
def light(
    videos: tuple[Path, ...],
    infrared_below: float,
    visible_above: float,
    hold: float,
    as_json: bool,
) -> None:
    """Tell visible from infrared in VIDEOS as a camera with modality=auto does.

    Prints for each the light at its beginning and end, the share of frames that were called
    infrared, the quantiles of the chroma that decides, and when the light switched. A scene without
    colours looks infrared by day: where this table is wrong, give the camera modality=visible.
    """
    from rich.console import Console
    from rich.progress import Progress

    from mip_edge.live.light import LightOptions
    from mip_edge.live.light_report import format_light, watch_light

    options = LightOptions(infrared_below=infrared_below, visible_above=visible_above, hold=hold)
    console = Console(stderr=True)
    reports = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("looking", total=None)
        for video in videos:
            bar.update(task, description=video.name)
            reports.append(watch_light(video, options, on_frame=lambda: bar.advance(task)))
    if as_json:
        click.echo(json.dumps([report.as_dict() for report in reports], indent=2))
    else:
        click.echo(format_light(reports))
