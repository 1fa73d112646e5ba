from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.errors import OptionError
from mip_edge.gallery.memory import MemoryGallery
from mip_edge.live.identity import Identifier
from mip_edge.live.outcome import Assignment, Doubt, IdentityOptions, Merge, Outcome, Sighting
from mip_edge.live.travel import Travel
from mip_edge.spec import Embeddings, Modality
from mip_edge.thresholds import ModalityPair, Thresholds

OPTIONS = IdentityOptions(
    Thresholds.uniform(0.8), min_crops=2, recheck_crops=1, margin=0.05, patience=2
)
VISIBLE, INFRARED = Modality.VISIBLE, Modality.INFRARED


def unit(*numbers: float) -> Embeddings:
    vector = np.array(numbers, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


ANNA, BORIS, CARLA = unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 1)
LIKE_ANNA = unit(1, 0.3, 0)


class Scene:
    """Plays steps by hand: {camera: {track: embedding or None}}."""

    def __init__(self, options: IdentityOptions = OPTIONS, **lights: Modality) -> None:
        """`lights`: what each camera sees, visible if not said."""
        self.lights = lights
        self.gallery = MemoryGallery(fingerprint="model", dimension=3)
        self.identifier = Identifier(self.gallery, options)
        self.time = 0.0

    def step(self, **cameras: dict[int, Embeddings | None]) -> list[Outcome]:
        self.time += 1.0
        sightings = [
            Sighting((camera, track), self.lights.get(camera, VISIBLE), self.time, embedding)
            for camera, tracks in cameras.items()
            for track, embedding in tracks.items()
            if embedding is not None
        ]
        visible = {camera: list(tracks) for camera, tracks in cameras.items()}
        return self.identifier.step(visible, sightings, self.time)

    def who(self, camera: str, track: int) -> int | None:
        return self.identifier.known((camera, track)).identity


def test_a_track_is_nobody_before_it_has_gathered_its_crops() -> None:
    scene = Scene()
    assert scene.step(gate={1: ANNA}) == []
    assert scene.who("gate", 1) is None
    (assignment,) = scene.step(gate={1: ANNA})
    assert assignment == Assignment(("gate", 1), 1)


def test_the_same_person_on_another_camera_gets_the_same_identity() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA})
    (assignment,) = [o for _ in range(2) for o in scene.step(yard={1: LIKE_ANNA})]
    assert isinstance(assignment, Assignment)
    assert assignment.match is not None
    assert assignment.identity == scene.who("gate", 1)
    assert assignment.match.similarity == pytest.approx(1 / np.sqrt(1.09), abs=1e-5)
    assert assignment.match.pair is ModalityPair.VISIBLE_VISIBLE
    assert assignment.margin is None, "there is no second"


def test_who_is_seen_first_by_two_cameras_at_once_is_one_person() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA}, yard={1: LIKE_ANNA})
    assert scene.who("gate", 1) == scene.who("yard", 1) == 1


def test_the_same_person_coming_back_to_one_camera_is_known() -> None:
    scene = Scene()
    for _ in range(3):
        scene.step(gate={1: ANNA})
    scene.identifier.end(("gate", 1))
    for _ in range(2):
        scene.step(gate={2: ANNA})
    assert scene.who("gate", 2) == 1


def test_two_that_look_alike_in_one_frame_are_two_people() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA, 2: ANNA})
    assert {scene.who("gate", 1), scene.who("gate", 2)} == {1, 2}


def test_two_once_seen_together_are_two_people_even_after_one_left() -> None:
    scene = Scene()
    scene.step(gate={1: ANNA, 2: None})
    scene.step(gate={1: ANNA})
    scene.identifier.end(("gate", 1))
    for _ in range(2):
        scene.step(gate={2: ANNA})
    assert scene.who("gate", 2) not in (None, scene.who("gate", 1), 1)


def test_of_two_candidates_the_one_that_resembles_more_takes_the_identity() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA})
    for _ in range(2):
        scene.step(yard={1: LIKE_ANNA, 2: ANNA})
    assert scene.who("yard", 2) == 1
    assert scene.who("yard", 1) != 1


