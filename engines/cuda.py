"""The few operations on a CUDA device that an engine needs, and who does them.

They stand on cuda-bindings in `engines.cuda_bindings`, on PyCUDA in `engines.cuda_pycuda`, and in
host memory, for tests, in `engines.cuda_fake`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import EngineError, OptionError

Pinned = NDArray[np.uint8]
"""Host memory that the device copies from and to by itself, as an array of bytes."""

OUT_OF_MEMORY = "cudaErrorMemoryAllocation"
NO_DEVICE = "cudaErrorNoDevice"
OLD_DRIVER = "cudaErrorInsufficientDriver"
_ELSEWHERE = "or choose --engine onnxruntime"
NEEDS_LESS = (
    "choose a smaller max_batch (--engine-option max_batch=8), or close other programs on the GPU"
)
"""The way out where the memory of the largest batch is not to be had."""
_WAYS = {
    OUT_OF_MEMORY: NEEDS_LESS,
    NO_DEVICE: f"look at nvidia-smi and at CUDA_VISIBLE_DEVICES, {_ELSEWHERE}",
    "cudaErrorDevicesUnavailable": "another program holds the GPU for itself: close it",
    "cudaErrorSystemDriverMismatch": "driver and kernel module differ: restart the machine",
    "cudaErrorCompatNotSupportedOnDevice": f"update the NVIDIA driver, {_ELSEWHERE}",
    "cudaErrorUnsupportedPtxVersion": f"update the NVIDIA driver, {_ELSEWHERE}",
    "cudaErrorNoKernelImageForDevice": "the runtime has no kernels for this GPU: see its versions",
    "cudaErrorNotPermitted": "this process may not use the GPU: look at its rights",
}
"""What to do, by the name that CUDA gives an error."""
_LOST = {
    "Assert", "Contained", "ECCUncorrectable", "ExternalDevice", "HardwareStackError",
    "IllegalAddress", "IllegalInstruction", "InvalidAddressSpace", "InvalidPc", "LaunchFailure",
    "LaunchTimeout", "MisalignedAddress", "NvlinkUncorrectable", "TensorMemoryLeak",
}  # fmt: skip
"""After one of these every further call of the process fails too."""


class CudaError(EngineError):
    """A call of CUDA that failed, in one line with the way out."""

    def __init__(
        self, name: str, doing: str, text: str, *, detail: str = "", way: str = ""
    ) -> None:
        """`name` as CUDA writes it, `text` its own words, `doing` what was asked of it; `way`
        out, where it is not that of the name."""
        way = way or _WAYS.get(name, "")
        if name.removeprefix("cudaError") in _LOST:
            way = "the GPU is lost to this process: start the program anew"
        told = f"{name} while {doing}: {text}{f' ({detail})' if detail else ''}"
        super().__init__(f"{told}; {way}" if way else told)
        self.name = name


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a plan depends on, and what a log line names."""

    name: str
    """As its makers write it."""
    capability: str
    """CUDA compute capability, `8.6`."""
    driver: str
    """The newest CUDA that the driver serves, `13.0`."""
    library: str
    """Who does the operations, with its version."""

    @property
    def device(self) -> str:
        """The GPU in the words of an engine cache's key."""
        return f"{self.name}, compute capability {self.capability}"


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """Prepared crops in the memory of a GPU, (count, height, width, channels) uint8.

    Who reads them does so on `stream`, where what makes them may still be queued.
    """

    address: int
    count: int
    shape: tuple[int, int, int]
    """Of one crop."""
    stream: int

    @property
    def bytes(self) -> int:
        """Of all crops."""
        return self.count * int(np.prod(self.shape))

    def split(self, most: int) -> list[DeviceBatch]:
        """The same crops in parts of at most `most`."""
        row = int(np.prod(self.shape))
        return [
            replace(self, address=self.address + start * row, count=min(most, self.count - start))
            for start in range(0, self.count, most)
        ]


