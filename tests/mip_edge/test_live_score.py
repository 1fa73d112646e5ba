"""Scores of a live run on tiny worlds, worked by hand; two frames a second unless said."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from mip_edge.errors import ImageError, OptionError, SourceError
from mip_edge.live.score import TruthScore, WorldScore
from mip_edge.live.score_identity import Handovers, IdentityCounts, TimeToIdentify
from mip_edge.live.score_passage import ScoreLimits
from mip_edge.live.score_truth import (
    CameraTruth,
    TrueFrame,
    TruePerson,
    find_truths,
    read_frames,
)
from mip_edge.spec import Modality
from mip_edge.synthetic.footage import FilmOptions, write_film

V, IR = Modality.VISIBLE, Modality.INFRARED
RATE = 2.0
LEFT = (0.0, 0.0, 40.0, 100.0)
RIGHT = (100.0, 0.0, 140.0, 100.0)
AWAY = (300.0, 0.0, 340.0, 100.0)
Row = tuple[tuple[float, ...], int, int | None]
"""Box, track, identity."""


def person(
    identity: int, box: tuple[float, float, float, float] = LEFT, visible: float = 1.0
) -> TruePerson:
    return TruePerson(identity, box, box, visible)


def camera(
    frames: Iterable[Sequence[TruePerson]], lights: Sequence[Modality | None] | Modality = V
) -> CameraTruth:
    people = list(frames)
    each = (
        lights
        if isinstance(lights, Sequence) and not isinstance(lights, str)
        else ([lights] * len(people))
    )
    return CameraTruth(
        [
            TrueFrame(i, light, tuple(p))
            for i, (p, light) in enumerate(zip(people, each, strict=True))
        ]
    )


def see(score: TruthScore, name: str, frame: int, rows: Sequence[Row]) -> None:
    boxes = np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4)
    tracks, identities = [track for _, track, _ in rows], [identity for _, _, identity in rows]
    score.see(name, frame, frame / RATE, boxes, tracks, identities)


def play(
    truths: Mapping[str, CameraTruth], seen: Mapping[str, Mapping[int, Sequence[Row]]]
) -> WorldScore:
    score = TruthScore(truths)
    for name, frames in seen.items():
        for frame, rows in frames.items():
            see(score, name, frame, rows)
    return score.result()


def given(*identities: int | None, start: int = 0) -> dict[int, list[Row]]:
    """One person at LEFT under track 1 with these identities, frame after frame."""
    return {start + place: [(LEFT, 1, one)] for place, one in enumerate(identities)}


def present(first: int, last: int, frames: int, identity: int = 7) -> list[list[TruePerson]]:
    """One person at LEFT from frame `first` to `last`."""
    return [[person(identity)] if first <= i <= last else [] for i in range(frames)]


# -- detection and tracking --------------------------------------------------------------------


def test_a_missed_and_a_false_box_cost_mota_half() -> None:
    truths = {"gate": camera([[person(1), person(2, RIGHT)]] * 2)}
    seen = {"gate": {0: [(LEFT, 1, 1), (RIGHT, 2, 2)], 1: [(LEFT, 1, 1), (AWAY, 2, 2)]}}
    score = play(truths, seen).tracking
    # 4 true boxes, 3 found, 1 missed, 1 false: (3 - 1) / 4
    assert score.mota == 1 / 2
    assert (score.true_boxes, score.boxes) == (4, 4)
    # DetA 3 / (3 + 1 + 1)
    assert score.detection == pytest.approx(3 / 5)


def test_a_passage_that_breaks_in_the_middle_has_half_of_its_association() -> None:
    seen = {"gate": {i: [(LEFT, 1 if i < 2 else 2, 5)] for i in range(4)}}
    score = play({"gate": camera([[person(1)]] * 4)}, seen).cameras["gate"]
    # each track shares 2 frames with a passage of 4: 2 / (2 + 4 - 2) = 1/2, HOTA = sqrt(1 * 1/2)
    assert score.association == pytest.approx(1 / 2)
    assert score.hota == pytest.approx(sqrt(1 / 2))
    # 2 of 4 right, 2 missed, 2 false
    assert score.idf1 == 1 / 2
    assert (score.id_switches, score.mota) == (1, 3 / 4)


def test_two_passages_with_a_long_gap_may_be_two_tracks() -> None:
    frames = [[person(1)]] * 4 + [[]] * 5 + [[person(1)]] * 4
    seen = {"gate": {i: [(LEFT, 1 if i < 5 else 2, 5)] for i in (0, 1, 2, 3, 9, 10, 11, 12)}}
    seen["gate"] |= {i: [] for i in range(4, 9)}
    seen = {"gate": dict(sorted(seen["gate"].items()))}
    score = play({"gate": camera(frames)}, seen).cameras["gate"]
    assert (score.hota, score.idf1, score.mota) == (1, 1, 1)


def test_who_is_hidden_or_small_is_neither_asked_for_nor_a_fault() -> None:
    small = (200.0, 0.0, 215.0, 39.0)
    people = [person(1), person(2, RIGHT, visible=0.2), person(3, small)]
    rows: list[Row] = [(LEFT, 1, 1), (RIGHT, 2, 2), (small, 3, 3), (AWAY, 4, 4)]
    score = play({"gate": camera([people])}, {"gate": {0: rows}})
    assert (score.tracking.true_boxes, score.tracking.boxes) == (1, 2)
    assert score.tracking.mota == 0  # one found, one false box of one
    assert score.counts.people == 0  # one frame of half a second asks for no identity
    nothing = play({"gate": camera([people])}, {"gate": {0: [(LEFT, 1, 1)]}})
    assert nothing.tracking.mota == 1


def test_a_box_around_a_half_hidden_figure_is_no_fault_either() -> None:
    hidden = TruePerson(2, (100.0, 0.0, 105.0, 100.0), RIGHT, 0.1)
    score = play({"gate": camera([[hidden]])}, {"gate": {0: [(RIGHT, 1, 1)]}})
    assert score.tracking.boxes == 0
    assert score.tracking.hota is None


def test_dropped_frames_are_told_and_not_scored() -> None:
    truths = {"gate": camera([[person(1)]] * 10)}
    score = play(truths, {"gate": {i: [(LEFT, 1, 1)] for i in (0, 4, 5)}}).cameras["gate"]
    assert (score.frames, score.dropped, score.untold) == (3, 3, 0)
    assert score.hota == 1


def test_frames_beyond_the_truth_are_told() -> None:
    score = play({"gate": camera([[person(1)]] * 2)}, {"gate": given(1, 1, 1, 1)})
    assert (score.cameras["gate"].frames, score.cameras["gate"].untold) == (2, 2)


def test_a_camera_that_saw_nothing_of_nobody_has_no_score() -> None:
    score = play({"gate": camera([[]] * 3)}, {"gate": {0: [], 1: [], 2: []}})
    tracking = score.cameras["gate"]
    assert (tracking.hota, tracking.idf1, tracking.mota) == (None, None, None)
    assert score.identity.f1 is None
    assert score.identify.median is None
    assert "gate" in score.table()


# -- identities over all cameras ---------------------------------------------------------------


def test_two_identities_of_one_person_in_two_cameras_are_half_right_until_merged() -> None:
    truths = {"gate": camera(present(0, 3, 8)), "yard": camera(present(4, 7, 8))}
    score = TruthScore(truths)
    for name, frames in (("gate", given(1, 1, 1, 1)), ("yard", given(2, 2, 2, 2, start=4))):
        for frame, rows in frames.items():
            see(score, name, frame, rows)
    score.merged(3, 1)
    score.merged(2, 3)
    result = score.result()
    # the best of the two has 4 of 8 true boxes, and 4 of 8 boxes
    assert (result.identity.precision, result.identity.recall) == (1 / 2, 1 / 2)
    assert result.identity.f1 == 1 / 2
    assert result.identity_after_merges.f1 == 1
    assert result.counts == IdentityCounts(people=1, identities=2, merged=0, split=1)
    score.unmerged(2)
    assert score.result().identity_after_merges.f1 == 1 / 2


def test_one_identity_for_two_people_is_merged() -> None:
    truths = {"gate": camera([[person(1), person(2, RIGHT)]] * 4)}
    result = play(truths, {"gate": {i: [(LEFT, 1, 5), (RIGHT, 2, 5)] for i in range(4)}})
    assert result.counts == IdentityCounts(people=2, identities=1, merged=1, split=0)
    assert (result.identity.precision, result.identity.recall) == (1 / 2, 1 / 2)


def test_boxes_without_an_identity_cost_recall_and_no_precision() -> None:
    result = play({"gate": camera([[person(1)]] * 4)}, {"gate": given(None, 3, 3, 3)})
    assert (result.identity.precision, result.identity.recall) == (1, 3 / 4)
    assert result.identity.f1 == pytest.approx(6 / 7)


# -- hand-overs --------------------------------------------------------------------------------


def handover(
    second: int | None, light: Modality, *, other: int | None = None
) -> dict[str, Handovers]:
    """Person 7 is 1 at the gate; then at the yard in `light` as `second`. With `other`, person 8
    was seen first, under that identity."""
    truths = {
        "door": camera(present(0, 3, 20, identity=8)),
        "gate": camera(present(4, 7, 20)),
        "yard": camera(present(12, 15, 20), light),
    }
    seen = {"gate": given(1, 1, 1, 1, start=4), "yard": given(*[second] * 4, start=12)}
    if other is not None:
        seen["door"] = given(*[other] * 4)
    return play(truths, seen).handovers


@pytest.mark.parametrize(("light", "kind"), [(V, "camera"), (IR, "modality")])
def test_a_handover_is_right_wrong_or_missed(light: Modality, kind: str) -> None:
    assert handover(1, light)[kind] == Handovers(right=1)
    assert handover(9, light, other=9)[kind] == Handovers(wrong=1)
    assert handover(2, light)[kind] == Handovers(missed=1)
    assert handover(None, light)[kind] == Handovers(missed=1)
    other = "modality" if kind == "camera" else "camera"
    assert handover(1, light)[other].total == 0


def test_an_identity_that_somebody_had_first_is_wrong_for_a_first_comer_too() -> None:
    told = handover(1, V, other=1)
    assert told["first"] == Handovers(right=1, wrong=1)
    assert told["camera"] == Handovers(wrong=1)


def test_a_switch_in_view_keeps_the_identity_or_loses_it() -> None:
    truths = {"gate": camera([[person(7)]] * 8, [V] * 4 + [IR] * 4)}
    kept = play(truths, {"gate": given(*[1] * 8)})
    assert kept.handovers["switch"] == Handovers(right=1)
    lost = play(truths, {"gate": given(1, 1, 1, 1, 2, 2, 2, 2)})
    assert lost.handovers["switch"] == Handovers(missed=1)
    assert lost.tracking.hota == 1  # the track itself went on
    assert lost.identify.passages == 1


def test_who_comes_back_to_the_same_camera_is_a_return() -> None:
    truths = {"gate": camera(present(0, 3, 8)[:4] + [[]] * 5 + present(0, 3, 4))}
    seen = {"gate": given(1, 1, 1, 1) | {i: [] for i in range(4, 9)} | given(*[1] * 4, start=9)}
    assert play(truths, seen).handovers["return"] == Handovers(right=1)


def test_overlapping_cameras_hand_over_at_the_second_beginning() -> None:
    truths = {"gate": camera(present(0, 7, 8)), "yard": camera(present(4, 7, 8), IR)}
    seen = {"gate": given(*[1] * 8), "yard": given(None, 1, 1, 1, start=4)}
    assert play(truths, seen).handovers["modality"] == Handovers(right=1)


def test_a_short_stay_is_no_handover_but_told() -> None:
    truths = {"gate": camera(present(0, 3, 9)), "yard": camera(present(8, 8, 9))}
    result = play(truths, {"gate": given(1, 1, 1, 1), "yard": given(2, start=8)})
    assert result.handovers["camera"].total == 0
    assert result.short_stays == 1


# -- time to identify --------------------------------------------------------------------------


def test_the_time_to_identify_counts_from_the_first_frame_that_was_there() -> None:
    truths = {
        "gate": camera(present(0, 5, 6)),
        "yard": camera(present(2, 7, 8)),
        "dock": camera(present(20, 25, 26)),
    }
    seen = {
        "gate": given(None, None, 1, 1, 1, 1),  # after 1 s
        # frames 2 and 3 were dropped; 9 is not his, 1 comes with frame 6, after 2 s
        "yard": {0: [], **given(9, 9, 1, 1, start=4)},
        "dock": {0: [], **given(*[2] * 6, start=20)},  # a new one: never
    }
    identify = play(truths, seen).identify
    assert identify == TimeToIdentify(
        passages=3, median=3 / 2, p95=pytest.approx(1.95), never=1 / 3
    )


# -- light -------------------------------------------------------------------------------------


def test_wrong_lights_are_counted_and_the_delay_of_a_switch_measured() -> None:
    truths = {"gate": camera([[]] * 8, [V] * 4 + [IR] * 4), "yard": camera([[]] * 8, IR)}
    score = TruthScore(truths)
    for frame in range(8):
        see(score, "gate", frame, [])
        score.modality("gate", frame, V if frame < 6 else IR)
        see(score, "yard", frame, [])
    light = score.result().modality
    assert set(light) == {"gate"}
    assert (light["gate"].frames, light["gate"].wrong) == (8, 2)
    assert (light["gate"].switches, light["gate"].told_switches) == (1, 1)
    assert light["gate"].delays == (1.0,)


def test_a_switch_that_is_never_told_has_no_delay() -> None:
    score = TruthScore({"gate": camera([[]] * 4, [V, V, IR, IR])})
    score.modality("gate", 0, V)
    for frame in range(4):
        see(score, "gate", frame, [])
    assert score.result().modality["gate"].delays == (None,)
    assert "never" in score.result().table()


# -- a whole film ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "world"
    write_film(folder, FilmOptions(people=8, seconds=24.0, rate=5.0, size=(160, 214)))
    return folder


def feed(world: Path, limits: ScoreLimits, wrong: random.Random | None = None) -> WorldScore:
    """Truth given back as if a run had seen it, identities shuffled in each frame by `wrong`."""
    truths = find_truths(world, ["gate", "court", "yard", "dock"])
    score = TruthScore(truths, limits)
    for name, path in truths.items():
        for frame in read_frames(path):
            assert frame.modality is not None
            score.modality(name, frame.index, frame.modality)
            ids = [one.identity for one in frame.people]
            given_ids = [wrong.randrange(8) for _ in ids] if wrong else ids
            boxes = np.array([one.box for one in frame.people], np.float32).reshape(-1, 4)
            score.see(name, frame.index, frame.index / 5, boxes, ids, given_ids)
    return score.result()


def test_the_truth_itself_scores_one_everywhere(world: Path) -> None:
    score = feed(world, ScoreLimits(min_height=20))
    for tracking in (score.tracking, *score.cameras.values()):
        assert (tracking.hota, tracking.detection, tracking.association) == (1, 1, 1)
        assert (tracking.idf1, tracking.mota, tracking.id_switches) == (1, 1, 0)
        assert (tracking.dropped, tracking.untold) == (0, 0)
    for identity in (score.identity, score.identity_after_merges):
        assert (identity.precision, identity.recall, identity.f1) == (1, 1, 1)
    assert (score.counts.merged, score.counts.split) == (0, 0)
    assert score.counts.people == score.counts.identities >= 4
    for told in score.handovers.values():
        assert (told.wrong, told.missed) == (0, 0)
    assert score.handovers["modality"].right > 0
    assert (score.identify.median, score.identify.p95, score.identify.never) == (0, 0, 0)
    assert [light.wrong for light in score.modality.values()] == [0] * 4
    assert [light.delays for light in score.modality.values()] == [(), (), (0,), (0,)]
    assert json.loads(json.dumps(score.as_dict()))["tracking"]["hota"] == 1


def test_shuffled_identities_do_not_score_one(world: Path) -> None:
    score = feed(world, ScoreLimits(min_height=20), random.Random(1))
    assert score.tracking.hota == 1  # tracks are still the truth
    assert score.identity.f1 is not None
    assert score.identity.f1 < 0.5
    assert sum(told.wrong + told.missed for told in score.handovers.values()) > 0


# -- bad input ---------------------------------------------------------------------------------


def test_what_cannot_be_scored_is_refused() -> None:
    score = TruthScore({"gate": camera([[person(1)]] * 2)})
    with pytest.raises(OptionError, match="no truth of camera 'yard', but of gate"):
        see(score, "yard", 0, [])
    see(score, "gate", 1, [])
    with pytest.raises(OptionError, match="frame 1 came after frame 1"):
        see(score, "gate", 1, [])
    with pytest.raises(OptionError, match="1 boxes, 0 tracks"):
        score.see("gate", 2, 1.0, np.zeros((1, 4), np.float32), [], [])


def test_a_truth_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "gate.truth.jsonl"
    good = '{"frame": 0, "people": [{"identity": 1, "box": [0, 0, 2, 2]}]}\n'
    for bad in ("boxes", "[]", '{"frame": 1, "people": [{"identity": 1, "box": [0, 0]}]}'):
        path.write_text(good + bad + "\n")
        with pytest.raises(ImageError, match=r"gate\.truth\.jsonl, line 2"):
            list(read_frames(path))
    path.write_text(good + good)
    with pytest.raises(ImageError, match="frame 0 comes after frame 0"):
        list(read_frames(path))
    path.write_text(good)
    (frame,) = read_frames(path)  # a truth without light, as the demo writes it
    assert frame == TrueFrame(0, None, (person(1, (0, 0, 2, 2)),))


def test_a_camera_without_truth_is_named_with_those_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no truth at all"):
        find_truths(tmp_path, ["gate"])
    (tmp_path / "yard.truth.jsonl").write_text("")
    with pytest.raises(SourceError, match=r"gate\.truth\.jsonl does not exist.*yard"):
        find_truths(tmp_path, ["yard", "gate"])
