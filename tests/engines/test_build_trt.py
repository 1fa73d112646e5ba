"""Every graph we write passes NVIDIA's parser and builder, and keeps what they fuse."""

from __future__ import annotations

import shutil
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import build_trt
from engines.build_trt import RTX, Launches, build_engine, check_graph, read_launches
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
    assert report.launches.gelus == MLPS
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
    assert report.launches.gelus == MLPS


@needs_rtx
@pytest.mark.parametrize("surgery", ["none", "cpu"])
def test_other_forms_of_the_graph_are_built_too(tmp_path: Path, surgery: str) -> None:
    from export.form import form_of
    from export.straight import StraightExport
    from export.to_onnx import export_onnx
    from export.wrapper import ExportedMIP
    from mip_edge.model.mip import MIP
    from mip_edge.model.options import MIPOptions

    # one layer: the builder takes seconds for each
    options = MIPOptions(width=32, heads=2, depth=3, image_size=(64, 32), prompt_length=4)
    model, form = MIP(options).eval(), form_of(surgery)
    module: ExportedMIP | StraightExport = StraightExport(model, Modality.VISIBLE)
    if form is not None:
        module = ExportedMIP(model, Modality.VISIBLE, form=form)
    spec = EmbedderSpec(Modality.VISIBLE, 64, 32, options.dimension, "0" * 64)
    path = tmp_path / "graph.onnx"
    onnx.save(export_onnx(module, spec, metadata={}), str(path))
    report = check_graph(path)
    assert report.warnings == ()
    assert report.plan_bytes > 100_000


@needs_rtx
def test_float16_attention_is_one_kernel_a_block(tiny_bundle: Path, tmp_path: Path) -> None:
    from export.half import to_half

    path = tmp_path / "visible.fp16.onnx"
    onnx.save(to_half(onnx.load(str(tiny_bundle / "visible.onnx"))), str(path))
    report = check_graph(path)
    assert report.warnings == ()
    assert report.launches is not None
    blocks = [name for name in report.launches.attended if "/attention/" in name]
    assert blocks == [f"blocks.{layer}/attention/Softmax" for layer in range(LAYERS)]
    assert report.launches.gelus == MLPS
    assert report.launches.residuals >= 2 * LAYERS  # both sums of a block


@needs_rtx
def test_one_plan_serves_several_compute_capabilities(product: Path) -> None:
    one = check_graph(product, capabilities=["8.6"])
    four = check_graph(product, capabilities=["8.0", "8.6", "12.0", "12.1"])
    assert one.launches is not None
    assert four.launches == one.launches
    assert one.launches.products == 1


@needs_rtx
def test_turing_takes_no_float32_product_and_says_which(product: Path) -> None:
    with pytest.raises(EngineError, match=r"'map' for Turing .*FP32"):
        check_graph(product, capabilities=["7.5"])


@needs_rtx
def test_a_batch_of_one_at_most_is_a_legal_profile(product: Path) -> None:
    assert read_launches(build_engine(product, max_batch=1)) is not None


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
    with pytest.raises(EngineError, match=r"'8.7'.*: 7.5, 8.0, 8.6, 8.9, 12.0, 12.1$"):
        check_graph(product, capabilities=["8.6", "8.7"])
    with pytest.raises(EngineError, match=r"no compute capability"):
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
    build_engine(product)
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


def test_a_library_that_builds_for_its_own_gpu_takes_no_capability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.3"))  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="leave `capabilities` empty"):
        check_graph(Path("graph.onnx"), module="tensorrt")


def test_an_unknown_module_and_a_batch_of_none_are_refused() -> None:
    with pytest.raises(EngineError, match="unknown module 'tensorflow'; there are: "):
        check_graph(Path("graph.onnx"), module="tensorflow")
    with pytest.raises(OptionError, match="max_batch must be at least 1, got 0"):
        check_graph(Path("graph.onnx"), max_batch=0)


def test_launches_are_told_apart_by_the_steps_in_their_names() -> None:
    plan = b"\x00header {\n" + b"\x07".join(
        b"\n  " + entry
        for entry in (
            (
                b'function={ name=_gemm_mha_v2 layers="[ONNX Layer: blocks.0/attention/MatMul]\n'
                b'[ONNX Layer: blocks.0/attention/Softmax]" }'
            ),
            b"runtime_fusion={ name=__myl_FcAddDivErfAddMulMul input_args={ } }",
            b"runtime_fusion={ name=__myl_FcAddDivCastErfCastAddMulMul input_args={ } }",
            b"runtime_fusion={ name=__myl_FcAddMulMulMulAddMulTanhAddMulMul input_args={ } }",
            b"runtime_fusion={ name=__myl_FcAddAdd input_args={ } }",
            b"runtime_fusion={ name=__myl_FcAdd input_args={ } }",
            b'fully_connected={ name="blocks.0/attention/q/MatMul" output={ } }',
            b'corrltn={ name="patches/Conv" output={ } }',
            b"function={ name=__myl_AddAddMeanSubMulMean fqn=__myl_AddAddMeanSubMulMean_0x1 }",
            b"mul={ name=shape }",
            b"signal={ name=event }",
        )
    )
    launches = read_launches(plan)
    assert launches == Launches(
        attentions=1,
        gelus=3,
        residuals=1,
        products=3,
        other=1,
        attended=("blocks.0/attention/Softmax",),
    )
    assert launches.total == 9
    assert read_launches(memoryview(plan)) == launches


@given(st.binary())
def test_a_plan_without_a_list_has_no_launches(plan: bytes) -> None:
    assert read_launches(plan) is None
