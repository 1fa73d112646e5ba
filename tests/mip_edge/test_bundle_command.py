"""`mip-edge bundle`: what is whole passes, what is not is named, and a page shows the rest."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from mip_edge.artifact import Accuracy, Cost, Graph, Manifest, Parity, Precision, seal
from mip_edge.cli import cli
from mip_edge.commands.bundle import bundle as group
from mip_edge.errors import BundleError, EngineError
from mip_edge.spec import EmbedderSpec, Modality
from mip_edge.verification import verify_bundle

FINGERPRINT = "ef" * 32
SPECS = {modality: EmbedderSpec(modality, 4, 2, 6, FINGERPRINT) for modality in Modality}
PARITY = Parity(smallest_cosine=0.99991, mean_cosine=0.99999, top1_agreement=0.9375, crops=16)
COST = Cost(
    macs=17_640_000_000,
    parts={"patches": 40_000_000, "blocks": 15_000_000_000, "ipg": 2_000_000_000, "head": 600_000},
    weight_bytes=344_000_000,
    peak_activation_bytes=12_300_000,
)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["bundle", *map(str, arguments)])


def make_graph(
    spec: EmbedderSpec,
    *,
    unified: bool = False,
    metadata: Mapping[str, Any] | None = None,
    output: str = "embeddings",
    length: float = 1.0,
    fingerprint: str = FINGERPRINT,
) -> bytes:
    """A network of one matrix with the signature of ours; by default it keeps every promise."""
    channels = 3 if unified else spec.channels
    pixels = spec.height * spec.width * channels
    rng = np.random.default_rng(spec.modality.row)
    constants = {
        "shape": np.array([-1, pixels]),
        "weight": rng.normal(size=(pixels, spec.dimension)).astype(np.float32),
        "prompts": rng.normal(size=(2, spec.dimension)).astype(np.float32),
        "length": np.float32(length),
    }
    images = helper.make_tensor_value_info(
        "images", TensorProto.UINT8, ["crops", spec.height, spec.width, channels]
    )
    inputs, last = [images], "product"
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weight"], ["product"]),
    ]
    if unified:
        inputs.append(helper.make_tensor_value_info("modality", TensorProto.INT64, ["crops"]))
        nodes += [
            helper.make_node("Gather", ["prompts", "modality"], ["own"]),
            helper.make_node("Add", ["product", "own"], ["sum"]),
        ]
        last = "sum"
    nodes += [
        helper.make_node("LpNormalization", [last], ["unit"], axis=1, p=2),
        helper.make_node("Mul", ["unit", "length"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["crops", spec.dimension])],
        [numpy_helper.from_array(np.asarray(one), name) for name, one in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9, producer_name="test"
    )
    said = {**spec.promise(unified=unified), **(metadata or {})}
    helper.set_model_props(
        model, {"mip_edge.spec": json.dumps(said), "mip_edge.fingerprint": fingerprint}
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def make_bundle(
    folder: Path, *, unified: bool = False, graphs: Mapping[str, bytes] | None = None
) -> Path:
    """A bundle of hand-made graphs; `graphs` by file name stand in for some of them."""
    folder.mkdir()
    names = {modality: "unified" if unified else modality.value for modality in Modality}
    for modality, name in names.items():
        (folder / f"{name}.onnx").write_bytes(make_graph(SPECS[modality], unified=unified))
    for name, content in (graphs or {}).items():
        (folder / name).write_bytes(content)
    manifest = Manifest(
        fingerprint=FINGERPRINT,
        model={"width": 2},
        specs=SPECS,
        camera=dict.fromkeys(Modality, "mean"),
        precisions={
            "fp32": Precision({modality: Graph(f"{name}.onnx") for modality, name in names.items()})
        },
        layout="unified" if unified else "per-modality",
        checkpoint=FINGERPRINT,
    )
    seal(folder, manifest)
    return folder


@pytest.mark.parametrize("unified", [False, True])
def test_a_whole_bundle_is_told_file_by_file(tmp_path: Path, unified: bool) -> None:
    bundle = make_bundle(tmp_path / "b", unified=unified)
    result = run("verify", bundle)
    assert result.exit_code == 0, result.output
    *lines, last = result.stdout.splitlines()
    assert last == "whole"
    files = sorted(path.name for path in bundle.iterdir())
    assert sorted(line.split()[1] for line in lines if line.startswith("file ")) == [
        f"{name}:" for name in files
    ]
    graphs = [line for line in lines if line.startswith("graph ")]
    assert len(graphs) == 2
    assert all("length 1.0000" in line for line in graphs)


def test_the_exported_bundle_is_whole(tiny_bundle: Path) -> None:
    found = json.loads(run("verify", tiny_bundle, "--json").stdout)
    assert found["whole"] is True
    assert {graph["modality"] for graph in found["graphs"]} == {"visible", "infrared"}
    assert all(graph["length"] == pytest.approx(1, abs=1e-6) for graph in found["graphs"])
    assert {file["file"] for file in found["files"]} == {p.name for p in tiny_bundle.iterdir()}


def test_the_modality_of_a_unified_graph_is_the_one_of_the_manifest(tmp_path: Path) -> None:
    """Row 1 of the prompts is not a number: only the visible crop, index 1, meets it."""
    model = onnx.load_from_string(make_graph(SPECS[Modality.VISIBLE], unified=True))
    prompts = next(one for one in model.graph.initializer if one.name == "prompts")
    rows = numpy_helper.to_array(prompts).copy()
    rows[1] = np.nan
    prompts.CopyFrom(numpy_helper.from_array(rows, "prompts"))
    graphs = {"unified.onnx": model.SerializeToString()}
    bundle = make_bundle(tmp_path / "b", unified=True, graphs=graphs)
    with pytest.raises(BundleError, match="unified.onnx embeds a grey visible crop .*length nan"):
        verify_bundle(bundle)


def test_a_damaged_file_is_named_and_what_was_right_stands_before_it(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    content = (bundle / "visible.onnx").read_bytes()
    (bundle / "visible.onnx").write_bytes(content[:-1] + b"\0")
    result = run("verify", bundle)
    assert result.exit_code == 1
    assert "file   infrared.onnx" in result.stdout
    assert "whole" not in result.stdout
    assert len(result.stderr.splitlines()) == 1
    assert f"{bundle / 'visible.onnx'} differs from what was exported" in result.stderr


def visible(**changes: Any) -> bytes:
    return make_graph(SPECS[Modality.VISIBLE], **changes)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (visible(metadata={"height": 8}), r'says of itself .*"height": 8.*says .*"height": 4'),
        (visible(metadata={"extra": 1}), '"extra": 1'),
        (visible(fingerprint="0" * 64), "says it is of the model 0000.*its manifest says efef"),
        (visible(length=1.01), r"grey visible crop into a vector of length 1.010000, expected 1"),
        (visible(length=float("nan")), "length nan"),
        (visible(output="features"), "the outputs features, expected images and embeddings"),
        (visible(unified=True, metadata={"modality": "visible"}), "the inputs images, modality"),
        (make_graph(SPECS[Modality.INFRARED]), '"modality": "infrared"'),
        (b"no graph", "onnxruntime .* refuses .*visible.onnx"),
        (
            make_graph(
                replace(SPECS[Modality.VISIBLE], dimension=5), metadata={"dimension": 6}
            ),
            r"makes float32 of shape \(1, 5\) of one crop, expected float32 of shape \(1, 6\)",
        ),
        (
            make_graph(replace(SPECS[Modality.VISIBLE], height=3), metadata={"height": 4}),
            "onnxruntime .* refuses .*visible.onnx",
        ),
    ],
)  # fmt: skip
def test_a_graph_that_does_not_keep_the_promises_of_its_manifest_is_named(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    with pytest.raises(BundleError, match=expected) as caught:
        verify_bundle(make_bundle(tmp_path / "b", graphs={"visible.onnx": content}))
    assert "visible.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("mip_edge.spec", None, "carries no mip_edge.spec"),
        ("mip_edge.spec", "{", "mip_edge.spec that is no JSON"),
        ("mip_edge.fingerprint", None, "says it is of the model None"),
    ],
)
def test_a_graph_without_metadata_of_its_own_is_named(
    tmp_path: Path, key: str, value: str | None, expected: str
) -> None:
    model = onnx.load_from_string(visible())
    props = {one.key: one.value for one in model.metadata_props}
    props = {**props, key: value} if value is not None else {k: props[k] for k in {*props} - {key}}
    helper.set_model_props(model, props)
    bundle = make_bundle(tmp_path / "b", graphs={"visible.onnx": model.SerializeToString()})
    with pytest.raises(BundleError, match=f"visible.onnx .*{expected}"):
        verify_bundle(bundle)


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for TensorRT-RTX: notes what it builds, and refuses what it is told to."""
    state = SimpleNamespace(built=[], refuses="", warnings=())

    def check_graph(path: Path) -> SimpleNamespace:
        state.built.append(path.name)
        if path.name == state.refuses:
            raise EngineError(f"TensorRT-RTX refuses {path}")
        return SimpleNamespace(warnings=state.warnings)

    module = ModuleType("engines.build_trt")
    module.check_graph = check_graph  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "engines.build_trt", module)
    return state


