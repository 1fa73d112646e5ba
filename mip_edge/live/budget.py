"""In which frames of which camera the detector runs, so that all cameras keep up."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from mip_edge.errors import OptionError

FIRST = 5
"""Measurements after which the first choice is made."""


@dataclass(frozen=True, slots=True)
class BudgetOptions:
    """What the detector may cost, and how seldom it may look."""

    share: float = 0.6
    """Of the time that the detector may take; the rest is for all others."""
    min_looks: float = 2.5
    """Looks a second that a camera gets whatever they cost: a tracker that sees less loses people.
    """
    max_every: int = 15
    """Frames from one look to the next at most."""
    slack: float = 0.8
    """Of the share, that a quicker pace must stay within before it is taken up."""
    hold: int = 20
    """Measurements between two changes at least."""
    window: int = 15
    """Measurements whose median is the detector's cost."""

    def __post_init__(self) -> None:
        for name, value in (("share", self.share), ("slack", self.slack)):
            if not 0.0 < value <= 1.0:
                raise OptionError(f"{name} must be above 0 and at most 1, got {value}")
        if not 0.0 < self.min_looks < math.inf:
            raise OptionError(f"min_looks must be above 0, got {self.min_looks}")
        for name, count in (
            ("max_every", self.max_every),
            ("hold", self.hold),
            ("window", self.window),
        ):
            if count < 1:
                raise OptionError(f"{name} must be at least 1, got {count}")


class DetectBudget:
    """Says for each frame of each camera whether the detector runs in it.

    With a number, in every such frame. Without one it measures what a look costs, and lets all
    cameras be looked at as often a second as the share of time allows: a camera of many frames a
    second has more of them left out. It answers from what it was told alone; it reads no clock.
    """

    def __init__(
        self,
        every: int | None,
        rates: Mapping[str, float],
        options: BudgetOptions | None = None,
    ) -> None:
        """`rates` are the cameras and their frames a second. Raises: OptionError."""
        if every is not None and every < 1:
            raise OptionError(f"--detect-every must be at least 1, got {every}")
        self._fixed = every
        self._options = options or BudgetOptions()
        self._rates: dict[str, float] = {}
        self._turns: dict[str, int] = {}
        self._looked: dict[str, int] = {}
        self._costs: deque[float] = deque(maxlen=self._options.window)
        self._since_change = self._options.hold
        self._looks = math.inf
        self.every: dict[str, int] = {}
        """Of each camera: one look in so many frames."""
        for camera, rate in rates.items():
            self.set_rate(camera, rate)

    def set_rate(self, camera: str, rate: float) -> None:
        """A camera's frames a second; 0 while it is lost, so that it costs nothing."""
        if not 0.0 <= rate < math.inf:
            raise OptionError(f"the rate of {camera} must be at least 0, got {rate}")
        self._rates[camera] = rate
        self._turns.setdefault(camera, len(self._turns))
        self._spread()

    def due(self, camera: str, frame: int) -> bool:
        """Whether the detector runs in this frame of `camera`, by its number in the source.

        The first frame is always looked at. From then on cameras take turns, so that not all are
        looked at in one tick. Frames that were dropped count: where most are, the next one that
        comes is looked at, or a tracker would see too little to follow anybody.
        """
        every, turn = self.every[camera], self._turns[camera]
        last = self._looked.get(camera)
        due = last is None or (frame + turn) // every != (last + turn) // every
        if due:
            self._looked[camera] = frame
        return due

    def measure(self, seconds: float, frames: int) -> None:
        """A call of the detector with `frames` frames took `seconds`."""
        if frames < 1 or not 0.0 <= seconds < math.inf:
            return
        self._costs.append(seconds / frames)
        self._since_change += 1
        ready = len(self._costs) >= min(FIRST, self._options.window)
        if self._fixed is None and ready and self._since_change >= self._options.hold:
            self._choose()

    @property
    def cost(self) -> float:
        """Seconds of one look, the median of the last; 0 before the first."""
        return median(self._costs) if self._costs else 0.0

    @property
    def load(self) -> float:
        """Share of the time that the detector takes at the present pace; above 1 is too much."""
        return self._load(self._looks)

    @property
    def overloaded(self) -> bool:
        """Even at the slowest pace allowed it takes more than its share."""
        return self.load > self._options.share and self.every == {
            camera: self._every(camera, 0.0) for camera in self._rates
        }

    def _choose(self) -> None:
        """Slower as soon as the share is passed; quicker only if that leaves a margin."""
        now, share = self.load, self._options.share
        if now > share:
            looks = next((p for p in self._paces() if self._load(p) <= share), 0.0)
        else:
            aim = share * self._options.slack
            looks = next((p for p in self._paces() if self._load(p) <= aim), self._looks)
            # Only ever quicker here; what fits with its margin may be the slower one.
            looks = max(looks, self._looks)
        before = dict(self.every)
        self._looks = looks
        self._spread()
        if self.every != before:
            self._since_change = 0

    def _paces(self) -> list[float]:
        """Looks a second at which some camera's number changes, quickest first."""
        counts = range(1, self._options.max_every + 1)
        return sorted({rate / n for rate in self._rates.values() for n in counts}, reverse=True)

    def _every(self, camera: str, looks: float) -> int:
        """The least number of frames that keeps a camera at or below so many looks a second."""
        if self._fixed is not None:
            return self._fixed
        rate = self._rates[camera]
        slowest = max(1, min(self._options.max_every, math.floor(rate / self._options.min_looks)))
        if looks * slowest <= rate:
            return slowest
        # Rates such as 29.97 divided and multiplied again must not need one frame more.
        return max(1, math.ceil(rate / looks - 1e-9))

    def _load(self, looks: float) -> float:
        wanted = sum(rate / self._every(camera, looks) for camera, rate in self._rates.items())
        return wanted * self.cost

    def _spread(self) -> None:
        self.every = {camera: self._every(camera, self._looks) for camera in self._rates}
