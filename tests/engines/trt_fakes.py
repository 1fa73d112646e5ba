"""A stand-in of the modules `tensorrt` and `tensorrt_rtx_bindings` that computes on a fake device.

A plan is JSON. An embedding is made of the crop's bytes and passes through the activation memory,
so that a wrong address, size or order shows in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.cuda_fake import FakeDevice
from mip_edge.spec import Embeddings

VERSION = "10.3.0"


def write_plan(
    row: Sequence[int],
    dimension: int,
    *,
    unified: bool = False,
    max_batch: int = 32,
    memory: int = 4096,
) -> bytes:
    """`memory` bytes of activations at the largest batch."""
    plan = {"row": list(row), "dimension": dimension, "unified": unified}
    return json.dumps({**plan, "max_batch": max_batch, "memory": memory}).encode()


def embed(
    images: NDArray[np.uint8], dimension: int, modality: NDArray[np.int64] | None = None
) -> Embeddings:
    """What a fake plan computes: unit rows that tell crops and modalities apart."""
    rows = 1.0 + images.reshape(len(images), -1)
    weights = np.cos(np.arange(rows.shape[1])[:, None] * (1 + np.arange(dimension)))
    embeddings = rows @ weights + (0 if modality is None else modality[:, None] * 1000.0)
    return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32)


class FakeTrt:
    """One of the two modules; `compiles` makes it that of TensorRT-RTX."""

    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")

    def __init__(self, device: FakeDevice, *, compiles: bool = False, old: bool = False) -> None:
        """`old`: memory is set without its size, as before TensorRT 10.1."""
        self.__name__ = "tensorrt_rtx_bindings" if compiles else "tensorrt"
        self.__version__ = VERSION
        self.device = device
        self.compiles, self.old = compiles, old
        self.events: list[str] = []
        """What was made and what ended, in its order."""
        self.refuses: Callable[[str], bool] = lambda _: False
        self.capturable = True
        self.compiled: list[int] = []
        """Batch sizes that kernels were compiled for."""
        if compiles:
            self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

        class ILogger:
            ERROR, INTERNAL_ERROR, WARNING = "error", "internal", "warning"

            def log(self, severity: str, text: str) -> None:
                raise NotImplementedError

        self.ILogger = ILogger

    def Runtime(self, log: Any) -> FakeRuntime:
        return FakeRuntime(self, log)

    def nptype(self, kind: str) -> type:
        found: type = getattr(np, kind)
        return found


class _Named:
    """Tells the module when it goes."""

    name = ""

    def __init__(self, trt: FakeTrt) -> None:
        self.trt = trt
        trt.events.append(f"+{self.name}")

    def __del__(self) -> None:
        self.trt.events.append(f"-{self.name}")


class FakeRuntime(_Named):
    name = "runtime"
    engine_host_code_allowed = False

    def __init__(self, trt: FakeTrt, log: Any) -> None:
        super().__init__(trt)
        self.log = log

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        try:
            return FakeEngine(self.trt, self.log, json.loads(plan))
        except ValueError:
            self.log.log(self.trt.ILogger.ERROR, "magicTag\n  does not match")
            self.log.log(self.trt.ILogger.ERROR, "second")
            return None


class FakeEngine(_Named):
    name = "engine"

    def __init__(self, trt: FakeTrt, log: Any, plan: dict[str, Any]) -> None:
        super().__init__(trt)
        self.log, self.plan = log, plan
        self.tensors = {"images": ("uint8", (-1, *plan["row"]), "in")}
        if plan["unified"]:
            self.tensors["modality"] = ("int64", (-1,), "in")
        self.tensors["embeddings"] = ("float32", (-1, plan["dimension"]), "out")
        self.num_io_tensors = len(self.tensors)
        size = "device_memory_size" if trt.old else "device_memory_size_v2"
        setattr(self, size, plan["memory"])

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name: str) -> str:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def get_tensor_mode(self, name: str) -> str:
        return self.tensors[name][2]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        _, *row = self.tensors[name][1]
        return [(size, *row) for size in (1, 8, self.plan["max_batch"])]

    def create_runtime_config(self) -> FakeConfig:
        return FakeConfig()

    def create_execution_context(self, chosen: Any) -> FakeContext | None:
        if self.trt.compiles:
            assert chosen.strategy == "user"
            assert chosen.dynamic_shapes_kernel_specialization_strategy == "eager"
        else:
            assert chosen == "user"
        if self.trt.refuses("context"):
            self.log.log(self.trt.ILogger.ERROR, "no context today")
            return None
        kind = OldContext if self.trt.old else FakeContext
        return kind(self, getattr(chosen, "store", None))


class FakeStore:
    """Compiled kernels by batch size."""

    def __init__(self) -> None:
        self.counts: set[int] = set()

    def serialize(self) -> bytes:
        return json.dumps(sorted(self.counts)).encode()

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"["):
            return False
        self.counts = set(json.loads(blob))
        return True


class FakeConfig:
    strategy = ""
    dynamic_shapes_kernel_specialization_strategy = "lazy"
    store: FakeStore | None = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeStore:
        return FakeStore()

    def set_runtime_cache(self, store: FakeStore) -> bool:
        self.store = store
        return True


class _Context(_Named):
    name = "context"

    def __init__(self, engine: FakeEngine, store: FakeStore | None) -> None:
        super().__init__(engine.trt)
        self.engine, self.store = engine, store
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.block, self.size = 0, 0
        self.has_run = 0
        """The batch size of the last run outside a capture."""

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.tensors

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return bool(1 <= shape[0] <= self.engine.plan["max_batch"])

    def is_stream_capturable(self, stream: int) -> bool:
        return self.trt.capturable

    def execute_async_v3(self, stream: int) -> bool:
        trt, device, plan = self.trt, self.trt.device, self.engine.plan
        if trt.refuses("execute"):
            self.engine.log.log(trt.ILogger.ERROR, "Error Code 1: Cuda Runtime (out of memory)")
            return False
        count, block, size = self.shapes["images"][0], self.block, self.size
        if device.held().get("captures"):
            assert self.has_run == count, "a shape is captured only after it has run once"
        elif self.store is not None and count not in self.store.counts:
            self.store.counts.add(count)
            trt.compiled.append(count)
        self.has_run = count
        addresses = dict(self.addresses)  # a graph keeps those of its capture

        def read(name: str, kind: type, row: Sequence[int]) -> NDArray[Any]:
            wide = count * int(np.prod(row, dtype=int)) * np.dtype(kind).itemsize
            return device.view(addresses[name], wide).view(kind).reshape(count, *row)

        def run() -> None:
            images = read("images", np.uint8, plan["row"])
            modality = read("modality", np.int64, ()) if plan["unified"] else None
            assert size >= plan["memory"]
            scratch = device.view(block, plan["memory"])
            scratch[:] = 0
            made = embed(images, plan["dimension"], modality)
            read("embeddings", np.float32, (plan["dimension"],))[:] = made

        device.enqueue(run, stream)
        return True


class FakeContext(_Context):
    def set_device_memory(self, memory: int, size: int) -> None:
        self.block, self.size = memory, size


class OldContext(_Context):
    @property
    def device_memory(self) -> int:
        return self.block

    @device_memory.setter
    def device_memory(self, memory: int) -> None:
        self.block, self.size = memory, 1 << 30
