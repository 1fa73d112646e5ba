"""Says in a line what measured a number: machine, instructions, threads, versions."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

from engines import machine
from mip_edge import __version__

_PROCESSORS = Path("/proc/cpuinfo")
_INTEGER_PRODUCTS = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")
"""Linux's names of what multiplies 8-bit integers fast, the fastest first; x86-64, then Arm."""


def describe_machine(threads: int | None) -> str:
    """Processor, cores, GPUs, instructions for int8, and the threads that an engine may use."""
    allowed = "threads as the runtime chooses"
    if threads is not None:
        allowed = f"{threads} thread{'s' if threads > 1 else ''}"
    return "; ".join([machine.describe_machine(), *find_integer_product(), allowed])


def find_integer_product(path: Path = _PROCESSORS) -> list[str]:
    """The fastest instructions for int8 that Linux tells of, or nothing."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    entries = [line.partition(":") for line in lines]
    flags = {
        flag for key, _, value in entries if key.strip() in ("flags", "Features")
        for flag in value.split()
    }  # fmt: skip
    return [name for name in _INTEGER_PRODUCTS if name in flags][:1]


def read_versions(modules: Iterable[str]) -> Mapping[str, str]:
    """Versions of mip-edge, Python, numpy and the runtimes' `modules`."""
    found = {"mip-edge": __version__, "python": platform.python_version()}
    for module in dict.fromkeys(["numpy", *modules]):
        found[module] = machine.module_version(module)
    return found
