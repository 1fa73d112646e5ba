"""One variant made ready to be timed: its fastest attention kernel and slice, graph, parity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.precision import Precision
from benchmarks.subject import smallest_cosine
from mip_edge.model.options import MIPOptions

FUSED = ("lean", "tanh")
"""Variants whose attention kernel and slice are chosen by the clock."""
_SLICES = (128, 64, 32)


@dataclass(frozen=True, slots=True)
class Run:
    """One call that is timed."""

    variant: str
    call: timing.Call
    cosine: float
    """Smallest, with the reference on the same crops."""
    peak_mb: float | None
    attention: str | None
    slice: int | None
    graphs: bool = False
    compiled: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """What the clock chose."""

    attention: str | None = None
    slice: int | None = None

    def call(self, network: nn.Module, images: Tensor) -> timing.Call:
        """The network on the images, as chosen."""
        size = len(images) if self.slice is None else self.slice
        call = timing.sliced(network, images, size)
        return call if self.attention is None else timing.within(self.attention, call)


def choose(
    variant: str, network: nn.Module, images: Tensor, shape: MIPOptions, precision: Precision
) -> Choice:
    """The attention kernel and the slice that are fastest for a variant that has the choice."""
    if variant not in FUSED:
        return Choice()
    batch, tokens = len(images), 1 + shape.patches
    kinds = int(shape.modality_prompts) + int(shape.instance_prompts)
    kernel = timing.fastest_attention(
        (batch, shape.heads, tokens, shape.width // shape.heads),
        tokens + kinds * shape.prompt_length,
        precision.dtype,
        images.device,
    )
    choices = [Choice(kernel, size) for size in (batch, *_SLICES) if size == batch or size < batch]
    if len(choices) == 1:
        return choices[0]
    took = [
        timing.median_ms(choice.call(network, images), images.device, repeats=2, warm_ups=1)
        for choice in choices
    ]
    return choices[took.index(min(took))]


def warm_up(
    variant: str,
    network: nn.Module,
    images: Tensor,
    choice: Choice,
    reference: Tensor,
    *,
    compiled: bool = False,
) -> Run:
    """The call, warm, its parity and memory measured."""
    call = choice.call(network, images)
    for _ in range(timing.WARM_UPS):
        made = call()
    timing.synchronize(images.device)
    return Run(
        variant=variant,
        call=call,
        cosine=smallest_cosine(reference[: len(images)], made),
        peak_mb=_peak_mb(call, network, images.device),
        attention=choice.attention,
        slice=choice.slice,
        compiled=compiled,
    )


def as_graph(run: Run, reference: Tensor) -> Run:
    """The same replayed as a CUDA graph, its parity measured anew."""
    call = timing.capture(run.call)
    made = call()
    torch.cuda.synchronize()
    return Run(
        variant=run.variant,
        call=call,
        cosine=smallest_cosine(reference[: len(made)], made),
        peak_mb=run.peak_mb,
        attention=run.attention,
        slice=run.slice,
        graphs=True,
        compiled=run.compiled,
    )


def _peak_mb(call: timing.Call, network: nn.Module, device: torch.device) -> float | None:
    """Most memory of one call with the network's own weights."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    held = {id(one): one for one in (*network.parameters(), *network.buffers())}
    weights = sum(one.numel() * one.element_size() for one in held.values())
    return float(torch.cuda.max_memory_allocated(device) - before + weights) / 1e6
