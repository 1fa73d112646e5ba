"""Plans of TensorRT or TensorRT-RTX for every graph of a bundle, built ahead of time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engines.build_trt import RTX, BuildOptions, build_engine, library_version
from engines.cache import EngineCache
from engines.launches import (
    KINDS,
    Launches,
    count_blocks,
    lint_launches,
    quantized_maps,
    read_launches,
)
from engines.plan import RUNTIMES, plan_key, read_plan
from mip_edge.artifact import Bundle, open_bundle
from mip_edge.errors import EngineError, OutputError
from mip_edge.spec import Modality

logger = logging.getLogger(__name__)

BUILDERS = {engine: module for module, engine in RUNTIMES.items()}
"""Engine to the module that builds for it."""
PORTABLE = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""Every GPU that one plan of TensorRT-RTX can serve; Turing's (7.5) would cost the others."""
_TURING = "7.5"
_NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """One plan that lies in the cache now."""

    graph: str
    """File of the bundle."""
    precision: str
    device: str
    """What it is for, in words."""
    seconds: float
    """Of the build; 0 if it was there already."""
    bytes: int
    path: Path
    launches: Launches | None
    """None where the plan does not tell."""
    lost: tuple[str, ...]
    """Fusions that the graph should have and this plan has not."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        launches = None if self.launches is None else asdict(self.launches)
        return {**asdict(self), "path": str(self.path), "launches": launches}


@dataclass(frozen=True, slots=True)
class _Step:
    modality: Modality
    graph: Path
    precision: str
    options: BuildOptions


def build_plans(
    path: str | Path,
    options: BuildOptions,
    *,
    precisions: Sequence[str] = (),
    folder: Path | None = None,
    overwrite: bool = False,
    begin: Callable[[str, int], None] | None = None,
) -> list[BuiltPlan]:
    """Build every graph of a verified bundle at `precisions`, all that it has if none are named.

    Plans go to the engine cache, or to `folder`, which is one that can be copied to the device.
    What is there already is left, but with `overwrite`. For TensorRT-RTX one plan serves all
    `options.capabilities`, but Turing has one of its own. `begin` is told of each build and of
    how many there are.
    Raises: EngineError, BundleError, or OutputError for a folder that holds something else.
    """
    bundle = open_bundle(path)
    cache = EngineCache() if folder is None else EngineCache(folder, _NO_LIMIT)
    stranger = None if folder is None else cache.foreign()
    if stranger is not None:
        raise OutputError(
            f"{folder} holds {stranger}, which is no part of an engine cache; choose another place"
        )
    device, driver = ("", "") if options.module == RTX else _gpu()
    steps = list(_steps(bundle, options, precisions or tuple(bundle.manifest.precisions)))
    plans = []
    for step in steps:
        if begin is not None:
            begin(step.graph.name, len(steps))
        plans.append(_build(bundle, step, cache, device, driver, overwrite))
    gone = [plan.graph for plan in plans if not plan.path.exists()]
    if gone:
        raise OutputError(
            f"the engine cache {cache.root} has no room for all plans: {', '.join(gone)} went "
            "again. Raise MIP_EDGE_CACHE_LIMIT, or choose a folder with -o"
        )
    return plans


def format_plans(plans: Sequence[BuiltPlan]) -> str:
    """A table, a line a plan; kernels of one run by what is fused into them."""
    head = ["graph", "precision", "for", "seconds", "MB"]
    kinds = [kind.replace("_", " ") for kind in KINDS]
    rows = [[*head, *kinds]]
    for plan in plans:
        counts = plan.launches.counts() if plan.launches else {}
        rows.append(
            [
                plan.graph,
                plan.precision,
                plan.device.removeprefix("compute capability "),
                f"{plan.seconds:.1f}" if plan.seconds else "cached",
                f"{plan.bytes / 1e6:.1f}",
                *(str(counts.get(kind, "?")) for kind in KINDS),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _steps(bundle: Bundle, options: BuildOptions, precisions: Sequence[str]) -> Iterator[_Step]:
    """Each graph file once for each group of devices that share a plan."""
    turing = tuple(one for one in options.capabilities if one == _TURING)
    others = tuple(one for one in options.capabilities if one != _TURING)
    groups = [group for group in (others, turing) if group] or [()]
    seen = set()
    for precision in dict.fromkeys(precisions):
        for modality in bundle.manifest.specs:
            graph = bundle.graph_path(modality, precision)
            if graph not in seen:
                seen.add(graph)
                for group in groups:
                    yield _Step(modality, graph, precision, replace(options, capabilities=group))


def _build(
    bundle: Bundle, step: _Step, cache: EngineCache, device: str, driver: str, overwrite: bool
) -> BuiltPlan:
    options, spent = step.options, 0.0

    def build(graph: Path, chosen: BuildOptions) -> bytes:
        nonlocal spent
        start = time.perf_counter()
        plan = build_engine(graph, chosen)
        spent = time.perf_counter() - start
        return plan

    key = plan_key(bundle, step.graph, step.precision, options, device=device, driver=driver)
    plan = read_plan(
        bundle, step.modality, step.precision, options,
        cache=cache, device=device, driver=driver, build=build, overwrite=overwrite,
    )  # fmt: skip
    launches = read_launches(plan)
    entry = cache.find(key)
    if entry is None:
        raise EngineError(f"the plan of {step.graph} went from {cache.root} while it was built")
    return BuiltPlan(
        graph=step.graph.name,
        precision=step.precision,
        device=key.device,
        seconds=spent,
        bytes=len(plan),
        path=entry.path,
        launches=launches,
        lost=() if launches is None else _lint(launches, step),
    )


def _lint(launches: Launches, step: _Step) -> tuple[str, ...]:
    content = step.graph.read_bytes()
    lost = lint_launches(
        launches,
        layers=count_blocks(content),
        precision=step.precision,
        quantized=quantized_maps(content),
        turing=_TURING in step.options.capabilities,
    )
    return tuple(lost)


def _gpu() -> tuple[str, str]:
    """The GPU that plans are built on, and its driver. Raises: EngineError if there is none."""
    from engines.cuda import open_device

    library_version("tensorrt")
    try:
        facts = open_device(None).facts
    except EngineError as error:
        raise EngineError(
            "--engine tensorrt builds on the GPU that will run the plan: build there, or choose "
            f"--engine tensorrt-rtx, which needs none ({error})"
        ) from error
    return facts.device, facts.driver
