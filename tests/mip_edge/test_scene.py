"""Two synthetic cameras and their truth, and how a live run is scored against it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mip_edge.errors import ImageError, OptionError
from mip_edge.live.box import intersection_over_union
from mip_edge.live.truth import CrossingResult, read_sightings, read_truth, score_crossings
from mip_edge.spec import Modality
from mip_edge.synthetic.scene import SceneOptions, write_scene

SMALL = SceneOptions(people=2, strangers=1, size=(90, 160), crossing=1.0, pause=0.8)
BOX = [0, 0, 10, 20]
FAR = [100, 0, 110, 20]


def test_a_scene_is_a_day_and_a_night_video_with_their_truth(tmp_path: Path) -> None:
    gate, yard = write_scene(tmp_path, SMALL)
    assert (gate.modality, yard.modality) == (Modality.VISIBLE, Modality.INFRARED)
    for camera, people in ((gate, {0, 1}), (yard, {0, 1, 2})):
        truth = read_truth(camera.truth)
        video = cv2.VideoCapture(str(camera.video))
        frames = 0
        while video.read()[0]:
            frames += 1
        assert frames == camera.frames == len(truth)
        assert {person for seen in truth.values() for person in seen} == people
        for seen in truth.values():
            for x1, y1, x2, y2 in seen.values():
                assert 0 <= x1 < x2 <= 160
                assert 0 <= y1 < y2 <= 90
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_is_no_truth_is_named(tmp_path: Path) -> None:
    (tmp_path / "gate.truth.jsonl").write_text("boxes\n")
    with pytest.raises(ImageError, match=r"gate\.truth\.jsonl"):
        read_truth(tmp_path / "gate.truth.jsonl")


def test_a_scene_without_people_is_refused() -> None:
    with pytest.raises(OptionError, match="at least 1 person"):
        SceneOptions(people=0)


def overlap(first: list[int], second: list[int]) -> float:
    boxes = np.array([first, second], np.float32)
    return float(intersection_over_union(boxes[:1], boxes[1:])[0, 0])


def test_overlap_of_half_covered_boxes_is_a_third() -> None:
    assert overlap([0, 0, 2, 1], [1, 0, 3, 1]) == pytest.approx(1 / 3)
    assert overlap(BOX, FAR) == 0


def test_a_known_person_under_the_own_identity_is_right_and_a_stranger_under_a_new_one() -> None:
    truths = {"gate": {0: {7: BOX}}, "yard": {5: {7: BOX}, 9: {8: FAR}}}
    sightings = {"gate": {0: [(1, BOX)]}, "yard": {5: [(1, BOX)], 9: [(2, FAR)]}}
    assert score_crossings(truths, sightings) == [
        CrossingResult("gate", 7, 1, again=False, right=True),
        CrossingResult("yard", 7, 1, again=True, right=True),
        CrossingResult("yard", 8, 2, again=False, right=True),
    ]


def test_a_known_person_under_a_new_identity_is_wrong() -> None:
    truths = {"gate": {0: {7: BOX}}, "yard": {5: {7: BOX}}}
    sightings = {"gate": {0: [(1, BOX)]}, "yard": {5: [(2, BOX)]}}
    assert [result.right for result in score_crossings(truths, sightings)] == [True, False]


def test_a_stranger_under_a_known_identity_is_wrong_and_its_owner_stays_right() -> None:
    truths = {"gate": {0: {7: BOX}}, "yard": {3: {8: FAR}, 5: {7: BOX}}}
    sightings = {"gate": {0: [(1, BOX)]}, "yard": {3: [(1, FAR)], 5: [(1, BOX)]}}
    assert [result.right for result in score_crossings(truths, sightings)] == [True, False, True]


def test_the_identity_of_most_frames_counts_and_none_is_wrong() -> None:
    truths = {"gate": {frame: {7: BOX} for frame in range(3)} | {9: {8: FAR}}}
    sightings = {"gate": {0: [(1, BOX)], 1: [(2, BOX)], 2: [(2, BOX)]}}
    assert score_crossings(truths, sightings) == [
        CrossingResult("gate", 7, 2, again=False, right=True),
        CrossingResult("gate", 8, None, again=False, right=False),
    ]


def test_sightings_are_the_boxes_with_an_identity(tmp_path: Path) -> None:
    rows = [
        {"event": "start"},
        {"event": "box", "camera": "gate", "frame": 3, "identity": None, "box": BOX},
        {"event": "box", "camera": "gate", "frame": 4, "identity": 2, "box": BOX},
    ]
    (tmp_path / "events.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert read_sightings(tmp_path / "events.jsonl") == {"gate": {4: [(2, BOX)]}}
