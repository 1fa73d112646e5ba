"""What the GPU benchmark times computes what the published network computes; failures are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

torch = pytest.importorskip("torch", reason="the benchmark runs torch")

from benchmarks import bundle, measure, timing  # noqa: E402
from benchmarks.command import main  # noqa: E402
from benchmarks.lean import LeanMIP  # noqa: E402
from benchmarks.maps import Float8Map, Int8Map, Map, watch_tops  # noqa: E402
from benchmarks.precision import PRECISIONS, rounding  # noqa: E402
from benchmarks.results import Results, Row  # noqa: E402
from benchmarks.run import Choice  # noqa: E402
from benchmarks.subject import (  # noqa: E402
    build,
    compile_blocks,
    count_macs,
    draft,
    draw_crops,
    draw_network,
    smallest_cosine,
)
from export.wrapper import ExportedMIP  # noqa: E402
from mip_edge import checkpoint  # noqa: E402
from mip_edge.artifact import open_bundle  # noqa: E402
from mip_edge.model.mip import MIP  # noqa: E402
from mip_edge.model.options import MIPOptions  # noqa: E402
from mip_edge.spec import Modality  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
NETWORKS = [
    {},
    {"instance_queries": "learnable"},
    {"modality_prompts": False},
    {"instance_prompts": False},
    {"modality_prompts": False, "instance_prompts": False},
    {"neck": "after", "image_size": (64, 48)},
]


def make_model(**options: object) -> MIP:
    torch.manual_seed(3)
    defaults = {"width": 32, "heads": 2, "depth": 4, "image_size": (64, 32), "prompt_length": 5}
    model = MIP(MIPOptions(**{**defaults, **options})).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def run(*options: str | Path) -> Result:
    """The command on a small network on the CPU."""
    network = ("--device", "cpu", "--model", "tiny", "--stride", "64", "--repeats", "2")
    return CliRunner().invoke(main, [*network, *map(str, options)])


def make_row(**values: object) -> Row:
    row = Row(
        variant="lean",
        precision="fp16",
        batch=256,
        graphs=True,
        compiled=False,
        attention="flash",
        slice=256,
        rounds=3,
        median_ms=20.0,
        p95_ms=21.0,
        crops_per_second=12800.0,
        tflops=400.0,
        share=0.52,
        times_straight=2.5,
        smallest_cosine=0.9999,
        peak_mb=100.0,
    )
    return replace(row, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("modality", Modality)
@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_the_lean_network_is_the_exported_one(
    options: dict[str, object], modality: Modality
) -> None:
    model = make_model(**options)
    crops = draw_crops(model, modality, 3)
    with torch.inference_mode():
        expected = ExportedMIP(model, modality)(crops)
        found = LeanMIP(model, modality)(crops)
    assert float((found - expected).abs().max()) < 2e-6


def test_equal_crops_in_slices_are_the_crops_at_once() -> None:
    model = make_model()
    crops = draw_crops(model, Modality.VISIBLE, 5)
    network = draft("lean", model, Modality.VISIBLE)
    with torch.inference_mode():
        whole = Choice("math").call(network, crops)()
        parts = Choice("math", slice=2).call(network, crops)()
    assert parts.shape == (5, model.options.dimension)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


def test_int8_is_whole_numbers_times_scales_and_clips() -> None:
    source = Map(torch.tensor([[127.0, -3.0], [0.0, 12.7]]), torch.tensor([0.5, -1.0]))
    made = Int8Map(source, 127.0, torch.float32)(torch.tensor([[[2.4, 1.0], [-300.0, 0.0]]]))
    # Steps (2, 1) and (-127, 0); the second row of weights is 0 and 127 at the scale 0.1.
    expected = [[2 * 127 - 3 + 0.5, 12.7 - 1.0], [-127 * 127 + 0.5, -1.0]]
    torch.testing.assert_close(made, torch.tensor([expected]))


def test_fp8_is_exact_for_what_it_holds_and_clips_without_nan() -> None:
    weight = torch.zeros(16, 16)
    weight[0, :2] = torch.tensor([448.0, 0.5])
    source = Map(weight, torch.full((16,), 2.0))
    rows = torch.zeros(1, 2, 16)
    rows[0, 0, :2] = torch.tensor([1.0, 4.0])
    rows[0, 1, 1] = 1000.0
    made = Float8Map(source, 448.0, torch.bfloat16)(rows)
    assert made.dtype is torch.bfloat16
    assert made[0, :, 0].tolist() == [452.0, 226.0]
    assert made[0, :, 1].tolist() == [2.0, 2.0]


def test_calibration_sees_the_largest_input_of_every_map() -> None:
    network = torch.nn.Sequential(
        Map(torch.tensor([[2.0]]), None), Map(torch.tensor([[1.0]]), None)
    )
    with watch_tops(network) as tops:
        network(torch.tensor([[1.0], [-4.0]]))
        network(torch.tensor([[3.0]]))
    network(torch.tensor([[99.0]]))
    assert tops == {"0": 4.0, "1": 8.0}


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.995), ("fp8", 0.98), ("bf16", 0.998)])
def test_each_precision_of_the_lean_network_is_near_float32(precision: str, least: float) -> None:
    model = draw_network(make_model())
    crops = draw_crops(model, Modality.VISIBLE, 4)
    source = draft("lean", model, Modality.VISIBLE)
    network = build(source, PRECISIONS[precision], crops)
    kind = PRECISIONS[precision].quantized
    kinds = {type(module) for name, module in network.blocks.named_modules() if "fc" in name}
    assert kinds == {kind or Map}
    with torch.inference_mode():
        assert least < smallest_cosine(source(crops), network(crops)) < 1


def test_one_compilation_serves_every_block() -> None:
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    model = make_model(depth=12)  # ten blocks, more than the limit of recompilations
    crops = draw_crops(model, Modality.VISIBLE, 2)
    network = build(draft("lean", model, Modality.VISIBLE), PRECISIONS["int8"], crops)
    compiled = compile_blocks(network, backend="eager")
    with torch.inference_mode():
        assert smallest_cosine(network(crops), compiled(crops)) > 0.9999
    assert counters["stats"]["unique_graphs"] == 1


def test_operations_are_those_that_the_bundle_counts(
    tiny_checkpoint: Path, tiny_bundle: Path
) -> None:
    model = checkpoint.load(tiny_checkpoint).eval()
    for modality, graph in open_bundle(tiny_bundle).manifest.precisions["fp32"].graphs.items():
        assert graph.cost is not None
        plain = draft("plain", model, modality)
        assert count_macs(plain, draw_crops(model, modality, 1)) == graph.cost.macs


def test_calls_are_timed_in_turn_and_no_less_than_three_times() -> None:
    order: list[str] = []
    calls = [lambda name=name: order.append(name) for name in "ab"]
    spent = timing.time_in_turn(calls, CPU, repeats=7, seconds=0.0)  # type: ignore[arg-type]
    assert [len(one) for one in spent] == [3, 3]
    assert "".join(order) == "ab" * 4
    spent = timing.time_in_turn(calls, CPU, repeats=7, seconds=9.0)  # type: ignore[arg-type]
    assert [len(one) for one in spent] == [7, 7]


def test_rounding_to_tf32_ends_with_its_block() -> None:
    before = torch.get_float32_matmul_precision()
    with rounding(True):
        assert torch.get_float32_matmul_precision() == "high"
        with rounding(False):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == before


def test_the_target_is_the_fastest_rewritten_row_that_computes_the_same() -> None:
    results = Results({"device": "test"}, {})
    assert results.target() is None
    results.rows += [
        make_row(variant="straight", median_ms=5.0),
        make_row(variant="tanh", median_ms=6.0),
        make_row(batch=128, median_ms=7.0),
        make_row(variant="plain", median_ms=30.0),
        make_row(median_ms=20.0),
    ]
    target = results.target()
    assert target is not None
    assert target["row"]["median_ms"] == 20.0
    assert "fp16, batch 256: 52% of the measured ceiling and 2.50x" in results.format()


def test_a_run_on_the_cpu_writes_what_it_measured(tiny_checkpoint: Path, tmp_path: Path) -> None:
    numbers, table, kernels = (tmp_path / name for name in ("a.json", "a.md", "profile.txt"))
    precisions = [word for name in ("tf32", "bf16", "fp32") for word in ("--precision", name)]
    done = run(
        *("--weights", tiny_checkpoint, "--batch", "1", "--batch", "2", *precisions),
        *("--json", numbers, "--markdown", table, "--profile", kernels),
    )
    assert done.exit_code == 0, done.output
    written = json.loads(numbers.read_text())
    assert written["failed"] == {}
    assert list(written["skipped"]) == ["tf32"]
    found = {(row["variant"], row["precision"], row["batch"]): row for row in written["rows"]}
    assert set(found) == {
        (variant, precision, batch)
        for variant in ("straight", "plain", "lean")
        for precision in ("bf16", "fp32")
        for batch in (1, 2)
    }
    for (_, precision, batch), row in found.items():
        assert row["smallest_cosine"] > (0.999999 if precision == "fp32" else 0.99)
        assert row["crops_per_second"] == pytest.approx(batch / row["median_ms"] * 1e3)
        ceiling = written["ceilings"][precision]
        assert row["share"] == pytest.approx(row["tflops"] / ceiling)
        beside = found["straight", precision, batch]
        assert row["times_straight"] == pytest.approx(beside["median_ms"] / row["median_ms"])
    lines = table.read_text().splitlines()
    assert lines[1].startswith("| --- |")
    assert len([line for line in lines if line.startswith("|")]) == 2 + 12
    assert "aten::" in kernels.read_text()


def test_what_fails_is_told_and_the_rest_is_measured(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_or_not(source: object, precision: object, crops: object) -> object:
        if precision is PRECISIONS["bf16"]:
            raise RuntimeError("no kernel\nand a second line")
        return build(source, precision, crops)  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "build", build_or_not)
    numbers = tmp_path / "a.json"
    done = run(
        *("--weights", tiny_checkpoint, "--batch", "1", "--variant", "lean", "--json", numbers)
    )
    assert done.exit_code == 1
    written = json.loads(numbers.read_text())
    assert written["failed"] == {"bf16, lean": "RuntimeError: no kernel"}
    assert [row["precision"] for row in written["rows"]] == ["fp32"]
    assert written["rows"][0]["times_straight"] is None


def test_embeddings_that_are_not_finite_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_broken(source: torch.nn.Module, *given: object) -> torch.nn.Module:
        network = build(source, *given)  # type: ignore[arg-type]
        if isinstance(network, LeanMIP):
            network.patches.positions.data.fill_(float("nan"))
        return network

    monkeypatch.setattr(measure, "build", build_broken)
    done = run("--batch", "1", "--variant", "lean", "--precision", "fp32")
    assert done.exit_code == 1
    assert "fp32, lean, batch 1: ArithmeticError: embeddings are not finite" in done.output


def test_a_bundle_without_tensorrt_is_skipped_with_the_reason(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "find_spec", lambda name: None)
    results = Results({}, {})
    bundle.measure_bundle(
        tiny_bundle, Modality.VISIBLE, (1,), results, repeats=1, tell=lambda line: None
    )
    assert results.rows == []
    assert "pip install" in results.skipped["tensorrt"]


def test_tensorrt_rows_come_through_the_engines(
    tiny_unified_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same way with the CPU's engine in TensorRT's place."""
    monkeypatch.setattr(bundle, "ENGINE", "onnxruntime")
    results = Results({}, {}, ceilings={"fp32": 0.1})
    bundle.measure_bundle(
        tiny_unified_bundle, Modality.VISIBLE, (1, 3), results, repeats=2, tell=lambda line: None
    )
    assert results.failed == {}
    assert [(row.precision, row.batch) for row in results.rows] == [
        *(("fp32", 1), ("fp32", 3)),
        *(("fp16", 1), ("fp16", 3)),
    ]
    assert all(row.smallest_cosine is not None for row in results.rows)
    assert min(row.smallest_cosine or 0 for row in results.rows) > 0.999
    assert results.rows[0].share is not None
    assert results.rows[2].share is None
    assert "copies" not in results.format()
    results.rows.append(make_row(variant="tensorrt"))
    assert "tensorrt: by the clock of the host, copies from and to the host" in results.format()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_way_out_is_named() -> None:
    done = CliRunner().invoke(main, [])
    assert done.exit_code == 1
    assert done.output.strip() == (
        "Error: torch finds no CUDA device; choose --device cpu to try the script"
    )


