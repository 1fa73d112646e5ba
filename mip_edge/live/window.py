"""Where the drawn pictures go on a screen: a window of OpenCV."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import cv2

from mip_edge.errors import OutputError
from mip_edge.live.overlay import Picture

WIDEST, TALLEST = 1280, 720
"""Of a new window, in pixels; the user may draw it larger."""


class Window:
    """A window that shows the cameras; q or Escape closes it, and so does its own button."""

    TITLE = "mip-edge live"

    def __init__(self) -> None:
        """Raises: OutputError where there is no display."""
        # Without a display the window toolkit ends the whole process, so ask before it does.
        displays = ("DISPLAY", "WAYLAND_DISPLAY")
        if sys.platform.startswith("linux") and not any(os.environ.get(d) for d in displays):
            raise OutputError("--show needs a display and there is none; use --save out.mp4")
        try:
            # Without GUI_NORMAL some builds put a toolbar above it.
            cv2.namedWindow(
                self.TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL
            )
        except cv2.error as error:
            raise OutputError(
                "--show: this OpenCV is built without windows; use --save out.mp4"
            ) from error
        self._sized = False

    def show(self, picture: Picture) -> bool:
        """Show one picture; False when the user has closed the window."""
        if not self._sized:
            self._sized = True
            height, width = picture.shape[:2]
            scale = min(1.0, WIDEST / width, TALLEST / height)
            cv2.resizeWindow(self.TITLE, round(scale * width), round(scale * height))
        cv2.imshow(self.TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        if cv2.waitKey(1) & 0xFF in (ord("q"), 27):
            return False
        # Asked after each picture: a window that was closed comes back with the next one.
        try:
            return cv2.getWindowProperty(self.TITLE, cv2.WND_PROP_VISIBLE) > 0
        except cv2.error:  # how Qt says that there is none
            return False

    def close(self) -> None:
        """Close the window, if the user has not."""
        with suppress(cv2.error):
            cv2.destroyWindow(self.TITLE)
