"""A float16 graph is a clean graph: what is named stays float32, all else is float16, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")

import onnx
from onnx import TensorProto, helper, numpy_helper

from export.half import to_half
from mip_edge.errors import OptionError

WIDTH, HIDDEN = 6, 8
SHAPE = ["crops", 3, WIDTH]


def network(*, gain: float = 1.0, size: float = 1.0) -> onnx.ModelProto:
    """Two blocks of a norm, an MLP and a residual sum behind pixels, named as an export names."""
    rng = np.random.default_rng(3)
    weights: dict[str, np.ndarray] = {"gain": np.full(WIDTH, gain), "bias": np.zeros(WIDTH)}
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], "patches/Cast", to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["pixels", "patches"], ["x0"], "patches/MatMul"),
    ]
    weights["patches"] = rng.normal(size=(2, WIDTH)) / 127.5
    for index in range(2):
        path, block = f"blocks.{index}/mlp", f"b{index}"
        weights[f"{block}.fc1"] = rng.normal(size=(WIDTH, HIDDEN)) * (size if index else 1.0)
        weights[f"{block}.fc2"] = rng.normal(size=(HIDDEN, WIDTH)) / (size if index else 1.0)
        norm = [f"x{index}", "gain", "bias"]
        nodes += [
            helper.make_node(
                "LayerNormalization", norm, [f"{block}.n"], f"{path}/norm/LayerNormalization"
            ),
            helper.make_node(
                "MatMul", [f"{block}.n", f"{block}.fc1"], [f"{block}.h"], f"{path}/fc1/MatMul"
            ),
            helper.make_node("Relu", [f"{block}.h"], [f"{block}.r"], f"{path}/Relu"),
            helper.make_node(
                "MatMul", [f"{block}.r", f"{block}.fc2"], [f"{block}.o"], f"{path}/fc2/MatMul"
            ),
            helper.make_node("Add", [norm[0], f"{block}.o"], [f"x{index + 1}"], f"{path}/Add"),
        ]
    nodes += [
        helper.make_node("Reshape", ["x2", "flat"], ["raw"], "head/Reshape"),
        helper.make_node("Mul", ["raw", "raw"], ["squares"], "output/Mul"),
        helper.make_node("ReduceSum", ["squares", "axis"], ["sum"], "output/ReduceSum"),
        helper.make_node("Sqrt", ["sum"], ["length"], "output/Sqrt"),
        helper.make_node("Div", ["raw", "length"], ["embeddings"], "output/Div"),
    ]
    stored = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    stored.append(numpy_helper.from_array(np.array([-1, 3 * WIDTH]), "flat"))
    stored.append(numpy_helper.from_array(np.array([1]), "axis"))
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["crops", 3, 2])
    embeddings = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["crops", 18])
    graph = helper.make_graph(nodes, "network", [images], [embeddings], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    told = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {
        info.name: info.type.tensor_type.elem_type for info in [*told.value_info, *told.output]
    }
    return found | {tensor.name: tensor.data_type for tensor in told.initializer}


def node_types(model: onnx.ModelProto) -> dict[str, int]:
    types = types_of(model)
    return {node.name: types[node.output[0]] for node in model.graph.node if node.op_type != "Cast"}


def casts(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type == "Cast"]


def test_all_but_the_final_normalisation_is_float16_with_one_cast_before_it() -> None:
    model = network()
    half = to_half(model)
    for name, kind in node_types(half).items():
        assert kind == (TensorProto.FLOAT if name.startswith("output/") else TensorProto.FLOAT16)
    assert casts(half) == ["patches/Cast", "output/to_float32"]
    assert half.graph.input == model.graph.input
    assert half.graph.output == model.graph.output
    assert half.opset_import[0].version == 19


def test_a_kept_kind_stays_float32_between_readable_casts() -> None:
    half = to_half(network(), ["norm"])
    kept = {name for name, kind in node_types(half).items() if kind == TensorProto.FLOAT}
    assert {name for name in kept if not name.startswith("output/")} == {
        "blocks.0/mlp/norm/LayerNormalization",
        "blocks.1/mlp/norm/LayerNormalization",
    }
    assert casts(half)[1:3] == ["blocks.0/mlp/norm/to_float32", "blocks.0/mlp/norm/to_float16"]


def test_nothing_is_rounded_between_two_kept_nodes() -> None:
    half = to_half(network(), ["residual", "head"])
    # The first sum widens both it adds, the second takes the sum as it is.
    inputs = {node.name: list(node.input) for node in half.graph.node}
    assert inputs["blocks.0/mlp/Add"] == ["x0/float32", "b0.o/float32"]
    assert inputs["blocks.1/mlp/Add"] == ["x1", "b1.o/float32"]
    assert inputs["head/Reshape"][0] == "x2"
    assert inputs["output/Mul"] == ["raw", "raw"]


def test_a_node_that_only_moves_values_between_kept_ones_stays_float32() -> None:
    assert node_types(to_half(network(), ["residual"]))["head/Reshape"] == TensorProto.FLOAT
    assert node_types(to_half(network()))["head/Reshape"] == TensorProto.FLOAT16


def test_a_word_names_whole_parts_of_a_path() -> None:
    # blocks.1 is not the beginning of blocks.10
    model = network()
    for node in model.graph.node:
        node.name = node.name.replace("blocks.0", "blocks.10")
    kinds = node_types(to_half(model, ["blocks.1"]))
    assert kinds["blocks.1/mlp/fc1/MatMul"] == TensorProto.FLOAT
    assert kinds["blocks.10/mlp/fc1/MatMul"] == TensorProto.FLOAT16
    kinds = node_types(to_half(model, ["blocks.*/mlp/fc2"]))
    assert [name for name, kind in kinds.items() if kind == TensorProto.FLOAT][:2] == [
        "blocks.10/mlp/fc2/MatMul",
        "blocks.1/mlp/fc2/MatMul",
    ]


def test_a_word_that_names_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match=r"'blocks\.12' names no node.*norm, softmax.*blocks\.0"):
        to_half(network(), ["blocks.12"])


def test_a_weight_of_both_kinds_of_readers_is_stored_once_in_each_type() -> None:
    half = to_half(network(), ["blocks.0"])
    gains = {t.name: t.data_type for t in half.graph.initializer if t.name.startswith("gain")}
    assert gains == {"gain": TensorProto.FLOAT, "gain/float16": TensorProto.FLOAT16}
    gains = [t.name for t in to_half(network()).graph.initializer if t.name.startswith("gain")]
    assert gains == ["gain"]


def test_weights_are_rounded_to_nearest_and_never_clamped() -> None:
    model = network()
    gain = next(t for t in model.graph.initializer if t.name == "gain")
    told = np.array([1.0, 1e-8, 4e-8, 70000.0, -70000.0, 2049.0], np.float32)
    gain.CopyFrom(numpy_helper.from_array(told, "gain"))
    stored = next(t for t in to_half(model).graph.initializer if t.name == "gain")
    # 1e-8 lies below half of the smallest float16, 2^-24; 2049 lies between 2048 and 2050.
    assert numpy_helper.to_array(stored).tolist() == [1, 0, 2**-24, np.inf, -np.inf, 2048]


def test_a_constant_node_becomes_a_weight() -> None:
    model = network()
    half = numpy_helper.from_array(np.array(0.5, np.float32))
    nodes = [helper.make_node("Constant", [], ["half"], "head/Constant", value=half)]
    for node in model.graph.node:
        nodes.append(node)
        if node.name == "head/Reshape":
            node.output[0] = "twice"
            nodes.append(helper.make_node("Mul", ["twice", "half"], ["raw"], "head/Mul"))
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    made = to_half(model)
    onnx.checker.check_model(made, full_check=True)
    assert {t.name: t.data_type for t in made.graph.initializer}["half"] == TensorProto.FLOAT16
    assert "Constant" not in {node.op_type for node in made.graph.node}


def test_what_is_made_of_no_float_is_cast_to_what_its_reader_takes() -> None:
    model = network()
    stored = [numpy_helper.from_array(np.array([2 * WIDTH]), "wide")]
    ones = numpy_helper.from_array(np.array([1], np.float32))
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.name == "head/Reshape":
            node.output[0] = "rows"
            nodes += [
                helper.make_node("Shape", ["images"], ["all"], "head/Shape", end=1),
                helper.make_node("Concat", ["all", "wide"], ["shape"], "head/shape", axis=0),
                helper.make_node("ConstantOfShape", ["shape"], ["ones"], "head/ones", value=ones),
                helper.make_node("Concat", ["rows", "ones"], ["raw"], "head/Concat", axis=1),
            ]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.graph.initializer.extend(stored)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5 * WIDTH
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    kinds = node_types(half)
    assert kinds["head/ones"] == TensorProto.FLOAT
    assert kinds["head/Concat"] == TensorProto.FLOAT16
    assert "head/to_float16" in casts(half)


@settings(max_examples=15, deadline=None)
@given(
    st.sets(
        st.sampled_from(
            ["norm", "residual", "all-but-products", "head", "blocks.0", "*/fc1", "patches"]
        )
    )
)
def test_whatever_is_kept_the_graph_is_whole_sorted_and_the_same_every_time(
    words: set[str],
) -> None:
    model = network()
    before = model.SerializeToString(deterministic=True)
    half = to_half(model, sorted(words))
    onnx.checker.check_model(half, full_check=True)  # refuses an unsorted graph too
    names = [node.name for node in half.graph.node]
    assert len(set(names)) == len(names)
    used = {name for node in half.graph.node for name in node.input}
    stored = [tensor.name for tensor in half.graph.initializer]
    assert len(set(stored)) == len(stored)
    assert set(stored) <= used
    again = to_half(model, sorted(words))
    assert again.SerializeToString(deterministic=True) == half.SerializeToString(deterministic=True)
    assert model.SerializeToString(deterministic=True) == before


def test_an_exported_graph_keeps_its_metadata_and_weighs_half(tiny_bundle: Path) -> None:
    model = onnx.load(str(tiny_bundle / "visible.onnx"))
    half = to_half(model, ["norm"])
    onnx.checker.check_model(half, full_check=True)
    assert half.metadata_props == model.metadata_props
    bytes_of = [
        sum(len(t.raw_data) for t in one.graph.initializer if t.dims) for one in (model, half)
    ]
    assert 0.5 < bytes_of[1] / bytes_of[0] < 0.53
