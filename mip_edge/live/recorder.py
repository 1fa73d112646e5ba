"""The videos of --save: one mosaic of all cameras, or also one of each, in their sources' time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mip_edge.errors import OutputError
from mip_edge.live.output import VideoFile, video_paths
from mip_edge.live.overlay import Picture, cell_size, draw, even, mosaic
from mip_edge.live.view import CameraView

WIDEST, TALLEST = 1920, 1440
"""Pixels of the mosaic, at most."""
LONGEST_STILL = 5.0
"""Seconds of one picture in a video, at most."""


def state_of(view: CameraView) -> tuple[object, ...]:
    """What must differ for a picture to be drawn anew."""
    return view.index, id(view.image), view.state, view.labels, view.live or view.trouble()


class Mosaic:
    """The picture of all cameras; draws only those that changed."""

    def __init__(self) -> None:
        self._cell: tuple[int, int] | None = None
        self._cells: dict[str, Picture] = {}
        self._drawn: dict[str, tuple[object, ...]] = {}

    def draw(self, views: Sequence[CameraView]) -> Picture:
        """All of `views` in a grid, in their order; the first call settles its size."""
        if self._cell is None:
            self._cell = cell_size(views, widest=WIDEST, tallest=TALLEST)
        for view in views:
            if self._drawn.get(view.name) != state_of(view):
                self._drawn[view.name] = state_of(view)
                self._cells[view.name] = draw(view, *self._cell)
        return mosaic([self._cells[view.name] for view in views])


class _Reel:
    """A video and how far it has come in time."""

    def __init__(self, path: Path, rate: float) -> None:
        self.video = VideoFile(path, rate)
        self.told = False
        self._rate = rate
        self._passed = 0

    def due(self, elapsed: float) -> int:
        """How often a picture goes into the video now, so that it keeps the time of its source."""
        due = max(round(elapsed * self._rate) + 1 - self._passed, 0)
        self._passed += due
        # A long silence (a camera is lost) is cut, not filled with one picture for hours.
        return min(due, round(LONGEST_STILL * self._rate))

    def write(self, picture: Picture, due: int) -> None:
        """The same picture so often."""
        for _ in range(due):
            self.video.write(picture)


class Recorder:
    """Writes all videos of a run; one that fails is told once, and the others go on."""

    def __init__(self, rates: Mapping[str, float], save: Path) -> None:
        """`rates`: frames a second by camera. Raises: OutputError if a video cannot be written."""
        whole, single = video_paths(save, rates)
        if single:
            _make_folder(save)
        self._all = _Reel(whole, max(rates.values()))
        self._single = {camera: _Reel(path, rates[camera]) for camera, path in single.items()}
        self._mosaic = Mosaic()
        self._seen: dict[str, tuple[object, ...]] = {}

    def update(self, views: Sequence[CameraView], elapsed: float) -> None:
        """Write what all cameras show `elapsed` seconds after the begin."""
        for view in views:
            reel = self._single.get(view.name)
            if reel is not None and self._seen.get(view.name) != state_of(view):
                self._seen[view.name] = state_of(view)
                self._write_one(reel, view)
        due = self._all.due(elapsed)
        if due and self._all.video.failed is None:
            self._all.write(self._mosaic.draw(views), due)

    def failures(self) -> list[tuple[str, str]]:
        """What failed since the last call: output and reason."""
        failed = [reel for reel in self._reels() if reel.video.failed and not reel.told]
        for reel in failed:
            reel.told = True
        return [(str(reel.video), reel.video.failed or "") for reel in failed]

    def finish(self) -> tuple[str, ...]:
        """Make the videos whole; the names of the files written."""
        return tuple(str(reel.video.path) for reel in self._reels() if reel.video.finish())

    def discard(self) -> None:
        """Leave no video that was not finished."""
        for reel in self._reels():
            reel.video.discard()

    def _reels(self) -> list[_Reel]:
        return [*self._single.values(), self._all]

    def _write_one(self, reel: _Reel, view: CameraView) -> None:
        # A camera that is away adds nothing to its own video; what it misses is a still, then cut.
        if view.image is None or not view.live or reel.video.failed is not None:
            return
        due = reel.due(view.time)
        if due:
            size = reel.video.size or (even(view.image.shape[1]), even(view.image.shape[0]))
            reel.write(draw(view, *size), due)


class Background:
    """Calls `work` in a thread with the newest of what it is handed; what it missed is gone.

    The loop must not wait for a video: a recorder that is slow repeats pictures instead.
    """

    def __init__(self, work: Callable[[Sequence[CameraView], float], None]) -> None:
        self._work = work
        self._newest: tuple[Sequence[CameraView], float] | None = None
        self._changed = threading.Condition()
        self._stopped = False
        self._died_of: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def hand(self, views: Sequence[CameraView], elapsed: float) -> None:
        """Take this as the newest; never waits. Raises: what the thread died of."""
        with self._changed:
            self._newest = (views, elapsed)
            self._changed.notify_all()
        self._raise()

    def join(self) -> None:
        """Work off the newest, then end. Raises: what the thread died of."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        error, self._died_of = self._died_of, None
        if error is not None:
            raise error

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or self._newest is not None)
                    handed, self._newest = self._newest, None
                if handed is None:
                    return
                self._work(*handed)
        except BaseException as error:
            # It must reach the main loop: a thread that dies alone looks like a short video.
            self._died_of = error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--save {folder} cannot be made: {error.strerror}") from error
