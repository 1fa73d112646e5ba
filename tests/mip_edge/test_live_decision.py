from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mip_edge.errors import OptionError
from mip_edge.gallery.base import IdentityMatch
from mip_edge.live.decision import Candidate, Verdict, candidates_of, decide
from mip_edge.live.travel import Travel, Whereabouts
from mip_edge.live.twins import Twins
from mip_edge.spec import Modality
from mip_edge.thresholds import ModalityPair, Thresholds

VISIBLE, INFRARED = Modality.VISIBLE, Modality.INFRARED
THRESHOLDS = Thresholds(
    {
        ModalityPair.VISIBLE_VISIBLE: 0.75,
        ModalityPair.INFRARED_INFRARED: 0.625,
        ModalityPair.VISIBLE_INFRARED: 0.5,
    }
)


def match(identity: int, similarity: float, modality: Modality) -> IdentityMatch:
    return IdentityMatch(identity, similarity, "gate", modality, 0.0)


def candidate(surplus: float, identity: int = 1) -> Candidate:
    return Candidate(identity, 0.5 + surplus, ModalityPair.VISIBLE_INFRARED, 0.5)


def test_the_pair_that_speaks_most_for_an_identity_is_the_one_it_stands_by() -> None:
    matches = [match(1, 0.7, VISIBLE), match(1, 0.65, INFRARED), match(2, 0.8, VISIBLE)]
    found = candidates_of(matches, VISIBLE, THRESHOLDS)
    assert [(one.identity, one.pair, one.threshold) for one in found] == [
        (1, ModalityPair.VISIBLE_INFRARED, 0.5),
        (2, ModalityPair.VISIBLE_VISIBLE, 0.75),
    ]
    assert [one.surplus for one in found] == pytest.approx([0.15, 0.05])


def test_an_infrared_query_is_judged_by_infrared_thresholds() -> None:
    found = candidates_of([match(1, 0.6, INFRARED), match(2, 0.6, VISIBLE)], INFRARED, THRESHOLDS)
    assert [(one.identity, round(one.surplus, 3)) for one in found] == [(2, 0.1), (1, -0.025)]


def test_who_is_excluded_is_no_candidate() -> None:
    found = candidates_of([match(1, 0.9, VISIBLE)], VISIBLE, THRESHOLDS, excluded={1})
    assert found == []


@pytest.mark.parametrize(
    ("surpluses", "final", "verdict"),
    [
        ((), False, Verdict.NEW),
        ((0.25,), False, Verdict.MATCHED),
        ((0.0625,), False, Verdict.MATCHED),
        ((0.03125,), False, Verdict.UNCERTAIN),
        ((0.0,), True, Verdict.MATCHED),
        ((0.25, 0.125), False, Verdict.MATCHED),
        ((0.25, 0.25), False, Verdict.UNCERTAIN),
        ((0.25, 0.25), True, Verdict.MATCHED),
        ((-0.03125,), False, Verdict.UNCERTAIN),
        ((-0.03125,), True, Verdict.NEW),
        ((-0.25,), False, Verdict.NEW),
    ],
)
def test_verdicts_by_hand(surpluses: tuple[float, ...], final: bool, verdict: Verdict) -> None:
    candidates = [candidate(surplus, place) for place, surplus in enumerate(surpluses)]
    decision = decide(candidates, margin=0.0625, final=final)
    assert decision.verdict is verdict
    assert bool(decision.reason) is (verdict is Verdict.UNCERTAIN)


@pytest.mark.parametrize(
    ("surpluses", "verdict"),
    [
        ((), Verdict.UNCERTAIN),
        ((-0.25,), Verdict.UNCERTAIN),
        ((0.125,), Verdict.UNCERTAIN),
        ((0.1875,), Verdict.MATCHED),
        ((0.25, 0.125), Verdict.UNCERTAIN),
        ((0.25, 0.0625), Verdict.MATCHED),
    ],
)
def test_with_too_few_crops_only_the_sure_are_matched_and_nobody_is_new(
    surpluses: tuple[float, ...], verdict: Verdict
) -> None:
    candidates = [candidate(surplus, place) for place, surplus in enumerate(surpluses)]
    assert decide(candidates, margin=0.0625, final=False, more=0.125).verdict is verdict
    assert decide(candidates, margin=0.0625, final=True, more=0.125).verdict is (
        Verdict.MATCHED if surpluses and surpluses[0] >= 0 else Verdict.NEW
    )


@given(
    surpluses=st.lists(st.floats(-1.0, 1.0), max_size=5),
    margin=st.floats(0.0, 0.5),
)
def test_a_final_decision_is_never_uncertain_and_only_who_is_above_is_matched(
    surpluses: list[float], margin: float
) -> None:
    candidates = [candidate(s, place) for place, s in enumerate(sorted(surpluses, reverse=True))]
    final = decide(candidates, margin=margin, final=True)
    assert final.verdict is not Verdict.UNCERTAIN
    assert (final.verdict is Verdict.MATCHED) == (
        bool(candidates) and candidates[0].surplus >= 0 and candidates[0].surplus >= -margin
    )
    patient = decide(candidates, margin=margin, final=False)
    assert patient.verdict in (final.verdict, Verdict.UNCERTAIN)


