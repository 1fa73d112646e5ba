"""Times engines on the same crops, in turn, so that a busy machine is busy for all of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from engines.base import Engine
from engines.table import AUTO, DEFAULT_PRECISION, ENGINES, open_engine
from mip_edge.artifact import Bundle, open_bundle
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
    precision: str = DEFAULT_PRECISION
    """Which graphs of the bundle."""
    share_weights: bool = False
    """Time an engine that can share weights a second time, sharing."""

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
    share_weights: bool
    """Whether it was opened to share its weights with the other modality's engine."""
    macs: int | None
    """Multiply-accumulates a crop, counted from the graph it ran; None where nobody counted."""
    median_ms: float
    """Milliseconds a crop."""
    p95_ms: float
    speedup: float
    """Times as fast as the first engine on the same modality and batch, by the medians."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Run:
    """An engine that is timed, and what is known of it."""

    engine: Engine
    share_weights: bool = False
    macs: int | None = None


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
    timings: list[Timing] = []
    for modality in bundle.manifest.specs:
        with ExitStack() as stack:
            progress = stack.enter_context(
                Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
            )
            runs: list[_Run] = []
            if checkpoint is not None:
                camera = bundle.manifest.camera[modality]
                reference = open_engine(
                    checkpoint,
                    modality=modality,
                    engine="torch",
                    threads=options.threads,
                    camera=camera,
                )
                runs.append(_Run(stack.enter_context(reference)))
                _check_same_model(reference, bundle, checkpoint)
            for run in _open_all(bundle, modality, options):
                stack.enter_context(run.engine)
                runs.append(run)
            for batch in options.batches:
                rounds = progress.track(
                    range(options.repeats), description=f"{modality.value}, batch {batch}"
                )
                spent = time_in_turn([run.engine for run in runs], batch, rounds, clock)
                timings += _summarise(runs, spent, modality, batch)
    return timings


def time_in_turn(
    engines: Sequence[Engine], batch: int, rounds: Iterable[int], clock: Callable[[], float]
) -> NDArray[np.float64]:
    """Milliseconds a crop, (engines, rounds): in each round one call of every engine in turn.

    All embed the same `batch` random crops; each has embedded them before the first round.
    """
    rng = np.random.default_rng(_SEED)
    crops: Batch = rng.integers(0, 256, (batch, *engines[0].spec.batch_shape), dtype=np.uint8)
    for engine in engines:
        for _ in range(_WARM_UPS):
            engine.embed(crops)
    spent: list[list[float]] = [[] for _ in engines]
    for _ in rounds:
        for milliseconds, engine in zip(spent, engines, strict=True):
            start = clock()
            engine.embed(crops)
            milliseconds.append(1000 * (clock() - start) / batch)
    return np.array(spent)


def _open_all(bundle: Bundle, modality: Modality, options: BenchmarkOptions) -> Iterator[_Run]:
    """Every engine of the options, one after the other, each asked for once more if it shares."""
    bundle.graph_path(modality, options.precision)
    cost = bundle.manifest.precisions[options.precision].graphs[modality].cost
    for name in options.engines:
        kind = ENGINES.get(name)
        twice = options.share_weights and kind is not None and "share_weights" in kind.options
        for extra in ({}, {"share_weights": True}) if twice else ({},):
            opened = open_engine(
                bundle,
                modality=modality,
                engine=name,
                threads=options.threads,
                precision=options.precision,
                **extra,
            )
            counted = cost is not None and ENGINES[opened.name].runs_graph
            yield _Run(opened, bool(extra), cost.macs if cost and counted else None)


def _check_same_model(reference: Engine, bundle: Bundle, checkpoint: str | Path) -> None:
    # With a projection the bundle's own fingerprint is another than that of its checkpoint.
    made_of = bundle.manifest.checkpoint or bundle.manifest.fingerprint
    if reference.spec.fingerprint != made_of:
        raise OptionError(
            f"--checkpoint {checkpoint} has the fingerprint {reference.spec.fingerprint[:12]}, the "
            f"bundle was made of {made_of[:12]}; give the checkpoint that it was made of"
        )


def _summarise(
    runs: Sequence[_Run], spent: NDArray[np.float64], modality: Modality, batch: int
) -> list[Timing]:
    medians = np.median(spent, axis=1)
    return [
        Timing(
            engine=run.engine.name,
            modality=modality.value,
            batch=batch,
            share_weights=run.share_weights,
            macs=run.macs,
            median_ms=float(medians[row]),
            p95_ms=float(np.percentile(spent[row], 95)),
            speedup=float(medians[0] / medians[row]) if medians[row] > 0 else 1.0,
        )
        for row, run in enumerate(runs)
    ]


def format_timings(timings: Sequence[Timing]) -> str:
    """A table for the console; operation counts where one is known."""
    counted = any(timing.macs is not None for timing in timings)
    width = max(12, *(len(_name(timing)) for timing in timings))
    lines = [
        f"{'engine':<{width}} {'modality':<9} {'batch':>5} {'ms/crop':>9} {'p95':>9} {'x first':>8}"
        + (f" {'GMAC/crop':>9}" if counted else "")
    ]
    for timing in timings:
        macs = "-" if timing.macs is None else f"{timing.macs / 1e9:.2f}"
        lines.append(
            f"{_name(timing):<{width}} {timing.modality:<9} {timing.batch:>5} "
            f"{timing.median_ms:>9.2f} {timing.p95_ms:>9.2f} {timing.speedup:>8.2f}"
            + (f" {macs:>9}" if counted else "")
        )
    return "\n".join(lines)


def _name(timing: Timing) -> str:
    return timing.engine + (" sharing" if timing.share_weights else "")
