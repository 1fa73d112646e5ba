"""From a bundle to the ReID block, and its graph, of the trackers of NVIDIA DeepStream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from mip_edge.artifact import Bundle
from mip_edge.errors import MipEdgeError, OptionError
from mip_edge.folder import write_folder
from mip_edge.spec import EmbedderSpec, Modality

KIND = "a DeepStream folder"
CONFIG_NAME = "config_tracker_reid.yml"
COLOURS = 3
"""Channels that a tracker hands over; it knows RGB and BGR, no single channel."""
GRAY = (0.299, 0.587, 0.114)
"""Red, green and blue of an infrared crop's one channel, as `mip_edge.preprocess` weighs them."""
HISTORY = 100
"""Embeddings that a tracker keeps of each target, as in NVIDIA's own configurations."""
USUAL_FEATURES = 256
"""The width of NVIDIA's own re-identification models; a wider one costs more of the GPU."""

_NETWORK_MODES = {"fp32": 0, "fp16": 1}
_MOVING = ("Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose")
"""Operators that hand pixels on without computing, so that they carry float32 as well."""


def write_deepstream(
    bundle: Bundle,
    target: str | Path,
    *,
    precision: str = "fp32",
    max_batch: int = 100,
    modalities: Sequence[Modality] = tuple(Modality),
    overwrite: bool = False,
) -> Path:
    """Write a folder for each modality: its graph and the `ReID:` block of a tracker's YAML.

    A tracker serves the cameras of one light, hence two folders. The graph takes what a tracker
    gives (float32, 0..255, RGB, NHWC) and holds its weights inside: the configuration names one
    file. Equal input gives equal bytes.
    Source: the table "Object Re-ID" of docs.nvidia.com/metropolis/deepstream/dev-guide/text/
    DS_plugin_gst-nvtracker.html.
    Raises: OptionError for options that a tracker cannot take, BundleError if the bundle lacks the
    precision, OutputError if `target` exists or cannot be written.
    """
    if max_batch < 1:
        raise OptionError(f"max_batch must be at least 1, got {max_batch}")
    if precision not in _NETWORK_MODES:
        raise OptionError(
            f"--for deepstream takes {' or '.join(_NETWORK_MODES)} graphs, got {precision}"
        )
    paths = {modality: bundle.graph_path(modality, precision) for modality in modalities}
    target = Path(target)
    with write_folder(target, KIND, is_deepstream, overwrite=overwrite) as draft:
        for modality, path in paths.items():
            graph = accept_floats(onnx.load(path), modality)
            folder = draft / modality.value
            folder.mkdir()
            name = f"{modality.value}.onnx"
            (folder / name).write_bytes(graph.SerializeToString(deterministic=True))
            text = reid_block(bundle.manifest.specs[modality], name, precision, max_batch)
            (folder / CONFIG_NAME).write_text(text, encoding="utf-8")
    return target


def reid_block(spec: EmbedderSpec, onnx_name: str, precision: str, max_batch: int) -> str:
    """The `ReID:` block as YAML; it stands in the place of the same block of a tracker's file."""
    engine = f"{onnx_name}_b{max_batch}_gpu0_{precision}.engine"
    lines = [
        f"# MIP for {spec.modality.value} cameras, fingerprint {spec.fingerprint}.",
        "# Put this block in the place of ReID: in NVIDIA's config_tracker_NvDCF_accuracy.yml.",
    ]
    if spec.dimension > USUAL_FEATURES:
        megabytes = spec.dimension * HISTORY * 4 / 1e6
        times = spec.dimension / USUAL_FEATURES
        lines += [
            f"# {spec.dimension} features, {times:.1f} times those of NVIDIA's models. The past of",
            f"# a target takes {megabytes:.1f} MB of the GPU. Less: reidHistorySize, or --dim.",
        ]
    lines += [
        "ReID:",
        "  reidType: 2  # re-association; 1 for NvDeepSORT, 3 for both",
        f"  batchSize: {max_batch}",
        "  workspaceSize: 1000  # MB, while the engine is built",
        f"  reidFeatureSize: {spec.dimension}",
        f"  reidHistorySize: {HISTORY}",
        f"  inferDims: [{spec.height}, {spec.width}, {COLOURS}]  # height, width, channels",
        f"  networkMode: {_NETWORK_MODES[precision]}  # 0 float32, 1 float16",
        "  inputOrder: 1  # NHWC",
        "  colorFormat: 0  # RGB",
        "  offsets: [0.0, 0.0, 0.0]  # mean and deviation are in the graph",
        "  netScaleFactor: 1.0",
        "  keepAspc: 0  # the network was trained on stretched crops",
        "  addFeatureNormalization: 0  # embeddings leave the graph with unit length",
        "  outputReidTensor: 1",
        f'  onnxFile: "{onnx_name}"',
        f'  modelEngineFile: "{engine}"  # built from onnxFile when it is missing',
        "",
    ]
    return "\n".join(lines)


