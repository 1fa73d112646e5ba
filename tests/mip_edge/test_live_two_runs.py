"""Two runs over different cameras that fill one gallery: they agree, and come to rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.gallery.memory import MemoryGallery
from mip_edge.live.identity import Identifier
from mip_edge.live.outcome import Assignment, IdentityOptions, Merge, Outcome
from mip_edge.live.tracker import TrackKey
from mip_edge.spec import Embeddings
from mip_edge.thresholds import Thresholds
from tests.mip_edge.stage import sightings_of

OPTIONS = IdentityOptions(
    Thresholds.uniform(0.8), min_crops=2, recheck_crops=1, margin=0.05, patience=2
)


def unit(vector: Sequence[float] | Embeddings) -> Embeddings:
    row = np.asarray(vector, np.float32)
    return np.asarray(row / np.linalg.norm(row), np.float32)


class Run:
    """One of the runs, and what somebody believes who hears its events alone."""

    def __init__(self, gallery: MemoryGallery, name: str) -> None:
        self.gallery, self.identifier = gallery, Identifier(gallery, OPTIONS, run=name)
        self.told: dict[TrackKey, int] = {}
        self.time = 0.0

    def step(self, **cameras: dict[int, Embeddings]) -> list[Outcome]:
        self.time += 1.0
        visible, sightings = sightings_of(cameras, self.time)
        outcomes = self.identifier.step(visible, sightings, self.time)
        self.gallery.flush()
        for outcome in outcomes:
            if isinstance(outcome, Merge):
                for key, who in self.told.items():
                    self.told[key] = outcome.into if who == outcome.identity else who
            elif isinstance(outcome, Assignment):
                assert outcome.previous == self.told.get(outcome.key)
                assert outcome.identity != outcome.previous
                self.told[outcome.key] = outcome.identity
        return outcomes

    def who(self, camera: str, track: int) -> int | None:
        return self.identifier.known((camera, track)).identity


def test_two_whom_one_run_sees_in_one_frame_the_other_does_not_merge() -> None:
    gallery = MemoryGallery(fingerprint="model", dimension=3)
    gate, yard = Run(gallery, "one"), Run(gallery, "two")
    anna, twin = unit([1, 0.3, 0]), unit([1, -0.3, 0])
    outcomes: list[Outcome] = []
    for _ in range(30):
        outcomes += gate.step(gate={1: anna, 2: twin})
        # Between them: 0.96 to either.
        outcomes += yard.step(yard={1: unit([1, 0, 0])})
        assert gate.who("gate", 1) != gate.who("gate", 2) or gate.who("gate", 1) is None
    assert not [o for o in outcomes if isinstance(o, Merge)]
    assert {gate.who("gate", 1), gate.who("gate", 2)} == {1, 2}


@given(seed=st.integers(0, 2**32 - 1), noise=st.floats(0.0, 0.2))
@settings(deadline=None, max_examples=25)
def test_two_runs_settle_and_no_two_in_one_frame_are_one(seed: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    gallery = MemoryGallery(fingerprint="model", dimension=8)
    runs = {Run(gallery, "one"): ("gate", "yard"), Run(gallery, "two"): ("hall", "door")}
    usual = unit(rng.normal(size=8))
    looks = [unit(usual + 0.25 * rng.normal(size=8)) for _ in range(3)]
    late = Counter[str]()
    for step in range(90):
        for run, cameras in runs.items():
            outcomes = run.step(
                **{
                    camera: {
                        track: unit(look + noise * rng.normal(size=8))
                        for track, look in enumerate(looks)
                        if rng.random() < 0.8
                    }
                    for camera in cameras
                }
            )
            for camera in cameras:
                seen = [run.who(camera, track) for track in range(3)]
                named = [who for who in seen if who is not None]
                assert len(named) == len(set(named)), "all three are in view"
            if step >= 60:
                late.update(type(o).__name__ for o in outcomes if not isinstance(o, Assignment))
                late.update("changed" for o in outcomes if isinstance(o, Assignment))
    assert late["Merge"] + late["changed"] <= 4
