"""From an exported graph to a TensorRT plan; TensorRT-RTX builds its plans without a GPU.

One code path for `tensorrt_rtx_bindings` and `tensorrt` (10 and 11): a strongly typed network, the
precision is the graph's own. Only TensorRT-RTX was run here; the other is written by its manual.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mip_edge.errors import EngineError, OptionError

logger = logging.getLogger(__name__)

RTX = "tensorrt_rtx_bindings"
MODULES = {RTX: ("TensorRT-RTX", "rtx"), "tensorrt": ("TensorRT", "trt")}
"""Module to what its makers call it and the extra of mip-edge that brings it."""
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""CUDA compute capabilities that TensorRT-RTX builds for ahead of time; 7.5 takes no float32 graph
(its Turing kernels multiply float16 alone)."""

_EXPECTED = re.compile(r"Make sure input \w+ has Int64 binding")
"""Said of every int64 input, as `modality` of the unified graph is: advice, not a fault."""
_SOURCE = re.compile(r"^\w+\.cpp:\d+: |^\w+::\w+: Error Code \d+: |\.? In \w+ at /[^\s)]+")
"""Places in TensorRT's own source, which tell a user nothing."""
_LAUNCH = re.compile(rb'\n  (function|runtime_fusion|fully_connected|corrltn)=\{ name="?([^\s"]+)')
_LAYERS = re.compile(rb'layers="([^"]*)"')
_SOFTMAX = re.compile(rb"\[ONNX Layer: ([^\]]*Softmax)\]")


@dataclass(frozen=True, slots=True)
class Launches:
    """Kernels that a plan of TensorRT-RTX launches, by what was fused into them.

    Read from text inside the plan that NVIDIA documents nowhere: a lint that shows when a change
    of the graph loses a fusion, no contract. Another version may write it otherwise.
    """

    attentions: int
    """Attention as one kernel: both products and the softmax between them."""
    gelus: int
    """Linear map, bias and GELU as one kernel."""
    residuals: int
    """Linear map, bias and the sum with the rows before it as one kernel."""
    products: int
    """Other matrix products and convolutions, with a bias or none."""
    other: int
    """What is no product: norms, softmax, transposition, copies of constants."""
    attended: tuple[str, ...]
    """The graph's Softmax nodes that lie inside `attentions`, sorted."""

    @property
    def total(self) -> int:
        """All kernels of one run."""
        return self.attentions + self.gelus + self.residuals + self.products + self.other


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
    built = _build(path, capabilities, module, max_batch)
    return BuildReport(
        seconds=built.seconds,
        plan_bytes=len(built.plan),
        layers=built.layers,
        warnings=built.warnings,
        launches=read_launches(built.plan),
    )


def build_engine(
    path: Path,
    *,
    capabilities: Sequence[str] = ("8.6",),
    module: str = RTX,
    max_batch: int = 8,
) -> bytes:
    """The plan that `check_graph` builds; TensorRT's warnings go to the log. Raises: as there."""
    built = _build(path, capabilities, module, max_batch)
    for warning in built.warnings:
        logger.warning("%s: %s", path, warning)
    return bytes(built.plan)


def read_launches(plan: bytes | memoryview) -> Launches | None:
    """Count the kernels in a plan of TensorRT-RTX; None if it holds no list of them.

    A plan for several compute capabilities holds one list.
    """
    counts = dict.fromkeys(("attentions", "gelus", "residuals", "products", "other"), 0)
    attended: list[str] = []
    for launch in _LAUNCH.finditer(plan):
        kind = _fused(launch[1].decode("ascii", "replace"), launch[2].decode("ascii", "replace"))
        counts[kind] += 1
        if kind == "attentions" and (layers := _LAYERS.search(plan, launch.end())):
            attended += [name.decode("utf-8", "replace") for name in _SOFTMAX.findall(layers[1])]
    if not any(counts.values()):
        return None
    return Launches(**counts, attended=tuple(sorted(attended)))


def _fused(kind: str, name: str) -> str:
    """The field of `Launches` for one entry, such as runtime_fusion `__myl_FcAddDivErfAddMulMul`:
    the steps of a fused kernel stand in its name, in their order."""
    if "_mha_" in name:
        return "attentions"
    if kind == "function":
        return "other"
    steps = re.findall("[A-Z][a-z]+", name) if kind == "runtime_fusion" else []
    if "Erf" in steps or "Tanh" in steps:
        return "gelus"
    return "residuals" if steps.count("Add") > 1 else "products"


