"""Exports for other people's servers: a checked bundle on the way, their folder at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from export.bundle import export_bundle
from export.deepstream import write_deepstream
from export.exported import ExportReport
from export.options import ExportOptions
from export.triton import write_triton
from export.work import FP16, FP32
from mip_edge.artifact import open_bundle
from mip_edge.errors import OptionError, OutputError

PURPOSES: Mapping[str, Callable[..., Path]] = {
    "triton": write_triton,
    "deepstream": write_deepstream,
}


def export_for(
    purpose: str,
    checkpoint_path: str | Path,
    output: str | Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008  it is frozen
    *,
    overwrite: bool = False,
) -> ExportReport:
    """Export a checkpoint to a bundle that is checked, and write it as `purpose` wants it.

    With `fp16` in the options it is the float16 graphs that go there.
    Raises: OptionError for an unknown purpose, and all that `export_bundle` and the writer raise.
    """
    if purpose not in PURPOSES:
        raise OptionError(f"--for must be one of {', '.join(PURPOSES)}, got {purpose!r}")
    target = Path(output)
    if not overwrite and (target.exists() or target.is_symlink()):
        raise OutputError(f"{target} exists already; choose another place or add --overwrite")
    with tempfile.TemporaryDirectory(prefix="mip-edge-") as folder:
        bundle = Path(folder) / "bundle"
        report = export_bundle(checkpoint_path, bundle, options)
        precision = FP16 if options.fp16 else FP32
        PURPOSES[purpose](open_bundle(bundle), target, precision=precision, overwrite=overwrite)
    return replace(report, path=target)
