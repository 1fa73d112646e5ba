from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mip_edge.errors import SourceError
from mip_edge.live import link as link_module
from mip_edge.live import reader as reader_module
from mip_edge.live import source as source_module
from mip_edge.live.link import Link, retry_pauses
from mip_edge.live.source import Frame, SourceState, VideoSource
from mip_edge.live.source_options import SourceOptions
from mip_edge.spec import Modality


class FakeCapture:
    """Hands out as many pictures as it was given, then nothing; red in BGR order."""

    def __init__(
        self,
        frames: int,
        rate: float = 10.0,
        fault: BaseException | None = None,
        hang: threading.Event | None = None,
        period: float = 0.0,
    ) -> None:
        self.left, self.rate, self.fault, self.hang = frames, rate, fault, hang
        self.period = period
        self.sizes = [(4, 6)]
        self.unreadable: set[int] = set()
        self.taken = 0
        self.released = False

    def isOpened(self) -> bool:
        return self.left > 0

    def grab(self) -> bool:
        time.sleep(self.period)
        if self.left <= 0:
            if self.hang is not None:
                self.hang.wait()
            if self.fault is not None:
                raise self.fault
            return False
        self.left -= 1
        self.taken += 1
        return True

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        if self.taken - 1 in self.unreadable:
            return False, np.empty((0, 0, 3), np.uint8)
        image = np.zeros((*self.sizes[min(self.taken, len(self.sizes)) - 1], 3), np.uint8)
        image[:, :, 2] = 255
        return True, image

    def get(self, propId: int) -> float:
        return self.rate if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        self.released = True


FILE = SourceOptions("gate", "gate.mp4", Modality.VISIBLE)
STREAM = SourceOptions("gate", "rtsp://user:secret@host/path", Modality.INFRARED)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """All waits of a source a hundred times shorter."""
    monkeypatch.setattr(link_module, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(link_module, "LONGEST_PAUSE", 0.025)
    monkeypatch.setattr(reader_module, "STALL_SECONDS", 0.05)


def opened(options: SourceOptions, *captures: FakeCapture, realtime: bool = True) -> VideoSource:
    """A source that meets these captures one after the other, then only closed ones."""
    waiting = list(captures)

    def capture(options: SourceOptions) -> FakeCapture:
        return waiting.pop(0) if waiting else FakeCapture(0)

    rng = np.random.default_rng(1)
    return VideoSource(options, realtime=realtime, capture=capture, rng=rng)


def frames_of(source: VideoSource, wait: float = 2.0) -> Iterator[Frame]:
    deadline = time.monotonic() + wait
    while not source.exhausted and time.monotonic() < deadline:
        frame = source.read(0.05)
        if frame is not None:
            yield frame


def until(true: Callable[[], object], wait: float = 5.0) -> bool:
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.002)
    return False


def test_a_stream_that_does_not_open_is_told_without_its_password() -> None:
    closed = FakeCapture(0)
    with pytest.raises(SourceError, match=r"user:\*\*\*@host") as error:
        opened(STREAM, closed)
    assert "secret" not in str(error.value)
    assert closed.released


def test_a_missing_file_and_a_file_that_is_no_video_are_source_errors(tmp_path: Path) -> None:
    missing = SourceOptions("gate", str(tmp_path / "none.mp4"))
    with pytest.raises(SourceError, match="does not exist"):
        VideoSource(missing, realtime=False)
    (tmp_path / "text.mp4").write_text("this is no video")
    text = SourceOptions("gate", str(tmp_path / "text.mp4"))
    with pytest.raises(SourceError, match="gives no picture"):
        VideoSource(text, realtime=True)


def test_without_realtime_every_frame_of_a_file_comes_in_rgb_with_its_own_time() -> None:
    source = opened(FILE, FakeCapture(7, rate=10), realtime=False)
    frames = list(frames_of(source))
    assert [frame.index for frame in frames] == list(range(7))
    assert frames[6].time == pytest.approx(0.6)
    assert frames[3].image[0, 0].tolist() == [255, 0, 0], "BGR ends at the source"
    assert (source.state, source.dropped) == (SourceState.ENDED, 0)
    source.close()


def test_a_real_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "gate.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (64, 48))
    for shade in range(5):
        writer.write(np.full((48, 64, 3), 40 * shade, np.uint8))
    writer.release()
    source = VideoSource(SourceOptions("gate", str(path)), realtime=False)
    frames = list(frames_of(source))
    source.close()
    assert (source.width, source.height, source.rate) == (64, 48, 20.0)
    assert [round(float(frame.image.mean()) / 40) for frame in frames] == [0, 1, 2, 3, 4]


