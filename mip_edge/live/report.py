"""What a live run did and how fast: counts per camera, latency percentiles, a table of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

STAGES = ("detect", "embed", "match", "total")
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
    """visible or infrared."""
    frames: int = 0
    """Frames that went through the loop."""
    dropped: int = 0
    """Frames that came while the loop was busy."""
    tracks: int = 0
    """Tracks that were started."""
    crops: int = 0
    """Crops that were embedded."""
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
    min_similarity: float
    """The threshold that was used."""
    cameras: tuple[CameraReport, ...]
    """Per camera."""
    latencies: dict[str, Latency]
    """Per stage: detect, embed, match, total."""
    outputs: tuple[str, ...] = ()
    """Files written."""

    @property
    def frames_per_second(self) -> float:
        """Frames of all cameras together."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def crops_per_second(self) -> float:
        """Crops embedded."""
        return self.crops / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        rates = {
            "frames_per_second": round(self.frames_per_second, 3),
            "crops_per_second": round(self.crops_per_second, 3),
        }
        return asdict(self) | rates

    def table(self) -> str:
        """All of it for reading, a few lines of text."""
        summary = (
            f"{self.frames} frames, {self.crops} crops, {self.identities} identities in "
            f"{self.seconds:.1f} s: {self.frames_per_second:.1f} frames/s, "
            f"{self.crops_per_second:.1f} crops/s (min_similarity={self.min_similarity:.3g})"
        )
        counts = f"{'frames':>8}{'dropped':>9}{'tracks':>8}{'crops':>8}"
        lines = [summary, "", f"{'camera':<16}{'modality':<10}{counts}  state"]
        lines += [
            f"{c.name:<16}{c.modality:<10}{c.frames:>8}{c.dropped:>9}{c.tracks:>8}{c.crops:>8}"
            f"  {c.state}"
            for c in self.cameras
        ]
        lines += ["", f"{'stage':<16}{'count':>8}{'p50 ms':>10}{'p95 ms':>10}"]
        lines += [
            f"{stage:<16}{latency.count:>8}{latency.p50_ms:>10.1f}{latency.p95_ms:>10.1f}"
            for stage, latency in self.latencies.items()
        ]
        lines += [f"wrote {path}" for path in self.outputs]
        return "\n".join(lines)


@dataclass(slots=True)
class Stopwatch:
    """Milliseconds of each stage; only the newest are kept, a live run has no end."""

    now: Callable[[], float] = time.perf_counter
    """Seconds of a clock that never goes back."""
    spent: dict[str, deque[float]] = field(
        default_factory=lambda: {stage: deque(maxlen=KEPT_LATENCIES) for stage in STAGES}
    )
    """Milliseconds per stage."""

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
