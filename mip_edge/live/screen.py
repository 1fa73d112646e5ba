"""What the cameras look like side by side, on its way to a video file and a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mip_edge.live.camera import Camera
from mip_edge.live.identity import Identifier
from mip_edge.live.options import LiveOptions
from mip_edge.live.output import VideoFile, Window
from mip_edge.live.overlay import Picture, TrackLabel, dimmed, draw, tile
from mip_edge.live.source import SourceState

TALLEST = 720
LONGEST_STILL = 5.0


class Screen:
    """Draws only if somebody looks: --save or --show."""

    def __init__(
        self, options: LiveOptions, cameras: Sequence[Camera], now: Callable[[], float]
    ) -> None:
        """Raises: OutputError if the video cannot be written or there is no display."""
        self.wanted = True
        self._cameras, self._now = cameras, now
        self._window = Window() if options.show else None
        self._rate = max(camera.source.rate for camera in cameras)
        self._video = VideoFile(options.save, self._rate) if options.save else None
        self._path = str(options.save)
        self._height = min(TALLEST, max(camera.source.height for camera in cameras))
        self._pictures: dict[str, Picture] = {}
        self._dimmed: set[str] = set()
        self._begin, self._written = now(), 0
        self._stepped = not any(camera.source.threaded for camera in cameras)

    def update(self, seen: Sequence[Camera], identifier: Identifier) -> None:
        """Draw the cameras that have a new frame; write and show all of them."""
        if self._video is None and self._window is None:
            return
        for camera in seen:
            self._pictures[camera.name] = _drawn(camera, identifier)
            self._dimmed.discard(camera.name)
        picture = tile([self._picture(camera) for camera in self._cameras], self._height)
        if self._video is not None:
            for _ in range(self._due(seen)):
                self._video.write(picture)
        if self._window is not None:
            self.wanted = self._window.show(picture)

    def finish(self) -> tuple[str, ...]:
        """Make the video whole; the names of the files written. Raises: OutputError."""
        video, self._video = self._video, None
        return (self._path,) if video is not None and video.finish() else ()

    def close(self) -> None:
        """Close the window, and leave no video that was not finished."""
        if self._video is not None:
            self._video.discard()
        if self._window is not None:
            self._window.close()

    def _picture(self, camera: Camera) -> Picture:
        picture = self._pictures.get(camera.name)
        if picture is None:
            picture = np.zeros((camera.source.height, camera.source.width, 3), np.uint8)
        if camera.source.state is not SourceState.LIVE and camera.name not in self._dimmed:
            picture = dimmed(picture, camera.header())
            self._dimmed.add(camera.name)
        self._pictures[camera.name] = picture
        return picture

    def _due(self, seen: Sequence[Camera]) -> int:
        """How often this picture goes into the video so that the video keeps the sources' time."""
        if self._stepped:
            elapsed = max(camera.frame.time for camera in seen if camera.frame is not None)
        else:
            elapsed = self._now() - self._begin
        due = round(elapsed * self._rate) + 1 - self._written
        self._written += max(due, 0)
        # A long silence (all cameras lost) is cut, not filled with one picture for hours.
        return min(max(due, 0), round(LONGEST_STILL * self._rate))


def _drawn(camera: Camera, identifier: Identifier) -> Picture:
    assert camera.frame is not None
    assert camera.tracks is not None
    labels = [
        TrackLabel(track, *identifier.known((camera.name, track)))
        for track in camera.tracks.ids.tolist()
    ]
    return draw(camera.frame.image, camera.tracks.boxes, labels, camera.header())
