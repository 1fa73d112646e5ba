"""The smallest graph with a linear map that INT8 may compute, and crops for it."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calibration.activations import Inputs

MAP = "blocks.0/mlp/fc1"
ACTIVATION = "blocks.0/mlp/norm"


def make_graph(gain: NDArray[np.float32], weight: NDArray[np.float32]) -> onnx.ModelProto:
    """Pixels (N, 1, 1, D) times `gain` (D,), which the map reads, times `weight` (D, E)."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], name="pixels", to=TensorProto.FLOAT),
        helper.make_node("Squeeze", ["pixels", "axes"], ["rows"], name="rows"),
        helper.make_node("Mul", ["rows", "gain"], [ACTIVATION], name=ACTIVATION),
        helper.make_node(
            "MatMul", [ACTIVATION, f"{MAP}/weight"], ["embeddings"], name=f"{MAP}/MatMul"
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["crops", 1, 1, len(gain)])],
        [
            helper.make_tensor_value_info(
                "embeddings", TensorProto.FLOAT, ["crops", weight.shape[1]]
            )
        ],
        [
            numpy_helper.from_array(gain, "gain"),
            numpy_helper.from_array(weight, f"{MAP}/weight"),
            numpy_helper.from_array(np.array([1, 2]), "axes"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def make_batch(rows: list[list[int]]) -> Inputs:
    """One crop a row."""
    return {"images": np.array(rows, dtype=np.uint8)[:, None, None, :]}