@given(
    st.integers(1, 12).flatmap(
        lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))
    )
)
def test_frames_that_cannot_be_decoded_are_counted_and_leave_a_gap(
    recording: tuple[int, set[int]],
) -> None:
    count, unreadable = recording
    capture = FakeCapture(count)
    capture.unreadable = unreadable
    if len(unreadable) == count:
        with pytest.raises(SourceError, match="no picture"):
            opened(FILE, capture, realtime=False)
        return
    source = opened(FILE, capture, realtime=False)
    assert [f.index for f in frames_of(source)] == sorted(set(range(count)) - unreadable)
    assert source.unreadable == len(unreadable)


def test_in_realtime_a_file_keeps_the_newest_frame_and_counts_what_was_dropped() -> None:
    source = opened(FILE, FakeCapture(10, rate=200))
    assert until(lambda: source.state is SourceState.ENDED)
    frame = source.read()
    assert frame is not None
    assert frame.index == 9
    assert source.dropped == 9, "all but the last one"
    assert source.exhausted
    source.close()


def test_in_realtime_a_file_plays_at_its_own_speed() -> None:
    begin = time.monotonic()
    source = opened(FILE, FakeCapture(6, rate=50))
    frames = list(frames_of(source))
    assert time.monotonic() - begin >= 0.09
    assert frames[-1].index == 5
    assert len(frames) + source.dropped == 6
    source.close()


def test_a_late_file_skips_frames_by_the_injected_clock() -> None:
    late = threading.Event()
    source = VideoSource(
        FILE,
        realtime=True,
        now=lambda: 100.0 if late.is_set() else 0.0,
        capture=lambda _: FakeCapture(10, rate=10),
    )
    late.set()
    assert until(lambda: source.state is SourceState.ENDED)
    assert source.dropped >= 8
    source.close()


