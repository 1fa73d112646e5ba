"""`mip-edge live`: people recognised across cameras and videos."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
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
    share_weights_option,
)

if TYPE_CHECKING:
    from mip_edge.gallery.base import Gallery
    from mip_edge.live.options import LiveOptions
    from mip_edge.live.report import CameraReport, LiveReport

logger = logging.getLogger(__name__)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--source",
    "sources",
    multiple=True,
    metavar="[name=NAME,]url=URL[,modality=visible|infrared|auto]",
    help="A camera, once for each: a video file, a folder or glob of images, the number of a local "
    "camera, a stream such as rtsp://user:password@host/path (the password is shown nowhere), or "
    "gst: and a GStreamer pipeline; the URL alone is enough.",
)
@click.option(
    "--cameras",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TOML file of cameras and of the times between them, instead of --source.",
)
@embedder_engine_option
@precision_option
@engine_options_option
@share_weights_option
@detector_option("nanodet", recorded=True)
@detect_every_option("--no-realtime")
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
    show_default="those of the bundle, else 0.6",
    help="Cosine from which two are one person, whatever the lights.",
)
@click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="PAIR=COSINE",
    show_default="those of the bundle",
    help="The same for one pair of lights: visible-visible, infrared-infrared or "
    "visible-infrared; `mip-edge calibrate-thresholds` learns them.",
)
@click.option(
    "--margin",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Lead over the second best that a match needs; less is uncertain.",
)
@click.option(
    "--min-crops",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="Crops of a track before it is somebody new; who is clearly known is matched sooner.",
)
@click.option(
    "--decide-crops",
    default=12,
    show_default=True,
    type=click.IntRange(min=1),
    help="Crops of a track from which it is decided though uncertain.",
)
@click.option(
    "--min-height",
    default=40,
    show_default=True,
    type=click.IntRange(min=2),
    help="Pixels from which a crop is worth embedding.",
)
@click.option(
    "--embed-every",
    default=2.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds after which a known track is embedded again; 0 embeds every sighting.",
)
@click.option(
    "--embed-batch",
    default=16,
    show_default=True,
    type=click.IntRange(min=1),
    help="Crops of one light that are embedded at once; the others wait for their turn.",
)
@click.option(
    "--travel",
    "travels",
    multiple=True,
    metavar="from=CAMERA,to=CAMERA,min=S,max=S",
    help="How many seconds people need from one camera to another; who would be sooner or later "
    "is somebody else. May be given several times.",
)
@click.option(
    "--gallery",
    "gallery_path",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="in memory",
    help="Keep the people who were seen in this file, and know them again next time.",
)
@click.option("--thumbnails", is_flag=True, help="Keep a picture of each tracklet in --gallery.")
@max_identities_option
@click.option(
    "--max-age",
    type=click.FloatRange(min=0, min_open=True),
    show_default="no limit",
    help="Hours after which a person who was not seen again is removed from the gallery.",
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
    show_default="to the end",
    help="Stop after this many frames of each camera.",
)
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    help="Write all cameras in one picture to this .mp4, or to this folder, with a video of each.",
)
@click.option("--show", is_flag=True, help="Show all cameras in a window; q ends the run.")
@click.option(
    "--serve",
    metavar="[HOST:]PORT",
    help="Show all cameras on a web page; without HOST for this machine only. There is no "
    "password: name a HOST only where everybody who reaches it may look.",
)
@click.option(
    "--events",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what happens to this file, as JSON lines.",
)
@click.option(
    "--events-boxes",
    is_flag=True,
    help="Also one event for each track and frame, to --events and --mqtt.",
)
@click.option(
    "--mqtt",
    metavar="mqtt://[USER:PASSWORD@]HOST[:PORT][/PREFIX]",
    help="Tell the same events to this MQTT broker, at PREFIX/CAMERA/EVENT.",
)
@click.option(
    "--mqtt-qos",
    default="0",
    show_default=True,
    type=click.Choice(["0", "1", "2"]),
    help="How sure each event must reach the broker: at most, at least or exactly once.",
)
@click.option(
    "--mqtt-ca",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    show_default="those of the system",
    help="Certificates (PEM) to check an mqtts:// broker with.",
)
@click.option(
    "--truth",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of `mip-edge world make`: compare with what is known of its film. What is seen "
    "is kept in memory for it, some hundred bytes a frame; nothing else grows with time.",
)
@live_threads_option
@click.option("--overwrite", is_flag=True, help="Replace what lies at --save and --events.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts and times as JSON.")
def live(
    bundle: Path,
    sources: tuple[str, ...],
    cameras: Path | None,
    engine: str,
    precision: str,
    engine_options: tuple[str, ...],
    share_weights: bool,
    thresholds: tuple[str, ...],
    min_similarity: float | None,
    travels: tuple[str, ...],
    min_height: int,
    embed_every: float,
    embed_batch: int,
    gallery_path: Path | None,
    thumbnails: bool,
    max_identities: int,
    max_age: float | None,
    mqtt_qos: str,
    as_json: bool,
    **values: Any,
) -> None:
    """Recognise people across many cameras with the model of BUNDLE.

    Each person gets one number on all cameras, by day and by night. Ends when all sources end, or
    with Ctrl-C (or SIGTERM); what was seen until then is kept.
    """
    from mip_edge.errors import OptionError
    from mip_edge.gallery.base import GalleryBounds
    from mip_edge.live.camera_file import CameraFile, read_camera_file
    from mip_edge.live.need import NeedOptions
    from mip_edge.live.options import LiveOptions
    from mip_edge.live.quality import QualityOptions
    from mip_edge.live.source_options import parse_sources
    from mip_edge.live.travel import parse_travels
    from mip_edge.thresholds import parse_thresholds

    if sources and cameras is not None:
        raise OptionError(f"--source and --cameras {cameras}: give one of them")
    site = read_camera_file(cameras) if cameras else CameraFile(parse_sources(sources), ())
    names = [source.name for source in site.sources]
    options = LiveOptions(
        sources=site.sources,
        travels=(*site.travels, *parse_travels(travels, names)),
        thresholds=parse_thresholds(thresholds, min_similarity),
        quality=QualityOptions(min_height=min_height),
        need=NeedOptions(
            max_age=embed_every, per_track_gap=min(0.2, embed_every), batch=embed_batch
        ),
        bounds=GalleryBounds(
            max_identities=max_identities, max_age=None if max_age is None else 3600 * max_age
        ),
        mqtt_qos=int(mqtt_qos),
        **values,
    )
    options.check_outputs()
    opening = {
        "engine": engine,
        "precision": precision,
        "share_weights": share_weights,
        **read_engine_options(bundle, engine, engine_options),
    }
    report = run(options, bundle, opening, gallery=gallery_path, thumbnails=thumbnails)
    click.echo(json.dumps(report.as_dict(), indent=2) if as_json else report.table())


def run(
    options: LiveOptions,
    bundle: Path,
    opening: Mapping[str, Any],
    *,
    gallery: Path | None = None,
    thumbnails: bool = False,
) -> LiveReport:
    """Open embedder and gallery and run the loop; a line of progress on a terminal."""
    from rich.console import Console

    from mip_edge.embedder import Embedder
    from mip_edge.gallery.sqlite import SqliteGallery
    from mip_edge.live.loop import run_live

    with ExitStack() as stack:
        embedder = stack.enter_context(Embedder.open(bundle, threads=options.threads, **opening))
        kept = None
        if gallery is not None:
            kept = SqliteGallery.open(
                gallery,
                fingerprint=embedder.fingerprint,
                dimension=embedder.dimension,
                bounds=options.bounds,
                thumbnails=thumbnails,
            )
            stack.callback(close, kept)
        if not sys.stderr.isatty():
            return run_live(options, embedder, gallery=kept)
        with Console(stderr=True).status("opening the cameras") as status:
            return run_live(
                options,
                embedder,
                gallery=kept,
                on_step=lambda cameras: status.update(progress(cameras)),
            )


def close(gallery: Gallery) -> None:
    """A gallery that cannot be closed well must not take the report of hours with it."""
    from mip_edge.errors import GalleryError

    try:
        gallery.close()
    except GalleryError as error:
        logger.warning("--gallery: %s", error)


def progress(cameras: Sequence[CameraReport]) -> str:
    """The counts of all cameras in one line."""
    return "   ".join(
        f"{camera.name}: {camera.frames} frames, {camera.tracks} tracks, {camera.dropped} dropped"
        for camera in cameras
    )
