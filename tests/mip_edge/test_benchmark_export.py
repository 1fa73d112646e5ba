"""Graphs timed with a clock of our own, so that the numbers are known."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="the graphs are exported with torch")

from mip_edge import benchmark_export as module  # noqa: E402
from mip_edge import checkpoint  # noqa: E402
from mip_edge.artifact import open_bundle  # noqa: E402
from mip_edge.benchmark_export import (  # noqa: E402
    ExportBenchmark,
    ExportBenchmarkOptions,
    GraphTiming,
    benchmark_export,
    format_export_benchmark,
)
from mip_edge.cli import cli  # noqa: E402
from mip_edge.errors import OptionError  # noqa: E402
from mip_edge.spec import Modality  # noqa: E402


@pytest.fixture(scope="module")
def measured(tiny_checkpoint: Path) -> ExportBenchmark:
    """Two calls of each: straight takes 8 ms, then 6; rows 4 and 4; full 2 and 4."""
    durations = [8, 4, 2, 6, 4, 4]
    readings = itertools.accumulate(step for each in durations for step in (0, each / 1000))
    options = ExportBenchmarkOptions(
        engines=("onnxruntime",),
        modalities=(Modality.INFRARED,),
        batches=(2,),
        repeats=2,
        threads=1,
    )
    return benchmark_export(options, tiny_checkpoint, clock=lambda: next(readings))


def test_graphs_are_measured_by_the_straight_one_in_turn(measured: ExportBenchmark) -> None:
    straight, rows, full = measured.timings
    assert [one.graph for one in measured.timings] == ["straight", "rows", "full"]
    assert {(one.engine, one.modality, one.batch) for one in measured.timings} == {
        ("onnxruntime", "infrared", 2)
    }
    # medians of calls of two crops
    assert straight.median_ms == pytest.approx(7 / 2)
    assert rows.median_ms == pytest.approx(4 / 2)
    assert full.median_ms == pytest.approx(3 / 2)
    assert (straight.speedup, straight.fewer) == (1, 1)
    assert rows.speedup == pytest.approx(7 / 4)
    assert full.speedup == pytest.approx(7 / 3)


def test_operations_are_those_counted_from_each_graph(
    measured: ExportBenchmark, tiny_bundle: Path
) -> None:
    straight, rows, full = measured.timings
    assert straight.macs > rows.macs > full.macs
    assert full.fewer == pytest.approx(straight.macs / full.macs)
    cost = open_bundle(tiny_bundle).manifest.precisions["fp32"].graphs[Modality.INFRARED].cost
    assert cost is not None
    assert full.macs == cost.macs


def test_the_table_says_what_was_measured(measured: ExportBenchmark) -> None:
    head, straight, _, full, subject = format_export_benchmark(measured).splitlines()
    assert head.split()[:4] == ["graph", "GMAC", "x", "fewer"]
    assert straight.split()[0] == "straight"
    assert full.split()[3:6] == ["onnxruntime", "infrared", "2"]
    assert full.split()[-1] == "2.33"
    assert "width 48 at 64x32, stride 12, learnable queries, tiny.safetensors" in subject
    assert "1 thread; median of 2 calls" in subject


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone(
    tmp_path: Path,
) -> None:
    options = ExportBenchmarkOptions(model="tiny", image_size=(64, 32), stride=16)
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        torch.rand(3)  # the generator stands elsewhere each time
        before = torch.random.get_rng_state()
        drawn = module._draw_weights(options, tmp_path / name)
        assert torch.equal(torch.random.get_rng_state(), before)
        found.append(checkpoint.fingerprint(checkpoint.load(drawn)))
    assert found[0] == found[1]
    network = checkpoint.load(tmp_path / "first" / "random.safetensors").options
    assert (network.width, network.stride, network.image_size) == (192, 16, (64, 32))
    assert network.instance_queries == "zero"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engines": ("torch",)}, "--engine must be one of onnxruntime.*, got 'torch'"),
        ({"engines": ("warp",)}, "--engine must be one of .*, got 'warp'"),
        ({"engines": ()}, "--engine must be given at least once"),
        ({"repeats": 0}, "--repeats must be at least 1, got 0"),
        ({"batches": (0,)}, "--batch must be at least 1"),
        ({"forms": ("origami",)}, "--form must be one of .*whole-mlp, got 'origami'"),
        ({"model": "huge"}, "model must be one of"),
        ({"image_size": (16, 16)}, "the head needs at least 4"),
    ],
)
def test_an_option_that_cannot_be_is_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        ExportBenchmarkOptions(**changes)  # type: ignore[arg-type]


def test_weights_have_a_size_of_their_own(tiny_checkpoint: Path) -> None:
    with pytest.raises(OptionError, match=r"--instance-queries is for a network of random weights"):
        benchmark_export(ExportBenchmarkOptions(instance_queries="zero"), tiny_checkpoint)


def test_a_form_is_timed_once_however_often_it_is_named() -> None:
    options = ExportBenchmarkOptions(forms=("prompts-apart", "full", "prompts-apart"))
    assert options.graphs == ("none", "rows", "full", "prompts-apart")


def test_command_prints_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch,
    measured: ExportBenchmark,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    asked: list[tuple[ExportBenchmarkOptions, Path | None]] = []

    def give(options: ExportBenchmarkOptions, weights: Path | None) -> ExportBenchmark:
        asked.append((options, weights))
        return measured

    monkeypatch.setattr(module, "benchmark_export", give)
    arguments = [
        "benchmark-export",
        str(tiny_checkpoint),
        "--form",
        "prompts-apart",
        "--batch",
        "4",
    ]
    chart = ["--chart", str(tmp_path / "chart.png")]
    table = CliRunner().invoke(cli, [*arguments, *chart])
    assert table.exit_code == 0, table.output
    assert table.stdout == format_export_benchmark(measured) + "\n"
    assert (tmp_path / "chart.png").is_file()
    document = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert [GraphTiming(**one) for one in document["timings"]] == measured.timings
    expected = ExportBenchmarkOptions(forms=("prompts-apart",), batches=(4,))
    assert asked == [(expected, tiny_checkpoint)] * 2
    again = CliRunner().invoke(cli, [*arguments, *chart])
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert len(asked) == 2  # refused before anything was timed
