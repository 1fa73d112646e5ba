"""Times the graphs that a network can be exported to beside the published one, in turn."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from engines.base import Engine
from engines.table import ENGINES, find_missing, open_engine
from export.bundle import export_bundle
from export.form import form_of
from export.inspection import Inspection, inspect_bundle
from export.options import ExportOptions
from mip_edge import checkpoint
from mip_edge.artifact import open_bundle
from mip_edge.errors import EngineError, OptionError, OutputError
from mip_edge.look.canvas import open_figure, write_figure
from mip_edge.model.mip import MIP
from mip_edge.model.options import MIPOptions
from mip_edge.spec import Batch, Modality

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
_WARM_UPS = 2
_SEED = 7
_COLOURS = ("#64748b", "#d97706", "#15803d", "#7c3aed", "#0369a1", "#be123c", "#0f766e")


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
            form_of(form)
        for engine in self.engines:
            if engine not in ENGINES or ENGINES[engine].opens != "bundle":
                known = ", ".join(name for name, kind in ENGINES.items() if kind.opens == "bundle")
                raise OptionError(f"--engine must be one of {known}, got {engine!r}")
        for flag, given in (("engine", self.engines), ("modality", self.modalities)):
            if not given:
                raise OptionError(f"--{flag} must be given at least once")
        if not self.batches or min(self.batches) < 1:
            raise OptionError(f"--batch must be at least 1, got {self.batches}")
        if self.repeats < 1:
            raise OptionError(f"--repeats must be at least 1, got {self.repeats}")
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
        Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress,
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
                    spent = _time_in_turn(engines, batch, rounds, clock)
                    timings += _summarise(spent, macs, modality, batch)
    name = "random weights" if weights is None else source.name
    return ExportBenchmark(network, name, _describe(options), options.repeats, timings)


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
    lines.append(f"{_subject(benchmark)}; {benchmark.machine}; median of {benchmark.repeats} calls")
    return "\n".join(lines)


def check_chart(path: Path, *, overwrite: bool) -> None:
    """Refuse, before hours of timing, a picture that cannot be written.

    Raises: OutputError for a file that exists (without `overwrite`), a name that does not end in
    .png, or a folder that does not exist.
    """
    open_figure(1, 1)  # tells at once whether matplotlib is installed
    if path.suffix.lower() != ".png":
        raise OutputError(f"--chart {path} must end in .png")
    if not path.parent.is_dir():
        raise OutputError(f"--chart {path} cannot be written: {path.parent} is not a folder")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; choose another --chart or add --overwrite")


def draw_chart(benchmark: ExportBenchmark, path: Path) -> None:
    """Milliseconds a crop of each graph as bars, a panel for each engine and modality, as PNG."""
    timings = benchmark.timings
    panels = list(dict.fromkeys((one.engine, one.modality) for one in timings))
    graphs = list(dict.fromkeys(one.graph for one in timings))
    batches = list(dict.fromkeys(one.batch for one in timings))
    thickness = 0.8 / len(graphs)
    figure = open_figure(9, 1.1 + len(panels) * (0.5 + 0.3 * len(graphs) * len(batches)))
    columns = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    longest = max(one.median_ms for one in timings)
    for axes, panel in zip(columns, panels, strict=True):
        for row, graph in enumerate(graphs):
            shown = [
                one for one in timings if (one.engine, one.modality, one.graph) == (*panel, graph)
            ]
            places = [
                batches.index(one.batch) + thickness * (row - (len(graphs) - 1) / 2)
                for one in shown
            ]
            colour = _COLOURS[row % len(_COLOURS)]
            bars = axes.barh(
                places, [one.median_ms for one in shown], 0.9 * thickness, color=colour, label=graph
            )
            words = [
                f"{one.median_ms:.1f} ms, {one.macs / 1e9:.2f} GMAC"
                + ("" if graph == NAMES[STRAIGHT] else f", {one.speedup:.2f}x as fast")
                for one in shown
            ]
            axes.bar_label(bars, words, padding=3, fontsize=8)
        axes.set_title(f"{panel[0]}, {panel[1]} crops", fontsize=10)
        axes.set_yticks(range(len(batches)), [f"batch {batch}" for batch in batches])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.45 * longest)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    columns[-1].set_xlabel("milliseconds a crop, median")
    handles, labels = columns[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(graphs), fontsize=9)
    figure.suptitle(f"{_subject(benchmark)}\n{benchmark.machine}", fontsize=10)
    write_figure(figure, path)


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


def _time_in_turn(
    engines: Mapping[tuple[str, str], Engine],
    batch: int,
    rounds: Iterable[int],
    clock: Callable[[], float],
) -> dict[tuple[str, str], list[float]]:
    """Milliseconds a crop in each round of one call of every engine after the other."""
    rng = np.random.default_rng(_SEED)
    shape = next(iter(engines.values())).spec.batch_shape
    crops: Batch = rng.integers(0, 256, (batch, *shape), dtype=np.uint8)
    for engine in engines.values():
        for _ in range(_WARM_UPS):
            engine.embed(crops)
    spent: dict[tuple[str, str], list[float]] = {key: [] for key in engines}
    for _ in rounds:
        for key, engine in engines.items():
            start = clock()
            engine.embed(crops)
            spent[key].append(1000 * (clock() - start) / batch)
    return spent


def _summarise(
    spent: Mapping[tuple[str, str], Sequence[float]],
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


def _subject(benchmark: ExportBenchmark) -> str:
    network = benchmark.network
    height, width = network["image_size"]
    return (
        f"MIP of width {network['width']} at {height}x{width}, stride {network['stride']}, "
        f"{network['instance_queries']} queries, {benchmark.weights}"
    )


def _describe(options: ExportBenchmarkOptions) -> str:
    """The machine and the threads that an engine may use."""
    threads = options.threads
    allowed = "threads as the runtime chooses"
    if threads is not None:
        allowed = f"{threads} thread{'s' if threads > 1 else ''}"
    processor = platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores, {allowed}"
