from __future__ import annotations

import gc
import itertools
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.errors import EngineError
from mip_edge.live.box import Detections
from mip_edge.live.crop import cut
from mip_edge.live.tracker import SteadyClock, Tracker


def detections(*rows: tuple[float, float, float, float, float]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(table[:, :4], table[:, 4])


def walker(step: int, x: float = 0.0, score: float = 0.9) -> tuple[float, ...]:
    left = x + 4.0 * step
    return (left, 20.0, left + 30.0, 110.0, score)


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


def test_a_clock_that_stands_still_for_good_neither_stops_tracking_nor_keeps_the_dead() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    for step in range(6):
        found = tracker.update(detections(walker(step)), 5.0)
    assert found.ids.tolist() == [1]
    ended = [tracker.update(Detections.empty(), 5.0).ended for _ in range(14)]
    assert [gone for gone in ended if gone] == [(1,)]


@pytest.mark.parametrize("jump", [-3600.0, -0.05])
def test_a_clock_that_jumps_back_keeps_the_tracks_and_then_runs_as_before(jump: float) -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    times = [5000 + step / 10 for step in range(6)]
    times += [times[-1] + jump + step / 10 for step in range(6)]
    for step, time in enumerate(times):
        found = tracker.update(detections(walker(step)), time)
    assert found.ids.tolist() == [1]
    last = times[-1]
    ended = [tracker.update(Detections.empty(), last + step / 10).ended for step in range(1, 15)]
    assert 9 <= ended.index((1,)) <= 12, "still about a second of patience"


def test_a_clock_that_jumps_far_ahead_ends_the_tracks_and_new_ones_start() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    for step in range(4):
        tracker.update(detections(walker(step)), step / 10)
    later = [tracker.update(detections(walker(4)), 7200 + step / 10) for step in range(3)]
    assert later[0].ended == (1,)
    assert later[2].ids.tolist() == [2]


def test_a_time_that_is_no_number_is_taken_for_the_next_frame() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    for step in range(8):
        time = float("nan") if step in (0, 3, 4) else step / 10
        found = tracker.update(detections(walker(step)), time)
    assert found.ids.tolist() == [1]


@pytest.mark.parametrize(
    ("shown", "made"),
    [
        ([5.0, 5.1, 5.3], [0.1, 0.2, 0.4]),
        ([0, 0, 0, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4, 0.5]),  # coarse: what it ran ahead is given back
        ([9.0, 2.0, 2.1], [0.1, 0.2, 0.3]),
        ([1.0, float("inf"), 1.2], [0.1, 0.2, 0.3]),
        ([0.0] * 15 + [0.1, 0.2], [0.1 * step for step in range(1, 18)]),  # too far ahead: let go
    ],
)
def test_a_steady_clock_worked_by_hand(shown: list[float], made: list[float]) -> None:
    clock = SteadyClock(0.1)
    np.testing.assert_allclose([clock.advance(time) for time in shown], made, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=2, max_size=30))
def test_a_steady_clock_always_goes_on(shown: list[float]) -> None:
    clock = SteadyClock(0.04)
    made = [clock.advance(time) for time in shown]
    assert all(before < after for before, after in itertools.pairwise(made))


@pytest.mark.parametrize("every", [2, 3, 4])
def test_a_person_keeps_one_id_when_only_every_nth_frame_is_looked_at(every: int) -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    # 80 pixels a second at 30 wide: at four frames a look two boxes never touch.
    steps = range(0, 60, every)
    ids = [tracker.update(detections(walker(step * 2)), step / 10).ids.tolist() for step in steps]
    assert ids[2:] == [[1]] * (len(ids) - 2)


def test_between_two_looks_boxes_move_on_as_the_library_itself_predicts() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    for step in range(0, 30, 3):
        tracker.update(detections(walker(step), walker(step, 200)), step / 10)
    predicted = tracker.predict(2.9)
    assert (predicted.ids.tolist(), predicted.ended) == ([1, 2], ())
    states = [track.state_estimator for track in tracker._tracker.tracks]
    before = np.array([state.state_to_bbox() for state in states])
    for state in states:
        state.predict(2.0, 10.0)
    after = np.array([state.state_to_bbox() for state in states])
    seen = np.array([walker(27)[:4], walker(27, 200)[:4]], np.float32)
    np.testing.assert_allclose(predicted.boxes, seen + (after - before), atol=1e-3)
    truth = np.array([walker(29)[:4], walker(29, 200)[:4]], np.float32)
    np.testing.assert_allclose(predicted.boxes, truth, atol=1.0)


