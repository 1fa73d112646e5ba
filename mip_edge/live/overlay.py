"""Boxes, tracks and identities drawn on frames, and the frames of all cameras side by side."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.live.box import Boxes

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Color = tuple[int, int, int]

GOLDEN_RATIO = 0.6180339887498949
UNKNOWN: Color = (170, 170, 170)
WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)
FONT = cv2.FONT_HERSHEY_SIMPLEX
HEADER = 22


@dataclass(frozen=True, slots=True)
class TrackLabel:
    """What is written at one box."""

    track: int
    """Id of this camera's tracker."""
    identity: int | None
    """Who, or not yet known."""
    similarity: float | None
    """To whom it was matched; None for an identity seen the first time."""

    def __str__(self) -> str:
        if self.identity is None:
            return f"? t{self.track}"
        score = "new" if self.similarity is None else f"{self.similarity:.2f}"
        return f"#{self.identity} {score} t{self.track}"


def identity_color(identity: int | None) -> Color:
    """RGB of an identity, the same on every camera and in every run; grey for the unknown.

    Hues step by the golden ratio: neighbours in number are far apart in colour.
    """
    if identity is None:
        return UNKNOWN
    hue = identity * GOLDEN_RATIO % 1.0
    saturation = 0.65 + 0.3 * (identity % 2)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(image: Picture, boxes: Boxes, labels: Sequence[TrackLabel], header: str) -> Picture:
    """A copy of the frame with its boxes in their identities' colours and a line at the top."""
    picture: Picture = image.copy()
    scale = max(0.4, picture.shape[0] / 1200)
    for box, label in zip(boxes, labels, strict=True):
        color = identity_color(label.identity)
        x1, y1, x2, y2 = (round(float(side)) for side in box)
        cv2.rectangle(picture, (x1, y1), (x2, y2), color, 2)
        _plate(picture, str(label), x1, y1, scale, color)
    cv2.rectangle(picture, (0, 0), (picture.shape[1], HEADER), BLACK, cv2.FILLED)
    cv2.putText(picture, header, (6, HEADER - 7), FONT, 0.45, WHITE, 1, cv2.LINE_AA)
    return picture


def _plate(picture: Picture, text: str, x: int, y: int, scale: float, color: Color) -> None:
    (width, height), _ = cv2.getTextSize(text, FONT, scale, 1)
    # Above the box, or inside it where the header or the border is in the way.
    below = min(max(y, HEADER) + height + 6, picture.shape[0])
    bottom = y if y - height - 6 >= HEADER else below
    left = max(0, min(x, picture.shape[1] - width - 4))
    cv2.rectangle(picture, (left, bottom - height - 6), (left + width + 4, bottom), color, -1)
    cv2.putText(picture, text, (left + 2, bottom - 4), FONT, scale, BLACK, 1, cv2.LINE_AA)


def dimmed(picture: Picture, header: str) -> Picture:
    """The last picture of a camera that gives no more, dark, with a line at the top."""
    dark = np.asarray(picture // 3, np.uint8)
    empty = np.zeros((0, 4), np.float32)
    return draw(dark, empty, (), header)


def tile(pictures: Sequence[Picture], height: int) -> Picture:
    """Pictures side by side, each scaled to `height`; width and height are even, as codecs want."""
    even = max(2, height // 2 * 2)
    scaled = []
    for picture in pictures:
        width = max(2, round(picture.shape[1] * even / picture.shape[0]) // 2 * 2)
        resized = cv2.resize(picture, (width, even), interpolation=cv2.INTER_AREA)
        scaled.append(np.asarray(resized, np.uint8))
    return np.concatenate(scaled, axis=1)
