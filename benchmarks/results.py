"""What was measured, on what; as a table, as Markdown and as plain values."""

from __future__ import annotations

import datetime as dt
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

TARGET = {"precision": "fp16", "batch": 256, "share": 0.5, "times_straight": 2.0}
"""Of an H200: what the rewritten network is to reach there."""
TENSORRT = "tensorrt"
"""The variant, and the engine, of rows that came through a bundle."""
_LIBRARIES = ("numpy", "onnx", "tensorrt", "torch", "triton")


@dataclass(frozen=True, slots=True)
class Row:
    """One variant in one precision at one batch size."""

    variant: str
    precision: str
    batch: int
    graphs: bool
    """Whether its kernels were replayed as a CUDA graph."""
    compiled: bool
    """Whether its blocks were compiled by torch."""
    attention: str | None
    """The kernel of fused attention, where the variant uses it."""
    slice: int | None
    """Crops that went through together, where the variant may take fewer than the batch."""
    rounds: int
    median_ms: float
    """Milliseconds of the whole batch."""
    p95_ms: float
    crops_per_second: float
    tflops: float
    """Twice the multiply-accumulates that its graph needs, a second."""
    share: float | None
    """Of the matmul ceiling measured in the same run; None where that failed."""
    times_straight: float | None
    """Times as fast as the straight network timed in turn with it (graphs and compilation alike;
    INT8 against float16, FP8 against bfloat16); None where that was not timed."""
    smallest_cosine: float | None
    """With the straight network in float32 (no TF32) on the same crops, over the whole batch; of
    TensorRT, with ONNX Runtime on the float32 graph of the bundle over at most 8 crops."""
    peak_mb: float | None
    """Most GPU memory of one call with the variant's own weights; None where nobody counts."""


@dataclass(slots=True)
class Results:
    """Everything of one run."""

    machine: Mapping[str, Any]
    network: Mapping[str, Any]
    ceilings: dict[str, float] = field(default_factory=dict)
    """TFLOP/s of a large square product by precision."""
    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """What this machine does not have, and why."""
    failed: dict[str, str] = field(default_factory=dict)
    """What should have run and did not."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json; what is not a finite number is None."""
        values = {**asdict(self), "target": self.target()}
        return {name: _plain(value) for name, value in values.items()}

    def target(self) -> dict[str, Any] | None:
        """The fastest rewritten row that the target speaks of; None if there is none."""
        there = [
            row
            for row in self.rows
            if (row.precision, row.batch) == (TARGET["precision"], TARGET["batch"])
            and row.variant in ("plain", "lean")
        ]
        if not there:
            return None
        best = min(there, key=lambda row: row.median_ms)
        return {"wanted": TARGET, "row": asdict(best)}

    def format(self, *, markdown: bool = False) -> str:
        """The table and below it what was measured where."""
        head = (
            *("variant", "precision", "batch", "graphs", "compiled", "attention", "slice"),
            *("ms", "p95", "crops/s", "TFLOP/s", "share", "x straight", "cosine", "MB"),
        )
        cells = [head, *(_cells(row) for row in self.rows)]
        lines = _markdown(cells) if markdown else _columns(cells)
        item = "- " if markdown else ""
        lines += [""] if markdown else []
        lines += [f"{item}{line}" for line in self._notes()]
        return "\n".join(lines)

    def _notes(self) -> list[str]:
        ceilings = ", ".join(f"{name} {rate:.1f}" for name, rate in self.ceilings.items())
        notes = [
            ", ".join(f"{name} {value}" for name, value in self.machine.items() if value),
            ", ".join(f"{name} {value}" for name, value in self.network.items()),
            f"matmul ceiling, TFLOP/s: {ceilings or 'none'}",
        ]
        target = self.target()
        if target is not None:
            row = target["row"]
            share = "-" if row["share"] is None else f"{row['share']:.0%}"
            ratio = "-" if row["times_straight"] is None else f"{row['times_straight']:.2f}x"
            notes.append(
                f"{row['precision']}, batch {row['batch']}: {share} of the measured ceiling and "
                f"{ratio} the straight network (an H200 is to reach {TARGET['share']:.0%} and "
                f"{TARGET['times_straight']}x)"
            )
        if any(row.variant == TENSORRT for row in self.rows):
            notes.append(
                f"{TENSORRT}: by the clock of the host, copies from and to the host counted; "
                "cosine with ONNX Runtime in float32 on the first crops"
            )
        notes += [f"skipped: {what}: {reason}" for what, reason in self.skipped.items()]
        notes += [f"failed: {what}: {reason}" for what, reason in self.failed.items()]
        return notes


def describe_machine(device: torch.device) -> dict[str, Any]:
    """The device, its driver, versions and the date."""
    found: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "driver": None,
        "capability": None,
        "CUDA": torch.version.cuda if device.type == "cuda" else None,
        "cores": os.cpu_count(),
    }
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        found["driver"] = _driver()
        found["capability"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
    found["python"] = platform.python_version()
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = None
    found["date"] = dt.datetime.now(dt.timezone.utc).date().isoformat()
    return found


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().partition("\n")[0] or None


def _cells(row: Row) -> tuple[str, ...]:
    return (
        *(row.variant, row.precision, str(row.batch)),
        *("yes" if flag else "no" for flag in (row.graphs, row.compiled)),
        *(row.attention or "-", str(row.slice or "-")),
        *(f"{row.median_ms:.3f}", f"{row.p95_ms:.3f}", f"{row.crops_per_second:,.0f}"),
        f"{row.tflops:.2f}",
        *("-" if row.share is None else f"{row.share:.1%}",),
        *("-" if row.times_straight is None else f"{row.times_straight:.2f}",),
        *("-" if row.smallest_cosine is None else f"{row.smallest_cosine:.6f}",),
        *("-" if row.peak_mb is None else f"{row.peak_mb:,.0f}",),
    )


def _columns(cells: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]


def _markdown(cells: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], f"|{' --- |' * len(cells[0])}", *lines[1:]]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
