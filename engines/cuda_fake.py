"""A device in host memory, for tests: it queues, captures and forgets as CUDA does, and is strict.

Copies happen when the stream is waited for, a captured operation only when its graph is launched,
and memory that was given back cannot be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from engines.cuda import OUT_OF_MEMORY, CudaError, DeviceFacts, Pinned

_ALIGNMENT = 256
_FIRST_ADDRESS = 1 << 20

Kernel = Callable[["FakeDevice", tuple[int, int], int, Sequence[int], Sequence[int]], None]
"""Gets the device, the grid, the threads of a block, the addresses and the numbers."""


class FakeDevice:
    """Device memory, pinned memory, streams and graphs, all counted."""

    def __init__(
        self,
        *,
        name: str = "Fake GPU",
        capability: str = "8.6",
        total: int = 1 << 30,
        captures: bool = True,
        failing: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """`failing` gets the name of each call and gives the CUDA error it shall end with."""
        self.facts = DeviceFacts(name, capability, "13.0", "the fake device")
        self.captures = captures
        self.failing = failing
        self.total = total
        self.calls: list[str] = []
        """Every call in its order; `run` is an operation that a stream has done."""
        self.entered = 0
        self._next = _FIRST_ADDRESS
        self._blocks: dict[int, NDArray[np.uint8]] = {}
        self._pinned: dict[int, Pinned] = {}
        self._streams: dict[int, list[Callable[[], None]]] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._modules: dict[int, bytes] = {}
        self.kernels: dict[str, Kernel] = {}
        """What stands in for each kernel, by name."""
        self._capturing: dict[int, list[Callable[[], None]]] = {}

    def held(self) -> dict[str, int]:
        """What was taken and not given back, by kind; empty after the last close."""
        kinds: dict[str, Sized] = {
            "device memory": self._blocks, "pinned memory": self._pinned,
            "streams": self._streams, "graphs": self._graphs, "captures": self._capturing,
            "modules": self._modules,
        }  # fmt: skip
        return {kind: len(things) for kind, things in kinds.items() if things}

    def count(self, call: str) -> int:
        """How often it was called."""
        return Counter(self.calls)[call]

    @contextmanager
    def current(self) -> Iterator[None]:
        """Count how deep."""
        self._call("current", inside=False)
        self.entered += 1
        try:
            yield
        finally:
            self.entered -= 1

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and all there are."""
        self._call("memory")
        return self.total - sum(block.nbytes for block in self._blocks.values()), self.total

    def allocate(self, size: int) -> int:
        """Filled with 0xA5, so that nobody counts on zeros."""
        self._call("allocate")
        free, _ = self.memory()
        if size > free:
            raise CudaError(OUT_OF_MEMORY, f"taking {size} bytes", "out of memory")
        address = self._take(size)
        self._blocks[address] = np.full(size, 0xA5, np.uint8)
        return address

    def free(self, address: int) -> None:
        """Its bytes cannot be read any more."""
        self._call("free")
        del self._blocks[address]

    def pin(self, size: int) -> Pinned:
        """An array like any other, but noted."""
        self._call("pin")
        pinned = np.full(size, 0xA5, np.uint8)
        self._pinned[pinned.ctypes.data] = pinned
        return pinned

    def unpin(self, pinned: Pinned) -> None:
        """What was pinned, not a part of it."""
        self._call("unpin")
        del self._pinned[pinned.ctypes.data]

    def create_stream(self) -> int:
        """An empty queue."""
        self._call("create_stream")
        stream = self._take(1)
        self._streams[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        """Refused while something waits in it."""
        self._call("destroy_stream")
        if self._streams.pop(stream):
            raise CudaError("cudaErrorInvalidResourceHandle", "ending a stream", "it is not done")

    def upload(self, address: int, pinned: Pinned, stream: int) -> None:
        """Reads the pinned bytes when it runs, as a real copy does."""
        self._call("upload")
        self._check_pinned(pinned)

        def copy() -> None:
            self.view(address, pinned.nbytes)[:] = pinned

        self.enqueue(copy, stream)

    def download(self, pinned: Pinned, address: int, stream: int) -> None:
        """Writes the pinned bytes when it runs."""
        self._call("download")
        self._check_pinned(pinned)

        def copy() -> None:
            pinned[:] = self.view(address, pinned.nbytes)

        self.enqueue(copy, stream)

    def synchronize(self, stream: int) -> None:
        """Do all that is queued."""
        self._call("synchronize")
        if stream in self._capturing:
            raise CudaError("cudaErrorStreamCaptureUnsupported", "waiting", "the stream captures")
        queue, self._streams[stream] = self._streams[stream], []
        for operation in queue:
            self.calls.append("run")
            operation()

    def begin_capture(self, stream: int) -> None:
        """Record from now on."""
        self._call("begin_capture")
        self._capturing[stream] = []

    def end_capture(self, stream: int) -> int:
        """Recording ends even where this fails, as with CUDA."""
        recorded = self._capturing.pop(stream)
        self._call("end_capture")
        graph = self._take(1)
        self._graphs[graph] = recorded
        return graph

    def launch(self, graph: int, stream: int) -> None:
        """Queue what was recorded."""
        self._call("launch")
        self._streams[stream].extend(self._graphs[graph])

    def destroy_graph(self, graph: int) -> None:
        """It cannot be launched any more."""
        self._call("destroy_graph")
        del self._graphs[graph]

    def load_module(self, ptx: bytes) -> int:
        """Only that there is something is looked at; `kernels` computes."""
        self._call("load_module")
        module = self._take(1)
        self._modules[module] = ptx
        return module

    def unload_module(self, module: int) -> None:
        """Its kernels cannot be launched any more."""
        self._call("unload_module")
        del self._modules[module]

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
        """Queue the stand-in of that name."""
        self._call("launch_kernel")
        if module not in self._modules or name.encode() not in self._modules[module]:
            raise CudaError("CUDA_ERROR_NOT_FOUND", f"launching the kernel {name}", "not found")
        kernel = self.kernels[name]
        self.enqueue(lambda: kernel(self, grid, threads, addresses, numbers), stream)

    def copy_graph(self, graph: int, flags: int) -> int:
        """A graph of the same operations, as CUDA makes the one that runs from the recording."""
        assert flags == 0
        copied = self._take(1)
        self._graphs[copied] = list(self._graphs[graph])
        return copied

    def enqueue(self, operation: Callable[[], None], stream: int) -> None:
        """What a runtime does with a stream: queue it, or record it."""
        self._capturing.get(stream, self._streams[stream]).append(operation)

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """Bytes of the device at any address inside a block. Raises: CudaError outside."""
        for start, block in self._blocks.items():
            if start <= address and address + size <= start + block.nbytes:
                return block[address - start : address - start + size]
        raise CudaError("cudaErrorIllegalAddress", "reading memory", "an illegal memory access")

    def _take(self, size: int) -> int:
        """A number that was never given out before."""
        address = self._next
        self._next += -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
        return address

    def _check_pinned(self, part: Pinned) -> None:
        """Copies from other memory would not be asynchronous."""
        start = part.ctypes.data
        if not any(
            first <= start and start + part.nbytes <= first + whole.nbytes
            for first, whole in self._pinned.items()
        ):
            raise CudaError("cudaErrorInvalidValue", "copying", "this memory is not pinned")

    def _call(self, name: str, *, inside: bool = True) -> None:
        self.calls.append(name)
        if inside and not self.entered:
            raise CudaError("cudaErrorDeviceUninitialized", name, "the device is not current")
        if error := self.failing(name):
            raise CudaError(error, name, "as the test wants it")
