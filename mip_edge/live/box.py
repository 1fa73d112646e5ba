"""Boxes of people in a frame, and the geometry between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
"""(N, 4) x1, y1, x2, y2 in pixels of the frame."""
Scores = NDArray[np.float32]
"""(N,) in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector saw in one frame."""

    boxes: Boxes
    """(N, 4) x1, y1, x2, y2."""
    scores: Scores
    """(N,) how sure."""

    @classmethod
    def empty(cls) -> Detections:
        """Nobody."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.boxes)

    def at(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Detections:
        """Those that a mask or a list of rows chooses."""
        return Detections(self.boxes[chosen], self.scores[chosen])

    def within_frame(self, width: int, height: int, *, fills: float = 0.9) -> Detections:
        """Boxes cut to the frame, without empty ones and those that fill it (always false)."""
        limit = np.array([width, height, width, height], np.float32)
        boxes = np.clip(self.boxes, 0.0, limit).astype(np.float32)
        areas = area(boxes)
        return Detections(boxes, self.scores).at((areas > 0) & (areas <= fills * width * height))


def area(boxes: Boxes) -> NDArray[np.float32]:
    """Square pixels of each box, (N,)."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1], np.float32)


def intersection(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Square pixels that each box of `a` shares with each of `b`, (A, B)."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(bottom_right - top_left, 0.0)
    return np.asarray(sides[..., 0] * sides[..., 1], np.float32)


def intersection_over_union(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Overlap of each box of `a` with each of `b`, (A, B) in [0, 1]."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float32)


def suppress(detections: Detections, max_overlap: float) -> Detections:
    """Greedy non-maximum suppression: no two that stay have a greater IoU than `max_overlap`."""
    order = np.argsort(-detections.scores, kind="stable")
    overlap = intersection_over_union(detections.boxes, detections.boxes)
    kept: list[int] = []
    for index in order:
        if not kept or overlap[index, kept].max() <= max_overlap:
            kept.append(int(index))
    return detections.at(np.array(kept, dtype=np.intp))


def covered(boxes: Boxes) -> NDArray[np.float32]:
    """Largest share of each box hidden by one box in front of it, (N,) in [0, 1].

    In front is whose feet stand lower in the frame: true for cameras that look down on a floor.
    """
    if len(boxes) < 2:
        return np.zeros(len(boxes), np.float32)
    share = intersection(boxes, boxes) / np.maximum(area(boxes), 1e-9)[:, None]
    in_front = boxes[None, :, 3] > boxes[:, None, 3]
    np.fill_diagonal(in_front, False)
    return np.asarray(np.where(in_front, share, 0.0).max(axis=1), np.float32)