def accept_floats(graph: onnx.ModelProto, modality: Modality) -> onnx.ModelProto:
    """The graph changed to one input `images`, (crops, H, W, 3) float32, RGB, 0..255.

    On whole numbers it gives the embeddings of the uint8 graph. An infrared graph makes its one
    channel itself; a unified graph's `modality` becomes a constant. Weights have to be inside.
    Raises: MipEdgeError if the graph computes on uint8 pixels before it casts them.
    """
    main = graph.graph
    images = next(value for value in main.input if value.name == "images")
    _drop_casts(main, images.name)
    front: list[onnx.NodeProto] = []
    channels = images.type.tensor_type.shape.dim[3].dim_value
    if modality is Modality.INFRARED:
        front += _make_gray(main, images.name, channels)
    if any(value.name == "modality" for value in main.input):
        front += _fix_modality(main, images.name, modality)
    images.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    images.type.tensor_type.shape.dim[3].dim_value = COLOURS
    nodes = [*front, *main.node]
    del main.node[:]
    main.node.extend(nodes)
    _tell_input(graph)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _drop_casts(main: onnx.GraphProto, images: str) -> None:
    """Pixels come as float32: casts to it go, and the shapes told of uint8 tensors with them."""
    pixels = {images}
    renamed: dict[str, str] = {}
    kept = []
    for node in main.node:
        computes = not pixels.isdisjoint(node.input) and node.op_type != "Shape"
        node.input[:] = [renamed.get(name, name) for name in node.input]
        if not computes:
            kept.append(node)
        elif node.op_type == "Cast":
            if onnx.helper.get_node_attr_value(node, "to") == onnx.TensorProto.FLOAT:
                renamed[node.output[0]] = node.input[0]
            else:
                kept.append(node)
        elif node.op_type in _MOVING:
            pixels.update(node.output)
            kept.append(node)
        else:
            raise MipEdgeError(
                f"{node.name or node.op_type} computes on uint8 pixels, so the graph cannot take "
                "the tracker's floats; expected a Cast first. Export the bundle anew"
            )
    known = [value for value in main.value_info if value.name not in pixels]
    del main.node[:], main.value_info[:]
    main.node.extend(kept)
    main.value_info.extend(known)


def _make_gray(main: onnx.GraphProto, images: str, channels: int) -> list[onnx.NodeProto]:
    """Nodes from RGB to the gray of `mip_edge.preprocess`, whole numbers as there."""
    weight = np.repeat(np.array(GRAY, dtype=np.float32)[:, None], channels, axis=1)
    main.initializer.append(onnx.numpy_helper.from_array(weight, "gray.weight"))
    for node in main.node:
        node.input[:] = ["gray/images" if name == images else name for name in node.input]
    return [
        onnx.helper.make_node("MatMul", [images, "gray.weight"], ["gray/mix"], "gray/MatMul"),
        onnx.helper.make_node("Round", ["gray/mix"], ["gray/images"], "gray/Round"),
    ]


def _fix_modality(main: onnx.GraphProto, images: str, modality: Modality) -> list[onnx.NodeProto]:
    """Nodes that say the same modality for every crop."""
    main.input.remove(next(value for value in main.input if value.name == "modality"))
    row = onnx.numpy_helper.from_array(np.array([modality.row], dtype=np.int64))
    shape = onnx.helper.make_node("Shape", [images], ["modality/crops"], "modality/Shape")
    shape.attribute.extend(
        [onnx.helper.make_attribute("start", 0), onnx.helper.make_attribute("end", 1)]
    )
    rows = onnx.helper.make_node(
        "ConstantOfShape", ["modality/crops"], ["modality"], "modality/ConstantOfShape"
    )
    rows.attribute.append(onnx.helper.make_attribute("value", row))
    return [shape, rows]


def _tell_input(graph: onnx.ModelProto) -> None:
    """The spec of a uint8 graph is no longer true; the rest of the metadata stays."""
    kept = {prop.key: prop.value for prop in graph.metadata_props if prop.key != "mip_edge.spec"}
    kept["mip_edge.input"] = f"float32 (crops, height, width, {COLOURS}), RGB, 0..255"
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, dict(sorted(kept.items())))


def is_deepstream(folder: Path) -> bool:
    """Whether a folder holds our configurations and nobody else's (engines beside them go too)."""
    entries = list(folder.iterdir())
    known = {modality.value for modality in Modality}
    return all(entry.name in known and (entry / CONFIG_NAME).is_file() for entry in entries)
