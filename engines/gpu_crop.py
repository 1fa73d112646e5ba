"""Crops prepared on the GPU: frames go up once, boxes become batches there.

The kernel is `crop_kernel.cu`, its arithmetic `crop_kernel.h`, shipped as PTX that every driver of
a GPU from Turing on (compute capability 7.5) compiles when it is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from engines.base import DeviceBackend, Engine, UnifiedEngine
from engines.cuda import Device, DeviceBatch, Pinned
from mip_edge.errors import ImageError, OptionError
from mip_edge.spec import Batch, Crop, EmbedderSpec, Embeddings, Modality

KERNEL = "mip_edge_crop"
THREADS = 256
JOB = np.dtype(
    [
        ("frame", np.uint64), ("row_bytes", np.int32), ("channels", np.int32), ("x", np.int32),
        ("y", np.int32), ("width", np.int32), ("height", np.int32),
    ]
)  # fmt: skip
"""`CropJob` of crop_kernel.h."""
_OLDEST = (7, 5)


@dataclass(frozen=True, slots=True)
class FrameBox:
    """A box in one of the frames that were uploaded, in whole pixels."""

    frame: int
    """Place in the list that was uploaded."""
    x1: int
    y1: int
    x2: int
    """Behind the last pixel, like y2."""
    y2: int

    @classmethod
    def around(cls, frame: int, shape: tuple[int, ...], box: NDArray[np.float32]) -> FrameBox:
        """The pixels that a box (4,) of fractions touches in a frame of `shape`, at least one."""
        height, width = shape[:2]
        x1, y1 = min(max(int(box[0]), 0), width - 1), min(max(int(box[1]), 0), height - 1)
        x2, y2 = max(math.ceil(box[2]), x1 + 1), max(math.ceil(box[3]), y1 + 1)
        return cls(frame, x1, y1, min(x2, width), min(y2, height))

    def clip(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int, int, int]:
        """x1, y1, x2, y2 inside its frame, whose shape is one of `shapes`.

        Raises: ImageError for a box that holds no pixel of its frame, or of no frame.
        """
        if not 0 <= self.frame < len(shapes):
            raise ImageError(f"a box of frame {self.frame} came, of {len(shapes)} in all")
        height, width = shapes[self.frame][:2]
        x1, y1 = max(self.x1, 0), max(self.y1, 0)
        x2, y2 = min(self.x2, width), min(self.y2, height)
        if x1 >= x2 or y1 >= y2:
            raise ImageError(
                f"the box ({self.x1}, {self.y1}, {self.x2}, {self.y2}) holds no pixel of its frame "
                f"of {width}x{height}; leave out what lies outside"
            )
        return x1, y1, x2, y2


def read_ptx() -> bytes:
    """The kernel, as it is shipped."""
    return files("engines").joinpath("crop_kernel.ptx").read_bytes()


def plan_jobs(
    frames: Sequence[tuple[int, tuple[int, ...]]], boxes: Sequence[FrameBox]
) -> NDArray[np.void]:
    """What the kernel reads: a `JOB` for each box, cut to its frame.

    `frames` are addresses with the shapes (H, W), (H, W, 1) or (H, W, 3).
    Raises: ImageError for a box that holds no pixel of its frame, or of no frame.
    """
    jobs = np.zeros(len(boxes), JOB)
    shapes = [shape for _, shape in frames]
    for index, box in enumerate(boxes):
        x1, y1, x2, y2 = box.clip(shapes)
        address, shape = frames[box.frame]
        channels = shape[2] if len(shape) == 3 else 1
        jobs[index] = (address, shape[1] * channels, channels, x1, y1, x2 - x1, y2 - y1)
    return jobs


def cut_boxes(frames: Sequence[NDArray[np.uint8]], boxes: Sequence[FrameBox]) -> list[Crop]:
    """The same boxes for an engine on the host: views of the frames, nothing is copied.

    Raises: ImageError as `plan_jobs` does.
    """
    shapes = [frame.shape for frame in frames]
    crops = []
    for box in boxes:
        x1, y1, x2, y2 = box.clip(shapes)
        crops.append(frames[box.frame][y1:y2, x1:x2])
    return crops


class GpuCropper:
    """The frames of one tick on one GPU, and the crops that are made of them there."""

    def __init__(self, device: Device, *, max_batch: int = 32) -> None:
        """Memory for frames grows to the largest tick. Raises: CudaError; OptionError for a GPU
        that is too old."""
        capability = tuple(int(part) for part in device.facts.capability.split("."))
        if capability < _OLDEST:
            raise OptionError(
                f"crops on the GPU want compute capability 7.5, {device.facts.device} came; "
                "prepare them on the CPU"
            )
        if max_batch < 1:
            raise OptionError(f"max_batch must be at least 1, got {max_batch}")
        self.max_batch = max_batch
        self._device = device
        self._frames: list[tuple[int, tuple[int, ...]]] = []
        self._held = _Memory(device)
        self._batch = _Memory(device)
        with device.current(), ExitStack() as stack:
            self._module = device.load_module(read_ptx())
            stack.callback(device.unload_module, self._module)
            self._stream = device.create_stream()
            stack.callback(device.destroy_stream, self._stream)
            self._jobs = device.allocate(max_batch * JOB.itemsize)
            stack.callback(device.free, self._jobs)
            self._pinned_jobs = device.pin(max_batch * JOB.itemsize)
            stack.callback(device.unpin, self._pinned_jobs)
            stack.callback(self._batch.free)
            stack.callback(self._held.free)
            self._taken = stack.pop_all()

    def upload(self, frames: Sequence[NDArray[np.uint8]]) -> None:
        """The frames of one tick, each (H, W, 3) RGB or (H, W) uint8; those before are gone.

        Returns when they are copied: the frames may change then. Raises: CudaError; ImageError.
        """
        for frame in frames:
            fits = frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] in (1, 3))
            if frame.dtype != np.uint8 or not fits or 0 in frame.shape:
                raise ImageError(
                    f"a frame of shape {frame.shape} and type {frame.dtype} came; expected "
                    "(height, width, 3) or (height, width) uint8, not empty"
                )
        self._frames = []
        with self._device.current():
            pinned = self._held.take(sum(frame.nbytes for frame in frames), pinned=True)
            if pinned is None:
                return
            start = 0
            for frame in frames:
                end = start + frame.nbytes
                np.copyto(pinned[start:end].reshape(frame.shape), frame)
                self._frames.append((self._held.address + start, frame.shape))
                start = end
            self._device.upload(self._held.address, pinned[:start], self._stream)
            self._device.synchronize(self._stream)

    def crop(
        self, boxes: Sequence[FrameBox], spec: EmbedderSpec, *, unified: bool = False
    ) -> DeviceBatch:
        """The batch that `prepare` would make of these boxes, to one grey level, on the GPU.

        At most `max_batch` boxes, cut to their frames; it is queued, not yet done. `unified`: for
        a graph of both modalities, where infrared has its one channel three times.
        Raises: CudaError; OptionError for more; ImageError for a box without pixels.
        """
        if len(boxes) > self.max_batch:
            raise OptionError(f"{len(boxes)} boxes came; this cropper takes {self.max_batch}")
        jobs = plan_jobs(self._frames, boxes)
        height, width, channels = shape = (*spec.batch_shape[:2], 3 if unified else spec.channels)
        with self._device.current():
            self._device.synchronize(self._stream)  # the pinned jobs of the call before were read
            self._batch.take(self.max_batch * int(np.prod(shape)))
            batch = DeviceBatch(self._batch.address, len(boxes), shape, self._stream)
            if not boxes:
                return batch
            part = self._pinned_jobs[: jobs.nbytes]
            part[:] = jobs.view(np.uint8)
            self._device.upload(self._jobs, part, self._stream)
            self._device.launch_kernel(
                self._module,
                KERNEL,
                grid=(-(-width * height // THREADS), len(boxes)),
                threads=THREADS,
                addresses=(batch.address, self._jobs),
                numbers=(width, height, channels, int(spec.channels == 1)),
                stream=self._stream,
            )
        return batch

    def download(self, batch: DeviceBatch) -> Batch:
        """A copy on the host, for checks. Raises: CudaError."""
        with self._device.current():
            if batch.count == 0:
                return np.zeros((0, *batch.shape), np.uint8)
            pinned = self._device.pin(batch.bytes)
            try:
                self._device.download(pinned, batch.address, batch.stream)
                self._device.synchronize(batch.stream)
                return np.array(pinned).reshape(batch.count, *batch.shape)
            finally:
                self._device.unpin(pinned)

    def close(self) -> None:
        """Wait for the GPU and give all back."""
        with self._device.current():
            self._device.synchronize(self._stream)
            self._taken.close()


class GpuLane:
    """The way of one modality from frames to embeddings without leaving the GPU."""

    def __init__(self, engine: Engine, cropper: GpuCropper, *, unified: bool) -> None:
        """`unified`: the engine's graph is that of both modalities."""
        self.engine, self.cropper = engine, cropper
        self._unified = unified

    def embed(self, frames: Sequence[NDArray[np.uint8]], boxes: Sequence[FrameBox]) -> Embeddings:
        """(N, D) of the caller's own; the frames go up once, however many calls the boxes take.

        Raises: EngineError; ImageError for a box without pixels, or what is no frame.
        """
        if not boxes:
            return np.zeros((0, self.engine.spec.dimension), np.float32)
        self.cropper.upload(frames)
        most, spec = self.cropper.max_batch, self.engine.spec
        parts = []
        for start in range(0, len(boxes), most):
            batch = self.cropper.crop(boxes[start : start + most], spec, unified=self._unified)
            # Embedded before the next crops are made: they lie in the same memory.
            parts.append(self.engine.embed_on_device(batch))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def open_lane(
    front: Engine | UnifiedEngine, modality: Modality, others: Sequence[GpuLane] = ()
) -> GpuLane | None:
    """That way through an open engine, or None if it computes on the host.

    `others` are lanes that are open: one on the same device lends its cropper. `front` closes the
    engine, whoever opened the lanes their croppers. Raises: CudaError; OptionError for a GPU that
    is too old for the kernel.
    """
    backend = front._open_backend()
    if not isinstance(backend, DeviceBackend):
        return None
    engine = front
    if isinstance(engine, UnifiedEngine):
        engine = Engine(backend, name=front.name, modality=modality)
    lent = [lane.cropper for lane in others if lane.engine.device is backend.device]
    cropper = lent[0] if lent else GpuCropper(backend.device, max_batch=backend.max_batch)
    return GpuLane(engine, cropper, unified=len(backend.specs) > 1)


class _Memory:
    """Device memory that grows, with pinned memory of the same size if asked for."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._size = 0
        self.address = 0
        self._pinned: Pinned | None = None

    def take(self, size: int, *, pinned: bool = False) -> Pinned | None:
        """At least `size` bytes; what was there before may move."""
        if size > self._size:
            self.free()
            self.address = self._device.allocate(size)
            self._size = size
            if pinned:
                self._pinned = self._device.pin(size)
        return self._pinned

    def free(self) -> None:
        """Give it back."""
        if self._size:
            self._device.free(self.address)
            self._size = self.address = 0
        pinned, self._pinned = self._pinned, None
        if pinned is not None:
            self._device.unpin(pinned)
