"""Videos that survive a full disk and frames of any size; the screen that fills them."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mip_edge.errors import OutputError
from mip_edge.live import output as output_module
from mip_edge.live import recorder as recorder_module
from mip_edge.live import screen as screen_module
from mip_edge.live.output import CHECK_EVERY, VideoFile, least_bytes, video_paths
from mip_edge.live.recorder import LONGEST_STILL, Recorder
from mip_edge.live.screen import Screen
from mip_edge.live.view import CameraView, TrackLabel
from mip_edge.spec import Modality

PLENTY = 10**12


def noise(width: int = 64, height: int = 48, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, image = capture.read()
        if not ok:
            break
        frames.append(np.asarray(image[:, :, ::-1], np.uint8))
    capture.release()
    return frames


@pytest.fixture
def small_disk() -> Iterator[None]:
    """A process that may write 60 kB a file: the rest fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_video_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "out.mp4", 10)
    assert not video.finish(), "nothing was written"
    for seed in range(5):
        video.write(noise(seed=seed))
    assert not (tmp_path / "out.mp4").exists()
    assert video.finish()
    assert video.failed is None
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert len(frames_of(tmp_path / "out.mp4")) == 5


def test_a_disk_that_fills_up_ends_the_video_and_keeps_what_was_written(tmp_path: Path) -> None:
    space = iter([PLENTY, PLENTY, 1000])
    video = VideoFile(tmp_path / "out.mp4", 10, reserve=2000, free=lambda _: next(space))
    for seed in range(2 * CHECK_EVERY):
        video.write(noise(seed=seed))
        assert video.failed is None
    video.write(noise())
    assert video.failed is not None
    assert "the disk is nearly full (0 MB are free): its first 50 frames are kept" in video.failed
    assert len(frames_of(tmp_path / "out.mp4")) == 2 * CHECK_EVERY
    video.write(noise())
    assert video.finish(), "what was kept is named among the outputs"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_disk_that_is_full_from_the_start_is_told_at_the_first_frame(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "out.mp4", 10, reserve=2000, free=lambda _: 1000)
    video.write(noise())
    assert video.failed is not None
    assert "nothing of it could be kept" in video.failed
    assert not video.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_unseen_is_found_while_the_run_goes_on(
    tmp_path: Path, small_disk: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "BUFFERED", 3000)
    video = VideoFile(tmp_path / "out.mp4", 10, free=lambda _: PLENTY)
    for seed in range(4 * CHECK_EVERY):
        video.write(noise(320, 240, seed % 3))
    assert video.failed is not None
    assert "the file no longer grows, perhaps the disk is full: nothing of it" in video.failed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("width", "height"), [(64, 48), (320, 240), (640, 480), (1280, 720)])
def test_a_scene_without_motion_is_not_taken_for_a_file_that_does_not_grow(
    width: int, height: int, tmp_path: Path
) -> None:
    video = VideoFile(tmp_path / "out.mp4", 10)
    for _ in range(24):
        video.write(np.zeros((height, width, 3), np.uint8))
    assert video.finish()
    assert (tmp_path / "out.mp4").stat().st_size / 24 > least_bytes(width, height)


def test_a_folder_that_is_gone_is_a_failed_video_not_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "usb"
    folder.mkdir()
    video = VideoFile(folder / "out.mp4", 10)
    video.write(noise())
    (folder / ".out.part.mp4").unlink()
    folder.rmdir()
    for _ in range(CHECK_EVERY):
        video.write(noise())
    assert video.failed is not None
    assert "No such file or directory" in video.failed


def test_frames_that_are_not_read_back_are_told(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "out.mp4", 10)
    video.write(noise())
    video._written += 1
    assert video.finish()
    assert video.failed is not None
    assert "2 frames were written, 1 can be read back, perhaps the disk is full" in video.failed


def test_a_video_that_cannot_take_its_name_is_told_with_where_it_lies_and_stays(
    tmp_path: Path,
) -> None:
    video = VideoFile(tmp_path / "out.mp4", 10)
    for seed in range(5):
        video.write(noise(seed=seed))
    (tmp_path / "out.mp4").mkdir()
    assert not video.finish()
    part = tmp_path / ".out.part.mp4"
    assert video.failed == (
        f"--save {tmp_path / 'out.mp4'}: what was written lies in {part}, for it cannot take "
        "that name: Is a directory"
    )
    video.discard()
    assert len(frames_of(part)) == 5


