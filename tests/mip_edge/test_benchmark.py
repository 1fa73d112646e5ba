"""Timing with a clock of our own, so that the numbers are known."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from engines.base import Engine
from mip_edge import benchmark as module
from mip_edge import benchmark_opening
from mip_edge.artifact import Accuracy, Bundle, Cost, Manifest, open_bundle, seal, write_bundle
from mip_edge.benchmark import BenchmarkOptions, benchmark, run_benchmark
from mip_edge.ceiling import Ceiling
from mip_edge.cli import cli
from mip_edge.errors import BundleError, EngineError, OptionError
from mip_edge.spec import Modality

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")

VISIBLE = (Modality.VISIBLE,)


def clock_of(durations: Iterable[float]) -> Callable[[], float]:
    """A clock by which what is measured takes the next of `durations`, in milliseconds."""
    readings = itertools.accumulate(step for one in durations for step in (0, one / 1000))
    return lambda: next(readings)


def alter(bundle: Path, path: Path, change: Callable[[Manifest], Manifest]) -> Path:
    """A copy of a bundle with another manifest."""
    with write_bundle(path) as draft:
        shutil.copytree(bundle, draft, dirs_exist_ok=True)
        seal(draft, change(open_bundle(bundle).manifest))
    return path


@pytest.fixture(scope="module")
def int8_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with its graphs once more as int8, of known cost and accuracy."""

    def add(manifest: Manifest) -> Manifest:
        fp32 = manifest.precisions["fp32"]
        accuracy = {
            "visible to infrared": Accuracy(80.0, 70.0, 10, 20),
            "infrared to visible": Accuracy(60.0, 50.0, 10, 20),
        }
        costs = {
            "fp32": Cost(macs=1000, int8_macs=0, parts={}, weight_bytes=4, peak_activation_bytes=8),
            "int8": Cost(
                macs=1000, int8_macs=600, parts={}, weight_bytes=1, peak_activation_bytes=8
            ),
        }
        return replace(
            manifest,
            precisions={
                name: replace(
                    fp32,
                    accuracy=accuracy if name == "int8" else None,
                    graphs={key: replace(one, cost=cost) for key, one in fp32.graphs.items()},
                )
                for name, cost in costs.items()
            },
        )

    return alter(tiny_bundle, tmp_path_factory.mktemp("int8") / "bundle", add)


def test_milliseconds_are_those_of_a_call_and_of_one_crop(tiny_bundle: Path) -> None:
    ticks = itertools.count(step=0.008)  # every call takes 8 ms
    options = BenchmarkOptions(engines=("fake",), batches=(1, 4), repeats=3, threads=1)
    timings = benchmark(tiny_bundle, options, clock=lambda: next(ticks))
    assert [(one.modality, one.batch) for one in timings] == [
        ("visible", 1),
        ("visible", 4),
        ("infrared", 1),
        ("infrared", 4),
    ]
    assert {one.calls for one in timings} == {3}
    for one in timings:
        assert (one.p50_ms, one.p95_ms, one.p99_ms) == pytest.approx((8, 8, 8))
        assert one.median_ms == pytest.approx(8 / one.batch)
        assert one.crops_s == pytest.approx(1000 * one.batch / 8)
        assert one.speedup == pytest.approx(1)


def test_percentiles_are_of_whole_calls(tiny_bundle: Path) -> None:
    options = BenchmarkOptions(engines=("fake",), batches=(2,), repeats=101, modalities=VISIBLE)
    calls = [*range(101)]
    [timing] = benchmark(tiny_bundle, options, clock=clock_of([3, 2, *calls[::-1]]))
    assert (timing.p50_ms, timing.p95_ms, timing.p99_ms) == pytest.approx((50, 95, 99))
    assert (timing.fastest_ms, timing.median_ms) == pytest.approx((0, 25))


