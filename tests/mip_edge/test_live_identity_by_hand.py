"""What a hand corrects in the gallery while people are in view is followed, and holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.errors import GalleryError
from mip_edge.gallery.base import GalleryBounds
from mip_edge.gallery.memory import MemoryGallery
from mip_edge.gallery.sqlite import SqliteGallery, open_gallery
from mip_edge.gallery.stored import StoredGallery
from mip_edge.live.identity import Identifier
from mip_edge.live.outcome import Assignment, IdentityOptions, Merge, Outcome, Sighting
from mip_edge.spec import Embeddings, Modality
from mip_edge.thresholds import ModalityPair, Thresholds
from tests.mip_edge.stage import sightings_of

OPTIONS = IdentityOptions(
    Thresholds.uniform(0.8), min_crops=2, recheck_crops=1, margin=0.05, patience=2
)
VISIBLE = Modality.VISIBLE


def unit(*numbers: float) -> Embeddings:
    vector = np.array(numbers, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


ANNA, BORIS, CARLA = unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 1)


class Scene:
    """A live run, and a hand that corrects its gallery."""

    def __init__(
        self, gallery: StoredGallery, hand: StoredGallery, options: IdentityOptions = OPTIONS
    ) -> None:
        self.gallery, self.hand = gallery, hand
        self.identifier = Identifier(gallery, options, run="run")
        self.time = 0.0

    def step(self, **cameras: dict[int, Embeddings | None]) -> list[Outcome]:
        """{camera: {track: embedding or None}}; what was added is in the file then."""
        self.time += 1.0
        visible, sightings = sightings_of(cameras, self.time)
        outcomes = list(self.identifier.step(visible, sightings, self.time))
        self.gallery.flush()
        return outcomes

    def steps(self, count: int, **cameras: dict[int, Embeddings | None]) -> list[Outcome]:
        return [outcome for _ in range(count) for outcome in self.step(**cameras)]

    def who(self, camera: str, track: int) -> int | None:
        return self.identifier.known((camera, track)).identity

    def owners(self) -> dict[str, int]:
        """Whose each tracklet is, as the hand sees it."""
        return {
            one.tracklet.removeprefix("run/"): record.identity
            for record in self.hand.identities()
            for one in self.hand.tracklets(record.identity)
        }


@pytest.fixture(params=["one gallery", "two connections to one file"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    if request.param == "one gallery":
        gallery = MemoryGallery(fingerprint="model", dimension=3)
        yield Scene(gallery, gallery)
        return
    path = tmp_path / "people.gallery"
    with (
        SqliteGallery.open(path, fingerprint="model", dimension=3) as live,
        open_gallery(path) as hand,
    ):
        yield Scene(live, hand)


def assignments(outcomes: list[Outcome]) -> list[tuple[tuple[str, int], int, int | None]]:
    return [(o.key, o.identity, o.previous) for o in outcomes if isinstance(o, Assignment)]


def test_who_is_split_off_by_hand_while_in_view_stays_split_off(scene: Scene) -> None:
    scene.steps(2, gate={1: ANNA})
    scene.steps(2, gate={1: ANNA}, yard={1: ANNA})
    assert scene.who("yard", 1) == scene.who("gate", 1) == 1
    new = scene.hand.split(1, ["run/yard/1"])
    outcomes = scene.steps(20, gate={1: ANNA}, yard={1: ANNA})
    assert assignments(outcomes) == [(("yard", 1), new, 1)], "told once, and at once"
    assert not [o for o in outcomes if isinstance(o, Merge)], "nor is it merged again"
    assert (scene.who("gate", 1), scene.who("yard", 1)) == (1, new)
    assert scene.owners() == {"gate/1": 1, "yard/1": new}


def test_who_was_split_off_stays_so_when_a_third_track_resembles_both(scene: Scene) -> None:
    scene.steps(4, gate={1: ANNA}, yard={1: ANNA})
    new = scene.hand.split(1, ["run/yard/1"])
    outcomes = scene.steps(30, gate={1: ANNA}, yard={1: ANNA}, hall={1: ANNA}, door={1: ANNA})
    assert not [o for o in outcomes if isinstance(o, Merge)]
    assert scene.owners() | {"gate/1": 1, "yard/1": new} == scene.owners()


def test_a_merge_of_this_run_that_a_hand_undoes_stays_undone(scene: Scene) -> None:
    scene.steps(2, gate={1: ANNA}, yard={1: CARLA})
    outcomes = scene.steps(12, gate={1: ANNA}, yard={1: ANNA})
    (merge,) = [o for o in outcomes if isinstance(o, Merge)]
    assert (merge.identity, merge.into, scene.who("yard", 1)) == (2, 1, 1)
    assert scene.hand.undo_merge(merge.merge) == 2
    outcomes = scene.steps(20, gate={1: ANNA}, yard={1: ANNA})
    assert assignments(outcomes) == [(("yard", 1), 2, 1)]
    assert not [o for o in outcomes if isinstance(o, Merge)]
    assert scene.owners() == {"gate/1": 1, "yard/1": 2}


def test_a_merge_undone_after_both_have_left_is_not_made_again(scene: Scene) -> None:
    scene.steps(2, gate={1: ANNA}, yard={1: CARLA})
    outcomes = scene.steps(12, gate={1: ANNA}, yard={1: ANNA})
    (merge,) = [o for o in outcomes if isinstance(o, Merge)]
    for key in (("gate", 1), ("yard", 1)):
        scene.identifier.end(key)
    scene.gallery.flush()
    scene.hand.undo_merge(merge.merge)
    outcomes = scene.steps(30, hall={1: ANNA})
    assert not [o for o in outcomes if isinstance(o, Merge)]
    assert scene.owners()["yard/1"] == 2


@pytest.mark.parametrize("deed", ["split", "undo"])
def test_no_later_run_merges_whom_a_hand_took_apart(scene: Scene, deed: str) -> None:
    scene.steps(3, gate={1: ANNA}, yard={1: ANNA})
    new = scene.hand.split(1, ["run/yard/1"])
    if deed == "undo":
        scene.hand.undo_merge(scene.hand.merge(new, 1))
    later = Scene(scene.gallery, scene.hand)
    outcomes = later.steps(30, hall={1: ANNA}, cellar={1: ANNA})
    assert not [one for one in outcomes if isinstance(one, Merge)]
    assert {one.identity for one in scene.hand.identities()} == {1, new}


def test_a_merge_by_hand_is_followed_and_told(scene: Scene) -> None:
    scene.steps(3, gate={1: ANNA}, yard={1: BORIS}, hall={1: BORIS})
    assert [scene.who(camera, 1) for camera in ("gate", "yard", "hall")] == [1, 2, 2]
    scene.hand.merge(2, 1)
    assert scene.step(gate={1: None}, yard={1: None}, hall={1: None}) == [], "no crop, no look"
    outcomes = scene.step(gate={1: ANNA}, yard={1: None}, hall={1: None})
    assert assignments(outcomes) == [(("yard", 1), 1, 2), (("hall", 1), 1, 2)], "at the first crop"
    assert all(isinstance(o, Assignment) and o.match is not None for o in outcomes), "he is known"
    assert scene.steps(20, gate={1: ANNA}, yard={1: BORIS}, hall={1: BORIS}) == []
    assert set(scene.owners().values()) == {1}


def test_who_was_seen_with_a_merged_identity_was_seen_with_the_one_it_is_now(
    scene: Scene,
) -> None:
    scene.steps(3, gate={1: ANNA, 2: BORIS}, yard={1: CARLA})
    assert [scene.who("gate", 2), scene.who("yard", 1)] == [2, 3]
    scene.hand.merge(2, 3)
    scene.steps(2, gate={1: ANNA, 2: BORIS}, yard={1: CARLA})
    assert scene.who("gate", 2) == 3
    assert scene.identifier._company.twins.apart(1, 3)


def test_a_merge_by_hand_that_the_hand_undoes_is_undone_here_too(scene: Scene) -> None:
    scene.steps(3, gate={1: ANNA}, yard={1: BORIS})
    number = scene.hand.merge(2, 1)
    scene.steps(3, gate={1: ANNA}, yard={1: BORIS})
    assert scene.who("yard", 1) == 1
    scene.hand.undo_merge(number)
    outcomes = scene.steps(20, gate={1: ANNA}, yard={1: ANNA})
    assert assignments(outcomes) == [(("yard", 1), 2, 1)]
    assert not [o for o in outcomes if isinstance(o, Merge)]
    assert scene.owners() == {"gate/1": 1, "yard/1": 2}


def test_a_tracklet_given_to_somebody_by_hand_stays_his_though_it_is_unlike_him(
    scene: Scene,
) -> None:
    scene.steps(3, gate={1: ANNA}, yard={1: BORIS}, hall={1: BORIS})
    assert scene.who("hall", 1) == 2
    scene.hand.reassign("run/hall/1", 1)
    scene.hand.flush()
    outcomes = scene.steps(20, gate={1: ANNA}, yard={1: BORIS}, hall={1: BORIS})
    assert assignments(outcomes) == [(("hall", 1), 1, 2)]
    assert not [o for o in outcomes if isinstance(o, Merge)]
    assert scene.owners() == {"gate/1": 1, "yard/1": 2, "hall/1": 1}


def test_in_one_frame_whom_a_hand_named_keeps_the_number_and_the_other_gives_way(
    scene: Scene,
) -> None:
    scene.steps(3, gate={1: ANNA, 2: BORIS}, yard={1: BORIS})
    assert (scene.who("gate", 1), scene.who("gate", 2), scene.who("yard", 1)) == (1, 2, 2)
    scene.hand.reassign("run/gate/2", 1)
    scene.hand.flush()
    scene.steps(6, gate={1: ANNA, 2: BORIS}, yard={1: BORIS})
    assert scene.who("gate", 2) == 1
    assert scene.who("gate", 1) not in (None, 1)


def test_who_is_corrected_while_hidden_is_told_when_he_is_seen_again(scene: Scene) -> None:
    scene.steps(3, gate={1: ANNA}, yard={1: ANNA})
    new = scene.hand.split(1, ["run/yard/1"])
    assert scene.step(gate={1: ANNA}, yard={}) == [], "the log tells a box with it"
    assert scene.who("yard", 1) == new
    assert assignments(scene.step(gate={1: ANNA}, yard={1: None})) == [(("yard", 1), new, 1)]


def test_who_leaves_right_after_a_correction_leaves_as_whom_the_hand_named(scene: Scene) -> None:
    options = IdentityOptions(Thresholds.uniform(0.8), min_crops=2, recheck_crops=9)
    scene = Scene(scene.gallery, scene.hand, options)
    scene.steps(3, gate={1: ANNA}, yard={1: ANNA})
    new = scene.hand.split(1, ["run/yard/1"])
    scene.identifier.end(("yard", 1))
    scene.gallery.flush()
    assert scene.owners() == {"gate/1": 1, "yard/1": new}
    assert len(scene.hand.embeddings_of(new)[0]) == 2, "what it showed last is there"


def test_what_the_cap_dropped_is_no_correction() -> None:
    bounds = GalleryBounds(prototypes=1)
    gallery = MemoryGallery(fingerprint="model", dimension=3, bounds=bounds)
    scene = Scene(gallery, gallery)
    scene.steps(2, gate={1: ANNA})
    gallery.add(ANNA, identity=1, camera="x", modality=VISIBLE, time=9.0, tracklet="other")
    assert gallery.identities_of(["run/gate/1"]) == {}
    assert scene.steps(3, gate={1: ANNA}) == []
    assert (scene.who("gate", 1), gallery.identities_of(["run/gate/1"])) == (1, {"run/gate/1": 1})


def test_whom_a_hand_named_and_then_forgot_is_somebody_new(scene: Scene) -> None:
    scene.steps(3, gate={1: ANNA})
    new = scene.hand.split(1, ["run/gate/1"])
    scene.steps(2, gate={1: ANNA})
    assert scene.who("gate", 1) == new
    scene.hand.forget(new)
    scene.steps(3, gate={1: ANNA})
    assert scene.who("gate", 1) not in (None, 1, new)


def test_who_was_forgotten_is_told_with_whom_he_was_held_for_before(scene: Scene) -> None:
    scene.steps(3, gate={1: ANNA}, yard={1: BORIS})
    scene.hand.forget(1)
    ((key, who, previous),) = assignments(scene.steps(3, gate={1: ANNA}, yard={1: BORIS}))
    assert (key, previous) == (("gate", 1), 1)
    assert who == scene.who("gate", 1) != 1


def test_who_is_forgotten_before_his_crop_is_written_is_no_failure_of_the_gallery(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.steps(3, gate={1: ANNA})
    hold, todo = scene.gallery.hold, [lambda: scene.hand.forget(1)]

    def late() -> None:
        if todo:
            todo.pop()()
        hold()

    monkeypatch.setattr(scene.gallery, "hold", late)
    scene.steps(4, gate={1: ANNA})
    assert scene.gallery.failures == 0
    assert scene.who("gate", 1) not in (None, 1)


def test_two_runs_that_merge_the_same_two_at_once_agree(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.steps(2, gate={1: ANNA}, yard={1: CARLA})
    hold, merged = scene.gallery.hold, list[int]()

    def late() -> None:
        if not merged and scene.identifier._company.tracklets["yard", 1].streak >= 2:
            merged.append(scene.hand.merge(2, 1))
        hold()

    monkeypatch.setattr(scene.gallery, "hold", late)
    outcomes = scene.steps(12, gate={1: None}, yard={1: ANNA})
    assert merged
    assert not [o for o in outcomes if isinstance(o, Merge)]
    assert assignments(outcomes) == [(("yard", 1), 1, 2)]


def test_a_correction_between_the_look_and_the_writing_holds(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.steps(3, gate={1: ANNA}, yard={1: ANNA})
    search, new = scene.gallery.search, list[int]()

    def slowly(*given: object, **named: object) -> object:
        found = search(*given, **named)  # type: ignore[arg-type]
        if not new:
            new.append(scene.hand.split(1, ["run/yard/1"]))
        return found

    monkeypatch.setattr(scene.gallery, "search", slowly)
    scene.steps(6, gate={1: None}, yard={1: ANNA})
    assert scene.owners() == {"gate/1": 1, "yard/1": new[0]}
    assert scene.who("yard", 1) == new[0]


def test_what_a_failing_file_takes_back_is_no_correction_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "people.gallery"
    with SqliteGallery.open(path, fingerprint="model", dimension=3) as gallery:
        scene = Scene(gallery, gallery)
        scene.steps(3, gate={1: ANNA}, yard={1: BORIS}, hall={1: ANNA})
        assert scene.who("hall", 1) == 1
        turn: Callable[[], list[Outcome]] = lambda: scene.identifier.step(  # noqa: E731
            {"hall": [1]}, [Sighting(("hall", 1), VISIBLE, scene.time, BORIS)], scene.time
        )
        while scene.who("hall", 1) == 1:
            turn()
        assert (scene.who("hall", 1), gallery.identities_of(["run/hall/1"])) == (
            2, {"run/hall/1": 2},
        )  # fmt: skip
        # A full disk before any of it was committed.
        with pytest.raises(GalleryError):
            gallery._db.write("INSERT INTO nowhere VALUES (1)")
        assert gallery.identities_of(["run/hall/1"]) == {"run/hall/1": 1}
        scene.steps(1, hall={1: BORIS})
        outcomes = scene.steps(12, hall={1: BORIS})
        assert scene.who("hall", 1) == 2, "the evidence counts again; no hand held it to 1"
        assert assignments(outcomes) == [(("hall", 1), 2, 1)]


def test_in_a_crowd_of_taken_identities_the_right_one_is_found() -> None:
    """All 150 in the frame stand before him: the threshold across lights is lower."""
    thresholds = Thresholds(
        {
            ModalityPair.VISIBLE_VISIBLE: 0.9,
            ModalityPair.INFRARED_INFRARED: 0.9,
            ModalityPair.VISIBLE_INFRARED: 0.5,
        }
    )
    crowd = 150
    gallery = MemoryGallery(fingerprint="model", dimension=crowd + 2)
    scene = Scene(gallery, gallery, IdentityOptions(thresholds, min_crops=1, margin=0.01))
    axes = np.eye(crowd + 2, dtype=np.float32)
    # Cosine 0.82 of the newcomer with each of the crowd, 0.62 with himself by night.
    people = {number: unit(*(axes[-1] + 0.7 * axes[number])) for number in range(crowd)}
    for number, person in people.items():
        gallery.add(person, camera="x", modality=VISIBLE, time=0.0, tracklet=f"known {number}")
    right = gallery.add(
        unit(*(0.8 * axes[-1] + axes[-2])), camera="x", modality=Modality.INFRARED, time=0.0,
        tracklet="by night",
    )  # fmt: skip
    scene.step(gate={**people})
    assert {scene.who("gate", number) for number in people} == set(range(1, crowd + 1))
    (assignment,) = scene.step(gate={**dict.fromkeys(people), crowd: axes[-1]})
    assert isinstance(assignment, Assignment)
    assert assignment.key == ("gate", crowd)
    assert assignment.identity == right


@given(
    seed=st.integers(0, 2**32 - 1),
    deed=st.sampled_from(["split", "undo", "reassign", "merge"]),
    noise=st.floats(0.0, 0.6),
)
@settings(deadline=None, max_examples=40)
def test_whatever_comes_after_it_a_correction_holds(seed: int, deed: str, noise: float) -> None:
    rng = np.random.default_rng(seed)
    gallery = MemoryGallery(fingerprint="model", dimension=3)
    scene = Scene(gallery, gallery)
    looks = np.eye(3, dtype=np.float32)
    number: int | None = None
    corrected: list[str] = []
    holds, parted = -1, -1
    for _ in range(40):
        cameras: dict[str, dict[int, Embeddings | None]] = {}
        for camera in ("gate", "yard", "hall"):
            cameras[camera] = {}
            for track in range(2):
                if rng.random() < 0.7:
                    look = looks[rng.integers(3)] if rng.random() < noise else looks[track]
                    cameras[camera][track] = unit(*(look + rng.normal(0, 0.15, 3)))
        for outcome in scene.step(**cameras):
            if isinstance(outcome, Merge):
                number = outcome.merge
                assert {outcome.identity, outcome.into} != {holds, parted}
                holds = outcome.into if outcome.identity == holds else holds
                parted = outcome.into if outcome.identity == parted else parted
        owners = scene.owners()
        if corrected:
            assert {owners[name] for name in corrected if name in owners} <= {holds}
        elif rng.random() < 0.1 and len(set(owners.values())) > 1:
            name = str(rng.choice(sorted(owners)))
            others = sorted({*owners.values()} - {owners[name]})
            if deed == "split":
                corrected, parted = [name], owners[name]
                holds = scene.hand.split(parted, [f"run/{name}"])
            elif deed == "reassign":
                corrected, holds, parted = [name], int(rng.choice(others)), owners[name]
                scene.hand.reassign(f"run/{name}", holds)
            elif deed == "merge":
                corrected = [one for one, owner in owners.items() if owner == owners[name]]
                holds = int(rng.choice(others))
                scene.hand.merge(owners[name], holds)
            elif number is not None:
                merges = {m: one for one in owners.values() for m, _ in gallery.merges_into(one)}
                parted = merges.get(number, -1)
                holds = scene.hand.undo_merge(number)
                now = scene.owners()
                corrected = [one for one, owner in now.items() if owner == holds]


def test_a_step_without_crops_asks_nothing_of_the_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = MemoryGallery(fingerprint="model", dimension=3)
    scene = Scene(gallery, gallery)
    scene.steps(3, gate={1: ANNA, 2: BORIS})
    asked: list[object] = []
    monkeypatch.setattr(gallery, "identities_of", lambda names: asked.append(names) or {})
    scene.steps(9, gate={1: None, 2: None})
    assert asked == []
    scene.identifier._company.tracklets["gate", 1].next_look = 99
    scene.identifier._company.tracklets["gate", 2].next_look = 99
    scene.step(gate={1: ANNA, 2: None})
    assert len(asked) == 1, "one question for all"
