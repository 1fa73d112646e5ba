"""Times a whole training step of our network and of the published forward, in turn."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from mip_edge.errors import OptionError, TrainingError
from mip_edge.model.mip import MIP
from mip_edge.model.optimizer import OptimizerOptions, build_optimizer
from mip_edge.model.options import MIPOptions
from mip_edge.model.straight import Straight
from mip_edge.objective import Objective, ObjectiveOptions
from mip_edge.recipe import TrainOptions
from mip_edge.start import amp_type, open_device

OURS, STRAIGHT = "mip-edge", "straight"
CLASSES = 395
"""Training identities of SYSU-MM01."""
_CROPS_OF_AN_IDENTITY = 4
_WARM_UPS = 1
_MEMORY_STEPS = 2
_SEED = 7
_MIB = 2**20
# Weights that hardly move: random crops must not lead to numbers that are slow to compute with.
_RATE = 1e-7

Step = Callable[[], None]


@dataclass(frozen=True, slots=True)
class TrainBenchmarkOptions:
    """Which network is trained, on what, and how often a step is timed."""

    model: str = "base"
    """Preset of the network: tiny, small or base."""
    batch: int = 8
    """Crops of a step: identities of two visible and two infrared ones."""
    image_size: tuple[int, int] = (256, 128)
    """Height and width of a crop in pixels."""
    stride: int = 12
    """Pixels from patch to patch."""
    instance_queries: str = "zero"
    """"zero" as published, or "learnable"."""
    iael: bool = False
    """Train with the instance-aware enhancement loss."""
    steps: int = 3
    """Timed steps of each forward, after one to warm up."""
    accumulate: int = 1
    """Parts in which a batch goes through the network."""
    amp: bool = False
    """Mixed precision: float16 on CUDA, bfloat16 elsewhere."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1."""
    threads: int | None = None
    """Threads of a CPU; None takes all cores."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.batch % _CROPS_OF_AN_IDENTITY:
            raise OptionError(
                f"--batch must be a multiple of {_CROPS_OF_AN_IDENTITY} (two visible and two "
                f"infrared crops of an identity), got {self.batch}"
            )
        for name in ("steps", "accumulate"):
            if getattr(self, name) < 1:
                raise OptionError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.accumulate > self.batch:
            raise OptionError(
                f"--accumulate must be at most --batch {self.batch}, got {self.accumulate}"
            )
        self.network()

    def network(self) -> MIPOptions:
        """Options of the network. Raises: OptionError for a size or stride that cannot be."""
        return MIPOptions.preset(
            self.model,
            image_size=self.image_size,
            stride=self.stride,
            instance_queries=self.instance_queries,
            classes=CLASSES,
            iael=self.iael,
        )


@dataclass(frozen=True, slots=True)
class StepTiming:
    """One of the two forwards, with losses, backward and optimizer step."""

    forward: str
    """"mip-edge" or "straight"."""
    median_s: float
    """Seconds a step."""
    fastest_s: float
    crops_s: float
    """Crops a second, by the median."""
    speedup: float
    """Times as fast as the straight one, by the medians."""
    peak_mib: float
    """Memory that the training takes at most: weights, gradients, momentum and activations."""


@dataclass(frozen=True, slots=True)
class TrainBenchmark:
    """What was measured, and on what."""

    options: TrainBenchmarkOptions
    device: str
    """Name of the device, with the threads of a CPU."""
    timings: list[StepTiming]
    """Ours, then the straight one."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return asdict(self)


def benchmark_train(
    options: TrainBenchmarkOptions,
    *,
    clock: Callable[[], float] = time.perf_counter,
    memory: Callable[[TrainBenchmarkOptions, str], float] | None = None,
) -> TrainBenchmark:
    """Steps of both forwards in turn, with the same weights, batch and optimizer.

    `memory` gives the peak of a forward in bytes; by default CUDA counts it, and on a CPU a fresh
    process of each runs two steps, whose peak less that before the network was built is taken.
    Raises: OptionError for a device that cannot be used; TrainingError if memory runs out.
    """
    device = open_device(TrainOptions(device=options.device, threads=options.threads))
    torch.manual_seed(_SEED)
    steps = build_steps(options, device)
    memory = memory or (_cuda_peak if device.type == "cuda" else _peak_of_fresh_process)
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        rounds = range(_WARM_UPS + options.steps)
        title = f"{options.model}, steps in turn"
        spent = [
            _time_round(steps, device, clock) for _ in progress.track(rounds, description=title)
        ]
        names = progress.track(list(steps), description="memory of each")
        peaks = {name: memory(options, name) for name in names}
    timed = {name: [one[name] for one in spent[_WARM_UPS:]] for name in steps}
    return TrainBenchmark(options, _describe(device), _summarise(timed, peaks, options.batch))


