"""The simulation rounds where a GPU rounds, and the search keeps what must be, and little else."""

from __future__ import annotations

import platform

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from export.half import to_half
from export.simulate import find_kept, simulate
from mip_edge.errors import OptionError, ParityError
from mip_edge.spec import Modality
from mip_edge.synthetic.world import sample_crops

LEVELS = onnxruntime.GraphOptimizationLevel


def run(model: onnx.ModelProto, level: LEVELS = LEVELS.ORT_DISABLE_ALL, **given: object) -> NDArray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    (result,) = session.run(None, given)
    return result


def small(nodes: list[onnx.NodeProto], **weights: NDArray) -> onnx.ModelProto:
    """`x` (rows, 2) float32 to `y` (rows, 2) float32 by nodes that begin at x and end at z."""
    nodes = [*nodes, helper.make_node("Identity", ["z"], ["y"], "output/Identity")]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def product_and_sum() -> onnx.ModelProto:
    return small(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], "a/MatMul"),
            helper.make_node("Add", ["p", "b"], ["z"], "a/Add"),
        ],
        w=np.array([[1, 0], [1, 1]]),
        b=np.array([-2048]),
    )


@pytest.mark.parametrize("level", [LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_ALL])
def test_what_float16_cannot_hold_is_rounded_where_it_is_stored(level: LEVELS) -> None:
    half = to_half(product_and_sum())
    # 2048 + 1 lies between 2048 and 2050, and rounds to the even; 80000 is beyond 65504.
    x = np.array([[2048, 1], [60000, 20000]], np.float32)
    assert run(simulate(half), level, x=x).tolist() == [[0, -2047], [np.inf, 17952]]


def test_a_kept_sum_is_not_rounded() -> None:
    x = np.array([[2048, 1]], np.float32)
    assert run(simulate(to_half(product_and_sum(), ["a"])), x=x).tolist() == [[1, -2047]]


@pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"}, reason="another CPU may compute in float16"
)
def test_onnx_runtime_on_a_cpu_does_not_round_between_operators() -> None:
    # Why a simulation is needed. If this fails, ONNX Runtime has learnt it: simplify.
    half = to_half(product_and_sum())
    x = np.array([[2048, 1], [60000, 20000]], np.float32)
    for level in (LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_ALL):
        assert run(half, level, x=x).tolist() == [[1, -2047], [77952, 17952]]


def test_sums_inside_an_operator_are_in_float32() -> None:
    model = small(
        [helper.make_node("MatMul", ["x", "w"], ["z"], "a/MatMul")], w=np.array([[1, 1], [-1, 1]])
    )
    # 2049 - 1 as float16 sums would be 2048 - 1; the inputs 2050 and 1 are float16 themselves.
    x = np.array([[2050, 1], [65504, 65504]], np.float32)
    assert run(simulate(to_half(model)), x=x).tolist() == [[2048, 2052], [0, np.inf]]


def test_the_squares_of_a_norm_do_not_overflow_and_its_gain_meets_rounded_values() -> None:
    node = helper.make_node(
        "LayerNormalization", ["x", "g", "b"], ["z"], "norm/LayerNormalization", epsilon=0.0
    )
    model = small([node], g=np.array([3.0, 3.0]), b=np.array([0.0, 1000.0]))
    # Mean 30000, deviation 30000: normalised -1 and 1, though the squares pass 65504.
    x = np.array([[0, 60000]], np.float32)
    assert run(simulate(to_half(model)), x=x).tolist() == [[-3, 1003]]
    # Variance 16, epsilon 384: 4 / 20, which float16 cannot hold, 3 times.
    node = helper.make_node(
        "LayerNormalization", ["x", "g"], ["z"], "norm/LayerNormalization", epsilon=384.0
    )
    fifths = small([node], g=np.array([3.0, 3.0]))
    x = np.array([[4, -4]], np.float32)
    twice_rounded, once_rounded = 0.599609375, 0.60009765625
    assert float(np.float16(0.6)) == once_rounded
    assert run(simulate(to_half(fifths)), x=x).tolist() == [[twice_rounded, -twice_rounded]]
    kept = run(simulate(to_half(fifths, ["norm"])), x=x)
    assert kept == pytest.approx(np.array([[0.6, -0.6]]), abs=1e-6)


@pytest.fixture(scope="module")
def exported(gpu_graph: onnx.ModelProto) -> onnx.ModelProto:
    return gpu_graph


@pytest.fixture(scope="module")
def batch() -> NDArray[np.uint8]:
    rng = np.random.default_rng(2)
    crops = [crop[:64, :32] for crop in sample_crops(Modality.VISIBLE, 9, 4)]
    noise = rng.integers(0, 256, (1, 64, 32, 3), dtype=np.uint8)
    return np.concatenate([np.stack([np.resize(crop, (64, 32, 3)) for crop in crops]), noise])


def embed(model: onnx.ModelProto, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    return run(model, images=batch)


def test_a_normal_network_keeps_nothing(
    exported: onnx.ModelProto, batch: NDArray[np.uint8]
) -> None:
    report = find_kept(exported, batch, embed(exported, batch))
    assert report.keep == ()
    assert report.smallest_cosine >= 0.9995
    assert report.tried == (((), report.smallest_cosine),)
    # and the simulation is no copy of the float32 network
    assert report.smallest_cosine < 1.0
    onnx.checker.check_model(report.graph, full_check=True)


def test_outliers_beyond_float16_keep_their_part_alone(
    exported: onnx.ModelProto, batch: NDArray[np.uint8]
) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    by_name = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, change in (("fc1/weight", 1e5), ("fc1/bias", 1e5), ("fc2/weight", 1e-5)):
        tensor = by_name[f"blocks.1/mlp/{name}"]
        values = numpy_helper.to_array(tensor) * np.float32(change)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    report = find_kept(model, batch, embed(model, batch))
    assert report.keep == ("blocks.1/mlp",)
    assert report.smallest_cosine >= 0.9995
    assert report.tried[0][0] == ()
    assert np.isnan(report.tried[0][1])


def test_what_is_asked_for_at_the_start_is_kept(
    exported: onnx.ModelProto, batch: NDArray[np.uint8]
) -> None:
    report = find_kept(exported, batch[:2], embed(exported, batch[:2]), start=["head"])
    assert report.keep == ("head",)


def test_a_bar_that_no_float16_reaches_tells_the_best_found(
    exported: onnx.ModelProto, batch: NDArray[np.uint8]
) -> None:
    few = batch[:1]
    with pytest.raises(
        ParityError, match=r"smallest cosine [\d.]+ \(1 - \d\.\de-\d+\) at best, with .* in float32"
    ):
        find_kept(exported, few, embed(exported, few), min_cosine=1 - 1e-10)


def test_a_reference_of_something_else_is_told_before_any_search(
    exported: onnx.ModelProto, batch: NDArray[np.uint8]
) -> None:
    other = embed(exported, batch)[::-1]
    with pytest.raises(ParityError, match="float32 graph itself has smallest cosine"):
        find_kept(exported, batch, other)
    with pytest.raises(OptionError, match="10 crops and 3 reference embeddings"):
        find_kept(exported, batch, other[:3])
