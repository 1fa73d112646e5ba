"""A benchmark as text for the console and as Markdown for a README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from mip_edge.benchmark_result import Benchmark, Opening, Timing
from mip_edge.benchmark_turns import WARM_UPS
from mip_edge.errors import OutputError
from mip_edge.memory import Memory
from mip_edge.output import write_text

_WIDTH = 120
_CALLS_FOR_P99 = 100
_BUSY = 1.5
"""Median over fastest call from which a run is not to be trusted."""
_NOTHING = "-"
_MEMORY_TITLE = "memory of one process with both modalities open, MB"
_LABELLED = (("Rank-1", "rank1", "{:.2f}"), ("mAP", "mean_ap", "{:.2f}"))
_UNLABELLED = (("cos min", "smallest_cosine", "{:.5f}"), ("mean", "mean_cosine", "{:.5f}"))
_LEFT_COLUMNS = ("engine", "precision", "modality")
_TIMES = (
    ("p50 ms", "p50_ms", 2), ("p95", "p95_ms", 2), ("p99", "p99_ms", 2),
    ("ms/crop", "median_ms", 2), ("crops/s", "crops_s", 1),
)  # fmt: skip

Rows = Sequence[Sequence[str]]
"""A head and its rows, cell by cell."""


def format_benchmark(benchmark: Benchmark) -> str:
    """Tables for the console, at most 120 columns wide, below them what was measured where."""
    parts = []
    for title, timings in _sections(benchmark):
        parts.append(f"{title}\n{_align(tabulate(timings))}")
    parts.append("opening one engine, s\n" + _align(_openings(benchmark.openings)))
    if benchmark.memory is not None:
        parts.append(f"{_MEMORY_TITLE}\n{_align(_memory(benchmark.memory))}")
    parts += ["\n".join(fill(note, _WIDTH, subsequent_indent="  ") for note in _notes(benchmark))]
    return "\n\n".join(parts)


def format_markdown(benchmark: Benchmark) -> str:
    """The same for a README."""
    parts = []
    for title, timings in _sections(benchmark):
        parts.append(f"**{title}**\n\n{_pipe(tabulate(timings))}")
    parts.append(f"**opening one engine, s**\n\n{_pipe(_openings(benchmark.openings))}")
    if benchmark.memory is not None:
        parts.append(f"**{_MEMORY_TITLE}**\n\n{_pipe(_memory(benchmark.memory))}")
    parts.append("\n".join(f"- {note}" for note in _notes(benchmark)))
    return "\n\n".join(parts) + "\n"


def check_markdown(path: Path, *, overwrite: bool) -> None:
    """Refuse, before anything is timed, a file that cannot be written. Raises: OutputError."""
    if not path.parent.is_dir():
        raise OutputError(f"--markdown {path} cannot be written: {path.parent} is not a folder")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; choose another --markdown or add --overwrite")


def write_markdown(benchmark: Benchmark, path: Path) -> None:
    """`format_markdown` as a file, whole or not at all. Raises: OutputError."""
    write_text(path, format_markdown(benchmark))


def tabulate(timings: Sequence[Timing]) -> list[list[str]]:
    """Head and rows of one table; columns that nothing fills are left out.

    Rank-1 and mAP stand there if the bundle has them, cosines with PyTorch otherwise.
    """
    labelled = any(timing.rank1 is not None for timing in timings)
    shown = _LABELLED if labelled else _UNLABELLED
    table = [
        [
            *("engine", "precision"),
            *(head for head, _, _ in _TIMES),
            *("GMAC/s", "% peak", "x first", "x fp32"),
            *(head for head, _, _ in shown),
        ]
    ]
    for timing in timings:
        table.append(
            [
                timing.name,
                timing.precision,
                *(f"{getattr(timing, name):.{digits}f}" for _, name, digits in _TIMES),
                _cell(None if timing.macs_s is None else timing.macs_s / 1e9, "{:.1f}"),
                _cell(timing.ceiling_share, "{:.0%}"),
                f"{timing.speedup:.2f}",
                _cell(timing.speedup_fp32, "{:.2f}"),
                *(_cell(getattr(timing, name), form) for _, name, form in shown),
            ]
        )
    filled = [
        column
        for column in range(len(table[0]))
        if any(row[column] != _NOTHING for row in table[1:])
    ]
    return [[row[column] for column in filled] for row in table]


def _cell(value: float | None, form: str) -> str:
    return _NOTHING if value is None else form.format(value)


def _sections(benchmark: Benchmark) -> list[tuple[str, list[Timing]]]:
    """A table for each modality and batch: only within one do numbers compare."""
    found: dict[str, list[Timing]] = {}
    for timing in benchmark.timings:
        found.setdefault(f"{timing.modality} crops, batch {timing.batch}", []).append(timing)
    return list(found.items())


def _openings(openings: Sequence[Opening]) -> list[list[str]]:
    return [
        ["engine", "precision", "modality", "first", "again"],
        *(
            [
                one.engine + (" sharing" if one.share_weights else ""),
                one.precision,
                one.modality,
                f"{one.first_s:.2f}",
                f"{one.again_s:.2f}",
            ]
            for one in openings
        ),
    ]


def _memory(measured: Sequence[Memory]) -> list[list[str]]:
    heads = ["engine", "precision", "batch", "resident", "physical", "whole process", "peak"]
    return [
        heads,
        *(
            [
                one.engine + (" sharing" if one.share_weights else ""),
                one.precision,
                str(one.batch),
                *(f"{size:.1f}" for size in (one.resident_mb, one.physical_mb)),
                *(f"{size:.1f}" for size in (one.total_mb, one.peak_mb)),
            ]
            for one in measured
        ),
    ]


def _notes(benchmark: Benchmark) -> list[str]:
    """What a reader must know of the numbers, a line each."""
    calls = benchmark.timings[0].calls
    versions = ", ".join(f"{name} {number}" for name, number in benchmark.versions.items())
    lines = [benchmark.subject, benchmark.machine, versions]
    lines.append(
        f"p50, p95, p99: milliseconds a call, of {calls} calls each after {WARM_UPS} to warm up; "
        "all engines in turn on the same crops"
    )
    lines.append(
        "x first, x fp32: times as fast as the first row, as the same engine at fp32; medians of "
        "the ratios round by round"
    )
    if any(one.smallest_cosine is not None for one in benchmark.timings):
        lines.append(
            "cos min, mean, Rank-1, mAP: of the graph as measured at its export, and not of the "
            "engine that ran it here"
        )
    if any(one.engine == "torch" for one in benchmark.timings):
        lines.append(
            "torch: the checkpoint as the published code computes it, dead work and all (without "
            "it: --engine-option torch.straight=false)"
        )
    if benchmark.engine_options:
        lines.append(
            f"engine options: {', '.join(benchmark.engine_options)}; precision is that of the "
            "graph, whatever an option makes of it"
        )
    worst = max(benchmark.timings, key=_slowdown)
    if _slowdown(worst) > _BUSY:
        lines.append(
            f"BUSY MACHINE: the median call of {worst.name} {worst.precision} took "
            f"{_slowdown(worst):.1f} times its fastest; ratios do not hold, measure again when "
            "nothing else runs"
        )
    if calls < _CALLS_FOR_P99:
        lines.append(
            f"p99 of {calls} calls is next to the slowest of them; "
            f"--repeats {_CALLS_FOR_P99} gives one that is worth its name"
        )
    if benchmark.ceilings:
        ceilings = ", ".join(str(one) for one in benchmark.ceilings.values())
        lines.append(
            f"peak: {ceilings}: the fastest matrix product of ONNX Runtime with as many threads, "
            "measured before and after the others"
        )
        lines.append(
            "% peak: time of the graph's multiply-accumulates at that peak, those on integers at "
            "int8 and all others at fp32, over the median call; a busy machine lowers it"
        )
    if benchmark.openings:
        lines.append(
            "first: the bundle dropped from the file cache where the system does so, nothing of it "
            "compiled before but TensorRT's plans; again: once all were opened, from that cache "
            "and the engine cache; imports not counted"
        )
    if benchmark.memory:
        lines.append(
            "resident, physical: over the imports, weights that are mapped twice counted twice, "
            "once; peak: the most ever resident"
        )
        if all(one.without_torch for one in benchmark.memory):
            lines.append("whole process: an edge process, without torch")
    lines += [
        f"left out: {one.engine} at {one.precision}: {one.reason}" for one in benchmark.left_out
    ]
    return lines


def _slowdown(timing: Timing) -> float:
    return timing.p50_ms / timing.fastest_ms if timing.fastest_ms > 0 else 1.0


def _align(table: Rows) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        " ".join(
            f"{cell:<{width}}" if head in _LEFT_COLUMNS else f"{cell:>{width}}"
            for cell, width, head in zip(row, widths, table[0], strict=True)
        ).rstrip()
        for row in table
    )


def _pipe(table: Rows) -> str:
    rule = [":--" if head in _LEFT_COLUMNS else "--:" for head in table[0]]
    head, *rows = table
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))
