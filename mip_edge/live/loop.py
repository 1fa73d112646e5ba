"""The live loop: read, detect, track, embed, identify, draw, tell."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from typing import Protocol
from uuid import uuid4

import numpy as np

from mip_edge import __version__
from mip_edge.gallery import Gallery, MemoryGallery
from mip_edge.live.camera import Camera, open_cameras, read_cameras
from mip_edge.live.event import SCHEMA, EventLog, rounded
from mip_edge.live.identity import Assignment, Identifier, IdentityOptions, Sighting
from mip_edge.live.options import FALLBACK_MIN_SIMILARITY, LiveOptions
from mip_edge.live.report import CameraReport, LiveReport, Stopwatch
from mip_edge.live.screen import Screen
from mip_edge.live.source import SourceState
from mip_edge.spec import Crop, Embeddings, Modality

__all__ = ["LiveEmbedder", "LiveOptions", "LiveReport", "run_live"]

logger = logging.getLogger(__name__)


class LiveEmbedder(Protocol):
    """What the loop needs of an embedder; mip_edge.embedder.Embedder is one."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model."""

    @property
    def dimension(self) -> int:
        """Length of one embedding."""

    @property
    def min_similarity(self) -> float | None:
        """The threshold that the model was measured with, if it was."""

    def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
        """Crops of one modality to (N, D) unit rows."""


def run_live(
    options: LiveOptions,
    embedder: LiveEmbedder,
    *,
    gallery: Gallery | None = None,
    now: Callable[[], float] = time.monotonic,
    on_step: Callable[[Sequence[CameraReport]], None] | None = None,
) -> LiveReport:
    """Recognise people across the cameras of `options` until all end, or until Ctrl-C.

    `gallery` is filled as it goes (a new one in memory by default); `on_step` hears the counts
    after each step. Raises: SourceError, OutputError, EngineError, GalleryError, OptionError.
    """
    options.check_outputs()
    if gallery is None:
        gallery = MemoryGallery(fingerprint=embedder.fingerprint, dimension=embedder.dimension)
    gallery.require(embedder.fingerprint, embedder.dimension)
    warm_up(embedder, {source.modality for source in options.sources})
    watch = Stopwatch()
    with ExitStack() as stack:
        cameras = open_cameras(options, stack, now)
        min_similarity = threshold(options, embedder)
        identity_options = IdentityOptions(min_similarity, options.min_crops)
        identifier = Identifier(gallery, identity_options, run=uuid4().hex)
        screen = Screen(options, cameras, now)
        stack.callback(screen.close)
        log = EventLog(options.events, boxes=options.events_boxes)
        stack.callback(log.close)
        tell_start(log, cameras, min_similarity, embedder.fingerprint)
        steps, begin = 0, now()
        try:
            while screen.wanted and not all(camera.done for camera in cameras):
                seen = read_cameras(cameras)
                tell_states(log, cameras)
                if seen:
                    with watch.measure("total"):
                        take_step(seen, embedder, identifier, log, watch)
                        screen.update(seen, identifier)
                    steps += 1
                    if on_step is not None:
                        on_step([camera.report for camera in cameras])
        except KeyboardInterrupt:
            logger.info("stopped by Ctrl-C; what was seen until now is kept")
        seconds = now() - begin
        for camera in cameras:
            tell_ended(log, camera, sorted(camera.alive), identifier)
        report = LiveReport(
            steps=steps,
            frames=sum(camera.report.frames for camera in cameras),
            crops=sum(camera.report.crops for camera in cameras),
            seconds=seconds,
            identities=len(gallery.identities()),
            min_similarity=min_similarity,
            cameras=tuple(camera.report for camera in cameras),
            latencies=watch.latencies(),
            outputs=(*screen.finish(), *([str(options.events)] if options.events else [])),
        )
        log.write("end", **report.as_dict())
    return report


def take_step(
    seen: Sequence[Camera],
    embedder: LiveEmbedder,
    identifier: Identifier,
    log: EventLog,
    watch: Stopwatch,
) -> None:
    """One step over the cameras that have a new frame: from frames to told identities."""
    for camera in seen:
        with watch.measure("detect"):
            tracks, started = camera.follow()
        for row, track in enumerate(tracks.ids.tolist()):
            if track in started:
                score = round(float(tracks.scores[row]), 3)
                box = rounded(tracks.boxes[row])
                log.write("track_started", **_at(camera), track=track, box=box, score=score)
    sightings = embed_crops(seen, embedder, watch)
    with watch.measure("match"):
        visible = {camera.name: camera.tracks.ids.tolist() for camera in seen if camera.tracks}
        assignments = identifier.step(visible, sightings)
    tell_identities(log, seen, assignments)
    for camera in seen:
        if log.boxes:
            tell_boxes(log, camera, identifier)
        if camera.tracks is not None:
            tell_ended(log, camera, camera.tracks.ended, identifier)


