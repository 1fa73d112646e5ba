"""Every graph we write passes NVIDIA's parser and builder, and keeps what they fuse."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from engines import build_trt
from engines.build_trt import RTX, BuildOptions, build_engine, check_graph, check_options
from engines.launches import (
    BLOCK_MAPS,
    Launches,
    count_blocks,
    lint_launches,
    quantized_maps,
    read_launches,
)
from engines.trt_log import recording
from mip_edge.errors import EngineError, OptionError
from mip_edge.spec import EmbedderSpec, Modality

onnx = pytest.importorskip("onnx", reason="graphs are made with onnx")
pytest.importorskip("torch", reason="the tiny bundle is exported with torch")
needs_rtx = pytest.mark.skipif(
    find_spec(RTX) is None, reason='TensorRT-RTX is not installed: pip install "mip-edge[rtx]"'
)

LAYERS = 2
"""Blocks of the tiny network; each calls the instance prompt generator once."""
MLPS = LAYERS + LAYERS + 2
"""One a block, one a call of the generator, two in the head."""


def save_half(graph: Any, path: Path, keep: Sequence[str] = ()) -> None:
    from export.half import to_half

    onnx.save(to_half(graph, keep), str(path))


def quantized(graph: Any, keep: Collection[str] = ()) -> Any:
    """Q/DQ as the calibration writes them, at made-up ranges."""
    from calibration.activations import linear_maps
    from calibration.quantize import quantize

    thresholds = {node.input[0]: 4.0 for node in linear_maps(graph).values()}
    return quantize(graph, thresholds, keep=keep)


def lint(launches: Launches, path: Path, precision: str) -> list[str]:
    content = path.read_bytes()
    assert count_blocks(content) == LAYERS
    maps = quantized_maps(content)
    return lint_launches(launches, layers=LAYERS, precision=precision, quantized=maps)


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """(crops, 8) uint8 times a matrix that lies in weights.bin beside the graph."""
    folder = tmp_path_factory.mktemp("product")
    return save_graph(
        folder / "graph.onnx",
        [
            onnx.helper.make_node("Cast", ["images"], ["numbers"], name="cast", to=1),
            onnx.helper.make_node("MatMul", ["numbers", "matrix"], ["embeddings"], name="map"),
        ],
    )


def save_graph(
    path: Path, nodes: list[Any], *, crops: str | int = "crops", width: str | int = 8
) -> Path:
    helper, types = onnx.helper, onnx.TensorProto
    images = helper.make_tensor_value_info("images", types.UINT8, [crops, width])
    embeddings = helper.make_tensor_value_info("embeddings", types.FLOAT, [crops, 4])
    matrix = helper.make_tensor("matrix", types.FLOAT, [8, 4], b"\x00\x00\x80\x3f" * 32, raw=True)
    domains = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "graph", [images], [embeddings], [matrix])
    model = helper.make_model(graph, opset_imports=domains, ir_version=9)
    onnx.save_model(
        model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    return path


@needs_rtx
@pytest.mark.parametrize("name", ["visible", "infrared"])
def test_every_exported_graph_is_built_without_a_warning(
    tiny_bundle: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    threads = threading.active_count()
    report = check_graph(tiny_bundle / f"{name}.onnx")
    assert report.warnings == ()
    assert report.plan_bytes > 100_000
    assert report.layers > 100
    assert report.launches is not None
    # For CPUs the blocks have their MLP in halves, whose GELU does not fuse.
    assert report.launches.gelus == MLPS - LAYERS
    assert report.launches.attentions == 0  # float32 attention stays three kernels
    assert report.launches.products > report.launches.gelus
    assert capfd.readouterr() == ("", "")
    assert threading.active_count() == threads


@needs_rtx
@pytest.mark.parametrize("name", ["unified.onnx", "unified.fp16.onnx"])
def test_the_graph_of_both_lights_is_built_too(tiny_unified_bundle: Path, name: str) -> None:
    report = check_graph(tiny_unified_bundle / name)
    assert report.warnings == ()
    assert report.launches is not None
    assert lint(report.launches, tiny_unified_bundle / name, name) == []


@needs_rtx
def test_the_published_graph_is_built_too(tmp_path: Path) -> None:
    from export.straight import StraightExport
    from export.to_onnx import export_onnx
    from mip_edge.model.mip import MIP
    from mip_edge.model.options import MIPOptions

    # one layer: the builder takes seconds for each
    options = MIPOptions(width=32, heads=2, depth=3, image_size=(64, 32), prompt_length=4)
    spec = EmbedderSpec(Modality.VISIBLE, 64, 32, options.dimension, "0" * 64)
    path = tmp_path / "graph.onnx"
    module = StraightExport(MIP(options).eval(), Modality.VISIBLE)
    onnx.save(export_onnx(module, spec, metadata={}), str(path))
    report = check_graph(path)
    assert report.warnings == ()
    assert report.plan_bytes > 100_000


@needs_rtx
def test_float16_loses_no_fusion(gpu_graph: Any, tmp_path: Path) -> None:
    path = tmp_path / "visible.fp16.onnx"
    save_half(gpu_graph, path)
    report = check_graph(path)
    assert report.warnings == ()
    assert report.launches is not None
    assert report.launches.gelus == MLPS
    assert report.launches.residuals >= 2 * LAYERS - 1  # both sums of a block, but the first
    blocks = [name for name in report.launches.attended if "/attention/" in name]
    assert blocks == [f"blocks.{layer}/attention/Softmax" for layer in range(LAYERS)]
    assert lint(report.launches, path, "fp16") == []


@needs_rtx
@pytest.mark.parametrize("capabilities", [("8.0", "8.6", "8.9", "12.0"), ("7.5",)])
def test_every_quantized_map_stays_int8_beside_float16(
    gpu_graph: Any, tmp_path: Path, capabilities: tuple[str, ...]
) -> None:
    path = tmp_path / "visible.int8-fp16.onnx"
    save_half(quantized(gpu_graph), path)
    report = check_graph(path, capabilities=capabilities)
    assert report.warnings == ()
    assert report.launches is not None
    assert set(report.launches.quantized) == {
        f"blocks.{layer}/{path}/MatMul" for layer in range(LAYERS) for path in BLOCK_MAPS
    }
    # k and v of a block are one kernel
    assert report.launches.int8_products == LAYERS * (len(BLOCK_MAPS) - 1)
    assert lint(report.launches, path, "int8-fp16") == []


@needs_rtx
def test_every_quantized_map_stays_int8_beside_float32(gpu_graph: Any, tmp_path: Path) -> None:
    path = tmp_path / "visible.int8.onnx"
    onnx.save(quantized(gpu_graph), str(path))
    report = check_graph(path)
    assert report.warnings == ()
    assert report.launches is not None
    assert lint(report.launches, path, "int8") == []


@needs_rtx
def test_a_map_turned_back_and_an_attention_in_float32_are_told_as_lost(
    gpu_graph: Any, tmp_path: Path
) -> None:
    path = tmp_path / "visible.int8-fp16.onnx"
    back = quantized(gpu_graph, keep={"blocks.1/attention/k"})
    save_half(
        back, path, [f"blocks.0/attention/{node}" for node in ("MatMul", "Softmax", "MatMul_1")]
    )
    launches = check_graph(path).launches
    assert launches is not None
    assert lint_launches(launches, layers=LAYERS, precision="int8-fp16") == [
        "blocks.1/attention/k: computed in floating point instead of INT8",
        "blocks.0/attention: more than one kernel",
    ]
    # asked for what the graph itself quantizes, only the attention is lost
    assert lint(launches, path, "int8-fp16") == ["blocks.0/attention: more than one kernel"]


@needs_rtx
def test_one_plan_serves_several_compute_capabilities(product: Path) -> None:
    one = check_graph(product, capabilities=["8.6"])
    four = check_graph(product, capabilities=["8.0", "8.6", "12.0", "12.1"])
    assert one.launches is not None
    assert four.launches == one.launches
    assert one.launches.products == 1


@needs_rtx
def test_turing_takes_no_float32_product_and_says_which(product: Path) -> None:
    with pytest.raises(
        EngineError, match=r"'map' for Turing .*FP32.* --precision fp16 or int8-fp16"
    ):
        check_graph(product, capabilities=["7.5"])


@needs_rtx
def test_a_batch_of_one_at_most_is_a_legal_profile(product: Path) -> None:
    assert (
        read_launches(build_engine(product, BuildOptions(capabilities=("8.6",), max_batch=1)))
        is not None
    )


@needs_rtx
def test_a_foreign_operator_is_refused_by_its_node_and_name(tmp_path: Path) -> None:
    cast = onnx.helper.make_node("Cast", ["images"], ["numbers"], name="cast", to=1)
    foreign = onnx.helper.make_node(
        "FusedMatMul", ["numbers", "matrix"], ["embeddings"], name="blocks.0/mlp/fc1",
        domain="com.microsoft",
    )  # fmt: skip
    path = save_graph(tmp_path / "graph.onnx", [cast, foreign])
    with pytest.raises(EngineError, match=r"node blocks.0/mlp/fc1 \(FusedMatMul\): ") as refused:
        check_graph(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@needs_rtx
def test_an_operator_that_takes_no_uint8_is_refused_by_its_node(tmp_path: Path) -> None:
    turn = onnx.helper.make_node("Transpose", ["images"], ["turned"], name="turn", perm=[0, 1])
    cast = onnx.helper.make_node("Cast", ["turned"], ["numbers"], name="cast", to=1)
    product = onnx.helper.make_node("MatMul", ["numbers", "matrix"], ["embeddings"], name="map")
    path = save_graph(tmp_path / "graph.onnx", [turn, cast, product])
    with pytest.raises(EngineError, match=r"node turn \(Transpose\): .*UInt8") as refused:
        check_graph(path)
    assert "_src" not in str(refused.value)
    assert "cuda" not in str(refused.value)  # that no driver is here is not the fault


@needs_rtx
def test_missing_external_weights_are_named(product: Path, tmp_path: Path) -> None:
    alone = shutil.copy(product, tmp_path / "graph.onnx")
    with pytest.raises(EngineError, match=r"refuses \S+graph.onnx: \S.*weights.bin") as refused:
        check_graph(alone)
    assert "\n" not in str(refused.value)


@needs_rtx
def test_external_weights_cut_short_are_refused(product: Path, tmp_path: Path) -> None:
    cut = shutil.copytree(product.parent, tmp_path / "cut")
    (cut / "weights.bin").write_bytes(b"\x00" * 16)
    with pytest.raises(EngineError, match=r"refuses \S+graph.onnx: \S"):
        check_graph(cut / "graph.onnx")


@needs_rtx
@pytest.mark.parametrize("content", [b"", b"no graph at all"])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=f"refuses {path}: "):
        check_graph(path)


@needs_rtx
@pytest.mark.parametrize("shape", [{"crops": 2}, {"width": "pixels"}])
def test_only_the_number_of_crops_may_be_symbolic_and_it_must_be(
    tmp_path: Path, shape: dict[str, Any]
) -> None:
    cast = onnx.helper.make_node("Cast", ["images"], ["numbers"], name="cast", to=1)
    product = onnx.helper.make_node("MatMul", ["numbers", "matrix"], ["embeddings"], name="map")
    path = save_graph(tmp_path / "graph.onnx", [cast, product], **shape)
    with pytest.raises(EngineError, match=r"input images has shape \("):
        check_graph(path)


@needs_rtx
def test_a_missing_graph_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"absent.onnx is not there"):
        check_graph(tmp_path / "absent.onnx")


@needs_rtx
def test_an_unknown_capability_names_the_known_ones(product: Path) -> None:
    with pytest.raises(EngineError, match=r"-capability 8.7: .* 7.5, 8.0, 8.6, 8.9, 12.0, 12.1;"):
        check_graph(product, capabilities=["8.6", "8.7"])
    with pytest.raises(EngineError, match=r"no --compute-capability: .*7\.5, 8\.0"):
        check_graph(product, capabilities=[])


@needs_rtx
def test_a_fault_while_tensorrt_speaks_reaches_the_caller(
    product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting(list[Any]):
        def append(self, message: Any) -> None:
            raise KeyboardInterrupt

    real = build_trt._run

    def run(trt: Any, log: Any, *rest: Any) -> Any:
        log.messages = Interrupting()
        log.log(trt.ILogger.WARNING, "as the library calls it")
        return real(trt, log, *rest)

    monkeypatch.setattr(build_trt, "_run", run)
    with pytest.raises(KeyboardInterrupt):
        check_graph(product)


def test_ctrl_c_while_tensorrt_works_is_raised_when_it_has_returned() -> None:
    class Logger:
        """As the library's class: what is thrown through its C++ caller is lost."""

        ERROR, WARNING = 1, 2

    returned = []

    def build() -> None:
        with recording(SimpleNamespace(ILogger=Logger)) as log:
            with suppress(KeyboardInterrupt):  # the bindings
                signal.raise_signal(signal.SIGINT)
                log.log(Logger.WARNING, "as the library calls it")
            returned.append(True)

    # Not what this process began with: in the background of a shell that is to ignore it.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            build()
        assert returned
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, former)


