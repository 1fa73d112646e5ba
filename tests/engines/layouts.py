"""Bundles of other layouts and precisions, made of an exported one by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from mip_edge.artifact import Bundle, Graph, Precision, open_bundle, seal, write_bundle
from mip_edge.spec import Modality


def write_unified(bundle: Path, target: Path) -> Path:
    """A bundle of the layout `unified` that computes both graphs of `bundle` and takes one."""
    opened = open_bundle(bundle)
    nodes = [
        helper.make_node("Identity", ["images"], ["visible/images"]),
        helper.make_node("Slice", ["images", "zero", "one", "axis"], ["infrared/images"]),
        helper.make_node("Cast", ["modality"], ["flags"], to=TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["flags", "one"], ["choice"]),
    ]
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("zero", 0), ("one", 1), ("axis", 3))
    ]
    models = {}
    for modality in Modality:
        model = onnx.compose.add_prefix(_load(opened, modality), f"{modality.value}/")
        nodes += model.graph.node
        constants += model.graph.initializer
        models[modality] = model
    chosen = ["choice", "visible/embeddings", "infrared/embeddings"]
    nodes.append(helper.make_node("Where", chosen, ["embeddings"]))
    spec = opened.manifest.specs[Modality.VISIBLE]
    graph = helper.make_graph(
        nodes,
        "unified",
        [
            helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", *spec.batch_shape]),
            helper.make_tensor_value_info("modality", TensorProto.INT64, ["n"]),
        ],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["n", spec.dimension])],
        constants,
    )
    visible = models[Modality.VISIBLE]
    model = helper.make_model(
        graph, opset_imports=visible.opset_import, ir_version=visible.ir_version
    )
    onnx.checker.check_model(model)
    files = {"unified.onnx": model}
    precision = Precision({modality: Graph("unified.onnx") for modality in Modality})
    return _write(opened, target, files, {"fp32": precision}, layout="unified")


def write_negated(bundle: Path, target: Path) -> Path:
    """A bundle whose graphs of the precision `fp16` give the negative of what `fp32` gives."""
    opened = open_bundle(bundle)
    files, precisions = {}, {}
    for name, sign in (("fp32", "Identity"), ("fp16", "Neg")):
        graphs = {}
        for modality in Modality:
            model = _load(opened, modality)
            model.graph.node[-1].output[0] = "signless"
            model.graph.node.append(helper.make_node(sign, ["signless"], ["embeddings"]))
            graphs[modality] = Graph(f"{modality.value}.{name}.onnx")
            files[graphs[modality].file] = model
        precisions[name] = Precision(graphs)
    return _write(opened, target, files, precisions, layout="per-modality")


def _load(bundle: Bundle, modality: Modality) -> onnx.ModelProto:
    return onnx.load(bundle.graph_path(modality))


def _write(
    opened: Bundle,
    target: Path,
    files: Mapping[str, onnx.ModelProto],
    precisions: Mapping[str, Precision],
    *,
    layout: str,
) -> Path:
    with write_bundle(target) as draft:
        for name, model in files.items():
            onnx.save(model, draft / name)
        seal(draft, replace(opened.manifest, precisions=precisions, layout=layout))
    return target
