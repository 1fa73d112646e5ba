"""`mip-edge build`: every graph becomes a plan in the cache, and a lost fusion is no secret."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from engines import plan as plan_module
from engines.build_trt import RTX, BuildOptions
from engines.cache import EngineCache
from engines.launches import Launches
from engines.plan import graph_digest, plan_key, read_plan
from mip_edge import plans as plans_module
from mip_edge.artifact import open_bundle
from mip_edge.cli import cli
from mip_edge.errors import EngineError
from mip_edge.plans import build_plans
from mip_edge.spec import Modality

needs_rtx = pytest.mark.skipif(
    find_spec(RTX) is None, reason='TensorRT-RTX is not installed: pip install "mip-edge[rtx]"'
)
WHOLE = Launches(
    attentions=3, gelus=2, residuals=3, int8_products=0, products=9, other=7,
    attended=("blocks.0/attention/Softmax", "blocks.1/attention/Softmax"),
    activated=("blocks.0/mlp/fc1/MatMul", "blocks.1/mlp/fc1/MatMul"),
    summed=("blocks.0/mlp/fc2/MatMul", "blocks.1/attention/proj/MatMul", "blocks.1/mlp/fc2/MatMul"),
)  # fmt: skip
OPTIONS = BuildOptions(capabilities=("8.6", "12.0"))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["build", *map(str, arguments)])


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, BuildOptions]]:
    """A builder that writes down what it is asked for; its plans hold the launches of `WHOLE`."""
    asked: list[tuple[str, BuildOptions]] = []

    def build(graph: Path, options: BuildOptions) -> bytes:
        asked.append((graph.name, options))
        return f"plan of {graph.name} for {options.capabilities}".encode()

    monkeypatch.setenv("MIP_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(plan_module, "library_version", lambda module: "1.7.1")
    monkeypatch.setattr(plans_module, "build_engine", build)
    monkeypatch.setattr(plans_module, "read_launches", lambda plan: WHOLE)
    return asked


@needs_rtx
def test_a_bundle_is_built_without_a_gpu_and_found_again(
    tiny_unified_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "plans"
    arguments = (tiny_unified_bundle, "--compute-capability", "8.6", "--precision", "fp16")
    done = run(*arguments, "-o", folder, "--strict", "--json")
    assert done.exit_code == 0, done.output
    (plan,) = json.loads(done.stdout)
    assert (plan["graph"], plan["precision"]) == ("unified.fp16.onnx", "fp16")
    assert plan["device"] == "compute capability 8.6"
    assert plan["seconds"] > 0
    assert Path(plan["path"]).stat().st_size == plan["bytes"] > 100_000
    assert plan["launches"]["attentions"] == 3
    assert plan["lost"] == []

    again = run(*arguments, "-o", folder)
    assert again.exit_code == 0, again.output
    head, row = again.stdout.splitlines()
    assert head.split()[:5] == ["graph", "precision", "for", "seconds", "MB"]
    assert row.split()[:4] == ["unified.fp16.onnx", "fp16", "8.6", "cached"]


def test_every_graph_of_every_precision_is_built_once(
    tiny_bundle: Path, tiny_unified_bundle: Path, builds: list[tuple[str, BuildOptions]]
) -> None:
    steps: list[tuple[str, int]] = []
    plans = build_plans(tiny_bundle, OPTIONS, begin=lambda *step: steps.append(step))
    assert [plan.graph for plan in plans] == [name for name, _ in builds]
    assert sorted(name for name, _ in builds) == ["infrared.onnx", "visible.onnx"]
    assert {total for _, total in steps} == {2}
    builds.clear()
    build_plans(tiny_unified_bundle, OPTIONS)
    assert sorted(name for name, _ in builds) == ["unified.fp16.onnx", "unified.onnx"]


def test_what_is_there_is_left_unless_it_is_asked_for_anew(
    tiny_unified_bundle: Path, builds: list[tuple[str, BuildOptions]]
) -> None:
    build_plans(tiny_unified_bundle, OPTIONS, precisions=["fp16"])
    again = build_plans(tiny_unified_bundle, OPTIONS, precisions=["fp16"])
    assert len(builds) == 1
    assert again[0].seconds == 0
    build_plans(tiny_unified_bundle, OPTIONS, precisions=["fp16"], overwrite=True)
    assert len(builds) == 2


def test_a_build_that_fails_anew_leaves_the_plan_that_was_there(
    tiny_unified_bundle: Path,
    builds: list[tuple[str, BuildOptions]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (before,) = build_plans(tiny_unified_bundle, OPTIONS, precisions=["fp16"])

    def fail(graph: Path, options: BuildOptions) -> bytes:
        raise EngineError("the GPU is full")

    monkeypatch.setattr(plans_module, "build_engine", fail)
    with pytest.raises(EngineError, match="the GPU is full"):
        build_plans(tiny_unified_bundle, OPTIONS, precisions=["fp16"], overwrite=True)
    assert before.path.read_bytes().startswith(b"plan of unified.fp16.onnx")


def test_turing_has_a_plan_of_its_own(
    tiny_unified_bundle: Path, builds: list[tuple[str, BuildOptions]]
) -> None:
    options = replace(OPTIONS, capabilities=("8.6", "7.5", "12.0"))
    plans = build_plans(tiny_unified_bundle, options, precisions=["fp16"])
    assert [asked.capabilities for _, asked in builds] == [("8.6", "12.0"), ("7.5",)]
    assert plans[0].device == "compute capability 8.6, 12.0"


def test_a_gpu_that_nothing_builds_for_is_refused_before_a_word_of_building(
    tiny_unified_bundle: Path, builds: list[tuple[str, BuildOptions]]
) -> None:
    done = run(tiny_unified_bundle, "--compute-capability", "8.6", "--compute-capability", "x")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: --compute-capability x: TensorRT-RTX builds ahead of time for ")
    assert builds == []


def test_every_option_of_the_command_reaches_the_builder(
    tiny_unified_bundle: Path, builds: list[tuple[str, BuildOptions]]
) -> None:
    done = run(
        tiny_unified_bundle, "--compute-capability", "8.9", "--precision", "fp16",
        "--max-batch", "4", "--workspace", "256",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    ((name, options),) = builds
    assert name == "unified.fp16.onnx"
    assert options == BuildOptions(RTX, ("8.9",), 4, workspace_bytes=256 << 20)


def test_without_a_capability_one_plan_serves_every_gpu_from_ampere_on(
    tiny_unified_bundle: Path, builds: list[tuple[str, BuildOptions]]
) -> None:
    assert run(tiny_unified_bundle, "--precision", "fp16").exit_code == 0
    assert [asked.capabilities for _, asked in builds] == [("8.0", "8.6", "8.9", "12.0", "12.1")]


def test_the_engine_finds_what_the_command_built(
    tiny_unified_bundle: Path, builds: list[tuple[str, BuildOptions]], tmp_path: Path
) -> None:
    folder = tmp_path / "plans"
    build_plans(tiny_unified_bundle, OPTIONS, precisions=["fp16"], folder=folder)
    assert not (tmp_path / "cache").exists()
    copied = folder.rename(tmp_path / "copied to the device")

    def never(graph: Path, options: BuildOptions) -> bytes:
        raise AssertionError("built although it is in the folder")

    plan = read_plan(
        open_bundle(tiny_unified_bundle), Modality.INFRARED, "fp16", OPTIONS,
        cache=EngineCache(copied), build=never,
    )  # fmt: skip
    assert plan.startswith(b"plan of unified.fp16.onnx")


def test_a_lost_fusion_is_told_and_strict_fails(
    tiny_unified_bundle: Path,
    builds: list[tuple[str, BuildOptions]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = (tiny_unified_bundle, "--compute-capability", "8.6", "--precision", "fp16")
    assert run(*arguments, "--strict").exit_code == 0
    lost = replace(WHOLE, attended=("blocks.0/attention/Softmax",))
    monkeypatch.setattr(plans_module, "read_launches", lambda plan: lost)
    line = "lost: unified.fp16.onnx, compute capability 8.6: blocks.1/attention: more than one"
    told = run(*arguments)
    assert told.exit_code == 0
    assert line in told.stderr
    failed = run(*arguments, "--strict")
    assert failed.exit_code == 1
    assert "1 fusions are lost (--strict)" in failed.stderr


def test_a_folder_of_something_else_is_refused_untouched(
    tiny_unified_bundle: Path, builds: list[tuple[str, BuildOptions]], tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    done = run(tiny_unified_bundle, "--precision", "fp16", "-o", tmp_path)
    assert done.exit_code == 1
    assert "holds thesis.tex, which is no part of an engine cache" in done.stderr
    assert builds == []


def test_a_cache_too_small_for_all_plans_says_so(
    tiny_unified_bundle: Path,
    builds: list[tuple[str, BuildOptions]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIP_EDGE_CACHE_LIMIT", "60")
    done = run(tiny_unified_bundle, "--compute-capability", "8.6")
    assert done.exit_code == 1
    assert "has no room for all plans: unified" in done.stderr


def test_a_precision_that_the_bundle_lacks_is_named(
    tiny_bundle: Path, builds: list[tuple[str, BuildOptions]]
) -> None:
    done = run(tiny_bundle, "--precision", "fp16")
    assert done.exit_code == 1
    assert "holds no fp16 graphs" in done.stderr


@pytest.mark.parametrize("flag", ["--hardware-compatible", "--version-compatible"])
def test_tensorrt_rtx_refuses_options_before_anything_is_built(
    tiny_unified_bundle: Path, builds: list[tuple[str, BuildOptions]], flag: str
) -> None:
    done = run(tiny_unified_bundle, flag)
    assert done.exit_code == 1
    assert f"TensorRT-RTX has no {flag[2:].replace('-', '_')}" in done.stderr
    assert builds == []


def test_tensorrt_without_a_gpu_names_the_engine_that_needs_none(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_device(library: Any) -> None:
        raise EngineError("no NVIDIA driver is installed")

    monkeypatch.setattr(plans_module, "library_version", lambda module: "10.3")
    monkeypatch.setattr("engines.cuda.open_device", open_device)
    done = run(tiny_bundle, "--engine", "tensorrt")
    assert done.exit_code == 1
    assert "--engine tensorrt-rtx, which needs none (no NVIDIA driver" in done.stderr


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_key_changes_with_the_graph_and_its_weights_alone(
    tiny_unified_bundle: Path, precision: str
) -> None:
    bundle = open_bundle(tiny_unified_bundle)
    graph = bundle.graph_path(Modality.VISIBLE, precision)
    whole = graph_digest(bundle, graph)
    own = {graph.name, "weights.bin" if precision == "fp32" else "weights.fp16.bin"}
    for name, record in bundle.manifest.files.items():
        files = {**bundle.manifest.files, name: replace(record, sha256="0" * 64)}
        other = replace(bundle, manifest=replace(bundle.manifest, files=files))
        assert (graph_digest(other, graph) != whole) == (name in own), name


def test_the_key_tells_devices_options_and_batches_in_words(
    tiny_unified_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "library_version", lambda module: "10.13.2")
    bundle = open_bundle(tiny_unified_bundle)
    graph = bundle.graph_path(Modality.VISIBLE)

    def key(options: BuildOptions, device: str = "") -> dict[str, str]:
        return plan_key(bundle, graph, "fp32", options, device=device, driver="13.0").words()

    rtx = key(OPTIONS)
    assert (rtx["runtime"], rtx["device"]) == ("tensorrt-rtx", "compute capability 8.6, 12.0")
    assert (rtx["driver"], rtx["shapes"]) == ("", "1 to 32 crops, best at 8")
    full = BuildOptions("tensorrt", max_batch=4, workspace_bytes=9)
    told = key(full, "NVIDIA H200")
    assert (told["runtime"], told["device"], told["driver"]) == ("tensorrt", "NVIDIA H200", "13.0")
    assert (told["shapes"], told["options"]) == ("1 to 4 crops, best at 4", "workspace 9 bytes")
    anywhere = replace(full, hardware_compatible=True, version_compatible=True)
    told = key(anywhere, "NVIDIA H200")
    assert (told["device"], told["version"]) == ("any GPU from Ampere on", "10.x")
    with pytest.raises(EngineError, match="no device is named"):
        key(full)
