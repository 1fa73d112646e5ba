"""One thread and the capture that it alone touches, so that it can be left behind with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import SourceError
from mip_edge.live.capture import READ_TIMEOUT_MS, Capture
from mip_edge.live.source_options import SourceOptions, shown_url

ASSUMED_RATE = 25.0
OPEN_SECONDS = 12.0
"""More than FFmpeg's own timeout: it is for a driver or a name server that hangs."""
STALL_SECONDS = 5.0

Picture = tuple[NDArray[np.uint8], float]
"""(H, W, 3) RGB, and when it was decoded."""


class Reader(threading.Thread):
    """Reads the capture of one source, in its own thread or (if never started) in the caller's."""

    def __init__(
        self,
        options: SourceOptions,
        capture: Callable[[SourceOptions], Capture],
        now: Callable[[], float],
        run: Callable[[Reader], None],
        pause: float | None = None,
    ) -> None:
        """`run` is what the thread does; `pause` comes before its first try, None if it is new."""
        super().__init__(name=f"source-{options.name}", daemon=True)
        self.pause = pause
        self.unreadable = 0
        """Pictures that could not be decoded."""
        self.rate = ASSUMED_RATE
        """Pictures a second, as the capture states it."""
        self._options, self._open, self._now, self._run = options, capture, now, run
        self._capture: Capture | None = None
        self._dismissed = threading.Event()
        self._busy: tuple[float, float] | None = None

    def run(self) -> None:
        """What the thread does."""
        self._run(self)

    @property
    def wanted(self) -> bool:
        """Not dismissed."""
        return not self._dismissed.is_set()

    def dismiss(self) -> None:
        """It shall end, as soon as the call that it is in comes back."""
        self._dismissed.set()

    def wait(self, seconds: float) -> bool:
        """Sleep; False if it was dismissed."""
        return not self._dismissed.wait(seconds)

    def stalled(self) -> float | None:
        """Seconds without a picture if those are too many, else None. Safe from any thread."""
        busy = self._busy
        waited = 0.0 if busy is None else self._now() - busy[0]
        return waited if busy is not None and waited >= busy[1] else None

    def expect(self, wanted: bool = True) -> None:
        """From now on a picture should come within STALL_SECONDS; or none is expected."""
        self._busy = (self._now(), STALL_SECONDS) if wanted else None

    def open(self) -> Picture:
        """Open the capture anew; its first picture. Raises: SourceError."""
        self._busy = (self._now(), OPEN_SECONDS)
        options = self._options
        with _told(options):
            self._capture = self._open(options)
            picture = self.next() if self._capture.isOpened() else None
            if picture is None:
                raise SourceError(
                    f"--source {options.name}: {options.shown} gives no picture; expected a "
                    "video, images, the number of a camera, or a stream that runs"
                )
            rate = self._capture.get(cv2.CAP_PROP_FPS)
        # A stream that does not know its rate may state anything.
        least = 0.0 if options.is_local else 0.5
        self.rate = rate if least < rate <= 240.0 else ASSUMED_RATE
        return picture

    def next(self) -> Picture | None:
        """The next picture that can be decoded; None at the end. Raises: SourceError."""
        asked = self._now()
        while self.skip():
            captured = self._now()
            # After its timeout FFmpeg hands out what its decoder held back, one for each timeout.
            if self._options.is_network and captured - asked > 0.95 * READ_TIMEOUT_MS / 1000:
                return None
            asked = captured
            image = self.retrieve()
            if image is not None:
                return image, captured
        return None

    def skip(self) -> bool:
        """Go to the next picture without having it; False at the end. Raises: SourceError."""
        with _told(self._options):
            return self._capture is not None and self.wanted and self._capture.grab()

    def retrieve(self) -> NDArray[np.uint8] | None:
        """The present picture; None, and counted, if it cannot be decoded. Raises: SourceError."""
        assert self._capture is not None
        with _told(self._options):
            ok, image = self._capture.retrieve()
        if ok:
            return _to_rgb(image)
        self.unreadable += 1
        return None

    def release(self) -> None:
        """Let the device go, which may hang too: FFmpeg waits for an answer to its good-bye."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()
        self._busy = None


@contextmanager
def _told(options: SourceOptions) -> Iterator[None]:
    """What OpenCV throws becomes one line: a picture it chokes on is the camera's fault."""
    try:
        yield
    except cv2.error as error:
        raise SourceError(
            f"--source {options.name}: OpenCV cannot read {options.shown}: {shown_url(error.err)}"
        ) from error


def _to_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BGR ends here."""
    code = cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(image, code), np.uint8)