def test_tensorrt_rtx_is_given_every_graph_once(tmp_path: Path, builder: SimpleNamespace) -> None:
    result = run("verify", make_bundle(tmp_path / "b"), "--tensorrt-rtx")
    assert sorted(builder.built) == ["infrared.onnx", "visible.onnx"]
    assert result.stdout.count("built by TensorRT-RTX (warnings: none)") == 2
    builder.built.clear()
    builder.warnings = ("slow", "old")
    result = run("verify", make_bundle(tmp_path / "u", unified=True), "--tensorrt-rtx")
    assert builder.built == ["unified.onnx"]
    assert result.stdout.count("built by TensorRT-RTX (warnings: slow; old)") == 2


def test_what_tensorrt_rtx_refuses_is_no_whole_bundle(
    tmp_path: Path, builder: SimpleNamespace
) -> None:
    builder.refuses = "infrared.onnx"
    result = run("verify", make_bundle(tmp_path / "b"), "--tensorrt-rtx")
    assert result.exit_code == 1
    assert "whole" not in result.stdout
    assert "TensorRT-RTX refuses" in result.stderr


def test_without_the_option_tensorrt_rtx_is_left_alone(
    tmp_path: Path, builder: SimpleNamespace
) -> None:
    assert run("verify", make_bundle(tmp_path / "b")).exit_code == 0
    assert builder.built == []


