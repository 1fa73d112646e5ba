from __future__ import annotations

import logging
import socket
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from mip_edge.errors import SourceError
from mip_edge.live import capture
from mip_edge.live.capture import find_images, has_gstreamer, open_capture
from mip_edge.live.source import VideoSource
from mip_edge.live.source_options import SourceOptions

PIPELINE = "gst:rtspsrc location=rtsp://u:secret@h/p ! decodebin ! videoconvert ! appsink"


def write_images(folder: Path, shades: dict[str, int]) -> None:
    folder.mkdir(exist_ok=True)
    for name, shade in shades.items():
        cv2.imwrite(str(folder / name), np.full((8, 6, 3), (shade, 0, 200), np.uint8))


def read_all(source: VideoSource) -> list[tuple[int, float, int]]:
    found = []
    while (frame := source.read()) is not None:
        found.append((frame.index, frame.time, int(frame.image[0, 0, 2])))
    source.close()
    return found


def test_a_folder_of_images_is_read_in_natural_order_at_its_rate(tmp_path: Path) -> None:
    write_images(tmp_path / "gate", {"f10.png": 10, "f2.png": 2, "F1.PNG": 1})
    (tmp_path / "gate" / "notes.txt").write_text("no image")
    options = SourceOptions("gate", str(tmp_path / "gate"), rate=4.0)
    source = VideoSource(options, realtime=False)
    assert (source.rate, source.width, source.height) == (4.0, 6, 8)
    assert read_all(source) == [(0, 0.0, 1), (1, 0.25, 2), (2, 0.5, 10)]
    assert source.exhausted


def test_images_are_rgb_like_every_frame(tmp_path: Path) -> None:
    write_images(tmp_path / "gate", {"1.png": 30})
    frame = VideoSource(SourceOptions("g", str(tmp_path / "gate" / "1.png")), realtime=False).read()
    assert frame is not None
    assert frame.image[0, 0].tolist() == [200, 0, 30]


def test_a_glob_reaches_into_folders_and_one_image_a_second_is_the_rule(tmp_path: Path) -> None:
    write_images(tmp_path / "day2", {"1.png": 21})
    write_images(tmp_path / "day10", {"1.png": 101, "1.bmp": 99})
    source = VideoSource(SourceOptions("g", str(tmp_path / "*" / "*.png")), realtime=False)
    assert read_all(source) == [(0, 0.0, 21), (1, 1.0, 101)]


def test_an_unreadable_image_is_told_once_counted_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path / "gate", {"2.png": 2, "5.png": 5})
    for name in ("1.png", "3.png", "4.png", "6.png"):
        (tmp_path / "gate" / name).write_bytes(b"\x89PNG broken")
    with caplog.at_level(logging.WARNING):
        source = VideoSource(SourceOptions("gate", str(tmp_path / "gate")), realtime=False)
        assert read_all(source) == [(1, 1.0, 2), (4, 4.0, 5)], "numbers are places in the folder"
    assert source.unreadable == 4
    (told,) = caplog.messages
    assert "1.png is no image that can be decoded" in told


def test_images_in_realtime_play_at_their_rate(tmp_path: Path) -> None:
    write_images(tmp_path / "gate", {"1.png": 1, "2.png": 2, "3.png": 3})
    options = SourceOptions("gate", str(tmp_path / "gate"), rate=20.0)
    source = VideoSource(options, realtime=True)
    begin, shades = time.monotonic(), []
    while not source.exhausted:
        frame = source.read(0.05)
        if frame is not None:
            shades.append(int(frame.image[0, 0, 2]))
    assert time.monotonic() - begin >= 0.08
    assert shades[-1] == 3
    source.close()


def test_a_folder_without_images_and_a_rate_for_a_video_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no image; expected some that end in \.png"):
        open_capture(SourceOptions("gate", str(tmp_path)))
    with pytest.raises(SourceError, match="holds no image"):
        open_capture(SourceOptions("gate", str(tmp_path / "*.png")))
    (tmp_path / "gate.mp4").write_bytes(b"video")
    with pytest.raises(SourceError, match="rate is for a folder or glob of images"):
        open_capture(SourceOptions("gate", str(tmp_path / "gate.mp4"), rate=2.0))
    assert find_images(str(tmp_path / "gate.mp4")) is None


def test_a_folder_of_only_broken_images_gives_no_picture(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(SourceError, match="gives no picture"):
        VideoSource(SourceOptions("gate", str(tmp_path)), realtime=False)


@pytest.mark.parametrize(
    ("url", "device"), [("987", "/dev/video987"), ("/dev/v4l/by-id/usb-none", "by-id/usb-none")]
)
def test_a_camera_that_is_not_there_is_named(
    url: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(SourceError, match=f"there is no camera .*{device}"):
        VideoSource(SourceOptions("gate", url), realtime=True)


@pytest.mark.skipif(has_gstreamer(), reason="this OpenCV has GStreamer")
def test_a_pipeline_without_gstreamer_names_the_way_out() -> None:
    with pytest.raises(SourceError, match="without GStreamer") as error:
        open_capture(SourceOptions("jetson", PIPELINE))
    assert "JetPack" in str(error.value)
    assert "rtsp://" in str(error.value)


@pytest.mark.parametrize(("words", "there"), [("YES (1.20.3)", True), ("NO", False)])
def test_gstreamer_is_what_the_build_of_opencv_says(
    words: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"    FFMPEG:    YES\n    GStreamer:                   {words}\n    v4l/v4l2: YES\n"
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: text)
    assert has_gstreamer() is there


def test_a_pipeline_goes_to_gstreamer_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(capture, "has_gstreamer", lambda: True)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *call: calls.append(call))
    open_capture(SourceOptions("jetson", PIPELINE))
    assert calls == [(PIPELINE.removeprefix("gst:"), cv2.CAP_GSTREAMER)]
    with pytest.raises(SourceError, match="has no appsink") as error:
        open_capture(SourceOptions("jetson", PIPELINE.replace("appsink", "fakesink")))
    assert "secret" not in str(error.value)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_a_host_that_cannot_be_a_name_is_told_without_its_password() -> None:
    long = SourceOptions("gate", f"rtsp://user:secret@{'a' * 70}.example/path")
    with pytest.raises(SourceError, match=r"--source gate: rtsp.*does not answer") as told:
        open_capture(long)
    assert "secret" not in str(told.value)


def test_a_server_that_is_off_is_told_at_once_and_without_the_password() -> None:
    url = f"rtsp://user:secret@127.0.0.1:{free_port()}/gate"
    begin = time.monotonic()
    with pytest.raises(SourceError, match=r"user:\*\*\*@127.* does not answer .connection refused"):
        open_capture(SourceOptions("gate", url))
    assert time.monotonic() - begin < 1.0


def test_ways_that_only_ffmpeg_knows_are_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda url, *_: calls.append(url))
    closed = f"127.0.0.1:{free_port()}"
    urls = ["udp://127.0.0.1:1", "srt://h:1", "rtsp://[broken/gate"]
    for url in urls:
        open_capture(SourceOptions("gate", url))
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;http")
    open_capture(SourceOptions("gate", f"rtsp://{closed}/gate"))
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:3128")
    open_capture(SourceOptions("gate", f"http://{closed}/gate"))
    assert calls == [*urls, f"rtsp://{closed}/gate", f"http://{closed}/gate"]
