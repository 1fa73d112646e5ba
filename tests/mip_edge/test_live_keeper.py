"""A gallery that fails stops no run: told once, counted, left alone where it hangs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mip_edge.errors import GalleryError
from mip_edge.gallery.base import GalleryBounds
from mip_edge.live.event import EventLog
from mip_edge.live.keeper import OUTPUT, PRUNE_PAUSE, QUIET, REST, GalleryKeeper
from mip_edge.spec import Modality
from tests.mip_edge.stage import CountedGallery, Told


class Clock:
    """A monotonic clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gallery() -> CountedGallery:
    bounds = GalleryBounds(max_age=60.0)
    return CountedGallery(fingerprint="shades", dimension=2, bounds=bounds)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def keeper(gallery: CountedGallery, told: Told, clock: Clock) -> GalleryKeeper:
    return GalleryKeeper(gallery, EventLog([told], now=clock), clock)


def fails(clock: Clock, seconds: float = 0.0) -> Callable[[], int]:
    def work() -> int:
        clock.now += seconds
        raise GalleryError("site.gallery cannot be written: no space left on the disk")

    return work


def test_the_gallery_is_flushed_at_each_look_so_that_others_may_write_between_two_steps(
    keeper: GalleryKeeper, gallery: CountedGallery, clock: Clock
) -> None:
    for _ in range(400):
        clock.now += 0.0101
        keeper.look_after(clock.now)
    assert gallery.flushes == 400


def test_who_is_too_old_goes_by_the_present_though_no_frame_comes(
    keeper: GalleryKeeper, gallery: CountedGallery
) -> None:
    embedding = np.array([1, 0], np.float32)
    identity = gallery.add(embedding, camera="gate", modality=Modality.VISIBLE, time=1000.0)
    assert keeper.look_after(1000.0) == []
    assert keeper.look_after(1000.0 + PRUNE_PAUSE) == []
    assert keeper.look_after(1000.0 + 61) == [identity]
    assert keeper.count() == 0


def test_failures_are_counted_and_told_once_and_so_is_that_it_is_well_again(
    keeper: GalleryKeeper, told: Told, clock: Clock
) -> None:
    assert keeper.attempt(lambda: 5, 0) == 5
    for _ in range(3):
        clock.now += 20
        assert keeper.attempt(fails(clock), 7) == 7
        keeper.look_after(clock.now)
    assert [event["event"] for event in told.events] == ["output_failed"]
    assert told.events[0]["output"] == OUTPUT
    assert "no space left" in told.events[0]["reason"]
    clock.now += QUIET + 1
    keeper.look_after(clock.now)
    assert told.events[1]["event"] == "output_back"
    assert told.events[1]["lost"] == keeper.failures == 3
    keeper.attempt(fails(clock), 7)
    assert [event["event"] for event in told.events[2:]] == ["output_failed"]


def test_a_gallery_that_hangs_is_waited_for_once_and_then_left_alone(
    keeper: GalleryKeeper, clock: Clock
) -> None:
    locked = fails(clock, seconds=10.0)
    keeper.attempt(locked, 0)
    begin = clock.now
    for _ in range(100):
        assert keeper.attempt(locked, 0) == 0
    assert clock.now == begin, "nobody waited"
    clock.now += REST
    assert keeper.attempt(lambda: 5, 0) == 5


def test_a_fault_of_ours_is_no_failure_of_the_gallery(keeper: GalleryKeeper) -> None:
    with pytest.raises(ZeroDivisionError):
        keeper.attempt(lambda: 1 // 0, 0)
