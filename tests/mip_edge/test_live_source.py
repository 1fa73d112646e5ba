from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mip_edge.errors import OptionError, SourceError
from mip_edge.live import source as source_module
from mip_edge.live.source import (
    Frame,
    SourceOptions,
    SourceState,
    VideoSource,
    parse_sources,
    retry_pauses,
    shown_url,
)
from mip_edge.spec import Modality


class FakeCapture:
    """Hands out as many pictures as it was given, then nothing; red in BGR order."""

    def __init__(self, frames: int, rate: float = 10.0, fault: BaseException | None = None) -> None:
        self.left, self.rate, self.fault, self.released = frames, rate, fault, False
        self.gate: threading.Semaphore | None = None

    def isOpened(self) -> bool:
        return self.left > 0

    def grab(self) -> bool:
        if self.gate is not None:
            self.gate.acquire(timeout=5)
        if self.left <= 0:
            if self.fault is not None:
                raise self.fault
            return False
        self.left -= 1
        return True

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        image = np.zeros((4, 6, 3), np.uint8)
        image[:, :, 2] = 255
        return True, image

    def get(self, propId: int) -> float:
        return self.rate if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        self.released = True


FILE = SourceOptions("gate", "gate.mp4", Modality.VISIBLE)
STREAM = SourceOptions("gate", "rtsp://user:secret@host/path", Modality.INFRARED)


def frames_of(source: VideoSource, wait: float = 2.0) -> Iterator[Frame]:
    deadline = time.monotonic() + wait
    while not source.exhausted and time.monotonic() < deadline:
        frame = source.read(0.05)
        if frame is not None:
            yield frame


def until(true: Callable[[], bool], wait: float = 5.0) -> bool:
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.002)
    return False


def test_a_source_is_parsed_whatever_the_order_of_its_keys() -> None:
    source = SourceOptions.parse("modality=infrared, url=a,b.mp4 ,name=gate")
    assert (source.name, source.url, source.modality) == ("gate", "a,b.mp4", Modality.INFRARED)
    query = SourceOptions.parse("name=n,url=rtsp://h/p?a=1&b=2,modality=visible")
    assert query.url == "rtsp://h/p?a=1&b=2"
    assert SourceOptions.parse("name=n,url=0,modality=visible").is_file is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name=gate,url=0", "--source gate has no modality"),
        ("name=gate,modality=visible", "--source gate has no url"),
        ("url=0,modality=visible", "--source has no name"),
        ("name=gate,url=,modality=visible", "has no url"),
        ("name=gate,url=0,modalty=visible", "no key 'modalty'"),
        ("gate.mp4", "no key 'gate.mp4'"),
        ("name=gate,url=0,url=1,modality=visible", "url twice"),
        ("name=gate,url=0,modality=thermal", "visible or infrared, got 'thermal'"),
    ],
)
def test_a_source_that_cannot_be_is_one_clear_line(text: str, words: str) -> None:
    with pytest.raises(OptionError, match="^[^\n]*$") as error:
        SourceOptions.parse(text)
    assert words in str(error.value)