def test_speedups_compare_the_calls_of_one_round(tiny_unified_bundle: Path) -> None:
    options = BenchmarkOptions(
        engines=("fake",),
        batches=(1,),
        repeats=3,
        precisions=("fp32", "fp16"),
        modalities=VISIBLE,
    )
    # In the second round the machine is ten times as slow; by medians it would be 10 over 20.
    clock = clock_of([1, 1, 1, 1, 10, 5, 100, 50, 10, 20])
    first, second = benchmark(tiny_unified_bundle, options, clock=clock)
    assert (first.precision, second.precision) == ("fp32", "fp16")
    assert (first.speedup, second.speedup) == pytest.approx((1, 2))
    assert (first.speedup_fp32, second.speedup_fp32) == pytest.approx((1, 2))


def test_torch_comes_first_and_the_others_are_measured_by_it(
    tiny_bundle: Path, tiny_checkpoint: Path
) -> None:
    options = BenchmarkOptions(
        engines=("onnxruntime", "fake"), batches=(2,), repeats=1, threads=1, modalities=VISIBLE
    )
    timings = benchmark(tiny_bundle, options, checkpoint=tiny_checkpoint)
    assert [timing.engine for timing in timings] == ["torch", "onnxruntime", "fake"]
    torch, ours, _ = timings
    assert torch.speedup == 1
    assert ours.speedup == pytest.approx(torch.p50_ms / ours.p50_ms)
    assert ours.speedup_fp32 == 1
    assert (torch.macs, torch.smallest_cosine) == (None, None)
    assert ours.macs_s == pytest.approx(ours.macs * ours.crops_s)  # type: ignore[operator]
    assert ours.smallest_cosine == pytest.approx(1, abs=1e-4)


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
    # as --dim leaves it: another embedding space, made of the same checkpoint
    projected = alter(
        tiny_bundle, tmp_path / "bundle", lambda manifest: replace(manifest, fingerprint="ab" * 32)
    )
    options = BenchmarkOptions(engines=("fake",), batches=(1,), repeats=1, modalities=VISIBLE)
    timings = benchmark(projected, options, checkpoint=tiny_checkpoint)
    assert [timing.engine for timing in timings] == ["torch", "fake"]


def test_all_takes_every_precision_of_the_bundle_and_each_once(
    tiny_bundle: Path, int8_bundle: Path
) -> None:
    everything = BenchmarkOptions(precisions=("int8", "all", "fp32"))
    assert everything.choose_precisions(open_bundle(int8_bundle)) == ("int8", "fp32")
    assert everything.choose_precisions(open_bundle(tiny_bundle)) == ("int8", "fp32")
    every = BenchmarkOptions(precisions=("all",))
    assert every.choose_precisions(open_bundle(int8_bundle)) == ("fp32", "int8")
    assert every.choose_precisions(open_bundle(tiny_bundle)) == ("fp32",)


