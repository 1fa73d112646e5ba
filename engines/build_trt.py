"""From an exported graph to a TensorRT plan; TensorRT-RTX builds its plans without a GPU.

One code path for `tensorrt_rtx_bindings` and `tensorrt` (10 and 11): a strongly typed network, the
precision is the graph's own. Only TensorRT-RTX was run here; the other is written by its manual.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from engines.launches import Launches, read_launches
from engines.trt_log import logged_reason, one_line, recording
from mip_edge.errors import EngineError, OptionError, OutputError
from mip_edge.output import write_beside

logger = logging.getLogger(__name__)

RTX = "tensorrt_rtx_bindings"
MODULES = {RTX: ("TensorRT-RTX", "rtx"), "tensorrt": ("TensorRT", "trt")}
"""Module to what its makers call it and the extra of mip-edge that brings it."""
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""CUDA compute capabilities that TensorRT-RTX builds for ahead of time; 7.5 takes no float32 graph
(its Turing kernels multiply float16 alone)."""

_EXPECTED = re.compile(r"Make sure input \w+ has Int64 binding")
"""Said of every int64 input, as `modality` of the unified graph is: advice, not a fault."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a plan is built for, and with what means."""

    module: str = RTX
    """`tensorrt_rtx_bindings` or `tensorrt`."""
    capabilities: tuple[str, ...] = ()
    """CUDA compute capabilities of TensorRT-RTX, one plan for all of them; empty for `tensorrt`,
    which builds for the GPU it runs on."""
    max_batch: int = 32
    """Largest number of crops of one call."""
    best_batch: int = 8
    """Number of crops that the plan is made fastest for, `max_batch` if that is smaller."""
    workspace_bytes: int | None = None
    """Most GPU memory that one layer may take for itself; None leaves it to the library."""
    hardware_compatible: bool = False
    """`tensorrt`: run on every GPU from Ampere on, somewhat slower."""
    version_compatible: bool = False
    """`tensorrt`: run in later minor versions of the library too, somewhat slower."""
    dla: bool = False
    """Refused: the accelerator of some Jetsons lacks operators of this network."""
    timing_cache: Path | None = None
    """`tensorrt`: file of measured kernels that makes the next build faster; read and written."""

    @property
    def batches(self) -> tuple[int, int, int]:
        """Smallest, best and largest batch of the optimisation profile."""
        return 1, min(self.best_batch, self.max_batch), self.max_batch


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What came of building one graph."""

    seconds: float
    """Parsing and building, without the import of the library."""
    plan_bytes: int
    layers: int
    """Layers of the parsed network, before anything is fused."""
    warnings: tuple[str, ...]
    """All that the parser and the builder warned of, or called an error and went on."""
    launches: Launches | None
    """None if the plan holds no list of them, as those of `tensorrt`."""


@dataclass(frozen=True, slots=True)
class _Built:
    plan: memoryview
    seconds: float
    layers: int
    warnings: tuple[str, ...]


def check_graph(
    path: Path,
    *,
    capabilities: Sequence[str] = ("8.6",),
    module: str = RTX,
    max_batch: int = 8,
) -> BuildReport:
    """Parse and build the ONNX file at `path`, its external weights beside it, and drop the plan.

    `capabilities` are CUDA compute capabilities, one plan for all of them; batches of 1 to
    `max_batch` crops. Raises: EngineError if TensorRT is not installed or refuses the graph.
    """
    built = _build(path, BuildOptions(module, tuple(capabilities), max_batch))
    return BuildReport(
        seconds=built.seconds,
        plan_bytes=len(built.plan),
        layers=built.layers,
        warnings=built.warnings,
        launches=read_launches(built.plan),
    )


def build_engine(path: Path, options: BuildOptions) -> bytes:
    """The plan of the ONNX file at `path`; TensorRT's warnings go to the log.

    Raises: EngineError if TensorRT is not installed, refuses an option or refuses the graph.
    """
    built = _build(path, options)
    for warning in built.warnings:
        logger.warning("%s: %s", path, warning)
    return bytes(built.plan)


def library_version(module: str) -> str:
    """Version of TensorRT or TensorRT-RTX. Raises: EngineError if it is not installed."""
    return str(_import(module).__version__)


def _build(path: Path, options: BuildOptions) -> _Built:
    trt = _import(options.module)
    check_options(options)
    targets = _targets(trt, options.module, options.capabilities)
    if not path.is_file():
        raise EngineError(f"{path} is not there; expected an ONNX file of mip-edge export")
    title = f"{MODULES[options.module][0]} {trt.__version__}"
    start = time.perf_counter()
    with recording(trt) as log:
        # TensorRT keeps one log for all that lives: nothing of `_run` outlives the call.
        plan, layers, reason = _run(trt, log, path, targets, options)
    if plan is None:
        raise EngineError(f"{title} refuses {path}: {reason or 'it gives no reason'}")
    warnings = tuple(one_line(text) for _, text in log.messages if not _EXPECTED.search(text))
    return _Built(memoryview(plan), time.perf_counter() - start, layers, warnings)


def _import(module: str) -> Any:
    if module not in MODULES:
        raise EngineError(f"unknown module {module!r}; there are: {', '.join(MODULES)}")
    title, extra = MODULES[module]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name not in {module, "tensorrt_rtx_libs", "tensorrt_libs"}:
            raise
        only = " (Linux on x86-64)" if module == RTX else ""
        raise EngineError(
            f'{title} is not installed. pip install "mip-edge[{extra}]"{only}'
        ) from error
    except ImportError as error:
        raise EngineError(
            f"{title} is installed, but does not import: {error}. Put its libraries where the "
            "linker finds them (LD_LIBRARY_PATH)"
        ) from error


def check_options(options: BuildOptions) -> None:
    """Raises: OptionError for what cannot be, EngineError for what the library cannot do."""
    for name in ("max_batch", "best_batch"):
        if getattr(options, name) < 1:
            raise OptionError(f"{name} must be at least 1, got {getattr(options, name)}")
    if options.workspace_bytes is not None and options.workspace_bytes < 1:
        raise OptionError(f"--workspace must be more than 0 bytes, got {options.workspace_bytes}")
    if options.dla:
        raise EngineError(
            "--dla: the accelerator (DLA) of a Jetson has no layer norm, no GELU and no attention "
            "of a transformer, and hands each back to the GPU; leave the option out"
        )
    title = MODULES[options.module][0]
    if options.module != RTX:
        if options.capabilities:
            raise EngineError(
                f"{title} builds for the GPU it runs on; leave --compute-capability out, or choose "
                "--engine tensorrt-rtx"
            )
        return
    unknown = [one for one in options.capabilities if one not in CAPABILITIES]
    if unknown or not options.capabilities:
        found = f"--compute-capability {unknown[0]}" if unknown else "no --compute-capability"
        raise EngineError(
            f"{found}: {title} builds ahead of time for {', '.join(CAPABILITIES)}; choose among "
            "those"
        )
    refused = {
        "hardware_compatible": "its plans run on all GPUs they were built for; name several",
        "version_compatible": "a plan belongs to its version; build it anew for another",
        "timing_cache": "it times no kernels when it builds; leave it out",
    }
    for name, reason in refused.items():
        if getattr(options, name):
            raise EngineError(f"TensorRT-RTX has no {name}: {reason}, or take --engine tensorrt")


def _targets(trt: Any, module: str, capabilities: Sequence[str]) -> list[Any]:
    """The library's own values for compute capabilities that `check_options` has passed."""
    if module != RTX:
        return []
    names = (f"SM{one.replace('.', '')}" for one in dict.fromkeys(capabilities))
    return [getattr(trt.ComputeCapability, name) for name in names]