def test_files_that_are_there_are_not_replaced(tmp_path: Path) -> None:
    there = tmp_path / "a.json"
    there.write_text("kept")
    done = run("--json", there)
    assert done.exit_code == 1
    assert "--overwrite" in done.output
    assert there.read_text() == "kept"


@pytest.mark.parametrize("option", ["--json", "--markdown", "--profile"])
def test_a_folder_that_is_missing_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr("benchmarks.command.measure", None)
    done = run(option, tmp_path / "nowhere" / "a.txt")
    assert done.exit_code == 1
    assert "nowhere is not a folder" in done.output


def test_the_script_runs_from_another_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "gpu.py", "--help"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "--compile-mode" in done.stdout


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("precision", list(PRECISIONS))
def test_a_cuda_graph_gives_what_the_call_gives(precision: str) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    if PRECISIONS[precision].find_missing(device):
        pytest.skip(str(PRECISIONS[precision].find_missing(device)))
    model = make_model(width=128, image_size=(128, 64))
    crops = draw_crops(model, Modality.VISIBLE, 4).to(device)
    network = build(draft("lean", model, Modality.VISIBLE), PRECISIONS[precision], crops)
    with torch.inference_mode():
        expected = network(crops)
        found = timing.capture(lambda: network(crops))()
        torch.cuda.synchronize()
    assert smallest_cosine(expected, found) > 0.9999