def test_nobody_is_at_the_next_camera_sooner_or_later_than_the_way_takes() -> None:
    where = Whereabouts([Travel("gate", "yard", 3.0, 10.0)])
    where.see(7, "gate", 100.0)
    assert [where.possible(7, "yard", time) for time in (102.0, 103.0, 110.0, 111.0)] == [
        False,
        True,
        True,
        False,
    ]
    assert where.possible(7, "hall", 100.5), "no window was given for this way"
    assert where.possible(8, "yard", 100.5), "never seen"
    where.see(7, "hall", 105.0)
    assert where.possible(7, "yard", 105.5), "hall is where he was last, and has no window"


def test_the_way_back_takes_as_long_unless_it_is_given_by_itself() -> None:
    there, back = Travel("gate", "yard", 3.0, 10.0), Travel("yard", "gate", 0.0, 1.0)
    for travels, possible in (([there], False), ([there, back], True), ([back, there], True)):
        where = Whereabouts(travels)
        where.see(7, "yard", 100.0)
        assert where.possible(7, "gate", 100.5) is possible


def test_whereabouts_follow_a_merge_and_are_forgotten() -> None:
    where = Whereabouts([Travel("gate", "yard", 3.0)])
    where.see(1, "hall", 1.0)
    where.see(2, "gate", 5.0)
    where.merge(2, into=1)
    assert not where.possible(1, "yard", 6.0)
    where.forget([1])
    assert where.possible(1, "yard", 6.0)


@pytest.mark.parametrize(("least", "most"), [(-1.0, 2.0), (5.0, 4.0), (float("nan"), 4.0)])
def test_a_way_that_cannot_be_is_refused(least: float, most: float) -> None:
    with pytest.raises(OptionError, match="travel from gate to yard"):
        Travel("gate", "yard", least, most)


def test_two_are_one_when_enough_looks_in_a_row_say_so() -> None:
    twins = Twins(patience=2)
    assert not twins.agree(1, 2)
    twins.differ(2, 1)
    assert not twins.agree(1, 2)
    assert twins.agree(2, 1)


def test_who_was_seen_with_another_is_never_that_other_nor_whoever_that_other_becomes() -> None:
    twins = Twins(patience=1)
    twins.see_together([1, 2])
    assert not twins.agree(2, 1)
    twins.merge(2, into=3)
    assert twins.apart(1, 3)
    assert twins.apart(1, 2), "and if that merge is undone"
    twins.forget([1])
    assert not twins.apart(1, 3)
    assert not twins.apart(3, 1)


def test_who_comes_as_two_after_a_merge_was_taken_apart_and_stays_so() -> None:
    twins = Twins(patience=1)
    twins.merge(2, into=1)
    assert not twins.agree(1, 2)
    assert not twins.agree(2, 1)
    twins.take_apart(2, 1)
    assert twins.apart(1, 2)
    assert twins.forget([1]) == {1}, "2 is somebody again"
    assert len(twins) == 0


def test_who_is_forgotten_takes_along_who_was_merged_into_him() -> None:
    twins = Twins(patience=2)
    twins.see_together([1, 2, 3])
    twins.see_together([4, 1])
    twins.merge(2, into=4)
    twins.merge(4, into=5)
    twins.agree(5, 6)
    assert twins.forget([5]) == {2, 4, 5}
    assert not any(twins.apart(1, other) for other in (2, 4, 5))
    assert twins.apart(1, 3)
    assert twins.forget([1, 3]) == {1, 3}
    assert len(twins) == 0, "nothing is kept"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["see", "merge", "part", "forget", "agree"]), *[st.integers(0, 7)] * 2
        ),
        max_size=40,
    )
)
def test_twins_are_symmetric_and_keep_nothing_of_who_is_forgotten(
    moves: list[tuple[str, int, int]],
) -> None:
    twins, gone = Twins(patience=2), set[int]()
    for move, one, other in moves:
        if one == other or gone & {one, other}:
            continue
        if move == "see":
            twins.see_together([one, other])
        elif move == "merge" and not twins.apart(one, other):
            twins.merge(one, into=other)
        elif move == "part":
            twins.take_apart(one, other)
            assert twins.apart(one, other)
        elif move == "agree":
            assert not (twins.agree(one, other) and twins.apart(one, other))
        elif move == "forget":
            gone |= twins.forget([one])
        for a in range(8):
            for b in range(8):
                assert twins.apart(a, b) == twins.apart(b, a)
                assert not (twins.apart(a, b) and gone & {a, b})
    twins.forget(range(8))
    assert len(twins) == 0


@pytest.mark.parametrize("similarity", [1.5, float("nan")])
def test_a_threshold_that_is_no_cosine_is_refused(similarity: float) -> None:
    with pytest.raises(OptionError, match=r"visible-visible must be in \[-1, 1\]"):
        Thresholds.uniform(similarity)


def test_thresholds_name_the_pair_that_is_missing() -> None:
    with pytest.raises(OptionError, match="infrared-infrared"):
        Thresholds({ModalityPair.VISIBLE_VISIBLE: 0.5, ModalityPair.VISIBLE_INFRARED: 0.5})