def test_a_named_precision_that_the_bundle_lacks_is_one_line(tiny_bundle: Path) -> None:
    arguments = ["benchmark", str(tiny_bundle), "--precision", "all", "--precision", "fp16"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "holds no fp16 graphs" in result.stderr


def test_what_an_engine_refuses_is_left_out_and_told_unless_it_was_named(
    int8_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_one(source: Any, *, precision: str, **options: Any) -> Engine:
        if precision == "int8":
            raise EngineError("no such instructions")
        return module_open(source, precision=precision, **options)

    module_open = benchmark_opening.open_engine
    monkeypatch.setattr(benchmark_opening, "open_engine", open_one)
    options = BenchmarkOptions(engines=("fake",), batches=(1,), repeats=1, precisions=("all",))
    result = run_benchmark(int8_bundle, options)
    assert {one.precision for one in result.timings} == {"fp32"}
    [left_out] = result.left_out
    assert (left_out.engine, left_out.precision) == ("fake", "int8")
    assert left_out.reason == "no such instructions"
    with pytest.raises(EngineError, match="no such instructions"):
        run_benchmark(int8_bundle, replace(options, precisions=("fp32", "int8")))


def test_a_precision_whose_memory_cannot_be_measured_is_told_unless_it_was_named(
    int8_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(
        path: Path, engines: Sequence[str], batches: object, *, precisions: Sequence[str], **_: Any
    ) -> list[str]:
        if "int8" in precisions:
            raise EngineError("no such instructions")
        return [f"{engine} {precision}" for engine in engines for precision in precisions]

    monkeypatch.setattr(module, "measure_memory", measure)
    options = BenchmarkOptions(
        engines=("fake",), batches=(1,), repeats=1, precisions=("all",), memory=True
    )
    result = run_benchmark(int8_bundle, options)
    assert result.memory == ["fake fp32"]
    assert [(one.precision, one.reason) for one in result.left_out] == [
        ("int8", "no such instructions")
    ]
    with pytest.raises(EngineError, match="no such instructions"):
        run_benchmark(int8_bundle, replace(options, precisions=("int8",)))


def test_the_ceiling_is_that_of_each_kind_of_product(
    int8_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # before and after: of each kind the faster counts
    found = iter([(1000, 9000), (2000, 6000)])

    def measure(threads: int | None) -> dict[str, Ceiling]:
        fp32, int8 = next(found)
        return {
            "fp32": Ceiling("fp32", fp32, "MatMul", (1, 1, 1)),
            "int8": Ceiling("int8", int8, "MatMulInteger", (1, 1, 1)),
        }

    monkeypatch.setattr(module, "measure_ceilings", measure)
    options = BenchmarkOptions(
        engines=("onnxruntime", "fake"),
        batches=(1,),
        repeats=1,
        precisions=("all",),
        modalities=VISIBLE,
        ceiling=True,
    )
    clock = clock_of([1] * 8 + [1000, 500, 1, 1])
    fp32, int8, *fake = run_benchmark(int8_bundle, options, clock=clock).timings
    assert fp32.ceiling_share == pytest.approx(1000 / 2000 / 1)
    assert int8.ceiling_share == pytest.approx((600 / 9000 + 400 / 2000) / 0.5)
    assert int8.macs_s == pytest.approx(2000)
    assert [one.ceiling_share for one in fake] == [None, None]


def test_accuracy_is_of_the_direction_whose_queries_are_timed(int8_bundle: Path) -> None:
    options = BenchmarkOptions(batches=(1,), repeats=1, threads=1, precisions=("int8",))
    visible, infrared = benchmark(int8_bundle, options)
    assert (visible.rank1, visible.mean_ap) == (80, 70)
    assert (infrared.rank1, infrared.mean_ap) == (60, 50)


def test_opening_is_timed_cold_and_again(int8_bundle: Path) -> None:
    options = BenchmarkOptions(
        engines=("fake",), batches=(1,), repeats=1, precisions=("all",), modalities=VISIBLE
    )
    result = run_benchmark(int8_bundle, options, clock=clock_of([400, 300, 20, 10, 1, 1]))
    assert [(one.precision, one.modality) for one in result.openings] == [
        ("fp32", "visible"),
        ("int8", "visible"),
    ]
    fp32, int8 = result.openings
    assert (fp32.first_s, fp32.again_s) == pytest.approx((0.4, 0.02))
    assert (int8.first_s, int8.again_s) == pytest.approx((0.3, 0.01))


def test_sharing_is_timed_beside_what_it_costs(tiny_bundle: Path) -> None:
    options = BenchmarkOptions(
        engines=("onnxruntime", "fake"),
        batches=(1,),
        repeats=1,
        share_weights=True,
        modalities=VISIBLE,
    )
    timings = benchmark(tiny_bundle, options)
    assert [timing.name for timing in timings] == ["onnxruntime", "onnxruntime sharing", "fake"]


def test_engines_are_closed_when_the_run_ends(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Engine] = []

    def open_one(*arguments: Any, **options: Any) -> Engine:
        opened.append(module_open(*arguments, **options))
        return opened[-1]

    module_open = benchmark_opening.open_engine
    monkeypatch.setattr(benchmark_opening, "open_engine", open_one)
    benchmark(tiny_bundle, BenchmarkOptions(engines=("fake",), batches=(1,), repeats=1))
    assert len(opened) == 4
    for engine in opened:
        with pytest.raises(EngineError, match="is closed"):
            engine.warm_up()


def test_a_modality_that_the_bundle_lacks_is_one_line(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(tiny_bundle)
    manifest = bundle.manifest
    specs = {Modality.VISIBLE: manifest.specs[Modality.VISIBLE]}
    alone = Bundle(bundle.path, replace(manifest, specs=specs))
    monkeypatch.setattr(module, "open_bundle", lambda path: alone)
    with pytest.raises(BundleError, match="is not for infrared crops"):
        benchmark(tiny_bundle, BenchmarkOptions(modalities=(Modality.INFRARED,)))


def test_options_name_their_flag() -> None:
    with pytest.raises(OptionError, match="--engine torch.*--checkpoint"):
        BenchmarkOptions(engines=("torch",))
    with pytest.raises(OptionError, match="--repeats must be at least 1, got 0"):
        BenchmarkOptions(repeats=0)
    with pytest.raises(OptionError, match="--batch must be at least 1"):
        BenchmarkOptions(batches=(0,))
    with pytest.raises(OptionError, match="--precision must be given at least once"):
        BenchmarkOptions(precisions=())


ARGUMENTS = ["--engine", "fake", "--batch", "1", "--repeats", "1", "--modality", "visible"]


@pytest.fixture
def quick_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"fp32": Ceiling("fp32", 2e9, "MatMul", (2, 3, 4))}
    found["int8"] = Ceiling("int8", 8e9, "MatMulInteger", (2, 3, 4))
    monkeypatch.setattr(module, "measure_ceilings", lambda threads: found)


@pytest.mark.usefixtures("quick_ceiling")
def test_command_prints_a_table_or_json(tiny_bundle: Path) -> None:
    arguments = ["benchmark", str(tiny_bundle), *ARGUMENTS]
    table = CliRunner().invoke(cli, arguments)
    assert table.exit_code == 0, table.output
    title, head, row, *_ = table.stdout.splitlines()
    assert title == "visible crops, batch 1"
    assert head.split()[:2] == ["engine", "precision"]
    assert row.split()[:2] == ["fake", "fp32"]
    document = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert [timing["modality"] for timing in document["timings"]] == ["visible"]
    assert document["ceilings"]["int8"]["macs_s"] == 8e9
    assert (document["memory"], document["left_out"]) == (None, [])


@pytest.mark.usefixtures("quick_ceiling")
def test_command_writes_markdown_and_plots_and_replaces_neither_unasked(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = ["--markdown", str(tmp_path / "table.md"), "--plots", str(tmp_path / "plots")]
    arguments = ["benchmark", str(tiny_bundle), *ARGUMENTS, *places]
    written = CliRunner().invoke(cli, arguments)
    assert written.exit_code == 0, written.output
    assert "| fake | fp32 |" in (tmp_path / "table.md").read_text()
    assert {one.name for one in (tmp_path / "plots").iterdir()} == {
        "accuracy.png",
        "throughput.png",
    }
    assert CliRunner().invoke(cli, [*arguments, "--overwrite"]).exit_code == 0

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("timed before it was refused")

    monkeypatch.setattr(module, "run_benchmark", never)
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 1
    assert "table.md exists already" in again.stderr
    assert "--overwrite" in again.stderr
    (tmp_path / "table.md").unlink()
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 1
    assert "accuracy.png exists already" in again.stderr


def test_command_refuses_an_unknown_engine(tiny_bundle: Path) -> None:
    result = CliRunner().invoke(cli, ["benchmark", str(tiny_bundle), "--engine", "warp"])
    assert result.exit_code == 1
    assert "unknown engine 'warp'" in result.stderr
