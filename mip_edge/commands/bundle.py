"""The command group `mip-edge bundle`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mip_edge.packing import PackReport
    from mip_edge.verification import Found

bundle_argument = click.argument(
    "path", metavar="BUNDLE", type=click.Path(exists=True, path_type=Path)
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print it all as JSON.")


@click.group()
def bundle() -> None:
    """Verify a bundle, show what it promises, or pack it into one file for transport."""


@bundle.command()
@bundle_argument
@click.option(
    "--tensorrt-rtx",
    is_flag=True,
    help="Have TensorRT-RTX parse and build every graph too; it needs no GPU for that.",
)
@json_option
def verify(path: Path, tensorrt_rtx: bool, as_json: bool) -> None:
    """Verify every file of BUNDLE, then run every graph.

    Exit code 1, and a line that names the file at fault, if anything is wrong: the schema, a size
    or SHA-256, a graph that ONNX Runtime refuses, that says of itself something else than the
    manifest, or whose embedding of a grey crop is not of unit length.
    """
    from mip_edge.verification import verify_bundle

    def tell(found: Found) -> None:
        click.echo(_line(found))

    found = verify_bundle(path, tensorrt_rtx=tensorrt_rtx, tell=None if as_json else tell)
    click.echo(json.dumps(found.to_dict(), indent=2) if as_json else "whole")


@bundle.command()
@bundle_argument
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as it is.")
def show(path: Path, as_json: bool) -> None:
    """Show what BUNDLE is, costs and is worth.

    Only the manifest is read and verified; `mip-edge bundle verify` looks at the files.
    """
    from mip_edge.artifact import read_bundle
    from mip_edge.summary import format_manifest

    manifest = read_bundle(path).manifest
    if as_json:
        click.echo(manifest.to_json(), nl=False)
    else:
        click.echo(format_manifest(manifest))


@bundle.command()
@bundle_argument
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE.tar",
    type=click.Path(path_type=Path),
    help="The file to write.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@json_option
def pack(path: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Pack a verified BUNDLE into one file.

    An uncompressed tar that any tar can read; equal bundles give equal files, to the byte.
    """
    from mip_edge.artifact import read_bundle
    from mip_edge.packing import pack_bundle

    total = sum(record.bytes for record in read_bundle(path).manifest.files.values())
    with _progress("packing", total) as advance:
        report = pack_bundle(path, output, overwrite=overwrite, advance=advance)
    for name in report.left_out:
        click.echo(f"left out: {name}, which is no part of the bundle", err=True)
    _tell(report, as_json)


@bundle.command()
@click.argument(
    "packed",
    metavar="FILE.tar",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="BUNDLE",
    type=click.Path(path_type=Path),
    help="The folder to make.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace an older bundle; it stays until the new one stands."
)
@json_option
def unpack(packed: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Unpack FILE.tar into a verified bundle.

    Nothing is left of it if a single byte differs from what was packed.
    """
    from mip_edge.packing import unpack_bundle

    with _progress("unpacking", packed.stat().st_size) as advance:
        report = unpack_bundle(packed, output, overwrite=overwrite, advance=advance)
    _tell(report, as_json)


@contextmanager
def _progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of bytes on stderr, on a terminal alone."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda copied: bar.advance(task, copied)


def _tell(report: PackReport, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        total = sum(report.files.values())
        click.echo(f"{report.path}: {len(report.files)} files, {total:,} bytes, verified")


def _line(found: Found) -> str:
    """One file or graph that was found right."""
    from mip_edge.verification import VerifiedFile

    if isinstance(found, VerifiedFile):
        return f"file   {found.file}: {found.bytes:,} bytes, as exported"
    built = ""
    if found.tensorrt_rtx is not None:
        warnings = "; ".join(found.tensorrt_rtx) or "none"
        built = f", built by TensorRT-RTX (warnings: {warnings})"
    return (
        f"graph  {found.file}: {found.precision}, {found.modality.value}, as the manifest says, "
        f"length {found.length:.6f}{built}"
    )
