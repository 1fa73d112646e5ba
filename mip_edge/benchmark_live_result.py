"""What `mip-edge benchmark-live` found: lag, load and growth, as a table, Markdown or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mip_edge.live.report import LiveReport


@dataclass(frozen=True, slots=True)
class Setting:
    """What was measured, and on what."""

    engine: str
    """Runtime of the embedder; of `auto`, what was taken."""
    precision: str
    """Of its graphs."""
    machine: str
    """In words."""


@dataclass(frozen=True, slots=True)
class People:
    """Who is in view of one camera, by the film's truth."""

    most: int
    """In one frame."""
    mean: float
    """In a frame."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The process at one moment."""

    film_seconds: float
    """Of the film, since its beginning."""
    resident_mb: float | None
    """Memory of the whole process; a MB is a million bytes; None where the system does not tell."""
    frame_ms: float
    """Wall-clock milliseconds a frame since the sample before."""


class Line:
    """A straight line through points by least squares; it keeps sums, not the points."""

    def __init__(self) -> None:
        self.count = 0
        self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        """One more point; means move on and sums are of differences (Welford), so that many
        points cost no precision."""
        self.count += 1
        before = x - self._x
        self._x += before / self.count
        self._y += (y - self._y) / self.count
        self._xx += before * (x - self._x)
        self._xy += before * (y - self._y)

    @property
    def slope(self) -> float:
        """Growth of y in one of x; 0 if all points lie at one x."""
        return self._xy / self._xx if self._xx > 0 else 0.0


def slope(values: NDArray[np.float64], at: NDArray[np.float64]) -> float:
    """That of the `Line` through `values` at the places `at`."""
    line = Line()
    for x, y in zip(at.tolist(), values.tolist(), strict=True):
        line.add(x, y)
    return line.slope


@dataclass(frozen=True, slots=True)
class LiveBenchmark:
    """What the loop did and what it cost."""

    setting: Setting
    """What was measured, and on what."""
    people: Mapping[str, People]
    """By camera; empty for a film without a truth."""
    report: LiveReport
    """The run itself."""
    latency_ms: Mapping[str, float]
    """From the decoded frame to the identities of everybody in it: p50, p95, p99, of the newest
    frames; empty if none came."""
    lag_ms_per_minute: float
    """How that grew in a minute on the clock: slope of a straight line through all steps, each
    with the mean of its frames."""
    cores: float
    """Processor seconds a second on the clock, of the whole process after its first step."""
    resident_mb: float | None
    """Memory of the process at the end; None where the system does not tell."""
    growth_mb_per_hour: float | None
    """Of that, an hour of film, from the tenth minute on; None where the film was shorter."""
    first_frame_ms: float | None
    """Cost of a frame in the first tenth after the tenth minute, median; None likewise, and in
    real time, where a frame takes as long as the film says."""
    last_frame_ms: float | None
    """And in the last tenth."""
    embeddings: int
    """Embeddings in the gallery at the end."""
    samples: tuple[Sample, ...] = field(repr=False, default=())
    """Over time."""

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        return {**asdict(self), "report": self.report.as_dict()}

    def table(self) -> str:
        """All of it for reading."""
        facts = [f"{name}: {value}" for name, value in self._facts().items()]
        return "\n".join([self.report.table(), "", *facts])

    def markdown(self) -> str:
        """The facts as a table for a README."""
        rows = [f"| {name} | {value} |" for name, value in self._facts().items()]
        return "\n".join(["| what | measured |", "| --- | --- |", *rows, ""])

    def _facts(self) -> dict[str, str]:
        report, setting = self.report, self.setting
        dropped = sum(camera.dropped for camera in report.cameras)
        offered = report.frames + dropped
        facts = {
            "embedder": f"{setting.engine}, {setting.precision}",
            "machine": setting.machine,
            "cameras": str(len(report.cameras)),
        }
        if self.people:
            facts["people in view"] = ", ".join(
                f"{camera} at most {one.most}, mean {one.mean:.1f}"
                for camera, one in self.people.items()
            )
        facts["frames"] = (
            f"{report.frames} in {report.seconds:.1f} s, {report.frames_per_second:.1f} a second; "
            f"dropped {dropped} of {offered} ({dropped / max(offered, 1):.1%})"
        )
        latency = ", ".join(f"{name} {value:.0f} ms" for name, value in self.latency_ms.items())
        facts["frame to identity"] = (
            f"{latency or 'no frame came'}; grows by {self.lag_ms_per_minute:+.2f} ms a minute"
        )
        facts["processor"] = f"{self.cores:.2f} cores busy"
        facts["memory"] = "not measured: this system has no /proc/self/status"
        if self.resident_mb is not None:
            facts["memory"] = f"{self.resident_mb:.0f} MB resident"
        if self.growth_mb_per_hour is not None:
            facts["memory"] += f", grows by {self.growth_mb_per_hour:+.2f} MB an hour of film"
        if self.first_frame_ms is not None:
            facts["cost of a frame"] = (
                f"{self.first_frame_ms:.2f} ms at first, {self.last_frame_ms:.2f} ms at last"
            )
        facts["gallery"] = f"{self.embeddings} embeddings"
        return facts
