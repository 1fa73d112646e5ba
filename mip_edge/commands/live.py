"""`mip-edge live`: people recognised across cameras and videos."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mip_edge.commands.shared import (
    engine_options_option,
    precision_option,
    read_engine_options,
    share_weights_option,
)

if TYPE_CHECKING:
    from mip_edge.live.options import LiveOptions
    from mip_edge.live.report import CameraReport, LiveReport


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--source",
    "sources",
    multiple=True,
    required=True,
    metavar="name=NAME,url=URL,modality=visible|infrared",
    help="A camera, once for each: url is a video file, the number of a local camera, or a stream "
    "such as rtsp://user:password@host/path (the password is shown nowhere).",
)
@click.option(
    "--engine",
    default="onnxruntime",
    show_default=True,
    metavar="NAME",
    help="Runtime of the embedder; `mip-edge doctor` lists those that open here.",
)
@precision_option
@engine_options_option
@share_weights_option
@click.option(
    "--detector",
    default="nanodet",
    show_default=True,
    type=click.Choice(["nanodet", "motion", "file"]),
    help="Who finds the people: the network that comes with mip-edge, motion before a camera that "
    "stands still, or boxes from VIDEO.boxes.jsonl beside a recorded video.",
)
@click.option(
    "--min-score",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Detector score from which a track is started.",
)
@click.option(
    "--min-similarity",
    type=click.FloatRange(-1, 1),
    help="Cosine from which two are one person.  [default: the bundle's own, else 0.6]",
)
@click.option(
    "--min-crops",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="Crops of a track that are gathered before it is matched.",
)
@click.option(
    "--min-height",
    default=40,
    show_default=True,
    type=click.IntRange(min=2),
    help="Pixels from which a crop is worth embedding.",
)
@click.option(
    "--crop-every",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Embed each track at most every so many frames.",
)
@click.option(
    "--realtime/--no-realtime",
    default=True,
    show_default=True,
    help="Files play at their own speed and drop frames when late, or every frame is read as fast "
    "as it goes. Cameras and streams are always live.",
)
@click.option(
    "--max-frames",
    type=click.IntRange(min=1),
    help="Stop after this many frames of each camera.  [default: to the end]",
)
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all cameras side by side to this .mp4.",
)
@click.option("--show", is_flag=True, help="Show all cameras in a window; q closes it.")
@click.option(
    "--events",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what happens to this file, as JSON lines.",
)
@click.option("--events-boxes", is_flag=True, help="Also one event for each track and frame.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads of the detector and of the embedder.  [default: the runtime's choice]",
)
@click.option("--overwrite", is_flag=True, help="Replace what lies at --save and --events.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts and times as JSON.")
def live(
    bundle: Path,
    sources: tuple[str, ...],
    engine: str,
    precision: str,
    engine_options: tuple[str, ...],
    share_weights: bool,
    detector: str,
    min_score: float,
    min_similarity: float | None,
    min_crops: int,
    min_height: int,
    crop_every: int,
    realtime: bool,
    max_frames: int | None,
    save: Path | None,
    show: bool,
    events: Path | None,
    events_boxes: bool,
    threads: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Recognise people across the cameras of --source with the model of BUNDLE.

    Each person gets one number on all cameras. Ends when all sources end, or with Ctrl-C.
    """
    from mip_edge.live.crop import CropOptions
    from mip_edge.live.detector import DetectorKind
    from mip_edge.live.options import LiveOptions
    from mip_edge.live.source import parse_sources

    options = LiveOptions(
        sources=parse_sources(sources),
        detector=DetectorKind(detector),
        min_score=min_score,
        min_similarity=min_similarity,
        min_crops=min_crops,
        crop=CropOptions(every=crop_every, min_height=min_height),
        realtime=realtime,
        max_frames=max_frames,
        save=save,
        show=show,
        events=events,
        events_boxes=events_boxes,
        threads=threads,
        overwrite=overwrite,
    )
    options.check_outputs()
    opening = {
        "engine": engine,
        "precision": precision,
        "share_weights": share_weights,
        **read_engine_options(bundle, engine, engine_options),
    }
    report = run(options, bundle, opening)
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else report.table())


def run(options: LiveOptions, bundle: Path, opening: Mapping[str, Any]) -> LiveReport:
    """Open the embedder as `opening` says and run the loop; a line of progress on a terminal."""
    from rich.console import Console

    from mip_edge.embedder import Embedder
    from mip_edge.live.loop import run_live

    with Embedder.open(bundle, threads=options.threads, **opening) as embedder:
        if not sys.stderr.isatty():
            return run_live(options, embedder)
        with Console(stderr=True).status("opening the cameras") as status:
            return run_live(
                options, embedder, on_step=lambda cameras: status.update(progress(cameras))
            )


def progress(cameras: Sequence[CameraReport]) -> str:
    """The counts of all cameras in one line."""
    return "   ".join(
        f"{camera.name}: {camera.frames} frames, {camera.tracks} tracks, {camera.dropped} dropped"
        for camera in cameras
    )
