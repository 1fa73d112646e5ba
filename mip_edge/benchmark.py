"""Times engines on the same crops, in turn, so that a busy machine is busy for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.base import Engine
from engines.table import AUTO, ENGINES, open_engine
from mip_edge.artifact import open_bundle
from mip_edge.errors import OptionError
from mip_edge.spec import Batch, Modality

_WARM_UPS = 2
_SEED = 7


@dataclass(frozen=True, slots=True)
class BenchmarkOptions:
    """What is timed, and how often."""

    engines: tuple[str, ...] = ("onnxruntime",)
    """Engines for the bundle, in the order of the table."""
    batches: tuple[int, ...] = (1, 8)
    """Crops of one call."""
    repeats: int = 20
    """Timed calls of each engine, modality and batch."""
    threads: int | None = None
    """Threads of each engine; None leaves it to the runtime."""

    def __post_init__(self) -> None:
        for engine in self.engines:
            if engine != AUTO and engine in ENGINES and ENGINES[engine].opens != "bundle":
                raise OptionError(
                    f"--engine {engine} does not open a bundle; give its weights with --checkpoint"
                )
        if not self.batches or min(self.batches) < 1:
            raise OptionError(f"--batch must be at least 1, got {self.batches}")
        if self.repeats < 1:
            raise OptionError(f"--repeats must be at least 1, got {self.repeats}")


@dataclass(frozen=True, slots=True)
class Timing:
    """One engine on one modality at one batch size."""

    engine: str
    modality: str
    batch: int
    median_ms: float
    """Milliseconds a crop."""
    p95_ms: float
    speedup: float
    """Times as fast as the first engine on the same modality and batch, by the medians."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return asdict(self)


def benchmark(
    bundle_path: str | Path,
    options: BenchmarkOptions,
    *,
    checkpoint: str | Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Time every engine on both modalities; with `checkpoint`, torch comes first.

    Raises: BundleError, CheckpointError or EngineError for what does not open; OptionError if the
    checkpoint is not the one that the bundle was made of.
    """
    bundle = open_bundle(bundle_path)
    timings = []
    for modality in bundle.manifest.specs:
        with ExitStack() as stack:
            engines: list[Engine] = []
            if checkpoint is not None:
                camera = bundle.manifest.camera[modality]
                reference = open_engine(
                    checkpoint,
                    modality=modality,
                    engine="torch",
                    threads=options.threads,
                    camera=camera,
                )
                engines.append(stack.enter_context(reference))
                _check_same_model(reference, bundle.manifest.fingerprint, checkpoint)
            for name in options.engines:
                opened = open_engine(
                    bundle, modality=modality, engine=name, threads=options.threads
                )
                engines.append(stack.enter_context(opened))
            for batch in options.batches:
                timings += _time_in_turn(engines, modality, batch, options.repeats, clock)
    return timings


def _check_same_model(reference: Engine, fingerprint: str, checkpoint: str | Path) -> None:
    if reference.spec.fingerprint != fingerprint:
        raise OptionError(
            f"--checkpoint {checkpoint} has the fingerprint {reference.spec.fingerprint[:12]}, the "
            f"bundle was made of {fingerprint[:12]}; give the checkpoint that it was made of"
        )


def _time_in_turn(
    engines: Sequence[Engine],
    modality: Modality,
    batch: int,
    repeats: int,
    clock: Callable[[], float],
) -> list[Timing]:
    """One call of each engine after the other, `repeats` times over."""
    rng = np.random.default_rng(_SEED)
    crops: Batch = rng.integers(0, 256, (batch, *engines[0].spec.batch_shape), dtype=np.uint8)
    spent = np.zeros((len(engines), repeats))
    for engine in engines:
        for _ in range(_WARM_UPS):
            engine.embed(crops)
    for repeat in range(repeats):
        for row, engine in enumerate(engines):
            start = clock()
            engine.embed(crops)
            spent[row, repeat] = 1000 * (clock() - start) / batch
    medians = np.median(spent, axis=1)
    return [
        Timing(
            engine=engine.name,
            modality=modality.value,
            batch=batch,
            median_ms=float(medians[row]),
            p95_ms=float(np.percentile(spent[row], 95)),
            speedup=float(medians[0] / medians[row]) if medians[row] > 0 else 1.0,
        )
        for row, engine in enumerate(engines)
    ]


def format_timings(timings: Sequence[Timing]) -> str:
    """A table for the console."""
    lines = [
        f"{'engine':<12} {'modality':<9} {'batch':>5} {'ms/crop':>9} {'p95':>9} {'x first':>8}"
    ]
    lines += [
        f"{timing.engine:<12} {timing.modality:<9} {timing.batch:>5} "
        f"{timing.median_ms:>9.2f} {timing.p95_ms:>9.2f} {timing.speedup:>8.2f}"
        for timing in timings
    ]
    return "\n".join(lines)
