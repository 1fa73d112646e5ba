"""Measures the memory of a bundle with both modalities open, each engine in a new process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from engines.table import ENGINES, open_source
from mip_edge.artifact import Bundle
from mip_edge.embedder import Embedder
from mip_edge.errors import EngineError, MipEdgeError, OptionError
from mip_edge.spec import Modality

_MAPPINGS = Path("/proc/self/smaps")
_STATUS = Path("/proc/self/status")
_MB_OF_KILOBYTE = 1024e-6
"""Linux counts in 1024 bytes; a MB here is a million, as for files."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one process, most of it beyond what it held with the runtime imported alone."""

    engine: str
    precision: str
    share_weights: bool
    batch: int
    """Crops of each modality that were embedded last, after all smaller batches."""
    resident_mb: float
    """Pages in memory, a page counted as often as it is mapped."""
    physical_mb: float
    """The same with every page of the bundle's files counted once, however often it is mapped;
    less where another process has the same bundle open."""
    imports_mb: float
    """Physical memory that the process held before, with its imports."""
    total_mb: float
    """Resident memory of the whole process: Python, imports, weights and all."""
    peak_mb: float
    """The most that was ever resident in that process, opening included."""
    without_torch: bool
    """Whether the process never imported torch, as on an edge box."""


def measure_memory(
    bundle: Path,
    engines: Sequence[str],
    batches: Sequence[int],
    *,
    precisions: Sequence[str],
    threads: int | None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Memory]:
    """Each engine opens both modalities at each precision and embeds one batch of each size with
    each, in a process of its own; an engine that can share weights does so once more, sharing.

    `options` are an engine's own, by its name. Raises: OptionError where the system is not Linux;
    BundleError for a precision that the bundle lacks; EngineError for an
    engine that does not open.
    """
    if not _MAPPINGS.exists():
        raise OptionError(
            f"--memory reads {_MAPPINGS}, which {sys.platform} does not have; run it on Linux"
        )
    found = []
    for engine in engines:
        source = open_source(bundle, engine)  # what is wrong is told here, not by the child
        can_share = "share_weights" in ENGINES[engine].options
        for share_weights in (False, True) if can_share else (False,):
            for precision in precisions:
                if isinstance(source, Bundle):
                    source.graph_path(Modality.VISIBLE, precision)
                task = {
                    "bundle": str(bundle),
                    "engine": engine,
                    "share_weights": share_weights,
                    "batches": sorted(set(batches)),
                    "precision": precision,
                    "threads": threads,
                    "options": dict((options or {}).get(engine, {})),
                }
                found += _measure_apart(task)
    return found


def _measure_apart(task: Mapping[str, object]) -> list[Memory]:
    """What a new process measures of itself; it inherits nothing that is in memory here."""
    command = [sys.executable, "-m", "mip_edge.memory", json.dumps(task)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines() or [f"it ended with {child.returncode}"]
        raise EngineError(
            f"the memory of the engine {task['engine']} was not measured: {lines[-1]}"
        )
    return [Memory(**line) for line in json.loads(child.stdout.splitlines()[-1])]


def measure_here(
    bundle: Path,
    engine: str,
    *,
    share_weights: bool,
    batches: Sequence[int],
    precision: str,
    threads: int | None,
    options: Mapping[str, Any] | None = None,
) -> list[Memory]:
    """As `measure_memory`, in this process: right only where nothing was opened before."""
    import_module(ENGINES[engine].module)
    before = read_memory(bundle)
    measured = []
    with Embedder.open(
        bundle,
        engine,
        threads=threads,
        precision=precision,
        share_weights=share_weights,
        **(options or {}),
    ) as embedder:
        crop = np.full(embedder.specs[Modality.VISIBLE].batch_shape, 128, dtype=np.uint8)
        for batch in batches:
            for modality in embedder.specs:
                embedder.embed([crop] * batch, modality)
            resident, physical = read_memory(bundle)
            measured.append(
                Memory(
                    engine=engine,
                    precision=precision,
                    share_weights=share_weights,
                    batch=batch,
                    resident_mb=round(resident - before[0], 1),
                    physical_mb=round(physical - before[1], 1),
                    imports_mb=round(before[1], 1),
                    total_mb=round(resident, 1),
                    peak_mb=round(read_peak(), 1),
                    without_torch="torch" not in sys.modules,
                )
            )
    return measured


def read_memory(bundle: Path) -> tuple[float, float]:
    """Resident and physical memory of this process, MB."""
    with _MAPPINGS.open(encoding="utf-8", errors="replace") as stream:
        return sum_mappings(stream, bundle.resolve())


def read_peak() -> float:
    """The most resident memory that this process ever had, MB."""
    return _read_status("VmHWM")


def read_resident() -> float:
    """The resident memory of this process now, MB."""
    return _read_status("VmRSS")


def _read_status(key: str) -> float:
    [line] = [one for one in _STATUS.read_text().splitlines() if one.startswith(f"{key}:")]
    return int(line.split()[1]) * _MB_OF_KILOBYTE


def sum_mappings(lines: Iterable[str], bundle: Path) -> tuple[float, float]:
    """Resident and physical MB of the mappings in Linux's smaps format.

    Files below `bundle` count by their proportional set size: a page that two mappings share is
    half of each. All else counts as it is resident, so that what other processes do with the
    same libraries changes nothing.
    """
    resident = physical = 0
    counted = "Rss"
    for line in lines:
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):  # the line that names a mapping
            ours = len(words) == 6 and bundle in Path(words[5].strip()).parents
            counted = "Pss" if ours else "Rss"
            continue
        name = words[0][:-1]
        if name == "Rss":
            resident += int(words[1])
        if name == counted:
            physical += int(words[1])
    return resident * _MB_OF_KILOBYTE, physical * _MB_OF_KILOBYTE


def main() -> None:
    """Measure what the first argument asks for and print it; for `measure_memory` alone."""
    task = json.loads(sys.argv[1])
    bundle, engine = Path(task.pop("bundle")), task.pop("engine")
    try:
        measured = measure_here(bundle, engine, **task)
    except MipEdgeError as error:
        sys.exit(str(error))
    print(json.dumps([asdict(one) for one in measured]))


if __name__ == "__main__":
    main()
