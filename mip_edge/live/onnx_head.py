"""What the outputs of a detector mean: boxes of people in pixels of its input, before suppression.

Kinds: NanoDet (scores and box distributions a stride, https://github.com/RangiLyu/nanodet), YOLOX
(one tensor of offsets, https://github.com/Megvii-BaseDetection/YOLOX, demo/ONNXRuntime), and plain
tensors of boxes and scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import EngineError
from mip_edge.live.box import Detections

Tensor = NDArray[np.float32]
OUTSIDE = 1e-3
"""How far a score may lie above 1 by rounding."""


class Form(str, Enum):
    """What the four numbers of a plain box are."""

    XYXY = "xyxy"
    """Left, top, right, bottom."""
    CXCYWH = "cxcywh"
    """Middle, width and height."""


class Unit(str, Enum):
    """What plain boxes are measured in."""

    PIXEL = "pixel"
    """Pixels of the input."""
    NORMALISED = "normalised"
    """Shares of the input's width and height."""


class Head(Protocol):
    """Reads the outputs of one call of the network."""

    def decode(self, outputs: Sequence[Tensor], frames: int, min_score: float) -> list[Detections]:
        """People of each of the frames. Raises: EngineError for outputs of another shape."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The cells of a dense head, stride by stride, row by row."""

    width: int
    """Pixels of the input, left to right."""
    height: int
    """Pixels of the input, top to bottom."""
    strides: tuple[int, ...]
    """Input pixels per cell of each level."""

    def shape(self, stride: int) -> tuple[int, int]:
        """Rows and columns of a level."""
        return ceil(self.height / stride), ceil(self.width / stride)

    def cells(self, stride: int) -> int:
        """Cells of a level."""
        rows, columns = self.shape(stride)
        return rows * columns

    def places(self) -> tuple[Tensor, Tensor]:
        """(N, 2) column and row of every cell in its level, and (N, 1) its stride."""
        corners, strides = [], []
        for stride in self.strides:
            rows, columns = self.shape(stride)
            y, x = np.mgrid[:rows, :columns]
            corners.append(np.stack([x.ravel(), y.ravel()], axis=1))
            strides.append(np.full((rows * columns, 1), stride))
        return np.concatenate(corners).astype(np.float32), np.concatenate(strides).astype(
            np.float32
        )

    def __str__(self) -> str:
        levels = ", ".join(map(str, self.strides))
        return f"an input {self.width} wide and {self.height} high with strides {levels}"


