"""Boxes of people in a frame, and the geometry between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
"""(N, 4) x1, y1, x2, y2 in pixels of the frame."""
Scores = NDArray[np.float32]
"""(N,) in [0, 1]."""
MAX_PEOPLE = 200
"""The most people of one frame: more is a detector gone wild, or a crowd nobody can track."""
FILLS = 0.9
"""Share of the frame from which a network's box is false by habit."""
MAX_CANDIDATES = 1000
"""The most boxes that are compared with each other."""
FARTHEST = 1e6
"""Pixels beyond which a corner is no farther: areas stay finite in float32."""


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector saw in one frame."""

    boxes: Boxes
    """(N, 4) x1, y1, x2, y2."""
    scores: Scores
    """(N,) how sure."""
    refused: int = 0
    """Boxes that can be nobody's, dropped: not finite, without area, or outside the frame."""
    surplus: int = 0
    """Boxes beyond the most that a frame may have, dropped: the least sure ones."""

    @classmethod
    def empty(cls) -> Detections:
        """Nobody."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.boxes)

    def at(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Detections:
        """Those that a mask or a list of rows chooses; the counts stay."""
        return replace(self, boxes=self.boxes[chosen], scores=self.scores[chosen])

    def sound(self, width: int, height: int) -> Detections:
        """Those that have a positive area inside a frame of that size; the rest is counted."""
        finite = np.isfinite(self.boxes).all(axis=1) & np.isfinite(self.scores)
        corners = np.where(finite[:, np.newaxis], self.boxes, 0.0)
        kept = finite & (area(_cut(corners, width, height)) > 0)
        near = np.clip(corners, -FARTHEST, FARTHEST).astype(np.float32)
        lost = len(kept) - int(kept.sum())
        return replace(self, boxes=near, refused=self.refused + lost).at(kept)

    def within_frame(self, width: int, height: int, *, fills: float = FILLS) -> Detections:
        """Boxes cut to the frame, without unsound ones (counted) and those that fill it."""
        sound = self.sound(width, height)
        boxes = _cut(sound.boxes, width, height)
        return replace(sound, boxes=boxes).at(area(boxes) <= fills * width * height)

    def surest(self, most: int) -> Detections:
        """The `most` surest in their order, the rest is counted."""
        if len(self) <= most:
            return self
        chosen = np.sort(np.argsort(-self.scores, kind="stable")[:most])
        return replace(self.at(chosen), surplus=self.surplus + len(self) - most)


def _cut(boxes: Boxes, width: int, height: int) -> Boxes:
    limit = np.array([width, height, width, height], np.float32)
    return np.clip(boxes, 0.0, limit).astype(np.float32)


def area(boxes: Boxes) -> NDArray[np.float32]:
    """Square pixels of each box, (N,)."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1], np.float32)


def intersection(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Square pixels that each box of `a` shares with each of `b`, (A, B)."""
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    return np.asarray(np.maximum(width, 0.0) * np.maximum(height, 0.0), np.float32)


def intersection_over_union(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Overlap of each box of `a` with each of `b`, (A, B) in [0, 1]."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    return np.asarray(shared / np.maximum(union, 1e-9), np.float32)


def suppress(detections: Detections, max_overlap: float, most: int | None = None) -> Detections:
    """Greedy non-maximum suppression: no two that stay have a greater IoU than `max_overlap`.

    Surest first; at most `most` stay, those beyond are counted. Of a network gone wild only the
    MAX_CANDIDATES surest boxes are compared, and the others counted too.
    """
    wild = detections.surest(MAX_CANDIDATES)
    wild = wild.at(np.argsort(-wild.scores, kind="stable"))
    corners = np.concatenate([wild.boxes[:, :2], wild.boxes[:, 2:] - wild.boxes[:, :2]], axis=1)
    # By place, not by score: OpenCV leaves out a score of zero, and ties are to stay in order.
    places = list(range(len(wild), 0, -1))
    kept = cv2.dnn.NMSBoxes(corners.tolist(), places, 0.0, max_overlap)
    order = np.array(kept, dtype=np.intp).reshape(-1)
    chosen = wild.at(order[:most])
    return replace(chosen, surplus=chosen.surplus + len(order) - len(chosen))


def settle(
    found: Detections, width: int, height: int, max_overlap: float, most: int = MAX_PEOPLE
) -> Detections:
    """What a network gave, in pixels of the frame, to at most `most` people inside it."""
    sound = found.sound(width, height)
    whole = area(_cut(sound.boxes, width, height)) > FILLS * width * height
    return suppress(sound.at(~whole), max_overlap, most).within_frame(width, height)


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
