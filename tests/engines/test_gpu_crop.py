"""Crops on the GPU: the kernel's arithmetic is `prepare`'s, and its way through a device holds."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.base import Engine
from engines.cuda import CudaError, Device, DeviceBatch, find_no_gpu, open_device
from engines.cuda_fake import FakeDevice
from engines.cuda_pycuda import PycudaDevice
from engines.gpu_crop import (
    JOB,
    KERNEL,
    THREADS,
    FrameBox,
    GpuCropper,
    cut_boxes,
    open_lane,
    plan_jobs,
    read_ptx,
)
from engines.trt import TrtBackend
from engines.trt_runner import Runner
from mip_edge.errors import EngineError, ImageError, OptionError
from mip_edge.live.crop import cut
from mip_edge.preprocess import prepare
from mip_edge.spec import Batch, EmbedderSpec, Modality
from tests.engines.trt_fakes import FakeTrt, write_plan


class Backend(TrtBackend):
    """What `TrtBackend.open` makes, without a bundle."""

    def __init__(self, runner: Runner, specs: Mapping[Modality, EmbedderSpec]) -> None:
        self.specs, self.max_batch, self._runner = specs, runner.max_batch, runner


ROOT = Path(__file__).resolve().parents[2]
COMPILER = next(filter(None, map(shutil.which, ("c++", "g++", "clang++", "cc"))), None)
NVCC = shutil.which("nvcc")
NO_GPU = find_no_gpu()
SPECS = {
    modality: EmbedderSpec(
        modality=modality, height=64, width=32, dimension=8, fingerprint="f" * 64
    )
    for modality in Modality
}
HOST = """
#include "crop_kernel.h"
extern "C" void crop(unsigned char *batch, const CropJob *jobs, int count, int width, int height,
                     int channels) {
    for (int index = 0; index < count; ++index)
        for (int row = 0; row < height; ++row)
            for (int column = 0; column < width; ++column)
                for (int channel = 0; channel < channels; ++channel)
                    *batch++ = crop_value(jobs + index, column, row, channel, channels == 1, width,
                                          height);
}
extern "C" int job_bytes() { return (int)sizeof(CropJob); }
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The arithmetic of the kernel, compiled for this processor."""
    if COMPILER is None:
        pytest.skip("no C++ compiler is installed: the kernel's arithmetic cannot be run here")
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "host.cpp").write_text(HOST)
    command = [COMPILER, "-O2", "-shared", "-fPIC", "-Wall", "-Werror", f"-I{ROOT / 'engines'}"]
    subprocess.run([*command, "-o", folder / "host.so", folder / "host.cpp"], check=True)
    return ctypes.CDLL(str(folder / "host.so"))


def run_on_host(
    kernel: Any, frames: Sequence[NDArray[np.uint8]], boxes: Sequence[FrameBox], spec: EmbedderSpec
) -> Batch:
    jobs = plan_jobs([(frame.ctypes.data, frame.shape) for frame in frames], boxes)
    batch = np.zeros((len(boxes), *spec.batch_shape), np.uint8)
    height, width, channels = spec.batch_shape
    kernel.crop(
        ctypes.c_void_p(batch.ctypes.data), ctypes.c_void_p(jobs.ctypes.data), len(boxes), width,
        height, channels,
    )  # fmt: skip
    return batch


def prepare_boxes(
    frames: Sequence[NDArray[np.uint8]], boxes: Sequence[FrameBox], spec: EmbedderSpec
) -> Batch:
    crops = [
        frames[box.frame][max(box.y1, 0) : max(box.y2, 0), max(box.x1, 0) : max(box.x2, 0)]
        for box in boxes
    ]
    return prepare(crops, spec)


def farthest(found: Batch, expected: Batch) -> int:
    assert found.shape == expected.shape
    return int(np.abs(found.astype(int) - expected).max(initial=0))


def make_frames() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(7)
    return [
        rng.integers(0, 256, shape, dtype=np.uint8)
        for shape in ((240, 320, 3), (97, 131, 3), (240, 320), (97, 131, 1), (1, 1, 3))
    ]


def make_boxes(count: int) -> list[FrameBox]:
    """Of all sizes from one pixel to the frame, some of them partly outside."""
    rng = np.random.default_rng(8)
    boxes = [
        FrameBox(4, 0, 0, 1, 1),
        FrameBox(0, 319, 239, 320, 240),
        FrameBox(1, -50, -9, 500, 99),
    ]
    boxes += [FrameBox(0, 10, 10, 10 + 64, 10 + 128), FrameBox(0, 7, 3, 7 + 32, 3 + 64)]
    for _ in range(count):
        frame = int(rng.integers(4))
        height, width = make_sizes()[frame]
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        across, down = (int(np.exp(rng.uniform(0, np.log(side)))) for side in (width, height))
        left, top = int(rng.integers(0, across + 1)), int(rng.integers(0, down + 1))
        boxes.append(FrameBox(frame, x - left, y - top, x + across, y + down))
    return boxes


def make_sizes() -> list[tuple[int, int]]:
    return [(240, 320), (97, 131), (240, 320), (97, 131), (1, 1)]


@pytest.mark.parametrize("modality", list(Modality))
@pytest.mark.parametrize("size", [(64, 32), (256, 128), (31, 77)])
def test_the_kernels_arithmetic_is_prepares_to_one_grey_level(
    kernel: Any, modality: Modality, size: tuple[int, int]
) -> None:
    spec = EmbedderSpec(
        modality=modality, height=size[0], width=size[1], dimension=8, fingerprint="f" * 64
    )
    frames, boxes = make_frames(), make_boxes(120)
    found = run_on_host(kernel, frames, boxes, spec)
    assert farthest(found, prepare_boxes(frames, boxes, spec)) <= 1


def test_the_kernel_reads_what_python_packs(kernel: Any) -> None:
    assert kernel.job_bytes() == JOB.itemsize


def test_a_crop_of_the_prepared_size_is_unchanged(kernel: Any) -> None:
    frames, spec = make_frames(), SPECS[Modality.VISIBLE]
    found = run_on_host(kernel, frames, [FrameBox(0, 5, 6, 5 + 32, 6 + 64)], spec)
    np.testing.assert_array_equal(found[0], frames[0][6:70, 5:37])


def test_no_pixel_beside_the_box_is_read(kernel: Any) -> None:
    frame = np.full((60, 60, 3), 255, np.uint8)
    frame[20:30, 20:30] = 10
    found = run_on_host(kernel, [frame], [FrameBox(0, 20, 20, 30, 30)], SPECS[Modality.VISIBLE])
    assert set(np.unique(found)) == {10}


def fake_kernel(
    device: FakeDevice,
    grid: tuple[int, int],
    threads: int,
    addresses: Sequence[int],
    numbers: Sequence[int],
) -> None:
    """The kernel as numpy and `prepare` do it, on the memory of the fake device."""
    width, height, channels, grey = numbers
    assert grid[0] * threads >= width * height > (grid[0] - 1) * threads
    jobs = device.view(addresses[1], grid[1] * JOB.itemsize).view(JOB)
    spec = SPECS[Modality.INFRARED if grey else Modality.VISIBLE]
    size = width * height * channels
    for index, job in enumerate(jobs):
        start = int(job["frame"] + job["y"] * job["row_bytes"] + job["x"] * job["channels"])
        rows = [
            device.view(start + row * int(job["row_bytes"]), int(job["width"] * job["channels"]))
            for row in range(job["height"])
        ]
        crop = np.stack(rows).reshape(job["height"], job["width"], job["channels"])
        batch = np.broadcast_to(prepare([crop], spec), (1, height, width, channels))
        device.view(addresses[0] + index * size, size)[:] = batch.reshape(-1)


@pytest.fixture
def fake() -> FakeDevice:
    device = FakeDevice()
    device.kernels[KERNEL] = fake_kernel
    return device


def check_two_ticks(device: Device) -> None:
    cropper = GpuCropper(device, max_batch=40)
    frames, boxes = make_frames(), make_boxes(20)
    for images in (frames[:2] + frames[2:], [frame[::-1].copy() for frame in frames]):
        cropper.upload(images)
        for spec in SPECS.values():
            found = cropper.download(cropper.crop(boxes, spec))
            expected = prepare_boxes(images, boxes, spec)
            assert farthest(found, expected) <= 1
            both = cropper.download(cropper.crop(boxes, spec, unified=True))
            assert farthest(both, np.broadcast_to(expected, both.shape).copy()) <= 1
    cropper.close()


def test_frames_go_up_once_and_boxes_become_both_batches(fake: FakeDevice) -> None:
    check_two_ticks(fake)
    assert fake.held() == {}
    assert fake.count("launch_kernel") == 8
    assert fake.count("upload") == 2 + 8  # the frames of a tick once, then the jobs of a batch


def test_a_second_tick_of_the_same_size_takes_no_memory(fake: FakeDevice) -> None:
    cropper = GpuCropper(fake)
    counts = []
    for _ in range(3):
        cropper.upload(make_frames())
        cropper.crop([FrameBox(0, 0, 0, 9, 9)], SPECS[Modality.VISIBLE])
        counts.append((fake.count("allocate"), fake.count("pin")))
    assert counts[0] == counts[1] == counts[2]
    cropper.close()


def test_no_boxes_and_no_frames_are_legal(fake: FakeDevice) -> None:
    cropper = GpuCropper(fake)
    cropper.upload([])
    batch = cropper.crop([], SPECS[Modality.VISIBLE])
    assert cropper.download(batch).shape == (0, 64, 32, 3)
    cropper.close()
    assert fake.held() == {}


def test_what_cannot_be_cropped_is_refused_in_one_line(fake: FakeDevice) -> None:
    cropper = GpuCropper(fake, max_batch=2)
    spec = SPECS[Modality.VISIBLE]
    cropper.upload([np.zeros((10, 20, 3), np.uint8)])
    with pytest.raises(ImageError, match=r"\(20, 0, 25, 5\) holds no pixel of its frame of 20x10"):
        cropper.crop([FrameBox(0, 20, 0, 25, 5)], spec)
    with pytest.raises(ImageError, match="a box of frame 1 came, of 1 in all"):
        cropper.crop([FrameBox(1, 0, 0, 5, 5)], spec)
    with pytest.raises(OptionError, match="3 boxes came; this cropper takes 2"):
        cropper.crop([FrameBox(0, 0, 0, 5, 5)] * 3, spec)
    for frame in (np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ImageError, match=r"expected \(height, width, 3\)"):
            cropper.upload([frame])
    with pytest.raises(ImageError, match="float64"):
        cropper.upload([np.zeros((4, 4, 3))])  # type: ignore[list-item]
    cropper.close()
    with pytest.raises(OptionError, match=r"want compute capability 7\.5, .*7\.2 came"):
        GpuCropper(FakeDevice(capability="7.2"))
    with pytest.raises(OptionError, match="max_batch must be at least 1, got 0"):
        GpuCropper(fake, max_batch=0)


corner = st.floats(-40, 80, width=32)


@given(corners=st.tuples(corner, corner, corner, corner), height=st.integers(1, 30))
def test_a_box_of_fractions_is_the_crop_of_the_live_loop(
    corners: tuple[float, float, float, float], height: int
) -> None:
    frame = np.arange(height * 40 * 3, dtype=np.uint8).reshape(height, 40, 3)
    box = np.array(corners, np.float32)
    if box[2] <= 0 or box[3] <= 0 or box[0] >= 40 or box[1] >= height:
        return  # outside the frame: a tracker gives none
    (crop,) = cut_boxes([frame], [FrameBox.around(0, frame.shape, box)])
    np.testing.assert_array_equal(crop, cut(frame, box))


def test_boxes_are_cut_on_the_host_as_they_are_planned_for_the_gpu() -> None:
    frames, boxes = make_frames(), make_boxes(20)
    jobs = plan_jobs([(frame.ctypes.data, frame.shape) for frame in frames], boxes)
    for crop, job in zip(cut_boxes(frames, boxes), jobs, strict=True):
        assert crop.ctypes.data == int(
            job["frame"] + job["y"] * job["row_bytes"] + job["x"] * job["channels"]
        )
        assert crop.shape[:2] == (job["height"], job["width"])
    with pytest.raises(ImageError, match=r"\(20, 0, 25, 5\) holds no pixel of its frame of 20x10"):
        cut_boxes([np.zeros((10, 20, 3), np.uint8)], [FrameBox(0, 20, 0, 25, 5)])


def test_a_lane_takes_more_boxes_than_a_call_and_uploads_once(fake: FakeDevice) -> None:
    spec, frames, boxes = SPECS[Modality.VISIBLE], make_frames(), make_boxes(14)
    with fake.current():
        plan = write_plan(spec.batch_shape, spec.dimension, max_batch=8)
        runner = Runner(FakeTrt(fake), plan, {spec.modality: spec}, fake, what="a plan")
    engine = Engine(Backend(runner, {spec.modality: spec}), name="tensorrt")
    lane = open_lane(engine, Modality.VISIBLE)
    assert lane is not None
    assert lane.cropper.max_batch == 8
    before = fake.count("upload")
    found = lane.embed(frames, boxes)
    assert fake.count("upload") - before == 1 + 3  # the frames, then the jobs of 19 boxes
    np.testing.assert_array_equal(found, engine.embed(prepare_boxes(frames, boxes, spec)))
    assert lane.embed(frames, []).shape == (0, 8)
    lane.cropper.close()
    engine.close()


def test_crops_of_the_gpu_are_embedded_without_a_way_back(fake: FakeDevice) -> None:
    trt, frames, boxes = FakeTrt(fake), make_frames(), make_boxes(20)
    for spec in SPECS.values():
        plan = write_plan(spec.batch_shape, spec.dimension, max_batch=8)
        with fake.current():
            runner = Runner(trt, plan, {spec.modality: spec}, fake, what="a plan")
        with Engine(Backend(runner, {spec.modality: spec}), name="tensorrt") as engine:
            cropper = GpuCropper(fake, max_batch=40)
            cropper.upload(frames)
            for _ in range(2):
                batch = cropper.crop(boxes, engine.spec)
                uploads = fake.count("upload")
                found = engine.embed_on_device(batch)
                assert fake.count("upload") == uploads
                prepared = prepare_boxes(frames, boxes, spec)
                np.testing.assert_array_equal(found, engine.embed(prepared))
            assert engine.embed_on_device(cropper.crop([], spec)).shape == (0, spec.dimension)
            cropper.close()
    assert {kind for kind in fake.held() if kind != "device memory"} == set()


@pytest.mark.parametrize("modality", list(Modality))
def test_a_unified_plan_is_told_the_modality_of_the_crops(
    fake: FakeDevice, modality: Modality
) -> None:
    trt, frames, boxes = FakeTrt(fake), make_frames(), make_boxes(3)
    spec = SPECS[modality]
    with fake.current():
        plan = write_plan((64, 32, 3), 8, unified=True)
        runner = Runner(trt, plan, SPECS, fake, what="a plan")
    engine = Engine(Backend(runner, SPECS), name="tensorrt", modality=modality)
    cropper = GpuCropper(fake)
    cropper.upload(frames)
    found = engine.embed_on_device(cropper.crop(boxes, spec, unified=True))
    np.testing.assert_array_equal(found, engine.embed(prepare_boxes(frames, boxes, spec)))
    cropper.close()
    engine.close()


def test_a_device_batch_that_does_not_fit_is_refused(fake: FakeDevice) -> None:
    spec = SPECS[Modality.VISIBLE]
    with fake.current():
        runner = Runner(FakeTrt(fake), write_plan((64, 32, 3), 8), {spec.modality: spec}, fake,
                        what="a plan")  # fmt: skip
    engine = Engine(Backend(runner, {spec.modality: spec}), name="tensorrt")
    with pytest.raises(EngineError, match=r"\(64, 32, 1\) came; .*takes \(64, 32, 3\)"):
        engine.embed_on_device(DeviceBatch(256, 2, (64, 32, 1), 1))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.embed_on_device(DeviceBatch(256, 2, (64, 32, 3), 1))

    class HostBackend:
        specs, max_batch = SPECS, 8

        def embed(self, inputs: Any) -> Any:
            raise AssertionError

        def close(self) -> None: ...

    host = Engine(HostBackend(), name="onnxruntime", modality=Modality.VISIBLE)
    with pytest.raises(EngineError, match="onnxruntime takes no crops from a GPU; .*tensorrt"):
        host.embed_on_device(DeviceBatch(256, 2, (64, 32, 3), 1))


@pytest.mark.parametrize("call", ["load_module", "create_stream", "allocate", "pin"])
def test_a_device_that_refuses_keeps_nothing(call: str) -> None:
    device = FakeDevice(failing=lambda name: "cudaErrorUnknown" if name == call else None)
    with pytest.raises(CudaError):
        GpuCropper(device)
    assert device.held() == {}


def test_pycuda_launches_by_its_own_objects() -> None:
    launched: list[Any] = []

    class Kernel:
        def __call__(self, *arguments: Any, **how: Any) -> None:
            launched.append((arguments, how))

    class Module:
        def get_function(self, name: str) -> Kernel:
            assert name == KERNEL
            return Kernel()

    class Driver:
        class Error(Exception):
            pass

        def module_from_buffer(self, content: bytes) -> Module:
            assert content.endswith(b"\0")
            return Module()

    device = object.__new__(PycudaDevice)
    device._cuda, device._streams, device._modules = Driver(), {7: "stream"}, {}
    module = device.load_module(read_ptx())
    device.launch_kernel(
        module, KERNEL, grid=(8, 2), threads=THREADS, addresses=(1 << 40, 2), numbers=(3, 4, 5),
        stream=7,
    )  # fmt: skip
    ((arguments, how),) = launched
    assert [type(value) for value in arguments] == [np.uint64] * 2 + [np.int32] * 3
    assert [int(value) for value in arguments] == [1 << 40, 2, 3, 4, 5]
    assert how == {"block": (256, 1, 1), "grid": (8, 2), "stream": "stream"}
    device.unload_module(module)
    assert device._modules == {}


def test_the_calls_of_cuda_bindings_are_there() -> None:
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    for name in (
        "cuModuleLoadData", "cuModuleUnload", "cuModuleGetFunction", "cuLaunchKernel",
        "cuGetErrorName", "cuGetErrorString",
    ):  # fmt: skip
        assert callable(getattr(driver, name))
    assert driver.CUresult.CUDA_SUCCESS == 0


def load_maker() -> Any:
    path = ROOT / "benchmarks" / "crop_kernel.py"
    spec = importlib.util.spec_from_file_location("crop_kernel_maker", path)
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker


def test_the_shipped_ptx_is_of_this_source() -> None:
    first = read_ptx().decode().splitlines()[0]
    assert first.endswith(load_maker().digest_sources()), "run: python benchmarks/crop_kernel.py"


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
def test_nvcc_compiles_the_kernel() -> None:
    assert f".visible .entry {KERNEL}(" in load_maker().make_ptx()


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="ptxas is not installed")
@pytest.mark.parametrize("target", ["sm_75", "sm_87", "sm_120"])
def test_the_shipped_ptx_becomes_code_for_old_and_new_gpus(target: str, tmp_path: Path) -> None:
    (tmp_path / "kernel.ptx").write_bytes(read_ptx())
    command = ["ptxas", f"-arch={target}", "-o", tmp_path / "cubin", tmp_path / "kernel.ptx"]
    subprocess.run(command, check=True)


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU is not None, reason=str(NO_GPU))
def test_a_gpu_crops_as_prepare_does() -> None:
    check_two_ticks(open_device())
