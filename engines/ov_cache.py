"""Models that OpenVINO compiled for this processor, kept in the engine cache and mapped from it.

Measured for base on two cores: INT8 opens in half to two thirds of the time, bf16 (which is also
compared when it is made) in a quarter; the embeddings are the same bit for bit, speed and memory
too. A float32 graph wins little: there is more to read, and less to compile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from engines.cache import LIMIT_VARIABLE, EngineCache, EngineKey
from engines.machine import count_cores, digest_instructions
from engines.plan import graph_digest, plan_spec
from mip_edge.artifact import Bundle
from mip_edge.errors import OptionError, OutputError
from mip_edge.spec import Modality

logger = logging.getLogger(__name__)

RUNTIME = "openvino"
_DEVICE = "CPU"


@dataclass(frozen=True, slots=True)
class CompiledGraph:
    """A compiled model, and the memory that it reads its weights from."""

    model: openvino.CompiledModel
    memory: openvino.Tensor | None = None
    """A mapped file, which must outlive the model; None where the model has its own."""


class _TooLarge(Exception):
    """What was compiled has no room in the cache."""


def is_cached(wanted: bool | None, *, device: str, precision: str, dtype: str) -> bool:
    """Whether a graph goes through the cache; None means where that was measured to pay.

    Raises: OptionError for a device whose compiled models are not kept.
    """
    if wanted and device != _DEVICE:
        raise OptionError(f"cache=true is for device={_DEVICE}, not for device={device}")
    if wanted is None:
        return device == _DEVICE and (precision.startswith("int8") or dtype == "bf16")
    return wanted


def compiled_key(
    core: openvino.Core, bundle: Bundle, graph: Path, precision: str, settings: Mapping[str, Any]
) -> EngineKey:
    """All that a compiled model depends on: another machine's or version's is never taken."""
    capabilities = ", ".join(sorted(core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")))
    name = str(core.get_property(_DEVICE, "FULL_DEVICE_NAME")).strip()
    return EngineKey(
        graph_digest=graph_digest(bundle, graph),
        runtime=RUNTIME,
        version=openvino.__version__,
        device=f"{name}, {count_cores()} cores, {capabilities}, "
        f"instructions {digest_instructions()}",
        precision=precision,
        options=", ".join(f"{name.lower()} {settings[name]}" for name in sorted(settings)),
    )


def open_cached(
    core: openvino.Core,
    bundle: Bundle,
    modality: Modality,
    precision: str,
    settings: Mapping[str, Any],
    compile_now: Callable[[], openvino.CompiledModel],
    *,
    insists: bool,
    cache: EngineCache | None = None,
) -> CompiledGraph:
    """The compiled graph of one modality from the cache, or made by `compile_now` and put there.

    What OpenVINO does not take back is made anew, told in one line. A cache that cannot be written
    is told in one line too, and refused with `insists` alone. Raises: OutputError; OptionError for
    a limit that is no size; what `compile_now` raises goes through.
    """
    cache = cache or EngineCache()
    graph = bundle.graph_path(modality, precision)
    key = compiled_key(core, bundle, graph, precision, settings)
    what, spec = str(graph.resolve()), plan_spec(bundle, modality)
    made: list[openvino.CompiledModel] = []

    def build() -> bytes:
        if not made:
            made.append(compile_now())
        blob: bytes = made[0].export_model().getvalue()
        if len(blob) > cache.limit_bytes:
            raise _TooLarge(
                f"{what}, compiled, takes {len(blob)} bytes, more than the limit of "
                f"{cache.limit_bytes}; raise {LIMIT_VARIABLE}"
            )
        return blob

    try:
        content = cache.map(key, build, what=what, spec=spec)
        if made:
            return CompiledGraph(made[0])
        # not copied: the file stays mapped, as ONNX files' own weights are
        memory = openvino.Tensor(np.frombuffer(content, np.uint8), shared_memory=True)
        try:
            return CompiledGraph(core.import_model(memory, _DEVICE, dict(settings)), memory)
        except RuntimeError as error:
            told = str(error).strip().splitlines() or [type(error).__name__]
            logger.info("engine cache: OpenVINO: %s; building %s anew", told[-1], what)
            cache.put(key, build(), what=what, spec=spec)
    except (_TooLarge, OutputError) as error:
        if insists:
            raise error if isinstance(error, OutputError) else OutputError(str(error)) from error
        logger.warning("%s; opening it takes longer each time, or choose cache=false", error)
    return CompiledGraph(made[0] if made else compile_now())
