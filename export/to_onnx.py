"""From the exported module to ONNX: plain operators, checked, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import torch
from torch import nn

from export.straight import StraightExport
from export.wrapper import ExportedMIP
from mip_edge import __version__
from mip_edge.errors import MipEdgeError
from mip_edge.spec import EmbedderSpec, Modality

OPSET = 19
"""The lowest where Q/DQ may have an FP16 scale; every TensorRT from 10.3 on reads it."""
IR_VERSION = 9
"""Of opset 19's onnx 1.14, so that runtimes of its time open the file too."""
SKIPPED_PASSES = [
    "fuse_matmul_add_bias_into_gemm",
    "fuse_matmul_add_bias_into_gemm_batched",
    "fuse_qkv",
    "fuse_attention",
]
"""Each turns the linear maps into something an INT8 builder does not recognise."""
UNIFIED_CHANNELS = 3
"""Channels of a graph that takes both lights; an infrared crop comes with its own three times."""
ALIGNMENT = 4096
"""Bytes; a runtime maps the weight file page by page."""
_BATCH_SHAPE_RANK = 3
_INLINE_BYTES = 1024
"""Smaller initializers stay in the graph: shapes, indices, norms of narrow models."""
_LEGACY_EXPORTER = (
    "You are using the legacy TorchScript-based ONNX export",
    "The feature will be removed. Please remove usage of this function",
)


def export_onnx(
    module: ExportedMIP | StraightExport,
    spec: EmbedderSpec,
    *,
    metadata: dict[str, str],
    unified: bool = False,
) -> onnx.ModelProto:
    """One simplified and fully checked graph with its weights inside.

    `images` (crops, H, W, C) uint8 to `embeddings` (crops, D) float32; only `crops` is symbolic.
    A `unified` graph takes `modality` (crops,) int64 too, and three channels of either light.
    Raises: MipEdgeError if the result needs more than plain ONNX operators.
    """
    traced = onnx.load_from_string(_trace(module, spec, unified))
    # It compares nothing itself; the gate compares every file with PyTorch.
    simplified, _ = onnxsim.simplify(traced, skipped_optimizers=SKIPPED_PASSES)
    graph = _tidy(simplified, spec, metadata, unified)
    onnx.checker.check_model(graph, full_check=True)
    foreign = sorted({node.domain for node in graph.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise MipEdgeError(
            f"the graph holds operators of {', '.join(foreign)}; expected plain ONNX. "
            "Use the onnxsim version of constraints.txt"
        )
    return graph


def share_weights(graphs: Mapping[str, onnx.ModelProto], weights_name: str) -> dict[str, bytes]:
    """Files of several graphs with ONE external weight file, equal tensors stored once.

    `graphs` by file name; the graphs are changed to point into `weights_name`.
    """
    blob = bytearray()
    offsets: dict[bytes, int] = {}
    for name in sorted(graphs):
        for tensor in graphs[name].graph.initializer:
            content = tensor.raw_data
            if len(content) < _INLINE_BYTES:
                continue
            digest = hashlib.sha256(content).digest()
            if digest not in offsets:
                blob.extend(bytes(-len(blob) % ALIGNMENT))
                offsets[digest] = len(blob)
                blob.extend(content)
            _point_outside(tensor, weights_name, offsets[digest], len(content))
    files = {name: graph.SerializeToString(deterministic=True) for name, graph in graphs.items()}
    files[weights_name] = bytes(blob)
    return files


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write each of `share_weights`'s files and have ONNX check them where they lie."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for name in files:
        if name.endswith(".onnx"):
            onnx.checker.check_model(str(folder / name), full_check=True)


def _trace(module: nn.Module, spec: EmbedderSpec, unified: bool) -> bytes:
    channels = UNIFIED_CHANNELS if unified else spec.channels
    images = torch.full((2, spec.height, spec.width, channels), 128, dtype=torch.uint8)
    inputs = {"images": images}
    if unified:
        inputs["modality"] = torch.tensor([modality.row for modality in Modality])
    stream = io.BytesIO()
    with warnings.catch_warnings():
        for message in _LEGACY_EXPORTER:
            # It is the one that keeps the module names and needs no onnxscript.
            warnings.filterwarnings("ignore", message=message, category=DeprecationWarning)
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            stream,  # type: ignore[arg-type]
            input_names=list(inputs),
            output_names=["embeddings"],
            dynamic_axes={name: {0: "crops"} for name in (*inputs, "embeddings")},
            opset_version=OPSET,
            dynamo=False,
        )
    return stream.getvalue()


def _tidy(
    model: onnx.ModelProto, spec: EmbedderSpec, metadata: dict[str, str], unified: bool
) -> onnx.ModelProto:
    """Fixed names, shapes and metadata; initializers as raw bytes; no trace of this machine."""
    model.ir_version = IR_VERSION
    model.producer_name = "mip-edge"
    model.producer_version = __version__
    model.doc_string = ""
    model.graph.name = "mip_unified" if unified else f"mip_{spec.modality.value}"
    model.graph.doc_string = ""
    del model.graph.value_info[:]  # of the batch that was traced, not of any batch
    for node in model.graph.node:
        node.doc_string = ""
    constants_to_initializers(model.graph)
    share_batch_shape(model.graph)
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data"):
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name)
            )
    rename(model.graph)
    embeddings = model.graph.output[0].type.tensor_type.shape
    embeddings.CopyFrom(
        onnx.helper.make_tensor_type_proto(1, ["crops", spec.dimension]).tensor_type.shape
    )
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
    return model