@needs_rtx
def test_warnings_are_returned_but_for_the_advice_on_int64_inputs(
    product: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = build_trt._run

    def run(trt: Any, log: Any, *rest: Any) -> Any:
        log.log(trt.ILogger.WARNING, "ModelImporter.cpp:9: Make sure input m has Int64 binding.")
        log.log(trt.ILogger.WARNING, "ModelImporter.cpp:9: weights were\nrounded")
        log.log(trt.ILogger.INFO, "built")
        return real(trt, log, *rest)

    monkeypatch.setattr(build_trt, "_run", run)
    assert check_graph(product).warnings == ("weights were rounded",)
    build_engine(product, BuildOptions(capabilities=("8.6",)))
    assert caplog.messages == [f"{product}: weights were rounded"]


@pytest.mark.parametrize(("module", "extra"), [(RTX, "rtx"), ("tensorrt", "trt")])
def test_a_missing_library_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str
) -> None:
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(build_trt, "import_module", absent)
    with pytest.raises(EngineError, match=rf'not installed. pip install "mip-edge\[{extra}\]"'):
        check_graph(Path("graph.onnx"), module=module)


def test_a_library_that_lacks_a_module_of_its_own_is_not_called_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'gone'", name="gone")

    monkeypatch.setattr(build_trt, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="gone"):
        check_graph(Path("graph.onnx"))