def test_a_track_that_returns_and_finds_its_identity_taken_is_parted_from_the_newer_one() -> None:
    scene = Scene()
    for _ in range(5):
        scene.step(gate={1: ANNA})
    for _ in range(2):
        scene.step(gate={2: ANNA})
    assert scene.who("gate", 2) == 1, "while track 1 is hidden, track 2 may be the same person"
    (assignment,) = scene.step(gate={1: None, 2: None})
    assert isinstance(assignment, Assignment)
    assert assignment.key == ("gate", 2), "the one with fewer crops gives way"
    assert assignment.previous == 1
    assert scene.who("gate", 1) == 1
    assert scene.who("gate", 2) != 1


def test_one_odd_crop_does_not_change_an_identity() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA})
        scene.step(yard={1: BORIS})
    for _ in range(6):
        scene.step(door={1: ANNA})
    assert scene.step(door={1: BORIS}) == []
    assert scene.who("door", 1) == scene.who("gate", 1)


def test_a_track_that_turns_out_to_be_another_changes_once_and_takes_its_embeddings_along() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA}, yard={1: BORIS})
    for _ in range(2):
        scene.step(door={1: ANNA})
    assert scene.who("door", 1) == scene.who("gate", 1)
    changes = [change for _ in range(30) for change in scene.step(door={1: BORIS})]
    identities = [change.identity for change in changes if isinstance(change, Assignment)]
    assert identities[-1] == scene.who("yard", 1) == scene.who("door", 1)
    assert len(identities) <= 2
    of_anna = scene.gallery.search(BORIS[None], top_k=5, min_similarity=0.9)[0]
    assert [found.identity for found in of_anna] == [scene.who("yard", 1)]


def test_two_identities_of_one_person_become_one_when_the_views_agree() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA}, yard={1: CARLA})
    assert scene.who("yard", 1) == 2
    outcomes = [outcome for _ in range(12) for outcome in scene.step(yard={1: ANNA})]
    assert scene.who("yard", 1) == 1
    (merge,) = [outcome for outcome in outcomes if isinstance(outcome, Merge)]
    assert (merge.identity, merge.into) == (2, 1)
    assert [record.identity for record in scene.gallery.identities()] == [1]


def test_what_has_ended_and_matters_to_nobody_is_forgotten() -> None:
    scene = Scene()
    for track in range(50):
        scene.step(gate={track: ANNA})
        scene.identifier.end(("gate", track))
    assert scene.who("gate", 3) is None
    assert len(scene.identifier._company.tracklets) == 0


def test_who_stays_all_day_does_not_keep_the_tracks_of_all_who_passed() -> None:
    scene = Scene()
    for track in range(2, 60):
        scene.step(gate={1: ANNA, track: BORIS})
        scene.step(gate={1: ANNA, track: BORIS})
        scene.identifier.end(("gate", track))
    assert set(scene.identifier._company.tracklets) == {("gate", 1)}
    assert not scene.identifier._company.tracklets[("gate", 1)].seen_with


def test_two_who_resemble_it_alike_leave_a_track_uncertain_until_more_crops_come() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: unit(1, 0.1, 0), 2: unit(1, -0.1, 0)})
    assert {scene.who("gate", 1), scene.who("gate", 2)} == {1, 2}
    scene.step(yard={1: ANNA})
    (doubt,) = scene.step(yard={1: ANNA})
    assert isinstance(doubt, Doubt)
    assert {candidate.identity for candidate in doubt.candidates} == {1, 2}
    assert doubt.reason == "two identities resemble it"
    assert scene.who("yard", 1) is None
    assert scene.identifier.known(("yard", 1)).uncertain
    assert scene.identifier.unsure() == {("yard", 1)}
    outcomes = [o for _ in range(8) for o in scene.step(yard={1: unit(1, 0.9, 0)})]
    assert all(not isinstance(outcome, Merge) for outcome in outcomes), "they were seen together"
    (assignment,) = [o for o in outcomes if isinstance(o, Assignment)]
    assert assignment.identity == scene.who("gate", 1)
    assert not scene.identifier.known(("yard", 1)).uncertain


def test_who_stays_uncertain_is_decided_in_the_end() -> None:
    scene = Scene(IdentityOptions(Thresholds.uniform(0.8), min_crops=2, decide_crops=6, margin=0.1))
    for _ in range(2):
        scene.step(gate={1: ANNA})
    near = unit(0.75, np.sqrt(1 - 0.75**2), 0)
    outcomes = [outcome for _ in range(6) for outcome in scene.step(yard={1: near})]
    assert [type(outcome) for outcome in outcomes] == [Doubt, Assignment]
    assert isinstance(outcomes[0], Doubt)
    assert outcomes[0].reason == "close to the threshold"
    assert scene.who("yard", 1) == 2, "below the threshold is somebody else, if it must be said"


