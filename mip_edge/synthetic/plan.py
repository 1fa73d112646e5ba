"""The floor plan of a synthetic site: a ring walk, its exits, and the cameras that look at it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

from mip_edge.spec import Modality

NAMES = ("gate", "court", "yard", "dock", "lane", "hall", "arch", "mall")
SPACING = 13.0
"""Metres of the ring from one site to the next."""
SMALLEST_RING = 52.0
LANE = 1.7
"""Metres that people keep to the left or right of the middle of the ring."""
SPOT = 2.5
"""Metres from the middle of the ring out to where people stop and look at something."""
STANDOFF = 6.0
"""Metres from a camera to the middle of the ring."""
FAR = 9.5
"""Metres from a camera to the wall that ends its view."""
NEAR = 2.0
TURN = 0.21
"""Radians that each of two overlapping cameras stands beside their site."""
FOCAL = 1.15
"""Focal length in heights of the frame."""
HORIZON = 0.22
"""Where the horizon lies, as a share of the frame's height."""
MOUNT = 2.4
"""Metres from the ground to a camera."""
BODY = 0.35
"""Half the width of a person with swinging arms, metres."""
FASTEST = 1.8
"""Metres a second that nobody exceeds."""


class Sensor(str, Enum):
    """What a camera sees with."""

    VISIBLE = "visible"
    INFRARED = "infrared"
    SWITCHING = "switching"
    """Visible by day; at dusk the IR-cut filter moves away, and it sees infrared."""

    def modality(self, by_day: bool) -> Modality:
        """The light in which it sees."""
        if self is Sensor.SWITCHING:
            return Modality.VISIBLE if by_day else Modality.INFRARED
        return Modality(self.value)


@dataclass(frozen=True, slots=True)
class PlanCamera:
    """Where one camera stands, level, and how a point of the plan falls into its picture."""

    name: str
    sensor: Sensor
    x: float
    """Metres."""
    y: float
    heading: float
    """Radians, against the clock from the x axis."""
    late: float
    """Seconds after dusk (and dawn) at which its filter moves."""

    def locate(self, x: float, y: float) -> tuple[float, float]:
        """Metres ahead of the camera and to its right."""
        ahead, side = cos(self.heading), sin(self.heading)
        east, north = x - self.x, y - self.y
        return east * ahead + north * side, east * side - north * ahead

    def yaw(self, facing: float) -> float:
        """How a body that faces the direction `facing` of the plan is turned, as in `Pose`."""
        turn = facing - self.heading
        return float(np.arctan2(-sin(turn), -cos(turn)) % (2 * pi))


@dataclass(frozen=True, slots=True)
class Travel:
    """The least time from one camera's view to another's, by the shortest way."""

    origin: str
    destination: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A site: people come by exits that no camera sees, walk the ring, and go."""

    radius: float
    """Metres from the centre to the middle of the ring."""
    sites: int
    """Places that cameras look at, evenly on the ring; an exit lies between each two."""
    cameras: tuple[PlanCamera, ...]

    def angle(self, place: float) -> float:
        """Radians of a site (a whole number, going round and round) or of an exit (a half)."""
        return 2 * pi * place / self.sites


def make_plan(cameras: int) -> Plan:
    """A plan with that many cameras; of each four the first two look at one site together."""
    together = [cameras > 2 and number % 4 == 1 for number in range(cameras)]
    sites = cameras - sum(together)
    radius = max(SMALLEST_RING, SPACING * sites) / (2 * pi)
    placed = []
    site = -1
    for number in range(cameras):
        site += not together[number]
        shared = together[number] or (number + 1 < cameras and together[number + 1])
        turn = 0.0 if not shared else TURN if together[number] else -TURN
        heading = 2 * pi * site / sites + turn * SMALLEST_RING / (2 * pi * radius)
        away = radius - STANDOFF
        placed.append(
            PlanCamera(
                name=NAMES[number] if number < len(NAMES) else f"camera{number + 1}",
                sensor=_sensor(number, cameras),
                x=away * cos(heading),
                y=away * sin(heading),
                heading=heading,
                late=0.6 * (number % 4),
            )
        )
    return Plan(radius, sites, tuple(placed))


def _sensor(number: int, cameras: int) -> Sensor:
    if cameras < 3 and number == cameras - 1:
        return Sensor.SWITCHING
    return (Sensor.VISIBLE, Sensor.INFRARED, Sensor.SWITCHING, Sensor.SWITCHING)[number % 4]


def travels(plan: Plan, size: tuple[int, int]) -> list[Travel]:
    """The least time between each two cameras with frames of that height and width.

    It holds however somebody walks: who leaves the site comes back by the same exit.
    """
    seen = {camera.name: _seen_angles(plan, camera, size) for camera in plan.cameras}
    least = (plan.radius - LANE) / FASTEST
    return [
        Travel(one, other, round(float(least * _gap(seen[one], seen[other])), 2))
        for one in seen
        for other in seen
        if one != other
    ]


def _seen_angles(plan: Plan, camera: PlanCamera, size: tuple[int, int]) -> NDArray[np.float64]:
    """Those of 1440 angles of the ring at which a camera may see a part of somebody."""
    half = size[1] / (2 * FOCAL * size[0])
    angles = np.linspace(0, 2 * pi, 1440, endpoint=False)
    found = []
    for angle in angles.tolist():
        for radius in np.linspace(plan.radius - LANE, plan.radius + SPOT, 9).tolist():
            ahead, right = camera.locate(radius * cos(angle), radius * sin(angle))
            if NEAR < ahead < FAR and abs(right) < half * ahead + BODY:
                found.append(angle)
                break
    return np.array(found)


def _gap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The least angle between two sets of angles."""
    apart = np.abs(one[:, None] - other[None])
    return float(np.minimum(apart, 2 * pi - apart).min())
