from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mip_edge.errors import SourceError
from mip_edge.live import nanodet
from mip_edge.live.box import (
    Detections,
    area,
    covered,
    intersection_over_union,
    settle,
    suppress,
)
from mip_edge.live.detector import Motion, RecordedBoxes, boxes_of_mask, boxes_path, read_boxes
from mip_edge.live.onnx_detector import open_detector


def boxes(*rows: tuple[float, float, float, float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 4)


def detections(*rows: tuple[float, float, float, float, float]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(table[:, :4], table[:, 4])


def test_overlap_is_shared_over_joined_area() -> None:
    left, shifted, apart = (0, 0, 4, 4), (2, 0, 6, 4), (10, 10, 12, 12)
    expected = [[1, 8 / 24, 0]]
    found = intersection_over_union(boxes(left), boxes(left, shifted, apart))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert area(boxes(shifted)).tolist() == [16]


def test_suppression_keeps_the_surest_of_those_that_overlap() -> None:
    crowd = detections(
        (0, 0, 10, 10, 0.6), (1, 0, 11, 10, 0.9), (20, 0, 30, 10, 0.7), (5, 0, 15, 10, 0.5)
    )
    kept = suppress(crowd, 0.6)
    np.testing.assert_allclose(kept.scores, [0.9, 0.7, 0.5])
    assert len(suppress(Detections.empty(), 0.6)) == 0


def test_boxes_are_cut_to_the_frame_and_those_that_fill_it_are_dropped() -> None:
    found = detections((-5, 10, 20, 60, 0.9), (1, 1, 99, 99, 0.8), (120, 0, 130, 50, 0.7))
    kept = found.within_frame(100, 100)
    assert kept.boxes.tolist() == [[0, 10, 20, 60]]


def test_only_who_stands_in_front_hides_another() -> None:
    behind, in_front = (0, 0, 10, 20), (5, 5, 15, 30)
    np.testing.assert_allclose(covered(boxes(behind, in_front)), [5 * 15 / 200, 0])
    assert covered(boxes(behind)).tolist() == [0]


def test_zero_area_negative_and_out_of_frame_boxes_are_dropped_and_counted() -> None:
    found = detections(
        (10, 10, 20, 30, 0.9),
        (50, 50, 50, 80, 0.9),
        (60, 60, 40, 80, 0.9),
        (-30, 0, 0, 40, 0.9),
        (100, 10, 130, 40, 0.9),
        (10, 10, np.nan, 30, 0.9),
        (10, 10, np.inf, 30, 0.9),
        (10, 10, 20, 30, np.nan),
        (-1e30, 40, 1e30, 60, 0.8),
    )
    kept = found.within_frame(100, 100)
    assert kept.boxes.tolist() == [[10, 10, 20, 30], [0, 40, 100, 60]]
    assert (kept.refused, kept.surplus) == (7, 0)


def test_of_too_many_people_the_surest_stay_and_the_rest_is_counted() -> None:
    crowd = detections(*((10 * i, 0, 10 * i + 8, 9, s) for i, s in enumerate((0.5, 0.9, 0.4, 0.7))))
    kept = crowd.surest(2)
    np.testing.assert_allclose(kept.scores, [0.9, 0.7])
    assert kept.surplus == 2
    same = suppress(crowd, 0.5, 3)
    np.testing.assert_allclose(same.scores, [0.9, 0.7, 0.5])
    assert same.surplus == 1


def test_a_box_that_a_stayer_suppresses_is_no_surplus() -> None:
    twice = detections((0, 0, 10, 10, 0.9), (0, 0, 10, 9, 0.8), (50, 0, 60, 10, 0.0))
    kept = suppress(twice, 0.6, 1)
    assert (len(kept), kept.surplus) == (1, 1)
    assert len(suppress(twice, 0.6)) == 2
    assert len(suppress(twice, 1.0)) == 3


CORNER = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.floats(-50, 250, width=32)


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(
        st.tuples(CORNER, CORNER, CORNER, CORNER, st.floats(0, 1, width=32)), max_size=30
    ),
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    most=st.integers(1, 8),
)
def test_whatever_a_network_gives_what_stays_lies_in_the_frame_and_all_is_counted(
    rows: list[tuple[float, float, float, float, float]], width: int, height: int, most: int
) -> None:
    found = detections(*rows)
    kept = settle(found, width, height, 0.5, most)
    assert len(kept) <= most
    assert np.isfinite(kept.boxes).all()
    assert (area(kept.boxes) > 0).all()
    assert (kept.boxes >= 0).all()
    assert (kept.boxes <= [width, height, width, height]).all()
    assert len(kept) + kept.refused + kept.surplus <= len(found)
    sound = found.sound(width, height)
    assert len(sound) + sound.refused == len(found)
    for row, box in enumerate(sound.boxes):
        overlaps = intersection_over_union(box[np.newaxis], sound.boxes)[0]
        assert ((overlaps >= 0) & (overlaps <= 1.0001)).all(), row


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 30), st.integers(1, 30)),
        max_size=25,
    )
)
def test_suppression_leaves_no_overlap_and_takes_nobody_without_a_reason(
    rows: list[tuple[int, int, int, int]],
) -> None:
    crowd = detections(*((x, y, x + w, y + h, 1 / (i + 1)) for i, (x, y, w, h) in enumerate(rows)))
    kept = suppress(crowd, 0.4)
    overlap = intersection_over_union(kept.boxes, kept.boxes)
    assert not (np.triu(overlap, 1) > 0.4 + 1e-5).any()
    every = intersection_over_union(crowd.boxes, kept.boxes)
    surer = kept.scores[np.newaxis] > crowd.scores[:, np.newaxis]
    gone = ~np.isin(crowd.scores, kept.scores)
    assert ((every > 0.4 - 1e-5) & surer).any(axis=1)[gone].all()


