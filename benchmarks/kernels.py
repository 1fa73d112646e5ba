"""Where the time of the fastest row goes, kernel by kernel."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.options import Options
from benchmarks.precision import PRECISIONS, rounding
from benchmarks.results import Results
from benchmarks.run import choose
from benchmarks.subject import VARIANTS, build, draft, draw_crops
from mip_edge.errors import OptionError
from mip_edge.model.mip import MIP

PROFILED_BATCH = 256
"""Or the largest below it that was measured."""
_PROFILED_CALLS = 3


def profile_fastest(network: MIP, options: Options, results: Results) -> str:
    """A table of kernels for the fastest row at one batch, run without a graph and not compiled.

    Raises: OptionError if nothing ran at that batch.
    """
    batch = max((one for one in options.batches if one <= PROFILED_BATCH), default=None)
    batch = min(options.batches) if batch is None else batch
    rows = [row for row in results.rows if row.batch == batch and row.variant in VARIANTS]
    if not rows:
        raise OptionError(f"nothing ran at batch {batch}; there is no profile to write")
    best = min(rows, key=lambda row: row.median_ms)
    precision, cuda = PRECISIONS[best.precision], options.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with torch.inference_mode(), rounding(precision.tf32):
        crops = draw_crops(network, options.modality, max(options.batches)).to(options.device)
        source = draft(best.variant, network, options.modality)
        module, images = build(source, precision, crops), crops[:batch]
        choice = choose(best.variant, module, images, network.options, precision)
        call = choice.call(module, images)
        call()
        with profile(activities=activities) as profiler:
            for _ in range(_PROFILED_CALLS):
                call()
            if cuda:
                torch.cuda.synchronize()
    by = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=by, row_limit=40)
    return (
        f"{best.variant}, {best.precision}, batch {batch}, {_PROFILED_CALLS} calls, attention "
        f"{choice.attention}, slice {choice.slice}\n{table}\n"
    )