def test_each_pair_of_lights_has_its_own_threshold() -> None:
    thresholds = Thresholds(
        {
            ModalityPair.VISIBLE_VISIBLE: 0.99,
            ModalityPair.INFRARED_INFRARED: 0.99,
            ModalityPair.VISIBLE_INFRARED: 0.9,
        }
    )
    options = IdentityOptions(thresholds, min_crops=1, margin=0.01)
    scene = Scene(options, night=INFRARED)
    scene.step(gate={1: ANNA})
    (across,) = scene.step(night={1: LIKE_ANNA})
    assert isinstance(across, Assignment)
    assert across.match is not None
    assert (across.identity, across.match.pair) == (1, ModalityPair.VISIBLE_INFRARED)
    assert across.match.threshold == 0.9
    alike = Scene(options)
    alike.step(gate={1: ANNA})
    alike.step(yard={1: LIKE_ANNA})
    assert alike.who("yard", 1) == 2


def test_a_camera_that_switches_to_infrared_keeps_the_identity_of_who_is_in_view() -> None:
    scene = Scene(gate=VISIBLE)
    for _ in range(3):
        scene.step(gate={1: ANNA})
    scene.lights["gate"] = INFRARED
    for _ in range(6):
        scene.step(gate={1: unit(1, 0, 0.9)})
    assert scene.who("gate", 1) == 1
    _, lights = scene.gallery.embeddings_of(1)
    assert set(lights) == {VISIBLE, INFRARED}, "and is known by night from now on"


def test_nobody_is_matched_with_whoever_cannot_have_come_so_soon() -> None:
    travels = (Travel("gate", "yard", 5.0, 60.0),)
    options = IdentityOptions(Thresholds.uniform(0.8), min_crops=2, travels=travels)
    scene = Scene(options)
    for _ in range(2):
        scene.step(gate={1: ANNA})
    for _ in range(2):
        scene.step(yard={1: ANNA})
    assert scene.who("yard", 1) == 2, "two seconds are too few for the way"
    scene.time += 20.0
    for _ in range(2):
        scene.step(yard={2: BORIS}, gate={2: BORIS})
    assert scene.who("yard", 2) != scene.who("gate", 2), "nobody is at two places at once"


def test_two_identities_that_one_track_shows_to_be_one_are_merged_into_the_older() -> None:
    scene = Scene(IdentityOptions(Thresholds.uniform(0.9), min_crops=1, recheck_crops=1))
    scene.step(gate={1: unit(1, 0.4, 0)})
    scene.identifier.end(("gate", 1))
    scene.step(yard={1: unit(1, -0.4, 0)})
    scene.identifier.end(("yard", 1))
    assert len(scene.gallery.identities()) == 2
    scene.gallery.add(ANNA, identity=1, camera="gate", modality=VISIBLE, time=9.0, tracklet="x")
    scene.gallery.add(ANNA, identity=2, camera="yard", modality=VISIBLE, time=9.0, tracklet="y")
    outcomes = [outcome for _ in range(4) for outcome in scene.step(door={1: ANNA})]
    (merge,) = [outcome for outcome in outcomes if isinstance(outcome, Merge)]
    assert (merge.identity, merge.into) == (2, 1)
    assert scene.who("door", 1) == 1
    assert scene.gallery.undo_merge(merge.merge) == 2
    assert [record.identity for record in scene.gallery.identities()] == [1, 2]


def test_who_is_forgotten_while_in_view_is_somebody_new_afterwards() -> None:
    scene = Scene()
    for _ in range(3):
        scene.step(gate={1: ANNA})
    scene.gallery.forget(1)
    for _ in range(3):
        scene.step(gate={1: ANNA})
    assert scene.who("gate", 1) == 2
    assert [record.identity for record in scene.gallery.identities()] == [2]


def test_who_is_clearly_known_is_matched_before_all_crops_are_gathered() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA})
    # One crop of two is missing: 0.8 + 0.05 + 0.1 is asked.
    assert scene.step(yard={1: unit(0.94, np.sqrt(1 - 0.94**2), 0)}) == []
    assert scene.who("yard", 1) is None
    assert not scene.identifier.known(("yard", 1)).uncertain, "it was only too early"
    (assignment,) = scene.step(hall={1: unit(0.96, np.sqrt(1 - 0.96**2), 0)})
    assert isinstance(assignment, Assignment)
    assert (assignment.identity, scene.identifier.known(("hall", 1)).crops) == (1, 1)


