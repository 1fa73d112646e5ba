"""The gallery of a live run: flushed and pruned in time, and lived without where it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from mip_edge.errors import GalleryError
from mip_edge.gallery.base import Gallery
from mip_edge.live.event import EventLog

OUTPUT = "--gallery"
PRUNE_PAUSE = 10.0
"""Seconds between two looks at what the gallery may let go."""
QUIET = 60.0
"""Seconds without a failure after which a gallery that failed is well again."""
HANGS = 1.0
"""Seconds that a failure may take; one that took longer is waited for at no frame."""
SETTLE = 600.0
"""Seconds that a clock which jumped forward must hold before anybody is too old by it."""
REST = 30.0
"""Seconds that a gallery which hung is left alone."""

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class GalleryKeeper:
    """Asks the gallery; its failure (a full disk, a file that is locked) is told, not the end.

    People go on being tracked, and are recognised as far as the gallery can be read.

    Inside a run time never jumps: it is that of the clock as the run began. What goes to the
    gallery outlives the run and is `dated`: a clock that is set right in mid-run was wrong before.
    """

    def __init__(self, gallery: Gallery, log: EventLog, now: Callable[[], float]) -> None:
        """`now` is monotonic."""
        self._gallery, self._log, self._now = gallery, log, now
        self._pruned: float | None = None
        self._failed_at: float | None = None
        self._rest_until = now()
        self._spell = 0
        self._jumped = self._believed = 0.0
        self._jumped_at = now()
        self.failures = 0
        """Times that it failed."""

    def attempt(self, work: Callable[[], Result], otherwise: Result) -> Result:
        """What `work` gives, or `otherwise` where the gallery fails or is left alone."""
        begin = self._now()
        if begin < self._rest_until:
            return otherwise
        try:
            return work()
        except GalleryError as error:
            self._fail(str(error), begin)
            return otherwise

    def dated(self, time: float) -> float:
        """A time of the run, as the wall clock has it that was set meanwhile."""
        return time + self._log.jumped

    def look_after(self, present: float) -> list[int]:
        """To be called after each step; gives who went. `present` in the run's time."""
        now = self._now()
        if self._failed_at is not None and now - self._failed_at > QUIET:
            self._failed_at = None
            self._log.output_back(OUTPUT, self._spell)
        # At once: what waits to be committed keeps all others from writing.
        self.flush()
        if self._pruned is None:
            self._pruned = present
        if present - self._pruned < PRUNE_PAUSE:
            return []
        self._pruned = present
        self._settle(now)
        return self.attempt(lambda: self._gallery.prune(present + self._believed), [])

    def flush(self) -> None:
        """What was added is in the file, and others may write."""
        self.attempt(self._gallery.flush, None)

    def count(self) -> int:
        """Identities in the gallery; 0 if it cannot be asked."""
        return self.attempt(lambda: len(self._gallery.identities()), 0)

    def _settle(self, now: float) -> None:
        """Believe a jump back at once, one forward later: who was forgotten does not come back."""
        jumped = self._log.jumped
        if jumped != self._jumped:
            self._jumped, self._jumped_at = jumped, now
        if jumped < self._believed or now - self._jumped_at > SETTLE:
            self._believed = jumped

    def _fail(self, reason: str, begin: float) -> None:
        now = self._now()
        self.failures += 1
        if self._failed_at is None:
            self._spell = 0
            self._log.output_failed(OUTPUT, f"{OUTPUT}: {reason}")
        self._spell += 1
        self._failed_at = now
        if now - begin > HANGS:
            self._rest_until = now + REST
