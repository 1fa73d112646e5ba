"""Explicit Q/DQ in a graph, written by ONNX Runtime's quantizer: one file for all runtimes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import helper
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from calibration.activations import linear_maps
from mip_edge.errors import CalibrationError

_SETTINGS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    # The parsers take no int32 bias, and a bias costs nothing in floating point.
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": ["MatMul"],
}
"""What every parser takes; the recipe of TensorRT's explicit quantization."""
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_DOOR = "/door"
_SUFFIXES = {
    "_QuantizeLinear_Output": "/QuantizeLinear",
    "_DequantizeLinear_Output": "/DequantizeLinear",
    "_QuantizeLinear": "/QuantizeLinear",
    "_DequantizeLinear": "/DequantizeLinear",
    "_zero_point": "/zero_point",
    "_scale": "/scale",
    "_quantized": "/quantized",
}
"""How the quantizer ends the names of what it makes, and what a person reads."""


def quantize(
    graph: onnx.ModelProto, thresholds: Mapping[str, float], *, keep: Collection[str] = ()
) -> onnx.ModelProto:
    """The graph with Q/DQ around every linear map of its blocks but those in `keep`.

    `thresholds`: largest absolute value that INT8 covers, by the activation's name. Activations are
    symmetric per tensor, weights symmetric per output channel, and stored as int8.
    Raises: CalibrationError for a threshold that is missing or not a finite positive number.
    """
    maps = {path: node for path, node in linear_maps(graph).items() if path not in keep}
    _check(maps, thresholds)
    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    if not maps:
        return copied
    names = {node.name for node in maps.values()}
    doors = _add_doors(copied.graph, names)
    quantizer = QDQQuantizer(
        copied,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(
            CalibrationMethod.MinMax,
            {door: _range(thresholds[tensor]) for door, tensor in doors.items()},
        ),
        nodes_to_quantize=sorted(names),
        nodes_to_exclude=[],
        op_types_to_quantize=["MatMul"],
        extra_options=_SETTINGS,
    )
    quantizer.quantize_model()
    quantized: onnx.ModelProto = quantizer.model.model
    _remove_doors(quantized.graph, doors)
    _sort(quantized.graph)
    _rename(quantized.graph)
    # As the graph that came: no trace of the quantizer's version, no shapes that it inferred.
    whole = onnx.ModelProto()
    whole.CopyFrom(graph)
    del quantized.graph.value_info[:]
    whole.graph.CopyFrom(quantized.graph)
    return whole


def _check(maps: Mapping[str, onnx.NodeProto], thresholds: Mapping[str, float]) -> None:
    for path, node in maps.items():
        threshold = thresholds.get(node.input[0])
        if threshold is None or not np.isfinite(threshold) or threshold < 0:
            raise CalibrationError(
                f"no INT8 range for {path}: the threshold of its input is {threshold}, expected a "
                "finite number of at least 0. Calibrate on other crops (--calibrate)"
            )


def _range(threshold: float) -> TensorData:
    edge = np.array(threshold, dtype=np.float32)
    return TensorData(lowest=-edge, highest=edge)


def _add_doors(graph: onnx.GraphProto, names: Collection[str]) -> dict[str, str]:
    """Let each node read its activation through an Identity of its own; name of each door and of
    the tensor before it.

    What the quantizer does to these tensors then reaches nobody else. And no two maps share a Q, or
    its scale: on x86 ONNX Runtime runs only those products on integers whose Q has one reader.
    """
    doors: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        if node.name in names:
            door = f"{node.name.rsplit('/', 1)[0]}/input{_DOOR}"
            doors[door] = node.input[0]
            nodes.append(helper.make_node("Identity", [node.input[0]], [door], name=door))
            node.input[0] = door
        nodes.append(node)
    _set_nodes(graph, nodes)
    return doors


def _remove_doors(graph: onnx.GraphProto, doors: Mapping[str, str]) -> None:
    _set_nodes(graph, [node for node in graph.node if node.name not in doors])
    for node in graph.node:
        node.input[:] = [doors.get(name, name) for name in node.input]


def _sort(graph: onnx.GraphProto) -> None:
    """Each Q and DQ right before its first reader; all others stay in their order."""
    made = {node.output[0]: node for node in graph.node if node.op_type in _QDQ}
    nodes: list[onnx.NodeProto] = []

    def place(node: onnx.NodeProto) -> None:
        for name in node.input:
            if name in made:
                place(made.pop(name))
        nodes.append(node)

    for node in graph.node:
        if node.op_type not in _QDQ:
            place(node)
    _set_nodes(graph, nodes)


def _rename(graph: onnx.GraphProto) -> None:
    """Names that a person can read: `blocks.3/attention/k/weight/DequantizeLinear`."""
    for node in graph.node:
        if node.op_type in _QDQ:
            node.name = _readable(node.name)
        node.input[:] = [_readable(name) for name in node.input]
        node.output[:] = [_readable(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = _readable(tensor.name)


def _readable(name: str) -> str:
    for suffix, better in _SUFFIXES.items():
        if name.endswith(suffix):
            return name.removesuffix(suffix).removesuffix(_DOOR) + better
    return name


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    # A field of messages cannot be assigned; what is put in is copied, so copy first.
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)