def test_a_library_whose_shared_objects_are_missing_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(name: str) -> ModuleType:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(build_trt, "import_module", broken)
    with pytest.raises(EngineError, match=r"TensorRT is installed, but .*libnvinfer.*LD_LIBRARY"):
        check_graph(Path("graph.onnx"), module="tensorrt")


def test_a_compute_capability_that_the_library_does_not_take_is_told() -> None:
    config: Any = FakeConfig()
    config.set_compute_capability = lambda target, index: target.name != "SM120"
    targets = [SimpleNamespace(name=name) for name in ("SM86", "SM120")]
    fault = build_trt._configure(TRT, config, targets, BuildOptions(capabilities=("8.6", "12.0")))
    assert fault == "it does not take the compute capability SM120"
    assert config.num_compute_capabilities == 2


def test_a_library_that_builds_for_its_own_gpu_takes_no_capability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.3"))  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="leave --compute-capability out"):
        check_graph(Path("graph.onnx"), module="tensorrt")


def test_an_unknown_module_and_a_batch_of_none_are_refused() -> None:
    with pytest.raises(EngineError, match="unknown module 'tensorflow'; there are: "):
        check_graph(Path("graph.onnx"), module="tensorflow")
    with pytest.raises(OptionError, match="max_batch must be at least 1, got 0"):
        check_graph(Path("graph.onnx"), max_batch=0)


