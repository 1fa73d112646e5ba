from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mip_edge.errors import EngineError, SourceError
from mip_edge.live import nanodet
from mip_edge.live.box import (
    Detections,
    area,
    covered,
    intersection_over_union,
    suppress,
)
from mip_edge.live.detector import Motion, RecordedBoxes, boxes_of_mask, boxes_path, read_boxes


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


def tensors() -> list[NDArray[np.float32]]:
    """Nobody anywhere; distributions that say nothing."""
    return [
        np.zeros((1, cells, channels), np.float32)
        for channels in (80, 44)
        for cells in nanodet.STRIDES
    ]


def test_decoding_measures_each_side_from_the_centre_of_the_cell() -> None:
    outputs = tensors()
    cell = 3 * 26 + 5
    outputs[1][0, cell, 0] = 0.8
    # A sharp peak at bins 1, 2, 3, 4 for left, top, right, bottom.
    for side, peak in enumerate((1, 2, 3, 4)):
        outputs[4][0, cell, side * 11 + peak] = 50.0
    found = nanodet.decode(outputs, 0.5)
    x, y = 5.5 * 16, 3.5 * 16
    np.testing.assert_allclose(found.boxes, [[x - 16, y - 32, x + 48, y + 64]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.8])


def test_a_flat_distribution_is_its_mean_and_strides_and_order_of_tensors_do_not_matter() -> None:
    outputs = tensors()
    outputs[0][0, 0, 0] = outputs[2][0, 0, 0] = 0.9
    found = nanodet.decode(outputs[::-1], 0.5)
    np.testing.assert_allclose(
        found.boxes, [[-36, -36, 44, 44], [16 - 160, 16 - 160, 16 + 160, 16 + 160]], atol=1e-4
    )


def test_other_classes_and_low_scores_are_nobody() -> None:
    outputs = tensors()
    outputs[0][0, 7, 2] = 0.99
    outputs[0][0, 8, 0] = 0.49
    assert len(nanodet.decode(outputs, 0.5)) == 0


def test_tensors_of_another_network_are_refused() -> None:
    with pytest.raises(EngineError, match="not the file that was shipped"):
        nanodet.decode(tensors()[:3], 0.5)


@pytest.mark.parametrize(("width", "height"), [(768, 576), (300, 900), (416, 416), (33, 20)])
def test_letterbox_keeps_the_aspect_and_leads_back_to_the_frame(width: int, height: int) -> None:
    image = np.full((height, width, 3), 255, np.uint8)
    tensor, letterbox = nanodet.prepare_frame(image)
    assert tensor.shape == (1, 3, 416, 416)
    painted = np.argwhere(tensor[0, 0] > 0)
    (top, left), (bottom, right) = painted.min(axis=0), painted.max(axis=0) + 1
    back = letterbox.to_frame(boxes((left, top, right, bottom)))
    np.testing.assert_allclose(back, [[0, 0, width, height]], atol=1.0 / letterbox.scale)


def test_the_network_gets_blue_first() -> None:
    image = np.zeros((416, 416, 3), np.uint8)
    image[:, :, 0] = 255
    tensor, _ = nanodet.prepare_frame(image)
    red = (255 - 123.675) / 58.395
    np.testing.assert_allclose(tensor[0, :, 0, 0], [-103.53 / 57.375, -116.28 / 57.12, red], 1e-5)


def test_the_shipped_detector_is_the_noticed_file_and_sees_nobody_on_a_blank_frame() -> None:
    assets = files("mip_edge") / "assets"
    content = (assets / nanodet.ASSET).read_bytes()
    notice = (assets / "NANODET_NOTICE.txt").read_text(encoding="utf-8")
    assert len(content) < 8_000_000
    assert hashlib.sha256(content).hexdigest() in notice
    assert "Apache License, Version 2.0" in notice
    assert "Permission is hereby granted" in notice
    found = nanodet.NanoDet(min_score=0.5, threads=1).detect(np.full((90, 160, 3), 90, np.uint8), 0)
    assert len(found) == 0


def test_motion_finds_what_moves_and_not_what_stands() -> None:
    detector = Motion()
    rng = np.random.default_rng(0)
    background = rng.integers(60, 120, (120, 160, 3)).astype(np.uint8)
    for index in range(30):
        assert len(detector.detect(background, index)) == 0
    found = Detections.empty()
    for step in range(5):
        image = background.copy()
        image[30:90, 40 + 5 * step : 60 + 5 * step] = 230
        found = detector.detect(image, 30 + step)
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
    detector, image = RecordedBoxes(path), np.zeros((9, 9, 3), np.uint8)
    assert detector.detect(image, 0).boxes.tolist() == [[1, 2, 30, 40], [5, 6, 70, 80]]
    np.testing.assert_allclose(detector.detect(image, 0).scores, [1, 0.4])
    assert [len(detector.detect(image, index)) for index in (1, 2)] == [0, 0]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"frame": 1}', '{"frame": 1, "boxes": [[1, 2]]}', '{"frame": "x", "boxes": []}'],
)
def test_a_bad_line_of_boxes_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "gate.boxes.jsonl"
    path.write_text('{"frame": 0, "boxes": []}\n' + line)
    with pytest.raises(SourceError, match="line 2"):
        read_boxes(path)


def test_missing_boxes_are_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--detector nanodet"):
        RecordedBoxes(tmp_path / "gate.boxes.jsonl")