def test_barely_above_the_threshold_is_uncertain_and_matched_if_it_stays_so() -> None:
    scene = Scene(IdentityOptions(Thresholds.uniform(0.8), min_crops=2, decide_crops=4))
    for _ in range(2):
        scene.step(gate={1: ANNA})
    near = unit(0.82, np.sqrt(1 - 0.82**2), 0)
    outcomes = [outcome for _ in range(4) for outcome in scene.step(yard={1: near})]
    assert [type(outcome) for outcome in outcomes] == [Doubt, Assignment]
    assert scene.who("yard", 1) == 1


def test_what_a_track_showed_last_is_known_after_it_has_left() -> None:
    scene = Scene(IdentityOptions(Thresholds.uniform(0.8), min_crops=2, recheck_crops=9))
    for _ in range(2):
        scene.step(gate={1: ANNA})
    for _ in range(6):
        scene.step(gate={1: unit(1, 1, 0)})
    scene.identifier.end(("gate", 1))
    embeddings, _ = scene.gallery.embeddings_of(1)
    assert len(embeddings) == 2
    # Eight crops are kept: two from the front, six from the side.
    mean = 2 * ANNA + 6 * unit(1, 1, 0)
    np.testing.assert_allclose(embeddings[1], mean / np.linalg.norm(mean), atol=1e-3)
    scene.identifier.end(("gate", 1))
    assert len(scene.gallery) == 2, "once"


def test_whom_only_the_other_light_knows_is_found_behind_many_of_this_light() -> None:
    thresholds = Thresholds(
        {
            ModalityPair.VISIBLE_VISIBLE: 0.9,
            ModalityPair.INFRARED_INFRARED: 0.9,
            ModalityPair.VISIBLE_INFRARED: 0.5,
        }
    )
    scene = Scene(IdentityOptions(thresholds, min_crops=1))
    for number in range(8):
        scene.gallery.add(
            unit(0.8, np.cos(number), np.sin(number)),
            camera="gate", modality=VISIBLE, time=0.0, tracklet=f"visible {number}",
        )  # fmt: skip
    anna = scene.gallery.add(
        unit(1, 1.2, 0), camera="gate", modality=INFRARED, time=0.0, tracklet="infrared"
    )
    (assignment,) = scene.step(yard={1: unit(1, -0.1, 0)})
    assert isinstance(assignment, Assignment)
    assert assignment.match is not None, "the nearest eight are below the threshold of their light"
    assert assignment.identity == anna


def test_who_was_seen_with_a_track_that_left_is_not_merged_with_it_by_a_third() -> None:
    scene = Scene(IdentityOptions(Thresholds.uniform(0.8), min_crops=2, recheck_crops=1))
    for _ in range(2):
        scene.step(gate={1: ANNA, 2: None})
    first = scene.who("gate", 1)
    scene.identifier.end(("gate", 1))
    for _ in range(2):
        scene.step(gate={2: ANNA})
    second = scene.who("gate", 2)
    assert first != second, "they were in one frame, before the second had a name"
    outcomes = [o for _ in range(20) for o in scene.step(gate={2: ANNA}, yard={1: ANNA})]
    assert all(not isinstance(outcome, Merge) for outcome in outcomes)
    assert scene.who("gate", 2) == second
    assert {record.identity for record in scene.gallery.identities()} == {first, second}


def test_a_track_that_came_to_resemble_nobody_of_its_identity_becomes_somebody_new() -> None:
    scene = Scene(IdentityOptions(Thresholds.uniform(0.8), min_crops=2, recheck_crops=1, kept=2))
    for _ in range(2):
        scene.step(gate={1: ANNA})
    for _ in range(2):
        scene.step(yard={1: ANNA})
    assert scene.who("yard", 1) == 1
    for _ in range(8):
        scene.step(yard={1: BORIS})
    assert scene.who("yard", 1) == 2, "all that is known of 1 is too unlike to be named at all"


