"""How one synthetic person comes, walks a floor plan, stands about, goes and comes again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import atan2, cos, pi, sin

import numpy as np

from mip_edge.synthetic.daylight import Daylight, Hours
from mip_edge.synthetic.identity import Identity
from mip_edge.synthetic.plan import FASTEST, LANE, SPOT, Plan

STRIDE = 1.45
"""Metres of a whole walking cycle."""
OUTSIDE = 3.0
"""Metres beyond the ring at which somebody is away."""
MEAN_VISIT = 28.0
SHORTEST_ABSENCE = 4.0

Spot = tuple[float, float]
"""Radians and metres from the centre of the plan."""


@dataclass(frozen=True, slots=True)
class Stance:
    """Where somebody is at one moment, and how he stands there."""

    x: float
    """Metres."""
    y: float
    facing: float
    """Direction of the body in the plan, radians."""
    phase: float
    """Place in the walking cycle, radians; 0 for somebody who stands."""


@dataclass(frozen=True, slots=True)
class _Leg:
    """A straight piece of a way in polar coordinates, or a pause."""

    start: float
    seconds: float
    origin: Spot
    end: Spot
    walked: float
    """Metres of the visit before this piece."""
    facing: float | None
    """Where somebody looks who stands; None while walking."""


class Walker:
    """One person for the length of a film; asked in the order of time, remembers one visit."""

    def __init__(
        self,
        identity: Identity,
        hours: Hours,
        plan: Plan,
        daylight: Daylight,
        rng: np.random.Generator,
        absence: float,
    ) -> None:
        """`absence` is the mean time in seconds between two visits."""
        self.identity, self.hours = identity, hours
        self._plan, self._daylight, self._rng = plan, daylight, rng
        self._absence = absence
        self.tall = float(1.72 * rng.uniform(0.93, 1.07))
        """Metres."""
        self._speed = float(rng.uniform(1.15, 1.6))
        self._exit = int(rng.integers(plan.sites))
        self._legs: deque[_Leg] = deque()
        self._begin()

    def at(self, time: float) -> Stance | None:
        """Where he is; None while he is away. `time` must not go back."""
        while self._legs[-1].start + self._legs[-1].seconds <= time:
            self._visit(self._legs[-1].start + self._legs[-1].seconds + self._pause())
        while self._legs[0].start + self._legs[0].seconds <= time:
            self._legs.popleft()
        leg = self._legs[0]
        if time < leg.start:
            return None
        done = (time - leg.start) / leg.seconds
        angle = leg.origin[0] + done * (leg.end[0] - leg.origin[0])
        radius = leg.origin[1] + done * (leg.end[1] - leg.origin[1])
        x, y = radius * cos(angle), radius * sin(angle)
        if leg.facing is not None:
            return Stance(x, y, leg.facing, 0.0)
        out, round_ = leg.end[1] - leg.origin[1], radius * (leg.end[0] - leg.origin[0])
        walked = leg.walked + done * _length(leg.origin, leg.end)
        phase = 2 * pi * walked / STRIDE % (2 * pi)
        return Stance(x, y, angle + atan2(round_, out), phase)

    def _begin(self) -> None:
        """The first visit: some are in the middle of one when the film begins."""
        present = self._rng.random() < MEAN_VISIT / (MEAN_VISIT + self._absence)
        if self.hours is not Hours.NIGHT and (present or self.hours is Hours.DAY):
            self._visit(0.0)
            last = self._legs[-1]
            length = last.start + last.seconds - self._legs[0].start
            shift = self._legs[0].start + self._rng.uniform(0.1, 0.7) * length
            if self.hours is Hours.DAY:
                shift = max(shift, self._legs[0].start + length - self._daylight.half)
            self._legs = deque(_shifted(leg, shift) for leg in self._legs)
        else:
            self._visit(self._pause())

    def _pause(self) -> float:
        return SHORTEST_ABSENCE + float(self._rng.exponential(self._absence))

    def _visit(self, start: float) -> None:
        """Plan the next visit from `start`, later if these are not his hours."""
        brief = self.hours is not Hours.BOTH
        tour = self._tour(1 if brief else int(self._rng.integers(1, 4)), brief=brief)
        if brief:
            seconds = sum(piece[2] for piece in tour)
            day = self._daylight
            fits = start + seconds <= day.ends(start)
            if day.by_day(start) != (self.hours is Hours.DAY) or (not fits and start > 0):
                start = day.ends(start)
                if day.by_day(start) != (self.hours is Hours.DAY):
                    start = day.ends(start)
                start += float(self._rng.uniform(0.0, min(3.0, 0.2 * day.half)))
        walked = 0.0
        self._legs.clear()
        for origin, end, seconds, facing in tour:
            self._legs.append(_Leg(start, seconds, origin, end, walked, facing))
            walked += _length(origin, end)
            start += seconds

    def _tour(self, sites: int, *, brief: bool) -> list[tuple[Spot, Spot, float, float | None]]:
        """A way from the present exit past `sites` sites to another: from, to, seconds, facing."""
        rng, plan = self._rng, self._plan
        # Who has only a short day for it walks briskly.
        speed = (
            float(rng.uniform(1.5, 1.7)) if brief else self._speed * float(rng.uniform(0.9, 1.1))
        )
        speed = min(speed, FASTEST)
        way: list[tuple[Spot, Spot, float, float | None]] = []
        here: Spot = (plan.angle(self._exit + 0.5), plan.radius + OUTSIDE)

        def go(place: float, offset: float, jitter: float = 0.0) -> None:
            nonlocal here
            there = (plan.angle(place) + jitter, plan.radius + offset)
            way.append((here, there, max(_length(here, there) / speed, 0.05), None))
            here = there

        def stand(seconds: float, facing: float) -> None:
            way.append((here, here, seconds, facing))

        onward = 1 if rng.random() < 0.5 else -1
        site = self._exit if onward > 0 else self._exit + 1
        go(self._exit + 0.5, float(rng.uniform(-LANE, LANE)))
        for _ in range(sites):
            site += onward
            bend = float(rng.uniform(-0.2, 0.2)) * 8.0 / plan.radius
            go(site, float(rng.uniform(-LANE, LANE)), bend)
            act = 1.0 if brief else rng.random()
            if act < 0.3:
                stand(float(rng.uniform(1.0, 4.0)), float(rng.uniform(0, 2 * pi)))
            elif act < 0.55:
                go(site, SPOT, bend)
                stand(float(rng.uniform(1.0, 3.0)), here[0])
                go(site, float(rng.uniform(-LANE, LANE)), bend)
            elif act < 0.65:
                onward = -onward
        go(site + 0.5 * onward, float(rng.uniform(-LANE, LANE)))
        go(site + 0.5 * onward, OUTSIDE)
        self._exit = (site if onward > 0 else site - 1) % plan.sites
        return way


def _length(origin: Spot, end: Spot) -> float:
    """Metres of a piece of a way, measured on its outer side: nobody is faster than meant."""
    round_ = max(origin[1], end[1]) * (end[0] - origin[0])
    return float(np.hypot(end[1] - origin[1], round_))


def _shifted(leg: _Leg, earlier: float) -> _Leg:
    return _Leg(leg.start - earlier, leg.seconds, leg.origin, leg.end, leg.walked, leg.facing)
