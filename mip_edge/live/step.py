"""One step of a live run over the cameras that have a new frame: from frames to identities."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from engines.gpu_crop import FrameBox
from mip_edge.live.box import Detections
from mip_edge.live.budget import DetectBudget
from mip_edge.live.camera import Camera
from mip_edge.live.crop import cut
from mip_edge.live.detector import Detector
from mip_edge.live.event import EventLog
from mip_edge.live.identity import Identifier
from mip_edge.live.keeper import GalleryKeeper
from mip_edge.live.message import tell_boxes, tell_ended, tell_light, tell_outcomes, tell_started
from mip_edge.live.need import NeedPlanner, Offer
from mip_edge.live.outcome import Merge, Outcome, Sighting
from mip_edge.live.quality import QualityOptions, rate_crops
from mip_edge.live.report import Stopwatch
from mip_edge.live.score import TruthScore
from mip_edge.live.source import Frame
from mip_edge.spec import Crop, Embeddings, Modality

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


@runtime_checkable
class BoxEmbedder(Protocol):
    """An embedder that cuts the crops itself, where it computes; it is asked if it can."""

    def embed_boxes(
        self, frames: Sequence[NDArray[np.uint8]], boxes: Sequence[FrameBox], modality: Modality
    ) -> Embeddings:
        """Boxes in frames of one modality to (N, D) unit rows."""


@dataclass(slots=True)
class Recognition:
    """What all steps of one run share."""

    embedder: LiveEmbedder
    identifier: Identifier
    planner: NeedPlanner
    budget: DetectBudget
    quality: QualityOptions
    log: EventLog
    watch: Stopwatch
    moment: Callable[[Frame], float]
    """Seconds since the epoch when a frame was taken."""
    now: Callable[[], float]
    """The clock that frames are stamped with."""
    keeper: GalleryKeeper
    """Lets the run live on where the gallery fails."""
    score: TruthScore | None = None
    """Compares with the truth, where it is known."""
    latest: float = 0.0
    """Seconds since the epoch of the newest frame."""

    def step(self, fresh: Sequence[tuple[Camera, Frame]]) -> None:
        """Take in the new frames, tell what they changed."""
        for camera, frame in fresh:
            before = camera.take(frame)
            if before is not None:
                tell_light(self.log, camera, before)
        looked = self._detect(fresh)
        sightings = self._embed(looked)
        self.latest = max(self.latest, *(self.moment(frame) for _, frame in fresh))
        with self.watch.measure("match"):
            visible = {camera.name: camera.tracks.ids.tolist() for camera in looked}
            nothing: list[Outcome] = []
            outcomes = self.keeper.attempt(
                lambda: self.identifier.step(visible, sightings, self.latest), nothing
            )
            # Of a step that the gallery broke off, what it had found until then.
            outcomes = [*outcomes, *self.identifier.take_outcomes()]
        tell_outcomes(self.log, looked, outcomes)
        if self.score is not None:
            for outcome in outcomes:
                if isinstance(outcome, Merge):
                    self.score.merged(outcome.identity, outcome.into)
        told = self.now()
        for camera, frame in fresh:
            self.watch.add("frame to identity", 1000 * (told - frame.captured))
            self._finish(camera)

    def end(self, camera: Camera, tracks: Collection[int]) -> None:
        """These tracks of a camera are over: told, and forgotten."""
        tell_ended(self.log, camera, sorted(tracks), self.identifier)
        for track in tracks:
            key = (camera.name, track)
            self.keeper.attempt(partial(self.identifier.end, key), None)
            # A track goes also while the gallery is left alone; then its last look is not kept.
            self.identifier.end(key, remember=False)
            self.planner.end(key)
            camera.alive.discard(track)

    def _detect(self, fresh: Sequence[tuple[Camera, Frame]]) -> list[Camera]:
        """Look for people where it is due; one call for all cameras of one network."""
        due, members = [], dict[int, list[Camera]]()
        for camera, frame in fresh:
            if self.budget.due(camera.name, frame.index):
                due.append(camera)
                members.setdefault(id(camera.detector), []).append(camera)
            else:
                camera.predict()
        for group in members.values():
            begin = self.now()
            with self.watch.measure("detect"):
                found = _look(group[0].detector, [c.frame for c in group if c.frame is not None])
            self.budget.measure(self.now() - begin, len(group))
            for camera, detections in zip(group, found, strict=True):
                with self.watch.measure("track"):
                    started = camera.follow(detections)
                tell_started(self.log, camera, started)
        return due

    def _embed(self, cameras: Sequence[Camera]) -> list[Sighting]:
        """The crops that are needed most, one call a modality."""
        by_name = {camera.name: camera for camera in cameras}
        with self.watch.measure("plan"):
            offers = [one for camera in cameras for one in self._offers(camera)]
            chosen = self.planner.plan(offers, unsure=self.identifier.unsure())
        sightings = []
        for modality in Modality:
            members = [one for one in chosen if one.modality is modality]
            if not members:
                continue
            # For the eyes: thumbnails come from here, wherever the crops are embedded.
            crops = [_cut(by_name[one.key[0]], one.row) for one in members]
            with self.watch.measure("embed"):
                if isinstance(self.embedder, BoxEmbedder):
                    frames, boxes = _locate(by_name, members)
                    embeddings = self.embedder.embed_boxes(frames, boxes, modality)
                else:
                    embeddings = self.embedder.embed(crops, modality)
            self.watch.count("crops in a call", len(members))
            self.planner.done(members)
            for one, crop, embedding in zip(members, crops, embeddings, strict=True):
                camera = by_name[one.key[0]]
                assert camera.frame is not None
                if not np.isfinite(embedding).all():
                    _refuse(camera)
                    continue
                time = self.moment(camera.frame)
                sightings.append(Sighting(one.key, modality, time, embedding, one.quality, crop))
        return sightings

    def _offers(self, camera: Camera) -> list[Offer]:
        assert camera.frame is not None
        if camera.light.doubtful:
            # Its light may just have switched: an embedding of the wrong one would stay.
            return []
        qualities = rate_crops(camera.frame.image, camera.tracks.boxes, self.quality)
        return [
            Offer((camera.name, track), camera.modality, row, float(quality), camera.frame.time)
            for row, (track, quality) in enumerate(
                zip(camera.tracks.ids.tolist(), qualities, strict=True)
            )
        ]

    def _finish(self, camera: Camera) -> None:
        if self.log.boxes:
            tell_boxes(self.log, camera, self.identifier)
        if self.score is not None and camera.frame is not None:
            ids = camera.tracks.ids.tolist()
            self.score.modality(camera.name, camera.frame.index, camera.modality)
            self.score.see(
                camera.name,
                camera.frame.index,
                camera.frame.time,
                camera.tracks.boxes,
                ids,
                [self.identifier.known((camera.name, track)).identity for track in ids],
            )
        self.end(camera, camera.tracks.ended)
        counts = self.planner.by_camera.get(camera.name)
        if counts is not None:
            camera.report.crops = counts.done
            camera.report.crops_asked = counts.asked
            camera.report.crops_waiting = counts.waiting
        camera.report.detect_every = self.budget.every[camera.name]


def _refuse(camera: Camera) -> None:
    """An embedding that is no number says nothing of anybody: counted, told for the first."""
    if not camera.report.crops_refused:
        logger.warning(
            "camera %s: the model gave an embedding that is no number; such are left out and "
            "counted, and --precision fp32 may help",
            camera.name,
        )
    camera.report.crops_refused += 1


def warm_up(embedder: LiveEmbedder, modalities: Collection[Modality]) -> None:
    """Open the engines that the cameras need: a first frame must not wait, nor find one missing."""
    blank = np.zeros((64, 32, 3), np.uint8)
    for modality in Modality:
        if modality not in modalities:
            continue
        if isinstance(embedder, BoxEmbedder):
            embedder.embed_boxes([blank], [FrameBox(0, 0, 0, 32, 64)], modality)
        else:
            embedder.embed([blank], modality)


def _look(detector: Detector, frames: Sequence[Frame]) -> list[Detections]:
    return detector.detect([frame.image for frame in frames], [frame.index for frame in frames])


def _cut(camera: Camera, row: int) -> NDArray[np.uint8]:
    assert camera.frame is not None
    return cut(camera.frame.image, camera.tracks.boxes[row])


def _locate(
    cameras: Mapping[str, Camera], members: Sequence[Offer]
) -> tuple[list[NDArray[np.uint8]], list[FrameBox]]:
    """The frames that these crops are in, each once, and their boxes."""
    places: dict[str, int] = {}
    frames: list[NDArray[np.uint8]] = []
    boxes = []
    for one in members:
        camera = cameras[one.key[0]]
        assert camera.frame is not None
        image = camera.frame.image
        if camera.name not in places:
            places[camera.name] = len(frames)
            frames.append(image)
        box = camera.tracks.boxes[one.row]
        boxes.append(FrameBox.around(places[camera.name], image.shape, box))
    return frames, boxes