class NanoDetHead:
    """Scores (B, n, classes) and distributions (B, n, 4 x bins), one pair a stride, told apart by
    shape; or both joined, (B, N, classes + 4 x bins), as NanoDet-Plus is exported.

    A side's distance is the expectation over its bins, times the stride, from the cell's centre.
    """

    def __init__(self, grid: Grid, *, person: int, classes: int, cell: float, name: str) -> None:
        """`cell`: where its centre is, 0.5, or 0.0 for NanoDet-Plus; `name` for messages."""
        self._grid, self._person, self._classes, self._name = grid, person, classes, name
        self._corners, self._strides = grid.places()
        self._corners += cell

    def decode(self, outputs: Sequence[Tensor], frames: int, min_score: float) -> list[Detections]:
        """People of each of the frames, in pixels of the input."""
        scores, distributions = self._joined(outputs, frames)
        check_scores(scores, self._name)
        return [
            self._decode_one(scores[frame], distributions[frame], min_score)
            for frame in range(frames)
        ]

    def _joined(self, outputs: Sequence[Tensor], frames: int) -> tuple[Tensor, Tensor]:
        """(B, N) scores of persons and (B, N, 4 x bins) of all strides."""
        classes = self._classes
        if len(outputs) == 1 and outputs[0].ndim == 3:
            channels = outputs[0].shape[2]
            if (
                outputs[0].shape[:2] == (frames, len(self._corners))
                and channels > classes + 4
                and (channels - classes) % 4 == 0
            ):
                return outputs[0][:, :, self._person], outputs[0][:, :, classes:]
        # An output that no stride claims is a level nobody would read: near people, mostly.
        if len(outputs) != 2 * len(self._grid.strides):
            raise self._refusal(outputs, frames)
        scores, distributions = [], []
        for stride in self._grid.strides:
            cells = self._grid.cells(stride)
            level = [one for one in outputs if one.ndim == 3 and one.shape[:2] == (frames, cells)]
            score = [one for one in level if one.shape[2] == classes]
            rest = [one for one in level if one.shape[2] != classes and one.shape[2] % 4 == 0]
            if len(score) != 1 or len(rest) != 1 or rest[0].shape[2] < 8:
                raise self._refusal(outputs, frames)
            scores.append(score[0][:, :, self._person])
            distributions.append(rest[0])
        if len({one.shape[2] for one in distributions}) > 1:
            raise self._refusal(outputs, frames)
        return np.concatenate(scores, axis=1), np.concatenate(distributions, axis=1)

    def _refusal(self, outputs: Sequence[Tensor], frames: int) -> EngineError:
        classes, cells = self._classes, [self._grid.cells(s) for s in self._grid.strides]
        pairs = ", ".join(
            f"({frames}, {n}, {classes}) and ({frames}, {n}, 4 x bins)" for n in cells
        )
        return EngineError(
            f"{self._name} gave outputs of shape {shapes(outputs)}; a nanodet with {classes} "
            f"classes and {self._grid} gives {pairs}, or "
            f"({frames}, {sum(cells)}, {classes} + 4 x bins)"
        )

    def _decode_one(self, scores: Tensor, distributions: Tensor, min_score: float) -> Detections:
        cells = np.flatnonzero(~(scores < min_score))
        bins = distributions[cells].reshape(len(cells), 4, distributions.shape[1] // 4)
        # What a network gone wrong gives (inf - inf) is refused with its box, and counted.
        with np.errstate(invalid="ignore", over="ignore"):
            weights = np.exp(bins - bins.max(axis=2, keepdims=True))
            expected = (weights * np.arange(bins.shape[2])).sum(axis=2) / weights.sum(axis=2)
            strides = self._strides[cells]
            centres, sides = self._corners[cells] * strides, expected * strides
            boxes = np.concatenate([centres - sides[:, :2], centres + sides[:, 2:]], axis=1)
        return Detections(boxes.astype(np.float32), scores[cells])


class YoloxHead:
    """One tensor (B, N, 5 + classes): x, y, log w, log h, objectness, classes, all of its cell."""

    def __init__(
        self, grid: Grid, *, person: int, classes: int | None, decoded: bool, name: str
    ) -> None:
        """`decoded`: exported with --decode_in_inference, middles and sizes in input pixels."""
        self._grid, self._person, self._classes = grid, person, classes
        self._decoded, self._name = decoded, name
        self._corners, self._strides = grid.places()

    def decode(self, outputs: Sequence[Tensor], frames: int, min_score: float) -> list[Detections]:
        """People of each of the frames, in pixels of the input."""
        found = outputs[0]
        least = 5 + self._person + 1
        channels = found.shape[-1] if found.ndim == 3 else 0
        wrong = channels < least if self._classes is None else channels != 5 + self._classes
        if len(outputs) != 1 or found.shape[:2] != (frames, len(self._corners)) or wrong:
            wanted = f"at least {least}" if self._classes is None else f"5 + {self._classes}"
            raise EngineError(
                f"{self._name} gave outputs of shape {shapes(outputs)}; a yolox with {self._grid} "
                f"gives one of ({frames}, {len(self._corners)}, {wanted})"
            )
        scores = np.asarray(found[:, :, 4] * found[:, :, 5 + self._person], np.float32)
        check_scores(scores, self._name)
        return [self._decode_one(found[frame], scores[frame], min_score) for frame in range(frames)]

    def _decode_one(self, found: Tensor, scores: Tensor, min_score: float) -> Detections:
        cells = np.flatnonzero(~(scores < min_score))
        middles, sizes = found[cells, :2], found[cells, 2:4]
        if not self._decoded:
            strides = self._strides[cells]
            middles = (middles + self._corners[cells]) * strides
            with np.errstate(over="ignore"):
                sizes = np.exp(sizes) * strides
        return Detections(_corners(np.concatenate([middles, sizes], axis=1)), scores[cells])


class BoxesHead:
    """Boxes (B, N, 4) and scores (B, N) or (B, N, classes), or labels (B, N) beside the scores.

    Without the axis B the network gives one frame a call.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        person: int,
        classes: int | None,
        form: Form,
        unit: Unit,
        logits: bool,
        name: str,
    ) -> None:
        """`size` is width and height of the input; `logits`: scores before the sigmoid."""
        self._person, self._classes = person, classes
        self._form, self._unit, self._logits, self._name = form, unit, logits, name
        self._size = np.array([*size, *size], np.float32)

    def decode(self, outputs: Sequence[Tensor], frames: int, min_score: float) -> list[Detections]:
        """People of each of the frames, in pixels of the input.

        Outputs are boxes, scores and, if the network has them, labels.
        """
        boxes, scores, *labels = self._batched(frames, outputs)
        rows = boxes.shape[:2]
        right = boxes.ndim == 3 and rows[0] == frames and boxes.shape[2] == 4
        if labels:
            right = right and scores.shape == rows and labels[0].shape == rows
        elif scores.ndim == 3:
            columns = scores.shape[2]
            enough = columns > self._person and self._classes in (None, columns)
            right = right and scores.shape[:2] == rows and enough
        else:
            right = right and scores.shape == rows and self._person == 0
        if not right:
            raise EngineError(self._refusal(outputs, frames))
        if self._logits:
            with np.errstate(over="ignore"):
                scores = np.asarray(1.0 / (1.0 + np.exp(-scores)), np.float32)
        if scores.ndim == 3:
            scores = scores[:, :, self._person]
        check_scores(scores, self._name)
        return [
            self._decode_one(
                boxes[frame],
                scores[frame],
                labels[0][frame] == self._person if labels else None,
                min_score,
            )
            for frame in range(frames)
        ]

    def _batched(self, frames: int, outputs: Sequence[Tensor]) -> list[Tensor]:
        single = frames == 1 and outputs[0].ndim == 2
        return [one[np.newaxis] for one in outputs] if single else list(outputs)

    def _refusal(self, outputs: Sequence[Tensor], frames: int) -> str:
        batch = "" if outputs[0].ndim == 2 else f"{frames}, "
        classes = f"more than {self._person}" if self._classes is None else self._classes
        wanted = f"boxes ({batch}N, 4) and scores ({batch}N, {classes})"
        if len(outputs) == 3:
            wanted = f"boxes ({batch}N, 4), scores ({batch}N) and labels ({batch}N)"
        elif self._person == 0:
            wanted += f" or ({batch}N)"
        return f"{self._name} gave outputs of shape {shapes(outputs)}; expected {wanted}"

    def _decode_one(
        self, boxes: Tensor, scores: Tensor, chosen: NDArray[np.bool_] | None, min_score: float
    ) -> Detections:
        mask = ~(scores < min_score)
        rows = np.flatnonzero(mask if chosen is None else mask & chosen)
        picked = boxes[rows] * self._size if self._unit is Unit.NORMALISED else boxes[rows]
        corners = _corners(picked) if self._form is Form.CXCYWH else picked
        return Detections(np.asarray(corners, np.float32), scores[rows])


def _corners(boxes: Tensor) -> Tensor:
    """Middle and size to corners."""
    with np.errstate(invalid="ignore", over="ignore"):
        half = boxes[:, 2:] / 2
        return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def check_scores(scores: Tensor, name: str) -> None:
    """Raises: EngineError for scores that are no probabilities.

    One that is not a number passes, to be refused with its box; -1 fills empty rows of some.
    """
    finite = scores[np.isfinite(scores)]
    if finite.size and (finite.min() < -1.0 - OUTSIDE or finite.max() > 1.0 + OUTSIDE):
        raise EngineError(
            f"{name} gave scores from {finite.min():.3g} to {finite.max():.3g}; expected 0 to 1. "
            'Of kind "boxes", set scores_are = "logit" in [output] if it ends without a sigmoid'
        )


def shapes(outputs: Sequence[Tensor]) -> str:
    """The shapes of some tensors, for a message."""
    return ", ".join(str(tuple(one.shape)) for one in outputs)
