"""What happened in a live run, one JSON object an event: to a file, to MQTT, to the page.

Schema 2. Every event has "event" and "at" (the wall clock, ISO 8601 in UTC, milliseconds); where a
camera is meant also "camera", "frame" (its number in that camera's source) and "time" (seconds of
that source). "box" is [x1, y1, x2, y2] in pixels of the frame. "score" is the detector's,
"similarity" a cosine, "pair" one of visible-visible, infrared-infrared, visible-infrared.

    start             schema, version, started, thresholds {pair: similarity}, fingerprint,
                      cameras [{name, modality, auto (it is found out), url (no password),
                      width, height, rate}]
    appeared          track, box, score, modality: a track began
    matched           track, identity, score (the similarity), pair, threshold (of that pair),
                      margin (to the second best; null: there is none), previous (who it was told
                      to be before; null: nobody), box: this track is a known person from here on
    new               track, identity, previous, box: this track is somebody not seen before, or
                      with previous perhaps whom a hand named though nothing there resembles it
    uncertain         track, candidates [{identity, score, pair, threshold}], reason, box: perhaps
                      somebody known; more crops will tell
    left              track, identity (null: never known), crops; frame is the one that showed it
    merged            merge (its number), identity (gone), into, score: two were one person
    unmerged          merge, identity (back again), from: what undoing a merge would tell; no live
                      run writes it: what a hand changes in the gallery is told track by track,
                      by matched or new with previous
    camera_lost       reason, next_try (seconds until then; null: not planned yet)
    camera_back       seconds (it was away)
    camera_ended
    modality_changed  from, to
    box               track, identity, similarity, box, score: one a frame and track, only with
                      --events-boxes
    output_failed     output, reason: one place that events or video go to is off, or the gallery
    output_back       output, lost: it is well again, so many did not reach it
    clock_jumped      seconds: how far the wall clock moved against the one that never jumps
    end               the whole report; in it failed (what the run died of; null: nothing), alone
                      where no report could be made; a file without this line was cut short

Events are written as they happen, so that a file of them can be followed; hence it has its name
from the first line on, and `end` tells that it is whole. No line of it is ever half written.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OutputError

SCHEMA = 2
KEPT_FAILURES = 100
"""Failures of outputs that are remembered, the newest."""
RETRY = 30.0
"""Seconds that a sink which failed is left alone."""
JUMP = 2.0
"""Seconds between wall clock and monotonic clock from which it is a jump, not a drift."""

logger = logging.getLogger(__name__)


def rounded(box: NDArray[np.float32]) -> list[float]:
    """A box for JSON, tenths of a pixel."""
    return [round(float(side), 1) for side in box]


def to_json(event: Mapping[str, Any]) -> str:
    """One line, the same wherever the event goes."""
    return json.dumps(event, allow_nan=False)


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(timezone.utc)


class EventSink(Protocol):
    """One place that events go to; `str()` of it is how a failure names it.

    `write` must not wait for anybody: it is called in the loop. It raises OutputError or OSError
    when it cannot take the event, and may be called again later.
    """

    def write(self, event: Mapping[str, Any]) -> None:
        """Take one event."""

    def close(self) -> None:
        """No more will come."""


class FileSink:
    """JSON lines in a file, each flushed; never half a line, not on a full disk either."""

    def __init__(self, path: Path) -> None:
        """What stood there is gone. Raises: OutputError if it cannot be opened."""
        self._path = path
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise OutputError(f"--events {path} cannot be written: {error.strerror}") from error
        self._whole = 0

    def __str__(self) -> str:
        return f"--events {self._path}"

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self._path

    @property
    def in_place(self) -> bool:
        """What was written lies at its path; not so once somebody removed or replaced it."""
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            return False

    def write(self, event: Mapping[str, Any]) -> None:
        """One line. Raises: OutputError when the disk takes no more; the file ends whole then."""
        line = to_json(event).encode() + b"\n"
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._take_back()
            raise OutputError(f"{self}: {error.strerror}") from error
        self._whole += len(line)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def _take_back(self) -> None:
        """Cut what a full disk took of a line; a pipe or terminal cannot be cut, nor need it."""
        with suppress(OSError):
            os.ftruncate(self._file.fileno(), self._whole)
            os.lseek(self._file.fileno(), self._whole, os.SEEK_SET)


@dataclass(frozen=True, slots=True)
class OutputFailure:
    """Something that could not be written in mid-run."""

    output: str
    """What: an option with its place."""
    reason: str
    """Why, in words."""
    at: str
    """When, ISO 8601 in UTC."""


@dataclass(slots=True)
class _Outlet:
    sink: EventSink
    failed_at: float | None = None
    """On the monotonic clock; None while it works."""
    lost: int = 0


class EventLog:
    """Stamps each event and gives it to every sink; one that fails stops neither run nor others.

    A sink that fails is left alone for `RETRY` seconds, then tried with the next event: a disk
    that has space again goes on being written.
    """

    def __init__(
        self,
        sinks: Sequence[EventSink],
        *,
        boxes: bool = False,
        clock: Callable[[], datetime] = utc_now,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`boxes`: whether the run also tells each box; `clock` is the wall, `now` monotonic."""
        self.boxes = boxes
        self._outlets = [_Outlet(sink) for sink in sinks]
        self._clock, self._now = clock, now
        self._failures: deque[OutputFailure] = deque(maxlen=KEPT_FAILURES)
        self._off: dict[str, OutputFailure] = {}
        self.jumps = 0
        """Times that the wall clock jumped."""
        self.jumped = 0.0
        """Seconds that it jumped since the run began, all together; forward is positive."""
        self._wall, self._steady = clock().timestamp(), now()

    @property
    def failures(self) -> tuple[OutputFailure, ...]:
        """The newest failures, in order; one for each time that an output went off."""
        return tuple(self._failures)

    @property
    def off(self) -> tuple[OutputFailure, ...]:
        """What does not work at present."""
        return tuple(self._off.values())

    def write(self, event: str, **values: Any) -> None:
        """Tell one event to all sinks that work."""
        self.check_clock()
        self._give({"event": event, "at": self._stamp(), **values})

    def output_failed(self, output: str, reason: str) -> None:
        """Tell that an output (a sink, a video, the gallery) went off; also in the log."""
        logger.warning("%s; the run goes on without it", reason)
        failure = self._off[output] = OutputFailure(output, reason, self._stamp())
        self._failures.append(failure)
        self._give({"event": "output_failed", "at": failure.at, "output": output, "reason": reason})

    def output_back(self, output: str, lost: int) -> None:
        """Tell that it works again; `lost` did not reach it."""
        self._off.pop(output, None)
        logger.warning("%s works again; %d did not reach it", output, lost)
        self._give({"event": "output_back", "at": self._stamp(), "output": output, "lost": lost})

    def check_clock(self) -> None:
        """Tell a jump of the wall clock. `write` asks it; a quiet loop should, once a step."""
        wall, steady = self._clock().timestamp(), self._now()
        jump = (wall - self._wall) - (steady - self._steady)
        self._wall, self._steady = wall, steady
        if abs(jump) > JUMP:
            self.jumps += 1
            self.jumped += jump
            logger.warning("the clock of this machine jumped by %+.1f s", jump)
            self._give({"event": "clock_jumped", "at": self._stamp(), "seconds": round(jump, 3)})

    def close(self) -> None:
        """Close every sink; one that fails at it is told like any other."""
        for outlet in self._outlets:
            try:
                outlet.sink.close()
            except (OSError, OutputError) as error:
                reason = _reason(outlet.sink, error)
                logger.warning("%s", reason)
                self._failures.append(OutputFailure(str(outlet.sink), reason, self._stamp()))

    def _stamp(self) -> str:
        return self._clock().astimezone(timezone.utc).isoformat(timespec="milliseconds")

    def _give(self, event: dict[str, Any]) -> None:
        failed: list[tuple[str, str]] = []
        back: list[_Outlet] = []
        for outlet in self._outlets:
            if outlet.failed_at is not None and self._now() - outlet.failed_at < RETRY:
                outlet.lost += 1
                continue
            try:
                outlet.sink.write(event)
            except (OSError, OutputError) as error:
                outlet.lost += 1
                if outlet.failed_at is None:
                    failed.append((str(outlet.sink), _reason(outlet.sink, error)))
                outlet.failed_at = self._now()
            else:
                if outlet.failed_at is not None:
                    outlet.failed_at = None
                    back.append(outlet)
        # Told after all have the event itself, so that the order is the same everywhere.
        for output, reason in failed:
            self.output_failed(output, reason)
        for outlet in back:
            lost, outlet.lost = outlet.lost, 0
            self.output_back(str(outlet.sink), lost)


def _reason(sink: EventSink, error: OSError | OutputError) -> str:
    if isinstance(error, OutputError):
        return str(error)
    return f"{sink}: {error.strerror or error}"
