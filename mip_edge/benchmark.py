"""Times engines, precisions and batches of one bundle in one run, beside what they are worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.table import AUTO, DEFAULT_PRECISION, ENGINES, find_missing
from mip_edge.artifact import Accuracy, Bundle, open_bundle
from mip_edge.benchmark_machine import describe_machine, read_versions
from mip_edge.benchmark_opening import Candidate, Run, open_all, open_reference
from mip_edge.benchmark_options import BenchmarkOptions
from mip_edge.benchmark_result import Benchmark, LeftOut, Opening, Timing
from mip_edge.benchmark_turns import show_progress, time_in_turn
from mip_edge.ceiling import Ceiling, join_ceilings, measure_ceilings
from mip_edge.errors import EngineError
from mip_edge.memory import Memory, measure_memory
from mip_edge.spec import Modality

__all__ = ["Benchmark", "BenchmarkOptions", "Timing", "benchmark", "run_benchmark"]


def benchmark(
    bundle_path: str | Path,
    options: BenchmarkOptions,
    *,
    checkpoint: str | Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """The timings of `run_benchmark`."""
    return run_benchmark(bundle_path, options, checkpoint=checkpoint, clock=clock).timings


def run_benchmark(
    bundle_path: str | Path,
    options: BenchmarkOptions,
    *,
    checkpoint: str | Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Benchmark:
    """Time every engine at every precision and batch, in turn on the same crops.

    With `checkpoint`, the published-style forward in PyTorch comes first, and all are measured by
    it. Raises: BundleError, CheckpointError or EngineError for what does not open; OptionError if
    the checkpoint is not the one that the bundle was made of.
    """
    bundle = open_bundle(bundle_path)
    precisions = options.choose_precisions(bundle)
    modalities = options.modalities or tuple(
        one for one in Modality if one in bundle.manifest.specs
    )
    for modality in modalities:
        bundle.specs_with(modality)
        for precision in precisions:
            bundle.graph_path(modality, precision)
    for engine in options.engines:
        missing = None if engine == AUTO else find_missing(engine)
        if missing is not None:
            raise EngineError(missing)
    options.check_engine_options((*options.engines, *(["torch"] if checkpoint else [])))
    left_out: dict[Candidate, LeftOut] = {}
    # Memory first: while an engine is open here, the child's weights would count by halves.
    memory = _measure_memory(bundle, precisions, options, left_out) if options.memory else None
    ceilings = measure_ceilings(options.threads) if options.ceiling else {}
    timings: list[Timing] = []
    openings: list[Opening] = []
    for modality in modalities:
        with ExitStack() as stack:
            progress = stack.enter_context(show_progress())
            runs: list[Run] = []
            if checkpoint is not None:
                reference = open_reference(bundle, modality, options, checkpoint)
                runs.append(Run(reference, Candidate("torch", DEFAULT_PRECISION)))
                stack.enter_context(reference)
            for run in open_all(bundle, modality, precisions, options, left_out, clock):
                stack.enter_context(run.engine)
                runs.append(run)
            openings += [run.opening for run in runs if run.opening is not None]
            for batch in options.batches:
                rounds = progress.track(
                    range(options.repeats), description=f"{modality.value}, batch {batch}"
                )
                spent = time_in_turn([run.engine for run in runs], batch, rounds, clock)
                timings += _summarise(runs, spent, bundle, modality, batch)
    if ceilings:
        ceilings = join_ceilings(ceilings, measure_ceilings(options.threads))
    return Benchmark(
        subject=describe_bundle(bundle),
        machine=describe_machine(options.threads),
        versions=read_versions(
            module
            for name in dict.fromkeys(timing.engine for timing in timings)
            for module in ENGINES[name].runtime
        ),
        timings=[_with_share(timing, ceilings, options) for timing in timings],
        openings=openings,
        ceilings=ceilings,
        memory=memory,
        left_out=list(left_out.values()),
        engine_options=options.engine_options,
    )


def describe_bundle(bundle: Bundle) -> str:
    """The network of a bundle in words, for tables and charts."""
    model, spec = bundle.manifest.model, next(iter(bundle.manifest.specs.values()))
    known = [f"{name} {model[name]}" for name in ("width", "depth", "stride") if name in model]
    return (
        f"{bundle.path.resolve().name}: {', '.join(known)}, crops {spec.height}x{spec.width}, "
        f"embeddings of {spec.dimension}, layout {bundle.manifest.layout}"
    )


def _measure_memory(
    bundle: Bundle,
    precisions: Sequence[str],
    options: BenchmarkOptions,
    left_out: dict[Candidate, LeftOut],
) -> list[Memory]:
    """Engine by engine and precision by precision; what refuses goes to `left_out`, as in
    `open_all`."""
    found = []
    for engine in dict.fromkeys(options.engines):
        for precision in precisions:
            try:
                found += measure_memory(
                    bundle.path,
                    [engine],
                    options.batches,
                    precisions=[precision],
                    threads=options.threads,
                    options={engine: options.options_of(engine)},
                )
            except EngineError as error:
                if options.insists_on(precision):
                    raise
                left_out[Candidate(engine, precision)] = LeftOut(engine, precision, str(error))
    return found


def _summarise(
    runs: Sequence[Run],
    spent: NDArray[np.float64],
    bundle: Bundle,
    modality: Modality,
    batch: int,
) -> list[Timing]:
    """One row of the table for each row of `spent`, (runs, rounds) milliseconds a crop."""
    rows = {run.candidate: spent[row] for row, run in enumerate(runs)}
    timings = []
    for run, milliseconds in zip(runs, spent, strict=True):
        one = run.candidate
        kind = ENGINES[one.engine]
        own = rows.get(replace(one, precision=DEFAULT_PRECISION))
        held = bundle.manifest.precisions[one.precision] if kind.runs_graph else None
        graph = held.graphs[modality] if held is not None else None
        cost = graph.cost if graph is not None else None
        parity = graph.parity if graph is not None else None
        accuracy = _accuracy_of(modality, held.accuracy) if held is not None else None
        p50, p95, p99 = (float(batch * np.percentile(milliseconds, at)) for at in (50, 95, 99))
        crops_s = 1000 * batch / p50 if p50 > 0 else 0.0
        timings.append(
            Timing(
                engine=one.engine,
                precision=one.precision,
                modality=modality.value,
                batch=batch,
                share_weights=one.share_weights,
                calls=len(milliseconds),
                p50_ms=p50,
                p95_ms=p95,
                p99_ms=p99,
                fastest_ms=float(batch * milliseconds.min()),
                median_ms=p50 / batch,
                crops_s=crops_s,
                speedup=_ratio(spent[0], milliseconds),
                speedup_fp32=None if own is None else _ratio(own, milliseconds),
                macs=cost.macs if cost is not None else None,
                macs_s=cost.macs * crops_s if cost is not None else None,
                int8_macs=cost.int8_macs if cost is not None else None,
                ceiling_share=None,
                rank1=accuracy.rank1 if accuracy is not None else None,
                mean_ap=accuracy.mean_ap if accuracy is not None else None,
                smallest_cosine=parity.smallest_cosine if parity is not None else None,
                mean_cosine=parity.mean_cosine if parity is not None else None,
            )
        )
    return timings


def _accuracy_of(modality: Modality, directions: Mapping[str, Accuracy] | None) -> Accuracy | None:
    """Of the direction whose queries are of this modality, or None."""
    named = (directions or {}).items()
    return next((one for name, one in named if name.startswith(modality.value)), None)


def _ratio(first: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Times as fast as `first`, round by round: the median."""
    return float(np.median(first / other)) if (other > 0).all() else 1.0


def _with_share(
    timing: Timing, ceilings: Mapping[str, Ceiling], options: BenchmarkOptions
) -> Timing:
    if not ceilings or timing.macs is None or timing.int8_macs is None:
        return timing
    if not options.has_ceiling(timing.engine):
        return timing
    rest = timing.macs - timing.int8_macs
    at_best = timing.int8_macs / ceilings["int8"].macs_s + rest / ceilings["fp32"].macs_s
    return replace(timing, ceiling_share=at_best * timing.crops_s)
