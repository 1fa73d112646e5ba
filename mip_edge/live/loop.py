"""The live loop: read, detect, track, embed, identify, draw, tell."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

from mip_edge.gallery.base import Gallery
from mip_edge.gallery.memory import MemoryGallery
from mip_edge.live.audience import Audience
from mip_edge.live.budget import DetectBudget
from mip_edge.live.camera import Camera, open_cameras, read_cameras
from mip_edge.live.capture import Capture, open_capture
from mip_edge.live.ending import Ending
from mip_edge.live.identity import Identifier
from mip_edge.live.interrupt import Interrupt
from mip_edge.live.keeper import GalleryKeeper
from mip_edge.live.message import tell_start, tell_state
from mip_edge.live.need import NeedPlanner
from mip_edge.live.options import FALLBACK_MIN_SIMILARITY, LiveOptions
from mip_edge.live.outcome import IdentityOptions
from mip_edge.live.report import CameraReport, LiveReport, Stopwatch
from mip_edge.live.score import TruthScore
from mip_edge.live.score_truth import find_truths
from mip_edge.live.source import Frame, SourceState
from mip_edge.live.source_options import SourceOptions
from mip_edge.live.step import LiveEmbedder, Recognition, warm_up
from mip_edge.spec import Modality
from mip_edge.thresholds import ModalityPair, Thresholds

__all__ = ["LiveEmbedder", "LiveOptions", "LiveReport", "run_live"]

logger = logging.getLogger(__name__)

IDLE_PAUSE = 0.002
"""Seconds between two looks at cameras that had nothing new."""
SHOW_PAUSE = 0.5
"""Seconds after which window and page are drawn anew though no frame came."""


def run_live(
    options: LiveOptions,
    embedder: LiveEmbedder,
    *,
    gallery: Gallery | None = None,
    now: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
    watch: Stopwatch | None = None,
    capture: Callable[[SourceOptions], Capture] = open_capture,
    on_step: Callable[[Sequence[CameraReport]], None] | None = None,
) -> LiveReport:
    """Recognise people across the cameras of `options` until all end, or until Ctrl-C.

    `gallery` is filled as it goes (a new one in memory by default) and stays open; `on_step` hears
    the counts after each step; `now` is monotonic, `wall` seconds since the epoch; `watch` keeps
    what each stage took; `capture` opens the sources. Raises: SourceError, OutputError,
    EngineError, GalleryError, OptionError.
    """
    options.check_outputs()
    with ExitStack() as stack:
        if gallery is None:
            gallery = MemoryGallery(
                fingerprint=embedder.fingerprint,
                dimension=embedder.dimension,
                bounds=options.bounds,
            )
            stack.callback(gallery.close)
        gallery.require(embedder.fingerprint, embedder.dimension)
        thresholds = choose_thresholds(options, embedder)
        warm_up(embedder, _lights(options))
        score = None if options.truth is None else _open_score(options, options.truth)
        cameras = open_cameras(options, stack, now, capture)
        audience = Audience(options, cameras, stack, now)
        epoch = wall() - now()
        moment, present = _clocks(cameras, epoch, now)
        keeper = GalleryKeeper(gallery, audience.log, now)
        run = Recognition(
            embedder=embedder,
            identifier=Identifier(
                gallery,
                _identity_options(options, thresholds),
                run=uuid4().hex,
                dated=keeper.dated,
            ),
            planner=NeedPlanner(options.need),
            budget=DetectBudget(
                options.detect_every if options.realtime else options.detect_every or 1,
                {camera.name: camera.source.rate for camera in cameras},
            ),
            quality=options.quality,
            log=audience.log,
            watch=watch or Stopwatch(),
            moment=moment,
            now=now,
            keeper=keeper,
            score=score,
        )
        tell_start(audience.log, cameras, thresholds, embedder.fingerprint)
        ending = Ending(run, cameras, audience, thresholds)
        shown, overloaded = now(), not any(camera.source.threaded for camera in cameras)
        interrupt = stack.enter_context(Interrupt())
        try:
            with interrupt.ends():
                while (
                    audience.wanted
                    and not interrupt.asked
                    and not all(camera.done for camera in cameras)
                ):
                    # First: what this round keeps has the time that it should.
                    audience.log.check_clock()
                    fresh = read_cameras(cameras)
                    tell_states(run, cameras)
                    if fresh:
                        with run.watch.measure("total"):
                            run.step(fresh)
                        ending.steps += 1
                        if on_step is not None:
                            on_step([camera.report for camera in cameras])
                    else:
                        time.sleep(IDLE_PAUSE)
                    end_done(run, cameras)
                    if fresh or now() - shown > SHOW_PAUSE:
                        shown = now()
                        audience.show(cameras, run)
                        overloaded = overloaded or tell_overload(run.budget)
                    gone = keeper.look_after(present(run))
                    if gone:
                        run.identifier.forget(gone)
            tell_states(run, cameras)
            return ending.conclude()
        except Exception as error:
            ending.rescue(error)
            raise


def tell_states(run: Recognition, cameras: Sequence[Camera]) -> None:
    """A line for each camera that was lost, came back or ended; who was before it has left."""
    for camera in cameras:
        source, before = camera.source, camera.told
        state = source.state
        if state is SourceState.LOST:
            camera.away = source.lost_for
            run.end(camera, camera.lose_sight())
        if state is not before:
            camera.told = state
            camera.report.state = state.value
            camera.report.lost += state is SourceState.LOST
            run.budget.set_rate(camera.name, source.rate if state is SourceState.LIVE else 0.0)
            tell_state(run.log, camera, before)
            if state is SourceState.LOST:
                logger.warning("camera %s is lost: %s", camera.name, source.lost_reason)
            elif before is SourceState.LOST and state is SourceState.LIVE:
                logger.warning("camera %s is back after %.1f s", camera.name, camera.away)


def end_done(run: Recognition, cameras: Sequence[Camera]) -> None:
    """Who was before a camera that gives no more frames has left, though others go on."""
    for camera in cameras:
        if camera.done:
            run.end(camera, camera.leave())


def tell_overload(budget: DetectBudget) -> bool:
    """Tell, if it is so, that the detector cannot keep up."""
    if budget.overloaded:
        logger.warning(
            "the detector takes more of the time than it should (%.0f ms a look): fewer "
            "cameras, or another --detector, would help",
            1000 * budget.cost,
        )
    return budget.overloaded


def choose_thresholds(options: LiveOptions, embedder: LiveEmbedder) -> Thresholds:
    """The least similarities of one person: as asked, else the embedder's own, else a guess."""
    stated = getattr(embedder, "thresholds", None)
    if isinstance(stated, Thresholds):
        base = stated
    elif embedder.min_similarity is not None:
        base = Thresholds.uniform(embedder.min_similarity, origin="the model's own")
    else:
        base = Thresholds.uniform(FALLBACK_MIN_SIMILARITY, origin="a guess")
        if len(options.thresholds) < len(ModalityPair):
            logger.warning(
                "the model states no threshold of its own: min_similarity=%.2f is a guess; learn "
                "them with `mip-edge calibrate-thresholds`, or set --min-similarity",
                FALLBACK_MIN_SIMILARITY,
            )
    if not options.thresholds:
        return base
    return Thresholds({**base.similarities, **options.thresholds})


def _open_score(options: LiveOptions, folder: Path) -> TruthScore:
    return TruthScore(find_truths(folder, [source.name for source in options.sources]))


def _identity_options(options: LiveOptions, thresholds: Thresholds) -> IdentityOptions:
    return IdentityOptions(
        thresholds,
        min_crops=options.min_crops,
        decide_crops=options.decide_crops,
        margin=options.margin,
        travels=options.travels,
    )


def _lights(options: LiveOptions) -> set[Modality]:
    """What the cameras may see; one that finds out by itself may see both."""
    given = {source.modality for source in options.sources}
    return set(Modality) if None in given else {one for one in given if one is not None}


def _clocks(
    cameras: Sequence[Camera], epoch: float, now: Callable[[], float]
) -> tuple[Callable[[Frame], float], Callable[[Recognition], float]]:
    """When a frame was taken, and the present, in seconds since the epoch.

    By the clock as the run began, whatever that is set to later. Files that are read as fast as it
    goes keep their own time, and it stands still between them.
    """
    begin = epoch + now()
    if any(camera.source.threaded for camera in cameras):
        return lambda frame: epoch + frame.captured, lambda _: epoch + now()
    return lambda frame: begin + frame.time, lambda run: run.latest
