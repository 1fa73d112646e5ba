from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.errors import OptionError
from mip_edge.live.budget import BudgetOptions, DetectBudget

FOUR = {"gate": 10.0, "yard": 10.0, "door": 10.0, "lane": 10.0}


def looks(budget: DetectBudget, cameras: list[str], frames: int) -> dict[str, list[int]]:
    """Frames of each camera in which the detector runs, if every tick has a frame of each."""
    seen: dict[str, list[int]] = {camera: [] for camera in cameras}
    for frame in range(frames):
        for camera in cameras:
            if budget.due(camera, frame):
                seen[camera].append(frame)
    return seen


def told(budget: DetectBudget, milliseconds: float, calls: int = 40) -> DetectBudget:
    for _ in range(calls):
        budget.measure(4 * milliseconds / 1000, 4)
    return budget


def test_a_number_given_is_kept_to_whatever_it_costs() -> None:
    budget = told(DetectBudget(3, {"gate": 10.0}), 900.0)
    assert looks(budget, ["gate"], 10) == {"gate": [0, 3, 6, 9]}
    assert budget.every == {"gate": 3}
    assert budget.overloaded


def test_one_looks_at_every_frame() -> None:
    assert looks(DetectBudget(1, FOUR), list(FOUR), 3) == {camera: [0, 1, 2] for camera in FOUR}


def test_every_camera_is_looked_at_first_and_then_they_take_turns() -> None:
    seen = looks(DetectBudget(2, FOUR), list(FOUR), 9)
    assert all(frames[0] == 0 for frames in seen.values())
    after = [sum(frame in frames for frames in seen.values()) for frame in range(1, 9)]
    assert after == [2] * 8
    assert seen["gate"] == [0, 2, 4, 6, 8]
    assert seen["yard"] == [0, 1, 3, 5, 7]


def test_frames_that_were_dropped_count_so_that_a_starved_camera_is_not_looked_at_less() -> None:
    budget = told(DetectBudget(None, FOUR), 900.0)
    assert budget.every["gate"] == 4
    handed = range(0, 70, 7)
    assert [frame for frame in handed if budget.due("gate", frame)] == list(handed)
    # A look in each four frames of the source, whichever of them came.
    assert [f for f in (70, 72, 73, 75, 76, 79, 80, 83, 87) if budget.due("gate", f)] == [
        *(70, 72, 76, 80, 87)
    ]


def test_until_it_knows_the_cost_it_looks_at_every_frame() -> None:
    budget = DetectBudget(None, FOUR)
    for _ in range(4):
        budget.measure(1.0, 1)
    assert budget.every == dict.fromkeys(FOUR, 1)
    budget.measure(1.0, 1)
    assert budget.every == dict.fromkeys(FOUR, 4)


@pytest.mark.parametrize(
    ("milliseconds", "every"),
    [
        (10, 1),  # 40 looks a second take 0.4 of the time
        (15, 1),  # 0.6: just within
        (20, 2),  # 0.8 would be too much, 20 looks take 0.4
        (40, 3),  # 20 looks take 0.8; 13.3 take 0.53
        (60, 4),  # 10 looks take 0.6
        (200, 4),  # far too slow, but 2.5 looks a second a camera are the least
    ],
)
def test_the_cost_of_a_look_chooses_how_many_frames_are_left_out(
    milliseconds: float, every: int
) -> None:
    budget = told(DetectBudget(None, FOUR), milliseconds)
    assert budget.every == dict.fromkeys(FOUR, every)
    assert budget.overloaded == (milliseconds == 200)
    assert budget.cost == pytest.approx(milliseconds / 1000)
    assert budget.load == pytest.approx(4 * 10 / every * milliseconds / 1000)


def test_a_camera_of_many_frames_a_second_has_more_of_them_left_out() -> None:
    budget = told(DetectBudget(None, {"fast": 30.0, "slow": 5.0}), 40.0)
    # 15 looks a second are allowed: 10 and 5.
    assert budget.every == {"fast": 3, "slow": 1}
    assert budget.load == pytest.approx(0.6)


def test_a_camera_slower_than_the_least_pace_is_looked_at_in_every_frame() -> None:
    assert told(DetectBudget(None, {"slow": 2.0}), 900.0).every == {"slow": 1}


def test_a_cost_about_the_bound_does_not_make_the_pace_flap() -> None:
    budget = told(DetectBudget(None, FOUR), 16.0)
    assert budget.every["gate"] == 2
    changes = 0
    for step in range(400):
        before = dict(budget.every)
        budget.measure(0.0145 if step // 20 % 2 else 0.0155, 1)
        changes += budget.every != before
    assert changes == 0, "0.58 of the time is within the share, but not by a margin"
    told(budget, 11.0)
    assert budget.every["gate"] == 1


def test_one_slow_call_changes_nothing() -> None:
    budget = told(DetectBudget(None, FOUR), 10.0)
    for _ in range(5):
        budget.measure(3.0, 1)
        told(budget, 10.0, 6)
        assert budget.every == dict.fromkeys(FOUR, 1)


def test_a_lost_camera_costs_nothing_and_the_others_get_its_share() -> None:
    budget = told(DetectBudget(None, FOUR), 20.0)
    assert budget.every["gate"] == 2
    for camera in ("door", "lane"):
        budget.set_rate(camera, 0.0)
    assert budget.load == pytest.approx(10 * 0.020)
    told(budget, 20.0)
    assert budget.every["gate"] == 1, "20 looks a second take 0.4, and 0.6 x 0.8 is the margin"
    for camera in ("door", "lane"):
        budget.set_rate(camera, 10.0)
    told(budget, 20.0)
    assert budget.every == dict.fromkeys(FOUR, 2)


def test_measurements_that_cannot_be_are_left_out() -> None:
    budget = DetectBudget(None, FOUR)
    for seconds, frames in ((float("nan"), 1), (-1.0, 1), (float("inf"), 1), (1.0, 0)):
        budget.measure(seconds, frames)
    assert budget.cost == 0.0


@settings(max_examples=30, deadline=None)
@given(
    rates=st.lists(st.floats(0.5, 60.0), min_size=1, max_size=6),
    milliseconds=st.floats(0.1, 500.0),
)
def test_the_share_is_kept_wherever_the_least_pace_allows_it(
    rates: list[float], milliseconds: float
) -> None:
    options = BudgetOptions(max_every=60)
    cameras = {str(number): rate for number, rate in enumerate(rates)}
    budget = told(DetectBudget(None, cameras, options), milliseconds)
    assert budget.load <= options.share + 1e-9 or budget.overloaded
    for camera, rate in cameras.items():
        assert rate / budget.every[camera] >= min(options.min_looks, rate) - 1e-9
    seen = looks(budget, list(cameras), 130)
    for camera, frames in seen.items():
        assert len(frames) >= 130 // budget.every[camera]


@pytest.mark.parametrize("every", [0, -1])
def test_a_number_below_one_is_refused(every: int) -> None:
    with pytest.raises(OptionError, match="--detect-every must be at least 1"):
        DetectBudget(every, FOUR)


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_a_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(OptionError, match="rate of gate"):
        DetectBudget(None, {"gate": rate})


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 0.0},
        {"share": 1.1},
        {"slack": float("nan")},
        {"min_looks": 0.0},
        {"max_every": 0},
        {"hold": 0},
        {"window": 0},
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        BudgetOptions(**wrong)  # type: ignore[arg-type]
