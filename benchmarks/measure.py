"""Every precision, batch and variant in one run; what fails is told and the run goes on."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import timing
from benchmarks.options import Options
from benchmarks.precision import PRECISIONS, Precision, measure_ceiling, rounding
from benchmarks.results import Results, Row, describe_machine
from benchmarks.run import Run, as_graph, choose, warm_up
from benchmarks.subject import (
    build,
    compile_blocks,
    count_macs,
    draft,
    draw_crops,
)
from mip_edge.model.mip import MIP

_CHUNK = 64


class ContextLost(Exception):
    """After such an error the GPU answers nothing more in this process."""


def measure(
    model: MIP,
    options: Options,
    network: Mapping[str, object],
    *,
    tell: Callable[[str], None],
    keep: Callable[[Results], None],
) -> Results:
    """Time the network in every form; `tell` gets a line at each step, `keep` what is there so far.

    What fails is named in `Results.failed`, and the run goes on with the next.
    """
    results = Results(describe_machine(options.device), dict(network))
    with torch.inference_mode():
        session = _Session(model, options, results, tell)
        for name in options.precisions:
            precision = PRECISIONS[name]
            missing = precision.find_missing(options.device)
            if missing is not None:
                results.skipped[name] = missing
                continue
            try:
                with rounding(precision.tf32):
                    for _ in session.measure(precision):
                        keep(results)
            except ContextLost as lost:
                results.failed["all that was to follow"] = str(lost)
                break
    keep(results)
    return results


@dataclass(slots=True)
class _Session:
    """What all precisions share: the drafts, the crops, what the straight network makes of them."""

    model: MIP
    options: Options
    results: Results
    tell: Callable[[str], None]
    drafts: dict[str, nn.Module] = field(init=False)
    macs: dict[str, int] = field(init=False)
    crops: Tensor = field(init=False)
    reference: Tensor = field(init=False)

    def __post_init__(self) -> None:
        model, options = self.model, self.options
        forms = dict.fromkeys(("straight", "plain", *options.variants))
        self.drafts = {name: draft(name, model, options.modality) for name in forms}
        crops = draw_crops(model, options.modality, max(options.batches))
        # What a variant computes beside its need (repeated keys, filled columns) is no credit.
        straight, needed = (
            count_macs(self.drafts[name], crops[:1]) for name in ("straight", "plain")
        )
        self.macs = {name: straight if name == "straight" else needed for name in forms}
        self.results.network = {
            **self.results.network,
            "GMAC a crop, straight": round(straight / 1e9, 3),
            "GMAC a crop, rewritten": round(needed / 1e9, 3),
        }
        self.crops = crops.to(options.device)
        exact = build(self.drafts["straight"], PRECISIONS["fp32"], self.crops)
        with rounding(False):
            self.reference = torch.cat([exact(part) for part in torch.split(self.crops, _CHUNK)])

    def measure(self, precision: Precision) -> Iterator[int]:
        """Batch after batch; each is yielded when its rows are there."""
        options, name = self.options, precision.name

        def measure_peak() -> None:
            self.results.ceilings[name] = measure_ceiling(precision, options.device)

        self.attempt(f"{name}, ceiling", measure_peak)
        networks: dict[str, nn.Module] = {}
        for variant in options.variants:
            if precision.quantized is not None and variant not in ("straight", "lean"):
                continue

            def make(variant: str = variant) -> None:
                networks[variant] = build(self.drafts[variant], precision, self.crops)

            self.attempt(f"{name}, {variant}", make)
        for batch in options.batches:
            runs: list[Run] = []
            for variant, network in networks.items():
                self.prepare(precision, variant, network, batch, runs)
            self.time(precision, batch, runs)
            runs.clear()
            _release(options.device)
            yield batch

    def prepare(
        self,
        precision: Precision,
        variant: str,
        network: nn.Module,
        batch: int,
        runs: list[Run],
    ) -> None:
        """Warm up one variant in all its ways; those that run come into `runs`."""
        options, images = self.options, self.crops[:batch]
        what = f"{precision.name}, {variant}, batch {batch}"

        def ready(compiled: bool) -> None:
            found = network
            choice = choose(variant, network, images, self.model.options, precision)
            if compiled:
                # Else the limit of recompilations would fall back to plain calls, unsaid.
                torch.compiler.reset()
                found = compile_blocks(network, mode=options.compile_mode)
            run = warm_up(variant, found, images, choice, self.reference, compiled=compiled)
            if np.isnan(run.cosine):
                raise ArithmeticError("embeddings are not finite")
            if False in options.graphs or images.device.type != "cuda":
                runs.append(run)
            if True in options.graphs and images.device.type == "cuda":
                self.attempt(
                    f"{what}, CUDA graph", lambda: runs.append(as_graph(run, self.reference))
                )

        self.attempt(what, lambda: ready(False))
        if batch in options.compiled:
            self.attempt(f"{what}, compiled", lambda: ready(True))

    def time(self, precision: Precision, batch: int, runs: list[Run]) -> None:
        """Time the runs in turn, and make a row of each."""
        options = self.options
        spent: list[list[float]] = []

        def measure_all() -> None:
            spent.extend(
                timing.time_in_turn(
                    [run.call for run in runs],
                    options.device,
                    repeats=options.repeats,
                    seconds=options.seconds,
                )
            )

        if not self.attempt(f"{precision.name}, batch {batch}, timing", measure_all):
            return
        straight = {
            (run.graphs, run.compiled): float(np.median(one))
            for run, one in zip(runs, spent, strict=True)
            if run.variant == "straight"
        }
        for run, one in zip(runs, spent, strict=True):
            if precision.quantized is not None and run.variant == "straight":
                continue  # there to be compared with; its row stands with its own precision
            beside = straight.get((run.graphs, run.compiled))
            row = self.row(precision, batch, run, one, beside)
            self.results.rows.append(row)
            ways = f"{' graph' if row.graphs else ''}{' compiled' if row.compiled else ''}"
            self.tell(
                f"{row.precision} batch {batch} {row.variant}{ways}: {row.median_ms:.3f} ms, "
                f"{row.crops_per_second:,.0f} crops/s, cosine {run.cosine:.6f}"
            )

    def row(
        self,
        precision: Precision,
        batch: int,
        run: Run,
        spent: Sequence[float],
        straight: float | None,
    ) -> Row:
        """What was measured of one run, in words of the table."""
        median = float(np.median(spent))
        tflops = 2 * self.macs[run.variant] * batch / median / 1e9
        ceiling = self.results.ceilings.get(precision.name)
        return Row(
            variant=run.variant,
            precision=precision.name,
            batch=batch,
            graphs=run.graphs,
            compiled=run.compiled,
            attention=run.attention,
            slice=run.slice,
            rounds=len(spent),
            median_ms=median,
            p95_ms=float(np.percentile(spent, 95)),
            crops_per_second=batch / median * 1e3,
            tflops=tflops,
            share=None if ceiling is None else tflops / ceiling,
            times_straight=None if straight is None else straight / median,
            smallest_cosine=run.cosine,
            peak_mb=run.peak_mb,
        )

    def attempt(self, what: str, act: Callable[[], object]) -> bool:
        """Whether it went well; otherwise why it did not is kept. Raises: ContextLost."""
        try:
            act()
            timing.synchronize(self.options.device)
        except ContextLost:
            raise
        except Exception as error:  # whatever a kernel or a compiler raises is a finding here
            lines = str(error).strip().splitlines() or [""]
            self.results.failed[what] = f"{type(error).__name__}: {lines[0]}"
            self.tell(f"{what} failed: {self.results.failed[what]}")
            try:
                _release(self.options.device)
            except RuntimeError as lost:
                raise ContextLost(f"the GPU answers nothing since {what}") from lost
            return False
        return True


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