def test_show_tells_all_that_the_manifest_holds(tmp_path: Path) -> None:
    (tmp_path / "unified.fp16.onnx").write_bytes(b"x" * 1_234)
    graphs = {modality: Graph("unified.fp16.onnx", PARITY, COST) for modality in Modality}
    accuracy = {"infrared to visible": Accuracy(70.83, 66.41, 3803, 301)}
    manifest = Manifest(
        fingerprint=FINGERPRINT,
        model={"width": 768, "stride": 12, "image_size": [256, 128]},
        specs=SPECS,
        camera={Modality.VISIBLE: "mean", Modality.INFRARED: "night"},
        precisions={"fp16": Precision(graphs, accuracy, ("blocks.3/norm1", "head"))},
        layout="unified",
        surgery="rows",
        checkpoint="12" * 32,
        projection={
            "method": "pca",
            "dimension": 512,
            "width": 3840,
            "whiten": False,
            "centred": False,
            "explained": 0.9875,
            "crops": 4096,
            "identities": 395,
            "digest": "34" * 32,
        },
        min_similarity=0.55,
        provenance={"training": {"data": "SYSU-MM01" * 30}},
        licence="CC0-1.0",
    )
    seal(tmp_path, manifest)
    shown = run("show", tmp_path).stdout
    for expected in (
        FINGERPRINT,
        "12" * 32,
        "image_size 256x128, stride 12, width 768",
        "crops 4x2x3, embeddings of 6 numbers, camera policy mean",
        "crops 4x2x1, embeddings of 6 numbers, camera policy night",
        "unified",
        "rows",
        "dimension 512, explained 0.9875, identities 395, method pca, whiten false, width 3840",
        "from cosine 0.55",
        "CC0-1.0",
        "17.640 GMAC a crop (blocks 15.000, head 0.001, ipg 2.000, patches 0.040)",
        "weights 344.0 MB, activations at most 12.3 MB",
        "smallest cosine 0.999910, mean 0.999990, same top-1 93.8% of 16 crops",
        "infrared to visible Rank-1 70.8%, mAP 66.4% (3803 queries, 301 gallery crops)",
        "blocks.3/norm1, head",
        "1,234  unified.fp16.onnx",
        "SYSU-MM01SYSU-MM01",
        "all of it with --json",
    ):
        assert expected in shown
    assert "not measured" not in shown
    document = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert run("show", tmp_path, "--json").stdout == document


