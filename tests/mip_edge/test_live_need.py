from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.errors import OptionError
from mip_edge.live.need import NeedOptions, NeedPlanner, Offer
from mip_edge.spec import Modality

VISIBLE, INFRARED = Modality.VISIBLE, Modality.INFRARED


def seen(
    track: int,
    time: float = 0.0,
    quality: float = 0.8,
    *,
    modality: Modality = VISIBLE,
    camera: str = "gate",
    row: int = 0,
) -> Offer:
    return Offer((camera, track), modality, row, quality, time)


def embed(planner: NeedPlanner, *offers: Offer, unsure: tuple[int, ...] = ()) -> list[int]:
    """Plan, embed what was chosen; gives the tracks."""
    chosen = planner.plan(offers, unsure={("gate", track) for track in unsure})
    planner.done(chosen)
    return [offer.key[1] for offer in chosen]


def times_embedded(options: NeedOptions, qualities: list[float], rate: float = 10.0) -> list[float]:
    planner = NeedPlanner(options)
    return [
        step / rate
        for step, quality in enumerate(qualities)
        if embed(planner, seen(1, step / rate, quality))
    ]


def test_a_track_is_embedded_when_new_and_again_when_that_is_old() -> None:
    assert times_embedded(NeedOptions(max_age=2.0), [0.8] * 61) == [0.0, 2.0, 4.0, 6.0]


def test_only_a_clearly_better_crop_is_embedded_before_that() -> None:
    options = NeedOptions(max_age=100.0, better=1.25, per_track_gap=0.2)
    # 0.62 is not 1.25 x 0.5; 0.64 is, and then 0.8 = 1.25 x 0.64 comes within the gap.
    qualities = [0.5, 0.6, 0.62, 0.64, 0.8, 0.8, 0.8]
    assert times_embedded(options, qualities) == [0.0, 0.3, 0.5]


def test_an_unsure_track_is_embedded_as_often_as_the_gap_allows() -> None:
    planner = NeedPlanner(NeedOptions(per_track_gap=0.2))
    chosen = [embed(planner, seen(1, step / 10), unsure=(1,)) for step in range(6)]
    assert chosen == [[1], [], [1], [], [1], []]


def test_a_camera_that_switches_its_light_has_its_tracks_embedded_in_it_at_once() -> None:
    planner = NeedPlanner(NeedOptions())
    assert embed(planner, seen(1)) == [1]
    assert embed(planner, seen(1, 0.1, 0.5, modality=INFRARED)) == [1]
    assert embed(planner, seen(1, 0.2, 0.5, modality=INFRARED)) == []
    assert embed(planner, seen(1, 0.3, modality=VISIBLE)) == [], "that of before is still held"


def test_needs_stand_in_their_order_and_quality_decides_between_equals() -> None:
    planner = NeedPlanner(NeedOptions(max_age=2.0, batch=9))
    embed(planner, *(seen(track, 0.0, 0.5) for track in (1, 2, 3, 4, 8)))
    embed(planner, seen(8, 0.0, 0.5, modality=INFRARED))
    now = [
        seen(1, 1.0, 0.9),  # better
        seen(2, 2.5, 0.4),  # old
        seen(3, 1.0, 0.4),  # unsure
        seen(4, 1.0, 0.4, modality=INFRARED),  # its camera switched
        seen(5, 1.0, 0.6),  # new
        seen(6, 1.0, 0.7),  # new, and better than 5
        seen(8, 1.0, 0.5),  # nothing
    ]
    assert embed(planner, *now, unsure=(3,)) == [6, 5, 3, 4, 2, 1]


def test_a_batch_is_bounded_for_each_light_and_the_rest_waits() -> None:
    planner = NeedPlanner(NeedOptions(batch=2))
    crowd = [seen(track, 0.0, 0.5 + track / 100) for track in range(1, 6)]
    dark = [seen(track, 0.0, modality=INFRARED, camera="yard") for track in (1, 2, 3)]
    chosen = planner.plan([*crowd, *dark])
    assert Counter(offer.modality for offer in chosen) == {VISIBLE: 2, INFRARED: 2}
    assert [c.key[1] for c in chosen if c.modality is VISIBLE] == [5, 4]
    assert (planner.counts.waiting, planner.by_camera["gate"].waiting) == (4, 3)
    planner.done(chosen)
    assert embed(planner, *(seen(track, 0.1, 0.5) for track in range(1, 6))) == [1, 2]
    assert planner.by_camera["gate"].waiting == 1