def test_names_of_sources_must_differ_and_one_must_be_there() -> None:
    with pytest.raises(OptionError, match="'gate' is given twice"):
        parse_sources(["name=gate,url=0,modality=visible", "name=gate,url=1,modality=visible"])
    with pytest.raises(OptionError, match="at least one"):
        parse_sources([])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:secret@host:554/path", "rtsp://user:***@host:554/path"),
        ("rtsp://user:se/cr@et@host/path", "rtsp://user:***@host/path"),
        (
            "http://host/video?user=a&password=secret&x=1",
            "http://host/video?user=a&password=***&x=1",
        ),
        ("http://host/video?access_token=secret", "http://host/video?access_token=***"),
        ("rtsp://host:554/path", "rtsp://host:554/path"),
        ("folder/gate.mp4", "folder/gate.mp4"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert "secret" not in repr(SourceOptions("gate", url, Modality.VISIBLE))


def test_a_stream_that_does_not_open_is_told_without_its_password() -> None:
    with pytest.raises(SourceError, match=r"user:\*\*\*@host") as error:
        VideoSource(STREAM, realtime=True, now=time.monotonic, capture=lambda _: FakeCapture(0))
    assert "secret" not in str(error.value)


def test_a_missing_file_and_a_file_that_is_no_video_are_source_errors(tmp_path: Path) -> None:
    missing = SourceOptions("gate", str(tmp_path / "none.mp4"), Modality.VISIBLE)
    with pytest.raises(SourceError, match="does not exist"):
        VideoSource(missing, realtime=False, now=time.monotonic)
    (tmp_path / "text.mp4").write_text("this is no video")
    text = SourceOptions("gate", str(tmp_path / "text.mp4"), Modality.VISIBLE)
    with pytest.raises(SourceError, match="gives no picture"):
        VideoSource(text, realtime=False, now=time.monotonic)


def test_a_camera_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    camera = SourceOptions("gate", "987", Modality.VISIBLE)
    with pytest.raises(SourceError, match="no camera /dev/video987"):
        VideoSource(camera, realtime=True, now=time.monotonic)


def test_without_realtime_every_frame_of_a_file_comes_in_rgb_with_its_own_time() -> None:
    source = VideoSource(
        FILE, realtime=False, now=time.monotonic, capture=lambda _: FakeCapture(7, rate=10)
    )
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
    options = SourceOptions("gate", str(path), Modality.VISIBLE)
    source = VideoSource(options, realtime=False, now=time.monotonic)
    frames = list(frames_of(source))
    source.close()
    assert (source.width, source.height, source.rate) == (64, 48, 20.0)
    assert [round(float(frame.image.mean()) / 40) for frame in frames] == [0, 1, 2, 3, 4]


def test_in_realtime_a_file_keeps_the_newest_frame_and_counts_what_was_dropped() -> None:
    source = VideoSource(
        FILE, realtime=True, now=time.monotonic, capture=lambda _: FakeCapture(10, rate=200)
    )
    assert until(lambda: source.state is SourceState.ENDED)
    frame = source.read()
    assert frame is not None
    assert frame.index == 9
    assert source.dropped == 9, "all but the last one"
    assert source.exhausted
    source.close()


def test_in_realtime_a_file_plays_at_its_own_speed() -> None:
    source = VideoSource(
        FILE, realtime=True, now=time.monotonic, capture=lambda _: FakeCapture(6, rate=50)
    )
    begin = time.monotonic()
    frames = list(frames_of(source))
    assert time.monotonic() - begin >= 0.09
    assert frames[-1].index == 5
    assert len(frames) + source.dropped == 6
    source.close()


def test_a_late_file_skips_frames_by_the_injected_clock() -> None:
    seconds = iter([0.0, 0.0] + [100.0] * 50)
    source = VideoSource(
        FILE, realtime=True, now=lambda: next(seconds), capture=lambda _: FakeCapture(10, rate=10)
    )
    assert until(lambda: source.state is SourceState.ENDED)
    assert source.dropped >= 9
    source.close()


def test_a_lost_stream_is_a_state_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "FIRST_PAUSE", 0.02)
    opened: list[FakeCapture] = []
    allowed = threading.Event()

    def capture(options: SourceOptions) -> FakeCapture:
        lasting = not opened or allowed.is_set()
        opened.append(FakeCapture(3 if lasting else 0))
        return opened[-1]

    source = VideoSource(STREAM, realtime=True, now=time.monotonic, capture=capture)
    assert until(lambda: source.state is SourceState.LOST)
    assert until(lambda: len(opened) >= 3), "it is tried again and again"
    while source.read() is not None:
        pass
    allowed.set()
    assert until(lambda: source.read() is not None), "and is live again"
    source.close()
    assert all(capture.released for capture in opened)


def test_the_pauses_between_tries_grow_to_a_limit() -> None:
    assert list(islice(retry_pauses(), 7)) == [1, 2, 4, 8, 16, 30, 30]


def test_what_a_thread_dies_of_reaches_the_reader() -> None:
    fault = RuntimeError("driver gone")
    source = VideoSource(
        STREAM, realtime=True, now=time.monotonic, capture=lambda _: FakeCapture(2, fault=fault)
    )
    assert until(lambda: source.state is SourceState.ENDED)
    assert source.read() is not None, "the last frame first"
    assert not source.exhausted, "a loop that asks for more hears of it"
    with pytest.raises(RuntimeError, match="driver gone"):
        source.read()
    source.close()


def test_closing_joins_the_thread() -> None:
    source = VideoSource(
        FILE, realtime=True, now=time.monotonic, capture=lambda _: FakeCapture(10_000, rate=1)
    )
    assert any(thread.name == "source-gate" for thread in threading.enumerate())
    source.close()
    assert not any(thread.name == "source-gate" for thread in threading.enumerate())
