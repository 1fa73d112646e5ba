"""Clocks of a device, calls in turn, CUDA graphs, and which attention kernel is fastest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Call = Callable[[], Tensor]

WARM_UPS = 3
_SHORTEST_MS = 2.0
"""A shorter call is repeated within one measurement, which is then divided."""
_MOST_CALLS = 50
_FEWEST_ROUNDS = 3
ATTENTIONS: Mapping[str, SDPBackend] = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""Kernels of torch's fused attention; `math` is plain products and runs everywhere."""


def synchronize(device: torch.device) -> None:
    """Wait for what was started."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def elapsed_ms(call: Call, device: torch.device, calls: int = 1) -> float:
    """Milliseconds of one of `calls` calls, by the device's own clock."""
    if device.type == "cuda":
        start, end = (cast(Any, torch.cuda).Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / calls
    before = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - before) * 1e3 / calls


def median_ms(call: Call, device: torch.device, *, repeats: int, warm_ups: int = WARM_UPS) -> float:
    """Median of warm calls."""
    for _ in range(warm_ups):
        call()
    synchronize(device)
    return float(np.median([elapsed_ms(call, device) for _ in range(repeats)]))


def time_in_turn(
    calls: Sequence[Call], device: torch.device, *, repeats: int, seconds: float
) -> list[list[float]]:
    """Milliseconds a call, for each of `calls` as many as there were rounds.

    In each round every one is measured once, in turn; all must be warm. Rounds are `repeats`, but
    fewer (never below 3, nor above `repeats`) where they would take longer than `seconds`.
    """
    guesses = [elapsed_ms(call, device) for call in calls]
    inner = [1] * len(calls)
    if device.type == "cuda":
        inner = [
            min(_MOST_CALLS, max(1, math.ceil(_SHORTEST_MS / max(guess, 1e-3))))
            for guess in guesses
        ]
    one_round = sum(guess * count for guess, count in zip(guesses, inner, strict=True))
    affordable = int(seconds * 1e3 / max(one_round, 1e-6))
    rounds = min(repeats, max(_FEWEST_ROUNDS, affordable))
    spent: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for place, call in enumerate(calls):
            spent[place].append(elapsed_ms(call, device, inner[place]))
    return spent


def capture(call: Call) -> Call:
    """The kernels of a call as one CUDA graph, which writes into the same memory every time."""
    side = cast(Any, torch.cuda).Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = call()

    def replay() -> Tensor:
        graph.replay()
        return made

    return replay


def sliced(network: Callable[[Tensor], Tensor], images: Tensor, size: int) -> Call:
    """A call of the network on all images, `size` at a time: less memory, more of it in cache."""
    if size >= len(images):
        return lambda: network(images)
    return lambda: torch.cat([network(part) for part in torch.split(images, size)])


@contextmanager
def attention(name: str) -> Iterator[None]:
    """While it lasts, torch's fused attention runs this kernel of `ATTENTIONS` and no other."""
    with sdpa_kernel(ATTENTIONS[name]):
        yield


def within(name: str, call: Call) -> Call:
    """The call with its attention run by one kernel."""

    def run() -> Tensor:
        with attention(name):
            return call()

    return run


def fastest_attention(
    shape: tuple[int, int, int, int], keys: int, dtype: torch.dtype, device: torch.device
) -> str:
    """Which kernel is fastest for queries of `shape` (N, heads, rows, d) at so many keys."""
    crops, heads, rows, size = shape
    joined = torch.randn(crops, keys, 3, heads, size, device=device).to(dtype)
    queries, key_rows, values = joined.permute(2, 0, 3, 1, 4).unbind(0)
    best, shortest = "math", math.inf
    for name in ATTENTIONS:
        call = within(
            name,
            lambda: F.scaled_dot_product_attention(
                queries[:, :, -rows:], key_rows, values, scale=1.0
            ),
        )
        try:
            took = median_ms(call, device, repeats=5)
        except RuntimeError:
            continue  # this kernel does not take the type or the device
        if took < shortest:
            best, shortest = name, took
    return best
