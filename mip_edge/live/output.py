"""Where the drawn pictures go: a video file, a window."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2

from mip_edge.errors import OutputError
from mip_edge.live.overlay import Picture


class VideoFile:
    """An mp4 that is written beside its name and renamed when it is whole."""

    def __init__(self, path: Path, rate: float) -> None:
        """`rate` in frames a second. Raises: OutputError if the place cannot be written."""
        if path.suffix.lower() != ".mp4":
            raise OutputError(f"--save writes .mp4, got {path.name}")
        if not path.parent.is_dir():
            raise OutputError(f"--save {path}: the folder {path.parent} does not exist")
        if not os.access(path.parent, os.W_OK):
            raise OutputError(f"--save {path}: the folder {path.parent} cannot be written")
        self._path, self._rate = path, rate
        self._part = path.with_name(f".{path.stem}.part.mp4")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._written = 0

    def write(self, picture: Picture) -> None:
        """One frame; all must have the size of the first. Raises: OutputError."""
        size = (picture.shape[1], picture.shape[0])
        if self._writer is None:
            self._size = size
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._part), fourcc, self._rate, size)
            if not self._writer.isOpened():
                raise OutputError(f"--save {self._path}: OpenCV opens no mp4 writer for {size}")
        if size != self._size:
            raise OutputError(f"--save {self._path}: a picture of {size} came after {self._size}")
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self._written += 1

    def finish(self) -> bool:
        """Close, read back, rename; False if not one frame was written. Raises: OutputError.

        OpenCV's writer is silent about a full disk, so the number of frames is read back.
        """
        if self._writer is None:
            return False
        self._writer.release()
        self._writer = None
        check = cv2.VideoCapture(str(self._part)) if self._part.is_file() else None
        found = int(check.get(cv2.CAP_PROP_FRAME_COUNT)) if check and check.isOpened() else 0
        if check:
            check.release()
        if found != self._written:
            self._part.unlink(missing_ok=True)
            raise OutputError(
                f"--save {self._path}: {self._written} frames were written, {found} can be read "
                "back; is the disk full?"
            )
        self._part.replace(self._path)
        return True

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        self._part.unlink(missing_ok=True)


class Window:
    """A window that shows the cameras; q or Escape closes it."""

    TITLE = "mip-edge live"

    def __init__(self) -> None:
        """Raises: OutputError where there is no display."""
        # Without a display the window toolkit ends the whole process, so ask before it does.
        displays = ("DISPLAY", "WAYLAND_DISPLAY")
        if sys.platform.startswith("linux") and not any(os.environ.get(d) for d in displays):
            raise OutputError("--show needs a display and there is none; use --save out.mp4")
        try:
            cv2.namedWindow(self.TITLE, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise OutputError(
                "--show: this OpenCV is built without windows; use --save out.mp4"
            ) from error

    def show(self, picture: Picture) -> bool:
        """Show one picture; False when the user has closed the window."""
        cv2.imshow(self.TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)

    def close(self) -> None:
        """Close the window."""
        cv2.destroyWindow(self.TITLE)
