"""Day and night of a synthetic film: when it is which, and how bright."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

DIMMEST = 0.4
"""Brightness at dusk, as a share of the day's."""
LAMPS = 0.65
"""Brightness that lamps keep for a visible camera by night."""
LONGEST_DUSK = 20.0
_LEVELS = 24
"""Steps of brightness; between two of them nothing needs to be drawn anew."""


class Hours(str, Enum):
    """When a person is about."""

    DAY = "day"
    NIGHT = "night"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Daylight:
    """A film that begins by day, with `nights` evenly in it."""

    seconds: float
    """Of the whole film."""
    nights: int

    @property
    def half(self) -> float:
        """Seconds of one day, and of one night."""
        return self.seconds / (2 * self.nights)

    def by_day(self, time: float) -> bool:
        """Whether it is day; before the film it is."""
        return time < 0 or int(time / self.half) % 2 == 0

    def ends(self, time: float) -> float:
        """When the day or night of `time` is over."""
        return self.half if time < 0 else (int(time / self.half) + 1) * self.half

    def brightness(self, time: float) -> float:
        """Share of full daylight in (0, 1], in steps; what a camera without lamps has."""
        ramp = min(0.3 * self.half, LONGEST_DUSK)
        if self.by_day(time):
            evening = (self.ends(time) - time) / ramp
            morning = (time % self.half) / ramp if time >= self.half else 1.0
            share = min(evening, morning, 1.0)
        else:
            share = 0.0
        level = DIMMEST + (1 - DIMMEST) * share
        return round(level * _LEVELS) / _LEVELS
