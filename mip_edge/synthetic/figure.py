"""How a synthetic person stands: a pose becomes a map of body parts, label by label."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.synthetic.identity import BOTTOMS, CARRIED, HAIR, PARTS, PERIODS, TOPS, Identity

CANVAS = (256, 128)
"""Height and width in pixels of the map that a figure is drawn on."""
Labels = NDArray[np.uint8]
"""(256, 128) indices into PARTS."""

SKIN, HAIR_LABEL, TOP, TOP2, BOTTOM, BOTTOM2, SHOES, BAG, BAG2, INNER, HEADGEAR = range(
    1, len(PARTS)
)
_ROWS = np.arange(CANVAS[0], dtype=np.float32)[:, None]
_COLUMNS = np.arange(CANVAS[1], dtype=np.float32)[None]


@dataclass(frozen=True, slots=True)
class Pose:
    """What a view changes of a body, and nothing that tells who it is."""

    phase: float = 0.0
    """Place in the walking cycle, radians."""
    yaw: float = 0.0
    """0 faces the camera, pi/2 walks to the right, pi shows the back, 3 pi/2 walks to the left."""
    height: float = 0.9
    """Height of the body as a share of the canvas."""
    centre: float = 0.5
    """Where the body stands, left to right, as a share of the canvas."""
    top: float = 0.05
    """Free space above the head as a share of the canvas."""
    lean: float = 0.0
    """Tilt of the upper body, in body heights per body height."""


def draw_figure(identity: Identity, pose: Pose) -> Labels:
    """The parts of `identity` in `pose`, (256, 128) uint8 labels; 0 is background."""
    labels = np.zeros(CANVAS, dtype=np.uint8)
    body = _Body(identity, pose)
    body.draw_behind(labels)
    body.draw_legs(labels)
    body.draw_torso(labels)
    body.draw_head(labels)
    body.draw_carried(labels)
    return labels


class _Body:
    """The joints of one person in one pose, and how each part is drawn from them."""

    def __init__(self, identity: Identity, pose: Pose) -> None:
        self.identity = identity
        height = pose.height * CANVAS[0]
        self.height = height
        self.side = float(np.sin(pose.yaw))
        self.front = float(np.cos(pose.yaw))
        broad = 0.72 + 0.62 * identity.build
        narrowing = 0.68 + 0.32 * abs(self.front)
        self.centre = pose.centre * CANVAS[1]
        top = pose.top * CANVAS[0]
        self.head_radius = height * (0.056 + 0.024 * identity.head)
        self.sole = top + height
        leg = height * (0.42 + 0.11 * identity.legs)
        self.hip_y = self.sole - leg
        self.neck_y = top + 2.0 * self.head_radius
        self.shoulder_y = self.neck_y + 0.025 * height
        self.shoulder = 0.105 * height * broad * narrowing
        self.hip = 0.082 * height * broad * narrowing
        self.limb = 0.052 * height * broad
        self.lean = pose.lean * height
        self.neck_x = self.centre + self.lean
        self.head = (self.neck_x, top + self.head_radius)
        swing = float(np.sin(pose.phase))
        reach = (0.22 + 0.30 * identity.stride) * self.side
        stance = 0.5 * self.hip * abs(self.front)
        self.legs = [self._leg(sign, sign * reach * swing, sign * stance) for sign in (-1, 1)]
        self.arms = [self._arm(sign, -sign * reach * swing) for sign in (-1, 1)]

    def _leg(self, sign: int, angle: float, offset: float) -> NDArray[np.float64]:
        length = self.sole - self.hip_y
        hip = np.array([self.centre + offset, self.hip_y])
        bend = 0.5 * abs(angle) * np.sign(self.side) if sign * angle * self.side < 0 else 0.0
        knee = hip + 0.5 * length * np.array([np.sin(angle), np.cos(angle)])
        ankle = knee + 0.46 * length * np.array([np.sin(angle - bend), np.cos(angle - bend)])
        return np.array([hip, knee, ankle])

    def _arm(self, sign: int, angle: float) -> NDArray[np.float64]:
        length = 0.30 * self.height
        shoulder = np.array(
            [self.neck_x + sign * self.shoulder * 0.95, self.shoulder_y + 0.02 * self.height]
        )
        spread = 0.12 * sign * abs(self.front)
        elbow = shoulder + 0.5 * length * np.array([np.sin(angle + spread), np.cos(angle + spread)])
        fore = angle * 1.35 + spread
        hand = elbow + 0.5 * length * np.array([np.sin(fore), np.cos(fore)])
        return np.array([shoulder, elbow, hand])

    def draw_behind(self, labels: Labels) -> None:
        """The far arm, and a backpack as far as the body does not hide it."""
        self._draw_arm(labels, 0)
        if CARRIED[self.identity.carried] == "backpack" and self.front > -0.3:
            shift = -np.sign(self.side) * abs(self.side) * (self.shoulder + 0.02 * self.height)
            self._box(labels, self.neck_x + shift, 0.9 * self.shoulder, 0.03, 0.25, BAG)
        if HAIR[self.identity.hair] == "long":
            x, y = self.head
            radius = self.head_radius
            _rectangle(labels, x - radius, y, x + radius, y + 2.6 * radius, HAIR_LABEL)

    def draw_legs(self, labels: Labels) -> None:
        """Legs with what the lower garment covers, and shoes."""
        kind = BOTTOMS[self.identity.bottom]
        covered = {"trousers": 1.0, "shorts": 0.42, "skirt": 0.0, "long skirt": 0.0}[kind]
        boots = 0.42 if self.identity.shoes == 1 else 0.12
        for leg in self.legs:
            hip, knee, ankle = leg
            _stroke(labels, hip, knee, self.limb, SKIN)
            _stroke(labels, knee, ankle, 0.8 * self.limb, SKIN)
            if covered == 1.0:
                _stroke(labels, hip, knee, 1.15 * self.limb, BOTTOM)
                _stroke(labels, knee, ankle, self.limb, BOTTOM)
            elif covered > 0:
                _stroke(labels, hip, hip + 0.85 * (knee - hip), 1.3 * self.limb, BOTTOM)
            _stroke(labels, ankle, ankle + boots * (knee - ankle), 0.95 * self.limb, SHOES)
            toe = ankle + np.array([0.045 * self.height * self.side, 0.012 * self.height])
            _stroke(labels, ankle, toe, 0.8 * self.limb, SHOES)
        if "skirt" in kind:
            length = (0.46 if kind == "skirt" else 0.82) * (self.sole - self.hip_y)
            flare = self.hip * (1.25 if kind == "skirt" else 1.45) + 0.15 * self.limb
            _quad(labels, self.centre, self.hip_y - 2, self.hip, self.hip_y + length, flare, BOTTOM)
        self._print_bottom(labels)

    def draw_torso(self, labels: Labels) -> None:
        """Torso, near arm and upper garment with its pattern."""
        kind = TOPS[self.identity.top]
        hem = self.hip_y + (0.02 if kind != "coat" else 0.24) * self.height
        flare = self.hip * (1.12 if kind != "coat" else 1.45)
        points = np.array(
            [
                [self.neck_x - self.shoulder, self.shoulder_y],
                [self.neck_x + self.shoulder, self.shoulder_y],
                [self.centre + flare, hem],
                [self.centre - flare, hem],
            ]
        )
        cv2.fillConvexPoly(labels, np.round(points).astype(np.int32), TOP)
        self._print_top(labels)
        if kind == "open jacket" and self.front > -0.25:
            shift = 0.5 * self.side * self.shoulder
            _quad(
                labels,
                self.neck_x + shift,
                self.shoulder_y,
                0.42 * self.shoulder,
                hem - 0.01 * self.height,
                0.36 * self.hip,
                INNER,
            )
        self._draw_arm(labels, 1)

    def draw_head(self, labels: Labels) -> None:
        """Head, hair and headgear."""
        x, y = self.head
        radius = self.head_radius
        _stroke(
            labels, np.array([x, y]), np.array([self.neck_x, self.shoulder_y]), 0.9 * radius, SKIN
        )
        _disc(labels, x, y, 0.82 * radius, radius, SKIN)
        kind = HAIR[self.identity.hair]
        shift = -0.3 * self.side * radius
        back = self.front < -0.2
        if kind in ("short", "long", "bun"):
            _disc(labels, x + shift, y - 0.35 * radius, 0.92 * radius, 0.75 * radius, HAIR_LABEL)
            if back:
                _disc(labels, x, y, 0.9 * radius, radius, HAIR_LABEL)
            if kind == "long":
                _stroke(
                    labels,
                    np.array([x + shift - 0.5 * radius, y]),
                    np.array([x + shift - 0.6 * radius, y + 2.0 * radius]),
                    0.8 * radius,
                    HAIR_LABEL,
                )
            if kind == "bun":
                _disc(
                    labels,
                    x + 1.5 * shift,
                    y - 1.15 * radius,
                    0.55 * radius,
                    0.5 * radius,
                    HAIR_LABEL,
                )
        elif kind == "cap":
            _disc(labels, x, y - 0.4 * radius, 0.95 * radius, 0.7 * radius, HEADGEAR)
            brim = x + (1.5 * radius * np.sign(self.side) if abs(self.side) > 0.3 else 0.0)
            _stroke(
                labels,
                np.array([x, y - 0.2 * radius]),
                np.array([brim, y - 0.2 * radius]),
                0.3 * radius,
                HEADGEAR,
            )
        elif kind == "hat":
            _rectangle(
                labels,
                x - 0.9 * radius,
                y - 1.35 * radius,
                x + 0.9 * radius,
                y - 0.4 * radius,
                HEADGEAR,
            )
            _rectangle(
                labels,
                x - 1.8 * radius,
                y - 0.55 * radius,
                x + 1.8 * radius,
                y - 0.25 * radius,
                HEADGEAR,
            )
        elif kind == "hood":
            _disc(labels, x + shift, y, 1.12 * radius, 1.2 * radius, TOP)
            if not back:
                _disc(labels, x - shift, y + 0.1 * radius, 0.65 * radius, 0.8 * radius, SKIN)

    def draw_carried(self, labels: Labels) -> None:
        """What the person carries, as far as it is seen from this side."""
        kind = CARRIED[self.identity.carried]
        hand = self.arms[1][2]
        unit = self.height
        if kind == "backpack":
            if self.front <= -0.3:
                self._box(labels, self.neck_x, 0.85 * self.shoulder, 0.02, 0.25, BAG)
                self._box(labels, self.neck_x, 0.5 * self.shoulder, 0.14, 0.23, BAG2)
            elif self.front > 0.2:
                for sign in (-1, 1):
                    x = self.neck_x + sign * 0.6 * self.shoulder
                    _rectangle(
                        labels, x - 2, self.shoulder_y, x + 2, self.shoulder_y + 0.2 * unit, BAG
                    )
        elif kind == "shoulder bag":
            side = 1.0 if self.front >= 0 else -1.0
            far = np.array([self.centre - side * 1.1 * self.hip, self.hip_y])
            near = np.array([self.neck_x + side * 0.7 * self.shoulder, self.shoulder_y])
            _stroke(labels, near, far, 0.022 * unit, BAG2)
            _rectangle(
                labels,
                far[0] - 0.055 * unit,
                far[1] - 0.02 * unit,
                far[0] + 0.055 * unit,
                far[1] + 0.1 * unit,
                BAG,
            )
        elif kind == "handbag":
            x, y = hand
            _rectangle(
                labels, x - 0.06 * unit, y + 0.01 * unit, x + 0.06 * unit, y + 0.1 * unit, BAG
            )
            _rectangle(
                labels, x - 0.06 * unit, y + 0.01 * unit, x + 0.06 * unit, y + 0.03 * unit, BAG2
            )
        elif kind == "suitcase":
            x = hand[0] + 0.03 * unit * (1 if self.side <= 0 else -1)
            _stroke(labels, hand, np.array([x, self.sole - 0.2 * unit]), 0.012 * unit, BAG2)
            _rectangle(
                labels, x - 0.075 * unit, self.sole - 0.23 * unit, x + 0.075 * unit, self.sole, BAG
            )
            _rectangle(
                labels,
                x - 0.075 * unit,
                self.sole - 0.14 * unit,
                x + 0.075 * unit,
                self.sole - 0.1 * unit,
                BAG2,
            )
        elif kind == "umbrella":
            x, y = hand
            _stroke(
                labels,
                np.array([x, y - 0.03 * unit]),
                np.array([x + 0.02 * unit, y + 0.2 * unit]),
                0.045 * unit,
                BAG,
            )
            _stroke(labels, np.array([x, y - 0.09 * unit]), np.array([x, y]), 0.02 * unit, BAG2)

    def _draw_arm(self, labels: Labels, index: int) -> None:
        shoulder, elbow, hand = self.arms[index]
        sleeves = TOPS[self.identity.top]
        width = 0.72 * self.limb
        _stroke(labels, shoulder, elbow, width, SKIN if sleeves == "sleeveless" else TOP)
        bare = sleeves in ("sleeveless", "short sleeves")
        _stroke(labels, elbow, hand, 0.85 * width, SKIN if bare else TOP)
        _disc(labels, hand[0], hand[1], 0.45 * width, 0.5 * width, SKIN)

    def _box(
        self, labels: Labels, x: float, half: float, start: float, end: float, label: int
    ) -> None:
        top = self.shoulder_y + start * self.height
        _rectangle(labels, x - half, top, x + half, self.shoulder_y + end * self.height, label)

    def _print_top(self, labels: Labels) -> None:
        """The pattern of the top: cells of its own coordinates, so that it moves with the body."""
        pattern = self.identity.top_pattern
        if pattern == 0:
            return
        rows = _span(self.shoulder_y - 2, self.hip_y + 0.25 * self.height, CANVAS[0])
        columns = _span(
            self.centre - 0.32 * self.height, self.centre + 0.32 * self.height, CANVAS[1]
        )
        period = PERIODS[self.identity.period] * self.height
        v = (_ROWS[rows] - self.shoulder_y) / period
        u = (_COLUMNS[:, columns] - self.neck_x) / period
        if pattern == 1:
            printed = (v % 1.0) < 0.5
        elif pattern == 2:
            printed = (u % 1.0) < 0.5
        elif pattern == 3:
            printed = ((u % 1.0) < 0.5) ^ ((v % 1.0) < 0.5)
        elif pattern == 4:
            printed = (u % 1.0 - 0.5) ** 2 + (v % 1.0 - 0.5) ** 2 < 0.1
        elif pattern == 5:
            printed = ((u + v) * 0.7 % 1.0) < 0.5
        elif pattern == 6:
            printed = v * period > 0.16 * self.height
        else:
            size = 0.6 + 0.3 * self.identity.period
            printed = (np.abs(u * period) < size * 0.6 * self.shoulder) & (
                np.abs(v * period - 0.13 * self.height) < size * 0.07 * self.height
            )
        region = labels[rows, columns]
        region[(region == TOP) & printed] = TOP2

    def _print_bottom(self, labels: Labels) -> None:
        pattern = self.identity.bottom_pattern
        if pattern == 0:
            return
        rows = _span(self.hip_y - 2, self.sole, CANVAS[0])
        v = (_ROWS[rows] - self.hip_y) / self.height
        u = (_COLUMNS - self.centre) / self.height
        if pattern == 1:
            printed = np.abs(u) > 0.075 * (0.72 + 0.62 * self.identity.build)
        elif pattern == 2:
            printed = ((u % 0.07) < 0.035) ^ ((v % 0.07) < 0.035)
        else:
            hem = {"trousers": 0.3, "shorts": 0.11, "skirt": 0.13, "long skirt": 0.27}
            printed = v > hem[BOTTOMS[self.identity.bottom]]
        region = labels[rows]
        region[(region == BOTTOM) & printed] = BOTTOM2


def _span(start: float, end: float, size: int) -> slice:
    return slice(min(max(int(start), 0), size), min(max(int(end) + 1, 0), size))


def _stroke(
    labels: Labels, start: NDArray[np.float64], end: NDArray[np.float64], width: float, label: int
) -> None:
    first = (round(float(start[0])), round(float(start[1])))
    last = (round(float(end[0])), round(float(end[1])))
    cv2.line(labels, first, last, label, max(1, round(width)))


def _disc(labels: Labels, x: float, y: float, across: float, down: float, label: int) -> None:
    axes = (max(1, round(across)), max(1, round(down)))
    cv2.ellipse(labels, (round(x), round(y)), axes, 0, 0, 360, label, -1)


def _rectangle(
    labels: Labels, left: float, top: float, right: float, bottom: float, label: int
) -> None:
    cv2.rectangle(labels, (round(left), round(top)), (round(right), round(bottom)), label, -1)


def _quad(
    labels: Labels,
    centre: float,
    top: float,
    half_top: float,
    bottom: float,
    half_bottom: float,
    label: int,
) -> None:
    points = [
        [centre - half_top, top],
        [centre + half_top, top],
        [centre + half_bottom, bottom],
        [centre - half_bottom, bottom],
    ]
    cv2.fillConvexPoly(labels, np.round(np.array(points)).astype(np.int32), label)
