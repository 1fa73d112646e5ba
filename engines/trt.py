"""Backends of TensorRT and TensorRT-RTX: a plan from the cache or built into it, run on the GPU."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

from engines.base import Inputs
from engines.build_trt import (
    CAPABILITIES,
    MODULES,
    RTX,
    BuildOptions,
    check_options,
    library_version,
)
from engines.cache import EngineCache, EngineKey
from engines.cuda import Device, DeviceBatch, open_device
from engines.plan import plan_key, read_plan
from engines.trt_runner import Runner
from mip_edge.artifact import Bundle
from mip_edge.errors import EngineError
from mip_edge.spec import Embeddings, Modality

_BEFORE = "compute capability "
"""What the key of a TensorRT-RTX plan says before its compute capabilities."""


class TrtBackend:
    """TensorRT 10.3 to 11: the plan is built on the GPU that runs it, once for its driver."""

    def __init__(self, source: Bundle, modality: Modality, runner: Runner) -> None:
        self.specs = source.specs_with(modality)
        self.max_batch = runner.max_batch
        self._runner = runner

    @classmethod
    def open(
        cls,
        source: Bundle,
        modality: Modality,
        *,
        threads: int | None,  # noqa: ARG003 - part of the contract; the GPU computes
        precision: str,
        max_batch: int = 32,
        workspace: int | None = None,
        cuda: str | None = None,
        cuda_graphs: bool = True,
        hardware_compatible: bool = False,
        version_compatible: bool = False,
        dla: bool = False,
    ) -> TrtBackend:
        """Open the graph of one modality of a verified bundle; a first time takes minutes.

        `workspace` is the most that one layer may take while building, in MiB; `cuda` is
        `bindings` or `pycuda`. Raises: EngineError without GPU, driver or library, if one of them
        refuses, or for `dla`.
        """
        options = BuildOptions(
            module="tensorrt",
            max_batch=max_batch,
            workspace_bytes=_bytes(workspace),
            hardware_compatible=hardware_compatible,
            version_compatible=version_compatible,
            dla=dla,
        )
        check_options(options)  # before a GPU is looked for
        device = open_device(cuda)
        trt, graph = _library("tensorrt"), source.graph_path(modality, precision)
        with device.current():
            plan = read_plan(
                source, modality, precision, options, cache=EngineCache(),
                device=device.facts.device, driver=device.facts.driver,
            )  # fmt: skip
        runner = Runner(
            trt, plan, source.specs_with(modality), device, what=_what("tensorrt", trt, graph),
            cuda_graphs=cuda_graphs, host_code=version_compatible,
        )  # fmt: skip
        return cls(source, modality, runner)

    def embed(self, inputs: Inputs) -> Embeddings:
        """(N, D) in memory of its own."""
        return self._runner.embed(inputs)

    @property
    def device(self) -> Device:
        """The GPU that computes."""
        return self._runner.device

    def embed_on_device(self, batch: DeviceBatch, modality: Modality) -> Embeddings:
        """(N, D) in memory of its own, of crops that are on the GPU."""
        return self._runner.embed_on_device(batch, modality.row)

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._runner.close()


class RtxBackend(TrtBackend):
    """TensorRT-RTX: the plan was built ahead of time anywhere, or is built now."""

    @classmethod
    def open(  # type: ignore[override]  # the options of plans for one device only are not there
        cls,
        source: Bundle,
        modality: Modality,
        *,
        threads: int | None,  # noqa: ARG003
        precision: str,
        max_batch: int = 32,
        workspace: int | None = None,
        cuda: str | None = None,
        cuda_graphs: bool = True,
    ) -> RtxBackend:
        """Open the graph of one modality of a verified bundle; a first time takes seconds.

        `workspace` and `cuda` are those of TensorRT. A plan that `mip-edge build` left in the cache
        serves if this GPU's compute capability is among its own. Raises: EngineError without GPU,
        driver or library, if one of them refuses, or for a GPU that TensorRT-RTX does not know.
        """
        device = open_device(cuda)
        trt, graph = _library(RTX), source.graph_path(modality, precision)
        capability = device.facts.capability
        if capability not in CAPABILITIES:
            raise EngineError(
                f"TensorRT-RTX does not know {device.facts.device}; it knows: "
                f"{', '.join(CAPABILITIES)}. Choose --engine tensorrt"
            )
        cache = EngineCache()
        options = BuildOptions(
            module=RTX,
            capabilities=(capability,),
            max_batch=max_batch,
            workspace_bytes=_bytes(workspace),
        )
        key = plan_key(source, graph, precision, options)
        options = replace(options, capabilities=_built_for(cache, key, capability))
        plan = read_plan(source, modality, precision, options, cache=cache)

        def open_runner(cuda_graphs: bool, kernels: bytes | None = None) -> Runner:
            return Runner(
                trt, plan, source.specs_with(modality), device, what=_what(RTX, trt, graph),
                cuda_graphs=cuda_graphs, kernels=kernels,
            )  # fmt: skip

        def compile_kernels() -> bytes:
            runner = open_runner(False)
            try:
                return runner.compile_kernels({1, *options.batches})
            finally:
                runner.close()

        held = plan_key(source, graph, precision, options)
        told = (held.options, f"kernels of the plan for {held.device}")
        compiled = replace(
            held, device=device.facts.device, driver=device.facts.driver,
            options=", ".join(filter(None, told)),
        )  # fmt: skip
        kernels = cache.get(compiled, compile_kernels, what=str(graph.resolve()))
        return cls(source, modality, open_runner(cuda_graphs, kernels))


def _library(module: str) -> Any:
    """The module itself. Raises: EngineError if it is not installed."""
    library_version(module)
    return import_module(module)


def _built_for(cache: EngineCache, key: EngineKey, capability: str) -> tuple[str, ...]:
    """Compute capabilities of a cached plan that is `key` but for them and has `capability`; else
    that alone."""
    for entry in cache.list():
        held = tuple(entry.key.device.removeprefix(_BEFORE).split(", "))
        if replace(entry.key, device=key.device) == key and capability in held:
            return held
    return (capability,)


def _what(module: str, trt: Any, graph: object) -> str:
    return f"the {MODULES[module][0]} {trt.__version__} plan of {graph}"


def _bytes(workspace: int | None) -> int | None:
    return None if workspace is None else workspace << 20
