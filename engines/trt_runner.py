"""Runs a plan of TensorRT or TensorRT-RTX: buffers made once, one stream, CUDA graphs.

One code path for the modules `tensorrt` (10.3 to 11) and `tensorrt_rtx_bindings`; the module and
the device come from outside, so the whole way runs in tests on stand-ins of both.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.arena import shared_arena
from engines.base import Inputs
from engines.cuda import CudaError, Device, DeviceBatch
from engines.trt_log import log_of, logged_reason, way_out
from engines.trt_tensor import Signature, Tensor, in_words, promised
from mip_edge.errors import EngineError
from mip_edge.spec import EmbedderSpec, Embeddings, Modality

logger = logging.getLogger(__name__)

MAX_GRAPHS = 8
"""Batch sizes with a CUDA graph, the first that come: each keeps a context of its own."""
_ON_DEVICE = 0
"""Instead of a batch size: the context for crops that are on the device."""
CLEAR = "Clear it with: mip-edge cache clear"


@dataclass(slots=True)
class _Slot:
    """An execution context, and the graph that was captured from it."""

    context: Any
    graph: int | None = None


class Runner:
    """One plan, open on one device."""

    def __init__(
        self,
        trt: Any,
        plan: bytes,
        specs: Mapping[Modality, EmbedderSpec],
        device: Device,
        *,
        what: str,
        cuda_graphs: bool = True,
        host_code: bool = False,
        kernels: bytes | None = None,
    ) -> None:
        """`what` names the plan in messages; `host_code` lets a version-compatible plan run the
        runtime that it brings; `kernels` are what `compile_kernels` gave before.

        Raises: EngineError if the runtime refuses the plan or the plan is not of this bundle;
        CudaError if the device refuses. Nothing stays taken then.
        """
        self._trt, self._device, self._what = trt, device, what
        self._arena = shared_arena(device)
        self._slots: dict[int | None, _Slot] = {}
        self._graphs_on = cuda_graphs
        with device.current(), ExitStack() as stack:
            self._runtime, self._engine = self._deserialize(plan, host_code)
            stack.callback(self._forget_engine)
            self._configure(kernels)
            self.max_batch = self._check(specs)
            self._stream = device.create_stream()
            stack.callback(device.destroy_stream, self._stream)
            self._inputs = {
                name: self._make(stack, name) for name in ("images", "modality")[: len(specs)]
            }
            self._output = self._make(stack, "embeddings")
            with self._arena.lock:  # the block does not move under the first context
                self._arena.enter(self._memory())
                stack.callback(self._arena.leave)
                self._block = self._arena.address
                stack.callback(self._forget_contexts)
                self._slot(1)  # what a context lacks is told now, not at the first crop
            if cuda_graphs and not device.captures:
                self._turn_graphs_off(f"{device.facts.library} captures none")
            self._taken = stack.pop_all()

    def embed(self, inputs: Inputs) -> Embeddings:
        """(N, D) of 1 <= N <= max_batch crops, in memory of the caller's own.

        Raises: EngineError if the runtime refuses, CudaError if the device does.
        """
        count = len(inputs["images"])
        with self._arena.lock, self._device.current():
            self._follow_block()
            for name, tensor in self._inputs.items():
                np.copyto(tensor.host[:count], inputs[name])
            slot = self._slot(count)
            if slot.graph is not None:
                self._device.launch(slot.graph, self._stream)
            else:
                log_of(self._trt).messages.clear()  # a refusal is told by its own reason
                self._set_shapes(slot.context, count)
                self._enqueue(slot.context, count)
            self._device.synchronize(self._stream)
            embeddings: Embeddings = self._output.host[:count].copy()
            if slot.graph is None and slot is not self._slots.get(None):
                self._capture(slot, count)
        return embeddings

    @property
    def device(self) -> Device:
        """Where it computes."""
        return self._device

    def embed_on_device(self, batch: DeviceBatch, row: int) -> Embeddings:
        """The same of crops that are on the device, behind what their stream has still to do.

        `row` is their `Modality.row`, for a plan of both. No graph is captured: their address may
        be another each time. Raises: as `embed`.
        """
        with self._arena.lock, self._device.current():
            self._follow_block()
            log_of(self._trt).messages.clear()
            if (slot := self._slots.get(_ON_DEVICE)) is None:
                slot = self._slots.setdefault(_ON_DEVICE, _Slot(self._create_context()))
            if not slot.context.set_tensor_address("images", batch.address):
                raise self._refusal("setting the address of images")
            self._set_shapes(slot.context, batch.count)
            if modality := self._inputs.get("modality"):
                modality.host[: batch.count] = row
                modality.upload(self._device, batch.count, batch.stream)
            if not slot.context.execute_async_v3(batch.stream):
                raise self._refusal(f"running {batch.count} crops")
            self._output.download(self._device, batch.count, batch.stream)
            self._device.synchronize(batch.stream)
            embeddings: Embeddings = self._output.host[: batch.count].copy()
        return embeddings

    def close(self) -> None:
        """Wait for the device and give all back, the last taken first."""
        with self._arena.lock, self._device.current():
            self._taken.close()

    def compile_kernels(self, counts: Iterable[int]) -> bytes:
        """What TensorRT-RTX compiles for batches of these sizes, for the next time it opens."""
        for count in sorted(counts):
            zeros = {
                name: np.zeros((count, *tensor.row), tensor.dtype)
                for name, tensor in self._inputs.items()
            }
            self.embed(zeros)
        assert self._compiled is not None  # TensorRT-RTX alone is asked
        return bytes(memoryview(self._compiled.serialize()))

    def _deserialize(self, plan: bytes, host_code: bool) -> tuple[Any, Any]:
        log = log_of(self._trt)
        log.messages.clear()
        try:
            runtime = self._trt.Runtime(log)
            if host_code:
                runtime.engine_host_code_allowed = True
            engine = runtime.deserialize_cuda_engine(plan)
        except (RuntimeError, TypeError) as error:  # what the bindings make of a null pointer
            reason = logged_reason(self._trt, log) or str(error)
            raise EngineError(f"{self._what} cannot be opened: {reason}") from error
        if engine is None:
            reason = logged_reason(self._trt, log) or "no reason given"
            way = way_out(
                reason, f"it was built for another GPU or version, or is damaged. {CLEAR}"
            )
            raise EngineError(f"{self._what} is refused: {reason}; {way}")
        return runtime, engine

    def _configure(self, kernels: bytes | None) -> None:
        """How contexts are made: with TensorRT-RTX from a configuration that holds its kernels."""
        trt = self._trt
        self._how = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._compiled = None
        if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            return
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._how)
        # TensorRT-RTX compiles kernels for each batch size. In the background, as it does by
        # default, a graph would keep the slow ones that were there when it was captured.
        eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        self._compiled = config.create_runtime_cache()
        if kernels is not None and not self._compiled.deserialize(kernels):
            logger.warning("%s: kernels compiled before do not fit, compiled anew", self._what)
        config.set_runtime_cache(self._compiled)
        self._how = config

    def _check(self, specs: Mapping[Modality, EmbedderSpec]) -> int:
        """Compare the plan with what the bundle promises; its largest batch."""
        # No local name for the engine here and below: an error that is kept, kept it too.
        expected = promised(specs)
        found = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            kind = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
            is_input = self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            shape = tuple(self._engine.get_tensor_shape(name))
            found[name] = Signature(kind, shape, is_input)
        if found != expected:
            raise EngineError(
                f"{self._what} is of another bundle: it has {in_words(found)}, expected "
                f"{in_words(expected)}. {CLEAR}"
            )
        _, _, largest = self._engine.get_tensor_profile_shape("images", 0)
        return int(largest[0])

    def _make(self, stack: ExitStack, name: str) -> Tensor:
        """Memory of the largest batch, on both sides."""
        row = tuple(self._engine.get_tensor_shape(name))[1:]
        dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        return Tensor.make(self._device, row, dtype, self.max_batch, stack=stack)

    def _memory(self) -> int:
        """Bytes of activations at the largest batch; `_v2` came with TensorRT 10.1."""
        newer = getattr(self._engine, "device_memory_size_v2", None)
        return int(self._engine.device_memory_size if newer is None else newer)

    def _slot(self, count: int) -> _Slot:
        """The context for a batch: one of its own if a graph is to be captured from it.

        NVIDIA's advice: a context that captured a graph is not used for anything else after it.
        """
        if slot := self._slots.get(count if self._graphs_on else None):
            return slot
        graphs = sum(key not in {None, _ON_DEVICE} for key in self._slots)
        if self._graphs_on and graphs < MAX_GRAPHS:
            try:
                return self._slots.setdefault(count, _Slot(self._create_context()))
            except EngineError as error:
                if not self._slots:
                    raise
                self._turn_graphs_off(str(error))
        if slot := self._slots.get(None):
            return slot
        if self._graphs_on:
            logger.info(
                "%s: %d batch sizes have a CUDA graph, others run without", self._what, graphs
            )
        return self._slots.setdefault(None, _Slot(self._create_context()))

    def _create_context(self) -> Any:
        log_of(self._trt).messages.clear()
        context = self._engine.create_execution_context(self._how)
        if context is None:
            raise self._refusal("making an execution context")
        tensors = {**self._inputs, "embeddings": self._output}
        for name, tensor in tensors.items():
            if not context.set_tensor_address(name, tensor.address):
                raise self._refusal(f"setting the address of {name}")
        self._attach(context)
        return context

    def _attach(self, context: Any) -> None:
        """Give a context the shared block; with a size since TensorRT 10.1."""
        if not self._arena.size:  # all of them compute without
            return
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(self._arena.address, self._arena.size)
        else:
            context.device_memory = self._arena.address

    def _follow_block(self) -> None:
        """Another engine may have made the block larger: it has moved, and graphs know the old."""
        if self._block == self._arena.address:
            return
        for slot in self._slots.values():
            self._forget_graph(slot)
            self._attach(slot.context)
        self._block = self._arena.address

    def _set_shapes(self, context: Any, count: int) -> None:
        for name, tensor in self._inputs.items():
            if not context.set_input_shape(name, (count, *tensor.row)):
                raise self._refusal(f"setting a batch of {count} crops")

    def _enqueue(self, context: Any, count: int) -> None:
        for tensor in self._inputs.values():
            tensor.upload(self._device, count, self._stream)
        if not context.execute_async_v3(self._stream):
            raise self._refusal(f"running {count} crops")
        self._output.download(self._device, count, self._stream)

    def _capture(self, slot: _Slot, count: int) -> None:
        """Record what has just run once, as it must have: a new shape defers work to its first run.

        Where that fails the engine goes on without graphs, and says so.
        """
        if not self._graphs_on:
            return
        capturable = getattr(slot.context, "is_stream_capturable", None)
        try:
            if capturable is not None and not capturable(self._stream):
                raise EngineError("the runtime says that this plan cannot be captured")
            self._device.begin_capture(self._stream)
            try:
                self._enqueue(slot.context, count)
            except BaseException:
                with suppress(CudaError):  # of the two the first tells more
                    self._device.destroy_graph(self._device.end_capture(self._stream))
                raise
            slot.graph = self._device.end_capture(self._stream)
        except EngineError as error:
            self._turn_graphs_off(str(error))

    def _turn_graphs_off(self, reason: str) -> None:
        self._graphs_on = False
        logger.warning(
            "%s: no CUDA graphs, every kernel is launched by itself: %s", self._what, reason
        )
        for slot in self._slots.values():
            self._forget_graph(slot)
        self._slots = dict.fromkeys([None], next(iter(self._slots.values())))

    def _refusal(self, doing: str) -> EngineError:
        reason = logged_reason(self._trt, log_of(self._trt)) or "no reason given"
        told = f"{self._what}: the runtime refuses while {doing}: {reason}"
        way = way_out(reason)
        return EngineError(f"{told}; {way}" if way else told)

    def _forget_graph(self, slot: _Slot) -> None:
        graph, slot.graph = slot.graph, None
        if graph is not None:
            self._device.destroy_graph(graph)

    def _forget_contexts(self) -> None:
        try:
            self._device.synchronize(self._stream)
            for slot in self._slots.values():
                self._forget_graph(slot)
        finally:
            self._slots.clear()

    def _forget_engine(self) -> None:
        # in this order: each outlives what it made
        self._how = self._compiled = None
        del self._engine
        del self._runtime
