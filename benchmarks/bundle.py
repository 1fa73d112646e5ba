"""TensorRT on a bundle through the engines of mip-edge, where TensorRT is installed."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks.results import TENSORRT, Results, Row
from benchmarks.subject import smallest_cosine
from mip_edge.spec import Modality

ENGINE = TENSORRT
_CEILINGS = {"fp32": "fp32", "fp16": "fp16", "int8-fp16": "int8"}
"""Precisions of a bundle that a GPU is given, and what ceiling each is measured by."""
_COMPARED = 8
_WARM_UPS = 3


def measure_bundle(
    path: Path,
    modality: Modality,
    batches: tuple[int, ...],
    results: Results,
    *,
    repeats: int,
    tell: Callable[[str], None],
) -> None:
    """Rows of TensorRT for every precision of a bundle; crops come from and embeddings go to the
    host, and the clock is that of the host, so copies count.

    Parity is with ONNX Runtime on the bundle's float32 graph. Without TensorRT it is skipped.
    """
    if find_spec(ENGINE) is None:
        results.skipped[ENGINE] = 'TensorRT is not installed; pip install "mip-edge[trt]"'
        return
    # Only now: these need libraries that the measurement above does without.
    from engines.table import open_engine
    from mip_edge.artifact import open_bundle

    manifest = open_bundle(path).manifest
    spec = manifest.specs[modality]
    rng = np.random.default_rng(7)
    crops = rng.integers(0, 256, (max(batches), *spec.batch_shape), dtype=np.uint8)
    with open_engine(path, modality=modality, engine="onnxruntime") as engine:
        reference = torch.from_numpy(engine.embed(crops[:_COMPARED]))
    for precision, ceiling in _CEILINGS.items():
        if precision not in manifest.precisions:
            continue
        cost = manifest.precisions[precision].graphs[modality].cost
        try:
            with open_engine(path, modality=modality, engine=ENGINE, precision=precision) as engine:
                found = torch.from_numpy(engine.embed(crops[:_COMPARED]))
                cosine = smallest_cosine(reference[: len(found)], found)
                for batch in batches:
                    images = crops[:batch]
                    for _ in range(_WARM_UPS):
                        engine.embed(images)
                    spent = []
                    for _ in range(repeats):
                        before = time.perf_counter()
                        engine.embed(images)
                        spent.append((time.perf_counter() - before) * 1e3)
                    macs = None if cost is None else cost.macs
                    row = _row(precision, batch, spent, macs, results.ceilings.get(ceiling), cosine)
                    results.rows.append(row)
                    tell(f"{ENGINE} {precision} batch {batch}: {row.median_ms:.3f} ms")
        except Exception as error:  # a runtime that refuses is a finding; the next may run
            first = (str(error).strip().splitlines() or [""])[0]
            results.failed[f"{ENGINE}, {precision}"] = f"{type(error).__name__}: {first}"


def _row(
    precision: str,
    batch: int,
    spent: list[float],
    macs: int | None,
    ceiling: float | None,
    cosine: float,
) -> Row:
    median = float(np.median(spent))
    tflops = 2 * (macs or 0) * batch / median / 1e9
    return Row(
        variant=ENGINE,
        precision=precision,
        batch=batch,
        graphs=False,
        compiled=False,
        attention=None,
        slice=None,
        rounds=len(spent),
        median_ms=median,
        p95_ms=float(np.percentile(spent, 95)),
        crops_per_second=batch / median * 1e3,
        tflops=tflops,
        share=None if ceiling is None or macs is None else tflops / ceiling,
        times_straight=None,
        smallest_cosine=cosine,
        peak_mb=None,
    )
