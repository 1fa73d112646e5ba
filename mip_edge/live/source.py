"""Frames of one camera, file or stream, read by a thread that nobody has to wait for."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import SourceError
from mip_edge.live.capture import Capture, open_capture
from mip_edge.live.link import Link, SourceState
from mip_edge.live.reader import OPEN_SECONDS, Picture, Reader
from mip_edge.live.source_options import SourceOptions

__all__ = ["Frame", "SourceState", "VideoSource"]

logger = logging.getLogger(__name__)

JOIN_SECONDS = 1.0
TIMED_OUT = 3.0
LONGEST_BLIND = 0.3
"""Seconds after which a late frame of a file is shown all the same."""
SLOW = 2.0
"""Seconds that a file may be late before it is told."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of one camera."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB; the size may change from frame to frame."""
    index: int
    """Number from 0; dropped frames are counted, so numbers of a file are those of the file."""
    time: float
    """Seconds: of a file from its beginning, of a camera since its first frame."""
    captured: float
    """When it was decoded, on the monotonic clock."""


class VideoSource:
    """Frames of one --source; opens at once and fails there.

    A file with `realtime=False` is read by the caller, every frame. Anything else is read by a
    thread that keeps the newest frame: one not fetched in time is dropped and counted. A camera or
    stream that breaks off, or gives nothing for 5 s, is LOST and tried again with growing pauses;
    where its thread hangs, a new one tries beside it, but never more than one. The end of a file is
    its end.
    """

    def __init__(
        self,
        options: SourceOptions,
        *,
        realtime: bool,
        now: Callable[[], float] = time.monotonic,
        capture: Callable[[SourceOptions], Capture] = open_capture,
        rng: np.random.Generator | None = None,
    ) -> None:
        """`now` is a monotonic clock; `rng` spreads the pauses. Raises: SourceError."""
        self.options = options
        self.dropped = 0
        """Frames that were replaced by a newer one, or skipped because they were late."""
        self.threaded = realtime or not options.is_file
        self._open, self._now = capture, now
        self._link = Link(now, np.random.default_rng() if rng is None else rng)
        self._index, self._unreadable = 0, 0
        self._pending: Frame | None = None
        self._begin = self._newest = now()
        self._failure: BaseException | None = None
        self._closed = False
        self._deadline = 0.0
        self._changed = threading.Condition()
        self._abandoned: Reader | None = None
        self._reader = Reader(options, capture, now, self._run)
        try:
            first = self._first()
        except BaseException:
            self.close()
            raise
        self.height, self.width = first.image.shape[:2]
        self.rate = self._reader.rate

    @property
    def state(self) -> SourceState:
        """What it is doing."""
        return self._link.state

    @property
    def lost_reason(self) -> str:
        """Why it is LOST, without passwords; empty otherwise."""
        return self._link.reason

    @property
    def lost_for(self) -> float:
        """Seconds since it was lost; 0 if it is not."""
        return self._link.lost_for

    @property
    def next_try(self) -> float | None:
        """Seconds until it is tried again; None while it is live, ended or being tried."""
        return self._link.next_try

    @property
    def reconnects(self) -> int:
        """How often it came back."""
        return self._link.reconnects

    @property
    def unreadable(self) -> int:
        """Frames that could not be decoded."""
        return self._unreadable + self._reader.unreadable

    @property
    def age(self) -> float:
        """Seconds since the newest frame was decoded, whether or not it was handed out."""
        return self._now() - self._newest

    @property
    def next_time(self) -> float:
        """When the next frame of an unthreaded file plays, in its seconds."""
        return self._index / self.rate

    @property
    def exhausted(self) -> bool:
        """Nothing more will come, not even the error that a thread died of."""
        over = self.state is SourceState.ENDED and self._pending is None
        return over and self._failure is None

    def read(self, timeout: float = 0.0) -> Frame | None:
        """The newest frame not yet handed out; None if there is none within `timeout` seconds.

        Also looks whether the thread hangs. Raises: whatever the thread died of.
        """
        frame = self._fetch(timeout) if self.threaded else self._read_next()
        if frame is not None:
            self.height, self.width = frame.image.shape[:2]
        return frame

    def stop(self) -> None:
        """Ask the thread to end, without waiting for it."""
        with self._changed:
            if not self._closed:
                self._deadline = time.monotonic() + JOIN_SECONDS
            self._closed = True
            self._reader.dismiss()

    def close(self) -> None:
        """Stop, and let the device go; a thread that hangs keeps its own and is left behind."""
        self.stop()
        if not self._reader.ident:  # never started
            self._reader.release()
            return
        # Counted from when it was asked: of many that hang, all are waited for at the same time.
        self._reader.join(max(self._deadline - time.monotonic(), 0.0))
        if any(reader.is_alive() for reader in (self._reader, self._abandoned) if reader):
            logger.warning(
                "camera %s: its reading thread hangs and is left behind", self.options.name
            )

    def _first(self) -> Frame:
        """The first frame, which stays to be read. Raises: SourceError if there is none."""
        if not self.threaded:
            image, captured = self._reader.open()
            index = self._reader.unreadable
            self._pending = Frame(image, index, index / self._reader.rate, captured)
            return self._pending
        self._reader.start()
        with self._changed:
            self._changed.wait_for(
                lambda: self._pending is not None or self.state is SourceState.ENDED, OPEN_SECONDS
            )
            if self._failure is not None:
                raise self._failure
            if self._pending is None:
                raise SourceError(
                    f"--source {self.options.name}: {self.options.shown} gave no picture for "
                    f"{OPEN_SECONDS:g} s; expected a camera or stream that runs"
                )
            return self._pending

    def _read_next(self) -> Frame | None:
        """The next frame of a file; one that cannot be decoded is skipped, and its number too."""
        frame, self._pending = self._pending, None
        if frame is None:
            before = self._reader.unreadable
            picture = self._reader.next()
            if picture is None:
                self._link.end()
                return None
            index = self._index + self._reader.unreadable - before
            frame = Frame(picture[0], index, index / self.rate, picture[1])
        self._index, self._newest = frame.index + 1, frame.captured
        return frame

    def _fetch(self, timeout: float) -> Frame | None:
        with self._changed:
            self._look_after()
            if self._pending is None and self.state is not SourceState.ENDED:
                self._changed.wait(timeout)
            frame, self._pending = self._pending, None
            if frame is None and self._failure is not None:
                raise self._failure
            return frame

    def _look_after(self) -> None:
        """Declare a camera LOST whose thread hangs, and try beside it."""
        stalled = self._reader.stalled()
        if stalled is None or self.state is SourceState.ENDED or self._closed:
            return
        self._link.lose(f"no frame for {stalled:.0f} s", self._newest)
        if self.options.is_file or (self._abandoned is not None and self._abandoned.is_alive()):
            return
        self._abandoned = self._reader
        self._abandoned.dismiss()
        self._unreadable += self._abandoned.unreadable
        pause = self._link.plan()
        self._reader = Reader(self.options, self._open, self._now, self._run, pause)
        self._reader.start()

    def _run(self, reader: Reader) -> None:
        failure: BaseException | None = None
        try:
            if self.options.is_file:
                self._play(reader)
            else:
                self._follow(reader)
        except BaseException as error:
            # It must reach the main loop: a thread that dies alone looks like a quiet camera.
            failure = error
        reader.release()
        with self._changed:
            if reader is self._reader:
                self._failure = failure
                self._link.end()
                self._changed.notify_all()

    def _play(self, reader: Reader) -> None:
        """A file at its own speed; frames that are late already are not even decoded.

        But for one now and then: on a machine that cannot keep up all frames are late.
        """
        image, captured = reader.open()
        index, period = reader.unreadable, 1.0 / reader.rate
        begin = captured - index * period
        shown, told = captured, False
        self._publish(reader, Frame(image, index, index * period, captured))
        while True:
            index += 1
            wait = begin + index * period - self._now()
            reader.expect(False)
            if not reader.wait(max(wait, 0.0)):
                return
            reader.expect()
            if not reader.skip():
                return
            captured = self._now()
            if wait < -SLOW and not told:
                told = True
                logger.warning(
                    "camera %s: this machine reads it slower than it plays; it is %.0f s late",
                    self.options.name,
                    -wait,
                )
            if wait < -period and captured - shown < LONGEST_BLIND:
                self.dropped += 1
                continue
            shown = captured
            later = reader.retrieve()
            if later is not None:
                self._publish(reader, Frame(later, index, index * period, captured))

    def _follow(self, reader: Reader) -> None:
        """A camera or stream for as long as it lives, and again when it comes back."""
        first = reader.pause is None
        while first or self._try_again(reader):
            try:
                picture: Picture | None = reader.open()
                while picture is not None:
                    image, captured = picture
                    if first:
                        first, self._begin = False, captured
                    moment = captured - self._begin
                    self._publish(reader, Frame(image, self._index, moment, captured))
                    reader.expect()
                    picture = reader.next()
                reason = _broken(self._now() - self._newest)
            except SourceError as error:
                if first:
                    raise
                reason = str(error).removeprefix(f"--source {self.options.name}: ")
            with self._changed:
                if reader.wanted:
                    self._link.lose(reason, self._newest)
            reader.release()
            with self._changed:
                if not reader.wanted:
                    return
                reader.pause = self._link.plan()

    def _try_again(self, reader: Reader) -> bool:
        """Wait for the next try; False if none is wanted."""
        assert reader.pause is not None
        wanted = reader.wait(reader.pause)
        if wanted:
            self._link.try_now()
        return wanted

    def _publish(self, reader: Reader, frame: Frame) -> None:
        with self._changed:
            if not reader.wanted:
                return
            self.dropped += self._pending is not None
            self._pending = frame
            self._index, self._newest = frame.index + 1, frame.captured
            self._link.restore()
            self._changed.notify_all()


def _broken(silent: float) -> str:
    """Why a stream is lost whose last frame came `silent` seconds ago."""
    return f"no frame for {silent:.0f} s" if silent >= TIMED_OUT else "the stream broke off"
