from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from mip_edge.errors import EngineError, OptionError
from mip_edge.live.box import Detections
from mip_edge.live.crop import CropOptions, CropSelector, cut
from mip_edge.live.overlay import TrackLabel, draw, identity_color, tile
from mip_edge.live.tracker import Tracker, Tracks


def detections(*rows: tuple[float, float, float, float, float]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(table[:, :4], table[:, 4])


def walker(step: int, x: float = 0.0, score: float = 0.9) -> tuple[float, ...]:
    left = x + 4.0 * step
    return (left, 20.0, left + 30.0, 110.0, score)


def tracks(*rows: tuple[float, float, float, float], ended: tuple[int, ...] = ()) -> Tracks:
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    ids = np.arange(1, len(boxes) + 1, dtype=np.int64)
    return Tracks(boxes, np.ones(len(boxes), np.float32), ids, ended)


def test_a_person_keeps_one_id_and_the_end_is_told_once() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    ids = [tracker.update(detections(walker(s)), s / 10).ids.tolist() for s in range(10)]
    assert ids[0] == [], "one sighting is no track"
    assert ids[2:] == [[1]] * 8
    ended = [tracker.update(Detections.empty(), s / 10).ended for s in range(10, 30)]
    assert [gone for gone in ended if gone] == [(1,)]
    assert 8 <= ended.index((1,)) <= 12, "about a second of patience"


def test_a_short_gap_does_not_end_a_track() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    for step in range(15):
        seen = Detections.empty() if 6 <= step <= 9 else detections(walker(step))
        found = tracker.update(seen, step / 10)
        assert found.ended == ()
    assert found.ids.tolist() == [1]


def test_unsure_boxes_continue_a_track_and_never_start_one() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    for step in range(4):
        tracker.update(detections(walker(step)), step / 10)
    found = tracker.update(detections(walker(4, score=0.35), walker(4, 200, 0.35)), 0.4)
    assert found.ids.tolist() == [1]
    for step in range(5, 9):
        found = tracker.update(detections(walker(step, 200, 0.35)), step / 10)
    assert found.ids.tolist() == []


def test_two_cameras_count_their_own_ids() -> None:
    gate, yard = Tracker(rate=10, min_score=0.5), Tracker(rate=10, min_score=0.5)
    for step in range(4):
        two = gate.update(detections(walker(step), walker(step, 200)), step / 10)
        one = yard.update(detections(walker(step)), step / 10)
    assert (two.ids.tolist(), one.ids.tolist()) == ([1, 2], [1])


def test_two_frames_of_one_instant_are_two_frames() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    for step in range(4):
        found = tracker.update(detections(walker(step)), 0.0)
    assert found.ids.tolist() == [1]


def test_a_missing_tracker_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(EngineError, match=r"trackers is not installed.*mip-edge\[live\]"):
        Tracker(rate=10, min_score=0.5)


def test_small_cut_and_hidden_crops_do_not_count() -> None:
    selector = CropSelector(CropOptions(min_height=40))
    rows = tracks(
        (50, 50, 80, 130),  # good
        (50, 150, 60, 170),  # small
        (0, 50, 30, 130),  # cut by the left border
        (150, 50, 180, 130),  # hidden by the next one
        (152, 60, 182, 140),  # in front
    )
    assert selector.choose(rows, 0, 200, 200) == [0, 4]


def test_who_never_shows_himself_whole_is_taken_after_a_while_but_never_if_too_small() -> None:
    selector = CropSelector(CropOptions(min_height=40, patience=3))
    rows = tracks((0, 50, 30, 130), (0, 150, 5, 160))
    chosen = [selector.choose(rows, index, 200, 200) for index in range(5)]
    assert chosen == [[], [], [], [0], [0]]


def test_a_track_is_embedded_at_most_every_so_many_frames() -> None:
    selector = CropSelector(CropOptions(every=3))
    rows = tracks((50, 50, 80, 130))
    # Frame numbers count, not calls: dropped frames pass as well.
    assert [selector.choose(rows, i, 200, 200) for i in (0, 1, 2, 3, 7, 8)] == [
        [0],
        [],
        [],
        [0],
        [0],
        [],
    ]


@pytest.mark.parametrize("field", ["every", "min_height"])
def test_crop_options_that_cannot_be_are_refused(field: str) -> None:
    with pytest.raises(OptionError, match="at least"):
        CropOptions(**{field: 0})


def test_a_crop_is_the_pixels_of_its_box_and_never_empty() -> None:
    image = np.arange(20 * 30 * 3, dtype=np.int64).reshape(20, 30, 3).astype(np.uint8)
    crop = cut(image, np.array([2.3, 4.9, 9.1, 15.0], np.float32))
    np.testing.assert_array_equal(crop, image[4:15, 2:10])
    assert cut(image, np.array([30, 20, 30, 20], np.float32)).shape == (1, 1, 3)
    crop[:] = 0
    assert image[4:15, 2:10].any(), "the crop is a copy"


def test_colours_are_stable_and_neighbours_in_number_differ_much() -> None:
    colors = [np.array(identity_color(identity)) for identity in range(1, 21)]
    assert identity_color(7) == identity_color(7)
    assert all(np.abs(a - b).max() > 60 for a, b in itertools.pairwise(colors))
    assert identity_color(None) == (170, 170, 170)


def test_labels_tell_identity_score_and_track() -> None:
    assert str(TrackLabel(4, 12, 0.826)) == "#12 0.83 t4"
    assert str(TrackLabel(4, 12, None)) == "#12 new t4"
    assert str(TrackLabel(4, None, None)) == "? t4"


def test_drawing_leaves_the_frame_alone_and_shows_the_colour_at_the_box() -> None:
    image: NDArray[np.uint8] = np.full((200, 300, 3), 128, np.uint8)
    box = np.array([[100, 60, 160, 180]], np.float32)
    picture = draw(image, box, [TrackLabel(1, 3, 0.9)], "gate (visible)")
    assert (image == 128).all()
    assert tuple(picture[120, 100].tolist()) == identity_color(3)
    assert picture[120, 130].tolist() == [128, 128, 128]


def test_cameras_are_tiled_at_one_height_with_even_sides() -> None:
    red = np.full((100, 201, 3), (255, 0, 0), np.uint8)
    blue = np.full((50, 50, 3), (0, 0, 255), np.uint8)
    tiled = tile([red, blue], 101)
    assert tiled.shape == (100, 200 + 100, 3)
    assert tiled[50, 100].tolist() == [255, 0, 0]
    assert tiled[50, 250].tolist() == [0, 0, 255]
