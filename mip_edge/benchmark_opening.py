"""Opens what `mip-edge benchmark` times: every engine at every precision, cold and again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from engines.base import Engine
from engines.cache import EngineCache
from engines.plan import graph_digest
from engines.table import AUTO, ENGINES, find_missing, open_engine
from mip_edge.artifact import Bundle
from mip_edge.benchmark_options import BenchmarkOptions
from mip_edge.benchmark_result import LeftOut, Opening
from mip_edge.errors import EngineError, OptionError
from mip_edge.spec import Modality

_QUICK_TO_COMPILE = ("openvino",)
"""Engines whose entries in the engine cache are made anew for the time of a first opening."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that is to be opened."""

    engine: str
    precision: str
    share_weights: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """An engine that is open."""

    engine: Engine
    candidate: Candidate
    opening: Opening | None = None
    """How long that took; None for the checkpoint's."""


def open_reference(
    bundle: Bundle, modality: Modality, options: BenchmarkOptions, checkpoint: str | Path
) -> Engine:
    """PyTorch on the checkpoint of the bundle, computing what the published code computes.

    `--engine-option torch.straight=false` leaves its dead work out. Raises: OptionError for another
    checkpoint.
    """
    reference = open_engine(
        checkpoint,
        modality=modality,
        engine="torch",
        threads=options.threads,
        **{
            "camera": bundle.manifest.camera[modality],
            "straight": True,
            **options.options_of("torch"),
        },
    )
    # With a projection the bundle's own fingerprint is another than that of its checkpoint.
    made_of = bundle.manifest.checkpoint or bundle.manifest.fingerprint
    if reference.spec.fingerprint != made_of:
        reference.close()
        raise OptionError(
            f"--checkpoint {checkpoint} has the fingerprint {reference.spec.fingerprint[:12]}, the "
            f"bundle was made of {made_of[:12]}; give the checkpoint that it was made of"
        )
    return reference


def open_all(
    bundle: Bundle,
    modality: Modality,
    precisions: Sequence[str],
    options: BenchmarkOptions,
    left_out: dict[Candidate, LeftOut],
    clock: Callable[[], float],
) -> list[Run]:
    """Every engine at every precision, each opened for a second time when all were opened once.

    What an engine refuses goes to `left_out` where nobody named that precision.
    """

    def open_one(one: Candidate) -> tuple[Engine, float]:
        extra = {"share_weights": True} if one.share_weights else {}
        start = clock()
        engine = open_engine(
            bundle,
            modality=modality,
            engine=one.engine,
            threads=options.threads,
            precision=one.precision,
            **{**options.options_of(one.engine), **extra},
        )
        return engine, clock() - start

    first: dict[Candidate, float] = {}
    for one in _list_candidates(precisions, options):
        _import_runtime(one.engine)
        _forget_compiled(bundle, modality, one)
        drop_from_file_cache(bundle)  # nothing of it is open now, so that it goes
        try:
            engine, first[one] = open_one(one)
        except EngineError as error:
            if options.insists_on(one.precision):
                raise
            left_out[one] = LeftOut(one.engine, one.precision, str(error))
            continue
        engine.close()
    runs: list[Run] = []
    try:
        for one, first_s in first.items():
            engine, again_s = open_one(one)
            taken = replace(one, engine=engine.name)
            opening = Opening(
                engine.name, one.precision, modality.value, one.share_weights, first_s, again_s
            )
            runs.append(Run(engine, taken, opening))
    except BaseException:
        for run in runs:
            run.engine.close()
        raise
    return runs


def _list_candidates(precisions: Sequence[str], options: BenchmarkOptions) -> Iterator[Candidate]:
    for name in options.engines:
        kind = ENGINES.get(name)
        twice = options.share_weights and kind is not None and "share_weights" in kind.options
        for share_weights in (False, True) if twice else (False,):
            for precision in precisions:
                yield Candidate(name, precision, share_weights)


def _import_runtime(engine: str) -> None:
    """So that the first to open does not pay for the import; what is missing, opening tells."""
    if engine != AUTO and engine in ENGINES and find_missing(engine) is None:
        import_module(ENGINES[engine].module)


def _forget_compiled(bundle: Bundle, modality: Modality, one: Candidate) -> None:
    """So that the first to open finds no compiled graph in the engine cache.

    Plans of TensorRT stay: they take minutes, or were built elsewhere.
    """
    if one.engine not in _QUICK_TO_COMPILE or one.precision not in bundle.manifest.precisions:
        return
    digest = graph_digest(bundle, bundle.graph_path(modality, one.precision))
    cache = EngineCache()
    for entry in cache.list():
        if entry.key.runtime == one.engine and entry.key.graph_digest == digest:
            cache.discard(entry.key)


def drop_from_file_cache(bundle: Bundle) -> None:
    """Ask the system to forget the content of a bundle's files; pages in use stay."""
    if not hasattr(os, "posix_fadvise"):
        return
    for name in bundle.manifest.files:
        handle = os.open(bundle.path / name, os.O_RDONLY)
        try:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