def build_steps(
    options: TrainBenchmarkOptions,
    device: torch.device,
    names: Sequence[str] = (OURS, STRAIGHT),
) -> dict[str, Step]:
    """A training step of each forward; all share one network, one batch and one optimizer."""
    model = MIP(options.network()).to(device).train()
    optimizer = build_optimizer(model, OptimizerOptions(lr=_RATE))
    images = torch.randn(options.batch, 3, *options.image_size, device=device)
    rows = torch.arange(options.batch, device=device)
    modality, labels = rows % 2, rows // _CROPS_OF_AN_IDENTITY % CLASSES
    settings = ObjectiveOptions(
        accumulate=options.accumulate, amp=amp_type(device) if options.amp else None
    )

    def build(name: str) -> Step:
        # The straight forward has the same methods and stands in for the network.
        network = model if name == OURS else cast(MIP, Straight(model))
        objective = Objective(network, settings)
        scaler = torch.amp.GradScaler(device.type, enabled=options.amp and device.type == "cuda")

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            found = objective(images, modality, None, labels, modality, True)
            scaler.scale(sum(found)).backward()
            scaler.step(optimizer)
            scaler.update()

        return step

    return {name: build(name) for name in names}


def format_train_benchmark(benchmark: TrainBenchmark) -> str:
    """A table for the console, below it what was trained where."""
    options = benchmark.options
    height, width = options.image_size
    lines = [f"{'forward':<9} {'s/step':>8} {'crops/s':>8} {'x straight':>11} {'peak MiB':>9}"]
    lines += [
        f"{timing.forward:<9} {timing.median_s:>8.3f} {timing.crops_s:>8.2f} "
        f"{timing.speedup:>11.2f} {timing.peak_mib:>9.0f}"
        for timing in benchmark.timings
    ]
    parts = f" in {options.accumulate} parts" if options.accumulate > 1 else ""
    lines.append(
        f"{options.model} at {height}x{width}, stride {options.stride}, batch {options.batch}"
        f"{parts}, {options.instance_queries} queries, IAEL {'on' if options.iael else 'off'}, "
        f"mixed precision {'on' if options.amp else 'off'}, {benchmark.device}; "
        f"median of {options.steps} steps"
    )
    return "\n".join(lines)


def _time_round(
    steps: Mapping[str, Step], device: torch.device, clock: Callable[[], float]
) -> dict[str, float]:
    """One step of each, in seconds."""
    spent = {}
    for name, step in steps.items():
        _wait(device)
        begun = clock()
        step()
        _wait(device)
        spent[name] = clock() - begun
    return spent


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summarise(
    timed: Mapping[str, Sequence[float]], peaks: Mapping[str, float], batch: int
) -> list[StepTiming]:
    medians = {name: float(np.median(seconds)) for name, seconds in timed.items()}
    return [
        StepTiming(
            forward=name,
            median_s=median,
            fastest_s=min(timed[name]),
            crops_s=batch / median,
            speedup=medians[STRAIGHT] / median,
            peak_mib=peaks[name] / _MIB,
        )
        for name, median in medians.items()
    ]


def _cuda_peak(options: TrainBenchmarkOptions, name: str) -> float:
    """Bytes that torch's allocator holds at most in steps of a network of its own."""
    device = torch.device(options.device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step = build_steps(options, device, (name,))[name]
    for _ in range(_MEMORY_STEPS):
        step()
    return float(torch.cuda.max_memory_allocated(device) - before)


def _peak_of_fresh_process(options: TrainBenchmarkOptions, name: str) -> float:
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
            return pool.submit(_cpu_peak, options, name).result()
    except BrokenProcessPool as error:
        raise TrainingError(
            f"the process that measures the memory of {name!r} was killed, perhaps for want of "
            "memory; take a smaller --batch"
        ) from error


def _cpu_peak(options: TrainBenchmarkOptions, name: str) -> float:
    """Bytes by which the first steps raise the peak of this process, which is a fresh one."""
    device = open_device(TrainOptions(device=options.device, threads=options.threads))
    torch.manual_seed(_SEED)
    before = _resident_peak()
    step = build_steps(options, device, (name,))[name]
    for _ in range(_MEMORY_STEPS):
        step()
    return float(_resident_peak() - before)


def _resident_peak() -> int:
    """Most bytes this process has held in memory so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        # ru_maxrss of a new process begins with that of its parent on Linux; this does not.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type} with {threads} thread{'s' if threads > 1 else ''}"
