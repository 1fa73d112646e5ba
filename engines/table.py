"""The engines that mip-edge knows, as data; a runtime is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from engines.base import Backend, Engine, UnifiedEngine
from engines.choice import Candidate, Question, choose
from engines.cuda import find_no_gpu
from engines.options import EngineOption, list_options, parse_options
from mip_edge.artifact import PACKED_SUFFIX, Bundle, open_bundle, way_to
from mip_edge.errors import BundleError, CheckpointError, EngineError, OptionError
from mip_edge.spec import Modality

DEFAULT_ENGINE = "onnxruntime"
AUTO = "auto"
"""As an engine or a precision: the fastest here, by measuring."""
DEFAULT_PRECISION = "fp32"
"""What every bundle and every checkpoint has."""
Front = TypeVar("Front", bound=Engine | UnifiedEngine)
PRECISIONS = (DEFAULT_PRECISION, "fp16", "int8", "int8-fp16")
"""What a bundle may hold."""


@dataclass(frozen=True, slots=True)
class EngineKind:
    """One line of the table."""

    module: str
    backend: str
    """Class in that module with a method `open(source, modality, *, threads)`; one that opens
    bundles also takes `precision`."""
    title: str
    """As its makers write it."""
    runtime: tuple[str, ...]
    """Modules that must be installed."""
    extra: str
    """Extra of mip-edge that brings them; empty for the plain installation."""
    opens: str
    """`bundle` or `checkpoint`."""
    automatic: bool = False
    """Whether `--engine auto` may choose it."""
    gpu: bool = False
    """Whether it runs on an NVIDIA GPU alone."""
    options: Mapping[str, EngineOption] = field(default_factory=dict)
    """Keywords that its `open` knows beside those; on the command line --engine-option."""

    @property
    def runs_graph(self) -> bool:
        """Whether it computes what a bundle's ONNX file says."""
        return self.opens == "bundle" and bool(self.runtime)


_PLAN_OPTIONS = {
    "max_batch": EngineOption(int, "largest batch of the plan; more is split", smallest=1),
    "workspace": EngineOption(int, "MiB that a layer may take while building", smallest=1),
    "cuda": EngineOption(str, "what talks to the GPU", ("bindings", "pycuda")),
    "cuda_graphs": EngineOption(bool, "capture one graph for each batch size"),
}
ENGINES: dict[str, EngineKind] = {
    "onnxruntime": EngineKind(
        "engines.ort", "OrtBackend", "ONNX Runtime", ("onnxruntime",), "", "bundle", True,
        options={
            "provider": EngineOption(
                str, "what computes; cuda and tensorrt need onnxruntime-gpu",
                ("cpu", "cuda", "tensorrt"),
            ),
            "device_id": EngineOption(int, "number of the GPU, with provider=cuda or tensorrt"),
            "share_weights": EngineOption(bool, "keep the weights of two sessions once; cpu only"),
        },
    ),
    "openvino": EngineKind(
        "engines.ov", "OvBackend", "OpenVINO", ("openvino",), "openvino", "bundle", True,
        options={
            "hint": EngineOption(
                str, "one call at a time, or a batch split over streams", ("latency", "throughput")
            ),
            "dtype": EngineOption(
                str, "what floating point is computed in; bf16 where the device has it",
                ("f32", "bf16"),
            ),
            "device": EngineOption(str, "what computes", ("CPU", "GPU", "NPU", "AUTO")),
            "cache": EngineOption(
                bool, "keep what was compiled; CPU only, if not said int8 and bf16 alone"
            ),
        },
    ),
    "torch": EngineKind(
        "engines.eager", "EagerBackend", "PyTorch", ("torch", "safetensors"), "train",
        "checkpoint",
        options={
            "camera": EngineOption(str, "camera embedding: mean, none, or a camera by its name"),
            "device": EngineOption(str, "cpu, cuda, cuda:1, mps"),
            "dtype": EngineOption(str, "of autocast; fp16 on CUDA only", ("fp32", "fp16", "bf16")),
            "compile": EngineOption(bool, "compile the network with torch.compile"),
            "cuda_graphs": EngineOption(bool, "capture one graph for each batch size; CUDA only"),
            "straight": EngineOption(bool, "compute the published forward, dead work and all"),
        },
    ),
    "tensorrt": EngineKind(
        "engines.trt", "TrtBackend", "TensorRT", ("tensorrt",), "trt", "bundle", True, gpu=True,
        options={
            **_PLAN_OPTIONS,
            "hardware_compatible": EngineOption(
                bool, "a plan for every GPU from Ampere on, somewhat slower"
            ),
            "version_compatible": EngineOption(
                bool, "a plan for later minor versions too, somewhat slower"
            ),
            "dla": EngineOption(bool, "refused, with the reason"),
        },
    ),
    "tensorrt-rtx": EngineKind(
        "engines.trt", "RtxBackend", "TensorRT-RTX", ("tensorrt_rtx_bindings",), "rtx", "bundle",
        True, gpu=True, options=_PLAN_OPTIONS,
    ),
    "fake": EngineKind("engines.fake", "FakeBackend", "Fake", (), "", "bundle"),
}  # fmt: skip


