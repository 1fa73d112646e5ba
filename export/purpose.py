"""Exports for other people's servers: a checked bundle on the way, their folder at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from export import deepstream, triton
from export.bundle import export_bundle
from export.exported import ExportReport
from export.options import ExportOptions
from export.work import FP16, FP32
from mip_edge.artifact import open_bundle
from mip_edge.errors import OptionError
from mip_edge.folder import refuse_existing


@dataclass(frozen=True, slots=True)
class Purpose:
    """One kind of folder that an export can become."""

    write: Callable[..., Path]
    """Takes a bundle, the target, and `precision` and `overwrite` by name."""
    kind: str
    """What it writes, in the words of an error."""
    is_ours: Callable[[Path], bool]
    """Whether a folder is of that kind, and of nobody else."""


PURPOSES: Mapping[str, Purpose] = {
    "triton": Purpose(triton.write_triton, triton.KIND, triton.is_triton),
    "deepstream": Purpose(deepstream.write_deepstream, deepstream.KIND, deepstream.is_deepstream),
}
"""What `--for` takes."""


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
    if options.int8:
        raise OptionError(
            f"--for {purpose} writes float graphs: leave --int8 out, or export a bundle"
        )
    chosen, target = PURPOSES[purpose], Path(output)
    refuse_existing(target, chosen.kind, chosen.is_ours, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="mip-edge-") as folder:
        bundle = Path(folder) / "bundle"
        report = export_bundle(checkpoint_path, bundle, options)
        precision = FP16 if options.fp16 else FP32
        chosen.write(open_bundle(bundle), target, precision=precision, overwrite=overwrite)
    written = sorted(path for path in target.rglob("*") if path.is_file())
    sizes = {path.relative_to(target).as_posix(): path.stat().st_size for path in written}
    return replace(report, path=target, written=sizes)