def test_a_prediction_changes_nothing_and_goes_no_further_than_the_patience() -> None:
    tracker, other = Tracker(rate=10, min_score=0.5), Tracker(rate=10, min_score=0.5)
    for step in range(6):
        here = tracker.update(detections(walker(step)), step / 10)
        there = other.update(detections(walker(step)), step / 10)
        other.predict(step / 10 + 0.05)
        other.predict(1e9)
    np.testing.assert_array_equal(here.boxes, there.boxes)
    np.testing.assert_array_equal(tracker.predict(0.5).boxes, here.boxes)
    np.testing.assert_array_equal(tracker.predict(-9.0).boxes, here.boxes)
    np.testing.assert_array_equal(tracker.predict(1e9).boxes, tracker.predict(1.5).boxes)


def test_a_prediction_before_anything_was_seen_is_empty() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    assert len(tracker.predict(1.0)) == 0
    tracker.update(Detections.empty(), 0.0)
    assert tracker.predict(0.1).boxes.shape == (0, 4)


def test_a_box_that_shrinks_fast_does_not_turn_inside_out_when_predicted() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    for step in range(5):
        tracker.update(detections((100, 100, 200 - 18 * step, 300 - 36 * step, 0.9)), step / 10)
    boxes = tracker.predict(1.3).boxes
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_tracks_go_on_when_a_stream_changes_its_size() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    for step in range(5):
        tracker.update(detections(walker(step, 300)), step / 10, size=(640, 480))
    for step in range(5, 10):
        left, top, right, bottom, score = walker(step, 300)
        half = (left / 2, top / 4, right / 2, bottom / 4, score)
        found = tracker.update(detections(half), step / 10, size=(320, 120))
        assert (found.ids.tolist(), found.ended) == ([1], ())
        np.testing.assert_allclose(found.boxes, [half[:4]], rtol=1e-6)
    (moved,) = tracker.predict(1.0).boxes - found.boxes
    np.testing.assert_allclose(moved, [2, 0, 2, 0], atol=0.3)
    before, after = tracker.predict(1.0), tracker.predict(1.0, size=(640, 480))
    np.testing.assert_allclose(after.boxes, before.boxes * [2, 4, 2, 4], rtol=1e-6)


def test_boxes_without_an_area_or_a_number_are_refused_and_counted() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    broken = [
        (50, 50, 50, 90, 0.9),
        (90, 90, 50, 50, 0.9),
        (float("nan"), 0, 10, 10, 0.9),
        (0, 0, float("inf"), 10, 0.9),
        (0, 0, 10, 10, float("nan")),
    ]
    for step in range(4):
        found = tracker.update(detections(*broken, walker(step)), step / 10)
    assert found.ids.tolist() == [1]
    assert tracker.refused == 4 * len(broken)


def test_two_hundred_people_in_a_frame_keep_their_ids() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    for step in range(4):
        crowd = [
            (x + step, y, x + 20 + step, y + 50, 0.9)
            for x in range(0, 800, 40)
            for y in range(0, 600, 60)
        ]
        found = tracker.update(detections(*crowd), step / 10)
    assert found.ids.tolist() == list(range(1, 201))
    np.testing.assert_array_equal(found.boxes[:, 0], [row[0] for row in crowd])


def test_days_of_people_leave_nothing_behind() -> None:
    tracker = Tracker(rate=10, min_score=0.5)
    ended: list[int] = []

    def walk(updates: range) -> None:
        for step in updates:
            seen = detections(walker(step % 20)) if step % 40 < 20 else Detections.empty()
            found = tracker.update(seen, step / 10)
            ended.extend(found.ended)

    walk(range(200))
    gc.collect()
    tracemalloc.start()
    try:
        walk(range(200, 600))
        ended.clear()
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(tracker._tracker.tracks) <= 1
    assert len(tracker._alive) <= 1
    assert kept < 10_000, "bytes, after 400 updates and 10 people more"


def test_a_missing_tracker_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(EngineError, match=r"trackers is not installed.*mip-edge\[live\]"):
        Tracker(rate=10, min_score=0.5)


def test_a_crop_is_the_pixels_of_its_box_and_never_empty() -> None:
    image = np.arange(20 * 30 * 3, dtype=np.int64).reshape(20, 30, 3).astype(np.uint8)
    crop = cut(image, np.array([2.3, 4.9, 9.1, 15.0], np.float32))
    np.testing.assert_array_equal(crop, image[4:15, 2:10])
    assert cut(image, np.array([30, 20, 30, 20], np.float32)).shape == (1, 1, 3)
    # A box wholly beside the frame is its nearest pixel, never what lies at the other side.
    assert cut(image, np.array([-9, -9, -5, -5], np.float32)).shape == (1, 1, 3)
    np.testing.assert_array_equal(
        cut(image, np.array([-3, -2, 4, 99], np.float32)), image[:, :4], strict=True
    )
    crop[:] = 0
    whole = cut(image, np.array([0, 0, 30, 20], np.float32))
    whole[:] = 0
    assert image[4:15, 2:10].any(), "a crop is a copy, that of the whole frame too"