def test_what_the_gallery_forgets_is_kept_nowhere_here_nor_who_was_merged_into_it() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA, 2: BORIS}, yard={1: CARLA})
    for _ in range(12):
        scene.step(gate={1: ANNA, 2: BORIS}, yard={1: ANNA})
    assert scene.identifier.merges == 1
    scene.identifier.end(("gate", 2))
    assert scene.identifier._company.tracklets["gate", 1].not_these == {2}
    for identity in (1, 2):
        scene.gallery.forget(identity)
    scene.identifier.forget([1, 2])
    assert len(scene.identifier._company.twins) == 0
    assert not scene.identifier._company.tracklets["gate", 1].not_these
    for _ in range(3):
        scene.step(gate={1: ANNA}, yard={1: ANNA})
    assert scene.who("gate", 1) == scene.who("yard", 1) == 4


def test_a_track_whose_crops_cancel_out_gives_up_an_identity_that_another_holds() -> None:
    scene = Scene(gate=VISIBLE)
    for _ in range(2):
        scene.step(gate={1: ANNA})
    for _ in range(7):
        scene.step(gate={2: ANNA})
    assert scene.who("gate", 2) == 1
    scene.lights["gate"] = INFRARED
    scene.step(gate={1: CARLA})
    scene.identifier._company.tracklets["gate", 1].views.add(
        np.asarray(-CARLA, np.float32), 1.0, INFRARED, 9.0
    )
    scene.step(gate={1: None, 2: None})
    assert scene.who("gate", 1) is None
    assert scene.who("gate", 2) == 1


def test_embeddings_that_cancel_out_name_nobody() -> None:
    scene = Scene()
    scene.step(gate={1: ANNA})
    assert scene.step(gate={1: np.asarray(-ANNA, np.float32)}) == []


@pytest.mark.parametrize(
    ("field", "value"), [("margin", -0.5), ("min_crops", 0), ("patience", 0), ("kept", 0)]
)
def test_options_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(OptionError, match=field.replace("_", "[-_]")):
        IdentityOptions(Thresholds.uniform(0.5), **{field: value})  # type: ignore[arg-type]


@given(
    seed=st.integers(0, 2**32 - 1),
    noise=st.floats(0.0, 0.6),
    threshold=st.sampled_from([0.4, 0.6, 0.8]),
    travels=st.sampled_from([(), (Travel("gate", "yard", 2.0, 9.0),)]),
    dusk=st.booleans(),
)
@settings(deadline=None, max_examples=30)
def test_whoever_is_visible_together_is_never_one_person(
    seed: int, noise: float, threshold: float, travels: tuple[Travel, ...], dusk: bool
) -> None:
    rng = np.random.default_rng(seed)
    people = np.eye(3, dtype=np.float32)
    options = replace(OPTIONS, thresholds=Thresholds.uniform(threshold), travels=travels)
    scene, ended = Scene(options), set[tuple[str, int]]()
    together: set[frozenset[tuple[str, int]]] = set()
    for _ in range(30):
        cameras: dict[str, dict[int, Embeddings | None]] = {}
        for camera in ("gate", "yard"):
            cameras[camera] = {}
            if dusk and rng.random() < 0.1:
                scene.lights[camera] = list(Modality)[rng.integers(2)]
            for track in range(4):
                key = (camera, track)
                if key not in ended and rng.random() < 0.5:
                    look = people[rng.integers(3)] if rng.random() < noise else people[track % 3]
                    view = unit(*(look + rng.normal(0, 0.15, 3)))
                    cameras[camera][track] = view if rng.random() < 0.8 else None
            present = list(cameras[camera])
            together |= {
                frozenset([(camera, a), (camera, b)]) for a in present for b in present if a != b
            }
        for told in scene.step(**cameras):
            if isinstance(told, Assignment):
                assert told.identity != told.previous
                enough = scene.identifier.known(told.key).crops >= OPTIONS.min_crops
                assert enough or told.match is not None or told.previous is not None
            if isinstance(told, Doubt):
                assert told.candidates[0].surplus >= -OPTIONS.margin
        for pair in together:
            who = [scene.who(*key) for key in pair]
            if None not in who:
                assert who[0] != who[1]
        if rng.random() < 0.1:
            key = ("gate", int(rng.integers(4)))
            scene.identifier.end(key)
            ended.add(key)
        # Those who have left lie in the gallery only; there too they stay two.
        owners = {
            one.tracklet: record.identity
            for record in scene.gallery.identities()
            for one in scene.gallery.tracklets(record.identity)
        }
        for pair in together:
            names = [owners.get(f"/{camera}/{track}") for camera, track in pair]
            assert None in names or names[0] != names[1]
