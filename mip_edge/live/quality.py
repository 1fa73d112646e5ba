"""How much a crop can say about who it shows: its size, sharpness, what is hidden or cut off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError
from mip_edge.live.box import Boxes, area, covered
from mip_edge.live.crop import view

LOOK = (32, 64)
"""Width and height at which sharpness is measured: fine grain that no network sees is gone."""
LEAST_SIZE = 0.5
"""What a crop of the least height is worth beside a tall one."""
FULL_SHARPNESS = 0.25
"""Edges per contrast from which a crop is sharp: 9 of 10 unblurred synthetic crops have it."""
CONTRAST_FLOOR = 8.0
"""Grey levels; below this much contrast, edges count less."""
SMOOTHING = cv2.getGaussianKernel(3, 0.8)
NOISE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def _noise_gains() -> tuple[float, float]:
    """Variance that noise of variance 1 has after smoothing, and after smoothing and Laplacian."""
    smooth = np.zeros((7, 7))
    smooth[2:5, 2:5] = SMOOTHING @ SMOOTHING.T
    edges = cv2.Laplacian(smooth, cv2.CV_64F, borderType=cv2.BORDER_CONSTANT)
    return float((smooth**2).sum()), float((edges**2).sum())


SMOOTH_GAIN, EDGE_GAIN = _noise_gains()


@dataclass(frozen=True, slots=True)
class QualityOptions:
    """What a crop must be to count, and from where on it is good."""

    min_height: int = 40
    """Pixels; a smaller crop, or one narrower than a quarter of that, is unusable."""
    full_height: int = 128
    """Pixels from which more of them add nothing."""
    cut: float = 0.3
    """What a crop that touches the border of the frame is worth beside a whole one."""
    border: float = 2.0
    """Pixels from the border of the frame within which a crop counts as cut."""

    def __post_init__(self) -> None:
        if self.min_height < 2:
            raise OptionError(f"--min-height must be at least 2, got {self.min_height}")
        if self.full_height < self.min_height:
            raise OptionError(
                f"full_height must be at least --min-height {self.min_height}, "
                f"got {self.full_height}"
            )
        if not 0.0 <= self.cut <= 1.0:
            raise OptionError(f"cut must be in [0, 1], got {self.cut}")
        if not (math.isfinite(self.border) and self.border >= 0.0):
            raise OptionError(f"border must be at least 0, got {self.border}")


@dataclass(frozen=True, slots=True)
class QualityParts:
    """Why crops are rated as they are; each (T,) in [0, 1], and 0 in all for an unusable one."""

    size: NDArray[np.float32]
    """Pixels for the network to see."""
    sharpness: NDArray[np.float32]
    """Edges, against contrast and noise."""
    visible: NDArray[np.float32]
    """Share that no neighbour in front hides."""
    inside: NDArray[np.float32]
    """Share inside the frame, less for a crop that its border cuts."""

    @property
    def quality(self) -> NDArray[np.float32]:
        """All of it in one number, (T,) in [0, 1]; 0 is unusable."""
        return self.size * self.sharpness * self.visible * self.inside


def rate_crops(
    image: NDArray[np.uint8], boxes: Boxes, options: QualityOptions
) -> NDArray[np.float32]:
    """Quality of the crop of each box (T, 4) of an RGB frame (H, W, 3): (T,) in [0, 1].

    0 is unusable: too small, without an area, outside the frame or no numbers at all.
    """
    return rate_parts(image, boxes, options).quality


def rate_parts(image: NDArray[np.uint8], boxes: Boxes, options: QualityOptions) -> QualityParts:
    """What the quality of each crop is made of."""
    height, width = image.shape[:2]
    parts = np.zeros((4, len(boxes)), np.float32)
    rows = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    limit = np.array([width, height, width, height], np.float32)
    inside = np.clip(boxes[rows], 0.0, limit).astype(np.float32)
    sides = inside[:, 2:] - inside[:, :2]
    tall = (sides[:, 1] >= options.min_height) & (sides[:, 0] >= options.min_height / 4)
    hidden = covered(boxes[rows])[tall]
    rows, inside = rows[tall], inside[tall]
    parts[0, rows] = _size(inside, options)
    parts[1, rows] = sharpness([view(image, box) for box in inside])
    parts[2, rows] = 1.0 - hidden
    parts[3, rows] = area(inside) / area(boxes[rows])
    near = (inside[:, :2] < options.border) | (inside[:, 2:] > limit[:2] - options.border)
    parts[3, rows] *= np.where(near.any(axis=1), np.float32(options.cut), np.float32(1.0))
    return QualityParts(*parts)


def sharpness(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Edges per contrast of RGB crops at a fixed small size, (N,) in [0, 1].

    The Laplacian's deviation over that of the luma itself, both without what noise adds to them;
    noise by Immerkaer, "Fast noise variance estimation" (1996). So infrared grain is no sharpness.
    """
    if not crops:
        return np.zeros(0, np.float32)
    # Linear is quicker than by area, and as good here: what it leaves of the grain is subtracted.
    looks = [cv2.resize(crop, LOOK, interpolation=cv2.INTER_LINEAR) for crop in crops]
    # One column of pictures: a filter has its price by the call, not by the pixel.
    luma = cv2.cvtColor(np.concatenate(looks), cv2.COLOR_RGB2GRAY)
    smooth = cv2.sepFilter2D(luma, cv2.CV_32F, SMOOTHING, SMOOTHING)
    grain = _each(np.abs(cv2.filter2D(luma, cv2.CV_16S, NOISE))).mean(axis=1)
    noise = math.pi / 2 * (grain / 6.0) ** 2
    edges = _each(cv2.Laplacian(smooth, cv2.CV_32F)).var(axis=1) - EDGE_GAIN * noise
    contrast = _each(smooth).var(axis=1) - SMOOTH_GAIN * noise
    ratio = np.sqrt(np.maximum(edges, 0.0)) / (np.sqrt(np.maximum(contrast, 0.0)) + CONTRAST_FLOOR)
    return np.asarray(np.minimum(ratio / FULL_SHARPNESS, 1.0), np.float32)


def _each(column: NDArray[Any]) -> NDArray[np.float32]:
    """A column of pictures to one row a picture, without the lines that the next one touches."""
    pictures = column.reshape(-1, LOOK[1], LOOK[0])[:, 2:-2]
    return np.asarray(pictures.reshape(len(pictures), -1), np.float32)


def _size(boxes: Boxes, options: QualityOptions) -> NDArray[np.float32]:
    above = boxes[:, 3] - boxes[:, 1] - options.min_height
    share = np.minimum(above / max(options.full_height - options.min_height, 1), 1.0)
    return np.asarray(LEAST_SIZE + (1.0 - LEAST_SIZE) * share, np.float32)