class FakeConfig:
    """What a builder's configuration of full TensorRT is asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.hardware_compatibility_level: Any = None

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.asked["pool"] = (pool, size)

    def set_flag(self, flag: str) -> None:
        self.asked["flag"] = flag

    def clear_flag(self, flag: str) -> None:
        self.asked["cleared"] = flag

    def create_timing_cache(self, content: bytes) -> Any:
        return None if content == b"damaged" else SimpleNamespace(content=content)

    def set_timing_cache(self, timing: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.asked["timing"] = timing.content
        return timing.content != b"of another GPU"


TRT: Any = SimpleNamespace(
    MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
    HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS="ampere"),
    BuilderFlag=SimpleNamespace(VERSION_COMPATIBLE="version", TF32="tf32"),
)


def test_tensorrt_is_told_every_option() -> None:
    config = FakeConfig()
    options = BuildOptions(
        "tensorrt", workspace_bytes=1 << 28, hardware_compatible=True, version_compatible=True
    )
    build_trt._configure(TRT, config, [], options)
    told = {"pool": ("workspace", 1 << 28), "flag": "version", "cleared": "tf32"}
    assert config.asked == told
    assert config.hardware_compatibility_level == "ampere"
    plain = FakeConfig()
    build_trt._configure(TRT, plain, [], BuildOptions("tensorrt"))
    assert plain.asked == {"cleared": "tf32"}
    assert plain.hardware_compatibility_level is None


@pytest.mark.parametrize(
    ("content", "used"),
    [(None, b""), (b"times", b"times"), (b"of another GPU", b""), (b"damaged", b"")],
)
def test_times_of_kernels_are_taken_up_unless_they_are_of_another_gpu(
    tmp_path: Path, content: bytes | None, used: bytes
) -> None:
    path, config = tmp_path / "kernels.timing", FakeConfig()
    if content is not None:
        path.write_bytes(content)
    timing = build_trt._attach_timing(config, path)
    assert timing.content == config.asked["timing"] == used
    assert build_trt._attach_timing(config, None) is None


def test_times_of_kernels_that_cannot_be_kept_cost_no_plan(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    timing = SimpleNamespace(serialize=lambda: b"times")
    build_trt._keep_timing(timing, tmp_path / "kernels.timing")
    assert (tmp_path / "kernels.timing").read_bytes() == b"times"
    build_trt._keep_timing(timing, tmp_path / "absent" / "kernels.timing")
    assert "kernels.timing cannot be written" in caplog.text


@pytest.mark.parametrize("option", ["hardware_compatible", "version_compatible", "timing_cache"])
def test_tensorrt_rtx_refuses_what_it_cannot_do(option: str) -> None:
    with pytest.raises(EngineError, match=f"TensorRT-RTX has no {option}: .* --engine tensorrt$"):
        check_options(BuildOptions(capabilities=("8.6",), **{option: Path("kernels.timing")}))


def test_a_compute_capability_that_nothing_builds_for_is_refused_by_its_option() -> None:
    with pytest.raises(EngineError) as caught:
        check_options(BuildOptions(capabilities=("8.6", "x")))
    assert str(caught.value) == (
        "--compute-capability x: TensorRT-RTX builds ahead of time for 7.5, 8.0, 8.6, 8.9, 12.0, "
        "12.1; choose among those"
    )


@pytest.mark.parametrize("module", [RTX, "tensorrt"])
def test_a_dla_is_refused_with_the_reason(module: str) -> None:
    with pytest.raises(EngineError, match="DLA.* has no layer norm, no GELU and no attention"):
        check_options(BuildOptions(module, dla=True))


def test_a_workspace_of_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match="--workspace must be more than 0 bytes, got 0"):
        check_options(BuildOptions(workspace_bytes=0))


@pytest.mark.parametrize(("largest", "batches"), [(32, (1, 8, 32)), (8, (1, 8, 8)), (2, (1, 2, 2))])
def test_the_profile_is_best_at_eight_crops_or_at_fewer(
    largest: int, batches: tuple[int, int, int]
) -> None:
    assert BuildOptions(max_batch=largest).batches == batches


@needs_rtx
def test_a_workspace_limit_is_taken(product: Path) -> None:
    options = BuildOptions(capabilities=("8.6",), workspace_bytes=1 << 24)
    assert read_launches(build_engine(product, options)) is not None


def test_a_library_without_a_gpu_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Logger:
        ERROR, INTERNAL_ERROR, WARNING = 1, 0, 2

        def log(self, severity: int, text: str) -> None: ...

    def builder(log: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    library: Any = SimpleNamespace(__version__="10.3.0", ILogger=Logger, Builder=builder)
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    path = tmp_path / "graph.onnx"
    path.touch()
    with pytest.raises(EngineError, match=r"TensorRT 10.3.0 refuses \S+: there is no GPU"):
        build_engine(path, BuildOptions("tensorrt"))


@needs_rtx
@pytest.mark.base
@pytest.mark.skipif(
    "MIP_EDGE_TEST_BASE" not in os.environ, reason="asked for: MIP_EDGE_TEST_BASE=1"
)
def test_base_builds(tmp_path: Path) -> None:
    import torch

    from export.form import Form
    from export.half import to_half
    from export.to_onnx import export_onnx, share_weights, write_files
    from export.wrapper import ExportedMIP
    from mip_edge.model.mip import MIP
    from mip_edge.model.options import PRESETS, MIPOptions

    torch.manual_seed(11)
    options = MIPOptions(**PRESETS["base"])
    model = MIP(options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape))
    spec = EmbedderSpec(Modality.VISIBLE, *options.image_size, options.dimension, "0" * 64)
    module = ExportedMIP(model, Modality.VISIBLE, form=Form().for_gpu())
    whole = export_onnx(module, spec, metadata={})
    blocks = options.depth - 2
    for precision, graph in (("fp16", whole), ("int8-fp16", quantized(whole))):
        path = tmp_path / f"visible.{precision}.onnx"
        write_files(
            tmp_path, share_weights({path.name: to_half(graph)}, f"weights.{precision}.bin")
        )
        report = check_graph(path)
        content = path.read_bytes()
        assert report.warnings == ()
        assert report.launches is not None
        assert count_blocks(content) == blocks
        assert lint_launches(report.launches, layers=blocks, precision=precision) == []