def test_a_file_that_is_read_slower_than_it_plays_is_still_seen_to_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once late it stays late: every frame was skipped, and the camera went blind for good."""
    clock = [0.0]

    class Slow(FakeCapture):
        def grab(self) -> bool:
            clock[0] += 0.15
            return super().grab()

    source = VideoSource(
        FILE, realtime=True, now=lambda: clock[0], capture=lambda _: Slow(100, rate=10)
    )
    assert until(lambda: source.state is SourceState.ENDED)
    frame = source.read()
    assert frame is not None
    assert frame.index >= 100 - 1 - source_module.LONGEST_BLIND / 0.15, "of 100 frames"
    assert source.dropped >= 50, "but not each of them"
    source.close()
    (told,) = caplog.messages
    assert "camera gate" in told
    assert "slower than it plays" in told


@pytest.mark.parametrize("rate", [0.0, float("nan"), float("inf"), -25.0, 90_000.0])
@pytest.mark.parametrize("options", [FILE, STREAM])
def test_a_rate_that_cannot_be_is_taken_for_25(options: SourceOptions, rate: float) -> None:
    source = opened(options, FakeCapture(5, rate=rate), realtime=False)
    assert source.rate == 25.0
    source.close()


def test_frames_that_change_size_in_mid_stream_go_through(quick: None) -> None:
    capture = FakeCapture(4, period=0.02)
    capture.sizes = [(4, 6), (4, 6), (8, 10), (2, 3)]
    source = opened(STREAM, capture)
    seen = set()
    for frame in frames_of(source, wait=0.3):
        seen.add(frame.image.shape)
        assert frame.image.shape == (source.height, source.width, 3), "of the frame handed out"
    assert seen == {(4, 6, 3), (8, 10, 3), (2, 3, 3)}
    source.close()


def test_the_age_of_a_frame_is_counted_from_when_it_was_decoded() -> None:
    clock = [100.0]
    source = VideoSource(
        FILE, realtime=False, now=lambda: clock[0], capture=lambda _: FakeCapture(2)
    )
    clock[0] = 107.0
    first, second = source.read(), source.read()
    assert first is not None
    assert second is not None
    assert (first.captured, second.captured) == (100.0, 107.0)
    clock[0] = 109.5
    assert source.age == 2.5


def test_a_lost_stream_is_a_state_and_comes_back(quick: None) -> None:
    captures: list[FakeCapture] = []
    allowed, hang = threading.Event(), threading.Event()

    def capture(options: SourceOptions) -> FakeCapture:
        lasting = not captures or allowed.is_set()
        captures.append(FakeCapture(3 if lasting else 0, hang=hang if allowed.is_set() else None))
        return captures[-1]

    source = VideoSource(STREAM, realtime=True, capture=capture)
    assert until(lambda: source.state is SourceState.LOST)
    assert until(lambda: len(captures) >= 4), "it is tried again and again"
    assert until(lambda: source.lost_reason.startswith("rtsp://user:***@host/path gives no pic"))
    assert source.lost_for > 0
    indices = [frame.index for frame in frames_of(source, wait=0.05)]
    allowed.set()
    assert until(lambda: source.state is SourceState.LIVE), "and is live again"
    assert (source.reconnects, source.lost_reason, source.lost_for) == (1, "", 0.0)
    assert source.next_try is None
    frame = source.read()
    assert frame is not None
    assert frame.index > indices[-1], "frames are counted on"
    hang.set()
    source.close()
    assert all(capture.released for capture in captures)


def test_what_opencv_throws_is_a_lost_stream_and_not_the_end(quick: None) -> None:
    fault = cv2.error("bad stream")
    fault.err = "rtsp://user:secret@host/path is bad"
    source = opened(STREAM, FakeCapture(2, fault=fault), FakeCapture(1000, period=0.001))
    assert until(lambda: source.reconnects == 1)
    source.close()
    source = opened(STREAM, FakeCapture(2, fault=fault))
    assert until(lambda: "OpenCV cannot read rtsp://user:***@host" in source.lost_reason)
    source.close()


def test_frames_that_only_a_timeout_brings_are_no_sign_of_life() -> None:
    """FFmpeg gives what its decoder held back, one frame each time that its read times out."""
    clock = [0.0]

    class Leftovers(FakeCapture):
        def grab(self) -> bool:
            clock[0] += 0.0 if self.taken == 0 else 4.02
            return super().grab()

    leftovers = [Leftovers(3)]
    source = VideoSource(
        STREAM,
        realtime=True,
        now=lambda: clock[0],
        capture=lambda _: leftovers.pop() if leftovers else FakeCapture(0),
    )
    assert until(lambda: source.state is SourceState.LOST)
    assert source.lost_reason == "no frame for 4 s"
    assert source.read() is not None, "the one that came in time"
    assert source.read() is None
    source.close()


def test_the_pauses_between_tries_grow_to_a_limit_and_are_spread() -> None:
    pauses = list(islice(retry_pauses(np.random.default_rng(3)), 6))
    highest = np.array([0.5, 1, 2, 2.5, 2.5, 2.5])
    assert np.all(pauses <= highest)
    assert np.all(pauses >= 0.75 * highest)
    assert len(set(pauses[3:])) == 3
    assert pauses == list(islice(retry_pauses(np.random.default_rng(3)), 6))
    assert pauses != list(islice(retry_pauses(np.random.default_rng(4)), 6))


def test_a_stream_that_drops_within_its_first_second_goes_on_with_longer_pauses() -> None:
    clock = [0.0]
    link = Link(lambda: clock[0], np.random.default_rng(0))

    def fall_after(seconds: float) -> float:
        link.restore()
        clock[0] += seconds
        link.lose("gone", newest=clock[0])
        return link.plan()

    assert fall_after(100) <= 0.5
    assert fall_after(0.9) > 0.7
    assert fall_after(0.5) > 1.4
    assert fall_after(0.0) > 1.8
    assert fall_after(1.0) <= 0.5, "it held: the next fall is a new one"


def test_the_next_try_is_counted_down() -> None:
    clock = [0.0]
    link = Link(lambda: clock[0], np.random.default_rng(0))
    assert link.next_try is None
    link.lose("gone", newest=0.0)
    pause = link.plan()
    clock[0] = 0.25
    assert link.next_try == pytest.approx(pause - 0.25)
    assert link.lost_for == 0.25
    clock[0] = 9.0
    assert link.next_try == 0.0
    link.try_now()
    assert link.next_try is None


def test_a_camera_that_hangs_for_ever_is_lost_and_stops_neither_the_others_nor_the_end(
    quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    never = threading.Event()
    stuck = [FakeCapture(2, hang=never), FakeCapture(2, hang=never), FakeCapture(2, hang=never)]
    waiting = list(stuck)
    hanging = VideoSource(STREAM, realtime=True, capture=lambda _: waiting.pop(0))
    other = opened(SourceOptions("yard", "1"), FakeCapture(10_000, period=0.005))
    seen = states = 0
    begin = time.monotonic()
    while time.monotonic() - begin < 0.6:
        hanging.read()
        states += hanging.state is SourceState.LOST
        seen += other.read(0.01) is not None
    assert states > 0
    assert hanging.lost_reason.startswith("no frame for ")
    assert seen > 20, "the other camera ran on"
    assert hanging.reconnects == 1, "a new try beside it brought frames, and then hung too"
    assert len(waiting) == 1, "never more than one thread is left behind"
    assert threads("gate") == 2
    begin = time.monotonic()
    with caplog.at_level(logging.WARNING):
        hanging.close()
        other.close()
    assert time.monotonic() - begin < 2.0
    assert caplog.messages == ["camera gate: its reading thread hangs and is left behind"]
    assert not any(capture.released for capture in stuck[:2]), "nothing is pulled from under it"
    never.set()
    assert until(lambda: threads("gate") == 0)
    assert all(capture.released for capture in stuck[:2])


def test_many_cameras_that_hang_are_waited_for_at_the_same_time() -> None:
    never = threading.Event()
    hanging = [opened(STREAM, FakeCapture(1, hang=never)) for _ in range(4)]
    begin = time.monotonic()
    for source in hanging:
        source.stop()
    for source in hanging:
        source.close()
    assert time.monotonic() - begin < 1.9, "not a second each"
    never.set()
    assert until(lambda: threads("gate") == 0)


def threads(name: str) -> int:
    return sum(thread.name == f"source-{name}" for thread in threading.enumerate())


def test_a_thread_that_was_left_behind_changes_nothing_when_it_wakes(quick: None) -> None:
    hang = threading.Event()
    old = FakeCapture(2, hang=hang, fault=RuntimeError("the driver woke up"))
    source = opened(STREAM, old, FakeCapture(100_000, period=0.002))
    assert until(lambda: source.read() is None and source.state is SourceState.LOST)
    assert until(lambda: source.read() is not None and source.state is SourceState.LIVE)
    hang.set()
    assert until(lambda: old.released)
    assert until(lambda: source.read() is not None)
    assert source.state is SourceState.LIVE
    source.close()


def test_a_camera_that_hangs_while_it_is_opened_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source_module, "OPEN_SECONDS", 0.1)
    monkeypatch.setattr(source_module, "JOIN_SECONDS", 0.1)
    hang = threading.Event()

    def capture(options: SourceOptions) -> FakeCapture:
        hang.wait()
        return FakeCapture(1)

    with pytest.raises(SourceError, match=r"gave no picture for 0\.1 s"):
        VideoSource(STREAM, realtime=True, capture=capture)
    hang.set()
    assert until(lambda: threads("gate") == 0)


def test_a_stream_whose_pictures_cannot_be_decoded_is_lost(quick: None) -> None:
    capture = FakeCapture(1_000_000, period=0.001)
    capture.unreadable = set(range(1, 1_000_000))
    source = opened(STREAM, capture)
    assert until(lambda: source.read() is None and source.state is SourceState.LOST)
    assert source.unreadable > 0
    assert until(lambda: capture.released), "its thread does not hang, so it ends"
    source.close()


def test_a_system_clock_that_jumps_is_not_even_asked(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(time, "time", lambda: asked.append("time") or 0.0)
    source = opened(STREAM, FakeCapture(3), FakeCapture(100_000, period=0.002))
    assert until(lambda: source.reconnects == 1)
    assert until(lambda: source.read(0.05) is not None)
    source.close()
    assert asked == []


def test_what_a_thread_dies_of_reaches_the_reader() -> None:
    source = opened(STREAM, FakeCapture(2, fault=RuntimeError("driver gone")))
    assert until(lambda: source.state is SourceState.ENDED)
    assert source.read() is not None, "the last frame first"
    assert not source.exhausted, "a loop that asks for more hears of it"
    with pytest.raises(RuntimeError, match="driver gone"):
        source.read()
    source.close()


def test_closing_joins_the_thread() -> None:
    capture = FakeCapture(10_000, rate=1)
    source = opened(FILE, capture)
    assert threads("gate") == 1
    source.close()
    assert threads("gate") == 0
    assert capture.released


def test_closing_does_not_wait_for_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "FIRST_PAUSE", 60.0)
    source = opened(STREAM, FakeCapture(1))
    assert until(lambda: source.next_try is not None and source.next_try > 40)
    begin = time.monotonic()
    source.close()
    assert time.monotonic() - begin < 0.5
