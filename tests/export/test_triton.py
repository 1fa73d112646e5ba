"""A model repository keeps Triton's schema and the rules that the schema does not hold."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")
pytest.importorskip("tritonclient", reason="Triton's schema comes with tritonclient")
pytest.importorskip("grpc", reason="Triton's schema comes with tritonclient's grpc half")

import tritonclient.grpc as triton_client
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from export.triton import write_triton
from export.triton_config import Model, Serving, Tensor, model_config
from mip_edge.artifact import Bundle, Graph, Manifest, Precision, open_bundle
from mip_edge.errors import BundleError, OptionError, OutputError
from mip_edge.spec import EmbedderSpec, Modality

DOCS = Path(__file__).parents[2] / "docs" / "deploy.md"
# model_configuration.md, "Datatypes"
TYPES = {
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.FLOAT: "TYPE_FP32",
}


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def repository(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written once; not to be changed."""
    return write_triton(bundle, tmp_path_factory.mktemp("triton") / "model_repository")


@pytest.fixture
def unified(tmp_path: Path) -> Bundle:
    """A graph of both modalities by hand: mean colour, a row of a table, one linear map."""
    rng = np.random.default_rng(5)
    weights = {
        "axes": np.array([1, 2]),
        "table": np.array([[-1, 0, 2], [3, 1, 1]], np.float32),
        "map": rng.standard_normal((6, 64)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["colour"], keepdims=0),
        helper.make_node("Gather", ["table", "modality"], ["row"]),
        helper.make_node("Concat", ["colour", "row"], ["both"], axis=1),
        helper.make_node("MatMul", ["both", "map"], ["features"]),
        helper.make_node("LpNormalization", ["features"], ["embeddings"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "unified",
        [
            helper.make_tensor_value_info("images", TensorProto.UINT8, ["crops", 8, 4, 3]),
            helper.make_tensor_value_info("modality", TensorProto.INT64, ["crops"]),
        ],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["crops", 64])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.save(model, tmp_path / "unified.onnx")
    manifest = Manifest(
        fingerprint="ab" * 32,
        model={},
        specs={one: EmbedderSpec(one, 8, 4, 64, "ab" * 32) for one in Modality},
        camera=dict.fromkeys(Modality, 'gate "é"'),
        precisions={"fp32": Precision({one: Graph("unified.onnx") for one in Modality})},
        layout="unified",
    )
    return Bundle(tmp_path, manifest)


def read_config(folder: Path) -> Any:
    """The configuration by Triton's own schema; what is not of it raises."""
    return text_format.Parse((folder / "config.pbtxt").read_text("utf-8"), ModelConfig())


def run(folder: Path, feeds: dict[str, Any]) -> Any:
    """Embeddings of the model in a folder of the repository."""
    path = folder / "1" / "model.onnx" / "model.onnx"
    return onnxruntime.InferenceSession(path).run(["embeddings"], feeds)[0]


def draw(spec: EmbedderSpec, count: int = 3) -> Any:
    return np.random.default_rng(7).integers(0, 256, (count, *spec.batch_shape), np.uint8)


# The rules of Triton that a text of the right schema may still break. Documents are those of
# github.com/triton-inference-server/server/docs/user_guide, sources those of .../core/src.


def problems(repository: Path) -> list[str]:
    """All that Triton would refuse; empty if it would take every model."""
    configs = {folder.name: read_config(folder) for folder in sorted(repository.iterdir())}
    found = []
    for name, config in configs.items():
        found += model_problems(repository / name, config)
        if config.platform == "ensemble":
            found += ensemble_problems(config, configs)
        else:
            found += graph_problems(repository / name, config)
    return found


def model_problems(folder: Path, config: Any) -> list[str]:
    found = []
    # model_configuration.md, "Name, Platform and Backend"
    if config.name != folder.name:
        found.append(f"{config.name} is not the name of its folder")
    # model_repository.md, "Model Versions": others, or with a leading zero, are ignored
    if not any(re.fullmatch(r"[1-9]\d*", entry.name) for entry in folder.iterdir()):
        found.append("no version folder")
    # model_config_utils.cc, ValidateModelConfig
    for size in config.dynamic_batching.preferred_batch_size:
        if not 0 < size <= config.max_batch_size:
            found.append(f"preferred batch of {size}")
    # model_configuration.md, "Inputs and Outputs" and "Reshape"
    for tensor in (*config.input, *config.output):
        if not tensor.dims or any(size < 1 and size != -1 for size in tensor.dims):
            found.append(f"{tensor.name} has dims {list(tensor.dims)}")
    return found


def graph_problems(folder: Path, config: Any) -> list[str]:
    found = []
    if config.backend != "onnxruntime":
        found.append(f"backend {config.backend}")
    # model_repository.md, "ONNX Models": several files lie in a folder called model.onnx
    path = folder / "1" / "model.onnx"
    path = path / "model.onnx" if path.is_dir() else path
    if not path.is_file():
        return [*found, "no model.onnx"]
    if len(list(path.parent.iterdir())) > 1 and path.parent.name != "model.onnx":
        found.append("files of a model outside a folder model.onnx")
    graph = onnx.load(path, load_external_data=False).graph
    for told, real in ((config.input, graph.input), (config.output, graph.output)):
        if {value.name for value in real} != {tensor.name for tensor in told}:
            found.append(f"tensors {[tensor.name for tensor in told]}")
            continue
        for tensor in told:
            (value,) = (value for value in real if value.name == tensor.name)
            first, *others = value.type.tensor_type.shape.dim
            dims = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            if DataType.Name(tensor.data_type) != TYPES[value.type.tensor_type.elem_type]:
                found.append(f"type of {tensor.name}")
            # model_configuration.md, "Maximum Batch Size": the first is the batch in all of them
            if not first.dim_param or list(dims) != [size.dim_value for size in others]:
                found.append(f"shape of {tensor.name}")
    return found


def ensemble_problems(config: Any, configs: dict[str, Any]) -> list[str]:
    found = []
    # model_config_utils.cc, ValidateModelConfig and ValidateEnsembleSchedulingConfig;
    # ensemble_models.md on "instance_group". A batcher of its own breaks the schema itself.
    if config.backend:
        found.append("an ensemble has no backend")
    for field in ("instance_group", "model_warmup"):
        if getattr(config, field):
            found.append(f"an ensemble has no {field}")
    if config.HasField("optimization"):
        found.append("an ensemble has no optimization")
    if not config.ensemble_scheduling.step:
        found.append("an ensemble without steps")
    known = {tensor.name: tensor for tensor in (*config.input, *config.output)}
    used, written = set(), []
    for step in config.ensemble_scheduling.step:
        model = configs.get(step.model_name)
        if model is None:
            found.append(f"no model {step.model_name}")
            continue
        # ensemble_utils.cc, ValidateEnsembleConfig
        if 0 < model.max_batch_size < config.max_batch_size:
            found.append(f"batch of {step.model_name}")
        # ensemble_utils.cc, ValidateTensorMapping
        if set(step.input_map) != {tensor.name for tensor in model.input}:
            found.append(f"inputs of {step.model_name}")
        if not set(step.output_map) <= {tensor.name for tensor in model.output}:
            found.append(f"outputs of {step.model_name}")
        used |= set(step.input_map.values())
        written += step.output_map.values()
        for mapped, tensors in ((step.input_map, model.input), (step.output_map, model.output)):
            for tensor in tensors:
                outside = known.get(mapped.get(tensor.name, ""))
                if outside is not None and (outside.data_type, list(outside.dims)) != (
                    tensor.data_type,
                    list(tensor.dims),
                ):
                    found.append(f"{outside.name} is not as in {step.model_name}")
    # ValidateEnsembleSchedulingConfig: nothing unused, nothing unwritten, nothing written twice
    if used != {tensor.name for tensor in config.input}:
        found.append("inputs of the ensemble")
    if sorted(written) != sorted(tensor.name for tensor in config.output):
        found.append("outputs of the ensemble")
    return found


def test_a_repository_keeps_the_schema_and_the_rules(repository: Path) -> None:
    assert problems(repository) == []
    assert [path.name for path in sorted(repository.iterdir())] == [
        "mip",
        "mip_infrared",
        "mip_visible",
    ]


@pytest.mark.parametrize(
    ("model", "old", "new", "problem"),
    [
        ("mip_visible", 'name: "mip_visible"', 'name: "visible"', "name of its folder"),
        ("mip_visible", "32 ]", "64 ]", "preferred batch of 64"),
        ("mip_visible", "dims: [ 64, 32, 3 ]", "dims: [ ]", "has dims"),
        ("mip_visible", "dims: [ 64, 32, 3 ]", "dims: [ 3, 64, 32 ]", "shape of images"),
        ("mip_visible", "TYPE_UINT8", "TYPE_FP32", "type of images"),
        ("mip_visible", '"embeddings"', '"features"', "tensors"),
        ("mip_visible", "max_batch_size: 32", "max_batch_size: 16", "batch of mip_visible"),
        ("mip_visible", 'backend: "onnxruntime"', 'backend: "python"', "backend"),
        ("mip", 'model_name: "mip_visible"', 'model_name: "other"', "no model other"),
        ("mip", 'key: "images"', 'key: "crops"', "inputs of mip_visible"),
        ("mip", 'key: "embeddings"', 'key: "features"', "outputs of mip_visible"),
        ("mip", 'value: "visible_images"', 'value: "crops"', "inputs of the ensemble"),
        ("mip", 'value: "infrared_embeddings"', 'value: "e"', "outputs of the ensemble"),
        ("mip", "dims: [ 64, 32, 1 ]", "dims: [ 64, 32, 3 ]", "infrared_images is not as in"),
        ("mip", "version_policy", "instance_group { }\nversion_policy", "no instance_group"),
        ("mip", "version_policy", "optimization { }\nversion_policy", "no optimization"),
        ("mip", 'platform: "ensemble"', 'platform: "ensemble" backend: "python"', "no backend"),
    ],
)
def test_the_rules_notice_a_broken_configuration(
    repository: Path, tmp_path: Path, model: str, old: str, new: str, problem: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    config = copy / model / "config.pbtxt"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    assert any(problem in found for found in problems(copy))


def test_a_batcher_of_its_own_in_an_ensemble_breaks_the_schema(repository: Path) -> None:
    text = (repository / "mip" / "config.pbtxt").read_text()
    with pytest.raises(text_format.ParseError, match="dynamic_batching"):
        text_format.Parse(text + "dynamic_batching { }\n", ModelConfig())


def test_files_that_lie_wrong_are_noticed(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    version = copy / "mip_visible" / "1"
    (version / "model.onnx").rename(version / "files")
    assert "no model.onnx" in problems(copy)
    for file in (version / "files").iterdir():
        file.rename(version / file.name)
    (version / "files").rmdir()
    assert "files of a model outside a folder model.onnx" in problems(copy)
    (copy / "mip" / "1").rename(copy / "mip" / "01")
    assert "no version folder" in problems(copy)


@pytest.mark.parametrize("modality", list(Modality))
def test_each_model_runs_from_its_folder_alone_as_in_the_bundle(
    bundle: Bundle, repository: Path, tmp_path: Path, modality: Modality
) -> None:
    shutil.copytree(repository / f"mip_{modality.value}", tmp_path / "alone")
    batch = draw(bundle.manifest.specs[modality])
    session = onnxruntime.InferenceSession(bundle.graph_path(modality))
    expected = session.run(["embeddings"], {"images": batch})[0]
    np.testing.assert_array_equal(run(tmp_path / "alone", {"images": batch}), expected)


def test_onnx_runtime_opens_no_weights_outside_the_folder_of_the_model(
    repository: Path, tmp_path: Path
) -> None:
    """Why every model has its own copy: shared weights would not open."""
    inside = tmp_path / "model.onnx"
    shutil.copytree(repository / "mip_visible" / "1" / "model.onnx", inside)
    (inside / "weights.bin").rename(tmp_path / "weights.bin")
    graph = onnx.load(inside / "model.onnx", load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    (inside / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(Exception, match=r"(?i)external data"):
        onnxruntime.InferenceSession(inside / "model.onnx")


def test_a_model_holds_the_weights_that_it_needs_and_no_others(repository: Path) -> None:
    for modality in Modality:
        folder = repository / f"mip_{modality.value}" / "1" / "model.onnx"
        graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
        ends = [
            int(where["offset"]) + int(where["length"])
            for tensor in graph.initializer
            if (where := {entry.key: entry.value for entry in tensor.external_data})
        ]
        assert {path.name for path in folder.iterdir()} == {"model.onnx", "weights.bin"}
        assert max(ends) == (folder / "weights.bin").stat().st_size


def test_the_server_tells_which_model_it_runs(bundle: Bundle, repository: Path) -> None:
    told = {
        key: one.string_value for key, one in read_config(repository / "mip").parameters.items()
    }
    assert told == {
        "mip_edge.fingerprint": bundle.manifest.fingerprint,
        "mip_edge.licence": "CC0-1.0",
        "mip_edge.precision": "fp32",
        "mip_edge.camera.visible": "mean",
        "mip_edge.camera.infrared": "mean",
    }
    own = read_config(repository / "mip_visible").parameters
    assert "mip_edge.camera.infrared" not in own


def test_batching_follows_the_options(bundle: Bundle, tmp_path: Path) -> None:
    write_triton(bundle, tmp_path / "r", max_batch=6, queue_delay_us=0)
    config = read_config(tmp_path / "r" / "mip_infrared")
    assert config.max_batch_size == 6
    assert list(config.dynamic_batching.preferred_batch_size) == [1, 3, 6]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert read_config(tmp_path / "r" / "mip").max_batch_size == 6
    assert problems(tmp_path / "r") == []


def test_a_unified_bundle_becomes_one_model_that_takes_the_modality(
    unified: Bundle, tmp_path: Path
) -> None:
    repository = write_triton(unified, tmp_path / "r")
    assert problems(repository) == []
    assert [path.name for path in repository.iterdir()] == ["mip"]
    config = read_config(repository / "mip")
    images, modality = config.input
    assert list(images.dims) == [8, 4, 3]
    # one number a crop: a client sends (crops, 1), the graph gets (crops,)
    assert list(modality.dims) == [1]
    assert modality.HasField("reshape")
    assert list(modality.reshape.shape) == []
    assert config.parameters["mip_edge.camera.visible"].string_value == 'gate "é"'
    feeds = {
        "images": np.random.default_rng(1).integers(0, 256, (2, 8, 4, 3), np.uint8),
        "modality": np.array([0, 1]),
    }
    session = onnxruntime.InferenceSession(unified.path / "unified.onnx")
    expected = session.run(None, feeds)[0]
    np.testing.assert_array_equal(run(repository / "mip", feeds), expected)


@settings(max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_camera_name_survives_the_configuration(name: str) -> None:
    model = Model("mip", [Tensor("images", "TYPE_UINT8", (2, 1, 3))], [])
    text = model_config(model, Serving(1, 0), {"camera": name})
    config = text_format.Parse(text, ModelConfig())
    assert config.parameters["camera"].string_value == name


def test_equal_bundles_give_equal_bytes(bundle: Bundle, repository: Path, tmp_path: Path) -> None:
    again = write_triton(bundle, tmp_path / "again")
    files = [path.relative_to(repository) for path in repository.rglob("*") if path.is_file()]
    assert len(files) == 8
    for file in files:
        assert (again / file).read_bytes() == (repository / file).read_bytes()


def test_a_standing_folder_is_refused_and_only_ours_is_replaced(
    bundle: Bundle, tmp_path: Path
) -> None:
    target = tmp_path / "repository"
    write_triton(bundle, target)
    with pytest.raises(OutputError, match=r"repository exists already.*--overwrite"):
        write_triton(bundle, target)
    write_triton(bundle, target, max_batch=4, overwrite=True)
    assert read_config(target / "mip").max_batch_size == 4
    (target / "resnet").mkdir()
    with pytest.raises(OutputError, match="not a model repository of mip-edge alone"):
        write_triton(bundle, target, overwrite=True)
    assert (target / "resnet").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["repository"]


def test_an_export_that_breaks_leaves_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, files: object) -> None:
        (folder / "half").write_bytes(b"x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("export.triton.write_files", full)
    with pytest.raises(OutputError, match=r"r cannot be written: No space left on device"):
        write_triton(bundle, tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_is_told(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="max_batch must be at least 1, got 0"):
        write_triton(bundle, tmp_path / "r", max_batch=0)
    with pytest.raises(OptionError, match="queue_delay_us must be at least 0, got -1"):
        write_triton(bundle, tmp_path / "r", queue_delay_us=-1)
    with pytest.raises(BundleError, match="holds no int3 graphs"):
        write_triton(bundle, tmp_path / "r", precision="int3")
    assert list(tmp_path.iterdir()) == []


documented = pytest.mark.skipif(not DOCS.exists(), reason="the documents are in the repository")


def fenced(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)


@documented
def test_the_tensorrt_block_of_the_documents_keeps_the_schema(repository: Path) -> None:
    (block,) = fenced("pbtxt")
    text = (repository / "mip_visible" / "config.pbtxt").read_text() + block
    config = text_format.Parse(text, ModelConfig())
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["trt_engine_cache_enable"] == "1"


class FakeClient:
    """What a server would do with a request, done here by ONNX Runtime on the repository."""

    repository: Path

    def __init__(self, url: str) -> None:
        assert url == "localhost:8001"

    def infer(self, model: str, inputs: list[Any]) -> Any:
        config = read_config(self.repository / model)
        feeds = {}
        for sent, expected in zip(inputs, config.input, strict=True):
            assert sent.name() == expected.name
            assert f"TYPE_{sent.datatype()}" == DataType.Name(expected.data_type)
            assert sent.shape()[1:] == list(expected.dims)
            content = np.frombuffer(sent._get_content(), np.uint8)
            feeds[sent.name()] = content.reshape(sent.shape())
        embeddings = run(self.repository / model, feeds)
        return SimpleNamespace(as_numpy={"embeddings": embeddings}.__getitem__)


@documented
def test_the_request_of_the_documents_gets_embeddings(
    bundle: Bundle, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mip_edge.data import image

    spec = bundle.manifest.specs[Modality.INFRARED]
    crop = np.random.default_rng(3).integers(0, 256, (70, 30, 3), np.uint8)
    monkeypatch.setattr(image, "read_image", lambda path: crop)
    monkeypatch.setattr(FakeClient, "repository", repository, raising=False)
    monkeypatch.setattr(triton_client, "InferenceServerClient", FakeClient)
    (request,) = fenced("python")
    sized = request.replace("256, 128", f"{spec.height}, {spec.width}")
    assert sized != request
    found: dict[str, Any] = {}
    exec(compile(sized, str(DOCS), "exec"), found)
    assert found["embeddings"].shape == (1, spec.dimension)
    np.testing.assert_allclose(np.linalg.norm(found["embeddings"], axis=1), 1, atol=1e-5)