def open_engine(
    path: str | Path | Bundle,
    *,
    modality: Modality,
    engine: str = DEFAULT_ENGINE,
    threads: int | None = None,
    precision: str = DEFAULT_PRECISION,
    **options: Any,
) -> Engine:
    """Open one modality of a bundle (or, with `torch`, of a checkpoint), warmed up.

    `threads` None leaves the number to the runtime. `precision` is that of the graphs to open;
    `fp16` and `int8-fp16` are made for GPUs, on a CPU they are mostly slower. `auto`, as the
    engine, the precision or both, takes the fastest, measured once on this machine (`settle`).
    `options` go to the backend, and are those of `ENGINES[engine].options`. A bundle that is open
    already is not verified again.
    Raises: EngineError for an unknown engine, a missing runtime or one that refuses the file;
    BundleError or CheckpointError for a file of another kind or a precision that it lacks;
    OptionError for an option that the engine does not have, or another value.
    """
    check_options(engine, threads=threads, precision=precision, options=options)
    source = open_source(path, engine)
    engine, precision = settle(source, engine, precision, threads=threads, options=options)
    return _open_alone(source, modality, engine, threads, precision, options)


def open_unified(
    path: str | Path | Bundle,
    *,
    engine: str = DEFAULT_ENGINE,
    threads: int | None = None,
    precision: str = DEFAULT_PRECISION,
    **options: Any,
) -> UnifiedEngine:
    """Open both modalities of a bundle of the layout `unified` as one session, warmed up.

    Arguments and errors are those of `open_engine`; BundleError too for another layout.
    """
    check_options(engine, threads=threads, precision=precision, options=options)
    source = open_source(path, engine)
    if not isinstance(source, Bundle) or not source.unified:
        where = source.path if isinstance(source, Bundle) else source
        raise BundleError(
            f"{where} has no graph of both modalities; make one with: "
            "mip-edge export WEIGHTS -o BUNDLE --layout unified"
        )

    engine, precision = settle(source, engine, precision, threads=threads, options=options)
    # either modality names the one graph
    backend = _open_backend(source, Modality.VISIBLE, engine, threads, precision, options)
    return _warm(UnifiedEngine(backend, name=engine))