def embed_crops(seen: Sequence[Camera], embedder: LiveEmbedder, watch: Stopwatch) -> list[Sighting]:
    """All due crops of all cameras, one call a modality."""
    sightings = []
    due = [(camera, track, crop) for camera in seen for track, crop in camera.crops()]
    for modality in Modality:
        members = [member for member in due if member[0].modality is modality]
        if not members:
            continue
        with watch.measure("embed"):
            embeddings = embedder.embed([crop for _, _, crop in members], modality)
        for (camera, track, _), embedding in zip(members, embeddings, strict=True):
            moment = camera.frame.time if camera.frame else 0.0
            sightings.append(Sighting((camera.name, track), modality, moment, embedding))
    return sightings


def warm_up(embedder: LiveEmbedder, modalities: Collection[Modality]) -> None:
    """Open the engines that the cameras need: a first frame must not wait, nor find one missing."""
    blank = np.zeros((64, 32, 3), np.uint8)
    for modality in Modality:
        if modality in modalities:
            embedder.embed([blank], modality)


def threshold(options: LiveOptions, embedder: LiveEmbedder) -> float:
    """The least similarity of one person: as asked, else the embedder's own, else 0.6, told."""
    if options.min_similarity is not None:
        return options.min_similarity
    if embedder.min_similarity is not None:
        return embedder.min_similarity
    logger.warning(
        "the model states no threshold of its own: min_similarity=%.2f is a guess; set "
        "--min-similarity",
        FALLBACK_MIN_SIMILARITY,
    )
    return FALLBACK_MIN_SIMILARITY


def tell_start(
    log: EventLog, cameras: Sequence[Camera], min_similarity: float, fingerprint: str
) -> None:
    """The first line: what runs, and on what."""
    log.write(
        "start",
        schema=SCHEMA,
        version=__version__,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        min_similarity=min_similarity,
        fingerprint=fingerprint,
        cameras=[
            {
                "name": camera.name,
                "modality": camera.modality.value,
                "url": camera.source.options.shown,
                "width": camera.source.width,
                "height": camera.source.height,
                "rate": camera.source.rate,
            }
            for camera in cameras
        ],
    )


def tell_states(log: EventLog, cameras: Sequence[Camera]) -> None:
    """A line for each camera that was lost, came back or ended."""
    for camera in cameras:
        state = camera.source.state
        if camera.report.state != state.value:
            camera.report.state = state.value
            log.write("camera", **_at(camera), state=state.value)
            if state is not SourceState.ENDED:
                logger.warning("camera %s is %s", camera.name, state.value)


def tell_identities(
    log: EventLog, seen: Sequence[Camera], assignments: Sequence[Assignment]
) -> None:
    """A line for each track that got an identity, or another one."""
    boxes = {
        (camera.name, track): (camera, rounded(camera.tracks.boxes[row]))
        for camera in seen
        if camera.tracks is not None
        for row, track in enumerate(camera.tracks.ids.tolist())
    }
    for told in assignments:
        camera, box = boxes[told.key]
        log.write(
            "identity",
            **_at(camera),
            track=told.key[1],
            identity=told.identity,
            similarity=_short(told.similarity),
            previous=told.previous,
            box=box,
        )


def tell_boxes(log: EventLog, camera: Camera, identifier: Identifier) -> None:
    """A line for each track in the present frame, with who it is held for now."""
    assert camera.tracks is not None
    for row, track in enumerate(camera.tracks.ids.tolist()):
        identity, similarity = identifier.known((camera.name, track))
        log.write(
            "box",
            **_at(camera),
            track=track,
            identity=identity,
            similarity=_short(similarity),
            box=rounded(camera.tracks.boxes[row]),
            score=round(float(camera.tracks.scores[row]), 3),
        )


def tell_ended(log: EventLog, camera: Camera, ended: Sequence[int], identifier: Identifier) -> None:
    """A line for each track that is over; it is forgotten, its identity stays in the gallery."""
    for track in ended:
        key = (camera.name, track)
        identity, crops = identifier.known(key)[0], identifier.crops(key)
        log.write("track_ended", **_at(camera), track=track, identity=identity, crops=crops)
        identifier.end(key)
        camera.alive.discard(track)


def _at(camera: Camera) -> dict[str, str | int | float | None]:
    frame = camera.frame
    return {
        "camera": camera.name,
        "frame": frame.index if frame else None,
        "time": round(frame.time, 3) if frame else None,
    }


def _short(similarity: float | None) -> float | None:
    return None if similarity is None else round(similarity, 4)
