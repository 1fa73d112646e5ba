"""Timing with a clock of our own, so that the numbers are known."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mip_edge.artifact import Cost, open_bundle, seal, write_bundle
from mip_edge.benchmark import BenchmarkOptions, benchmark, format_timings
from mip_edge.cli import cli
from mip_edge.errors import OptionError
from mip_edge.spec import Modality

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")


def test_milliseconds_are_those_of_one_crop(tiny_bundle: Path) -> None:
    ticks = itertools.count(step=0.008)  # every call takes 8 ms
    options = BenchmarkOptions(engines=("fake",), batches=(1, 4), repeats=3, threads=1)
    timings = benchmark(tiny_bundle, options, clock=lambda: next(ticks))
    found = {(timing.modality, timing.batch): timing for timing in timings}
    assert len(timings) == 4
    for modality in ("visible", "infrared"):
        assert found[modality, 1].median_ms == pytest.approx(8)
        assert found[modality, 4].median_ms == pytest.approx(2)
        assert found[modality, 4].p95_ms == pytest.approx(2)
        assert found[modality, 4].speedup == pytest.approx(1)


def test_torch_comes_first_and_the_others_are_measured_by_it(
    tiny_bundle: Path, tiny_checkpoint: Path
) -> None:
    options = BenchmarkOptions(engines=("onnxruntime", "fake"), batches=(2,), repeats=2, threads=1)
    timings = benchmark(tiny_bundle, options, checkpoint=tiny_checkpoint)
    assert [timing.engine for timing in timings[:3]] == ["torch", "onnxruntime", "fake"]
    assert timings[0].speedup == 1
    ratio = timings[0].median_ms / timings[1].median_ms
    assert timings[1].speedup == pytest.approx(ratio)


def test_a_checkpoint_of_another_model_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    from mip_edge import checkpoint
    from mip_edge.model.mip import MIP
    from mip_edge.model.options import MIPOptions

    other = tmp_path / "other.safetensors"
    checkpoint.save(MIP(MIPOptions(width=32, heads=2, depth=3, image_size=(64, 32))), other)
    with pytest.raises(OptionError, match=r"other.safetensors has the fingerprint"):
        benchmark(tiny_bundle, BenchmarkOptions(repeats=1), checkpoint=other)


def test_a_bundle_with_a_projection_is_timed_beside_its_checkpoint(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    projected = tmp_path / "bundle"
    with write_bundle(projected) as draft:
        shutil.copytree(tiny_bundle, draft, dirs_exist_ok=True)
        # as --dim leaves it: another embedding space, made of the same checkpoint
        seal(draft, replace(open_bundle(tiny_bundle).manifest, fingerprint="ab" * 32))
    options = BenchmarkOptions(engines=("fake",), batches=(1,), repeats=1)
    timings = benchmark(projected, options, checkpoint=tiny_checkpoint)
    assert [timing.engine for timing in timings[:2]] == ["torch", "fake"]


def test_options_name_their_flag() -> None:
    with pytest.raises(OptionError, match="--engine torch.*--checkpoint"):
        BenchmarkOptions(engines=("torch",))
    with pytest.raises(OptionError, match="--repeats must be at least 1, got 0"):
        BenchmarkOptions(repeats=0)
    with pytest.raises(OptionError, match="--batch must be at least 1"):
        BenchmarkOptions(batches=(0,))


def test_command_prints_a_table_or_json(tiny_bundle: Path) -> None:
    arguments = [
        "benchmark",
        str(tiny_bundle),
        "--engine",
        "fake",
        "--batch",
        "1",
        "--repeats",
        "1",
    ]
    table = CliRunner().invoke(cli, arguments)
    assert table.exit_code == 0, table.output
    assert table.stdout.splitlines()[0].split()[:3] == ["engine", "modality", "batch"]
    assert len(table.stdout.splitlines()) == 3
    document = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert {timing["modality"] for timing in document["timings"]} == {"visible", "infrared"}
    assert document["memory"] is None


def test_command_refuses_an_unknown_engine(tiny_bundle: Path) -> None:
    result = CliRunner().invoke(cli, ["benchmark", str(tiny_bundle), "--engine", "warp"])
    assert result.exit_code == 1
    assert "unknown engine 'warp'" in result.stderr


def test_operation_counts_stand_beside_engines_that_ran_the_graph(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    counted = tmp_path / "bundle"
    with write_bundle(counted) as draft:
        shutil.copytree(tiny_bundle, draft, dirs_exist_ok=True)
        manifest = open_bundle(tiny_bundle).manifest
        fp32 = manifest.precisions["fp32"]
        cost = Cost(1_230_000_000, {"blocks": 1_230_000_000}, 4, 8)
        graphs = {
            Modality.VISIBLE: replace(fp32.graphs[Modality.VISIBLE], cost=cost),
            Modality.INFRARED: replace(fp32.graphs[Modality.INFRARED], cost=None),
        }
        seal(draft, replace(manifest, precisions={"fp32": replace(fp32, graphs=graphs)}))
    options = BenchmarkOptions(engines=("onnxruntime", "fake"), batches=(1,), repeats=1)
    timings = benchmark(counted, options, checkpoint=tiny_checkpoint)
    macs = {(timing.engine, timing.modality): timing.macs for timing in timings}
    assert macs.pop(("onnxruntime", "visible")) == 1_230_000_000
    assert set(macs.values()) == {None}
    lines = format_timings(timings).splitlines()
    assert lines[0].endswith("GMAC/crop")
    assert [line.split()[-1] for line in lines if line.startswith("onnxruntime")].count("1.23") == 1


def test_sharing_is_timed_beside_what_it_costs(tiny_bundle: Path) -> None:
    options = BenchmarkOptions(
        engines=("onnxruntime", "fake"), batches=(1,), repeats=1, share_weights=True
    )
    timings = benchmark(tiny_bundle, options)
    assert [(timing.engine, timing.share_weights) for timing in timings[:3]] == [
        ("onnxruntime", False),
        ("onnxruntime", True),
        ("fake", False),
    ]
    assert "onnxruntime sharing" in format_timings(timings)


def test_a_precision_that_the_bundle_lacks_is_one_line(tiny_bundle: Path) -> None:
    arguments = ["benchmark", str(tiny_bundle), "--precision", "fp16"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "holds no fp16 graphs" in result.stderr
