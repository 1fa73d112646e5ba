"""How a frame is laid into the input of a detector, and how boxes find back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.live.box import Boxes


class Fit(str, Enum):
    """What happens to a frame of another shape than the input."""

    CENTRE = "centre"
    """Its aspect is kept, borders on both sides."""
    CORNER = "corner"
    """Its aspect is kept, borders right and below."""
    STRETCH = "stretch"
    """It is drawn out of shape."""


class Colour(str, Enum):
    """Order of the channels that a network reads."""

    RGB = "rgb"
    BGR = "bgr"


class Axes(str, Enum):
    """Order of the axes that a network reads."""

    NCHW = "nchw"
    NHWC = "nhwc"


@dataclass(frozen=True, slots=True)
class Placement:
    """How one frame lies in the input."""

    across: float
    """Input pixels per frame pixel, left to right."""
    down: float
    """Input pixels per frame pixel, top to bottom."""
    left: int
    """Input pixels left of the frame."""
    top: int
    """Input pixels above the frame."""

    def to_frame(self, boxes: Boxes) -> Boxes:
        """Boxes of the input to boxes of the frame."""
        offset = np.array([self.left, self.top, self.left, self.top], np.float32)
        scale = np.array([self.across, self.down, self.across, self.down], np.float32)
        return np.asarray((boxes - offset) / scale, np.float32)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a network wants a frame to be: (value x scale - mean) / std, channel by channel."""

    width: int
    """Pixels of the input, left to right."""
    height: int
    """Pixels of the input, top to bottom."""
    fit: Fit = Fit.CENTRE
    """How a frame of another shape comes in."""
    multiple: int | None = None
    """Borders are cut to a multiple of this, and width and height are the most; None keeps them."""
    pad: int = 0
    """Grey level of the borders, before mean and std."""
    colour: Colour = Colour.RGB
    """Order of the channels."""
    axes: Axes = Axes.NCHW
    """Order of the axes."""
    scale: float = 1.0
    """What grey levels are multiplied by: 1/255 for a network that reads 0..1."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Taken away after scaling, in the order of `colour`."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Divided by, in the order of `colour`."""

    def prepare(
        self, images: Sequence[NDArray[np.uint8]]
    ) -> tuple[NDArray[np.float32], list[Placement]]:
        """RGB frames (H, W, 3) to (N, 3, height, width) or (N, height, width, 3); their places."""
        scales = [self._scales(image) for image in images]
        inner = [
            (max(1, round(image.shape[1] * across)), max(1, round(image.shape[0] * down)))
            for image, (across, down) in zip(images, scales, strict=True)
        ]
        width = self._side(self.width, max(size[0] for size in inner))
        height = self._side(self.height, max(size[1] for size in inner))
        table = self._table()
        batch = np.empty((len(images), height, width, 3), np.float32)
        places = []
        for row, (image, (across, down), size) in enumerate(
            zip(images, scales, inner, strict=True)
        ):
            left = (width - size[0]) // 2 if self.fit is Fit.CENTRE else 0
            top = (height - size[1]) // 2 if self.fit is Fit.CENTRE else 0
            resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
            laid = np.full((height, width, 3), self.pad, np.uint8)
            laid[top : top + size[1], left : left + size[0]] = (
                resized if self.colour is Colour.RGB else resized[:, :, ::-1]
            )
            batch[row] = cv2.LUT(laid, table)
            places.append(Placement(across, down, left, top))
        if self.axes is Axes.NCHW:
            batch = batch.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(batch), places

    def _scales(self, image: NDArray[np.uint8]) -> tuple[float, float]:
        across, down = self.width / image.shape[1], self.height / image.shape[0]
        if self.fit is not Fit.STRETCH:
            across = down = min(across, down)
        return across, down

    def _side(self, most: int, needed: int) -> int:
        if self.multiple is None:
            return most
        return min(most, -(-needed // self.multiple) * self.multiple)

    def _table(self) -> NDArray[np.float32]:
        """The 256 grey levels of each channel as the network reads them, (1, 256, 3)."""
        levels = np.arange(256, dtype=np.float32)[np.newaxis, :, np.newaxis]
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return np.asarray((levels * np.float32(self.scale) - mean) / std, np.float32)
