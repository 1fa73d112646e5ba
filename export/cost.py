"""What one crop costs, counted from the graph: multiply-accumulates, weights, live memory."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from mip_edge.artifact import Cost
from mip_edge.errors import BundleError

PARTS = ("patches", "blocks", "ipg", "head")
"""Always told, in this order; what stands outside them is told as `other`."""
OTHER = "other"
CROPS = "crops"
"""The symbolic dimension that counts crops."""

_INSTANCE = re.compile(r"blocks\.\d+/instance(/|$)")
_BLOCK = re.compile(r"blocks(\.\d+)?(/|$)")
# The inputs that are multiplied. Scales and zero points of the quantised ones stand between.
_PRODUCTS: Mapping[str, tuple[int, int]] = {
    "Conv": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearConv": (0, 3),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "Gemm": (0, 1),
}
_INTEGER_PRODUCTS = ("ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul")
# They multiply too, or hold a graph of their own: left out, their work would count as nothing.
_REFUSED = frozenset(
    (
        "Attention",
        "ConvTranspose",
        "DeformConv",
        "Einsum",
        "GRU",
        "If",
        "LSTM",
        "Loop",
        "RNN",
        "Scan",
    )
)
# Their output is their input, seen otherwise: no runtime moves a byte for it.
_VIEWS = frozenset(["Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"])
_PLAIN = ("", "ai.onnx")
_KEPT_BYTES = 1024
"""Larger constants are counted by their shape and never copied; shapes of Reshape are smaller."""
_WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
_SUB_BYTE = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}
"""Bits of an element; several are packed into a byte."""


@dataclass(frozen=True, slots=True)
class GraphSize:
    """What a graph is made of."""

    nodes: int
    operators: dict[str, int]
    """Operator to how often it stands in the graph, the most frequent first."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Shape and size of what passes between two nodes."""

    shape: tuple[int, ...]
    bytes: int


def count_cost(graph: onnx.ModelProto) -> Cost:
    """What one crop costs: the dimension `crops` is taken as 1.

    Multiply-accumulates are those of convolutions and matrix products, quantised ones too, sums
    and norms are none; they belong to parts by the first components of the node's name. Weights
    are all constants of the graph, also those of an external file, which need not be loaded. The
    peak is that of inputs and of all that nodes make, run in the order of the file: a tensor lives
    from the node that makes it to its last reader, outputs to the end. A Reshape, Squeeze,
    Unsqueeze, Flatten or Identity is a view of its input and takes nothing, what is made of
    constants alone is a constant, and no node writes over its input.
    Raises: BundleError naming the node whose cost cannot be counted.
    """
    tensors = _infer(graph)
    parts = dict.fromkeys(PARTS, 0)
    integers = _dequantized(graph.graph)
    in_int8 = 0
    for node in graph.graph.node:
        macs = _macs(node, tensors)
        if macs:
            part = part_of(node.name)
            parts[part] = parts.get(part, 0) + macs
            in_int8 += macs if _in_int8(node, integers) else 0
    return Cost(
        macs=sum(parts.values()),
        int8_macs=in_int8,
        parts=parts,
        weight_bytes=sum(
            _bytes(tensor.dims, tensor.data_type) for tensor in _constants(graph.graph)
        ),
        peak_activation_bytes=_peak(graph.graph, tensors),
    )


