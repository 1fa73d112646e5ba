from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.errors import OptionError
from mip_edge.gallery import MemoryGallery
from mip_edge.live.identity import Assignment, Identifier, IdentityOptions, Sighting
from mip_edge.spec import Embeddings, Modality

OPTIONS = IdentityOptions(min_similarity=0.8, min_crops=2, recheck_crops=1, margin=0.05, patience=2)


def unit(*numbers: float) -> Embeddings:
    vector = np.array(numbers, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


ANNA, BORIS, CARLA = unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 1)
LIKE_ANNA = unit(1, 0.3, 0)


class Scene:
    """Plays steps by hand: {camera: {track: embedding or None}}."""

    def __init__(self, options: IdentityOptions = OPTIONS) -> None:
        self.gallery = MemoryGallery(fingerprint="model", dimension=3)
        self.identifier = Identifier(self.gallery, options)
        self.time = 0.0

    def step(self, **cameras: dict[int, Embeddings | None]) -> list[Assignment]:
        self.time += 1.0
        sightings = [
            Sighting((camera, track), Modality.VISIBLE, self.time, embedding)
            for camera, tracks in cameras.items()
            for track, embedding in tracks.items()
            if embedding is not None
        ]
        return self.identifier.step({c: list(t) for c, t in cameras.items()}, sightings)

    def who(self, camera: str, track: int) -> int | None:
        return self.identifier.known((camera, track))[0]


def test_a_track_is_nobody_before_it_has_gathered_its_crops() -> None:
    scene = Scene()
    assert scene.step(gate={1: ANNA}) == []
    assert scene.who("gate", 1) is None
    (assignment,) = scene.step(gate={1: ANNA})
    assert assignment == Assignment(("gate", 1), 1, None, None)


def test_the_same_person_on_another_camera_gets_the_same_identity() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA})
    scene.step(yard={1: LIKE_ANNA})
    (assignment,) = scene.step(yard={1: LIKE_ANNA})
    assert assignment.identity == scene.who("gate", 1)
    assert assignment.similarity == pytest.approx(1 / np.sqrt(1.09), abs=1e-5)


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
    identities = [change.identity for change in changes]
    assert identities[-1] == scene.who("yard", 1) == scene.who("door", 1)
    assert len(identities) <= 2
    of_anna = scene.gallery.search(BORIS[None], top_k=5, min_similarity=0.9)[0]
    assert [found.identity for found in of_anna] == [scene.who("yard", 1)]


def test_two_identities_of_one_person_become_one_when_the_views_agree() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA}, yard={1: CARLA})
    assert scene.who("yard", 1) == 2
    for _ in range(12):
        scene.step(yard={1: ANNA})
    assert scene.who("yard", 1) == 1
    assert [record.identity for record in scene.gallery.identities()] == [1]


def test_what_has_ended_and_matters_to_nobody_is_forgotten() -> None:
    scene = Scene()
    for track in range(50):
        scene.step(gate={track: ANNA})
        scene.identifier.end(("gate", track))
    assert scene.identifier.known(("gate", 3)) == (None, None)
    assert len(scene.identifier._tracklets) == 0


def test_embeddings_that_cancel_out_name_nobody() -> None:
    scene = Scene()
    scene.step(gate={1: ANNA})
    assert scene.step(gate={1: np.asarray(-ANNA, np.float32)}) == []


@pytest.mark.parametrize(
    ("field", "value"), [("min_similarity", 1.5), ("min_crops", 0), ("patience", 0)]
)
def test_options_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(OptionError, match=field.replace("_", "[-_]")):
        IdentityOptions(**{"min_similarity": 0.5, field: value})  # type: ignore[arg-type]


@given(seed=st.integers(0, 2**32 - 1), noise=st.floats(0.0, 0.6))
@settings(deadline=None, max_examples=60)
def test_whoever_is_visible_together_is_never_one_person(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    people = np.eye(3, dtype=np.float32)
    scene, ended = Scene(), set()
    together: set[frozenset[tuple[str, int]]] = set()
    for _ in range(40):
        cameras: dict[str, dict[int, Embeddings | None]] = {}
        for camera in ("gate", "yard"):
            cameras[camera] = {}
            for track in range(4):
                key = (camera, track)
                if key not in ended and rng.random() < 0.5:
                    look = people[rng.integers(3)] if rng.random() < noise else people[track % 3]
                    view = unit(*(look + rng.normal(0, 0.15, 3)))
                    cameras[camera][track] = view if rng.random() < 0.8 else None
            present = list(cameras[camera])
            together |= {frozenset([(camera, a), (camera, b)]) for a in present for b in present}
        for told in scene.step(**cameras):
            assert told.identity != told.previous
            assert scene.who(*told.key) is not None
            assert scene.identifier.crops(told.key) >= OPTIONS.min_crops
        for pair in together:
            who = [scene.who(*key) for key in pair]
            if len(pair) == 2 and None not in who and not pair & ended:
                assert who[0] != who[1]
        if rng.random() < 0.1:
            key = ("gate", int(rng.integers(4)))
            scene.identifier.end(key)
            ended.add(key)
