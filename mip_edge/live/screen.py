"""What the cameras look like, on its way to video files and a window."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mip_edge.live.recorder import Background, Mosaic, Recorder
from mip_edge.live.view import CameraView
from mip_edge.live.window import Window

logger = logging.getLogger(__name__)


def tell_failure(output: str, reason: str) -> None:
    """Where nobody else wants to know: the log."""
    logger.warning("%s: %s", output, reason)


class Screen:
    """Draws the cameras if somebody looks: --save or --show.

    `--save out.mp4` is one mosaic of all cameras, `--save folder/` also a video of each. Videos of
    a live run are drawn and encoded in a thread of their own, from the newest there is; one of
    recordings that are read frame by frame misses none. A video that fails is told once to
    `on_failure(output, reason)`, in the thread of the loop.
    """

    def __init__(
        self,
        rates: Mapping[str, float],
        *,
        save: Path | None = None,
        show: bool = False,
        stepped: bool = False,
        now: Callable[[], float] = time.monotonic,
        on_failure: Callable[[str, str], None] = tell_failure,
    ) -> None:
        """`rates`: frames a second by camera; `stepped`: time is the frames', not the clock's.

        Raises: OutputError if a video cannot be written or there is no display.
        """
        self.wanted = True
        """False once the user has closed the window."""
        self.outputs: tuple[str, ...] = ()
        """The videos that are whole, none before `finish`."""
        self._window = Window() if show else None
        self._mosaic = Mosaic()
        self._now, self._stepped, self._on_failure = now, stepped, on_failure
        self._recorder = Recorder(rates, save) if save is not None else None
        self._background: Background | None = None
        if self._recorder is not None and not stepped:
            self._background = Background(self._recorder.update)
        self._begin = now()

    def update(self, views: Sequence[CameraView]) -> None:
        """Record and show what all cameras show now, in the order given."""
        if not views:
            return
        if self._recorder is not None:
            elapsed = max(v.time for v in views) if self._stepped else self._now() - self._begin
            if self._background is not None:
                self._background.hand(views, elapsed)
            else:
                self._recorder.update(views, elapsed)
            self._tell()
        if self._window is not None:
            self.wanted = self._window.show(self._mosaic.draw(views))

    def finish(self) -> tuple[str, ...]:
        """Make the videos whole; gives `outputs`. Raises: what their thread died of."""
        if self._recorder is not None:
            try:
                self._end_background()
            finally:
                # What a thread had written until it died is a video all the same.
                self.outputs = self._recorder.finish()
                self._tell()
                self._recorder = None
        return self.outputs

    def close(self) -> None:
        """Close the window, and leave no video that was not finished."""
        if self._recorder is not None:
            # The run has failed already; what the thread died of must not hide why.
            with suppress(Exception):
                self._end_background()
            self._recorder.discard()
            self._recorder = None
        if self._window is not None:
            self._window.close()

    def _end_background(self) -> None:
        background, self._background = self._background, None
        if background is not None:
            background.join()

    def _tell(self) -> None:
        assert self._recorder is not None
        for output, reason in self._recorder.failures():
            self._on_failure(output, reason)