def test_show_says_what_was_not_measured(tmp_path: Path) -> None:
    shown = run("show", make_bundle(tmp_path / "b")).stdout
    lines = [line.split() for line in shown.splitlines() if line.endswith("not measured")]
    assert sorted(line[0] for line in lines) == [
        "accuracy", "cost", "cost", "parity", "parity", "same",
    ]  # fmt: skip
    assert "not stated in the checkpoint" in shown


def test_a_bundle_travels_as_one_file(tmp_path: Path) -> None:
    bundle, packed, there = make_bundle(tmp_path / "b"), tmp_path / "b.tar", tmp_path / "there"
    sent = run("pack", bundle, "-o", packed)
    assert sent.exit_code == 0, sent.output
    assert sent.stdout.startswith(f"{packed}: 3 files, ")
    report = json.loads(run("unpack", packed, "-o", there, "--json").stdout)
    assert set(report["files"]) == {path.name for path in bundle.iterdir()}
    assert report["fingerprint"] == FINGERPRINT
    for path in bundle.iterdir():
        assert (there / path.name).read_bytes() == path.read_bytes()
    for again in (("pack", bundle, "-o", packed), ("unpack", packed, "-o", there)):
        refused = run(*again)
        assert refused.exit_code == 1
        assert "--overwrite" in refused.stderr
        assert run(*again, "--overwrite").exit_code == 0


def test_pack_tells_on_stderr_what_it_leaves_out(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    (bundle / "notes.txt").write_text("mine", encoding="utf-8")
    result = run("pack", bundle, "-o", tmp_path / "b.tar", "--json")
    assert result.stderr == "left out: notes.txt, which is no part of the bundle\n"
    assert json.loads(result.stdout)["left_out"] == ["notes.txt"]


@pytest.mark.parametrize("name", ["verify", "show"])
def test_a_packed_bundle_is_told_how_to_unpack(tmp_path: Path, name: str) -> None:
    run("pack", make_bundle(tmp_path / "b"), "-o", tmp_path / "b.tar")
    result = run(name, tmp_path / "b.tar")
    assert result.exit_code == 1
    assert f"mip-edge bundle unpack {tmp_path / 'b.tar'} -o {tmp_path / 'b'}" in result.stderr


@pytest.mark.parametrize("name", sorted(group.commands))
def test_every_option_of_the_group_has_help(name: str) -> None:
    shown = run(name, "--help")
    assert shown.exit_code == 0
    options = [one for one in group.commands[name].params if isinstance(one, click.Option)]
    assert [option.name for option in options if not option.help] == []
    assert "json" in shown.stdout
