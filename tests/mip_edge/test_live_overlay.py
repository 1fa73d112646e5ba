"""What is drawn: labels, boxes, headers, and the mosaic of all cameras."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mip_edge.live.overlay import (
    HEADER,
    UNKNOWN,
    cell_size,
    draw,
    grid,
    identity_color,
    letterbox,
    mosaic,
)
from mip_edge.live.view import CameraView, TrackLabel
from mip_edge.spec import Modality
from mip_edge.thresholds import ModalityPair


def grey(width: int, height: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 128, np.uint8)


def view_of(*labels: TrackLabel, box: tuple[float, ...] = (100, 60, 160, 180)) -> CameraView:
    return CameraView(
        "gate",
        Modality.VISIBLE,
        image=grey(300, 200),
        boxes=np.array([box] * len(labels), np.float32).reshape(-1, 4),
        labels=labels,
        index=7,
        age_ms=41.4,
        width=300,
        height=200,
    )


def test_colours_are_stable_and_neighbours_in_number_differ_much() -> None:
    colors = [np.array(identity_color(identity)) for identity in range(1, 21)]
    assert identity_color(7) == identity_color(7)
    assert all(np.abs(a - b).max() > 60 for a, b in itertools.pairwise(colors))
    assert identity_color(None) == (170, 170, 170)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (TrackLabel(4, 12, 0.826), "#12 0.83 t4"),
        (TrackLabel(4, 12, None), "#12 new t4"),
        (TrackLabel(4, None, None), "? t4"),
        (TrackLabel(4, 12, 0.826, ModalityPair.VISIBLE_INFRARED), "#12 0.83 V-I t4"),
        (
            TrackLabel(4, 12, 0.8, ModalityPair.INFRARED_INFRARED, name="Anna"),
            "#12 Anna 0.80 I-I t4",
        ),
        (TrackLabel(4, 12, 0.5, ModalityPair.VISIBLE_VISIBLE, True), "?#12 0.50 V-V t4"),
    ],
)
def test_labels_tell_identity_score_pair_and_track(label: TrackLabel, words: str) -> None:
    assert str(label) == words


def test_the_header_tells_modality_age_and_dropped_frames() -> None:
    view = dataclasses.replace(view_of(), dropped=3, auto=True)
    assert view.header() == "gate (visible, auto)  age 41 ms  dropped 3  frame 7"
    unsure = dataclasses.replace(view, modality=None)
    assert unsure.header().startswith("gate (modality not known yet, auto)")


def test_the_header_of_a_lost_camera_tells_since_when_and_the_next_try() -> None:
    lost = dataclasses.replace(view_of(), state="lost", age_ms=12_300.0, next_try=4.2)
    assert lost.header() == "gate (visible)  LOST for 12 s, next try in 4 s"
    assert dataclasses.replace(lost, age_ms=None, next_try=None).header() == "gate (visible)  LOST"
    assert dataclasses.replace(lost, state="ended").header() == "gate (visible)  ENDED"


def test_drawing_leaves_the_frame_alone_and_shows_the_colour_at_the_box() -> None:
    view = view_of(TrackLabel(1, 3, 0.9))
    picture = draw(view, 300, 200)
    assert view.image is not None
    assert (view.image == 128).all()
    assert tuple(picture[120, 100].tolist()) == identity_color(3)
    assert picture[120, 130].tolist() == [128, 128, 128]


def test_boxes_follow_the_frame_into_a_picture_of_another_size() -> None:
    # 300x200 fits into 600x600 twice as large, 100 pixels from the top.
    picture = draw(view_of(TrackLabel(1, 3, 0.9)), 600, 600)
    assert tuple(picture[340, 200].tolist()) == identity_color(3)
    assert picture[60, 300].tolist() == [0, 0, 0]


def test_an_uncertain_box_is_grey_and_dashed_whoever_it_may_be() -> None:
    picture = draw(view_of(TrackLabel(1, 3, 0.5, uncertain=True)), 300, 200)
    edge = picture[60:180, 100]
    grey_ones = (edge == UNKNOWN).all(axis=1)
    assert 0.3 < grey_ones.mean() < 0.8, "dashes"
    colored = draw(view_of(TrackLabel(1, 3, 0.5)), 300, 200)
    assert (colored[60:180, 100] == identity_color(3)).all()


@given(
    st.lists(st.floats(width=32), min_size=4, max_size=4),
    st.booleans(),
)
def test_any_box_can_be_drawn(box: list[float], uncertain: bool) -> None:
    labels = TrackLabel(1, 3, 0.9, uncertain=uncertain)
    assert draw(view_of(labels, box=tuple(box)), 160, 120).shape == (120, 160, 3)


def test_a_lost_camera_is_dark_without_boxes_and_one_without_a_frame_is_black() -> None:
    lost = dataclasses.replace(view_of(TrackLabel(1, 3, 0.9)), state="lost")
    picture = draw(lost, 300, 200)
    assert (picture[HEADER + 1 :] == 128 // 3).all()
    nothing = draw(dataclasses.replace(lost, image=None), 300, 200)
    assert (nothing[HEADER + 1 :] == 0).all()
    assert nothing[:HEADER].any(), "the header is there"


def test_a_grid_is_at_most_one_column_wider_than_high() -> None:
    assert [grid(n) for n in range(1, 11)] == [
        *((1, 1), (2, 1), (2, 2), (2, 2), (3, 2)),
        *((3, 2), (3, 3), (3, 3), (3, 3), (4, 3)),
    ]


@given(st.integers(1, 200))
def test_every_picture_has_a_place_in_the_grid_and_no_row_is_empty(count: int) -> None:
    columns, rows = grid(count)
    assert columns * (rows - 1) < count <= columns * rows


def test_the_mosaic_shows_every_camera_in_its_order() -> None:
    shades = [np.full((4, 6, 3), shade, np.uint8) for shade in (10, 20, 30)]
    whole = mosaic(shades)
    assert whole.shape == (8, 12, 3)
    assert whole[[0, 0, 4, 4], [0, 6, 0, 6], 0].tolist() == [10, 20, 30, 0]


def test_a_cell_fits_the_largest_camera_and_the_mosaic_its_bounds() -> None:
    small, large = view_of(), dataclasses.replace(view_of(), width=1920, height=1080)
    assert cell_size([small, small], widest=1920, tallest=1440) == (300, 200)
    assert cell_size([small, large], widest=1920, tallest=1440) == (960, 540)
    unknown = dataclasses.replace(small, width=0, height=0)
    assert cell_size([unknown], widest=1920, tallest=1440) == (640, 480)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(2, 300), st.integers(2, 300))
def test_a_letterbox_shows_the_whole_picture_undistorted(
    width: int, height: int, into_width: int, into_height: int
) -> None:
    picture, scale, left, top = letterbox(grey(width, height), into_width, into_height)
    assert picture.shape == (into_height, into_width, 3)
    shown = (picture == 128).all(axis=2)
    rows, columns = shown.any(axis=1).sum(), shown.any(axis=0).sum()
    assert rows == max(1, round(height * scale))
    assert columns == max(1, round(width * scale))
    assert shown[top, left]
    assert rows == into_height or columns == into_width
