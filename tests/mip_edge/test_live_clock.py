"""A clock that is set right in mid-run: the gallery has right times, the run goes on as ever."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mip_edge.gallery.base import GalleryBounds
from mip_edge.gallery.memory import MemoryGallery
from mip_edge.live.event import EventLog
from mip_edge.live.keeper import PRUNE_PAUSE, SETTLE, GalleryKeeper
from mip_edge.live.loop import LiveOptions, run_live
from mip_edge.live.need import NeedOptions
from mip_edge.live.source_options import SourceOptions
from mip_edge.live.travel import Travel
from mip_edge.spec import Crop, Embeddings, Modality
from tests.mip_edge.stage import RATE, FindsBright, Passage, Told

YEARS = 56 * 365.25 * 86_400


class Clocks:
    """The wall clock and the one that never jumps, moved by the test."""

    def __init__(self) -> None:
        self.seconds, self.offset = 100.0, 0.0

    def now(self) -> float:
        return self.seconds

    def wall(self) -> datetime:
        steady = datetime(1970, 1, 2, tzinfo=timezone.utc) + timedelta(seconds=self.seconds)
        return steady + timedelta(seconds=self.offset)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def log(clocks: Clocks) -> EventLog:
    return EventLog([Told()], clock=clocks.wall, now=clocks.now)


@pytest.fixture
def gallery() -> MemoryGallery:
    return MemoryGallery(fingerprint="one", dimension=2, bounds=GalleryBounds(max_age=3600.0))


@pytest.fixture
def keeper(gallery: MemoryGallery, log: EventLog, clocks: Clocks) -> GalleryKeeper:
    return GalleryKeeper(gallery, log, clocks.now)


def look_after(keeper: GalleryKeeper, clocks: Clocks, log: EventLog, seconds: float) -> list[int]:
    """Let time pass, look every five seconds."""
    gone = []
    for _ in range(round(seconds / 5)):
        clocks.seconds += 5
        log.check_clock()
        gone += keeper.look_after(clocks.seconds)
    return gone


def seen(gallery: MemoryGallery, time: float) -> int:
    embedding = np.array([1, 0], np.float32)
    return gallery.add(embedding, camera="gate", modality=Modality.VISIBLE, time=time)


def test_jumps_that_were_told_add_up(log: EventLog, clocks: Clocks) -> None:
    for jump, total in ((3600.0, 3600.0), (-2.5, 3597.5), (1.0, 3597.5)):
        clocks.offset += jump
        clocks.seconds += 1
        log.check_clock()
        assert log.jumped == pytest.approx(total)


def test_the_time_of_the_gallery_follows_the_clock(
    keeper: GalleryKeeper, log: EventLog, clocks: Clocks
) -> None:
    assert keeper.dated(5.0) == 5.0
    clocks.offset = YEARS
    log.check_clock()
    assert keeper.dated(5.0) == pytest.approx(5.0 + YEARS)
    clocks.offset = -60.0
    log.check_clock()
    assert keeper.dated(5.0) == pytest.approx(5.0 - 60.0)


def test_nobody_goes_by_a_clock_that_jumped_forward_for_a_moment(
    keeper: GalleryKeeper, gallery: MemoryGallery, log: EventLog, clocks: Clocks
) -> None:
    identity = seen(gallery, clocks.seconds)
    clocks.offset = YEARS
    assert look_after(keeper, clocks, log, SETTLE - 60) == []
    clocks.offset = 0.0
    assert look_after(keeper, clocks, log, SETTLE + 60) == []
    assert [one.identity for one in gallery.identities()] == [identity]
    assert look_after(keeper, clocks, log, 3600) == [identity], "an hour after she was seen"


def test_ages_go_by_a_clock_that_stays_set_right(
    keeper: GalleryKeeper, gallery: MemoryGallery, log: EventLog, clocks: Clocks
) -> None:
    """Of the last run, two years ago; and of now, as the clock has it once it is set right."""
    old = seen(gallery, clocks.seconds + YEARS - 2 * 365 * 86_400)
    new = seen(gallery, clocks.seconds + YEARS)
    assert look_after(keeper, clocks, log, 60) == []
    clocks.offset = YEARS
    assert look_after(keeper, clocks, log, SETTLE + 3 * PRUNE_PAUSE) == [old]
    assert look_after(keeper, clocks, log, 3600) == [new]


def test_a_clock_that_jumps_back_stops_no_pruning_and_takes_nobody_too_soon(
    keeper: GalleryKeeper, gallery: MemoryGallery, log: EventLog, clocks: Clocks
) -> None:
    look_after(keeper, clocks, log, 60)
    clocks.offset = -7200.0
    look_after(keeper, clocks, log, 10)
    identity = seen(gallery, keeper.dated(clocks.seconds))
    assert look_after(keeper, clocks, log, 3500) == []
    assert look_after(keeper, clocks, log, 200) == [identity]


# In a run


class Embedder:
    """Sees one person in all crops, who turns a little."""

    fingerprint, dimension, min_similarity = "one", 2, 0.9
    angle = 0.0

    def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
        self.angle += 0.002
        one = np.array([np.cos(self.angle), np.sin(self.angle)], np.float32)
        return np.tile(one, (len(crops), 1))


@pytest.mark.parametrize("jump", [YEARS, -86_400.0])
def test_rows_after_a_jump_have_the_right_time_and_travel_windows_notice_nothing(
    jump: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks, begin = Clocks(), 1_000_000.0
    monkeypatch.setattr("mip_edge.live.camera.open_detector", lambda *_, **__: FindsBright())
    monkeypatch.setattr(
        "mip_edge.live.audience.EventLog",
        lambda sinks, **options: EventLog(sinks, clock=clocks.wall, now=clocks.now, **options),
    )
    films = {"gate": Passage(80, range(20)), "yard": Passage(80, range(40, 80))}
    gallery = MemoryGallery(fingerprint="one", dimension=2)

    def set_right(cameras: Sequence[Any]) -> None:
        if cameras[0].frames == 30:
            clocks.offset = jump

    report = run_live(
        LiveOptions(
            sources=tuple(SourceOptions(name, f"{name}.mp4", Modality.VISIBLE) for name in films),
            need=NeedOptions(max_age=0.0, per_track_gap=0.0),
            # The way takes 1.0 to 2.1 s in this film.
            travels=(Travel("gate", "yard", 0.5, 3.0),),
            realtime=False,
        ),
        Embedder(),
        gallery=gallery,
        wall=lambda: begin,
        capture=lambda source: films[source.name],
        on_step=set_right,
    )
    assert report.clock_jumps == 1
    (record,) = gallery.identities()
    before, after = sorted(gallery.tracklets(record.identity), key=lambda one: one.camera)
    # To some seconds: the run's own clock goes on while it begins.
    # What was kept before the jump; her last look at the gate came into the gallery after it.
    wrong = before.first_time if jump > 0 else before.last_time
    assert wrong - begin == pytest.approx(10 / RATE, abs=5.0)
    assert after.last_time - begin - jump == pytest.approx(79 / RATE, abs=5.0)
    assert after.first_time - begin - jump == pytest.approx(42 / RATE, abs=5.0)
