"""The ReID block keeps DeepStream's table, and its graph takes what a tracker gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")
pytest.importorskip("yaml", reason="the configuration is read with PyYAML")

import yaml

from export.deepstream import accept_floats, reid_block, write_deepstream
from mip_edge.artifact import Bundle, open_bundle
from mip_edge.errors import BundleError, MipEdgeError, OptionError, OutputError
from mip_edge.preprocess import prepare
from mip_edge.spec import EmbedderSpec, Modality


def whole(low: int, high: int | None = None) -> Any:
    """An integer in a range; YAML's true and false are none."""
    return lambda value: type(value) is int and value >= low and (high is None or value <= high)


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


# The table "Object Re-ID" of Gst-nvtracker, key to type and range, as far as a block may hold it:
# docs.nvidia.com/metropolis/deepstream/dev-guide/text/DS_plugin_gst-nvtracker.html. Booleans are
# 0 or 1 there. The form is that of NVIDIA's config_tracker_NvDCF_accuracy*.yml
# (github.com/NVIDIA/DeepStream).
TABLE = {
    "reidType": whole(0, 3),  # none, NvDeepSORT, re-association, both
    "batchSize": whole(1),
    "workspaceSize": whole(1),  # MB
    "reidFeatureSize": whole(1),
    "reidHistorySize": whole(1),
    "inferDims": lambda value: len(value) == 3 and all(map(whole(1), value)),  # HWC if NHWC
    "inputOrder": whole(0, 1),  # NCHW, NHWC
    "colorFormat": whole(0, 1),  # RGB, BGR
    "networkMode": whole(0, 2),  # FP32, FP16, INT8
    "offsets": lambda value: all(isinstance(one, float) for one in value),
    "netScaleFactor": lambda value: isinstance(value, float) and value > 0,
    "addFeatureNormalization": whole(0, 1),
    "tltEncodedModel": is_text,
    "tltModelKey": is_text,
    "onnxFile": is_text,
    "modelEngineFile": is_text,
    "calibrationTableFile": is_text,
    "keepAspc": whole(0, 1),
    "outputReidTensor": whole(0, 1),
    "useVPICropScaler": whole(0, 1),
}