def test_two_hundred_people_in_one_frame_are_settled_in_milliseconds() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 600, 2000), rng.uniform(0, 420, 2000)
    corners = np.stack([x, y, x + 12, y + 30], axis=1).astype(np.float32)
    crowd = Detections(corners, rng.random(2000).astype(np.float32))
    kept = settle(crowd, 640, 480, 0.5)
    assert len(kept) == 200
    assert kept.surplus > 0
    settling = [timed(lambda: settle(crowd, 640, 480, 0.5)) for _ in range(7)]
    covering = [timed(lambda: covered(kept.boxes)) for _ in range(7)]
    # Ten times what it takes on a quiet machine; the square of all found would be past it.
    assert min(settling) < 0.05
    assert min(covering) < 0.02


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def test_the_shipped_detector_is_the_noticed_file_and_sees_nobody_on_a_blank_frame() -> None:
    assets = files("mip_edge") / "assets"
    content = (assets / nanodet.ASSET).read_bytes()
    notice = (assets / "NANODET_NOTICE.txt").read_text(encoding="utf-8")
    assert len(content) < 8_000_000
    assert hashlib.sha256(content).hexdigest() in notice
    assert "Apache License, Version 2.0" in notice
    assert "Permission is hereby granted" in notice
    blank = np.full((90, 160, 3), 90, np.uint8)
    detector = open_detector("nanodet", min_score=0.5, threads=1)
    found = detector.detect([blank, blank[:40], blank[:, :30]], [0, 0, 0])
    assert [len(one) for one in found] == [0, 0, 0]
    assert detector.detect([], []) == []


def test_motion_finds_what_moves_and_not_what_stands() -> None:
    detector = Motion()
    rng = np.random.default_rng(0)
    background = rng.integers(60, 120, (120, 160, 3)).astype(np.uint8)
    for index in range(30):
        assert len(detector.detect([background], [index])[0]) == 0
    found = Detections.empty()
    for step in range(5):
        image = background.copy()
        image[30:90, 40 + 5 * step : 60 + 5 * step] = 230
        (found,) = detector.detect([image], [30 + step])
    assert len(found) == 1
    overlap = intersection_over_union(found.boxes, boxes((60, 30, 80, 90)))
    assert overlap[0, 0] > 0.6


