"""The operations of `engines.cuda` on cuda-bindings: wheels for x86-64 and aarch64, CUDA 12 and 13.

It imports without a driver. Every call and constant that stands here is looked up in a test; what
they do on a GPU is for the tests marked `gpu`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

from engines.cuda import (
    NO_DEVICE,
    OLD_DRIVER,
    OUT_OF_MEMORY,
    CudaError,
    DeviceFacts,
    Pinned,
    cuda_version,
    driver_error,
    mebibytes,
)

_DRIVER_NAMES = {
    "CUDA_ERROR_OUT_OF_MEMORY": OUT_OF_MEMORY,
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "cudaErrorUnsupportedPtxVersion",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "cudaErrorIllegalAddress",
}
"""Errors of the driver that have a way out, by the runtime's names."""


class BindingsDevice:
    """The first GPU through the CUDA runtime of `cuda.bindings` (12 or 13), on the context that
    other users of the runtime in this process share."""

    captures = True
    _index = 0

    def __init__(self, runtime: Any) -> None:
        """`runtime` is the module `cuda.bindings.runtime`."""
        self._cuda = runtime
        (built,) = self._call("asking for its version", runtime.cudaRuntimeGetVersion)
        library = f"cuda-bindings for CUDA {cuda_version(built)}"
        (served,) = self._call("asking for the driver", runtime.cudaDriverGetVersion)
        try:
            (count,) = self._call("looking for a GPU", runtime.cudaGetDeviceCount)
        except CudaError as error:
            if error.name == OLD_DRIVER:
                raise driver_error(library, served) from error
            raise
        if count == 0:
            raise CudaError(NO_DEVICE, "looking for a GPU", "CUDA shows none")
        attributes, asking = runtime.cudaDeviceAttr, "asking for the GPU"
        capability = [
            self._call(asking, runtime.cudaDeviceGetAttribute, attribute, self._index)[0]
            for attribute in (
                attributes.cudaDevAttrComputeCapabilityMajor,
                attributes.cudaDevAttrComputeCapabilityMinor,
            )
        ]
        (properties,) = self._call(asking, runtime.cudaGetDeviceProperties, self._index)
        self.facts = DeviceFacts(
            name=_text(properties.name),
            capability=".".join(map(str, capability)),
            driver=cuda_version(served),
            library=library,
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """The runtime keeps one device a thread."""
        self._call("choosing the GPU", self._cuda.cudaSetDevice, self._index)
        yield

    def allocate(self, size: int) -> int:
        """cudaMalloc."""
        doing = f"taking {mebibytes(size)} of GPU memory"
        return int(self._call(doing, self._cuda.cudaMalloc, size)[0])

    def free(self, address: int) -> None:
        """cudaFree, which waits for the device."""
        self._call("giving GPU memory back", self._cuda.cudaFree, address)

    def pin(self, size: int) -> Pinned:
        """cudaMallocHost."""
        doing = f"taking {mebibytes(size)} of page-locked memory"
        (address,) = self._call(doing, self._cuda.cudaMallocHost, size)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(int(address)))

    def unpin(self, pinned: Pinned) -> None:
        """cudaFreeHost."""
        doing = "giving page-locked memory back"
        self._call(doing, self._cuda.cudaFreeHost, pinned.ctypes.data)

    def create_stream(self) -> int:
        """A stream that does not wait for the default one, as capture wants it."""
        doing, flags = "making a stream", self._cuda.cudaStreamNonBlocking
        return int(self._call(doing, self._cuda.cudaStreamCreateWithFlags, flags)[0])

    def destroy_stream(self, stream: int) -> None:
        """cudaStreamDestroy."""
        self._call("ending a stream", self._cuda.cudaStreamDestroy, stream)

    def upload(self, address: int, pinned: Pinned, stream: int) -> None:
        """cudaMemcpyAsync, host to device."""
        self._call(
            "copying to the GPU", self._cuda.cudaMemcpyAsync, address, pinned.ctypes.data,
            pinned.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice, stream,
        )  # fmt: skip

    def download(self, pinned: Pinned, address: int, stream: int) -> None:
        """cudaMemcpyAsync, device to host."""
        self._call(
            "copying from the GPU", self._cuda.cudaMemcpyAsync, pinned.ctypes.data, address,
            pinned.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream,
        )  # fmt: skip

    def synchronize(self, stream: int) -> None:
        """cudaStreamSynchronize."""
        self._call("waiting for the GPU", self._cuda.cudaStreamSynchronize, stream)

    def begin_capture(self, stream: int) -> None:
        """Capture of this thread alone: what other threads allocate does not end it."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("beginning a CUDA graph", self._cuda.cudaStreamBeginCapture, stream, mode)

    def end_capture(self, stream: int) -> int:
        """The executable graph; the recording itself is given back at once."""
        doing = "capturing a CUDA graph"
        recorded = int(self._call(doing, self._cuda.cudaStreamEndCapture, stream)[0])
        try:
            instantiate = self._cuda.cudaGraphInstantiateWithFlags
            return int(self._call(doing, instantiate, recorded, 0)[0])
        finally:
            self._call(doing, self._cuda.cudaGraphDestroy, recorded)

    def launch(self, graph: int, stream: int) -> None:
        """cudaGraphLaunch."""
        self._call("launching a CUDA graph", self._cuda.cudaGraphLaunch, graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """cudaGraphExecDestroy."""
        self._call("giving a CUDA graph back", self._cuda.cudaGraphExecDestroy, graph)

    def load_module(self, ptx: bytes) -> int:
        """cuModuleLoadData; PTX ends with a zero byte."""
        module = self._drive("loading a kernel", "cuModuleLoadData", ptx + b"\0")
        return int(module[0])

    def unload_module(self, module: int) -> None:
        """cuModuleUnload."""
        self._drive("giving a kernel back", "cuModuleUnload", module)

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
        """cuLaunchKernel."""
        doing = f"launching the kernel {name}"
        (kernel,) = self._drive(doing, "cuModuleGetFunction", module, name.encode())
        kinds = (*(ctypes.c_void_p for _ in addresses), *(ctypes.c_int for _ in numbers))
        self._drive(
            doing, "cuLaunchKernel", kernel, *grid, 1, threads, 1, 1, 0, stream,
            ((*addresses, *numbers), kinds), 0,
        )  # fmt: skip

    def _drive(self, doing: str, name: str, *arguments: Any) -> tuple[Any, ...]:
        """What a call of the driver gives: the runtime of CUDA 12.6 loads no modules."""
        driver = import_module("cuda.bindings.driver")
        code, *values = getattr(driver, name)(*arguments)
        if code == driver.CUresult.CUDA_SUCCESS:
            return tuple(values)
        told = _text(driver.cuGetErrorName(code)[1])
        raise CudaError(
            _DRIVER_NAMES.get(told, told), doing, _text(driver.cuGetErrorString(code)[1])
        )

    def _call(self, doing: str, function: Any, *arguments: Any) -> tuple[Any, ...]:
        """What a call gives behind its error code. Raises: CudaError."""
        code, *values = function(*arguments)
        if code == self._cuda.cudaError_t.cudaSuccess:
            return tuple(values)
        name = _text(self._cuda.cudaGetErrorName(code)[1])
        detail = ""
        if name == OUT_OF_MEMORY:
            missing, free, total = self._cuda.cudaMemGetInfo()
            if missing == self._cuda.cudaError_t.cudaSuccess:
                detail = f"{mebibytes(free)} of {mebibytes(total)} are free"
        self._cuda.cudaGetLastError()  # else the next call that looks for it tells it again
        raise CudaError(name, doing, _text(self._cuda.cudaGetErrorString(code)[1]), detail=detail)


def _text(words: bytes | str) -> str:
    return words.decode(errors="replace") if isinstance(words, bytes) else words