class Device(Protocol):
    """One GPU. Addresses, streams and graphs are whole numbers, as CUDA hands them out.

    Every call raises CudaError when CUDA refuses; `current` must be entered in the thread first.
    """

    facts: DeviceFacts
    captures: bool
    """Whether graphs can be captured."""

    def current(self) -> AbstractContextManager[None]:
        """Make the device that of this thread, for the length of a block."""
        ...

    def allocate(self, size: int) -> int:
        """Device memory, aligned to 256 bytes; not cleared."""
        ...

    def free(self, address: int) -> None:
        """Give device memory back."""
        ...

    def pin(self, size: int) -> Pinned:
        """Page-locked host memory; not cleared."""
        ...

    def unpin(self, pinned: Pinned) -> None:
        """Give host memory back: no view of it may be used any more."""
        ...

    def create_stream(self) -> int:
        """A queue of operations that run in order, after no other stream's."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """End a stream, its operations done."""
        ...

    def upload(self, address: int, pinned: Pinned, stream: int) -> None:
        """Queue a copy of all bytes of (part of) pinned memory to the device."""
        ...

    def download(self, pinned: Pinned, address: int, stream: int) -> None:
        """Queue a copy from the device that fills (part of) pinned memory."""
        ...

    def synchronize(self, stream: int) -> None:
        """Wait for all that is queued; errors of the device itself come out here."""
        ...

    def begin_capture(self, stream: int) -> None:
        """From here on operations are recorded, not run."""
        ...

    def end_capture(self, stream: int) -> int:
        """The recorded operations as a graph that can be launched."""
        ...

    def launch(self, graph: int, stream: int) -> None:
        """Queue all operations of a graph at once."""
        ...

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""
        ...

    def load_module(self, ptx: bytes) -> int:
        """Kernels, compiled by the driver for this GPU."""
        ...

    def unload_module(self, module: int) -> None:
        """Give kernels back."""
        ...

    def launch_kernel(
        self,
        module: int,
        name: str,
        *,
        grid: tuple[int, int],
        threads: int,
        addresses: Sequence[int],
        numbers: Sequence[int],
        stream: int,
    ) -> None:
        """Queue a kernel on `grid` blocks of `threads`; it takes the addresses as pointers, then
        the numbers as int."""
        ...


def open_device(kind: str | None = None) -> Device:
    """The first GPU that CUDA shows (CUDA_VISIBLE_DEVICES chooses), by one of the libraries.

    `kind` is `bindings` or `pycuda`; None takes cuda-bindings if it is installed, else PyCUDA.
    Raises: OptionError for another kind; EngineError if the library is not installed; CudaError
    if there is no driver, an old one or no GPU.
    """
    if kind not in {None, "bindings", "pycuda"}:
        raise OptionError(f"cuda must be bindings or pycuda, got {kind!r}")
    if kind != "pycuda":
        try:
            runtime = import_module("cuda.bindings.runtime")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "cuda":
                raise
            if kind == "bindings":
                raise EngineError(
                    'cuda-bindings is not installed. pip install "mip-edge[trt]", or choose '
                    "--engine-option cuda=pycuda"
                ) from error
        else:
            from engines.cuda_bindings import BindingsDevice

            return BindingsDevice(runtime)
    try:
        pycuda = import_module("pycuda.driver")
    except ImportError as error:
        if error.name != "pycuda":  # it is there, and finds no driver or was built for another
            raise EngineError(
                f"PyCUDA does not import here: {error}. Build it anew for this CUDA and driver, or "
                "choose --engine-option cuda=bindings"
            ) from error
        either = "PyCUDA is not" if kind else "neither cuda-bindings nor PyCUDA is"
        raise EngineError(
            f'{either} installed. pip install "mip-edge[{"pycuda" if kind else "trt"}]"'
        ) from error
    from engines.cuda_pycuda import PycudaDevice

    return PycudaDevice(pycuda)


def find_no_gpu() -> str | None:
    """Why no GPU can be used here, in one line with the way out; None if one can."""
    try:
        open_device()
    except EngineError as error:
        return str(error)
    return None


def driver_error(library: str, served: int) -> CudaError:
    """What to say where CUDA finds its driver too old; `served` is its CUDA, 12040 for 12.4."""
    text = f"the driver serves CUDA {cuda_version(served)}, too old for {library}"
    way = f'update the driver, or pip install "cuda-bindings=={served // 1000}.*"'
    if served == 0:
        text, way = "no NVIDIA driver is installed", f"install one, {_ELSEWHERE}"
    return CudaError(OLD_DRIVER, "looking for a GPU", text, way=way)


def mebibytes(size: int) -> str:
    """`1,024 MiB` for 2 ** 30 bytes."""
    return f"{size / (1 << 20):,.0f} MiB"


def cuda_version(number: int) -> str:
    """`12.4` for 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"
