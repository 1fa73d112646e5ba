"""Q/DQ as every parser takes it, around the named maps and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from calibration.activations import Inputs, linear_maps
from calibration.quantize import quantize
from calibration.ranges import LEVELS
from export.cost import count_cost, count_products
from mip_edge.errors import CalibrationError
from mip_edge.spec import Embeddings
from tests.calibration.small import ACTIVATION, MAP, make_batch, make_graph

QDQ = ("QuantizeLinear", "DequantizeLinear")
KEPT = ["blocks.0/mlp/fc2", "blocks.1/attention/q"]
GAIN = np.array([0.5, -1, 0.25], dtype=np.float32)
WEIGHT = np.array([[0.5, -8], [-0.25, 0.1], [0.33, 3]], dtype=np.float32)


@pytest.fixture(scope="module")
def quantized(gpu_graph: onnx.ModelProto, thresholds: Mapping[str, float]) -> onnx.ModelProto:
    """All maps but two."""
    return quantize(gpu_graph, thresholds, keep=KEPT)


def embed(graph: onnx.ModelProto, batch: Inputs) -> Embeddings:
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: Embeddings = session.run(["embeddings"], dict(batch))[0]
    return found


def constants(graph: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in graph.graph.initializer}


def fake(rows: np.ndarray, step: np.ndarray) -> np.ndarray:
    """What INT8 keeps of numbers: half to even, as ONNX rounds."""
    return np.clip(np.round(rows / step), -128, 127) * step


def test_one_map_gives_what_numpy_gives_on_whole_numbers() -> None:
    """The range ends at 50: 1 / 50 of the pixels' 200 is clipped."""
    rows = [[3, 5, 7], [200, 1, 90], [0, 0, 33]]
    graph = quantize(make_graph(GAIN, WEIGHT), {ACTIVATION: 50.0})
    step = np.float32(50 / LEVELS)
    steps = np.abs(WEIGHT).max(axis=0) / np.float32(LEVELS)
    kept = fake(np.array(rows, dtype=np.float32) * GAIN, step)
    assert kept[1, 0] == 127 * step  # 100, clipped
    expected = kept @ fake(WEIGHT, steps)
    np.testing.assert_allclose(embed(graph, make_batch(rows)), expected, rtol=1e-5)


def test_weights_are_int8_and_symmetric_for_each_output_channel(
    quantized: onnx.ModelProto, gpu_graph: onnx.ModelProto
) -> None:
    before, after = constants(gpu_graph), constants(quantized)
    for path, node in linear_maps(gpu_graph).items():
        if path in KEPT:
            continue
        weight = before[node.input[1]]
        stored = after[f"{node.input[1]}/quantized"]
        scale = after[f"{node.input[1]}/scale"]
        assert stored.dtype == np.int8
        assert scale.shape == (weight.shape[1],)
        np.testing.assert_allclose(scale, np.abs(weight).max(axis=0) / LEVELS, rtol=1e-6)
        assert np.abs(stored * scale - weight).max() <= scale.max() / 2 * (1 + 1e-5)
        assert stored.min() >= -LEVELS
        assert node.input[1] not in after  # nothing is stored twice


