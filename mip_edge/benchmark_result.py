"""What `mip-edge benchmark` found, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mip_edge.ceiling import Ceiling
from mip_edge.memory import Memory


@dataclass(frozen=True, slots=True)
class Timing:
    """One engine at one precision on one modality at one batch size."""

    engine: str
    precision: str
    modality: str
    batch: int
    share_weights: bool
    """Whether it was opened to share its weights with the other modality's engine."""
    calls: int
    """From how many the percentiles are."""
    p50_ms: float
    """Milliseconds a call of the whole batch."""
    p95_ms: float
    p99_ms: float
    fastest_ms: float
    """The fastest call: what a machine that does nothing else would take."""
    median_ms: float
    """Milliseconds a crop."""
    crops_s: float
    """Crops a second, by the median."""
    speedup: float
    """Times as fast as the first engine on the same modality and batch: the median over the
    rounds of the ratio of the two calls of a round."""
    speedup_fp32: float | None
    """The same against the same engine at fp32; None where that was not timed."""
    macs: int | None
    """Multiply-accumulates a crop, counted from the graph it ran; None where nobody counted."""
    macs_s: float | None
    """Multiply-accumulates a second, by the median."""
    int8_macs: int | None
    """Those of `macs` that run on 8-bit integers."""
    ceiling_share: float | None
    """Time of its multiply-accumulates at the ceiling, of int8 and of fp32 each at its own, over
    the time it took; None if no ceiling was measured, or it computes elsewhere or in bf16."""
    rank1: float | None
    """Percent, as measured at export on labelled crops; None without those. Of the direction whose
    queries are of this modality."""
    mean_ap: float | None
    smallest_cosine: float | None
    """Of the graph's embeddings with PyTorch's, as measured at export; None for PyTorch itself."""
    mean_cosine: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return asdict(self)

    @property
    def name(self) -> str:
        """The engine as tables call it."""
        return self.engine + (" sharing" if self.share_weights else "")


@dataclass(frozen=True, slots=True)
class Opening:
    """How long one engine took until it was open and warm, its runtime imported before."""

    engine: str
    precision: str
    modality: str
    share_weights: bool
    first_s: float
    """With the bundle's files dropped from the file cache where the system does so, and with
    whatever the runtime compiles."""
    again_s: float
    """Once all were opened: from a warm file cache and, for an engine that has one, the engine
    cache."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An engine that refused a precision which nobody named."""

    engine: str
    precision: str
    reason: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What was measured, on what."""

    subject: str
    """The network in words."""
    machine: str
    """Processor, cores and threads."""
    versions: Mapping[str, str]
    """Of what computed, by the names of the packages."""
    timings: list[Timing]
    openings: list[Opening]
    ceilings: Mapping[str, Ceiling] = field(default_factory=dict)
    """By precision; empty if not measured."""
    memory: list[Memory] | None = None
    left_out: list[LeftOut] = field(default_factory=list)
    engine_options: tuple[str, ...] = ()
    """KEY=VALUE, as given."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return asdict(self)
