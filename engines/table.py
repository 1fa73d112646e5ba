"""The engines that mip-edge knows, as data; a runtime is imported only when it is asked for."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from engines.base import Backend, Engine, UnifiedEngine
from mip_edge.artifact import PACKED_SUFFIX, Bundle, open_bundle
from mip_edge.errors import BundleError, CheckpointError, EngineError, OptionError
from mip_edge.spec import Modality

logger = logging.getLogger(__name__)

DEFAULT_ENGINE = "onnxruntime"
AUTO = "auto"
DEFAULT_PRECISION = "fp32"
"""What every bundle and every checkpoint has."""
_AUTO_REPEATS = 3
Front = TypeVar("Front", bound=Engine | UnifiedEngine)


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
    options: tuple[str, ...] = ()
    """Keywords that its `open` knows beside those."""

    @property
    def runs_graph(self) -> bool:
        """Whether it computes what a bundle's ONNX file says."""
        return self.opens == "bundle" and bool(self.runtime)


ENGINES: dict[str, EngineKind] = {
    "onnxruntime": EngineKind(
        "engines.ort", "OrtBackend", "ONNX Runtime", ("onnxruntime",), "", "bundle", True,
        options=("share_weights",),
    ),
    "openvino": EngineKind(
        "engines.ov", "OvBackend", "OpenVINO", ("openvino",), "openvino", "bundle", True
    ),
    "torch": EngineKind(
        "engines.eager", "EagerBackend", "PyTorch", ("torch", "safetensors"), "train",
        "checkpoint", options=("camera", "device"),
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
    `fp16` is made for GPUs, on a CPU it is mostly slower than `fp32`. `options` go to the backend:
    `torch` knows `camera` and `device`, `onnxruntime` knows `share_weights` (two engines of one
    bundle hold its weights once, for a somewhat slower call). A bundle that is open already is
    not verified again.
    Raises: EngineError for an unknown engine, a missing runtime or one that refuses the file;
    BundleError or CheckpointError for a file of another kind or a precision that it lacks.
    """
    check_options(engine, threads=threads, precision=precision, options=options)

    def open_front(source: Bundle | Path, name: str) -> Engine:
        backend = _open_backend(source, modality, name, threads, precision, options)
        return Engine(backend, name=name, modality=modality)

    return _open(open_source(path, engine), engine, open_front, f"{modality.value} crops")


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

    def open_front(source: Bundle | Path, name: str) -> UnifiedEngine:
        # either modality names the one graph
        backend = _open_backend(source, Modality.VISIBLE, name, threads, precision, options)
        return UnifiedEngine(backend, name=name)

    return _open(source, engine, open_front, "mixed crops")


def check_options(
    engine: str, *, threads: int | None, precision: str, options: Mapping[str, Any]
) -> None:
    """Refuse before anything is opened. Raises: OptionError, or EngineError for the name."""
    if threads is not None and threads < 1:
        raise OptionError(f"--threads must be at least 1, got {threads}")
    known = () if engine == AUTO else _kind(engine).options
    for option in sorted(set(options) - set(known)):
        others = [name for name, kind in ENGINES.items() if option in kind.options]
        way = f"; choose --engine {others[0]}" if others else ""
        raise OptionError(f"the engine {engine} has no option {option!r}{way}")
    if engine != AUTO and _kind(engine).opens == "checkpoint" and precision != DEFAULT_PRECISION:
        raise OptionError(
            f"--precision {precision}: the engine {engine} runs a checkpoint, which knows "
            f"{DEFAULT_PRECISION} only. Choose --precision {DEFAULT_PRECISION}, or export it with: "
            "mip-edge export WEIGHTS -o BUNDLE --fp16"
        )


def find_missing(engine: str) -> str | None:
    """Why an engine cannot be had here, in one line with the way out; None if it is installed."""
    kind = _kind(engine)
    for module in kind.runtime:
        if find_spec(module) is None:
            return _not_installed(engine, kind)
    return None


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


def _open(
    source: Bundle | Path, engine: str, open_front: Callable[[Bundle | Path, str], Front], what: str
) -> Front:
    """One engine by its name, or the fastest for `auto`; warmed up."""
    if engine == AUTO:
        return _open_fastest(source, open_front, what)
    opened = open_front(source, engine)
    opened.warm_up()
    return opened


def _open_fastest(
    source: Bundle | Path, open_front: Callable[[Bundle | Path, str], Front], what: str
) -> Front:
    """Time every installed engine on one crop and keep the fastest open."""
    candidates = [name for name, kind in ENGINES.items() if kind.automatic]
    installed = [name for name in candidates if find_missing(name) is None]
    if not installed:
        raise EngineError(_not_installed(DEFAULT_ENGINE, ENGINES[DEFAULT_ENGINE]))
    timed: list[tuple[float, Front]] = []
    try:
        for name in installed:
            opened = _open(source, name, open_front, what)
            timed.append((_milliseconds(opened), opened))
    except BaseException:
        for _, opened in timed:
            opened.close()
        raise
    timed.sort(key=lambda pair: pair[0])
    (_, fastest), *others = timed
    for _, opened in others:
        opened.close()
    figures = ", ".join(f"{opened.name} {spent:.1f} ms" for spent, opened in timed)
    logger.info(
        "engine auto: took %s for %s, the fastest installed on one crop (%s)",
        fastest.name, what, figures,
    )  # fmt: skip
    return fastest


def _milliseconds(engine: Engine | UnifiedEngine) -> float:
    """Median time of one crop."""
    spent = []
    for _ in range(_AUTO_REPEATS):
        start = time.perf_counter()
        engine.warm_up()
        spent.append(1000 * (time.perf_counter() - start))
    return statistics.median(spent)