def test_what_was_planned_but_not_embedded_stays_wanted() -> None:
    planner = NeedPlanner(NeedOptions())
    assert planner.plan([seen(1)])
    assert planner.plan([seen(1, 0.1)]), "the first call failed"
    assert planner.counts.done == 0


def test_poor_crops_are_taken_only_after_patience_and_unusable_ones_never() -> None:
    options = NeedOptions(min_quality=0.35, patience=3, max_age=0.2, per_track_gap=0.0)
    assert times_embedded(options, [0.2] * 6) == [0.3, 0.5]
    assert times_embedded(options, [0.0] * 30) == []
    # One good crop begins the count anew.
    assert times_embedded(options, [0.2, 0.2, 0.2, 0.5, 0.2, 0.2, 0.2, 0.2]) == [0.3, 0.7]


def test_counts_are_what_embedding_all_would_have_done_and_what_was_done() -> None:
    planner = NeedPlanner(NeedOptions(max_age=1.0))
    for step in range(20):
        embed(
            planner,
            seen(1, step / 10),
            seen(2, step / 10, 0.0),
            seen(1, step / 10, camera="yard"),
        )
    gate = planner.by_camera["gate"]
    assert (gate.asked, gate.done, gate.saved) == (20, 2, 18), "unusable ones are not asked for"
    assert (planner.counts.asked, planner.counts.done, planner.counts.saved) == (40, 4, 36)


def test_of_two_frames_of_one_camera_in_a_tick_the_better_crop_is_embedded() -> None:
    planner = NeedPlanner(NeedOptions())
    chosen = planner.plan([seen(1, 0.0, 0.5, row=3), seen(1, 0.1, 0.9, row=4)])
    assert [offer.row for offer in chosen] == [4]
    assert planner.counts.asked == 2


def test_a_clock_that_jumps_back_neither_stops_nor_hastens_embedding() -> None:
    planner = NeedPlanner(NeedOptions(max_age=2.0))
    times = [1000 + step / 10 for step in range(10)] + [step / 10 for step in range(31)]
    embedded = [time for time in times if embed(planner, seen(1, time))]
    # 0.9 s old when the clock jumps: 2 s old after 1.1 s more.
    assert embedded == [1000.0, 1.1]


def test_a_hundred_thousand_short_tracks_leave_nothing() -> None:
    planner = NeedPlanner(NeedOptions(batch=1))
    for first in range(0, 100_000, 10):
        people = [seen(track, first / 100) for track in range(first, first + 10)]
        planner.done(planner.plan(people))
        assert planner.tracks == 10
        for one in people:
            planner.end(one.key)
    planner.done([seen(7)])
    planner.end(("gate", 100_001))
    assert planner.tracks == 0
    assert list(planner.by_camera) == ["gate"]


@settings(max_examples=40, deadline=None)
@given(
    people=st.integers(1, 12),
    batch=st.integers(1, 4),
    qualities=st.lists(st.floats(0.4, 1.0), min_size=12, max_size=12),
    unsure=st.sets(st.integers(0, 11), max_size=4),
)
def test_nobody_starves_however_many_want_more(
    people: int, batch: int, qualities: list[float], unsure: set[int]
) -> None:
    planner = NeedPlanner(NeedOptions(batch=batch, max_age=0.5, per_track_gap=0.0, waits=0.5))
    last = dict.fromkeys(range(people), 0.0)
    longest = 0.0
    for step in range(200):
        now = step / 10
        offers = [seen(track, now, qualities[track]) for track in range(people)]
        chosen = planner.plan(offers, unsure={("gate", track) for track in unsure})
        planner.done(chosen)
        assert len(chosen) <= batch
        for offer in chosen:
            last[offer.key[1]] = now
        longest = max(longest, *(now - time for time in last.values()))
    # Old after 0.5 s, at most three levels of 0.5 s behind the unsure, then all in turn.
    assert longest <= 0.5 + 3 * 0.5 + 2 * math.ceil(people / batch) / 10 + 0.5


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"max_age": -1.0}, "--embed-every"),
        ({"max_age": float("nan")}, "--embed-every"),
        ({"better": 0.9}, "better"),
        ({"patience": 0}, "patience"),
        ({"per_track_gap": -0.1}, "per_track_gap"),
        ({"batch": 0}, "--embed-batch"),
        ({"waits": 0.0}, "waits"),
        ({"min_quality": -0.1}, "min_quality"),
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        NeedOptions(**wrong)  # type: ignore[arg-type]
