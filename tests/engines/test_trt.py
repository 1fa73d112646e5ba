"""TensorRT from open to close on stand-ins of the library and the device, and without a GPU."""

from __future__ import annotations

import inspect
import itertools
import logging
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engines.trt
from engines.build_trt import RTX, BuildOptions, build_engine
from engines.cache import EngineCache
from engines.cuda import CudaError, find_no_gpu
from engines.cuda_fake import FakeDevice
from engines.plan import read_plan
from engines.table import open_engine, open_unified
from engines.trt import RtxBackend
from engines.trt_runner import MAX_GRAPHS, Runner
from mip_edge.artifact import open_bundle
from mip_edge.errors import EngineError, OptionError
from mip_edge.spec import Batch, EmbedderSpec, Modality
from tests.engines import trt_fakes
from tests.engines.trt_fakes import FakeTrt, write_plan

ROW = (4, 2, 3)
DIMENSION = 8
SPECS = {Modality.VISIBLE: EmbedderSpec(Modality.VISIBLE, 4, 2, DIMENSION, "f" * 64)}
BOTH = {**SPECS, Modality.INFRARED: EmbedderSpec(Modality.INFRARED, 4, 2, DIMENSION, "f" * 64)}
GIVING_BACK = {"free", "unpin", "destroy_stream", "destroy_graph"}


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[FakeDevice]:
    """Whose memory no other test shares; a test that leaves anything on it fails."""
    made = FakeDevice(name=request.node.nodeid)
    yield made
    assert made.held() == {}
    assert made.entered == 0


def open_runner(
    device: FakeDevice, trt: FakeTrt | None = None, plan: bytes | None = None, **options: Any
) -> Runner:
    plan = write_plan(ROW, DIMENSION) if plan is None else plan
    trt = trt or FakeTrt(device)
    return Runner(trt, plan, SPECS, device, what="the plan of a test", **options)


def make_crops(count: int, seed: int = 0) -> Batch:
    return np.random.default_rng(seed).integers(0, 256, (count, *ROW), dtype=np.uint8)


def check(runner: Runner, count: int, seed: int = 0) -> None:
    crops = make_crops(count, seed)
    expected = trt_fakes.embed(crops, DIMENSION)
    np.testing.assert_array_equal(runner.embed({"images": crops}), expected)


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(1, 32), max_size=14),
    graphs=st.booleans(),
    compiles=st.booleans(),
    old=st.booleans(),
)
def test_every_order_of_batch_sizes_gives_what_the_plan_computes(
    counts: list[int], graphs: bool, compiles: bool, old: bool
) -> None:
    device = FakeDevice(name="of every order")
    runner = open_runner(device, FakeTrt(device, compiles=compiles, old=old), cuda_graphs=graphs)
    for seed, count in enumerate(counts):
        check(runner, count, seed)
    wanted = min(MAX_GRAPHS, len({1, *counts})) - (1 not in counts) if graphs else 0
    assert device.count("begin_capture") == max(wanted, 0)
    runner.close()
    assert device.held() == {}


def test_a_graph_is_captured_once_a_batch_size_and_then_launched(device: FakeDevice) -> None:
    runner = open_runner(device)
    for count in (3, 3, 5, 3, 5, 5):
        check(runner, count, seed=count)
    assert device.count("begin_capture") == 2
    assert device.count("launch") == 4
    runner.close()


def test_nothing_is_allocated_after_the_open(device: FakeDevice) -> None:
    runner = open_runner(device)
    taken = {call: device.count(call) for call in ("allocate", "pin", "create_stream")}
    assert taken == {"allocate": 3, "pin": 2, "create_stream": 1}
    for count in (32, 1, 7, 32):
        check(runner, count)
    assert {call: device.count(call) for call in taken} == taken
    runner.close()


