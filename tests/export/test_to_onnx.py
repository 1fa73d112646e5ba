"""The form of the exported graphs: what a person, and an INT8 builder, will find in them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the graph is read with onnx")
pytest.importorskip("torch", reason="the tiny bundle is exported with torch")

from export.to_onnx import ALIGNMENT, OPSET  # noqa: E402
from mip_edge.spec import Modality  # noqa: E402

LAYERS = 2
CLASS_ROWS = 2
"""The global class row, and the four local ones in one."""
GRAPHS = ("visible", "infrared", "unified")


@pytest.fixture(scope="module", params=GRAPHS)
def graph(
    request: pytest.FixtureRequest, tiny_bundle: Path, tiny_unified_bundle: Path
) -> onnx.ModelProto:
    folder = tiny_unified_bundle if request.param == "unified" else tiny_bundle
    return onnx.load(str(folder / f"{request.param}.onnx"), load_external_data=False)


def test_only_plain_operators_of_opset_19(graph: onnx.ModelProto) -> None:
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", OPSET)]
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}


def test_linear_maps_are_neither_fused_nor_split(graph: onnx.ModelProto) -> None:
    counts = Counter(node.op_type for node in graph.graph.node)
    assert not counts.keys() & {"Gemm", "Split", "Attention", "Loop", "If", "LpNormalization"}
    # Block: q k v proj, fc1 and fc2 in halves, logits, values. Generator, once a layer: logits,
    # means of patches and of the queries, their values, proj fc1 fc2. Class rows: those of a block
    # with whole maps but one, q, and keys.
    assert counts["MatMul"] == LAYERS * 10 + LAYERS * 7 + CLASS_ROWS * 8
    assert counts["Softmax"] == LAYERS + LAYERS + CLASS_ROWS
    assert counts["Conv"] == 1
    assert counts["Cast"] == 1


def test_key_and_value_maps_have_no_bias_left(graph: onnx.ModelProto) -> None:
    names = {node.name for node in graph.graph.node}
    for layer in range(LAYERS):
        assert f"blocks.{layer}/attention/q/Add" in names
        assert not {f"blocks.{layer}/attention/{part}/Add" for part in "kv"} & names


def test_layer_norms_stay_whole_with_unit_gain(graph: onnx.ModelProto) -> None:
    counts = Counter(node.op_type for node in graph.graph.node)
    # Block: tokens, instance prompts, MLP. Generator: its MLP. Head: tokens, two MLPs, features.
    assert counts["LayerNormalization"] == LAYERS * 3 + LAYERS + 4
    assert not counts.keys() & {"ReduceMean", "Pow"}
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "LayerNormalization":
            gain, shift = (onnx.numpy_helper.to_array(stored[name]) for name in node.input[1:])
            assert (gain == 1).all()
            assert (shift == 0).all()


def test_every_constant_is_repeated_by_the_same_two_shape_nodes(graph: onnx.ModelProto) -> None:
    counts = Counter(node.op_type for node in graph.graph.node)
    assert counts["Shape"] == 1
    assert not counts.keys() & {"Where", "Equal", "ConstantOfShape", "Constant", "Unsqueeze"}
    for node in graph.graph.node:
        if node.op_type == "Expand":
            assert node.input[1] == "crops/Concat"


def test_names_are_paths_that_a_person_can_read(graph: onnx.ModelProto) -> None:
    names = [node.name for node in graph.graph.node]
    assert len(set(names)) == len(names)
    for layer in range(LAYERS):
        for path in (
            *(f"attention/{part}" for part in ("q", "k", "v", "proj")),
            *("mlp/fc1.0", "mlp/fc2.1", "instance/means/proj", "instance/mlp/fc1"),
        ):
            assert f"blocks.{layer}/{path}/MatMul" in names
    parts = re.compile(r"crops|patches|blocks\.\d+|head|output")
    for name in names:
        assert parts.fullmatch(name.split("/")[0]), name
    tensors = [tensor.name for tensor in graph.graph.initializer]
    values = [output for node in graph.graph.node for output in node.output]
    for name in (*tensors, *values):
        assert name == "embeddings" or parts.fullmatch(name.split("/")[0]), name
        assert "::" not in name


def test_only_the_batch_axis_is_symbolic(graph: onnx.ModelProto) -> None:
    inputs, (embeddings,) = list(graph.graph.input), graph.graph.output
    unified = graph.graph.name == "mip_unified"
    assert [one.name for one in inputs] == (["images", "modality"] if unified else ["images"])
    kinds = [one.type.tensor_type.elem_type for one in (*inputs, embeddings)]
    expected = [onnx.TensorProto.UINT8, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT]
    assert kinds == (expected if unified else [expected[0], expected[2]])
    channels = 1 if graph.graph.name == "mip_infrared" else 3
    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*inputs, embeddings)
    ]
    middle = [["crops"]] if unified else []
    assert shapes == [["crops", 64, 32, channels], *middle, ["crops", 240]]


def test_pixels_are_cast_before_anything_else(graph: onnx.ModelProto) -> None:
    # TensorRT takes a uint8 input only straight into a cast.
    readers = [node for node in graph.graph.node if "images" in node.input]
    assert sorted(node.op_type for node in readers) == ["Cast", "Shape"]


def test_metadata_says_what_the_file_promises(graph: onnx.ModelProto) -> None:
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    spec = json.loads(metadata["mip_edge.spec"])
    assert (spec["height"], spec["width"], spec["dimension"]) == (64, 32, 240)
    unified = graph.graph.name == "mip_unified"
    assert spec["modality"] == ("both" if unified else graph.graph.name.removeprefix("mip_"))
    assert len(metadata["mip_edge.fingerprint"]) == 64
    both = '{"infrared": "mean", "visible": "mean"}'
    assert metadata["mip_edge.camera"] == (both if unified else "mean")
    assert metadata["mip_edge.licence"] == "CC0-1.0"


def test_both_graphs_share_one_weight_file(tiny_bundle: Path) -> None:
    places: dict[str, dict[str, tuple[str, int, int]]] = {}
    for modality in Modality:
        loaded = onnx.load(str(tiny_bundle / f"{modality.value}.onnx"), load_external_data=False)
        places[modality.value] = {}
        for tensor in loaded.graph.initializer:
            entry = {item.key: item.value for item in tensor.external_data}
            if entry:
                place = (entry["location"], int(entry["offset"]), int(entry["length"]))
                places[modality.value][tensor.name] = place
    visible, infrared = places["visible"], places["infrared"]
    assert {place[0] for place in (*visible.values(), *infrared.values())} == {"weights.bin"}
    assert all(place[1] % ALIGNMENT == 0 for place in visible.values())
    assert visible["blocks.0/mlp/fc1.0/weight"] == infrared["blocks.0/mlp/fc1.0/weight"]
    assert visible["patches/weight"] != infrared["patches/weight"]
    stored = {place[1:] for place in (*visible.values(), *infrared.values())}
    end = max(offset + length for offset, length in stored)
    assert (tiny_bundle / "weights.bin").stat().st_size == end
    weights = np.memmap(tiny_bundle / "weights.bin", dtype=np.uint8, mode="r")
    contents = {bytes(weights[offset : offset + length]) for offset, length in stored}
    assert len(contents) == len(stored)  # no tensor is stored twice
