"""Calls of several engines in turn on the same crops, so that a busy machine is busy for all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from engines.base import Engine
from engines.turns import time_calls
from mip_edge.errors import OptionError
from mip_edge.spec import Batch

WARM_UPS = 2
"""Calls of each engine and batch before the first that is timed."""
_SEED = 7


def check_given(**given: Sequence[object]) -> None:
    """Raises: OptionError for an option, by its name, that was given no value at all."""
    for name, values in given.items():
        if not values:
            raise OptionError(f"--{name} must be given at least once")


def check_counts(batches: Sequence[int], repeats: int) -> None:
    """Raises: OptionError for a batch or a number of calls below 1, or no batch at all."""
    if not batches or min(batches) < 1:
        raise OptionError(f"--batch must be at least 1, got {batches}")
    if repeats < 1:
        raise OptionError(f"--repeats must be at least 1, got {repeats}")


def time_in_turn(
    engines: Sequence[Engine], batch: int, rounds: Iterable[int], clock: Callable[[], float]
) -> NDArray[np.float64]:
    """Milliseconds a crop, (engines, rounds): in each round one call of every engine in turn.

    All embed the same `batch` random crops; each has embedded them before the first round.
    """
    rng = np.random.default_rng(_SEED)
    crops: Batch = rng.integers(0, 256, (batch, *engines[0].spec.batch_shape), dtype=np.uint8)
    for engine in engines:
        for _ in range(WARM_UPS):
            engine.embed(crops)
    calls = [partial(engine.embed, crops) for engine in engines]
    return np.array(time_calls(calls, rounds, clock)) / batch


def show_progress() -> Progress:
    """A progress bar on stderr, seen only on a terminal."""
    return Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