def test_a_video_that_ends_early_and_cannot_take_its_name_tells_both(tmp_path: Path) -> None:
    space = iter([PLENTY, 1000])
    video = VideoFile(tmp_path / "out.mp4", 10, reserve=2000, free=lambda _: next(space))
    (tmp_path / "out.mp4").mkdir()
    for seed in range(CHECK_EVERY + 1):
        video.write(noise(seed=seed))
    assert video.failed is not None
    assert "the disk is nearly full (0 MB are free): what was written lies in " in video.failed
    assert not video.finish()
    assert len(frames_of(tmp_path / ".out.part.mp4")) == CHECK_EVERY


def test_a_video_that_cannot_be_read_back_is_not_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = VideoFile(tmp_path / "out.mp4", 10)
    video.write(noise())

    def refuse(_: Path) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(output_module, "_frames_of", refuse)
    assert not video.finish()
    assert video.failed is not None
    assert ".out.part.mp4, for it cannot take that name: Input/output error" in video.failed
    assert [path.name for path in tmp_path.iterdir()] == [".out.part.mp4"]


def test_a_rest_that_does_not_play_and_cannot_be_removed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    video = VideoFile(tmp_path / "out.mp4", 10)
    video.write(noise())
    monkeypatch.setattr(output_module, "_frames_of", lambda _: 0)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert not video.finish()
    assert video.failed is not None
    assert "1 frames were written, 0 can be read back" in video.failed
    assert f"{tmp_path / '.out.part.mp4'} cannot be removed: Read-only file system" in caplog.text


def test_a_frame_of_another_size_is_fitted_into_the_first(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "out.mp4", 10)
    white = [np.full(size, 255, np.uint8) for size in ((48, 64, 3), (96, 64, 3), (20, 200, 3))]
    for picture in white:
        video.write(picture)
    assert video.finish()
    first, tall, wide = frames_of(tmp_path / "out.mp4")
    assert first.shape == tall.shape == wide.shape == (48, 64, 3)
    assert (first > 200).all()
    assert (tall[:, 18:46] > 200).all()
    assert (tall[:, :12] < 60).all()
    assert (wide[22:26] > 200).all()
    assert (wide[:16] < 60).all()


def test_a_video_that_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "out.mp4", 10)
    video.write(noise())
    video.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_video_file_must_be_an_mp4_in_a_folder_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"writes \.mp4"):
        VideoFile(tmp_path / "out.avi", 10)
    with pytest.raises(OutputError, match="does not exist"):
        VideoFile(tmp_path / "none" / "out.mp4", 10)


def test_a_folder_that_may_not_be_written_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so the permission is asked of a system that refuses.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="cannot be written"):
        VideoFile(tmp_path / "out.mp4", 10)


# Names


def test_a_folder_gets_a_video_of_each_camera_and_the_mosaic(tmp_path: Path) -> None:
    new, there = tmp_path / "videos", tmp_path / "there.d"
    there.mkdir()
    for folder in (new, there):
        whole, single = video_paths(folder, ["gate", "yard"])
        assert whole == folder / "mosaic.mp4"
        assert single == {"gate": folder / "gate.mp4", "yard": folder / "yard.mp4"}
    assert video_paths(tmp_path / "out.MP4", ["gate"]) == (tmp_path / "out.MP4", {})
    with pytest.raises(OutputError, match="an .mp4, or into a folder; got out.avi"):
        video_paths(tmp_path / "out.avi", ["gate"])


def test_names_of_cameras_are_made_safe_and_never_collide() -> None:
    cameras = ["a/b", "a_b", "A b", "../../etc/passwd", "..", "mosaic", "Tür 1", "x" * 300]
    _, single = video_paths(Path("out"), cameras)
    stems = [single[camera].stem for camera in cameras]
    assert stems[:7] == ["a_b", "a_b-2", "A_b-3", "etc_passwd", "camera", "mosaic-2", "Tür_1"]
    assert all(path.parent == Path("out") for path in single.values())
    assert len({stem.casefold() for stem in stems}) == len(cameras)
    assert max(len(stem) for stem in stems) <= 80


