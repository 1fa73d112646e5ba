"""Makes engines/crop_kernel.ptx of its source; for whoever changes the kernel: needs nvcc, no GPU.

python benchmarks/crop_kernel.py
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "engines"
SOURCES = ("crop_kernel.cu", "crop_kernel.h")
TARGET = "compute_75"
"""Turing; later GPUs compile the same text for themselves."""
PTX_VERSION = "6.3"
"""The first that knows Turing, so that drivers of CUDA 10 to 13 read it; ptxas checks that."""


def digest_sources() -> str:
    """SHA-256 of what the kernel is made of; it stands in the first line of the PTX."""
    return hashlib.sha256(b"".join((FOLDER / name).read_bytes() for name in SOURCES)).hexdigest()


def make_ptx(nvcc: str = "nvcc") -> str:
    """The kernel as PTX. Raises: subprocess.CalledProcessError with the compiler's words."""
    command = [nvcc, "-ptx", f"-arch={TARGET}", "-o", "-", str(FOLDER / SOURCES[0])]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    made = re.sub(r"(?m)^\.version .*$", f".version {PTX_VERSION}", made)
    return f"// of {' and '.join(SOURCES)}, SHA-256 {digest_sources()}\n{made}"


if __name__ == "__main__":
    (FOLDER / "crop_kernel.ptx").write_text(make_ptx())
