"""Figures of synthetic people in quantised poses, drawn once and kept."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np

from mip_edge.synthetic.figure import Labels, Pose, draw_figure
from mip_edge.synthetic.identity import Identity

BODY = 0.9
"""Height of a drawn body as a share of the canvas."""
TOP = 0.05
"""Free space above it, likewise."""
_PHASES, _YAWS = 16, 24
_KEPT_FIGURES = 2048
"""Drawn figures that are kept, about 15 kB each."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn figure, cut to itself, and where it lay on its canvas."""

    labels: Labels
    left: int
    top: int


class Wardrobe:
    """Draws figures in quantised poses and keeps the last ones; all cameras share it."""

    def __init__(self) -> None:
        self._figures: OrderedDict[tuple[int, int, int], Figure] = OrderedDict()

    def figure(self, identity: Identity, phase: float, yaw: float) -> Figure:
        """`identity` in the drawn pose that is nearest."""
        step = round(phase / (2 * np.pi) * _PHASES) % _PHASES
        turn = round(yaw / (2 * np.pi) * _YAWS) % _YAWS
        key = (identity.number, step, turn)
        if key in self._figures:
            self._figures.move_to_end(key)
            return self._figures[key]
        pose = Pose(
            phase=2 * np.pi * step / _PHASES,
            yaw=2 * np.pi * turn / _YAWS,
            height=BODY,
            top=TOP,
        )
        labels = draw_figure(identity, pose)
        x, y, width, height = cv2.boundingRect(labels)
        figure = Figure(np.ascontiguousarray(labels[y : y + height, x : x + width]), x, y)
        self._figures[key] = figure
        if len(self._figures) > _KEPT_FIGURES:
            self._figures.popitem(last=False)
        return figure
