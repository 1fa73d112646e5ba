"""The form of the exported graph: what an INT8 builder will find in it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the graph is read with onnx")
pytest.importorskip("torch", reason="the tiny bundle is exported with torch")

from export.to_onnx import ALIGNMENT, OPSET  # noqa: E402
from mip_edge.spec import Modality  # noqa: E402

LAYERS = 2
HEADS_BLOCKS = 2
"""One block for the global row, one shared by the four groups."""


@pytest.fixture(scope="module", params=list(Modality), ids=lambda modality: modality.value)
def graph(request: pytest.FixtureRequest, tiny_bundle: Path) -> onnx.ModelProto:
    path = tiny_bundle / f"{request.param.value}.onnx"
    return onnx.load(str(path), load_external_data=False)


def test_only_plain_operators_of_opset_19(graph: onnx.ModelProto) -> None:
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", OPSET)]
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}


def test_linear_maps_are_neither_fused_nor_split(graph: onnx.ModelProto) -> None:
    counts = Counter(node.op_type for node in graph.graph.node)
    assert not counts.keys() & {"Gemm", "Split", "Attention", "Loop", "If", "LpNormalization"}
    # Block: q k v proj fc1 fc2, logits, values. Generator, once a layer: logits, means, their
    # values, proj fc1 fc2. Class rows: those six and q, keys.
    assert counts["MatMul"] == LAYERS * 8 + LAYERS * 6 + HEADS_BLOCKS * 8
    assert counts["Softmax"] == LAYERS + LAYERS + HEADS_BLOCKS
    assert counts["Conv"] == 1
    assert counts["Cast"] == 1


def test_layer_norms_stay_whole(graph: onnx.ModelProto) -> None:
    counts = Counter(node.op_type for node in graph.graph.node)
    assert counts["LayerNormalization"] == LAYERS * 2 + LAYERS * 2 + HEADS_BLOCKS * 3
    assert not counts.keys() & {"ReduceMean", "Pow"}


def test_nodes_bear_the_names_of_their_modules(graph: onnx.ModelProto) -> None:
    names = {node.name for node in graph.graph.node}
    for layer in range(LAYERS):
        for linear in ("q", "k", "v", "proj", "mlp/fc1", "mlp/fc2"):
            assert f"/blocks.{layer}/{linear}/MatMul" in names
    assert len(names) == len(graph.graph.node)


def test_only_the_batch_axis_is_symbolic(graph: onnx.ModelProto) -> None:
    (images,), (embeddings,) = graph.graph.input, graph.graph.output
    assert (images.name, embeddings.name) == ("images", "embeddings")
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert embeddings.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    channels = 3 if graph.graph.name == "mip_visible" else 1
    shapes = [
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (images, embeddings)
    ]
    assert shapes == [["crops", 64, 32, channels], ["crops", 240]]


def test_metadata_says_what_the_file_promises(graph: onnx.ModelProto) -> None:
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    spec = json.loads(metadata["mip_edge.spec"])
    assert (spec["height"], spec["width"], spec["dimension"]) == (64, 32, 240)
    assert len(metadata["mip_edge.fingerprint"]) == 64
    assert metadata["mip_edge.camera"] == "mean"
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
    assert visible["blocks.0.mlp.fc1.weight"] == infrared["blocks.0.mlp.fc1.weight"]
    assert visible["patches.weight"] != infrared["patches.weight"]
    stored = {place[1:] for place in (*visible.values(), *infrared.values())}
    end = max(offset + length for offset, length in stored)
    assert (tiny_bundle / "weights.bin").stat().st_size == end
    weights = np.memmap(tiny_bundle / "weights.bin", dtype=np.uint8, mode="r")
    contents = {bytes(weights[offset : offset + length]) for offset, length in stored}
    assert len(contents) == len(stored)  # no tensor is stored twice
