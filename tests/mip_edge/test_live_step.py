"""A step that the gallery breaks off tells what it had found, and later ones find the rest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mip_edge.errors import GalleryError
from mip_edge.gallery.memory import MemoryGallery
from mip_edge.live import loop as loop_module
from mip_edge.live.box import Detections
from mip_edge.live.identity import Identifier
from mip_edge.live.loop import LiveOptions, LiveReport, run_live
from mip_edge.live.need import NeedOptions
from mip_edge.live.outcome import Assignment, IdentityOptions, Merge, Outcome
from mip_edge.live.source_options import SourceOptions
from mip_edge.spec import Crop, Embeddings, Modality
from mip_edge.thresholds import Thresholds
from tests.mip_edge.stage import sightings_of

OPTIONS = IdentityOptions(
    Thresholds.uniform(0.8), min_crops=2, recheck_crops=1, margin=0.05, patience=2
)
FULL = "site.gallery cannot be written: no space left on the disk"


def unit(*numbers: float) -> Embeddings:
    vector = np.array(numbers, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


ANNA, BORIS, CARLA = unit(1, 0, 0), unit(0, 1, 0), unit(0, 0, 1)


class Faulty(MemoryGallery):
    """Calls of these names fail, from the n-th on, until the disk has space again."""

    def __init__(self) -> None:
        super().__init__(fingerprint="model", dimension=3)
        self.fails: dict[str, int] = {}

    def _call(self, name: str) -> None:
        if name in self.fails:
            self.fails[name] -= 1
            if self.fails[name] <= 0:
                raise GalleryError(FULL)

    def add(self, embedding: Any, **how: Any) -> int:
        self._call("add")
        return super().add(embedding, **how)

    def hold(self) -> None:
        self._call("hold")
        super().hold()

    def reassign(self, tracklet: str, identity: int) -> None:
        self._call("reassign")
        super().reassign(tracklet, identity)


class Scene:
    """Plays steps by hand as a run does: what a step found is taken, though it failed."""

    def __init__(self, **options: Any) -> None:
        self.gallery = Faulty()
        self.identifier = Identifier(self.gallery, dataclasses.replace(OPTIONS, **options))
        self.time = 0.0
        self.failures = 0

    def step(self, **cameras: dict[int, Embeddings]) -> list[Outcome]:
        self.time += 1.0
        visible, sightings = sightings_of(cameras, self.time)
        found: list[Outcome] = []
        try:
            found = self.identifier.step(visible, sightings, self.time)
        except GalleryError:
            self.failures += 1
        return [*found, *self.identifier.take_outcomes()]


def test_a_step_that_ends_well_has_nothing_left_to_take() -> None:
    scene = Scene()
    told = [one for _ in range(3) for one in scene.step(gate={1: ANNA})]
    assert told == [Assignment(("gate", 1), 1)]


def test_what_was_found_before_the_gallery_failed_is_told_and_once() -> None:
    scene = Scene()
    scene.step(gate={1: ANNA, 2: BORIS})
    scene.gallery.fails["add"] = 2
    told = scene.step(gate={1: ANNA, 2: BORIS})
    assert [type(one) for one in told] == [Assignment]
    assert scene.identifier.take_outcomes() == [], "nothing is told twice"
    assert len(scene.gallery.identities()) == 1
    scene.gallery.fails.clear()
    told += [one for _ in range(2) for one in scene.step(gate={1: ANNA, 2: BORIS})]
    assert scene.failures == 1
    assert sorted((one.key[1], one.identity) for one in told if isinstance(one, Assignment)) == [
        (1, 1),
        (2, 2),
    ]


def test_a_change_of_mind_that_is_in_the_gallery_is_told_though_the_rest_of_it_failed() -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA}, yard={1: BORIS})
    # The track turns out to be somebody else, who is known.
    scene.gallery.fails["reassign"] = 0
    told = [one for _ in range(30) for one in scene.step(hall={1: ANNA})][:1]
    told += [one for _ in range(60) for one in scene.step(hall={1: BORIS})]
    changes = [
        (one.previous, one.identity)
        for one in told
        if isinstance(one, Assignment) and one.key == ("hall", 1)
    ]
    assert changes == [(None, 1), (1, 2)]
    assert scene.failures == 1


@pytest.mark.parametrize("call", ["add", "hold"])
def test_who_is_known_is_recognised_while_nothing_can_be_written_and_kept_when_it_can(
    call: str,
) -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA})
    before = len(scene.gallery)
    scene.gallery.fails[call] = 0
    told = [one for _ in range(4) for one in scene.step(yard={7: ANNA}, hall={3: BORIS})]
    (assignment,) = [one for one in told if isinstance(one, Assignment)]
    assert (assignment.key, assignment.identity, assignment.previous) == (("yard", 7), 1, None)
    assert scene.identifier.known(("yard", 7)).identity == 1
    assert scene.identifier.known(("hall", 3)).identity is None, "a new number needs to be kept"
    assert len(scene.gallery) == before
    scene.gallery.fails.clear()
    scene.identifier.end(("yard", 7))
    assert len(scene.gallery) == before + 1, "what it showed is kept as it leaves"


def test_a_merge_is_told_though_the_gallery_fails_right_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene()
    for _ in range(2):
        scene.step(gate={1: ANNA}, yard={1: BORIS})
    real = scene.gallery.merge

    def merge(identity: int, into: int) -> int:
        scene.gallery.fails["add"] = 0
        return real(identity, into)

    monkeypatch.setattr(scene.gallery, "merge", merge)
    between = unit(1, 1, 0)
    told = [one for _ in range(20) for one in scene.step(hall={1: between}, yard={1: ANNA})]
    merges = [(one.identity, one.into) for one in told if isinstance(one, Merge)]
    assert merges == [(2, 1)]
    assert scene.failures > 0


@pytest.mark.parametrize("remember", [True, False])
def test_a_track_that_ends_as_the_gallery_fails_is_forgotten_all_the_same(remember: bool) -> None:
    scene = Scene(recheck_crops=3)
    # Looked at with two crops; the third is not in the gallery yet.
    for _ in range(3):
        scene.step(gate={1: ANNA, 2: BORIS})
    scene.gallery.fails["add"] = 0
    if remember:
        with pytest.raises(GalleryError):
            scene.identifier.end(("gate", 1))
    else:
        scene.identifier.end(("gate", 1), remember=False)
    assert scene.identifier.known(("gate", 1)).identity is None
    scene.gallery.fails.clear()
    # Whoever was seen with it goes on, and is never taken for it.
    for _ in range(4):
        scene.step(gate={2: ANNA})
    assert scene.identifier.known(("gate", 2)).identity != 1


# In a run


class Two:
    """A capture of two people who stand there for 30 frames, then for as many nobody does."""

    BOXES = ((20, 60, 65, 180), (200, 60, 245, 180))
    SHADES = (220, 120)

    def __init__(self) -> None:
        self._index = -1

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        self._index += 1
        return self._index < 60

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        image: NDArray[np.uint8] = np.full((240, 320, 3), 30, np.uint8)
        if self._index < 30:
            stripes = np.where(np.arange(120) // 6 % 2, 20, -20)[:, None, None]
            for (x1, y1, x2, y2), shade in zip(self.BOXES, self.SHADES, strict=True):
                image[y1:y2, x1:x2] = shade + stripes
        return True, image

    def get(self, propId: int) -> float:
        return 20.0 if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        pass


class Both:
    """Detector and embedder of these two."""

    fingerprint, dimension, min_similarity = "model", 3, 0.9

    def detect(self, images: Sequence[NDArray[np.uint8]], _: Sequence[int]) -> list[Detections]:
        found = Detections(np.array(Two.BOXES, np.float32), np.ones(2, np.float32))
        return [found if image.max() > 60 else Detections.empty() for image in images]

    def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
        return np.stack([ANNA if crop.mean() > 150 else BORIS for crop in crops])


def play(gallery: MemoryGallery, monkeypatch: pytest.MonkeyPatch, **options: Any) -> LiveReport:
    both = Both()
    monkeypatch.setattr("mip_edge.live.camera.open_detector", lambda *_, **__: both)
    return run_live(
        LiveOptions(
            sources=(SourceOptions("gate", "gate.mp4", Modality.VISIBLE),),
            need=NeedOptions(max_age=0.0, per_track_gap=0.0),
            realtime=False,
            **options,
        ),
        both,
        gallery=gallery,
        capture=lambda _: Two(),
    )


def test_events_tell_whom_the_gallery_holds_though_it_failed_between_two_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Once(Faulty):
        def _call(self, name: str) -> None:
            try:
                super()._call(name)
            except GalleryError:
                self.fails.clear()
                raise

    gallery, path = Once(), tmp_path / "events.jsonl"
    gallery.fails["add"] = 2
    report = play(gallery, monkeypatch, events=path)
    assert (report.identities, report.gallery_failures) == (2, 1)
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one["identity"] for one in events if one["event"] == "new"] == [1, 2]


def test_tracks_that_end_while_the_gallery_is_left_alone_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Identifier] = []
    real = Identifier

    def make(*given: Any, **how: Any) -> Identifier:
        made.append(real(*given, **how))
        return made[-1]

    monkeypatch.setattr(loop_module, "Identifier", make)
    # Every failure counts as one that hung.
    monkeypatch.setattr("mip_edge.live.keeper.HANGS", -1.0)
    gallery = Faulty()
    gallery.fails["add"] = 4
    report = play(gallery, monkeypatch)
    assert report.gallery_failures == 1, "then it is left alone for longer than this film lasts"
    assert report.cameras[0].tracks == 2
    assert made[0].unsure() == set()
    assert [made[0].known(("gate", track)).crops for track in (1, 2)] == [0, 0]