def constants_to_initializers(graph: onnx.GraphProto) -> None:
    """Constants in one place: those that the simplifier left as nodes move to the others."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def share_batch_shape(graph: onnx.GraphProto) -> None:
    """Every constant that is repeated for each crop takes one shape, (crops, 1, 1).

    The exporter writes five nodes for each; broadcasting needs the first axis only.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    expands = [
        node for node in graph.node if node.op_type == "Expand" and node.input[0] in constants
    ]
    if not expands:
        return
    for node in expands:
        assert len(constants[node.input[0]].dims) <= _BATCH_SHAPE_RANK
        node.input[1] = "crops/Concat"
    ones = onnx.numpy_helper.from_array(np.ones(2, dtype=np.int64), "crops/ones")
    shape = onnx.helper.make_node(
        "Shape", ["images"], ["crops/Shape"], name="crops/Shape", start=0, end=1
    )
    batch = onnx.helper.make_node(
        "Concat", ["crops/Shape", "crops/ones"], ["crops/Concat"], name="crops/Concat", axis=0
    )
    graph.initializer.append(ones)
    graph.node.insert(0, shape)
    graph.node.insert(1, batch)
    drop_unread(graph)


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that nothing reads, from the end to the start."""
    read = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        if any(output in read for output in node.output):
            read.update(node.input)
        else:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def rename(graph: onnx.GraphProto) -> None:
    """Names that a person can read in a graph viewer: `blocks.3/attention/q/MatMul`.

    A node bears the path of its module, a tensor the name of the node that makes it, a constant
    its parameter's path, or the name of its first reader.
    """
    fixed = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {}
    taken, nodes = set(fixed), set[str]()
    for node in graph.node:
        node.name = node.name.removeprefix("/")
        if "/" not in node.name:
            node.name = f"crops/{node.name}"  # shapes that the batch size needs
        node.name = _free(node.name, nodes)
        for position, output in enumerate(node.output):
            if output and output not in fixed:
                suffix = f":{position}" if position else ""
                names[output] = _free(f"{node.name}{suffix}", taken)
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in constants and name not in names:
                named = "." in name and "/" not in name and "::" not in name
                path = name.replace(".", "/") if named else f"{node.name}/constant_{position}"
                names[name] = _free(_join_numbers(path), taken)
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def _join_numbers(path: str) -> str:
    """`blocks/3/mlp` as the nodes write it: `blocks.3/mlp`."""
    return re.sub(r"/(\d+)(?=/|$)", r".\1", path)


def _free(name: str, taken: set[str]) -> str:
    """The name, with a number behind it if another tensor has it already."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found


def _point_outside(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
