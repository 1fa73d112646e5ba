"""How a run ends: what it recorded is whole, though it dies, and its report names what is there."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from mip_edge.commands import live as command
from mip_edge.errors import EngineError
from mip_edge.gallery.memory import MemoryGallery
from mip_edge.live import output as output_module
from mip_edge.live.audience import Audience
from mip_edge.live.camera import Camera
from mip_edge.live.keeper import GalleryKeeper
from mip_edge.live.loop import LiveOptions, LiveReport, run_live
from mip_edge.live.need import NeedOptions
from mip_edge.live.output import VideoFile
from mip_edge.live.recorder import Recorder
from mip_edge.live.report import CameraReport
from mip_edge.live.screen import Screen
from mip_edge.live.source_options import SourceOptions
from mip_edge.live.view import CameraView
from mip_edge.spec import Crop, Embeddings, Modality
from tests.mip_edge.stage import RATE, CountedGallery, FindsBright, FullDisk, Passage

FRAMES = 40
DIES_AT = 20
"""The step, from 0, in which the embedder dies: its first 20 are whole."""
Picture = NDArray[np.uint8]


class Embedder:
    """Sees one person in all crops, and dies of `error` in its 21st call."""

    fingerprint, dimension, min_similarity = "one", 2, 0.9

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls, self._error = 0, error

    def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
        # The first call warms up; in the first step nobody is embedded yet.
        if self.calls == DIES_AT and self._error is not None:
            raise self._error
        self.calls += 1
        return np.tile(np.array([1, 0], np.float32), (len(crops), 1))


@pytest.fixture(autouse=True)
def walker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mip_edge.live.camera.open_detector", lambda *_, **__: FindsBright())


def play(
    embedder: Embedder,
    *,
    gallery: MemoryGallery | None = None,
    on_step: Callable[[Sequence[Any]], None] | None = None,
    **options: Any,
) -> LiveReport:
    """One camera, each crop embedded in each step."""
    return run_live(
        LiveOptions(
            sources=(SourceOptions("gate", "gate.mp4", Modality.VISIBLE),),
            need=NeedOptions(max_age=0.0, per_track_gap=0.0),
            **{"realtime": False, **options},
        ),
        embedder,
        gallery=gallery,
        on_step=on_step,
        capture=lambda _: Passage(FRAMES),
    )


def events_of(path: Path, *kinds: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [event for event in events if not kinds or event["event"] in kinds]


def frames_of(path: Path) -> int:
    """Frames of a video that are really decoded."""
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EngineError("the GPU fell off the bus"), "the GPU fell off the bus"),
        (MemoryError(), "MemoryError"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError: a bug"),
        (
            RuntimeError("no answer of rtsp://me:secret@host/door"),
            "RuntimeError: no answer of rtsp://me:***@host/door",
        ),
    ],
)
def test_a_run_that_dies_keeps_what_it_recorded_and_tells_what_it_died_of(
    error: Exception, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, videos, gallery = (
        tmp_path / "events.jsonl",
        tmp_path / "site",
        CountedGallery(fingerprint="one", dimension=2),
    )
    with pytest.raises(type(error)) as caught:
        play(Embedder(error), gallery=gallery, events=path, save=videos)
    assert caught.value is error
    assert sorted(video.name for video in videos.iterdir()) == ["gate.mp4", "mosaic.mp4"]
    assert [frames_of(video) for video in videos.iterdir()] == [DIES_AT] * 2
    events = events_of(path)
    end = events[-1]
    assert (end["event"], end["failed"]) == ("end", told)
    assert (end["steps"], end["identities"]) == (DIES_AT, 1)
    assert end["outputs"] == [*map(str, sorted(videos.iterdir())), str(path)]
    assert [event["event"] for event in events[-2:]] == ["left", "end"], "nobody is there any more"
    assert gallery.flushes > 0
    assert "what was recorded until then is kept" in caplog.text


def test_a_run_that_ends_well_says_that_nothing_ended_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    report = play(Embedder(), events=path)
    (end,) = events_of(path, "end")
    assert end["failed"] is report.failed is None


def test_the_video_of_a_live_run_that_dies_is_kept_too(tmp_path: Path) -> None:
    def die(cameras: Sequence[Any]) -> None:
        if cameras[0].frames == 2:
            raise EngineError("gone")

    video = tmp_path / "out.mp4"
    with pytest.raises(EngineError):
        play(Embedder(), save=video, realtime=True, on_step=die)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert frames_of(video) > 0


@pytest.mark.parametrize("work", ["Camera.leave", "Audience.finish", "GalleryKeeper.count"])
def test_a_clean_up_that_fails_hides_neither_the_first_error_nor_the_other_clean_ups(
    work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a second fault")

    kind, name = work.split(".")
    monkeypatch.setattr(
        {c.__name__: c for c in (Camera, Audience, GalleryKeeper)}[kind], name, broken
    )
    path, video, gallery = (
        tmp_path / "events.jsonl",
        tmp_path / "out.mp4",
        CountedGallery(fingerprint="one", dimension=2),
    )
    with pytest.raises(EngineError, match="the first"):
        play(Embedder(EngineError("the first")), gallery=gallery, events=path, save=video)
    assert events_of(path)[-1]["failed"] == "the first"
    assert gallery.flushes > 0
    assert video.is_file() == (kind != "Audience")
    assert "a second fault" in caplog.text


def test_where_no_report_can_be_made_the_events_still_say_why_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> dict[str, Any]:
        raise MemoryError

    monkeypatch.setattr(LiveReport, "as_dict", broken)
    path = tmp_path / "events.jsonl"
    with pytest.raises(EngineError, match="the first"):
        play(Embedder(EngineError("the first")), events=path)
    end = events_of(path)[-1]
    assert (end["event"], end["failed"]) == ("end", "the first")


def test_a_fault_as_a_good_run_ends_is_told_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, video, failed = tmp_path / "events.jsonl", tmp_path / "out.mp4", [ValueError("a bug")]
    real = Camera.leave

    def broken(camera: Camera) -> tuple[int, ...]:
        if failed:
            raise failed.pop()
        return real(camera)

    monkeypatch.setattr(Camera, "leave", broken)
    with pytest.raises(ValueError, match="a bug"):
        play(Embedder(), events=path, save=video)
    assert events_of(path)[-1]["failed"] == "ValueError: a bug"
    assert frames_of(video) == FRAMES


def test_a_video_thread_that_dies_leaves_what_it_had_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, real = threading.Event(), Recorder.update

    def once(recorder: Recorder, *given: Any) -> None:
        if first.is_set():
            raise ValueError("a bug")
        real(recorder, *given)
        first.set()

    monkeypatch.setattr(Recorder, "update", once)
    path = tmp_path / "out.mp4"
    screen = Screen({"gate": RATE}, save=path)
    image = np.full((240, 320, 3), 100, np.uint8)
    views = [CameraView("gate", Modality.VISIBLE, image=image, index=index) for index in (0, 1)]
    screen.update(views[:1])
    assert first.wait(30)

    def rest() -> None:
        # The loop hears of it here or there.
        screen.update(views[1:])
        screen.finish()

    with pytest.raises(ValueError, match="a bug"):
        rest()
    assert screen.finish() == screen.outputs == (str(path),)
    assert frames_of(path) == 1


def test_one_video_that_cannot_be_finished_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = output_module._frames_of

    def frames(path: Path) -> int:
        if "gate" in path.name:
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(output_module, "_frames_of", frames)
    report = play(Embedder(), save=tmp_path / "site")
    assert report.outputs == (str(tmp_path / "site" / "mosaic.mp4"),)
    (failure,) = report.failures
    assert "gate.mp4: 40 frames were written, 0 can be read back" in failure


def test_boxes_that_were_refused_are_counted_once_though_the_end_is_told_twice() -> None:
    camera = SimpleNamespace(
        report=CameraReport("gate", "visible"),
        source=SimpleNamespace(dropped=1, unreadable=2),
        tracker=SimpleNamespace(refused=3),
    )
    for _ in range(2):
        Camera.finish(cast(Camera, camera))
    assert (camera.report.dropped, camera.report.unreadable, camera.report.refused) == (1, 2, 3)


def test_a_rest_of_a_video_that_cannot_be_removed_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    VideoFile(tmp_path / "out.mp4", 10).discard()
    assert "cannot be removed: Read-only file system" in caplog.text


def test_the_command_shows_the_error_and_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(options: LiveOptions, *_: Any, **__: Any) -> LiveReport:
        return play(Embedder(EngineError("the GPU fell off the bus")), save=options.save)

    monkeypatch.setattr(command, "run", dies)
    video = tmp_path / "out.mp4"
    found = CliRunner().invoke(
        command.live, [str(tmp_path), "--source", "gate.mp4", "--save", str(video)]
    )
    assert found.exit_code == 1
    assert isinstance(found.exception, EngineError)
    assert video.is_file()


# Outputs that failed


def test_events_that_cannot_be_written_are_no_output_but_a_failure() -> None:
    report = play(Embedder(), events=Path("/dev/full"), overwrite=True)
    assert report.outputs == ()
    assert report.failures == ("--events /dev/full: No space left on device",)
    assert "wrote" not in report.table()
    assert "failed --events /dev/full: No space left on device" in report.table()


def test_events_whose_file_was_taken_away_are_no_output_but_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    def remove(cameras: Sequence[Any]) -> None:
        if cameras[0].frames == 5:
            path.unlink()

    report = play(Embedder(), events=path, on_step=remove)
    assert report.outputs == ()
    (failure,) = report.failures
    assert failure.startswith(f"--events {path}: ")
    assert "no longer" in failure


def test_events_that_work_again_are_an_output_with_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mip_edge.live.event.RETRY", 0.0)
    path, real, full = tmp_path / "events.jsonl", json.dumps, [True]

    def once(event: dict[str, Any], **how: Any) -> str:
        if event["event"] == "appeared" and full:
            full.clear()
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(event, **how)

    monkeypatch.setattr("mip_edge.live.event.json.dumps", once)
    report = play(Embedder(), events=path)
    assert report.outputs == (str(path),)
    assert report.failures == (f"--events {path}: No space left on device",)


def test_a_disk_that_is_full_at_the_last_line_is_known_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = json.dumps

    def full(event: dict[str, Any], **how: Any) -> str:
        if event["event"] == "end":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(event, **how)

    monkeypatch.setattr("mip_edge.live.event.json.dumps", full)
    path = tmp_path / "events.jsonl"
    report = play(Embedder(), events=path)
    assert report.outputs == ()
    assert report.failures == (f"--events {path}: No space left on device",)


# A gallery that fails as tracks end


def test_a_gallery_that_is_full_when_people_leave_ends_no_run(tmp_path: Path) -> None:
    path, gallery = tmp_path / "events.jsonl", FullDisk(fingerprint="one", dimension=2)

    def fill(cameras: Sequence[Any]) -> None:
        gallery.full = cameras[0].frames == 38

    # After 37 crops, of which the last two are not in the gallery yet.
    report = play(Embedder(), gallery=gallery, events=path, on_step=fill, max_frames=38)
    assert report.gallery_failures == 1
    assert [event["event"] for event in events_of(path)[-3:]] == ["left", "output_failed", "end"]