def _run(
    trt: Any, log: Any, path: Path, targets: Sequence[Any], options: BuildOptions
) -> tuple[Any | None, int, str]:
    """The plan or None, how many layers were parsed, and why there is no plan."""
    try:
        builder = trt.Builder(log)
    except TypeError:  # how its bindings say that the library gave them nothing: no GPU, no driver
        return None, 0, logged_reason(trt, log) or "there is no GPU, or no driver for it"
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        return None, 0, _parser_reason(trt, parser, log)
    if network.num_outputs == 0:  # the parser takes any bytes for an empty graph
        return None, 0, "it holds no graph; is it an ONNX file?"
    config = builder.create_builder_config()
    fault = _add_profile(builder, network, config, options)
    fault = fault or _configure(trt, config, targets, options)
    if fault is not None:
        return None, 0, fault
    timing = _attach_timing(config, options.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is not None and timing is not None and options.timing_cache is not None:
        _keep_timing(timing, options.timing_cache)
    return plan, network.num_layers, _too_old(logged_reason(trt, log))


def _add_profile(builder: Any, network: Any, config: Any, options: BuildOptions) -> str | None:
    """One profile of batch sizes for every input, or what is wrong with an input."""
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *shape = tuple(tensor.shape)
        if -1 in shape or batch != -1:
            return (
                f"input {tensor.name} has shape {tuple(tensor.shape)}; expected a symbolic number "
                "of crops (-1) first and numbers behind it"
            )
        profile.set_shape(tensor.name, *((size, *shape) for size in options.batches))
    config.add_optimization_profile(profile)
    return None


def _configure(trt: Any, config: Any, targets: Sequence[Any], options: BuildOptions) -> str | None:
    """All options told to the library, or what it did not take."""
    if targets:
        config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        if not config.set_compute_capability(target, index):  # else it builds for another GPU
            return f"it does not take the compute capability {target.name}"
    # Float32 means float32 here: TF32 rounds what goes into a product to 10 bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # TensorRT-RTX captures no CUDA graph where it allocates by itself.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    return None


def _attach_timing(config: Any, path: Path | None) -> Any | None:
    """The timing cache that the build reads and adds to; one of another device or version, or a
    damaged one, is begun anew."""
    if path is None:
        return None
    content = path.read_bytes() if path.is_file() else b""
    timing = config.create_timing_cache(content)
    if timing is None or not config.set_timing_cache(timing, False):
        if content:
            logger.info("%s is of another GPU or version; timing the kernels anew", path)
        timing = config.create_timing_cache(b"")
        config.set_timing_cache(timing, False)
    return timing


def _keep_timing(timing: Any, path: Path) -> None:
    try:
        with write_beside(path, lasting=False) as stream:
            stream.write(memoryview(timing.serialize()))
    except OutputError as error:  # the plan is worth more than the next one's minutes
        logger.warning("%s; the next build will be as slow as this one", error)


def _too_old(reason: str) -> str:
    """The reason, with the way out where a device lacks the arithmetic of the graph."""
    if "for Turing" not in reason or "FP32" not in reason:
        return reason
    return (
        f"{reason}; a GPU of compute capability 7.5 takes graphs in float16 alone: choose "
        "--precision fp16 or int8-fp16"
    )


def _parser_reason(trt: Any, parser: Any, log: Any) -> str:
    """The parser's first error: node, operator, what."""
    error = parser.get_error(0)
    if not error.node_name():
        # Of an initializer the parser says only which; the log says why (a missing weight file).
        return logged_reason(trt, log) or one_line(error.desc())
    what = one_line(error.desc()).removeprefix(f"Invalid Node - {error.node_name()} ")
    if "Plugin not found" in what:
        what = f"no operator of plain ONNX that {trt.__name__} knows"
    return f"node {error.node_name()} ({error.node_operator()}): {what}"
