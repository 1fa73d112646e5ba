"""The operations of `engines.cuda` on PyCUDA, which Jetsons and CUDA developer images can build.

Written by its documentation: PyCUDA has no wheels, and neither builds nor imports without CUDA's
compiler and driver, so this ran nowhere yet but on a stand-in of the same calls. PyCUDA captures
no graphs; cuda-bindings does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

_FAILED = re.compile(r"(\w+) failed: (.+)")
_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING."""
_NAMES = {
    "out of memory": OUT_OF_MEMORY,
    "no CUDA-capable device is detected": NO_DEVICE,
    "CUDA driver version is insufficient for CUDA runtime version": OLD_DRIVER,
    "an illegal memory access was encountered": "cudaErrorIllegalAddress",
    "unspecified launch failure": "cudaErrorLaunchFailure",
    "the launch timed out and was terminated": "cudaErrorLaunchTimeout",
}
"""PyCUDA tells an error in words only; those that have a way out, by CUDA's name."""


class PycudaDevice:
    """The first GPU, on the primary context that TensorRT shares."""

    captures = False

    def __init__(self, driver: Any) -> None:
        """`driver` is the module `pycuda.driver`."""
        self._cuda = driver
        self._call("looking for a GPU", driver.init)
        served = int(self._call("asking for the driver", driver.get_driver_version))
        if self._call("looking for a GPU", driver.Device.count) == 0:
            raise CudaError(NO_DEVICE, "looking for a GPU", "CUDA shows none")
        device = self._call("asking for the GPU", driver.Device, 0)
        version = ".".join(map(str, driver.get_version()))
        self.facts = DeviceFacts(
            name=str(device.name()),
            capability=".".join(map(str, device.compute_capability())),
            driver=cuda_version(served),
            library=f"PyCUDA for CUDA {version}",
        )
        built, serves = driver.get_version()[0], served // 1000
        if serves < built:
            raise driver_error(self.facts.library, served)
        self._context = self._call("opening the GPU", device.retain_primary_context)
        # PyCUDA frees with its own objects; the protocol speaks of numbers.
        self._streams: dict[int, Any] = {}
        self._blocks: dict[int, Any] = {}
        self._modules: dict[int, Any] = {}

    @contextmanager
    def current(self) -> Iterator[None]:
        """Push the context for the length of a block."""
        self._call("choosing the GPU", self._context.push)
        try:
            yield
        finally:
            self._call("leaving the GPU", self._cuda.Context.pop)

    def allocate(self, size: int) -> int:
        """mem_alloc."""
        doing = f"taking {mebibytes(size)} of GPU memory"
        block = self._call(doing, self._cuda.mem_alloc, size)
        self._blocks[int(block)] = block
        return int(block)

    def free(self, address: int) -> None:
        """The allocation's own `free`."""
        self._call("giving GPU memory back", self._blocks.pop(address).free)

    def pin(self, size: int) -> Pinned:
        """pagelocked_empty."""
        doing = f"taking {mebibytes(size)} of page-locked memory"
        pinned: Pinned = self._call(doing, self._cuda.pagelocked_empty, size, np.uint8)
        return pinned

    def unpin(self, pinned: Pinned) -> None:
        """The array stands on its allocation."""
        allocation: Any = pinned.base
        self._call("giving page-locked memory back", allocation.free)

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""
        stream = self._call("making a stream", self._cuda.Stream, _NON_BLOCKING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        """PyCUDA ends a stream with its object."""
        self._streams.pop(stream)

    def upload(self, address: int, pinned: Pinned, stream: int) -> None:
        """memcpy_htod_async."""
        copy = self._cuda.memcpy_htod_async
        self._call("copying to the GPU", copy, address, pinned, self._streams[stream])

    def download(self, pinned: Pinned, address: int, stream: int) -> None:
        """memcpy_dtoh_async."""
        copy = self._cuda.memcpy_dtoh_async
        self._call("copying from the GPU", copy, pinned, address, self._streams[stream])

    def synchronize(self, stream: int) -> None:
        """The stream's own `synchronize`."""
        self._call("waiting for the GPU", self._streams[stream].synchronize)

    def begin_capture(self, stream: int) -> None:
        """Refused."""
        raise self._no_capture()

    def end_capture(self, stream: int) -> int:
        """Refused."""
        raise self._no_capture()

    def launch(self, graph: int, stream: int) -> None:
        """Refused."""
        raise self._no_capture()

    def destroy_graph(self, graph: int) -> None:
        """Refused."""
        raise self._no_capture()

    def load_module(self, ptx: bytes) -> int:
        """module_from_buffer; PTX ends with a zero byte."""
        load = self._cuda.module_from_buffer
        module = self._call("loading a kernel", load, ptx + b"\0")
        self._modules[id(module)] = module
        return id(module)

    def unload_module(self, module: int) -> None:
        """PyCUDA unloads a module with its object."""
        self._modules.pop(module)

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
        """A function of the module, called with numpy's numbers."""
        doing = f"launching the kernel {name}"
        kernel = self._call(doing, self._modules[module].get_function, name)
        arguments = [*map(np.uint64, addresses), *map(np.int32, numbers)]

        def launch() -> None:
            kernel(*arguments, block=(threads, 1, 1), grid=grid, stream=self._streams[stream])

        self._call(doing, launch)

    def _no_capture(self) -> CudaError:
        return CudaError(
            "cudaErrorNotSupported", "capturing a CUDA graph", "PyCUDA has no capture",
            way="cuda-bindings has: choose --engine-option cuda=bindings",
        )  # fmt: skip

    def _call(self, doing: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a call gives. Raises: CudaError with the name that its words have in CUDA."""
        try:
            return function(*arguments)
        except self._cuda.Error as error:
            words = str(error).strip().splitlines()[0]
            failed = _FAILED.search(words)
            call, text = failed.groups() if failed else ("PyCUDA", words)
            raise CudaError(_NAMES.get(text, call), doing, text) from error
