"""A row of a benchmark, to be replaced in part by those who test tables and pictures."""

from __future__ import annotations

from mip_edge.benchmark_result import Timing

FP32 = Timing(
    engine="onnxruntime",
    precision="fp32",
    modality="visible",
    batch=1,
    share_weights=False,
    calls=20,
    p50_ms=8,
    p95_ms=9,
    p99_ms=10,
    fastest_ms=7,
    median_ms=8,
    crops_s=125,
    speedup=1,
    speedup_fp32=1,
    macs=1,
    macs_s=1,
    int8_macs=0,
    ceiling_share=None,
    rank1=None,
    mean_ap=None,
    smallest_cosine=1.0,
    mean_cosine=1.0,
)
