"""Where the drawn pictures go: a video file."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2

from mip_edge.errors import OutputError
from mip_edge.live.overlay import Picture, letterbox

RESERVE = 64 * 1024 * 1024
"""Bytes of free space below which a video is ended while it can still be made whole."""
CHECK_EVERY = 25
"""Frames between two looks at the free space and at the file."""
BUFFERED = 320 * 1024
"""Bytes that may be on their way to the file before it must have grown; OpenCV holds 256 KiB."""
MOSAIC = "mosaic"

logger = logging.getLogger(__name__)


def free_space(folder: Path) -> int:
    """Bytes that may still be written there."""
    return shutil.disk_usage(folder).free


def least_bytes(width: int, height: int) -> int:
    """Bytes that a frame takes even where nothing moves: two bits for each block of 16x16."""
    return max(8, width * height // 1024)


def video_paths(save: Path, cameras: Iterable[str]) -> tuple[Path, dict[str, Path]]:
    """What --save writes: the mosaic, and for a folder also the video of each camera.

    An existing folder, or a name without a suffix, is a folder. Names of cameras are made safe for
    file systems; those that would collide then get numbers. Raises: OutputError for another kind.
    """
    if not save.is_dir() and save.suffix:
        if save.suffix.lower() != ".mp4":
            raise OutputError(f"--save writes an .mp4, or into a folder; got {save.name}")
        return save, {}
    taken = {MOSAIC}
    paths = {}
    for camera in cameras:
        # Letters of all scripts may stay; what a shell or another file system minds may not.
        stem = re.sub(r"[^\w.-]+", "_", camera).strip("._")[:80] or "camera"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        paths[camera] = save / f"{name}.mp4"
    return save / f"{MOSAIC}.mp4", paths


class VideoFile:
    """An mp4 that is written beside its name and renamed when it is whole.

    A disk that fills up ends the video, not the run: `failed` says so, and what was written until
    then is kept where it can be played.
    """

    def __init__(
        self,
        path: Path,
        rate: float,
        *,
        reserve: int = RESERVE,
        free: Callable[[Path], int] = free_space,
    ) -> None:
        """`rate` in frames a second. Raises: OutputError if the place cannot be written."""
        if path.suffix.lower() != ".mp4":
            raise OutputError(f"--save writes .mp4, got {path.name}")
        if not path.parent.is_dir():
            raise OutputError(f"--save {path}: the folder {path.parent} does not exist")
        if not os.access(path.parent, os.W_OK):
            raise OutputError(f"--save {path}: the folder {path.parent} cannot be written")
        self.failed: str | None = None
        """Why it ended before the run did, in one line; None while all is well."""
        self._path, self._rate = path, rate
        self._reserve, self._free = reserve, free
        self._part = path.with_name(f".{path.stem}.part.mp4")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._written = 0
        self._bytes, self._bytes_at = 0, 0
        self._kept = False
        self._nameless: str | None = None
        """Why what was written stays where it was: it cannot be read back, or not be renamed."""

    def __str__(self) -> str:
        return f"--save {self._path}"

    @property
    def path(self) -> Path:
        """Where it will lie."""
        return self._path

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of its frames, None before the first."""
        return self._size if self._written else None

    def write(self, picture: Picture) -> None:
        """One frame; one of another size than the first is fitted into it, with black borders."""
        if self.failed is not None:
            return
        if self._written % CHECK_EVERY == 0:
            self._look()
            if self.failed is not None:
                return
        if self._writer is None:
            self._size = (picture.shape[1], picture.shape[0])
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._part), fourcc, self._rate, self._size)
            if not self._writer.isOpened():
                self._end(f"OpenCV opens no mp4 writer for {self._size[0]}x{self._size[1]}")
                return
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = letterbox(picture, *self._size)[0]
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._written += 1

    def finish(self) -> bool:
        """Close, read back, rename; False if there is nothing to keep.

        OpenCV's writer is silent about a full disk, so the number of frames is read back; one that
        differs is `failed`.
        """
        if self._writer is not None:
            found = self._make_whole()
            if found != self._written:
                self.failed = self._told(
                    f"{self._written} frames were written, {found} can be read back, "
                    "perhaps the disk is full",
                    found,
                )
            elif self._nameless is not None:
                self.failed = f"{self}: {self._lies()}"
        return self._kept

    def discard(self) -> None:
        """Leave nothing behind that was not finished, but what could not take its name."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        if self._nameless is not None:
            return
        try:
            self._part.unlink(missing_ok=True)
        except OSError as error:
            # A run that dies comes here last: what it died of is the news, not this.
            logger.warning("%s: %s cannot be removed: %s", self, self._part, error.strerror)

    def _look(self) -> None:
        """End the video if the disk is nearly full, or if what is written does not arrive."""
        try:
            free = self._free(self._path.parent)
            size = self._part.stat().st_size if self._writer is not None else 0
        except OSError as error:
            self._end(error.strerror or str(error))
            return
        if free < self._reserve:
            self._end(f"the disk is nearly full ({free / 1e6:.0f} MB are free)")
        elif size > self._bytes or self._writer is None:
            self._bytes, self._bytes_at = size, self._written
        else:
            if (self._written - self._bytes_at) * least_bytes(*self._size) > BUFFERED:
                self._end("the file no longer grows, perhaps the disk is full")

    def _end(self, reason: str) -> None:
        found = self._make_whole()
        self.failed = self._told(reason, found)

    def _told(self, reason: str, found: int) -> str:
        if self._kept:
            return f"{self}: {reason}: its first {found} frames are kept"
        if self._nameless is not None:
            return f"{self}: {reason}: {self._lies()}"
        return f"{self}: {reason}: nothing of it could be kept"

    def _lies(self) -> str:
        return (
            f"what was written lies in {self._part}, for it cannot take that name: {self._nameless}"
        )

    def _make_whole(self) -> int:
        """Close the file and rename it if it plays; the number of its frames, 0 if it does not."""
        if self._writer is None:
            return 0
        self._writer.release()
        self._writer = None
        found = 0
        try:
            found = _frames_of(self._part)
            if found:
                self._part.replace(self._path)
                self._kept = True
        except OSError as error:
            self._nameless = error.strerror or str(error)
        if not found:
            self.discard()
        return found


def _frames_of(path: Path) -> int:
    """Frames of a video that can be opened and begins with a picture, else 0."""
    if not path.is_file() or not path.stat().st_size:
        return 0
    capture = cv2.VideoCapture(str(path))
    try:
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        return count if count > 0 and capture.read()[0] else 0
    finally:
        capture.release()