def test_batch_sizes_beyond_the_bound_run_without_a_graph(
    device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    runner = open_runner(device)
    with caplog.at_level(logging.INFO):
        for count in [*range(1, MAX_GRAPHS + 3)] * 2:
            check(runner, count)
    assert device.count("begin_capture") == MAX_GRAPHS
    assert device.count("launch") == MAX_GRAPHS
    assert [record.getMessage() for record in caplog.records] == [
        f"the plan of a test: {MAX_GRAPHS} batch sizes have a CUDA graph, others run without"
    ]
    runner.close()


def test_where_capture_fails_one_line_says_so_and_all_goes_on(
    device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    runner = open_runner(device)
    check(runner, 2)
    device.failing = lambda call: (
        "cudaErrorStreamCaptureInvalidated" if call == "end_capture" else None
    )
    for count in (3, 2, 4):
        check(runner, count)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no CUDA graphs" in record.getMessage()
    assert "cudaErrorStreamCaptureInvalidated" in record.getMessage()
    assert device.count("launch") == 0
    runner.close()


def test_what_cannot_be_captured_is_not_tried(caplog: pytest.LogCaptureFixture) -> None:
    device = FakeDevice(name="capturing nothing", captures=False)
    runner = open_runner(device)
    check(runner, 2)
    runner.close()
    trt = FakeTrt(device := FakeDevice(name="capturing"), compiles=True)
    trt.capturable = False
    runner = open_runner(device, trt)
    check(runner, 2)
    runner.close()
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "the fake device captures none",
        "the runtime says that this plan cannot be captured",
    ]
    assert "begin_capture" not in device.calls


def test_a_context_that_fails_later_costs_the_graphs_only(
    device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    trt = FakeTrt(device)
    runner = open_runner(device, trt)
    check(runner, 1)
    trt.refuses = lambda step: step == "context"
    check(runner, 2)
    check(runner, 1)
    assert "making an execution context: no context today" in caplog.text
    assert len(caplog.records) == 1
    runner.close()


def test_two_engines_compute_in_one_block_of_the_larger_size(device: FakeDevice) -> None:
    sizes = (4096, 1 << 20)
    first = open_runner(device, plan=write_plan(ROW, DIMENSION, memory=sizes[0]))
    check(first, 3)
    check(first, 3)
    second = open_runner(device, plan=write_plan(ROW, DIMENSION, memory=sizes[1]))
    buffers = 2 * 32 * (4 * 2 * 3 + 4 * DIMENSION)
    with device.current():
        assert device.total - device.memory()[0] == buffers + max(sizes)
    launched = device.count("launch")
    for count in (3, 1, 3):  # the block has moved: the graph of 3 is captured anew
        check(first, count)
        check(second, count)
    assert device.count("launch") == launched + 2
    first.close()
    check(second, 5)
    second.close()


def test_a_block_that_cannot_grow_leaves_the_first_engine_as_it_was(device: FakeDevice) -> None:
    first = open_runner(device)
    check(first, 3)
    with pytest.raises(CudaError, match="out of memory") as caught:
        open_runner(device, plan=write_plan(ROW, DIMENSION, memory=device.total))
    assert caught.value.name == "cudaErrorMemoryAllocation"
    assert "smaller max_batch" in str(caught.value)
    check(first, 3)
    first.close()


def test_engines_of_several_threads_do_not_disturb_each_other(device: FakeDevice) -> None:
    runners = [open_runner(device), open_runner(device)]
    faults: list[BaseException] = []

    def work(runner: Runner, seed: int) -> None:
        try:
            for count in range(1, 12):
                check(runner, count, seed)
        except BaseException as fault:
            faults.append(fault)

    threads = [
        threading.Thread(target=work, args=(runners[number % 2], number)) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    for runner in runners:
        runner.close()


@pytest.mark.parametrize("compiles", [False, True], ids=["tensorrt", "tensorrt-rtx"])
def test_contexts_end_before_their_engine_and_the_engine_before_its_runtime(
    device: FakeDevice, compiles: bool
) -> None:
    trt = FakeTrt(device, compiles=compiles)
    runner = open_runner(device, trt)
    for count in (1, 2, 3):
        check(runner, count)
    device.calls.clear()
    runner.close()
    ended = [event for event in trt.events if event.startswith("-")]
    assert ended == ["-context"] * 3 + ["-engine", "-runtime"]
    given_back = [call for call in device.calls if call in GIVING_BACK]
    assert given_back == [
        "destroy_graph", "destroy_graph", "destroy_graph", "free",
        "unpin", "free", "unpin", "free", "destroy_stream",
    ]  # fmt: skip
    assert device.calls.index("synchronize") < device.calls.index("destroy_graph")


def test_a_step_that_fails_leaves_nothing_behind() -> None:
    for last in range(6):  # the stream, twice device and pinned memory, the shared block
        device = FakeDevice(name=f"failing at step {last}")
        steps = itertools.count()

        def fail(call: str, steps: Iterator[int] = steps, last: int = last) -> str | None:
            if call in {*GIVING_BACK, "memory", "current"}:
                return None
            return "cudaErrorUnknown" if next(steps) == last else None

        device.failing = fail
        trt = FakeTrt(device)
        with pytest.raises(CudaError, match="cudaErrorUnknown while"):
            open_runner(device, trt)
        assert device.held() == {}, f"after step {last} of {device.calls}"
        assert trt.events == ["+runtime", "+engine", "-engine", "-runtime"]
    assert device.count("allocate") == 3


def test_a_close_that_fails_half_way_gives_back_the_rest() -> None:
    device = FakeDevice(name="failing at the end")
    runner = open_runner(device)
    check(runner, 2)
    device.failing = lambda call: "cudaErrorIllegalAddress" if call == "synchronize" else None
    with pytest.raises(CudaError, match="cudaErrorIllegalAddress.*start the program anew"):
        runner.close()
    assert set(device.held()) <= {"graphs"}


def test_an_execution_that_is_refused_names_the_reason_and_the_way_out(device: FakeDevice) -> None:
    trt = FakeTrt(device)
    runner = open_runner(device, trt)
    trt.refuses = lambda step: step == "execute"
    with pytest.raises(EngineError, match="running 4 crops:.*out of memory.*smaller max_batch"):
        check(runner, 4)
    trt.refuses = lambda step: False
    check(runner, 4)
    runner.close()


def test_a_refusal_is_not_told_by_the_reason_of_an_older_one(device: FakeDevice) -> None:
    trt = FakeTrt(device)
    runner = open_runner(device, trt)
    trt.refuses = lambda step: step == "context"
    check(runner, 2)  # costs the graphs
    trt.refuses = lambda step: step == "execute"
    with pytest.raises(EngineError, match="running 4 crops: ") as caught:
        check(runner, 4)
    assert "no context today" not in str(caught.value)
    runner.close()


def test_a_plan_that_is_none_says_the_first_reason(device: FakeDevice) -> None:
    with pytest.raises(EngineError) as caught:
        open_runner(device, plan=b"no plan")
    assert str(caught.value) == (
        "the plan of a test is refused: magicTag does not match; it was built for another GPU or "
        "version, or is damaged. Clear it with: mip-edge cache clear"
    )


@pytest.mark.skipif(
    find_no_gpu() is None or "no NVIDIA driver" not in str(find_no_gpu()),
    reason="there is a driver here",
)
def test_the_library_itself_refuses_without_a_driver_and_leaves_nothing(
    device: FakeDevice, tmp_path: Path
) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    onnx = pytest.importorskip("onnx", reason="onnx writes the graph")
    helper, kinds = onnx.helper, onnx.TensorProto
    weights = np.ones((24, DIMENSION), np.float16)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["half"], to=kinds.FLOAT16),
            helper.make_node("Flatten", ["half"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["sums"]),
            helper.make_node("Cast", ["sums"], ["embeddings"], to=kinds.FLOAT),
        ],
        "sums",
        [helper.make_tensor_value_info("images", kinds.UINT8, ["n", *ROW])],
        [helper.make_tensor_value_info("embeddings", kinds.FLOAT, ["n", DIMENSION])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    path = tmp_path / "sums.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]), path)
    plan = build_engine(path, BuildOptions(module=RTX, capabilities=("8.6",)))
    with pytest.raises(EngineError, match="driver version is insufficient.*; update the NVIDIA"):
        Runner(trt, plan, SPECS, device, what="a plan of the library")


@pytest.mark.parametrize(
    ("plan", "found"),
    [
        (write_plan((4, 2, 1), DIMENSION), r"input images uint8 \(-1, 4, 2, 1\), expected"),
        (write_plan(ROW, 9), r"output embeddings float32 \(-1, 9\)"),
        (write_plan(ROW, DIMENSION, unified=True), r"input modality int64 \(-1,\), expected"),
    ],
)
def test_a_plan_of_another_bundle_is_refused(device: FakeDevice, plan: bytes, found: str) -> None:
    with pytest.raises(EngineError, match=f"another bundle: it has .*{found}.*mip-edge cache"):
        open_runner(device, plan=plan)


def test_what_embed_returns_belongs_to_the_caller(device: FakeDevice) -> None:
    runner = open_runner(device)
    first = runner.embed({"images": make_crops(2, seed=1)})
    kept = first.copy()
    check(runner, 2, seed=2)
    np.testing.assert_array_equal(first, kept)
    assert first.base is None
    assert first.flags.writeable
    runner.close()


def test_a_unified_plan_gets_the_modality_of_each_crop(device: FakeDevice) -> None:
    plan = write_plan(ROW, DIMENSION, unified=True)
    runner = Runner(FakeTrt(device), plan, BOTH, device, what="the plan of both")
    crops, rows = make_crops(5), np.array([1, 0, 0, 1, 0], np.int64)
    for _ in range(2):  # the second is a launch of the graph
        np.testing.assert_array_equal(
            runner.embed({"images": crops, "modality": rows}),
            trt_fakes.embed(crops, DIMENSION, rows),
        )
    assert device.count("launch") == 1
    runner.close()


def test_kernels_compiled_once_are_not_compiled_again(
    device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    first = FakeTrt(device, compiles=True)
    runner = open_runner(device, first)
    kernels = runner.compile_kernels({8, 1})
    runner.close()
    assert first.compiled == [1, 8]
    again = FakeTrt(device, compiles=True)
    runner = open_runner(device, again, kernels=kernels)
    for count in (1, 8, 3):
        check(runner, count)
    runner.close()
    assert again.compiled == [3]
    assert caplog.records == []
    runner = open_runner(device, again, kernels=b"of another driver")
    assert "kernels compiled before do not fit" in caplog.text
    runner.close()


@pytest.fixture
def built() -> list[str]:
    """Graphs that a plan was built of, in their order."""
    return []


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def engine(
    request: pytest.FixtureRequest,
    device: FakeDevice,
    built: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> str:
    """One of the two engines, with the device, the library and its builder played by stand-ins."""
    name: str = request.param
    trt = FakeTrt(device, compiles=name == "tensorrt-rtx")

    def build(graph: Path, options: Any) -> bytes:
        assert graph.is_file()
        built.append(graph.name)
        light, _, _ = graph.name.partition(".")
        return write_plan(
            (64, 32, 1 if light == "infrared" else 3), 5 * 48,
            unified=light == "unified", max_batch=options.max_batch,
        )  # fmt: skip

    monkeypatch.setenv("MIP_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("engines.table.find_missing", lambda engine: None)
    monkeypatch.setattr("engines.trt.open_device", lambda kind: device)
    monkeypatch.setattr("engines.trt._library", lambda module: trt)
    monkeypatch.setattr("engines.plan.library_version", lambda module: trt_fakes.VERSION)
    monkeypatch.setattr("engines.trt.read_plan", partial(read_plan, build=build))
    return name


def test_an_engine_opens_embeds_and_closes(
    engine: str, tiny_bundle: Path, device: FakeDevice, built: list[str]
) -> None:
    for opening in range(2):
        for modality in Modality:
            with open_engine(tiny_bundle, modality=modality, engine=engine, threads=1) as opened:
                shape = (70, *opened.spec.batch_shape)
                batch = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
                expected = trt_fakes.embed(batch, 5 * 48)
                np.testing.assert_allclose(opened.embed(batch), expected, atol=1e-6)
                assert opened.embed(batch[:0]).shape == (0, 240)
            assert device.held() == {}
        assert built == ["visible.onnx", "infrared.onnx"], f"opening {opening + 1}"


def test_a_smaller_maximum_is_a_plan_of_its_own(
    engine: str, tiny_bundle: Path, built: list[str]
) -> None:
    for most in (32, 4, 32):
        with open_engine(
            tiny_bundle, modality=Modality.VISIBLE, engine=engine, max_batch=most
        ) as opened:
            batch = np.random.default_rng(2).integers(0, 256, (9, 64, 32, 3), np.uint8)
            expected = trt_fakes.embed(batch, 5 * 48)
            np.testing.assert_allclose(opened.embed(batch), expected, atol=1e-6)
    assert len(built) == 2


def test_mixed_crops_go_through_one_plan(
    engine: str, tiny_unified_bundle: Path, built: list[str]
) -> None:
    batch = np.random.default_rng(3).integers(0, 256, (3, 64, 32, 3), np.uint8)
    batch[1] = batch[1][..., :1]
    light = [Modality.VISIBLE, Modality.INFRARED, Modality.VISIBLE]
    with open_unified(tiny_unified_bundle, engine=engine, precision="fp16") as opened:
        expected = trt_fakes.embed(batch, 240, np.array([1, 0, 1], np.int64))
        np.testing.assert_allclose(opened.embed(batch, light), expected, atol=1e-6)
    assert built == ["unified.fp16.onnx"]


@pytest.mark.parametrize("engine", ["tensorrt-rtx"], indirect=True)
def test_a_plan_built_ahead_for_several_gpus_serves_this_one(
    engine: str, tiny_bundle: Path, built: list[str]
) -> None:
    options = BuildOptions(module=RTX, capabilities=("12.0", "8.6"))
    bundle = open_bundle(tiny_bundle)
    engines.trt.read_plan(bundle, Modality.VISIBLE, "fp32", options, cache=EngineCache())
    assert len(built) == 1
    open_engine(bundle, modality=Modality.VISIBLE, engine=engine).close()
    assert len(built) == 1


@pytest.mark.parametrize("engine", ["tensorrt-rtx"], indirect=True)
def test_kernels_are_kept_for_each_plan_apart(engine: str, tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    open_engine(bundle, modality=Modality.VISIBLE, engine=engine).close()
    options = BuildOptions(module=RTX, capabilities=("8.6", "12.0"))
    engines.trt.read_plan(bundle, Modality.VISIBLE, "fp32", options, cache=EngineCache())
    open_engine(bundle, modality=Modality.VISIBLE, engine=engine).close()
    kernels = {entry.key.options for entry in EngineCache().list()} - {""}
    assert kernels == {
        "kernels of the plan for compute capability 8.6",
        "kernels of the plan for compute capability 8.6, 12.0",
    }


@pytest.mark.parametrize("engine", ["tensorrt-rtx"], indirect=True)
def test_a_gpu_that_rtx_does_not_know_names_the_engine_for_it(
    engine: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hopper = FakeDevice(name="NVIDIA H200", capability="9.0")
    monkeypatch.setattr("engines.trt.open_device", lambda kind: hopper)
    with pytest.raises(EngineError, match=r"H200, compute capability 9\.0.*--engine tensorrt"):
        open_engine(tiny_bundle, modality=Modality.VISIBLE, engine=engine)


def test_options_are_told_apart(engine: str, tiny_bundle: Path) -> None:
    with pytest.raises(OptionError, match="max_batch=0: expected a whole number from 1"):
        open_engine(tiny_bundle, modality=Modality.VISIBLE, engine=engine, max_batch=0)
    with pytest.raises(OptionError, match="cuda=opencl: expected bindings, pycuda"):
        open_engine(tiny_bundle, modality=Modality.VISIBLE, engine=engine, cuda="opencl")
    if engine == "tensorrt":
        with pytest.raises(EngineError, match="DLA.*no layer norm, no GELU.*leave"):
            open_engine(tiny_bundle, modality=Modality.VISIBLE, engine=engine, dla=True)


LIBRARY = {
    "ICudaEngine": {
        "create_execution_context", "create_runtime_config", "device_memory_size_v2",
        "get_tensor_dtype", "get_tensor_mode", "get_tensor_name", "get_tensor_profile_shape",
        "get_tensor_shape", "num_io_tensors",
    },
    "IExecutionContext": {
        "execute_async_v3", "is_stream_capturable", "set_device_memory", "set_input_shape",
        "set_tensor_address",
    },
    "IRuntimeConfig": {
        "create_runtime_cache", "dynamic_shapes_kernel_specialization_strategy",
        "set_execution_context_allocation_strategy", "set_runtime_cache",
    },
    "IRuntimeCache": {"deserialize", "serialize"},
    "Runtime": {"deserialize_cuda_engine", "engine_host_code_allowed"},
    "ExecutionContextAllocationStrategy": {"USER_MANAGED"},
    "DynamicShapesKernelSpecializationStrategy": {"EAGER"},
    "TensorIOMode": {"INPUT"},
}  # fmt: skip
"""All that the runner calls, by class: the stand-ins have no more, and TensorRT-RTX has it."""
OLDER = {"device_memory", "device_memory_size"}
"""Of TensorRT before 10.1."""


@pytest.mark.parametrize("kind", LIBRARY)
def test_what_the_runner_calls_exists_in_tensorrt_rtx(kind: str) -> None:
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    assert {name for name in LIBRARY[kind] if not hasattr(getattr(trt, kind), name)} == set()


def test_the_runner_calls_nothing_else_of_the_library() -> None:
    text = Path(inspect.getfile(Runner)).read_text()
    called = set(
        re.findall(r"(?:_engine|context|config|runtime|store|_compiled)\.([a-z]\w+)", text)
    )
    assert called - OLDER - {"items"} <= set.union(*LIBRARY.values())


@pytest.mark.skipif(find_no_gpu() is None, reason="there is a GPU here")
def test_without_a_gpu_rtx_says_so_in_one_line_with_the_way_out(tiny_bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    way = "no NVIDIA driver.*--engine onnxruntime|cudaErrorNoDevice|is installed.*pip install"
    with pytest.raises(EngineError, match=way) as caught:
        open_engine(tiny_bundle, modality=Modality.VISIBLE, engine="tensorrt-rtx")
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match=way):
        RtxBackend.open(open_bundle(tiny_bundle), Modality.VISIBLE, threads=None, precision="fp32")