# The screen


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def view_of(name: str, index: int, rate: float = 10.0, shade: int = 200) -> CameraView:
    return CameraView(
        name,
        Modality.VISIBLE,
        image=np.full((120, 160, 3), shade, np.uint8),
        boxes=np.array([[10, 60, 40, 110]], np.float32),
        labels=(TrackLabel(1, 3, 0.9),),
        index=index,
        time=index / rate,
        age_ms=5.0,
        width=160,
        height=120,
    )


def play(screen: Screen, steps: Sequence[Sequence[CameraView]]) -> tuple[str, ...]:
    for views in steps:
        screen.update(views)
    return screen.finish()


def test_one_mosaic_of_all_cameras_at_the_fastest_rate(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    screen = Screen({"gate": 10.0, "yard": 5.0, "hall": 10.0}, save=path, stepped=True)
    steps = [
        [view_of("gate", i), view_of("yard", i // 2, 5.0, 100), view_of("hall", i, shade=50)]
        for i in range(20)
    ]
    assert play(screen, steps) == (str(path),)
    frames = frames_of(path)
    assert len(frames) == 20
    assert frames[0].shape == (240, 320, 3), "two columns, two rows"
    shades = [
        int(frames[9][y, x].mean()) for y, x in ((90, 130), (90, 290), (210, 130), (210, 290))
    ]
    assert shades == pytest.approx([200, 100, 50, 0], abs=12)


def test_a_folder_holds_a_video_of_each_camera_at_its_own_rate(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "videos"
    screen = Screen({"gate": 10.0, "yard 2": 5.0}, save=folder, stepped=True)
    written = play(
        screen, [[view_of("gate", i), view_of("yard 2", i // 2, 5.0)] for i in range(20)]
    )
    assert {Path(path).name for path in written} == {"gate.mp4", "yard_2.mp4", "mosaic.mp4"}
    assert sorted(path.name for path in folder.iterdir()) == [
        "gate.mp4",
        "mosaic.mp4",
        "yard_2.mp4",
    ]
    assert len(frames_of(folder / "gate.mp4")) == 20
    slow = frames_of(folder / "yard_2.mp4")
    assert (len(slow), slow[0].shape) == (10, (120, 160, 3))


def test_a_live_mosaic_keeps_the_time_of_the_clock_and_cuts_long_stills(tmp_path: Path) -> None:
    recorder = Recorder({"gate": 10.0}, tmp_path / "out.mp4")
    for index, elapsed in ((0, 0.0), (4, 1.0), (5, 3600.0)):
        recorder.update([view_of("gate", index)], elapsed)
    recorder.finish()
    assert len(frames_of(tmp_path / "out.mp4")) == 1 + 10 + int(LONGEST_STILL * 10)


def test_a_slow_video_makes_the_loop_not_wait_and_keeps_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = recorder_module.draw

    def slowly(view: CameraView, width: int, height: int) -> NDArray[np.uint8]:
        time.sleep(0.2)
        return real(view, width, height)

    monkeypatch.setattr(recorder_module, "draw", slowly)
    clock, path = Clock(), tmp_path / "out.mp4"
    screen = Screen({"gate": 10.0}, save=path, now=clock)
    begin = time.perf_counter()
    for index in range(31):
        clock.seconds = index / 10
        screen.update([view_of("gate", index)])
    assert time.perf_counter() - begin < 3.0, "31 pictures of 0.2 s each would take 6.2 s"
    assert screen.finish() == (str(path),)
    assert len(frames_of(path)) == 31


def test_what_the_thread_of_the_videos_dies_of_reaches_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> NDArray[np.uint8]:
        raise ValueError("a bug")

    monkeypatch.setattr(recorder_module, "draw", broken)
    screen = Screen({"gate": 10.0}, save=tmp_path / "out.mp4")
    screen.update([view_of("gate", 0)])
    with pytest.raises(ValueError, match="a bug"):
        screen.finish()
    screen.close()
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "recorder"]


def test_a_camera_that_changes_its_size_stays_in_its_cell_and_its_file(tmp_path: Path) -> None:
    larger = dataclasses.replace(
        view_of("gate", 1), image=np.full((480, 300, 3), 200, np.uint8), width=300, height=480
    )
    screen = Screen({"gate": 10.0}, save=tmp_path / "videos", stepped=True)
    play(screen, [[view_of("gate", 0)], [larger], [view_of("gate", 2)]])
    for name in ("gate", "mosaic"):
        frames = frames_of(tmp_path / "videos" / f"{name}.mp4")
        assert [frame.shape for frame in frames] == [(120, 160, 3)] * 3
        assert frames[1][100, 10].max() < 60, "black beside the narrow frame"


def test_a_lost_camera_is_dark_in_the_mosaic_and_silent_in_its_own_video(tmp_path: Path) -> None:
    lost = [
        dataclasses.replace(view_of("gate", 3), state="lost", age_ms=1000.0 * i) for i in range(5)
    ]
    screen = Screen({"gate": 10.0, "yard": 10.0}, save=tmp_path / "videos", stepped=True)
    steps = [[view_of("gate", i), view_of("yard", i)] for i in range(4)]
    steps += [[view, view_of("yard", 4 + i)] for i, view in enumerate(lost)]
    play(screen, steps)
    assert len(frames_of(tmp_path / "videos" / "gate.mp4")) == 4
    frames = frames_of(tmp_path / "videos" / "mosaic.mp4")
    assert len(frames) == 9
    assert frames[3][90, 130].mean() == pytest.approx(200, abs=12)
    assert frames[8][90, 130].mean() == pytest.approx(66, abs=12)


def test_a_video_that_fails_is_told_once_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(VideoFile):
        def __init__(self, path: Path, rate: float) -> None:
            super().__init__(path, rate, free=lambda _: 0 if path.stem == "gate" else PLENTY)

    monkeypatch.setattr(recorder_module, "VideoFile", Failing)
    told: list[tuple[str, str]] = []
    screen = Screen(
        {"gate": 10.0, "yard": 10.0},
        save=tmp_path,
        stepped=True,
        on_failure=lambda output, reason: told.append((output, reason)),
    )
    written = play(screen, [[view_of("gate", i), view_of("yard", i)] for i in range(60)])
    assert {Path(path).name for path in written} == {"yard.mp4", "mosaic.mp4"}
    ((output, reason),) = told
    assert output == f"--save {tmp_path / 'gate.mp4'}"
    assert "nearly full" in reason


def test_nothing_is_drawn_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> NDArray[np.uint8]:
        raise AssertionError("drawn for nobody")

    monkeypatch.setattr(recorder_module, "draw", never)
    screen = Screen({"gate": 10.0})
    assert play(screen, [[view_of("gate", 0)]]) == ()
    screen.close()


def test_a_camera_without_news_is_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    real = recorder_module.draw

    def count(view: CameraView, width: int, height: int) -> NDArray[np.uint8]:
        drawn.append(view.name)
        return real(view, width, height)

    monkeypatch.setattr(recorder_module, "draw", count)
    screen = Screen({"gate": 10.0, "yard": 10.0}, save=tmp_path / "out.mp4", stepped=True)
    still = view_of("yard", 0)
    play(screen, [[view_of("gate", i), dataclasses.replace(still, age_ms=9.0)] for i in range(3)])
    assert drawn.count("gate") == 3
    assert drawn.count("yard") == 1


def test_a_video_that_was_not_finished_is_not_left_behind(tmp_path: Path) -> None:
    screen = Screen({"gate": 10.0}, save=tmp_path / "out.mp4", stepped=True)
    screen.update([view_of("gate", 0)])
    screen.close()
    assert list(tmp_path.iterdir()) == []


def test_the_window_closes_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeWindow:
        shown = 0

        def show(self, picture: NDArray[np.uint8]) -> bool:
            self.shown += 1
            return self.shown < 2

        def close(self) -> None:
            self.shown = -1

    monkeypatch.setattr(screen_module, "Window", FakeWindow)
    screen = Screen({"gate": 10.0}, show=True)
    screen.update([view_of("gate", 0)])
    assert screen.wanted
    screen.update([view_of("gate", 0)])
    assert not screen.wanted
    screen.close()
