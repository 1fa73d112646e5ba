"""A graph in float16, made in the ONNX itself, with what must stay float32 kept by name.

Why not `onnxruntime.transformers.float16`: it rounds to float16 and back between any two kept
nodes, so that the squares of the last normalisation overflow although they are kept; it gives a
kept node the float16 copy of a weight that others use too; it moves tiny weights away from zero
and clamps large ones in silence; and its casts stand at the end of the file, unsorted.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mip_edge.errors import OptionError

ALWAYS_KEPT = ("output",)
"""The squares and the length of the final normalisation pass 65504, and its root is tiny."""
KINDS = ("norm", "softmax", "residual", "all-but-products")
"""Words of `keep` for one kind of node in the whole graph; any other word is a name."""
MOVING = {
    *("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split"),
    *("Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"),
}
"""Operators that only move values: they round nothing, and take the type of what comes."""
PRODUCTS = {"MatMul", "Gemm", "Conv"}
"""Operators that hold the work, and sum in float32 inside whatever they take."""
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def to_half(graph: onnx.ModelProto, keep: Sequence[str] = ()) -> onnx.ModelProto:
    """The same graph computing in float16, inputs and outputs as they were; `graph` stays as it is.

    A word of `keep` is one of `KINDS` (`norm`: LayerNormalization; `softmax`; `residual`: sums of
    two computed tensors; `all-but-products`: what is no MatMul, Gemm or Conv), or names nodes by
    the head of their path, `*` standing for any text: `head`, `blocks.7`, `blocks.*/mlp/fc2`.
    Those nodes stay float32, with weights in float32; between two of them nothing is rounded.
    A weight that float16 cannot hold becomes infinite: measure the result.
    Raises: OptionError if a word names no node.
    """
    return convert(graph, kept_names(graph, keep))


def kept_names(graph: onnx.ModelProto, keep: Sequence[str]) -> set[str]:
    """Names of the nodes that the words of `keep`, and `ALWAYS_KEPT`, leave in float32.

    Raises: OptionError if a word names no node.
    """
    found = set().union(*(named(graph, word) for word in ALWAYS_KEPT))
    for word in keep:
        nodes = named(graph, word)
        if not nodes:
            raise OptionError(
                f"keep {word!r} names no node of the graph; expected one of {', '.join(KINDS)}, "
                "or the head of a node's path such as blocks.0/mlp"
            )
        found |= nodes
    return found


def named(graph: onnx.ModelProto, word: str) -> set[str]:
    """Names of the nodes that one word of `keep` means."""
    constants = _constants(graph.graph).keys()
    return {node.name for node in graph.graph.node if _is_named(node, word, constants)}


def convert(graph: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """`to_half` by the names of the nodes that stay float32; those that make outputs stay too."""
    return _Converter(graph, kept).run()


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, inferred without carrying the weights along."""
    light, weights = [], []
    for tensor in model.graph.initializer:
        if tensor.data_type in (_FLOAT, _HALF):
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            weights.append(info)
        else:
            light.append(tensor)  # shapes and indices
    inputs = [*model.graph.input, *weights]
    graph = helper.make_graph(model.graph.node, "types", inputs, model.graph.output, light)
    bare = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    told = onnx.shape_inference.infer_shapes(bare, strict_mode=True).graph
    infos = [*told.input, *told.output, *told.value_info]
    return {info.name: info.type.tensor_type.elem_type for info in infos}


def _is_named(node: onnx.NodeProto, word: str, constants: Collection[str]) -> bool:
    if word == "norm":
        return node.op_type == "LayerNormalization"
    if word == "softmax":
        return node.op_type == "Softmax"
    if word == "residual":
        return node.op_type == "Add" and not any(name in constants for name in node.input)
    if word == "all-but-products":
        return node.op_type not in PRODUCTS
    return fnmatchcase(node.name, word) or fnmatchcase(node.name, f"{word}/*")


