"""The ranked-list picture: what is framed how, and that odd input does not spoil it."""

from __future__ import annotations

import numpy as np
import pytest

from mip_edge.errors import OptionError
from mip_edge.picture import (
    _HEADER,
    _MARGIN,
    _NEUTRAL,
    _RIGHT,
    _WRONG,
    CELL_WIDTH,
    RankedItem,
    RankedRow,
    _fit,
    _text_width,
    ranked_list,
)
from mip_edge.spec import Crop

CAPTIONS = {"title": "Title", "query_caption": "infrared query", "gallery_caption": "gallery"}


def crop(height: int = 30, width: int = 15) -> Crop:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def row(*correct: bool | None, label: str = "0001") -> RankedRow:
    return RankedRow(crop(), label, [RankedItem(crop(), 0.5, label, one) for one in correct])


def frames(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> list[tuple[int, ...]]:
    """Colours along the top edge of the first row's cells, each once, left to right."""
    colours: list[tuple[int, ...]] = []
    for pixel in picture[_HEADER + 1]:
        colour = tuple(int(value) for value in pixel)
        if colour != (255, 255, 255) and (not colours or colours[-1] != colour):
            colours.append(colour)
    return colours


def test_right_is_framed_green_and_wrong_red() -> None:
    picture = ranked_list([row(True, False, True)], **CAPTIONS)
    assert frames(picture)[1:] == [_RIGHT, _WRONG, _RIGHT]


def test_answers_that_nobody_judged_are_framed_alike() -> None:
    picture = ranked_list([row(None)], **CAPTIONS)
    assert frames(picture)[1:] == [_NEUTRAL]
    assert not (picture == _RIGHT).all(axis=2).any()


def test_rows_may_have_different_lengths_and_crops_any_size() -> None:
    rows = [
        row(True),
        RankedRow(crop(1, 1), "one pixel", [RankedItem(crop(900, 3), 1.0, "tall", False)] * 4),
        RankedRow(crop(2, 300), "wide", []),
    ]
    picture = ranked_list(rows, **CAPTIONS)
    assert picture.dtype == np.uint8
    assert picture.shape[1] > _MARGIN + 5 * CELL_WIDTH


def test_long_and_foreign_labels_stay_inside_their_column() -> None:
    label = "cam3_2024-01-01_person_000123_frame_00042"
    fitted = _fit(label, 80)
    assert fitted.startswith("..")
    assert label.endswith(fitted[2:])
    assert _text_width(fitted) <= 80
    ranked_list([row(True, label="Jürgen 李")], **CAPTIONS)


def test_the_crops_are_not_changed() -> None:
    item = RankedItem(crop(), 0.5, "a", True)
    before = item.crop.copy()
    ranked_list([RankedRow(crop(), "q", [item])], **CAPTIONS)
    assert (item.crop == before).all()


def test_nothing_to_show_is_refused() -> None:
    for rows in ([], [row()]):
        with pytest.raises(OptionError, match="at least one query with one answer"):
            ranked_list(rows, **CAPTIONS)
