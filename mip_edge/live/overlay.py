"""Boxes, tracks and identities drawn on frames, and the frames of all cameras in one picture."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.live.view import CameraView, TrackLabel

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Color = tuple[int, int, int]

GOLDEN_RATIO = 0.6180339887498949
UNKNOWN: Color = (170, 170, 170)
WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)
ALARM: Color = (255, 120, 90)
FONT = cv2.FONT_HERSHEY_SIMPLEX
HEADER = 22
DASH = 8
FAR_OFF = 10_000.0
NO_SIZE = (640, 480)
"""Width and height of a camera that gave no frame yet."""


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


def letterbox(image: Picture, width: int, height: int) -> tuple[Picture, float, int, int]:
    """A copy of `image` as large as fits into (height, width), the rest black.

    Gives the picture, the scale, and where the image's left upper corner came to lie (x, y).
    """
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = (
        max(1, min(width, round(image.shape[1] * scale))),
        max(1, min(height, round(image.shape[0] * scale))),
    )
    if inner == (image.shape[1], image.shape[0]):
        fitted = image
    else:
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        fitted = np.asarray(cv2.resize(image, inner, interpolation=way), np.uint8)
    if inner == (width, height):
        return (fitted.copy() if fitted is image else fitted), scale, 0, 0
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    picture = np.zeros((height, width, 3), np.uint8)
    picture[top : top + inner[1], left : left + inner[0]] = fitted
    return picture, scale, left, top


def draw(view: CameraView, width: int, height: int) -> Picture:
    """One camera as a picture of that size: frame, boxes in their identities' colours, header.

    A camera that gives no more is dark and without boxes. The text is drawn after the scaling, so
    that it can be read in a small picture of a large frame.
    """
    if view.image is None:
        picture = np.zeros((height, width, 3), np.uint8)
    else:
        picture, scale, left, top = letterbox(view.image, width, height)
        if view.live:
            corner = np.array([left, top, left, top], np.float32)
            # Boxes off the picture by any amount: drawn as what is left of them, never an error.
            boxes = np.clip(np.nan_to_num(view.boxes), -FAR_OFF, FAR_OFF)
            _draw_tracks(picture, boxes * scale + corner, view.labels)
        else:
            picture //= 3
    cv2.rectangle(picture, (0, 0), (width, HEADER), BLACK, cv2.FILLED)
    header = view.header()
    size = 0.5
    (wide, _), _ = cv2.getTextSize(header, FONT, size, 1)
    size *= min(1.0, max((width - 12) / max(wide, 1), 0.55))
    color = WHITE if view.live else ALARM
    cv2.putText(picture, header, (6, HEADER - 7), FONT, size, color, 1, cv2.LINE_AA)
    return picture


def grid(count: int) -> tuple[int, int]:
    """Columns and rows for so many pictures: 1x1, 2x1, 2x2, 3x2, 3x3, 4x3 ..."""
    columns = max(1, math.isqrt(max(count - 1, 0)) + (count > 1))
    return columns, max(1, -(-count // columns))


def cell_size(views: Sequence[CameraView], *, widest: int, tallest: int) -> tuple[int, int]:
    """Width and height of a cell that shows every camera, even, within a mosaic of that size.

    The largest camera sets its shape; one that is narrower or lower gets black borders.
    """
    sizes = [(view.width, view.height) for view in views if view.width and view.height]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=NO_SIZE)
    columns, rows = grid(len(views))
    scale = min(1.0, widest / (columns * width), tallest / (rows * height))
    return even(width * scale), even(height * scale)


def even(length: float) -> int:
    """The nearest even number of pixels from 2, as video codecs want."""
    return max(2, round(length / 2) * 2)


def mosaic(pictures: Sequence[Picture]) -> Picture:
    """Pictures of one size in a grid, row by row; what is left over is black."""
    height, width = pictures[0].shape[:2]
    columns, rows = grid(len(pictures))
    if len(pictures) == 1:
        return pictures[0]
    whole = np.zeros((rows * height, columns * width, 3), np.uint8)
    for place, picture in enumerate(pictures):
        top, left = place // columns * height, place % columns * width
        whole[top : top + height, left : left + width] = picture
    return whole


def _draw_tracks(
    picture: Picture, boxes: NDArray[np.float32], labels: Sequence[TrackLabel]
) -> None:
    size = max(0.45, picture.shape[0] / 960)
    corners = boxes.round().astype(int).tolist()
    for (x1, y1, x2, y2), label in zip(corners, labels, strict=True):
        color = identity_color(None if label.uncertain else label.identity)
        if label.uncertain:
            _dashed(picture, (x1, y1, x2, y2), color)
        else:
            cv2.rectangle(picture, (x1, y1), (x2, y2), color, 2)
        _plate(picture, str(label), x1, y1, size, color)


def _dashed(picture: Picture, box: tuple[int, int, int, int], color: Color) -> None:
    x1, y1, x2, y2 = box
    for x in range(x1, x2, 2 * DASH):
        end = min(x + DASH, x2)
        cv2.line(picture, (x, y1), (end, y1), color, 2)
        cv2.line(picture, (x, y2), (end, y2), color, 2)
    for y in range(y1, y2, 2 * DASH):
        end = min(y + DASH, y2)
        cv2.line(picture, (x1, y), (x1, end), color, 2)
        cv2.line(picture, (x2, y), (x2, end), color, 2)


def _plate(picture: Picture, text: str, x: int, y: int, size: float, color: Color) -> None:
    (width, height), _ = cv2.getTextSize(text, FONT, size, 1)
    # Above the box, or inside it where the header or the border is in the way.
    below = min(max(y, HEADER) + height + 6, picture.shape[0])
    bottom = y if HEADER <= y - height - 6 <= picture.shape[0] - height - 6 else below
    left = max(0, min(x, picture.shape[1] - width - 4))
    cv2.rectangle(picture, (left, bottom - height - 6), (left + width + 4, bottom), color, -1)
    cv2.putText(picture, text, (left + 2, bottom - 4), FONT, size, BLACK, 1, cv2.LINE_AA)