class _Converter:
    """Walks the nodes once, in their order, and puts a cast wherever the type changes."""

    def __init__(self, source: onnx.ModelProto, kept: Collection[str]) -> None:
        self.source = source
        self.weights = {
            name: tensor
            for name, tensor in _constants(source.graph).items()
            if tensor.data_type == _FLOAT
        }
        self.floats = {name for name, kind in tensor_types(source).items() if kind == _FLOAT}
        outputs = {info.name for info in source.graph.output}
        ends = {node.name for node in source.graph.node if outputs.intersection(node.output)}
        self.wide = _with_moving(source.graph, {*kept, *ends}, self.floats)
        self.node_names = {node.name for node in source.graph.node}
        self.made = {info.name: (_FLOAT, info.name) for info in source.graph.input}
        """Computed float tensor to the type its node gives and to that node's path."""
        self.others: dict[tuple[str, int], str] = {}
        """Tensor of the source and a type to the name of the cast or weight made for it."""
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[TensorProto] = []

    def run(self) -> onnx.ModelProto:
        for node in self.source.graph.node:
            if node.op_type != "Constant" or node.output[0] not in self.weights:
                self._add(node)  # a float Constant is stored like any weight
        return self._assemble()

    def _add(self, node: onnx.NodeProto) -> None:
        wanted = _FLOAT if node.name in self.wide or self._is_told(node) else _HALF
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in self.floats:
                copy.input[index] = self._in_type(name, wanted, node)
        for name in self.floats.intersection(node.output):
            self.made[name] = (wanted, _scope(node))
            for attribute in copy.attribute:
                if node.op_type == "Cast" and attribute.name == "to":
                    attribute.i = wanted
        self.nodes.append(copy)

    def _is_told(self, node: onnx.NodeProto) -> bool:
        """Whether it makes floats of none, as ConstantOfShape: in float32 (a cast can be told)."""
        return node.op_type != "Cast" and self.floats.isdisjoint(node.input)

    def _in_type(self, name: str, wanted: int, reader: onnx.NodeProto) -> str:
        """Name of the tensor in the type its reader wants; made on the first asking."""
        made, path = self.made.get(name, (None, ""))
        if made == wanted:
            return name
        if (name, wanted) not in self.others:
            suffix = "float16" if wanted == _HALF else "float32"
            target = f"{name}/{suffix}"
            if name in self.weights:
                if not any(known == name for known, _ in self.others):
                    target = name
                self.stored.append(_stored(self.weights[name], target, wanted))
            else:
                scope = path if wanted == _HALF else _scope(reader)
                cast = self._free_name(f"{scope}/to_{suffix}")
                self.nodes.append(helper.make_node("Cast", [name], [target], cast, to=wanted))
            self.others[name, wanted] = target
        return self.others[name, wanted]

    def _free_name(self, name: str) -> str:
        free, count = name, 0
        while free in self.node_names:
            count += 1
            free = f"{name}_{count}"
        self.node_names.add(free)
        return free

    def _assemble(self) -> onnx.ModelProto:
        """The new model; shapes of inner tensors are not told, they can be inferred."""
        graph = self.source.graph
        rest = [tensor for tensor in graph.initializer if tensor.name not in self.weights]
        stored = [*rest, *self.stored]
        model = helper.make_model(
            helper.make_graph(self.nodes, graph.name, graph.input, graph.output, stored),
            opset_imports=self.source.opset_import,
            ir_version=self.source.ir_version,
            producer_name=self.source.producer_name,
            producer_version=self.source.producer_version,
        )
        model.metadata_props.extend(self.source.metadata_props)
        return model


def _with_moving(graph: onnx.GraphProto, kept: set[str], floats: set[str]) -> set[str]:
    """Kept nodes, and those that only move values from kept ones to kept ones."""
    makers = {name: node.name for node in graph.node for name in node.output}
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    asked = set(kept)
    for node in reversed(graph.node):
        behind = set().union(*(readers.get(name, ()) for name in node.output))
        if node.op_type in MOVING and behind & asked:
            asked.add(node.name)
    wide = set(kept)
    for node in graph.node:
        before = {makers[name] for name in node.input if name in floats and name in makers}
        if node.op_type in MOVING and node.name in asked and before and before <= wide:
            wide.add(node.name)
    return wide


def _constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    """Initializers and what Constant nodes hold, by name."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def _scope(node: onnx.NodeProto) -> str:
    """The path of a node without its last part: `blocks.3/norm1` of its LayerNormalization."""
    return node.name.rpartition("/")[0] or node.name


def _stored(tensor: TensorProto, name: str, kind: int) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    if kind == _HALF:
        with np.errstate(over="ignore"):
            values = values.astype(np.float16)
    return numpy_helper.from_array(values, name)
