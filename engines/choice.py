"""Which engine and precision are the fastest on this machine: measured once, and remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from engines.base import Engine
from engines.cache import EngineCache, EngineKey
from engines.machine import describe_machine, module_version
from engines.plan import graph_digest
from engines.turns import time_calls
from mip_edge.artifact import Bundle
from mip_edge.errors import EngineError, OutputError
from mip_edge.spec import Batch

logger = logging.getLogger(__name__)

BATCH = 8
"""Crops of a timed call."""
_HEAT_CALLS = 5
_FINAL_ROUNDS = 9
_NEAR = 1.5
"""Who took longer than the best of the heats by this factor is not in the final."""
_FORM = 1
"""Of the measurement and of what is written down; another one is measured anew."""
_SEED = 3
_PARTS = ("in_turn", "behind", "refused")


class Candidate(NamedTuple):
    """One way to run a bundle."""

    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and all that the answer depends on but the machine."""

    words: str
    """As it was asked: `engine auto, precision fp32`."""
    bundle: Bundle
    candidates: tuple[Candidate, ...]
    runtimes: Mapping[str, Sequence[str]]
    """Engine to the modules it stands on, whose versions count."""
    threads: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """What every candidate is opened with."""

    def key(self) -> EngineKey:
        """What the answer is remembered by: all that can change it, and nothing else."""
        modules = sorted({module for held in self.runtimes.values() for module in held})
        listed = ", ".join(str(candidate) for candidate in self.candidates)
        precisions = sorted({candidate.precision for candidate in self.candidates})
        return EngineKey(
            graph_digest=_digest_graphs(self.bundle, precisions),
            runtime="measured choice",
            version=", ".join(f"{module} {module_version(module)}" for module in modules),
            device=describe_machine(),
            precision=", ".join(precisions),
            shapes=f"{BATCH} crops",
            options=f"form {_FORM}; {listed}; threads {self.threads}; "
            f"{sorted(self.options.items())}",
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """Milliseconds a crop of the candidates, and why some did not open."""

    in_turn: Mapping[Candidate, float]
    """Those near the fastest, timed one after the other in each round; each alone where they do
    not open at the same time."""
    behind: Mapping[Candidate, float] = field(default_factory=dict)
    """Those that were too slow alone to be timed again."""
    refused: Mapping[Candidate, str] = field(default_factory=dict)
    """Those that did not open, with the reason."""

    @property
    def fastest(self) -> Candidate:
        """The candidate to take."""
        return min(self.in_turn, key=lambda candidate: self.in_turn[candidate])

    def to_bytes(self) -> bytes:
        """As JSON, for the cache."""
        document = {
            name: [[*pair, told] for pair, told in getattr(self, name).items()] for name in _PARTS
        }
        return json.dumps(document).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> Measured:
        """What `to_bytes` wrote; the cache has verified that it is just that."""
        document = json.loads(content)
        return cls(
            *({Candidate(one, two): told for one, two, told in document[name]} for name in _PARTS)
        )

    def __str__(self) -> str:
        told = f"{_ranked(self.in_turn)} ms a crop"
        if self.behind:
            told += f"; out in the first round: {_ranked(self.behind)}"
        for candidate, reason in self.refused.items():
            told += f"; without {candidate}: {reason.rstrip('.')}"
        return told


def choose(
    question: Question,
    open_one: Callable[[Candidate], Engine],
    *,
    cache: EngineCache | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Candidate:
    """The fastest candidate, measured here or remembered; one log line tells which and why.

    `open_one` gives a warmed-up engine; a candidate that refuses with EngineError is left out. A
    cache that cannot be written is told in one line, and the answer is of this once. One whose plan
    had no room there is left out too, and the answer not kept: with room it may be the fastest.
    Raises: EngineError if none opens.
    """
    if len(question.candidates) == 1:
        (only,) = question.candidates
        logger.info("%s: took %s, there is nothing else here", question.words, only)
        return only
    now: Measured | None = None
    unwritten: list[OutputError] = []

    def open_told(candidate: Candidate) -> Engine:
        try:
            return open_one(candidate)
        except OutputError as error:
            unwritten.append(error)
            raise EngineError(str(error)) from error

    def measure_now() -> bytes:
        nonlocal now
        now = measure(question.candidates, open_told, clock)
        if unwritten:
            raise unwritten[0]
        return now.to_bytes()

    what = f"{question.bundle.path.resolve()}: {question.words}"
    try:
        stored = (cache or EngineCache()).get(question.key(), measure_now, what=what)
        measured = now or Measured.from_bytes(stored)
    except OutputError as error:
        measured = now or measure(question.candidates, open_told, clock)
        logger.warning(
            "%s: the answer could not be kept and is measured at every start: %s",
            question.words, error,
        )  # fmt: skip
        now = measured
    logger.info(
        "%s: took %s, the fastest at batch %d (%s; %s)",
        question.words, measured.fastest, BATCH, measured,
        "measured now" if now else "measured before, delete with: mip-edge cache clear",
    )  # fmt: skip
    return measured.fastest


def measure(
    candidates: Sequence[Candidate],
    open_one: Callable[[Candidate], Engine],
    clock: Callable[[], float],
) -> Measured:
    """Time all on the same crops: each alone first, then those near the best in turn.

    Only those near the best are open at the same time, for a small device has no memory for all.
    Raises: EngineError if none opens, with each reason.
    """
    heats: dict[Candidate, float] = {}
    refused: dict[Candidate, str] = {}
    terminal = sys.stderr.isatty()
    with Progress(console=Console(stderr=True), transient=True, disable=not terminal) as progress:
        for candidate in progress.track(candidates, description="timing what this machine has"):
            try:
                with open_one(candidate) as engine:
                    spent = _time_in_turn({candidate: engine}, range(_HEAT_CALLS), clock)
            except EngineError as error:
                refused[candidate] = str(error)
            else:
                heats.update(spent)
        if not heats:
            reasons = "; ".join(f"{candidate}: {reason}" for candidate, reason in refused.items())
            raise EngineError(f"nothing that is installed here opens this bundle. {reasons}")
        best = min(heats.values())
        near = [candidate for candidate, spent in heats.items() if spent <= _NEAR * best]
        behind = {one: spent for one, spent in heats.items() if one not in near}
        if len(near) == 1:
            return Measured({near[0]: best}, behind, refused)
        with ExitStack() as stack:
            try:
                opened = {one: stack.enter_context(open_one(one)) for one in near}
            except EngineError as error:
                logger.warning("not all open at the same time, compared one by one: %s", error)
                return Measured({one: heats[one] for one in near}, behind, refused)
            rounds = progress.track(range(_FINAL_ROUNDS), description="timing the fastest in turn")
            return Measured(_time_in_turn(opened, rounds, clock), behind, refused)


def _time_in_turn(
    engines: Mapping[Candidate, Engine], rounds: Iterable[int], clock: Callable[[], float]
) -> dict[Candidate, float]:
    """Median milliseconds a crop; each has embedded the same crops once before the first round."""
    rng = np.random.default_rng(_SEED)
    shape = next(iter(engines.values())).spec.batch_shape
    crops: Batch = rng.integers(0, 256, (BATCH, *shape), dtype=np.uint8)
    for engine in engines.values():
        engine.embed(crops)
    spent = time_calls([partial(one.embed, crops) for one in engines.values()], rounds, clock)
    return {
        candidate: statistics.median(times) / BATCH
        for candidate, times in zip(engines, spent, strict=True)
    }


def _digest_graphs(bundle: Bundle, precisions: Iterable[str]) -> str:
    """SHA-256 over what is timed: graphs with their weights, and what they take and give.

    The manifest has more, such as thresholds, that may change and leave every engine as fast.
    """
    manifest = bundle.manifest
    timed = [
        [
            precision,
            manifest.specs[modality].promise(unified=bundle.unified),
            graph_digest(bundle, bundle.path / graph.file),
        ]
        for precision in precisions
        for modality, graph in manifest.precisions[precision].graphs.items()
    ]
    return hashlib.sha256(json.dumps(timed, sort_keys=True).encode()).hexdigest()


def _ranked(milliseconds: Mapping[Candidate, float]) -> str:
    ranked = sorted(milliseconds.items(), key=lambda item: item[1])
    return ", ".join(f"{candidate} {spent:.2f}" for candidate, spent in ranked)
