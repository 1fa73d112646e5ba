"""What a live run did and how fast: counts per camera, latency percentiles, a table of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from mip_edge.live.score import WorldScore

IDENTIFY = "frame to identity"
STAGES = ("detect", "track", "plan", "embed", "match", "total", IDENTIFY)
KEPT_LATENCIES = 20_000


@dataclass(frozen=True, slots=True)
class Latency:
    """How long one stage took."""

    count: int
    """Times it ran: detect per frame, embed per call, match and total per step."""
    p50_ms: float
    """Median milliseconds."""
    p95_ms: float
    """Milliseconds that 95 of 100 stay below."""


@dataclass(slots=True)
class CameraReport:
    """What one camera gave."""

    name: str
    """Its name."""
    modality: str
    """The light that it saw last."""
    frames: int = 0
    """Frames that went through the loop."""
    dropped: int = 0
    """Frames that came while the loop was busy."""
    looks: int = 0
    """Frames that the detector ran in."""
    detect_every: int = 1
    """It runs in one of so many frames, at the end of the run."""
    tracks: int = 0
    """Tracks that were started."""
    crops: int = 0
    """Crops that were embedded."""
    crops_asked: int = 0
    """Crops that embedding every usable sighting would have been."""
    crops_waiting: int = 0
    """Crops that were wanted in the last step and had to wait."""
    crops_refused: int = 0
    """Crops for which the model gave no number."""
    refused: int = 0
    """Boxes that were none: without an area, outside the frame, or beyond the most people."""
    unreadable: int = 0
    """Frames that could not be decoded."""
    modality_changes: int = 0
    """How often its light switched."""
    lost: int = 0
    """How often it was lost."""
    state: str = "live"
    """live, lost or ended, at the end of the run."""


@dataclass(frozen=True, slots=True)
class LiveReport:
    """The outcome of a live run."""

    steps: int
    """Rounds of the loop."""
    frames: int
    """Frames of all cameras."""
    crops: int
    """Crops embedded."""
    seconds: float
    """Wall-clock time of the loop."""
    identities: int
    """Identities in the gallery at the end."""
    thresholds: Mapping[str, float]
    """The thresholds that were used, by pair of modalities."""
    cameras: tuple[CameraReport, ...]
    """Per camera."""
    latencies: dict[str, Latency]
    """Per stage: detect, embed, match, total."""
    outputs: tuple[str, ...] = ()
    """Files written."""
    failures: tuple[str, ...] = ()
    """Outputs that failed while the run went on, and why."""
    merges: int = 0
    """Identities that turned out to be another one."""
    gallery_failures: int = 0
    """Times that the gallery could not be read or written."""
    clock_jumps: int = 0
    """Times that the wall clock of the machine jumped."""
    crops_a_call: float = 0.0
    """Crops that were embedded in one call, on average."""
    truth: WorldScore | None = None
    """How right it was, where that is known."""
    failed: str | None = None
    """What the run died of; None: it ended as it should."""

    @property
    def frames_per_second(self) -> float:
        """Frames of all cameras together."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def crops_per_second(self) -> float:
        """Crops embedded."""
        return self.crops / self.seconds if self.seconds > 0 else 0.0

    @property
    def crops_asked(self) -> int:
        """Crops that embedding every usable sighting would have been."""
        return sum(camera.crops_asked for camera in self.cameras)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "truth"}
        return {
            **values,
            "cameras": [asdict(camera) for camera in self.cameras],
            "latencies": {stage: asdict(found) for stage, found in self.latencies.items()},
            "thresholds": dict(self.thresholds),
            "truth": None if self.truth is None else self.truth.as_dict(),
            "crops_asked": self.crops_asked,
            "frames_per_second": round(self.frames_per_second, 3),
            "crops_per_second": round(self.crops_per_second, 3),
        }

    def table(self) -> str:
        """All of it for reading, a few lines of text."""
        used = ", ".join(f"{pair} {value:.3f}" for pair, value in self.thresholds.items())
        counts = f"{'frames':>8}{'dropped':>9}{'every':>7}{'tracks':>8}{'crops':>7}{'lost':>6}"
        summary = (
            f"{self.frames} frames, {self.crops} crops, {self.identities} identities in "
            f"{self.seconds:.1f} s: {self.frames_per_second:.1f} frames/s, "
            f"{self.crops_per_second:.1f} crops/s"
        )
        lines = [summary, f"{self._crops_line()}; {self.merges} merged", f"thresholds: {used}", ""]
        lines.append(f"{'camera':<14}{'modality':<10}{counts}  state")
        lines += [
            f"{c.name:<14}{c.modality:<10}{c.frames:>8}{c.dropped:>9}{c.detect_every:>7}"
            f"{c.tracks:>8}{c.crops:>7}{c.lost:>6}  {c.state}"
            for c in self.cameras
        ]
        lines += ["", f"{'stage':<18}{'count':>8}{'p50 ms':>10}{'p95 ms':>10}"]
        lines += [
            f"{stage:<18}{latency.count:>8}{latency.p50_ms:>10.1f}{latency.p95_ms:>10.1f}"
            for stage, latency in self.latencies.items()
        ]
        if self.truth is not None:
            lines += ["", self.truth.table()]
        lines += [f"wrote {path}" for path in self.outputs]
        lines += [f"failed {failure}" for failure in self.failures]
        if self.gallery_failures:
            lines.append(f"the gallery failed {self.gallery_failures} times")
        if self.clock_jumps:
            lines.append(f"the clock of this machine jumped {self.clock_jumps} times")
        return "\n".join(lines)

    def _crops_line(self) -> str:
        asked = self.crops_asked
        saved = 1 - self.crops / asked if asked else 0.0
        return (
            f"crops asked {asked}, done {self.crops}, saved {saved:.0%}; "
            f"{self.crops_a_call:.1f} crops a call"
        )


@dataclass(slots=True)
class Stopwatch:
    """Milliseconds of each stage; only the newest are kept, a live run has no end."""

    now: Callable[[], float] = time.perf_counter
    """Seconds of a clock that never goes back."""
    spent: dict[str, deque[float]] = field(
        default_factory=lambda: {stage: deque(maxlen=KEPT_LATENCIES) for stage in STAGES}
    )
    """Milliseconds per stage."""
    counted: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Times and sum of what was counted."""

    def add(self, stage: str, milliseconds: float) -> None:
        """What was timed elsewhere."""
        self.spent[stage].append(milliseconds)

    def count(self, what: str, number: int) -> None:
        """One more of what is not time."""
        times, total = self.counted.get(what, (0, 0))
        self.counted[what] = (times + 1, total + number)

    def mean(self, what: str) -> float:
        """Of what was counted; 0 if it never was."""
        times, total = self.counted.get(what, (0, 0))
        return total / times if times else 0.0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Time what is done inside."""
        begin = self.now()
        yield
        self.spent[stage].append((self.now() - begin) * 1000.0)

    def latencies(self) -> dict[str, Latency]:
        """Median and 95th percentile of each stage; zeros for one that never ran."""
        return {
            stage: Latency(
                len(spent),
                float(np.percentile(spent, 50)) if spent else 0.0,
                float(np.percentile(spent, 95)) if spent else 0.0,
            )
            for stage, spent in self.spent.items()
        }
