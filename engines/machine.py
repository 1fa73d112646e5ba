"""What this machine is and which runtimes it has, in words that change when the machine does."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def describe_machine() -> str:
    """Processor, cores that this process may use, and NVIDIA GPUs with their driver, in words."""
    told = [f"{_processor()}, {count_cores()} cores"]
    told += _matching(Path("/proc/driver/nvidia/gpus").glob("*/information"), "Model")
    told += _matching([Path("/proc/driver/nvidia/version")], "NVRM version")
    return "; ".join(told)


def digest_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Eight hexadecimal digits of the instruction sets that the processor has.

    Its name alone tells little: two generations may both be `AMD EPYC`. `unknown` where the system
    does not tell.
    """
    # as Linux calls them on x86-64 and on Arm
    listed = _matching([cpuinfo], "flags") or _matching([cpuinfo], "Features")
    if not listed:
        return "unknown"
    return hashlib.sha256(" ".join(sorted(listed[0].split())).encode()).hexdigest()[:8]


def module_version(module: str) -> str:
    """Of the distribution that brings a module, which is imported only if none has its name."""
    for name in (module, f"{module}-gpu", module.replace("_", "-")):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    try:
        return str(getattr(import_module(module), "__version__", "of no known version"))
    except ImportError:
        return "that cannot be imported"


def _processor() -> str:
    """Its name as Linux tells it (on a Jetson the board's), else what Python knows."""
    names = _matching([Path("/proc/cpuinfo")], "model name")
    board = Path("/proc/device-tree/model")
    if not names and board.is_file():
        names = [board.read_text(errors="replace").strip("\0\n ")]
    return names[0] if names else platform.processor() or platform.machine()


def count_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _matching(paths: Iterable[Path], name: str) -> list[str]:
    """Values of the lines `name: value` of files; none from a file that is not there."""
    found = []
    for path in sorted(paths):
        try:
            lines = path.read_text(errors="replace").splitlines()
        except OSError:
            continue
        found += [
            value.strip() for key, _, value in (line.partition(":") for line in lines)
            if key.strip() == name
        ]  # fmt: skip
    return found
