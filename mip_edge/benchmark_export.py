"""Times the graphs that a network can be exported to beside the published one, in turn."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engines.table import ENGINES, find_missing, open_engine
from export.bundle import export_bundle
from export.form import SURGERIES, TRIED
from export.inspection import Inspection, inspect_bundle
from export.options import ExportOptions
from mip_edge import checkpoint
from mip_edge.artifact import open_bundle
from mip_edge.benchmark_machine import describe_machine
from mip_edge.benchmark_turns import check_counts, check_given, show_progress, time_in_turn
from mip_edge.errors import EngineError, OptionError
from mip_edge.model.mip import MIP
from mip_edge.model.options import MIPOptions
from mip_edge.spec import Modality

STRAIGHT = "none"
"""The surgery that leaves the published computation as it is; all others are measured by it."""
GRAPHS = (STRAIGHT, "rows", "full")
NAMES = {STRAIGHT: "straight"}
"""What tables call a surgery where it is not its own name."""
_DEFAULTS: Mapping[str, Any] = {
    "model": "base",
    "stride": 12,
    "instance_queries": "zero",
    "image_size": (256, 128),
}
_SEED = 7


@dataclass(frozen=True, slots=True)
class ExportBenchmarkOptions:
    """Which network is exported how, and how often its graphs are timed."""

    model: str | None = None
    """Preset of a network of random weights: tiny, small or base (None)."""
    stride: int | None = None
    """Its pixels from patch to patch; None is 12."""
    instance_queries: str | None = None
    """"zero" as published (None), or "learnable"."""
    image_size: tuple[int, int] | None = None
    """Height and width of its crops in pixels; None is 256 x 128."""
    forms: tuple[str, ...] = ()
    """Graphs to be timed beside straight, rows and full, by the names of `export.form`."""
    engines: tuple[str, ...] = ("onnxruntime",)
    """What runs the graphs."""
    modalities: tuple[Modality, ...] = (Modality.VISIBLE, Modality.INFRARED)
    """Whose graphs are timed."""
    batches: tuple[int, ...] = (1, 8)
    """Crops of one call."""
    repeats: int = 10
    """Timed calls of each graph, engine, modality and batch."""
    threads: int | None = None
    """Threads of each engine; None leaves it to the runtime."""

    def __post_init__(self) -> None:
        for form in self.forms:
            if form not in SURGERIES and form not in TRIED:
                raise OptionError(f"--form must be one of {', '.join(TRIED)}, got {form!r}")
        for engine in self.engines:
            if engine not in ENGINES or ENGINES[engine].opens != "bundle":
                known = ", ".join(name for name, kind in ENGINES.items() if kind.opens == "bundle")
                raise OptionError(f"--engine must be one of {known}, got {engine!r}")
        check_given(engine=self.engines, modality=self.modalities)
        check_counts(self.batches, self.repeats)
        self.network()

    @property
    def graphs(self) -> tuple[str, ...]:
        """Surgeries in the order of the table, the straight one first."""
        return tuple(dict.fromkeys([*GRAPHS, *self.forms]))

    def network(self) -> MIPOptions:
        """Options of the network of random weights. Raises: OptionError for one that cannot be."""
        given = {name: getattr(self, name) for name in _DEFAULTS}
        chosen = {name: value for name, value in given.items() if value is not None}
        values = {**_DEFAULTS, **chosen}
        return MIPOptions.preset(values.pop("model"), **values)

    def check_weights(self, weights: str | Path | None) -> None:
        """Raises: OptionError where a checkpoint comes with options of another network."""
        given = [name for name in _DEFAULTS if getattr(self, name) is not None]
        if weights is not None and given:
            raise OptionError(
                f"--{given[0].replace('_', '-')} is for a network of random weights; "
                f"{weights} has its own. Give one or the other"
            )


@dataclass(frozen=True, slots=True)
class GraphTiming:
    """One graph on one engine, modality and batch size."""

    graph: str
    """"straight", or the name of the surgery."""
    macs: int
    """Multiply-accumulates of one crop."""
    fewer: float
    """Times as many as these has the straight graph."""
    engine: str
    modality: str
    batch: int
    median_ms: float
    """Milliseconds a crop."""
    p95_ms: float
    speedup: float
    """Times as fast as the straight graph on the same engine, modality and batch, by medians."""


@dataclass(frozen=True, slots=True)
class ExportBenchmark:
    """What was measured, on what."""

    network: Mapping[str, Any]
    """Options of the network."""
    weights: str
    """The checkpoint's file name, or "random weights"."""
    machine: str
    """The processor, and the threads that an engine may use."""
    repeats: int
    timings: list[GraphTiming]

    @property
    def subject(self) -> str:
        """The network in words, for tables and charts."""
        height, width = self.network["image_size"]
        return (
            f"MIP of width {self.network['width']} at {height}x{width}, stride "
            f"{self.network['stride']}, {self.network['instance_queries']} queries, {self.weights}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return asdict(self)


def benchmark_export(
    options: ExportBenchmarkOptions,
    weights: str | Path | None = None,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> ExportBenchmark:
    """Export one network in every form, and time the graphs in turn on the same crops.

    Without `weights` it is the network of the options with random weights. The bundles lie in a
    temporary folder; each is compared with PyTorch as every export is, and its operations are
    counted from the files.
    Raises: OptionError where `weights` come with options of another network; EngineError for a
    runtime that is missing; what `export_bundle` raises.
    """
    options.check_weights(weights)
    for engine in options.engines:
        missing = find_missing(engine)
        if missing is not None:
            raise EngineError(missing)
    timings: list[GraphTiming] = []
    with (
        tempfile.TemporaryDirectory(prefix="mip-edge-") as place,
        show_progress() as progress,
    ):
        folder = Path(place)
        source = Path(weights) if weights is not None else _draw_weights(options, folder)
        for graph in progress.track(options.graphs, description="export"):
            export_bundle(source, folder / graph, ExportOptions(surgery=graph))
        inspections = {graph: inspect_bundle(folder / graph) for graph in options.graphs}
        network = dict(open_bundle(folder / STRAIGHT).manifest.model)
        for modality in options.modalities:
            macs = {graph: _macs(inspection, modality) for graph, inspection in inspections.items()}
            with ExitStack() as stack:
                engines = {
                    (graph, name): stack.enter_context(
                        open_engine(
                            folder / graph, modality=modality, engine=name, threads=options.threads
                        )
                    )
                    for name in options.engines
                    for graph in options.graphs
                }
                for batch in options.batches:
                    rounds = progress.track(
                        range(options.repeats), description=f"{modality.value}, batch {batch}"
                    )
                    spent = time_in_turn(list(engines.values()), batch, rounds, clock)
                    timings += _summarise(
                        dict(zip(engines, spent, strict=True)), macs, modality, batch
                    )
    name = "random weights" if weights is None else source.name
    return ExportBenchmark(
        network, name, describe_machine(options.threads), options.repeats, timings
    )


def format_export_benchmark(benchmark: ExportBenchmark) -> str:
    """A table for the console, below it what was measured where."""
    wide = max(len("graph"), *(len(timing.graph) for timing in benchmark.timings))
    head = (
        f"{'graph':<{wide}} {'GMAC':>7} {'x fewer':>8} {'engine':<12} {'modality':<9} {'batch':>5} "
        f"{'ms/crop':>9} {'p95':>9} {'x straight':>11}"
    )
    lines = [head]
    lines += [
        f"{timing.graph:<{wide}} {timing.macs / 1e9:>7.3f} {timing.fewer:>8.2f} "
        f"{timing.engine:<12} {timing.modality:<9} {timing.batch:>5} {timing.median_ms:>9.2f} "
        f"{timing.p95_ms:>9.2f} {timing.speedup:>11.2f}"
        for timing in benchmark.timings
    ]
    lines.append(f"{benchmark.subject}; {benchmark.machine}; median of {benchmark.repeats} calls")
    return "\n".join(lines)


def _draw_weights(options: ExportBenchmarkOptions, folder: Path) -> Path:
    """A checkpoint of random weights, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = MIP(options.network())
    path = folder / "random.safetensors"
    checkpoint.save(model, path)
    return path


def _macs(inspection: Inspection, modality: Modality) -> int:
    [macs] = [one.cost.macs for one in inspection.graphs if modality in one.modalities]
    return macs


def _summarise(
    spent: Mapping[tuple[str, str], NDArray[np.float64]],
    macs: Mapping[str, int],
    modality: Modality,
    batch: int,
) -> list[GraphTiming]:
    medians = {key: float(np.median(milliseconds)) for key, milliseconds in spent.items()}
    return [
        GraphTiming(
            graph=NAMES.get(graph, graph),
            macs=macs[graph],
            fewer=macs[STRAIGHT] / macs[graph],
            engine=engine,
            modality=modality.value,
            batch=batch,
            median_ms=median,
            p95_ms=float(np.percentile(spent[graph, engine], 95)),
            speedup=medians[STRAIGHT, engine] / median if median > 0 else 1.0,
        )
        for (graph, engine), median in medians.items()
    ]
