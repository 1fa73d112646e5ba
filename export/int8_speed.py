"""How fast the graphs on the line of INT8 run on this machine; no bundle holds such times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from calibration.quantize import quantize
from engines.turns import time_calls
from export.in_memory import MemoryBackend, inputs_of
from export.int8 import Point, Quantized
from export.work import Work, modalities_of

_BATCH = 8
_REPEATS = 7


@dataclass(frozen=True, slots=True)
class TimedPoint:
    """A point of the line, and its speed here."""

    point: Point
    chosen: bool
    """Whether the bundle holds this one."""
    float32_ms: float
    """Median milliseconds a crop of the same graph in float32, timed in turn with this one; batches
    of 8, ONNX Runtime. The bundle's own float32 graph has another form (`Form.for_gpu`)."""
    milliseconds: float
    """The same of this one."""

    @property
    def speedup(self) -> float:
        """Times as fast as float32."""
        return self.float32_ms / self.milliseconds


def time_points(
    work: Work, quantized: Quantized, *, clock: Callable[[], float] = time.perf_counter
) -> list[TimedPoint]:
    """Time the first graph at every point of the line, each in turn with float32: two sessions are
    in memory at a time."""
    name, graph = next(iter(quantized.smooth.items()))
    taken = modalities_of(work, name)
    order = [one.path for one in quantized.sensitivity]
    specs = {modality: work.specs[modality] for modality in taken}
    batch = work.examinations[taken[0]].batch
    inputs = inputs_of(batch[np.arange(_BATCH) % len(batch)], taken[0], taken)
    plain = MemoryBackend(graph, specs)
    timed = []
    for point in quantized.points:
        made = quantize(graph, quantized.thresholds[name], keep=order[: point.kept])
        backend = MemoryBackend(made, specs)
        calls = [partial(one.embed, inputs) for one in (plain, backend)]
        for warm_up in calls:
            warm_up()
        spent = time_calls(calls, range(_REPEATS), clock)
        backend.close()
        chosen = point.kept == len(quantized.kept)
        timed.append(TimedPoint(point, chosen, *(statistics.median(one) / _BATCH for one in spent)))
    plain.close()
    return timed
