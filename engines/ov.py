"""Backend of OpenVINO, computing in float32 unless told otherwise, whatever the graph stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino

from engines.base import Inputs
from engines.ov_cache import CompiledGraph, is_cached, open_cached
from engines.signal_stack import kept_signal_stack
from mip_edge.artifact import Bundle
from mip_edge.errors import EngineError, OptionError
from mip_edge.spec import Embeddings, Modality

_BATCH = 32
"""Crops of one request at most."""
_MIN_COSINE = 0.99
"""Of an embedding in bf16 with the same in float32; what is right has 0.9999."""
_SEED = 5


class OvBackend:
    """One compiled model with one request, or for throughput one for each of its streams."""

    @kept_signal_stack()
    def __init__(
        self,
        source: Bundle,
        modality: Modality,
        *,
        threads: int | None,
        precision: str,
        hint: str = "latency",
        dtype: str = "f32",
        device: str = "CPU",
        cache: bool | None = None,
    ) -> None:
        self.specs = source.specs_with(modality)
        cached = is_cached(cache, device=device, precision=precision, dtype=dtype)
        core = openvino.Core()
        _check_device(core, device, dtype)
        # Without this hint the plugin takes bf16 where the CPU has it, and parity is gone.
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": hint.upper(),
            "INFERENCE_PRECISION_HINT": dtype,
        }
        if threads is not None:
            if device != "CPU":
                raise OptionError(f"--threads {threads} is for device=CPU, not for device={device}")
            settings["INFERENCE_NUM_THREADS"] = threads
        self._graph = source.graph_path(modality, precision)
        if dtype == "bf16" and device == "CPU":
            # OpenVINO 2026.4 joins softmax and product into one kernel that is wrong in bf16 on
            # processors without AMX (its issue 38256); apart they are right.
            settings["SNIPPETS_MODE"] = "DISABLE"

        def compile_now() -> openvino.CompiledModel:
            compiled = self._compile(core, device, settings)
            if dtype != "f32":  # what the cache holds was compared when it was made
                exact = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
                self._check_parity(
                    self._compile(core, device, {**settings, **exact}), compiled, dtype
                )
            return compiled

        if cached:
            compiled = open_cached(
                core, source, modality, precision, settings, compile_now, insists=cache is True
            )
        else:
            compiled = CompiledGraph(compile_now())
        count = 1
        if hint == "throughput":
            count = int(compiled.model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        # the requests before the memory: what is dropped first must not need what is gone
        self._requests = [compiled.model.create_infer_request() for _ in range(max(1, count))]
        self._memory = compiled.memory
        self.max_batch = _BATCH * len(self._requests)

    @classmethod
    def open(
        cls,
        source: Bundle,
        modality: Modality,
        *,
        threads: int | None,
        precision: str,
        hint: str = "latency",
        dtype: str = "f32",
        device: str = "CPU",
        cache: bool | None = None,
    ) -> OvBackend:
        """Open the graph of one modality of a verified bundle.

        `hint` `throughput` splits a batch over the streams that the device wants; `dtype` `bf16`
        is faster and less exact, where the device has it; `device` is one of OpenVINO's; `cache`
        keeps what was compiled in the engine cache, None for INT8 graphs and bf16 on the CPU,
        where it pays.
        Raises: EngineError for a device that is not here, or a `dtype` that it does not have;
        OptionError for what the device does not take; OutputError where `cache` cannot be kept.
        """
        return cls(
            source,
            modality,
            threads=threads,
            precision=precision,
            hint=hint,
            dtype=dtype,
            device=device,
            cache=cache,
        )

    def embed(self, inputs: Inputs) -> Embeddings:
        """(N, D), copied out of the memory that the requests use again."""
        return self._run(self._requests, inputs)

    @kept_signal_stack()
    def close(self) -> None:
        """Drop the requests and with them the model, then the memory that it read from."""
        del self._requests
        self._memory = None

    def _compile(
        self, core: openvino.Core, device: str, settings: Mapping[str, Any]
    ) -> openvino.CompiledModel:
        try:
            return core.compile_model(str(self._graph), device, dict(settings))
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO {openvino.__version__} refuses {self._graph}: {_last_line(error)}"
            ) from error

    def _run(self, requests: Sequence[openvino.InferRequest], inputs: Inputs) -> Embeddings:
        """The batch in as many pieces as there are requests, all at the same time."""
        count = min(len(requests), len(inputs["images"]))
        pieces = {name: np.array_split(rows, count) for name, rows in inputs.items()}
        used = requests[:count]
        for index, request in enumerate(used):
            request.start_async({name: parts[index] for name, parts in pieces.items()})
        # all are waited for before one is told of: none may still run when the caller goes on
        failures = [failure for failure in map(_wait, used) if failure is not None]
        if failures:
            raise EngineError(
                f"OpenVINO {openvino.__version__} cannot run {self._graph}: "
                f"{_last_line(failures[0])}"
            ) from failures[0]
        parts = [np.asarray(request.get_output_tensor(0).data, np.float32) for request in used]
        return np.concatenate(parts)

    def _check_parity(
        self, exact: openvino.CompiledModel, compiled: openvino.CompiledModel, dtype: str
    ) -> None:
        """Compare with float32 on noise. Raises: EngineError if this device computes it wrongly."""
        spec = next(iter(self.specs.values()))
        rng = np.random.default_rng(_SEED)
        shape = (4, spec.height, spec.width, spec.channels if len(self.specs) == 1 else 3)
        inputs: dict[str, Any] = {"images": rng.integers(0, 256, shape, dtype=np.uint8)}
        if len(self.specs) > 1:
            inputs["modality"] = np.full(4, spec.modality.row, dtype=np.int64)
        one, other = (
            self._run([model.create_infer_request()], inputs) for model in (exact, compiled)
        )
        smallest = float((one * other).sum(axis=1).min())
        if not smallest >= _MIN_COSINE:
            raise EngineError(
                f"OpenVINO {openvino.__version__} computes {self._graph} wrongly in {dtype} here: "
                f"cosine {smallest:.3f} with float32, expected at least {_MIN_COSINE}. "
                "Choose --engine-option dtype=f32"
            )


def _check_device(core: openvino.Core, device: str, dtype: str) -> None:
    """Raises: EngineError for a device that is not here, or one that does not compute `dtype`."""
    here = core.available_devices
    # several of a kind are GPU.0 and GPU.1, and GPU means the first
    if device != "AUTO" and device not in {name.partition(".")[0] for name in here}:
        raise EngineError(
            f"OpenVINO {openvino.__version__} finds no {device} here; it finds: "
            f"{', '.join(here) or 'nothing'}. Choose --engine-option device=CPU"
        )
    if dtype == "bf16":
        computes = sorted(core.get_property(device, "OPTIMIZATION_CAPABILITIES"))
        if "BF16" not in computes:
            raise EngineError(
                f"dtype=bf16: the {device} here does not compute it, only {', '.join(computes)}. "
                "Choose --engine-option dtype=f32"
            )


def _wait(request: openvino.InferRequest) -> RuntimeError | None:
    """Until it is done; what it failed of."""
    try:
        request.wait()
    except RuntimeError as error:
        return error
    return None


def _last_line(error: Exception) -> str:
    """Where OpenVINO says what it is about; the lines before tell places in its source."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
