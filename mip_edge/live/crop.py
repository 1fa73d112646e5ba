"""The pixels of one person, out of the frame that shows many."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.gpu_crop import FrameBox
from mip_edge.spec import Crop


def view(image: NDArray[np.uint8], box: NDArray[np.float32]) -> Crop:
    """The pixels of one box (4,) inside a frame (H, W, 3), at least one; part of the frame."""
    pixels = FrameBox.around(0, image.shape, box)
    return image[pixels.y1 : pixels.y2, pixels.x1 : pixels.x2]


def cut(image: NDArray[np.uint8], box: NDArray[np.float32]) -> Crop:
    """The pixels of one box, at least one, a copy that outlives the frame."""
    return np.array(view(image, box), order="C")
