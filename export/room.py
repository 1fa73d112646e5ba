"""Whether the machine has room for an export, asked before anything is computed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mip_edge.errors import OptionError, OutputError
from mip_edge.model.mip import MIP

_COPIES_IN_MEMORY = 9
"""Peak of an export over the bytes of the network: 3.5 GB of 375 MB were measured at base size."""
_COPIES_INT8 = 18
"""The same where INT8 graphs are made too: 6.3 GB were measured."""
_OVERHEAD_BYTES = 64 << 20
_PROTOBUF_BYTES = (1 << 31) - (1 << 24)
"""A graph is one protobuf message while it is made, and those end at 2 GiB."""


def check_room(model: MIP, target: Path, *, fp16: bool, int8: bool = False) -> None:
    """Refuse a network for whose graphs disk or memory is too small.

    Raises: OutputError naming the disk and both numbers, OptionError for memory or graph size.
    """
    weights = sum(parameter.numel() for parameter in model.parameters()) * 4
    if weights > _PROTOBUF_BYTES:
        raise OptionError(
            f"the network has {weights / 1e9:.1f} GB of float32 weights; an ONNX graph is made in "
            f"one message of at most {_PROTOBUF_BYTES / 1e9:.1f} GB. Export a narrower network"
        )
    smaller = (weights // 2 if fp16 else 0) + (weights // 2 if int8 else 0)
    needed = weights + smaller + _OVERHEAD_BYTES
    folder = next(one for one in (target.absolute(), *target.absolute().parents) if one.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"{target} cannot be written: an export wants {needed / 1e6:.0f} MB of disk, "
            f"{folder} has {free / 1e6:.0f} MB free. Free some, or choose another place"
        )
    available = available_memory()
    wanted = (_COPIES_INT8 if int8 else _COPIES_IN_MEMORY) * weights + _OVERHEAD_BYTES
    if available is not None and available < wanted:
        raise OptionError(
            f"exporting this network takes about {wanted / 1e6:.0f} MB of memory, "
            f"{available / 1e6:.0f} MB are free. Close other programs, or export on a larger "
            "machine: the bundle runs in far less"
        )


def available_memory() -> int | None:
    """Bytes that can be had without swapping, or None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (line,) = (line for line in lines if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
