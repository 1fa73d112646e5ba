"""Whether a camera is there: since when it is not, why, and when it is tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

import numpy as np

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 2.5
STEADY_SECONDS = 1.0
"""A stream that lived for less goes on with the pauses where they were."""


class SourceState(str, Enum):
    """What a camera is doing."""

    LIVE = "live"
    LOST = "lost"
    ENDED = "ended"


def retry_pauses(rng: np.random.Generator) -> Iterator[float]:
    """Seconds before each new try of a lost stream: 0.5, 1, 2, 2.5, 2.5, less up to a quarter.

    The jitter keeps cameras that fell together from knocking together.
    """
    pause = FIRST_PAUSE
    while True:
        yield pause * float(rng.uniform(0.75, 1.0))
        pause = min(2 * pause, LONGEST_PAUSE)


class Link:
    """The state of one camera; its methods are called by one thread at a time."""

    def __init__(self, now: Callable[[], float], rng: np.random.Generator) -> None:
        self.state = SourceState.LIVE
        self.reason = ""
        self.reconnects = 0
        self._now, self._rng = now, rng
        self._pauses = retry_pauses(rng)
        self._live_since = now()
        self._lost_at: float | None = None
        self._try_at: float | None = None

    @property
    def lost_for(self) -> float:
        """Seconds since it was lost; 0 if it is not."""
        moment = self._lost_at
        return 0.0 if moment is None else self._now() - moment

    @property
    def next_try(self) -> float | None:
        """Seconds until it is tried again; None while it is live, ended or being tried."""
        moment = self._try_at
        return None if moment is None else max(0.0, moment - self._now())

    def lose(self, reason: str, newest: float) -> None:
        """It is gone; `newest` is when its last frame came."""
        if self.state is SourceState.LIVE:
            self.state, self._lost_at = SourceState.LOST, self._now()
            # One that breaks off at once is not knocked at as if it had stood for an hour.
            if newest - self._live_since >= STEADY_SECONDS:
                self._pauses = retry_pauses(self._rng)
        self.reason = reason

    def plan(self) -> float:
        """The pause until the next try, in seconds, which begins now."""
        pause = next(self._pauses)
        self._try_at = self._now() + pause
        return pause

    def try_now(self) -> None:
        """The pause is over."""
        self._try_at = None

    def restore(self) -> None:
        """A frame came."""
        if self.state is SourceState.LOST:
            self.state, self.reason = SourceState.LIVE, ""
            self.reconnects += 1
            self._live_since = self._now()
            self._lost_at = self._try_at = None

    def end(self) -> None:
        """Nothing will come any more."""
        self.state = SourceState.ENDED
        self._lost_at = self._try_at = None
