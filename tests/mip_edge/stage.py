"""What tests of the live run play with: a film, who finds people in it, who hears, who fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import GalleryError
from mip_edge.gallery.memory import MemoryGallery
from mip_edge.live.box import Detections
from mip_edge.live.outcome import Sighting
from mip_edge.spec import Embeddings, Modality

Picture = NDArray[np.uint8]
RATE = 20.0
"""Frames a second of a `Passage`."""


class Passage:
    """A capture of somebody bright who walks from left to right while `there` has the frame."""

    def __init__(self, frames: int, there: range | None = None) -> None:
        self._frames, self._index = frames, -1
        self._there = range(frames) if there is None else there

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        self._index += 1
        return self._index < self._frames

    def retrieve(self) -> tuple[bool, Picture]:
        image: Picture = np.full((240, 320, 3), 30, np.uint8)
        if self._index in self._there:
            stripes = np.where(np.arange(120) // 6 % 2, 240, 200)[:, None, None]
            image[60:180, 20 + 3 * self._index : 65 + 3 * self._index] = stripes
        return True, image

    def get(self, propId: int) -> float:
        return RATE if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        pass


class FindsBright:
    """A detector that finds what is bright."""

    def detect(self, images: Sequence[Picture], indices: Sequence[int]) -> list[Detections]:
        return [self._find(image) for image in images]

    def _find(self, image: Picture) -> Detections:
        rows, columns = np.nonzero(image[:, :, 0] > 120)
        if not len(rows):
            return Detections.empty()
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Detections(np.array([box], np.float32), np.ones(1, np.float32))


class Told:
    """An event sink that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []

    def write(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


class CountedGallery(MemoryGallery):
    """Counts how often it is asked to flush."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1
        super().flush()


class FullDisk(MemoryGallery):
    """A gallery on a disk that is full for a while."""

    full = False

    def add(self, embedding: Any, **how: Any) -> int:
        if self.full:
            raise GalleryError("site.gallery cannot be written: no space left on the disk")
        return super().add(embedding, **how)


def sightings_of(
    cameras: Mapping[str, Mapping[int, Embeddings | None]], time: float
) -> tuple[dict[str, list[int]], list[Sighting]]:
    """{camera: {track: embedding, or None without a crop}} as a step of Identifier takes it."""
    visible = {camera: list(tracks) for camera, tracks in cameras.items()}
    return visible, [
        Sighting((camera, track), Modality.VISIBLE, time, embedding)
        for camera, tracks in cameras.items()
        for track, embedding in tracks.items()
        if embedding is not None
    ]
