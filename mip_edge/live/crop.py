"""The pixels of one person, out of the frame that shows many."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mip_edge.spec import Crop


def view(image: NDArray[np.uint8], box: NDArray[np.float32]) -> Crop:
    """The pixels of one box (4,) inside a frame (H, W, 3), at least one; part of the frame."""
    height, width = image.shape[:2]
    x1, y1 = min(max(int(box[0]), 0), width - 1), min(max(int(box[1]), 0), height - 1)
    x2, y2 = max(math.ceil(box[2]), x1 + 1), max(math.ceil(box[3]), y1 + 1)
    return image[y1:y2, x1:x2]


def cut(image: NDArray[np.uint8], box: NDArray[np.float32]) -> Crop:
    """The pixels of one box, at least one, a copy that outlives the frame."""
    return np.array(view(image, box), order="C")
