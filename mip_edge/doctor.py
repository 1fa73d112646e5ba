"""What this machine has for mip-edge: versions, devices, engines, and where our packages lie."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from mip_edge import __version__
from mip_edge.errors import EngineError, MipEdgeError

PACKAGES = ("mip_edge", "export", "engines", "calibration")


@dataclass(frozen=True, slots=True)
class Dependency:
    """A library that mip-edge or one of its extras installs."""

    module: str
    """The name it is imported by."""
    distribution: str
    """The name pip knows it by."""
    extra: str | None = None
    """The extra that brings it; None is the plain installation."""
    needed: bool = True
    """False where this Python has it built in."""

    @property
    def remedy(self) -> str:
        """What to type when it is missing."""
        return f'pip install "mip-edge[{self.extra}]"' if self.extra else "pip install mip-edge"


DEPENDENCIES = (
    Dependency("numpy", "numpy"),
    Dependency("cv2", "opencv-python"),
    Dependency("click", "click"),
    Dependency("rich", "rich"),
    Dependency("fastjsonschema", "fastjsonschema"),
    Dependency("onnxruntime", "onnxruntime"),
    Dependency("tomli", "tomli", needed=sys.version_info < (3, 11)),
    Dependency("openvino", "openvino", "openvino"),
    Dependency("paho.mqtt", "paho-mqtt", "live"),
    Dependency("trackers", "trackers", "live"),
    Dependency("supervision", "supervision", "live"),
    Dependency("faiss", "faiss-cpu", "live"),
    Dependency("torch", "torch", "train"),
    Dependency("onnx", "onnx", "train"),
    Dependency("onnxsim", "onnxsim", "train"),
    Dependency("safetensors", "safetensors", "train"),
    Dependency("matplotlib", "matplotlib", "train"),
    Dependency("huggingface_hub", "huggingface-hub", "train"),
    Dependency("sklearn", "scikit-learn", "plots"),
    Dependency("umap", "umap-learn", "umap"),
    Dependency("tensorboard", "tensorboard", "tensorboard"),
    Dependency("tensorrt", "tensorrt", "trt"),
    Dependency("cuda.bindings", "cuda-bindings", "trt"),
    Dependency("pycuda", "pycuda", "pycuda"),
    Dependency("tensorrt_rtx_bindings", "tensorrt-rtx-cu13-bindings", "rtx"),
    Dependency("tensorrt_rtx_libs", "tensorrt-rtx-cu13-libs", "rtx"),
)


@dataclass(frozen=True, slots=True)
class Library:
    """A dependency as it is found here."""

    name: str
    extra: str | None
    version: str | None
    """None: not installed (or installed under another distribution's name, if it imports)."""
    error: str | None
    """Why an installed one cannot be imported; None if it can, or if it is absent."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What one runtime can compute on."""

    runtime: str
    names: tuple[str, ...]
    error: str | None = None
    """Why the runtime could not be asked."""


@dataclass(frozen=True, slots=True)
class EngineState:
    """Whether one engine of the table opens here."""

    name: str
    opens: bool
    reason: str | None
    """Why it does not open, with the way out."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one of our four packages was imported from."""

    package: str
    folder: str
    distributions: tuple[str, ...]
    """Installed distributions that bring this name; more than one is a clash."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that `mip-edge doctor` shows."""

    version: str
    python: str
    executable: str
    platform: str
    processors: int
    libraries: tuple[Library, ...]
    devices: tuple[Devices, ...]
    engines: tuple[EngineState, ...]
    origins: tuple[Origin, ...]
    problems: tuple[str, ...]
    """What should be mended; an extra that is merely not installed is no problem."""


def examine() -> Diagnosis:
    """Look at this interpreter and machine; imports every runtime that is installed."""
    libraries = tuple(find_library(dependency) for dependency in DEPENDENCIES if dependency.needed)
    origins = find_origins(packages_distributions())
    return Diagnosis(
        version=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        processors=usable_processors(),
        libraries=libraries,
        devices=find_devices(),
        engines=find_engines(),
        origins=origins,
        problems=(*library_problems(libraries), *origin_problems(origins)),
    )


def usable_processors() -> int:
    """Processors this process may run on, which a container or taskset may have made fewer."""
    if hasattr(os, "sched_getaffinity"):  # Linux alone
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_library(dependency: Dependency) -> Library:
    """Version of a dependency, and the error if it is installed but does not import."""
    found = installed_version(dependency)
    error: str | None = None
    try:
        module = import_module(dependency.module)
    except ModuleNotFoundError as missing:
        absent = dependency.module == missing.name or dependency.module.startswith(
            f"{missing.name}."
        )
        if found is not None or not absent:
            error = one_line(missing)
    except Exception as broken:  # a damaged library may raise anything; it is shown, not hidden
        error = one_line(broken)
    else:
        # JetPack's OpenCV and TensorRT come without a pip name but know their version.
        found = found or str(getattr(module, "__version__", "unknown"))
    return Library(dependency.distribution, dependency.extra, found, error)


def installed_version(dependency: Dependency) -> str | None:
    """The version pip knows, or None."""
    try:
        return version(dependency.distribution)
    except PackageNotFoundError:
        return None


def find_devices() -> tuple[Devices, ...]:
    """Devices of each runtime that is installed, each asked by its own means."""
    askers: dict[str, Callable[[], tuple[str, ...]]] = {
        "onnxruntime": onnxruntime_providers,
        "openvino": openvino_devices,
        "torch": torch_devices,
    }
    installed = (ask(runtime, asker) for runtime, asker in askers.items() if find_spec(runtime))
    return (ask("nvidia", nvidia_devices), *installed)


def ask(runtime: str, asker: Callable[[], tuple[str, ...]]) -> Devices:
    """The answer of one runtime, or the error it gave instead."""
    try:
        return Devices(runtime, asker())
    except Exception as broken:  # a runtime without its driver may raise anything; it is shown
        return Devices(runtime, (), one_line(broken))


def nvidia_devices() -> tuple[str, ...]:
    """GPUs as the driver itself names them; needs no CUDA package. Raises: EngineError."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        raise EngineError("no NVIDIA driver is installed") from None
    if (code := driver.cuInit(0)) != 0:
        raise EngineError(f"the NVIDIA driver finds no GPU (cuInit gives {code})")
    cuda, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(cuda))
    driver.cuDeviceGetCount(ctypes.byref(count))
    name = ctypes.create_string_buffer(256)
    names = []
    for index in range(count.value):
        driver.cuDeviceGetName(name, len(name), index)
        names.append(name.value.decode())
    return (f"driver for CUDA {cuda.value // 1000}.{cuda.value % 1000 // 10}", *names)


def onnxruntime_providers() -> tuple[str, ...]:
    """Execution providers of this build of ONNX Runtime."""
    import onnxruntime

    return tuple(onnxruntime.get_available_providers())


def openvino_devices() -> tuple[str, ...]:
    """Devices OpenVINO sees, with their full names."""
    import openvino

    core = openvino.Core()
    return tuple(
        f"{device} ({core.get_property(device, 'FULL_DEVICE_NAME')})"
        for device in core.available_devices
    )


def torch_devices() -> tuple[str, ...]:
    """`cpu`, and each CUDA device torch sees."""
    import torch

    cuda = (
        f"cuda:{index} ({torch.cuda.get_device_name(index)})"
        for index in range(torch.cuda.device_count())
    )
    return ("cpu", *cuda)


def find_engines() -> tuple[EngineState, ...]:
    """Each engine of the table, its runtime imported."""
    from engines.table import ENGINES, find_missing

    return tuple(
        try_engine(name, kind.module, find_missing(name)) for name, kind in ENGINES.items()
    )


def try_engine(name: str, module: str, missing: str | None) -> EngineState:
    """Import an engine's module and with it its runtime, unless that is known to be missing."""
    if missing is not None:
        return EngineState(name, False, missing)
    try:
        import_module(module)
    except Exception as broken:  # a damaged runtime may raise anything; it is shown, not hidden
        return EngineState(name, False, f"its runtime is installed but broken: {one_line(broken)}")
    return EngineState(name, True, None)


def find_origins(installed: Mapping[str, Sequence[str]]) -> tuple[Origin, ...]:
    """Folder of each of our packages, and every distribution that brings its name."""
    return tuple(
        Origin(package, package_folder(package), tuple(sorted(set(installed.get(package, ())))))
        for package in PACKAGES
    )


def package_folder(package: str) -> str:
    """Folder that `import package` reads here."""
    module = import_module(package)
    return str(Path(module.__file__ or "").resolve().parent)


def library_problems(libraries: Iterable[Library]) -> Iterator[str]:
    """What is broken, and what the plain installation misses."""
    for library in libraries:
        if library.error is not None:
            yield f"{library.name} {library.version or ''} does not import: {library.error}"
        elif library.version is None and library.extra is None:
            yield f"{library.name} is not installed, though mip-edge needs it. pip install mip-edge"


def origin_problems(origins: Iterable[Origin]) -> Iterator[str]:
    """Names that two distributions bring, and packages that do not lie side by side."""
    origins = tuple(origins)
    for origin in origins:
        if len(origin.distributions) > 1:
            yield (
                f"{' and '.join(origin.distributions)} all install a package named "
                f"{origin.package}, and one overwrites the other: give mip-edge an environment "
                "of its own"
            )
    home = Path(origins[0].folder).parent
    for origin in origins[1:]:
        if Path(origin.folder).parent != home:
            yield (
                f"{origin.package} comes from {origin.folder}, not from {home} like "
                f"{origins[0].package}: another package of this name stands in front"
            )


def one_line(error: BaseException) -> str:
    """The first line of what an error says, with its kind in front if it is not one of ours."""
    words = str(error).strip().splitlines()
    if isinstance(error, MipEdgeError):
        return words[0]
    return f"{type(error).__name__}: {words[0]}" if words else type(error).__name__