def problems(block: dict[str, Any], graph: onnx.ModelProto) -> list[str]:
    """What the table does not know, and what does not fit the graph that the tracker feeds."""
    found = [key for key, value in block.items() if key not in TABLE or not TABLE[key](value)]
    if found:
        return found
    channels = block["inferDims"][2 if block["inputOrder"] == 1 else 0]
    if len(block["offsets"]) != channels or channels != 3:  # RGB and BGR have three
        found.append("offsets")
    (images,) = graph.graph.input
    (embeddings,) = graph.graph.output
    crops, *dims = images.type.tensor_type.shape.dim
    if images.type.tensor_type.elem_type != TensorProto.FLOAT or not crops.dim_param:
        found.append("type")
    if [size.dim_value for size in dims] != block["inferDims"]:
        found.append("inferDims")
    if embeddings.type.tensor_type.shape.dim[1].dim_value != block["reidFeatureSize"]:
        found.append("reidFeatureSize")
    return found


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written once; not to be changed."""
    return write_deepstream(bundle, tmp_path_factory.mktemp("deepstream") / "deepstream")


def read_block(folder: Path) -> dict[str, Any]:
    document = yaml.safe_load((folder / "config_tracker_reid.yml").read_text("utf-8"))
    assert list(document) == ["ReID"]
    block: dict[str, Any] = document["ReID"]
    return block


def as_tracker(batch: Any, block: dict[str, Any]) -> Any:
    """What a tracker makes of whole pixels by the block: float32, RGB, scaled, in NHWC."""
    colours = np.broadcast_to(batch, (*batch.shape[:3], 3)).astype(np.float32)
    offsets = np.array(block["offsets"], np.float32)
    return (colours - offsets) * np.float32(block["netScaleFactor"])


def embed(model: str | Path | bytes, feeds: dict[str, Any]) -> Any:
    return onnxruntime.InferenceSession(model).run(["embeddings"], feeds)[0]


@pytest.mark.parametrize("modality", list(Modality))
def test_the_block_keeps_the_table_and_fits_its_graph(folder: Path, modality: Modality) -> None:
    block = read_block(folder / modality.value)
    assert block["onnxFile"] == f"{modality.value}.onnx"
    graph = onnx.load(folder / modality.value / block["onnxFile"])
    assert problems(block, graph) == []
    # 1 would normalise twice, stretch otherwise than in training, or tell nobody the embedding
    told = [block[key] for key in ("addFeatureNormalization", "keepAspc", "outputReidTensor")]
    assert told == [0, 0, 1]


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("reidTyp", 2, "reidTyp"),
        ("reidType", 4, "reidType"),
        ("batchSize", 0, "batchSize"),
        ("keepAspc", True, "keepAspc"),
        ("colorFormat", 2, "colorFormat"),
        ("netScaleFactor", 0.0, "netScaleFactor"),
        ("onnxFile", "", "onnxFile"),
        ("offsets", [0.0], "offsets"),
        ("inferDims", [32, 64, 3], "inferDims"),
        ("inputOrder", 0, "offsets"),
        ("reidFeatureSize", 256, "reidFeatureSize"),
    ],
)
def test_the_table_notices_a_wrong_block(
    folder: Path, key: str, value: object, problem: str
) -> None:
    graph = onnx.load(folder / "visible" / "visible.onnx")
    block = read_block(folder / "visible")
    assert problem in problems({**block, key: value}, graph)


@pytest.mark.parametrize("modality", list(Modality))
def test_a_parser_of_tensorrt_takes_the_graph(folder: Path, modality: Modality) -> None:
    """DeepStream builds with TensorRT; the parser of TensorRT-RTX is near it and needs no GPU."""
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(folder / modality.value / f"{modality.value}.onnx"))
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    assert [network.get_input(index).name for index in range(network.num_inputs)] == ["images"]
    assert network.get_input(0).dtype == trt.DataType.FLOAT


@pytest.mark.parametrize("modality", list(Modality))
def test_whole_pixels_give_the_embeddings_of_the_bundle(
    bundle: Bundle, folder: Path, modality: Modality
) -> None:
    spec = bundle.manifest.specs[modality]
    batch = np.random.default_rng(2).integers(0, 256, (4, *spec.batch_shape), np.uint8)
    expected = embed(bundle.graph_path(modality), {"images": batch})
    pixels = as_tracker(batch, read_block(folder / modality.value))
    found = embed(folder / modality.value / f"{modality.value}.onnx", {"images": pixels})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_an_infrared_camera_with_a_tint_is_weighed_as_mip_edge_does(
    bundle: Bundle, folder: Path
) -> None:
    spec = bundle.manifest.specs[Modality.INFRARED]
    tinted = np.random.default_rng(4).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
    expected = embed(bundle.graph_path(Modality.INFRARED), {"images": prepare([tinted], spec)})
    pixels = tinted[None].astype(np.float32)
    found = embed(folder / "infrared" / "infrared.onnx", {"images": pixels})
    # a gray value exactly between two whole numbers may be rounded either way
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    green = embed(folder / "infrared" / "infrared.onnx", {"images": pixels[..., [1, 1, 1]]})
    assert np.abs(green - expected).max() > 1e-2


def graph_of(nodes: list[onnx.NodeProto], *, unified: bool = False) -> onnx.ModelProto:
    """A graph by hand from crops of 4x2 in three colours to embeddings of 3 numbers."""
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["crops", 4, 2, 3])]
    if unified:
        inputs.append(helper.make_tensor_value_info("modality", TensorProto.INT64, ["crops"]))
    table = np.array([[1, 20, 300], [4, 50, 600]], np.float32)
    graph = helper.make_graph(
        nodes,
        "by hand",
        inputs,
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["crops", 3])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(np.array([2], np.uint8), "two"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_a_unified_graph_becomes_one_of_its_modality() -> None:
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("Gather", ["table", "modality"], ["row"]),
        helper.make_node("Add", ["colour", "row"], ["embeddings"]),
    ]
    black = np.zeros((2, 4, 2, 3), np.float32)
    for modality, row in ((Modality.INFRARED, [1, 20, 300]), (Modality.VISIBLE, [4, 50, 600])):
        graph = accept_floats(graph_of(nodes, unified=True), modality)
        assert [value.name for value in graph.graph.input] == ["images"]
        found = embed(graph.SerializeToString(), {"images": black})
        np.testing.assert_array_equal(found, [row, row])
        # pure red: 100 in the first channel of a visible crop, 30 (0.299 x 100) in all infrared
        red = black + np.array([100, 0, 0], np.float32)
        seen = [30, 30, 30] if modality is Modality.INFRARED else [100, 0, 0]
        found = embed(graph.SerializeToString(), {"images": red})
        np.testing.assert_allclose(found, [np.add(row, seen)] * 2)


def test_a_half_precision_graph_keeps_its_own_cast() -> None:
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("GlobalMaxPool", ["half"], ["largest"]),
        helper.make_node("Flatten", ["largest"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["embeddings"], to=TensorProto.FLOAT),
    ]
    graph = accept_floats(graph_of(nodes), Modality.VISIBLE)
    assert [node.op_type for node in graph.graph.node] == [node.op_type for node in nodes]
    pixels = np.arange(24, dtype=np.float32).reshape(1, 4, 2, 3)
    found = embed(graph.SerializeToString(), {"images": pixels})
    np.testing.assert_array_equal(found, [[21, 22, 23]])


def test_a_graph_that_computes_in_uint8_is_refused() -> None:
    nodes = [
        helper.make_node("Div", ["images", "two"], ["halved"], "patches/Div"),
        helper.make_node("Cast", ["halved"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["embeddings"], keepdims=0),
    ]
    with pytest.raises(MipEdgeError, match="patches/Div computes on uint8 pixels"):
        accept_floats(graph_of(nodes), Modality.VISIBLE)


def test_a_graph_tells_what_it_takes_and_nothing_that_is_no_longer_true(folder: Path) -> None:
    graph = onnx.load(folder / "infrared" / "infrared.onnx")
    told = {prop.key: prop.value for prop in graph.metadata_props}
    assert told["mip_edge.input"] == "float32 (crops, height, width, 3), RGB, 0..255"
    assert told["mip_edge.licence"] == "CC0-1.0"
    assert "mip_edge.spec" not in told


def test_the_options_reach_the_block(bundle: Bundle, tmp_path: Path) -> None:
    write_deepstream(bundle, tmp_path / "d", max_batch=7, modalities=[Modality.INFRARED])
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["infrared"]
    block = read_block(tmp_path / "d" / "infrared")
    assert block["batchSize"] == 7
    assert block["networkMode"] == 0
    assert block["modelEngineFile"] == "infrared.onnx_b7_gpu0_fp32.engine"


@pytest.mark.parametrize(("dimension", "warned"), [(256, False), (3840, True)])
def test_embeddings_wider_than_usual_are_told_with_their_memory(
    dimension: int, warned: bool
) -> None:
    spec = EmbedderSpec(Modality.VISIBLE, 256, 128, dimension, "ab" * 32)
    text = reid_block(spec, "visible.onnx", "fp16", 100)
    # 3840 numbers of 4 bytes, 100 times
    assert ("15.0 times" in text and "takes 1.5 MB" in text) == warned
    block = yaml.safe_load(text)["ReID"]
    assert block["networkMode"] == 1
    assert block["inferDims"] == [256, 128, 3]


def test_equal_bundles_give_equal_bytes(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    again = write_deepstream(bundle, tmp_path / "again")
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 4
    for file in files:
        assert (again / file).read_bytes() == (folder / file).read_bytes()


def test_a_standing_folder_is_refused_and_stale_engines_go_with_it(
    bundle: Bundle, tmp_path: Path
) -> None:
    target = tmp_path / "deepstream"
    write_deepstream(bundle, target)
    engine = target / "visible" / "visible.onnx_b100_gpu0_fp32.engine"
    engine.write_bytes(b"built from the older graph")
    with pytest.raises(OutputError, match=r"deepstream exists already.*--overwrite"):
        write_deepstream(bundle, target)
    assert engine.exists()
    write_deepstream(bundle, target, overwrite=True)
    assert not engine.exists()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a DeepStream folder of mip-edge alone"):
        write_deepstream(bundle, target, overwrite=True)
    assert (target / "notes.txt").exists()


def test_what_a_tracker_cannot_take_is_told(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="max_batch must be at least 1, got 0"):
        write_deepstream(bundle, tmp_path / "d", max_batch=0)
    with pytest.raises(OptionError, match="takes fp32 or fp16 graphs, got int8"):
        write_deepstream(bundle, tmp_path / "d", precision="int8")
    with pytest.raises(BundleError, match="holds no fp16 graphs"):
        write_deepstream(bundle, tmp_path / "d", precision="fp16")
    assert list(tmp_path.iterdir()) == []
