"""The ranked list as a picture: each query with its answers, right and wrong framed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError
from mip_edge.spec import Crop

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Colour = tuple[int, int, int]

CELL_HEIGHT, CELL_WIDTH = 168, 88
_MARGIN = 20
_GAP = 14
_QUERY_GAP = 36
_FRAME = 4
_CAPTION = 38
_HEADER = 74
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT = 0.42
_TITLE = 0.62

_PAPER: Colour = (255, 255, 255)
_INK: Colour = (35, 35, 40)
_FAINT: Colour = (120, 120, 128)
_CELL: Colour = (236, 236, 238)
_NEUTRAL: Colour = (150, 150, 158)
_RIGHT: Colour = (22, 148, 74)
_WRONG: Colour = (206, 44, 44)


@dataclass(frozen=True, slots=True)
class RankedItem:
    """One answer of the gallery."""

    crop: Crop
    similarity: float
    label: str
    """Whose it is, or what file; cut to fit."""
    correct: bool | None = None
    """Whether it shows the person of the query; None if nobody knows."""


@dataclass(frozen=True, slots=True)
class RankedRow:
    """One query and its answers, nearest first."""

    query: Crop
    label: str
    items: Sequence[RankedItem]


def ranked_list(
    rows: Sequence[RankedRow], *, title: str, query_caption: str, gallery_caption: str
) -> Picture:
    """RGB picture of `rows`: the query left, its answers to the right, the similarity under each.

    `query_caption` and `gallery_caption` name the modalities over the columns.
    Raises: OptionError if there is no row, or none has an answer.
    """
    columns = max((len(row.items) for row in rows), default=0)
    if columns == 0:
        raise OptionError("a ranked list needs at least one query with one answer")
    row_height = CELL_HEIGHT + _CAPTION
    left = _MARGIN + CELL_WIDTH + _QUERY_GAP
    width = left + columns * (CELL_WIDTH + _GAP) - _GAP + _MARGIN
    # a short list still has room for its title and captions
    width = max(width, 2 * _MARGIN + _text_width(title, _TITLE), left + CELL_WIDTH * 4)
    picture = np.full((_HEADER + len(rows) * row_height + _MARGIN, width, 3), _PAPER, np.uint8)
    judged = any(item.correct is not None for row in rows for item in row.items)
    _draw_header(picture, title, query_caption, gallery_caption, columns, judged)
    for number, row in enumerate(rows):
        top = _HEADER + number * row_height
        _draw_cell(picture, row.query, (_MARGIN, top), _INK)
        _draw_caption(picture, (_MARGIN, top), _fit(row.label, CELL_WIDTH), _INK)
        for place, item in enumerate(row.items):
            corner = (left + place * (CELL_WIDTH + _GAP), top)
            colour = {True: _RIGHT, False: _WRONG, None: _NEUTRAL}[item.correct]
            _draw_cell(picture, item.crop, corner, colour)
            ink = _INK if item.correct is None else colour
            _draw_caption(picture, corner, f"{item.similarity:.3f}", ink, item.label)
            if item.correct is not None:
                _draw_sign(picture, corner, item.correct)
    return picture


def _draw_header(
    picture: Picture,
    title: str,
    query_caption: str,
    gallery_caption: str,
    columns: int,
    judged: bool,
) -> None:
    left = _MARGIN + CELL_WIDTH + _QUERY_GAP
    _write(picture, title, (_MARGIN, 28), _INK, _TITLE)
    if judged:
        legend = picture.shape[1] - _MARGIN - 130
        # the legend steps aside for a title that needs its place
        if _MARGIN + _text_width(title, _TITLE) + 20 < legend:
            for offset, colour, word in ((0, _RIGHT, "right"), (68, _WRONG, "wrong")):
                corner = (legend + offset, 17)
                cv2.rectangle(picture, corner, (corner[0] + 13, corner[1] + 13), colour, 2)
                _write(picture, word, (corner[0] + 20, corner[1] + 11), _INK)
    _write(picture, query_caption, (_MARGIN, 62), _FAINT)
    _write(picture, gallery_caption, (left, 46), _FAINT)
    for place in range(columns):
        number = str(place + 1)
        centre = left + place * (CELL_WIDTH + _GAP) + (CELL_WIDTH - _text_width(number)) // 2
        _write(picture, number, (centre, 64), _FAINT)


def _draw_cell(picture: Picture, crop: Crop, corner: tuple[int, int], colour: Colour) -> None:
    """The crop in its own proportions inside a framed cell."""
    left, top = corner
    right, bottom = left + CELL_WIDTH, top + CELL_HEIGHT
    cv2.rectangle(picture, corner, (right - 1, bottom - 1), colour, cv2.FILLED)
    inner_height, inner_width = CELL_HEIGHT - 2 * _FRAME, CELL_WIDTH - 2 * _FRAME
    cell = picture[top + _FRAME : bottom - _FRAME, left + _FRAME : right - _FRAME]
    cell[:] = _CELL
    height, width = crop.shape[:2]
    scale = min(inner_height / height, inner_width / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    shown = cv2.resize(crop, size, interpolation=method)
    x, y = (inner_width - size[0]) // 2, (inner_height - size[1]) // 2
    cell[y : y + size[1], x : x + size[0]] = shown


def _draw_caption(
    picture: Picture, corner: tuple[int, int], first: str, colour: Colour, second: str = ""
) -> None:
    left, bottom = corner[0], corner[1] + CELL_HEIGHT
    _write(picture, first, (left, bottom + 14), colour)
    if second:
        _write(picture, _fit(second, CELL_WIDTH + _GAP - 4), (left, bottom + 29), _FAINT)


def _draw_sign(picture: Picture, corner: tuple[int, int], correct: bool) -> None:
    """A tick or a cross beside the number: the frames alone say nothing to a colour-blind eye."""
    x, y = corner[0] + CELL_WIDTH - 14, corner[1] + CELL_HEIGHT + 5
    if correct:
        strokes, colour = [((0, 5), (4, 9)), ((4, 9), (11, 0))], _RIGHT
    else:
        strokes, colour = [((1, 0), (10, 9)), ((1, 9), (10, 0))], _WRONG
    for (x0, y0), (x1, y1) in strokes:
        cv2.line(picture, (x + x0, y + y0), (x + x1, y + y1), colour, 2, cv2.LINE_AA)


def _write(
    picture: Picture, text: str, start: tuple[int, int], colour: Colour, size: float = _TEXT
) -> None:
    cv2.putText(picture, _plain(text), start, _FONT, size, colour, 1, cv2.LINE_AA)


def _text_width(text: str, size: float = _TEXT) -> int:
    (width, _), _ = cv2.getTextSize(_plain(text), _FONT, size, 1)
    return int(width)


def _plain(text: str) -> str:
    """What OpenCV's font can write."""
    return text.encode("ascii", "replace").decode("ascii")


def _fit(text: str, width: int) -> str:
    """The end of `text` that fits: file names differ at the end."""
    if _text_width(text) <= width:
        return text
    while len(text) > 1 and _text_width(".." + text) > width:
        text = text[1:]
    return ".." + text