def test_every_zero_point_is_zero_and_activations_have_one_scale(
    quantized: onnx.ModelProto, thresholds: Mapping[str, float]
) -> None:
    held = constants(quantized)
    for node in quantized.graph.node:
        if node.op_type not in QDQ:
            continue
        zero = held[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        if node.op_type == "QuantizeLinear":
            expected = thresholds[node.input[0]] / LEVELS
            assert held[node.input[1]] == pytest.approx(expected, rel=1e-6)
            assert held[node.input[1]].shape == ()


def test_only_the_named_maps_read_what_is_quantized(
    quantized: onnx.ModelProto, gpu_graph: onnx.ModelProto
) -> None:
    made = {
        name: node.op_type
        for node in quantized.graph.node
        if node.op_type in QDQ
        for name in node.output
    }
    wanted = {path: node for path, node in linear_maps(gpu_graph).items() if path not in KEPT}
    names = {node.name for node in wanted.values()}
    for node in quantized.graph.node:
        kinds = [made.get(name) for name in node.input]
        if node.name in names:
            assert kinds == ["DequantizeLinear", "DequantizeLinear"]
        elif node.op_type == "DequantizeLinear":
            assert kinds[0] in ("QuantizeLinear", None)
        else:
            assert set(kinds) <= {None}, node.name
    others = [node for node in quantized.graph.node if node.op_type not in QDQ]
    assert [node.name for node in others] == [node.name for node in gpu_graph.graph.node]
    assert sum(node.op_type == "QuantizeLinear" for node in quantized.graph.node) == len(wanted)


def test_onnx_runtime_computes_every_quantized_map_on_integers(
    quantized: onnx.ModelProto, gpu_graph: onnx.ModelProto, tmp_path: Path
) -> None:
    """The share of INT8 that a bundle tells is true: nothing falls back to float32 unseen."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that the file it writes is for this machine
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(
        quantized.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    nodes = onnx.load(str(tmp_path / "optimised.onnx")).graph.node
    on_integers = {node.name for node in nodes if node.op_type == "MatMulIntegerToFloat"}
    assert {name.removesuffix("/MatMul") for name in on_integers} == {
        path for path in linear_maps(gpu_graph) if path not in KEPT
    }
    assert not [node.name for node in nodes if node.op_type == "DequantizeLinear"]


def test_all_but_the_maps_stays_as_it_was(
    quantized: onnx.ModelProto, gpu_graph: onnx.ModelProto
) -> None:
    before, after = constants(gpu_graph), constants(quantized)
    weights = {node.input[1] for path, node in linear_maps(gpu_graph).items() if path not in KEPT}
    assert weights.isdisjoint(after)
    for name in before.keys() - weights:
        assert (after[name] == before[name]).all(), name
    for field in ("opset_import", "ir_version", "producer_name", "metadata_props"):
        assert getattr(quantized, field) == getattr(gpu_graph, field)
    assert [one.version for one in quantized.opset_import] == [19]
    assert quantized.graph.input == gpu_graph.graph.input
    assert quantized.graph.output == gpu_graph.graph.output


def test_the_graph_passes_the_full_checker_and_reads_in_order(quantized: onnx.ModelProto) -> None:
    onnx.checker.check_model(quantized, full_check=True)
    known = {one.name for one in (*quantized.graph.initializer, *quantized.graph.input)}
    for node in quantized.graph.node:
        assert known.issuperset(node.input), node.name
        known.update(node.output)


def test_names_are_paths_that_a_person_reads(quantized: onnx.ModelProto) -> None:
    nodes = {node.name: node for node in quantized.graph.node}
    weight = nodes["blocks.1/attention/k/MatMul"].input[1]
    assert weight == "blocks.1/attention/k/weight/DequantizeLinear"
    names = [*nodes, *constants(quantized)]
    names += [name for node in quantized.graph.node for name in (*node.input, *node.output)]
    for name in names:
        assert "_Quantize" not in name
        assert "_quantized" not in name
        assert "zero_point_" not in name
        assert "/door" not in name
    assert len(nodes) == len(quantized.graph.node)


def test_the_same_graph_gives_the_same_bytes(
    quantized: onnx.ModelProto, gpu_graph: onnx.ModelProto, thresholds: Mapping[str, float]
) -> None:
    before = gpu_graph.SerializeToString()
    again = quantize(gpu_graph, dict(reversed(thresholds.items())), keep=KEPT[::-1])
    assert again.SerializeToString() == quantized.SerializeToString()
    assert gpu_graph.SerializeToString() == before


def test_all_maps_kept_is_the_graph_that_came(
    gpu_graph: onnx.ModelProto, thresholds: Mapping[str, float]
) -> None:
    kept = quantize(gpu_graph, thresholds, keep=linear_maps(gpu_graph))
    assert kept.SerializeToString() == gpu_graph.SerializeToString()


def test_embeddings_are_near_those_of_float32(
    gpu_graph: onnx.ModelProto, thresholds: Mapping[str, float], batch: Inputs
) -> None:
    reference = embed(gpu_graph, batch)
    found = embed(quantize(gpu_graph, thresholds), batch)
    cosines = np.einsum("nd,nd->n", reference, found)
    assert 0.99 < cosines.min() < 1 - 1e-6  # near, and really rounded


def test_the_share_of_products_in_int8_is_that_of_the_quantized_maps(
    quantized: onnx.ModelProto, gpu_graph: onnx.ModelProto
) -> None:
    """Width 48, hidden width 192, rows of ten patches and a class token."""
    products = count_products(gpu_graph)
    cost, maps = count_cost(quantized), linear_maps(gpu_graph)
    rows = products["blocks.0/attention/q/MatMul"] // 48**2
    assert rows == 1 + 5 * 2  # 64x32 crops, patches of 16 every 12
    assert products["blocks.0/mlp/fc1/MatMul"] == rows * 48 * 192
    expected = sum(products[node.name] for path, node in maps.items() if path not in KEPT)
    assert cost.int8_macs == expected
    assert cost.macs == sum(products.values())
    assert count_cost(gpu_graph).int8_macs == 0


@pytest.mark.parametrize("threshold", [None, float("nan"), float("inf"), -1.0])
def test_a_range_that_cannot_be_names_its_map(threshold: float | None) -> None:
    given = {} if threshold is None else {ACTIVATION: threshold}
    with pytest.raises(CalibrationError, match=rf"no INT8 range for {MAP}: .* is {threshold}, exp"):
        quantize(make_graph(GAIN, WEIGHT), given)


def test_an_activation_that_was_always_zero_gives_zero() -> None:
    graph = quantize(make_graph(0 * GAIN, WEIGHT), {ACTIVATION: 0.0})
    assert not embed(graph, make_batch([[1, 2, 3]])).any()


def test_integers_are_stored_in_a_quarter_of_the_bytes(quantized: onnx.ModelProto) -> None:
    kinds = {one.name: one.data_type for one in quantized.graph.initializer}
    assert kinds["blocks.0/mlp/fc1/weight/quantized"] == TensorProto.INT8
    assert kinds["blocks.0/mlp/fc2/weight"] == TensorProto.FLOAT
