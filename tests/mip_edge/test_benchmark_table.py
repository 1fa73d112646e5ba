"""What the tables of a benchmark say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mip_edge.benchmark_result import Benchmark, LeftOut, Opening
from mip_edge.benchmark_table import check_markdown, format_benchmark, format_markdown, tabulate
from mip_edge.ceiling import Ceiling
from mip_edge.errors import OutputError
from mip_edge.memory import Memory
from tests.mip_edge.timings import FP32

TORCH = replace(
    FP32,
    engine="torch",
    batch=8,
    p50_ms=1713.25,
    p95_ms=1800.5,
    p99_ms=1811.0,
    fastest_ms=1700.0,
    median_ms=214.16,
    crops_s=4.67,
    macs=None,
    macs_s=None,
    int8_macs=None,
    smallest_cosine=None,
    mean_cosine=None,
)
INT8 = replace(
    TORCH,
    engine="onnxruntime",
    precision="int8-fp16",
    share_weights=True,
    p50_ms=120.0,
    fastest_ms=110.0,
    median_ms=15.0,
    crops_s=66.67,
    speedup=14.28,
    speedup_fp32=2.46,
    macs=10_000_000_000,
    macs_s=667e9,
    int8_macs=9_000_000_000,
    ceiling_share=0.614,
    smallest_cosine=0.99862,
    mean_cosine=0.99911,
)
LABELLED = replace(INT8, modality="infrared", rank1=91.25, mean_ap=88.5)


@pytest.fixture
def measured() -> Benchmark:
    return Benchmark(
        subject="bundle: width 768",
        machine="a machine; 2 threads",
        versions={"onnxruntime": "1.32.0", "torch": "2.13.0"},
        timings=[TORCH, INT8, LABELLED],
        openings=[Opening("onnxruntime", "int8", "visible", False, 1.234, 0.345)],
        ceilings={"int8": Ceiling("int8", 9.8e11, "MatMulInteger", (512, 1024, 1024))},
        memory=[
            Memory("onnxruntime", "int8", True, 8, 300.1, 200.2, 80.0, 400.3, 448.9, True),
        ],
        left_out=[LeftOut("openvino", "int8-fp16", "refused")],
    )


def test_a_row_holds_speed_beside_what_it_costs() -> None:
    head, torch, int8 = tabulate([TORCH, INT8])
    assert dict(zip(head, int8, strict=True)) == {
        "engine": "onnxruntime sharing",
        "precision": "int8-fp16",
        "p50 ms": "120.00",
        "p95": "1800.50",
        "p99": "1811.00",
        "ms/crop": "15.00",
        "crops/s": "66.7",
        "GMAC/s": "667.0",
        "% peak": "61%",
        "x first": "14.28",
        "x fp32": "2.46",
        "cos min": "0.99862",
        "mean": "0.99911",
    }
    assert torch[head.index("GMAC/s") :] == ["-", "-", "1.00", "1.00", "-", "-"]


def test_accuracy_on_labels_takes_the_place_of_cosines() -> None:
    head, row = tabulate([LABELLED])
    assert dict(zip(head, row, strict=True))["Rank-1"] == "91.25"
    assert dict(zip(head, row, strict=True))["mAP"] == "88.50"
    assert "cos min" not in head


def test_columns_that_nobody_measured_are_left_out() -> None:
    head, _ = tabulate([replace(TORCH, speedup_fp32=None)])
    assert head[-1] == "x first"


def test_the_console_shows_a_table_for_what_compares_within_120_columns(
    measured: Benchmark,
) -> None:
    text = format_benchmark(measured)
    assert max(map(len, text.splitlines())) <= 120
    assert "visible crops, batch 8\nengine" in text
    assert "infrared crops, batch 8\nengine" in text
    assert "448.9" in text
    assert "left out: openvino at int8-fp16: refused" in text
    assert "MatMulInteger 512x1024x1024" in text
    assert "onnxruntime 1.32.0, torch 2.13.0" in text


def test_a_p99_of_few_calls_says_so(measured: Benchmark) -> None:
    assert "p99 of 20 calls is next to the slowest of them" in format_benchmark(measured)
    enough = replace(measured, timings=[replace(one, calls=100) for one in measured.timings])
    assert "next to the slowest" not in format_benchmark(enough)
    assert "of 100 calls each" in format_benchmark(enough)


def test_a_run_on_a_busy_machine_says_so(measured: Benchmark) -> None:
    assert "BUSY" not in format_benchmark(measured)
    slow = replace(TORCH, p50_ms=160.0, fastest_ms=100.0)
    text = format_benchmark(replace(measured, timings=[INT8, slow]))
    assert "the median call of torch fp32 took 1.6 times its fastest" in text


def test_what_was_not_measured_here_says_so(measured: Benchmark) -> None:
    assert "of the graph as measured at its export" in format_benchmark(measured)
    assert "at its export" not in format_benchmark(replace(measured, timings=[TORCH]))
    assert "engine options" not in format_benchmark(measured)
    told = replace(measured, engine_options=("openvino.dtype=bf16",))
    assert "engine options: openvino.dtype=bf16; precision is that of the" in format_benchmark(told)


def test_memory_is_called_that_of_an_edge_process_only_without_torch(measured: Benchmark) -> None:
    assert "without torch" in format_benchmark(measured)
    assert measured.memory is not None
    with_torch = [replace(one, without_torch=False) for one in measured.memory]
    assert "without torch" not in format_benchmark(replace(measured, memory=with_torch))
    assert "memory" not in format_benchmark(replace(measured, memory=None))


def test_markdown_has_as_many_cells_in_every_row(measured: Benchmark) -> None:
    text = format_markdown(measured)
    for table in text.split("\n\n"):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
    assert "| onnxruntime sharing | int8-fp16 | 120.00 |" in text
    assert "- a machine; 2 threads" in text.splitlines()


def test_markdown_goes_to_no_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere is not a folder"):
        check_markdown(tmp_path / "nowhere" / "table.md", overwrite=True)
