"""From the exported module to ONNX: plain operators, checked, the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxsim
import torch

from export.wrapper import ExportedMIP
from mip_edge import __version__
from mip_edge.errors import MipEdgeError
from mip_edge.spec import EmbedderSpec

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
ALIGNMENT = 4096
"""Bytes; a runtime maps the weight file page by page."""
_INLINE_BYTES = 1024
"""Smaller initializers stay in the graph: shapes, indices, norms of narrow models."""
_LEGACY_EXPORTER = (
    "You are using the legacy TorchScript-based ONNX export",
    "The feature will be removed. Please remove usage of this function",
)


@dataclass(frozen=True, slots=True)
class GraphSize:
    """What a graph is made of."""

    nodes: int
    operators: dict[str, int]
    """Operator to how often it stands in the graph, the most frequent first."""


def export_onnx(
    module: ExportedMIP, spec: EmbedderSpec, *, metadata: dict[str, str]
) -> onnx.ModelProto:
    """One simplified and fully checked graph with its weights inside.

    `images` (crops, H, W, C) uint8 to `embeddings` (crops, D) float32; only `crops` is symbolic.
    Raises: MipEdgeError if the result needs more than plain ONNX operators.
    """
    traced = onnx.load_from_string(_trace(module, spec))
    simplified, equal = onnxsim.simplify(traced, skipped_optimizers=SKIPPED_PASSES)
    if not equal:
        raise MipEdgeError("onnxsim changed what the graph computes; export with another onnxsim")
    graph = _tidy(simplified, spec, metadata)
    onnx.checker.check_model(graph, full_check=True)
    foreign = sorted({node.domain for node in graph.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise MipEdgeError(
            f"the graph holds operators of {', '.join(foreign)}; expected plain ONNX. "
            "Use the onnxsim version of constraints.txt"
        )
    return graph


def measure_graph(graph: onnx.ModelProto) -> GraphSize:
    """Count the operators."""
    counts = Counter(node.op_type for node in graph.graph.node)
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return GraphSize(sum(counts.values()), dict(ordered))


def share_weights(graphs: dict[str, onnx.ModelProto], weights_name: str) -> dict[str, bytes]:
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


def _trace(module: ExportedMIP, spec: EmbedderSpec) -> bytes:
    images = torch.full((2, *spec.batch_shape), 128, dtype=torch.uint8)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        for message in _LEGACY_EXPORTER:
            # It is the one that keeps the module names and needs no onnxscript.
            warnings.filterwarnings("ignore", message=message, category=DeprecationWarning)
        torch.onnx.export(
            module.eval(),
            (images,),
            stream,  # type: ignore[arg-type]
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_axes={"images": {0: "crops"}, "embeddings": {0: "crops"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return stream.getvalue()


def _tidy(model: onnx.ModelProto, spec: EmbedderSpec, metadata: dict[str, str]) -> onnx.ModelProto:
    """Fixed names, shapes and metadata; initializers as raw bytes; no trace of this machine."""
    model.ir_version = IR_VERSION
    model.producer_name = "mip-edge"
    model.producer_version = __version__
    model.doc_string = ""
    model.graph.name = f"mip_{spec.modality.value}"
    model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
    for tensor in model.graph.initializer:
        if not tensor.HasField("raw_data"):
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name)
            )
    embeddings = model.graph.output[0].type.tensor_type.shape
    embeddings.CopyFrom(
        onnx.helper.make_tensor_type_proto(1, ["crops", spec.dimension]).tensor_type.shape
    )
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
    return model


def _point_outside(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