def settle(
    source: Bundle | Path,
    engine: str,
    precision: str,
    *,
    threads: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """Engine and precision to open `source` with, `auto` replaced by the fastest.

    All that is installed here and lies in the bundle is measured once, at batch 8, and remembered
    in the engine cache; one log line says what was taken and why.
    Raises: EngineError if nothing opens; BundleError for a precision that the bundle lacks.
    """
    if AUTO not in (engine, precision) or not isinstance(source, Bundle):
        return engine, precision
    modality = next(iter(source.manifest.specs))
    if precision != AUTO:
        source.graph_path(modality, precision)
    engines = [engine] if engine != AUTO else _installed()
    held = [precision] if precision != AUTO else sorted(source.manifest.precisions)
    options = dict(options or {})

    def open_one(pair: Candidate) -> Engine:
        return _open_alone(source, modality, pair.engine, threads, pair.precision, options)

    words = f"engine {engine}, precision {precision}"
    runtimes = {name: ENGINES[name].runtime for name in engines}
    candidates = [Candidate(name, one) for name in engines for one in held]
    question = Question(words, source, tuple(candidates), runtimes, threads, options)
    taken = choose(question, open_one)
    return taken.engine, taken.precision


def read_options(engine: str, texts: Iterable[str]) -> dict[str, Any]:
    """Typed options of an engine from texts such as `hint=throughput`.

    Raises: OptionError naming what the engine has; EngineError for an unknown engine.
    """
    texts = list(texts)
    if not texts:
        return {}
    if engine == AUTO:
        raise OptionError(
            "--engine-option goes to one engine, not to --engine auto; choose an --engine"
        )
    return parse_options(engine, _kind(engine).options, texts)


def check_options(
    engine: str, *, threads: int | None, precision: str, options: Mapping[str, Any]
) -> None:
    """Refuse before anything is opened. Raises: OptionError, or EngineError for the name."""
    if threads is not None and threads < 1:
        raise OptionError(f"--threads must be at least 1, got {threads}")
    known = {} if engine == AUTO else _kind(engine).options
    for name in sorted(set(options) - set(known)):
        others = [other for other, kind in ENGINES.items() if name in kind.options]
        if others:
            way = f"choose --engine {others[0]}"
        elif engine == AUTO:
            way = "choose an --engine for one"
        else:
            way = list_options(engine, known)
        raise OptionError(f"the engine {engine} has no option {name!r}; {way}")
    for name, value in options.items():
        known[name].check(name, value)
    if engine != AUTO and _kind(engine).opens == "checkpoint" and precision != DEFAULT_PRECISION:
        raise OptionError(
            f"--precision {precision}: the engine {engine} runs a checkpoint, which knows "
            f"{DEFAULT_PRECISION} only. Choose --precision {DEFAULT_PRECISION}, or a bundle made "
            f"with: {way_to('fp16' if precision == AUTO else precision)}"
        )


def find_missing(engine: str) -> str | None:
    """Why an engine cannot be had here, in one line with the way out; None if it can."""
    kind = _kind(engine)
    for module in kind.runtime:
        if find_spec(module) is None:
            return _not_installed(engine, kind)
    return f"{kind.title} needs a GPU: {reason}" if kind.gpu and (reason := find_no_gpu()) else None


def _kind(engine: str) -> EngineKind:
    if engine not in ENGINES:
        known = ", ".join([*ENGINES, AUTO])
        raise EngineError(f"unknown engine {engine!r}; there are: {known}")
    return ENGINES[engine]


def _opener(engine: str) -> Callable[..., Backend]:
    kind = _kind(engine)
    try:
        module = import_module(kind.module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in kind.runtime:
            raise EngineError(_not_installed(engine, kind)) from error
        raise
    opener: Callable[..., Backend] = getattr(module, kind.backend).open
    return opener


def _open_backend(
    source: Bundle | Path,
    modality: Modality,
    engine: str,
    threads: int | None,
    precision: str,
    options: Mapping[str, Any],
) -> Backend:
    keywords = dict(options, threads=threads)
    if _kind(engine).opens == "bundle":
        keywords["precision"] = precision
    return _opener(engine)(source, modality, **keywords)


def _not_installed(engine: str, kind: EngineKind) -> str:
    package = f'"mip-edge[{kind.extra}]"' if kind.extra else "mip-edge"
    other = "openvino" if engine == DEFAULT_ENGINE else DEFAULT_ENGINE
    return f"{kind.title} is not installed. pip install {package}, or choose --engine {other}."


def open_source(path: str | Path | Bundle, engine: str) -> Bundle | Path:
    """What the engine opens: a verified bundle, or the path of a checkpoint.

    Raises: EngineError for an unknown engine or a missing runtime; EngineError, CheckpointError
    or BundleError for a file of the other kind, with the way out.
    """
    kind = _kind(DEFAULT_ENGINE if engine == AUTO else engine)
    missing = None if engine == AUTO else find_missing(engine)
    if missing is not None:
        raise EngineError(missing)
    if isinstance(path, Bundle):
        if kind.opens == "bundle":
            return path
        path = path.path
    path = Path(path)
    if kind.opens == "checkpoint":
        if path.is_dir():
            raise CheckpointError(
                f"{path} is a folder; the engine {engine} opens a checkpoint (.safetensors). "
                f"For a bundle choose --engine {DEFAULT_ENGINE}"
            )
        return path
    if path.is_file() and path.suffix != PACKED_SUFFIX:
        raise EngineError(
            f"{path} is a file; the engine {engine} opens a bundle (a folder). Export it with: "
            f"mip-edge export {path} -o BUNDLE, or choose --engine torch"
        )
    return open_bundle(path)


def _open_alone(
    source: Bundle | Path,
    modality: Modality,
    engine: str,
    threads: int | None,
    precision: str,
    options: Mapping[str, Any],
) -> Engine:
    """One modality on one engine, warmed up."""
    backend = _open_backend(source, modality, engine, threads, precision, options)
    return _warm(Engine(backend, name=engine, modality=modality))


def _warm(opened: Front) -> Front:
    """Warmed up; what cannot even be that gives back what it took."""
    try:
        opened.warm_up()
    except BaseException:
        opened.close()
        raise
    return opened


def _installed() -> list[str]:
    """Engines that `auto` may choose here."""
    automatic = [name for name, kind in ENGINES.items() if kind.automatic]
    installed = [name for name in automatic if find_missing(name) is None]
    if not installed:
        raise EngineError(_not_installed(DEFAULT_ENGINE, ENGINES[DEFAULT_ENGINE]))
    return installed