def count_products(graph: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of each convolution and matrix product for one crop, by its name.

    Raises: as `count_cost`.
    """
    tensors = _infer(graph)
    counted = {node.name: _macs(node, tensors) for node in graph.graph.node}
    return {name: macs for name, macs in counted.items() if macs}


def measure_graph(graph: onnx.ModelProto) -> GraphSize:
    """Count the operators."""
    counts = Counter(node.op_type for node in graph.graph.node)
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return GraphSize(sum(counts.values()), dict(ordered))


def part_of(name: str) -> str:
    """The part of the network that a node belongs to, by its name: one of PARTS, or `other`."""
    path = name.lstrip("/")
    if _INSTANCE.match(path):
        return "ipg"
    if _BLOCK.match(path):
        return "blocks"
    first = path.partition("/")[0]
    return {"patches": "patches", "head": "head", "output": "head"}.get(first, OTHER)


def _dequantized(graph: onnx.GraphProto) -> set[str]:
    """Tensors that a DequantizeLinear makes: a product of two of them runs on the integers."""
    return {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}


def _in_int8(node: onnx.NodeProto, integers: set[str]) -> bool:
    if node.op_type in _INTEGER_PRODUCTS:
        return True
    return all(node.input[place] in integers for place in _PRODUCTS[node.op_type])


def _macs(node: onnx.NodeProto, tensors: Mapping[str, _Tensor]) -> int:
    if node.domain not in _PLAIN or node.op_type in _REFUSED:
        operator = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
        raise BundleError(
            f"the node {node.name!r} is {operator}, whose multiplications cannot be counted; "
            f"expected plain ONNX with {', '.join(_PRODUCTS)}"
        )
    if node.op_type not in _PRODUCTS:
        return 0
    first, second = (_known(node, node.input[place], tensors) for place in _PRODUCTS[node.op_type])
    made = math.prod(_known(node, node.output[0], tensors).shape)
    if "Conv" in node.op_type:
        # Each output looks at the input channels of its group under the kernel: (M, C/group, ...).
        return made * math.prod(second.shape[1:])
    across = first.shape[-2] if _flag(node, "transA") else first.shape[-1]
    return made * across


def _peak(graph: onnx.GraphProto, tensors: Mapping[str, _Tensor]) -> int:
    """Most bytes alive at once; a tensor that shares another's storage is that other."""
    constants = {tensor.name for tensor in graph.initializer}
    storage = {
        value.name: value.name
        for value in graph.input
        if value.name and value.name not in constants
    }
    born = dict.fromkeys(storage, 0)
    dies = dict(born)
    for step, node in enumerate(graph.node):
        read = [name for name in node.input if name]
        for name in read:
            if name in storage:
                dies[storage[name]] = step
        made = [name for name in node.output if name]
        if not any(name in storage for name in read):
            constants.update(made)
            continue
        for name in made:
            if node.op_type in _VIEWS and node.input[0] in storage:
                storage[name] = storage[node.input[0]]
            else:
                storage[name], born[name], dies[name] = name, step, step
    for value in graph.output:
        if value.name in storage:
            dies[storage[value.name]] = len(graph.node) - 1
    change = [0] * (len(graph.node) + 1)
    for name, step in born.items():
        if name not in tensors:
            raise BundleError(f"the size of the tensor {name!r} cannot be inferred from the graph")
        change[step] += tensors[name].bytes
        change[dies[name] + 1] -= tensors[name].bytes
    return int(np.cumsum(change).max())


def _infer(model: onnx.ModelProto) -> dict[str, _Tensor]:
    """Every tensor whose shape is a matter of numbers when one crop comes."""
    skeleton = _skeleton(model)
    tensors: dict[str, _Tensor] = {}
    while True:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            kind = value.type.tensor_type
            shape = [dim.dim_value for dim in kind.shape.dim if dim.HasField("dim_value")]
            if kind.HasField("shape") and len(shape) == len(kind.shape.dim) and kind.elem_type:
                tensors[value.name] = _Tensor(tuple(shape), _bytes(shape, kind.elem_type))
        # Inference alone gives up where a shape is itself computed, as for an Expand to all crops.
        found = _whole_numbers(skeleton, tensors)
        for tensor in (*skeleton.graph.initializer, *found):
            size = _bytes(tensor.dims, tensor.data_type)
            tensors[tensor.name] = _Tensor(tuple(tensor.dims), size)
        if not found:
            return tensors
        names = {tensor.name for tensor in found}
        others = [node for node in skeleton.graph.node if not names.intersection(node.output)]
        del skeleton.graph.node[:]
        skeleton.graph.node.extend(others)
        skeleton.graph.initializer.extend(found)


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph for one crop, its large constants without their numbers."""
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in model.graph.output)
    graph.initializer.extend(_outline(tensor) for tensor in model.graph.initializer)
    for value in graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == CROPS:
                dim.dim_value = 1
    return skeleton


def _whole_numbers(
    skeleton: onnx.ModelProto, tensors: Mapping[str, _Tensor]
) -> list[onnx.TensorProto]:
    """What nodes make of known shapes and of constants of whole numbers or truth values."""
    known = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in skeleton.graph.initializer
        if tensor.data_location != TensorProto.EXTERNAL and tensor.data_type in _WHOLE
    }
    given = set(known)
    for node in skeleton.graph.node:
        if node.op_type == "Shape" and not node.attribute and node.input[0] in tensors:
            known[node.output[0]] = np.array(tensors[node.input[0]].shape, dtype=np.int64)
        elif node.domain in _PLAIN and all(name in known for name in node.input if name):
            if any(
                entry.HasField("t") and entry.t.data_type not in _WHOLE for entry in node.attribute
            ):
                continue
            made = ReferenceEvaluator(node).run(
                None, {name: known[name] for name in node.input if name}
            )
            for name, value in zip(node.output, made, strict=True):
                if np.asarray(value).dtype.kind in "iub":
                    known[name] = np.asarray(value)
    return [
        onnx.numpy_helper.from_array(value, name)
        for name, value in known.items()
        if name not in given
    ]


def _outline(tensor: TensorProto) -> TensorProto:
    """A large constant without its numbers, which no shape depends on."""
    external = tensor.data_location == TensorProto.EXTERNAL
    if external or _bytes(tensor.dims, tensor.data_type) <= _KEPT_BYTES:
        return tensor
    return TensorProto(
        name=tensor.name,
        dims=tensor.dims,
        data_type=tensor.data_type,
        data_location=TensorProto.EXTERNAL,
    )


def _constants(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (entry.t for entry in node.attribute if entry.name == "value")


def _bytes(shape: Sequence[int] | Iterable[int], kind: int) -> int:
    elements = math.prod(shape)
    bits = _SUB_BYTE.get(TensorProto.DataType.Name(kind))
    if bits is not None:
        return -(-elements * bits // 8)
    return elements * int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _flag(node: onnx.NodeProto, name: str) -> bool:
    return any(entry.name == name and entry.i != 0 for entry in node.attribute)


def _known(node: onnx.NodeProto, name: str, tensors: Mapping[str, _Tensor]) -> _Tensor:
    if name not in tensors:
        raise BundleError(
            f"the node {node.name!r} ({node.op_type}): the shape of {name!r} cannot be inferred, "
            f"so its cost cannot be counted; expected only {CROPS!r} to be open"
        )
    return tensors[name]
