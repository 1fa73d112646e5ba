"""Device operations: every call exists, every error has a name and a way out, memory is shared."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engines import cuda_bindings
from engines.arena import Arena, shared_arena
from engines.cuda import CudaError, Device, DeviceFacts, driver_error, find_no_gpu, open_device
from engines.cuda_bindings import BindingsDevice
from engines.cuda_fake import FakeDevice
from engines.cuda_pycuda import PycudaDevice
from mip_edge.errors import EngineError, OptionError

NO_GPU = find_no_gpu()
CALLS = sorted(set(re.findall(r"\b(cuda[A-Z]\w+)", Path(cuda_bindings.__file__).read_text())))


@pytest.fixture(scope="module")
def runtime() -> Any:
    return pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")


def test_the_calls_of_the_bindings_are_found() -> None:
    assert {"cudaMalloc", "cudaGraphLaunch", "cudaMemcpyHostToDevice"} <= set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_every_call_and_constant_exists_in_cuda_bindings(runtime: Any, name: str) -> None:
    enumerations = [
        runtime, runtime.cudaError_t, runtime.cudaMemcpyKind, runtime.cudaDeviceAttr,
        runtime.cudaStreamCaptureMode,
    ]  # fmt: skip
    assert any(hasattr(place, name) for place in enumerations)


@pytest.mark.skipif(NO_GPU is None, reason="there is a GPU here")
def test_without_a_driver_every_operation_is_a_named_error(runtime: Any) -> None:
    device = BindingsDevice.__new__(BindingsDevice)
    device._cuda = runtime
    pinned = np.zeros(4, np.uint8)
    operations = {
        "taking 1 MiB of GPU memory": lambda: device.allocate(1 << 20),
        "taking 2 MiB of page-locked memory": lambda: device.pin(1 << 21),
        "making a stream": device.create_stream,
        "copying to the GPU": lambda: device.upload(4096, pinned, 7),
        "copying from the GPU": lambda: device.download(pinned, 4096, 7),
        "waiting for the GPU": lambda: device.synchronize(7),
        "beginning a CUDA graph": lambda: device.begin_capture(7),
        "launching a CUDA graph": lambda: device.launch(7, 7),
        "giving a CUDA graph back": lambda: device.destroy_graph(7),
        "giving GPU memory back": lambda: device.free(4096),
        "giving page-locked memory back": lambda: device.unpin(pinned),
        "ending a stream": lambda: device.destroy_stream(7),
        "choosing the GPU": lambda: device.current().__enter__(),
    }
    for doing, operation in operations.items():
        with pytest.raises(CudaError, match=f"^cudaError[A-Z]\\w+ while {doing}: "):
            operation()


class FakeRuntime(SimpleNamespace):
    """`cuda.bindings.runtime` on a fake device: its own constants, tuples with a code in front."""

    def __init__(self, runtime: Any, device: FakeDevice, *, devices: int = 1) -> None:
        good = runtime.cudaError_t.cudaSuccess
        kinds = runtime.cudaMemcpyKind
        held: dict[int, Any] = {}

        def allocate(size: int) -> tuple[Any, ...]:
            try:
                return good, device.allocate(size)
            except CudaError:
                return runtime.cudaError_t.cudaErrorMemoryAllocation, None

        def pin(size: int) -> tuple[Any, int]:
            pinned = device.pin(size)
            held[pinned.ctypes.data] = pinned
            return good, pinned.ctypes.data

        def copy(target: int, source: int, size: int, kind: Any, stream: int) -> tuple[Any]:
            if kind == kinds.cudaMemcpyHostToDevice:
                device.upload(target, held[source][:size], stream)
            else:
                assert kind == kinds.cudaMemcpyDeviceToHost
                device.download(held[target][:size], source, stream)
            return (good,)

        def done(call: Any) -> Any:
            return lambda *arguments: (call(*arguments), (good,))[1]

        def gives(call: Any) -> Any:
            return lambda *arguments: (good, call(*arguments))

        super().__init__(
            **{name: getattr(runtime, name) for name in (
                "cudaError_t", "cudaMemcpyKind", "cudaDeviceAttr", "cudaStreamCaptureMode",
                "cudaStreamNonBlocking", "cudaGetErrorName", "cudaGetErrorString",
            )},
            cudaGetLastError=lambda: (good,),
            cudaRuntimeGetVersion=lambda: (good, 13050),
            cudaDriverGetVersion=lambda: (good, 13000),
            cudaGetDeviceCount=lambda: (good, devices),
            cudaDeviceGetAttribute=lambda attribute, index: (good, 8 if "Major" in attribute.name
                                                             else 6),
            cudaGetDeviceProperties=lambda index: (good, SimpleNamespace(name=b"NVIDIA A10")),
            cudaSetDevice=lambda index: (good,),
            cudaMemGetInfo=lambda: (good, *device.memory()),
            cudaMalloc=allocate,
            cudaFree=done(device.free),
            cudaMallocHost=pin,
            cudaFreeHost=done(lambda address: device.unpin(held.pop(address))),
            cudaMemcpyAsync=copy,
            cudaStreamCreateWithFlags=gives(lambda flags: device.create_stream()),
            cudaStreamDestroy=done(device.destroy_stream),
            cudaStreamSynchronize=done(device.synchronize),
            cudaStreamBeginCapture=done(lambda stream, mode: device.begin_capture(stream)),
            cudaStreamEndCapture=gives(device.end_capture),
            cudaGraphInstantiateWithFlags=gives(device.copy_graph),
            cudaGraphDestroy=done(device.destroy_graph),
            cudaGraphLaunch=done(device.launch),
            cudaGraphExecDestroy=done(device.destroy_graph),
        )  # fmt: skip


def test_the_bindings_copy_capture_and_give_all_back(runtime: Any) -> None:
    fake = FakeDevice()
    fake.entered = 1
    device = BindingsDevice(FakeRuntime(runtime, fake))
    assert device.facts == DeviceFacts("NVIDIA A10", "8.6", "13.0", "cuda-bindings for CUDA 13.5")
    replay_a_graph(device, size=4096)
    with pytest.raises(CudaError, match=r"\(1,024 MiB of 1,024 MiB are free\); choose a smaller"):
        device.allocate(fake.total + 1)
    assert fake.held() == {}
    with pytest.raises(CudaError, match="cudaErrorNoDevice"):
        BindingsDevice(FakeRuntime(runtime, fake, devices=0))


def replay_a_graph(gpu: Device, size: int) -> None:
    """Bytes go to the device and back, thrice by one graph."""
    address, stream = gpu.allocate(size), gpu.create_stream()
    sent, back = gpu.pin(size), gpu.pin(size)
    gpu.begin_capture(stream)
    gpu.upload(address, sent, stream)
    gpu.download(back, address, stream)
    graph = gpu.end_capture(stream)
    for seed in range(3):
        sent[:] = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
        gpu.launch(graph, stream)
        gpu.synchronize(stream)
        np.testing.assert_array_equal(back, sent)
    gpu.destroy_graph(graph)
    gpu.unpin(sent)
    gpu.unpin(back)
    gpu.free(address)
    gpu.destroy_stream(stream)


@pytest.mark.skipif(NO_GPU is None, reason="there is a GPU here")
def test_no_driver_is_told_in_one_line(runtime: Any) -> None:
    if runtime.cudaDriverGetVersion()[1] != 0:
        pytest.skip("there is a driver here")
    assert NO_GPU == (
        "cudaErrorInsufficientDriver while looking for a GPU: no NVIDIA driver is installed; "
        "install one, or choose --engine onnxruntime"
    )


def test_an_old_driver_names_the_version_that_fits_it() -> None:
    error = driver_error("cuda-bindings for CUDA 13.5", 12060)
    assert "serves CUDA 12.6, too old for cuda-bindings for CUDA 13.5" in str(error)
    assert 'pip install "cuda-bindings==12.*"' in str(error)


def test_a_lost_gpu_and_a_full_one_have_their_way_out() -> None:
    full = CudaError("cudaErrorMemoryAllocation", "a", "out of memory", detail="3 MiB are free")
    assert "(3 MiB are free); choose a smaller max_batch (--engine-option max_batch=8)" in str(full)
    lost = CudaError("cudaErrorIllegalAddress", "waiting", "an illegal memory access")
    assert "the GPU is lost to this process: start the program anew" in str(lost)
    other = CudaError("cudaErrorTimeout", "waiting", "timed out")
    assert str(other) == "cudaErrorTimeout while waiting: timed out"
    assert isinstance(other, EngineError)


def test_another_kind_and_a_missing_library_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="cuda must be bindings or pycuda, got 'opencl'"):
        open_device("opencl")
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)  # as if it were not there
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)

    def import_nothing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])

    monkeypatch.setattr("engines.cuda.import_module", import_nothing)
    with pytest.raises(EngineError, match=r"^cuda-bindings is not installed.*mip-edge\[trt\]"):
        open_device("bindings")
    with pytest.raises(EngineError, match=r"^PyCUDA is not installed.*mip-edge\[pycuda\]"):
        open_device("pycuda")
    with pytest.raises(EngineError, match=r"^neither .* nor PyCUDA is installed.*mip-edge\[trt\]"):
        open_device()


def test_pycuda_without_its_driver_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_broken(name: str) -> None:
        raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr("engines.cuda.import_module", import_broken)
    with pytest.raises(
        EngineError, match="PyCUDA does not import here: libcuda.so.1.*cuda=bindings"
    ):
        open_device("pycuda")


class FakePycuda(ModuleType):
    """What `engines.cuda_pycuda` calls of `pycuda.driver`, on a fake device; by its manual."""

    class Error(Exception):
        pass

    def __init__(self, device: FakeDevice, *, count: int = 1, driver: int = 12060) -> None:
        super().__init__("pycuda.driver")
        self.device, self.fault = device, ""
        self.get_driver_version = lambda: driver
        self.get_version = lambda: (12, 6, 0)
        self.init = lambda: None
        fake = self

        class Context:
            @staticmethod
            def push() -> None:
                device.entered += 1

            @staticmethod
            def pop() -> None:
                device.entered -= 1

        class Gpu:
            def __init__(self, number: int) -> None:
                assert number == 0

            count = staticmethod(lambda: count)
            name = staticmethod(lambda: "Orin")
            compute_capability = staticmethod(lambda: (8, 7))
            retain_primary_context = staticmethod(Context)

        class Allocation:
            def __init__(self, size: int) -> None:
                if fake.fault:
                    raise fake.Error(fake.fault)
                self.address = device.allocate(size)

            def __int__(self) -> int:
                return self.address

            def free(self) -> None:
                device.free(self.address)

        class Stream:
            def __init__(self, flags: int) -> None:
                assert flags == 1
                self.handle = device.create_stream()

            def synchronize(self) -> None:
                device.synchronize(self.handle)

            def __del__(self) -> None:
                device.destroy_stream(self.handle)

        self.Context, self.Device, self.Stream, self.mem_alloc = Context, Gpu, Stream, Allocation

    def pagelocked_empty(self, size: int, dtype: type) -> Any:
        pinned = self.device.pin(size)

        class Held(np.ndarray):  # type: ignore[type-arg]
            pass

        array = pinned.view(Held)
        allocation = SimpleNamespace(free=lambda: self.device.unpin(pinned))
        # numpy's own base cannot be set; the stand-in hangs the allocation where PyCUDA has it
        return _Based(array, allocation)

    def memcpy_htod_async(self, address: int, pinned: Any, stream: Any) -> None:
        self.device.upload(address, np.asarray(pinned), stream.handle)

    def memcpy_dtoh_async(self, pinned: Any, address: int, stream: Any) -> None:
        self.device.download(np.asarray(pinned), address, stream.handle)


class _Based:
    """An array with a base of our choice."""

    def __init__(self, array: Any, base: Any) -> None:
        self.array, self.base = array, base

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self.array)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.array[key] = value


def test_pycuda_copies_both_ways_and_gives_all_back() -> None:
    fake = FakeDevice()
    device: Device = PycudaDevice(FakePycuda(fake))
    assert device.facts == DeviceFacts("Orin", "8.7", "12.6", "PyCUDA for CUDA 12.6.0")
    with device.current():
        address, stream = device.allocate(16), device.create_stream()
        sent, back = device.pin(16), device.pin(16)
        sent[:] = np.arange(16)
        device.upload(address, sent, stream)
        device.download(back, address, stream)
        device.synchronize(stream)
        np.testing.assert_array_equal(np.asarray(back), np.arange(16))
        assert fake.held() == {"device memory": 1, "pinned memory": 2, "streams": 1}
        device.unpin(sent)
        device.unpin(back)
        device.free(address)
        device.destroy_stream(stream)
        assert fake.held() == {}
    assert fake.entered == 0


def test_pycuda_errors_get_the_names_of_cuda() -> None:
    driver = FakePycuda(FakeDevice())
    device = PycudaDevice(driver)
    for words, name in {
        "cuMemAlloc failed: out of memory": "cudaErrorMemoryAllocation",
        "cuMemAlloc failed: something new": "cuMemAlloc",
        "no words we know": "PyCUDA",
    }.items():
        driver.fault = words
        with device.current(), pytest.raises(CudaError, match=f"^{name} while taking") as caught:
            device.allocate(1 << 20)
        assert caught.value.name == name
    assert not device.captures
    with pytest.raises(CudaError, match="PyCUDA has no capture; .*--engine-option cuda=bindings"):
        device.begin_capture(1)


def test_pycuda_without_a_gpu_and_with_an_old_driver_is_refused() -> None:
    with pytest.raises(CudaError, match="cudaErrorNoDevice.*CUDA_VISIBLE_DEVICES"):
        PycudaDevice(FakePycuda(FakeDevice(), count=0))
    with pytest.raises(CudaError, match="serves CUDA 11.8, too old for PyCUDA for CUDA 12.6.0"):
        PycudaDevice(FakePycuda(FakeDevice(), driver=11080))


def test_a_block_grows_for_the_largest_and_goes_with_the_last() -> None:
    device = FakeDevice()
    with device.current():
        arena = Arena(device)
        arena.enter(100)
        first = arena.address
        arena.enter(50)
        assert (arena.address, arena.size) == (first, 100)
        arena.enter(300)
        assert arena.address != first
        assert (arena.size, device.held()) == (300, {"device memory": 1})
        for _ in range(2):
            arena.leave()
        assert device.held() == {"device memory": 1}
        arena.leave()
        assert (arena.address, arena.size, device.held()) == (0, 0, {})


def test_a_block_is_one_for_all_engines_of_a_gpu_and_none_of_another() -> None:
    here, there = FakeDevice(name="here"), FakeDevice(name="there")
    arena = shared_arena(here)
    assert shared_arena(FakeDevice(name="here")) is arena
    assert shared_arena(there) is not arena
    other = FakeDevice(name="here")
    other.facts = replace(other.facts, library="another library, which cannot free the block")
    assert shared_arena(other) is not arena


@pytest.fixture
def gpu() -> Iterator[Device]:
    if NO_GPU is not None:
        pytest.skip(NO_GPU)
    device = open_device("bindings")
    with device.current():
        yield device


@pytest.mark.gpu
def test_a_gpu_copies_and_replays_a_graph(gpu: Device) -> None:
    replay_a_graph(gpu, size=1 << 20)
    with pytest.raises(CudaError, match="cudaErrorMemoryAllocation.*are free.*smaller max_batch"):
        gpu.allocate(1 << 50)
