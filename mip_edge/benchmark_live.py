"""How the live loop keeps up: four cameras of a synthetic film in real time, or hours of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.benchmark_live_result import Line, LiveBenchmark, People, Sample, Setting, slope
from mip_edge.errors import OptionError
from mip_edge.gallery.base import Gallery
from mip_edge.live.camera_file import read_camera_file
from mip_edge.live.capture import Capture, open_capture
from mip_edge.live.loop import LiveEmbedder, LiveOptions, run_live
from mip_edge.live.report import IDENTIFY, CameraReport, Stopwatch
from mip_edge.live.score_truth import TRUTH_SUFFIX, read_frames
from mip_edge.live.source_options import SourceOptions
from mip_edge.memory import read_resident

CAMERAS_TOML = "cameras.toml"
SAMPLES = 2_000
"""Samples of memory and cost that are taken at most, evenly over the film."""
WARM_UP = 600.0
"""Seconds of film before memory and cost count."""


@dataclass(frozen=True, slots=True)
class LiveBenchmarkOptions:
    """What is played, and how."""

    film: Path
    """Folder of `mip-edge world make`."""
    seconds: float | None = None
    """Real time: seconds of film that are played, the film again and again; None plays it once."""
    hours: float | None = None
    """As fast as it goes: hours of film, again and again; None plays in real time."""

    def __post_init__(self) -> None:
        if self.seconds is not None and self.hours is not None:
            raise OptionError("--seconds plays in real time and --hours does not; give one of them")
        for flag, value in (("--seconds", self.seconds), ("--hours", self.hours)):
            if value is not None and not value > 0:
                raise OptionError(f"{flag} must be above 0, got {value}")

    @property
    def realtime(self) -> bool:
        """Whether the film plays at its own speed."""
        return self.hours is None

    @property
    def film_seconds(self) -> float | None:
        """How much of the film is played; None is once."""
        return self.seconds if self.hours is None else 3600 * self.hours

    def check_film(self) -> None:
        """Refuse a folder without a film. Raises: OptionError."""
        if not (self.film / CAMERAS_TOML).is_file():
            raise OptionError(
                f"--film {self.film} has no {CAMERAS_TOML}; make a film with: "
                "mip-edge world make FOLDER"
            )


class LoopedFilm:
    """A recording that begins again at its end, until it has given `frames`; a `Capture`."""

    def __init__(self, options: SourceOptions, frames: int | None) -> None:
        """`frames` None plays it once."""
        self._options = options
        self._left = frames
        self._film = open_capture(options)

    def isOpened(self) -> bool:  # noqa: N802
        return self._film.isOpened()

    def grab(self) -> bool:
        if self._left is None:
            return self._film.grab()
        if self._left == 0:
            return False
        self._left -= 1
        if not self._film.grab():
            self._film.release()
            self._film = open_capture(self._options)
            return self._film.grab()
        return True

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        return self._film.retrieve()

    def get(self, propId: int) -> float:  # noqa: N803
        return self._film.get(propId)

    def release(self) -> None:
        self._film.release()


class _Ledger:
    """What is noted after each step of the loop, in memory that does not grow."""

    def __init__(self, rates: Mapping[str, float], watch: Stopwatch, period: float) -> None:
        self.samples: list[Sample] = []
        self.lag = Line()
        self._rates, self._watch, self._period = rates, watch, period
        self._film, self._wall, self._frames, self._before = -np.inf, 0.0, 0, 0
        self._begin: tuple[float, float] | None = None

    def note(self, cameras: Sequence[CameraReport]) -> None:
        """The loop has made one more step."""
        wall, frames = time.perf_counter(), sum(camera.frames for camera in cameras)
        if self._begin is None:
            self._begin, self._wall = (wall, time.process_time()), wall
        spent, fresh = self._watch.spent[IDENTIFY], frames - self._before
        self._before = frames
        if fresh:
            mean = sum(spent[-index] for index in range(1, fresh + 1)) / fresh
            self.lag.add(wall - self._begin[0], mean)
        film = max((one.frames + one.dropped) / self._rates[one.name] for one in cameras)
        if film - self._film < self._period:
            return
        cost = 1000 * (wall - self._wall) / max(frames - self._frames, 1)
        self.samples.append(Sample(film, _resident(), cost))
        self._film, self._wall, self._frames = film, wall, frames

    def cores(self) -> float:
        """Processor seconds a second since the first step."""
        if self._begin is None:
            return 0.0
        wall, processor = self._begin
        return (time.process_time() - processor) / max(time.perf_counter() - wall, 1e-9)


def benchmark_live(
    options: LiveBenchmarkOptions,
    live: Callable[..., LiveOptions],
    embedder: LiveEmbedder,
    gallery: Gallery,
    *,
    setting: Setting,
    on_step: Callable[[Sequence[CameraReport]], None] | None = None,
) -> LiveBenchmark:
    """Play the film through the live loop and measure.

    `live` makes the options of the run from `sources`, `travels` and `realtime`; `setting` is told
    with the result. Raises: what run_live raises, OptionError for a folder without a film.
    """
    options.check_film()
    site = read_camera_file(options.film / CAMERAS_TOML)
    rates = {source.name: _rate(source) for source in site.sources}
    seconds = options.film_seconds
    watch = Stopwatch()
    ledger = _Ledger(rates, watch, max(1.0, (seconds or 0.0) / SAMPLES))

    def note(cameras: Sequence[CameraReport]) -> None:
        ledger.note(cameras)
        if on_step is not None:
            on_step(cameras)

    def looped(source: SourceOptions) -> Capture:
        return LoopedFilm(source, None if seconds is None else round(seconds * rates[source.name]))

    report = run_live(
        live(sources=site.sources, travels=site.travels, realtime=options.realtime),
        embedder,
        gallery=gallery,
        watch=watch,
        capture=looped,
        on_step=note,
    )
    cores, latencies = ledger.cores(), list(watch.spent[IDENTIFY])
    settled = [one for one in ledger.samples if one.film_seconds >= WARM_UP]
    tenth, long = max(1, len(settled) // 10), len(settled) >= 10
    costs = [one.frame_ms for one in settled] if long and not options.realtime else []
    return LiveBenchmark(
        setting=setting,
        people=count_people(options.film, list(rates)),
        report=report,
        latency_ms={f"p{q}": float(np.percentile(latencies, q)) for q in (50, 95, 99)}
        if latencies
        else {},
        lag_ms_per_minute=60 * ledger.lag.slope,
        cores=cores,
        resident_mb=_resident(),
        growth_mb_per_hour=_growth(settled) if long else None,
        first_frame_ms=float(np.median(costs[:tenth])) if costs else None,
        last_frame_ms=float(np.median(costs[-tenth:])) if costs else None,
        embeddings=len(gallery),
        samples=tuple(ledger.samples),
    )


def count_people(folder: Path, cameras: Sequence[str]) -> dict[str, People]:
    """Who is in view of those cameras that have NAME.truth.jsonl there. Raises: ImageError."""
    found = {}
    for camera in cameras:
        path = folder / f"{camera}{TRUTH_SUFFIX}"
        if path.is_file() and (counts := [len(frame.people) for frame in read_frames(path)]):
            found[camera] = People(max(counts), sum(counts) / len(counts))
    return found


def _growth(samples: Sequence[Sample]) -> float | None:
    """MB an hour of film; None where the system does not tell the memory."""
    known = [(s.film_seconds, s.resident_mb) for s in samples if s.resident_mb is not None]
    if not known:
        return None
    places, values = np.array(known, np.float64).T
    return 3600 * slope(values, places)


def _rate(source: SourceOptions) -> float:
    film = open_capture(source)
    rate = film.get(cv2.CAP_PROP_FPS)
    film.release()
    if not rate > 0:
        raise OptionError(f"{source.shown} does not say how many frames a second it has")
    return rate


def _resident() -> float | None:
    try:
        return read_resident()
    except OSError:  # no /proc: macOS, Windows
        return None