def _build(path: Path, capabilities: Sequence[str], module: str, max_batch: int) -> _Built:
    if max_batch < 1:
        raise OptionError(f"max_batch must be at least 1, got {max_batch}")
    trt = _import(module)
    targets = _targets(trt, module, capabilities)
    if not path.is_file():
        raise EngineError(f"{path} is not there; expected an ONNX file of mip-edge export")
    title = f"{MODULES[module][0]} {trt.__version__}"
    start = time.perf_counter()
    with _recording(trt) as log:
        # TensorRT keeps one log for all that lives: nothing of `_run` outlives the call.
        plan, layers, reason = _run(trt, log, path, targets, max_batch)
    if plan is None:
        raise EngineError(f"{title} refuses {path}: {reason or 'it gives no reason'}")
    warnings = tuple(_one_line(text) for _, text in log.messages if not _EXPECTED.search(text))
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


def _targets(trt: Any, module: str, capabilities: Sequence[str]) -> list[Any]:
    """The library's own values for compute capabilities."""
    if not hasattr(trt, "ComputeCapability"):
        if capabilities:
            raise EngineError(
                f"{MODULES[module][0]} builds for the GPU it runs on; leave `capabilities` empty"
            )
        return []
    unknown = [one for one in capabilities if one not in CAPABILITIES]
    if unknown or not capabilities:
        found = f"unknown compute capability {unknown[0]!r}" if unknown else "no compute capability"
        raise EngineError(
            f"{found}; {MODULES[module][0]} builds ahead of time for: {', '.join(CAPABILITIES)}"
        )
    names = (f"SM{one.replace('.', '')}" for one in dict.fromkeys(capabilities))
    return [getattr(trt.ComputeCapability, name) for name in names]


def _run(
    trt: Any, log: Any, path: Path, targets: Sequence[Any], max_batch: int
) -> tuple[Any | None, int, str]:
    """The plan or None, how many layers were parsed, and why there is no plan."""
    builder = trt.Builder(log)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        return None, 0, _parser_reason(trt, parser, log)
    if network.num_outputs == 0:  # the parser takes any bytes for an empty graph
        return None, 0, "it holds no graph; is it an ONNX file?"
    config = builder.create_builder_config()
    if targets:
        config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        config.set_compute_capability(target, index)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        batch, *shape = tuple(tensor.shape)
        if -1 in shape or batch != -1:
            return None, 0, (
                f"input {tensor.name} has shape {tuple(tensor.shape)}; expected a symbolic number "
                "of crops (-1) first and numbers behind it"
            )  # fmt: skip
        sizes = (1, max(1, max_batch // 2), max_batch)
        profile.set_shape(tensor.name, *((size, *shape) for size in sizes))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return plan, network.num_layers, _logged_reason(trt, log)


def _parser_reason(trt: Any, parser: Any, log: Any) -> str:
    """The parser's first error: node, operator, what."""
    error = parser.get_error(0)
    if not error.node_name():
        # Of an initializer the parser says only which; the log says why (a missing weight file).
        return _logged_reason(trt, log) or _one_line(error.desc())
    what = _one_line(error.desc()).removeprefix(f"Invalid Node - {error.node_name()} ")
    if "Plugin not found" in what:
        what = f"no operator of plain ONNX that {trt.__name__} knows"
    return f"node {error.node_name()} ({error.node_operator()}): {what}"


def _logged_reason(trt: Any, log: Any) -> str:
    """The first error in the log; empty if there is none."""
    failures = (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
    return next((_one_line(text) for severity, text in log.messages if severity in failures), "")


def _one_line(text: str) -> str:
    """A message without its places in TensorRT's source, and without what a missing driver adds."""
    lines = [line for line in text.splitlines() if "catchCudaError" not in line]
    return " ".join(" ".join(_SOURCE.sub("", line) for line in lines).split())


@contextmanager
def _recording(trt: Any) -> Iterator[Any]:
    """A logger of the library that keeps all it is told; nothing is printed."""

    class Recorder(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[Any, str]] = []
            self.fault: BaseException | None = None

        def log(self, severity: Any, text: str) -> None:
            # Nothing may be thrown through the C++ frames below: Ctrl-C, too, waits until they
            # have returned.
            try:
                if severity <= trt.ILogger.WARNING:
                    self.messages.append((severity, text))
            except BaseException as fault:
                self.fault = fault

    recorder = Recorder()
    try:
        yield recorder
    finally:
        if recorder.fault is not None:
            raise recorder.fault
