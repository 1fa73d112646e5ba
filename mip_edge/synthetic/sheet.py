"""A contact sheet of a synthetic film: some moments of each camera, and the floor plan."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, sin

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.picture import Picture
from mip_edge.synthetic.film import FilmFrame
from mip_edge.synthetic.plan import FAR, FOCAL, NEAR, SPOT, Plan, PlanCamera, Sensor
from mip_edge.synthetic.walk import OUTSIDE

_CELL_WIDTH = 320
_GAP = 6
_CAPTION = 24
_PLAN = 560
_INK = (35, 35, 40)
_FAINT = (150, 150, 158)
_BOX = (250, 210, 60)
_VIEWS = {
    Sensor.VISIBLE: (52, 132, 206),
    Sensor.INFRARED: (196, 70, 60),
    Sensor.SWITCHING: (140, 84, 176),
}


class ContactSheet:
    """Collects small copies of some frames as a film is made."""

    def __init__(
        self, plan: Plan, size: tuple[int, int], moments: Sequence[int], rate: float
    ) -> None:
        """`moments` are numbers of frames, `size` height and width of a frame."""
        self._plan, self._size, self._moments, self._rate = plan, size, list(moments), rate
        self._high = round(_CELL_WIDTH * size[0] / size[1])
        self._cells: dict[tuple[str, int], Picture] = {}

    def see(self, index: int, camera: str, frame: FilmFrame) -> None:
        """Keep this frame if it is one of the moments, with the boxes of its truth."""
        if index not in self._moments:
            return
        image = frame.image.copy()
        thick = max(1, self._size[1] // 320)
        for person in frame.people:
            x1, y1, x2, y2 = person.box
            cv2.rectangle(image, (x1, y1), (x2 - 1, y2 - 1), _BOX[::-1], thick)
            at = (x1 + 2, max(y1 - 4, 12))
            text = f"{person.identity}"
            cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * thick, _BOX[::-1], thick)
        small = cv2.resize(image, (_CELL_WIDTH, self._high), interpolation=cv2.INTER_AREA)
        self._cells[camera, index] = np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)

    def picture(self) -> Picture:
        """One row a camera, the plan below, RGB."""
        columns, rows = len(self._moments), len(self._plan.cameras)
        width = columns * (_CELL_WIDTH + _GAP) + _GAP
        above = _CAPTION + rows * (self._high + _CAPTION + _GAP)
        sheet = np.full((above + _PLAN, max(width, _PLAN), 3), 255, np.uint8)
        for column, moment in enumerate(self._moments):
            x = _GAP + column * (_CELL_WIDTH + _GAP)
            _write(sheet, f"{moment / self._rate:.1f} s", (x, 17), _INK)
            for row, camera in enumerate(self._plan.cameras):
                y = _CAPTION + row * (self._high + _CAPTION + _GAP)
                if column == 0:
                    colour = _VIEWS[camera.sensor]
                    _write(sheet, f"{camera.name} ({camera.sensor.value})", (x, y + 17), colour)
                cell = self._cells.get((camera.name, moment))
                if cell is not None:
                    y += _CAPTION
                    sheet[y : y + self._high, x : x + _CELL_WIDTH] = cell
        sheet[above:, :_PLAN] = self._floor_plan()
        return sheet

    def _floor_plan(self) -> NDArray[np.uint8]:
        """The ring, its exits, and what each camera sees of it, from above."""
        plan = self._plan
        picture = np.full((_PLAN, _PLAN, 3), 255, np.uint8)
        reach = plan.radius + OUTSIDE + 3.0
        scale = _PLAN / (2 * reach)

        def at(x: float, y: float) -> tuple[int, int]:
            return round((reach + x) * scale), round((reach - y) * scale)

        for camera in plan.cameras:
            colour = _VIEWS[camera.sensor]
            wedge = np.array([at(*point) for point in _field(camera, self._size)], np.int32)
            tinted = picture.copy()
            cv2.fillPoly(tinted, [wedge], colour)
            picture = np.asarray(cv2.addWeighted(tinted, 0.3, picture, 0.7, 0), np.uint8)
            cv2.polylines(picture, [wedge], True, colour, 1, cv2.LINE_AA)
        for radius in (plan.radius, plan.radius + SPOT):
            thick = 2 if radius == plan.radius else 1
            cv2.circle(picture, at(0, 0), round(radius * scale), _FAINT, thick, cv2.LINE_AA)
        for place in range(plan.sites):
            angle = plan.angle(place + 0.5)
            inner, outer = plan.radius, plan.radius + OUTSIDE
            first, last = (at(r * cos(angle), r * sin(angle)) for r in (inner, outer))
            cv2.arrowedLine(picture, last, first, _INK, 2, cv2.LINE_AA, tipLength=0.15)
        for camera in plan.cameras:
            cv2.circle(picture, at(camera.x, camera.y), 5, _VIEWS[camera.sensor], -1, cv2.LINE_AA)
            x, y = at(camera.x + 2.6 * cos(camera.heading), camera.y + 2.6 * sin(camera.heading))
            _write(picture, camera.name, (x - 16, y + 4), _INK)
        note = f"ring of {plan.radius:.1f} m radius; arrows: exits that no camera sees"
        _write(picture, note, (8, _PLAN - 10), _INK)
        return picture


def _field(camera: PlanCamera, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Corners of what a camera sees of the ground, metres of the plan."""
    half = size[1] / (2 * FOCAL * size[0])
    ahead, side = cos(camera.heading), sin(camera.heading)
    corners = [(NEAR, -half), (FAR, -half), (FAR, half), (NEAR, half)]
    return [
        (
            camera.x + far * ahead + far * slant * side,
            camera.y + far * side - far * slant * ahead,
        )
        for far, slant in corners
    ]


def _write(
    picture: NDArray[np.uint8], text: str, at: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