def test_parts_of_one_person_are_joined_and_specks_and_shadows_are_not_people() -> None:
    mask = np.zeros((200, 200), np.uint8)
    cv2.rectangle(mask, (50, 40), (70, 80), 255, -1)
    cv2.rectangle(mask, (50, 86), (70, 140), 255, -1)
    cv2.rectangle(mask, (120, 40), (160, 140), 127, -1)
    cv2.rectangle(mask, (10, 10), (13, 13), 255, -1)
    found = boxes_of_mask(mask, 0.005)
    assert found.boxes.tolist() == [[50, 40, 71, 141]]


def test_recorded_boxes_come_back_by_the_number_of_the_frame(tmp_path: Path) -> None:
    path = tmp_path / "gate.boxes.jsonl"
    path.write_text(
        '{"frame": 0, "boxes": [[1, 2, 30, 40], [5, 6, 70, 80, 0.4]]}\n\n'
        '{"frame": 2, "boxes": []}\n'
    )
    assert boxes_path(str(tmp_path / "gate.mp4")) == path
    detector, image = RecordedBoxes(path), np.zeros((90, 80, 3), np.uint8)
    found = detector.detect([image, image, image], [0, 1, 2])
    assert found[0].boxes.tolist() == [[1, 2, 30, 40], [5, 6, 70, 80]]
    np.testing.assert_allclose(found[0].scores, [1, 0.4])
    assert [len(one) for one in found] == [2, 0, 0]


def test_recorded_boxes_are_cut_to_a_frame_of_any_size_and_the_impossible_is_counted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "gate.boxes.jsonl"
    rows = "[0, 0, 200, 200], [300, 10, 320, 40], [5, 5, 5, 40], [NaN, 1, 2, 3], [1, 2, 1e99, 4]"
    path.write_text(f'{{"frame": 3, "boxes": [{rows}]}}')
    images = [np.zeros((100, 150, 3), np.uint8), np.zeros((50, 400, 3), np.uint8)]
    first, second = RecordedBoxes(path).detect(images, [3, 3])
    assert first.boxes.tolist() == [[0, 0, 150, 100]]
    assert first.refused == 4
    assert second.boxes.tolist() == [[0, 0, 200, 50], [300, 10, 320, 40]]
    assert second.refused == 3


def test_motion_begins_anew_when_frames_change_their_size() -> None:
    detector = Motion()
    for _ in range(20):
        detector.detect([np.full((120, 160, 3), 90, np.uint8)], [0])
    # Of the new size everything is background at first, however bright.
    (found,) = detector.detect([np.full((90, 120, 3), 200, np.uint8)], [20])
    assert len(found) == 0
    image = np.full((90, 120, 3), 200, np.uint8)
    image[20:70, 40:60] = 30
    detector.detect([np.full((90, 120, 3), 200, np.uint8)] * 10, range(10))
    (found,) = detector.detect([image], [31])
    assert intersection_over_union(found.boxes, boxes((40, 20, 60, 70)))[0, 0] > 0.6


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"frame": 1e999, "boxes": []}',
        "[]",
        '{"frame": 1}',
        '{"frame": 1, "boxes": [[1, 2]]}',
        '{"frame": "x", "boxes": []}',
    ],
)
def test_a_bad_line_of_boxes_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "gate.boxes.jsonl"
    path.write_text('{"frame": 0, "boxes": []}\n' + line)
    with pytest.raises(SourceError, match="line 2"):
        read_boxes(path)


def test_missing_boxes_are_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--detector nanodet"):
        RecordedBoxes(tmp_path / "gate.boxes.jsonl")
