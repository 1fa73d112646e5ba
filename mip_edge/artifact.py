"""The bundle: a folder that travels to the device, whole or not at all, with all it promises."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mip_edge.errors import BundleError
from mip_edge.folder import write_folder
from mip_edge.manifest import (
    COPY_AGAIN,
    FORMAT,
    MANIFEST_NAME,
    Accuracy,
    Cost,
    FileRecord,
    Graph,
    Manifest,
    Parity,
    Precision,
    parse_manifest,
)
from mip_edge.spec import EmbedderSpec, Modality

__all__ = [
    "MANIFEST_NAME",
    "Accuracy",
    "Bundle",
    "Cost",
    "FileRecord",
    "Graph",
    "Manifest",
    "Parity",
    "Precision",
    "open_bundle",
    "read_bundle",
    "rewrite_bundle",
    "seal",
    "verify_file",
    "way_to",
    "write_bundle",
]

PACKED_SUFFIX = ".tar"
_CHUNK_BYTES = 1 << 20
_FLAGS = {
    "fp16": "--fp16",
    "int8": "--int8 --calibrate DATA",
    "int8-fp16": "--int8 --fp16 --calibrate DATA",
}
"""What `mip-edge export` needs for a precision beside float32."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: every file is there and is the one that was exported."""

    path: Path
    manifest: Manifest

    @property
    def unified(self) -> bool:
        """Whether one graph takes both modalities, mixed in a batch."""
        return self.manifest.layout == "unified"

    def specs_with(self, modality: Modality) -> Mapping[Modality, EmbedderSpec]:
        """What the graph of one modality takes: that modality, or all of a unified graph.

        Raises: BundleError if the bundle does not hold it.
        """
        specs = self.manifest.specs
        if modality not in specs:
            known = ", ".join(known.value for known in specs)
            raise BundleError(f"{self.path} is not for {modality.value} crops; it is for: {known}")
        return specs if self.unified else {modality: specs[modality]}

    def graph_path(self, modality: Modality, precision: str = "fp32") -> Path:
        """The ONNX file of one modality.

        Raises: BundleError if the bundle does not hold it.
        """
        held = self.manifest.precisions.get(precision)
        if held is None:
            known = ", ".join(sorted(self.manifest.precisions))
            way = f"; make them with: {way_to(precision)}" if precision in _FLAGS else ""
            raise BundleError(
                f"{self.path} holds no {precision} graphs; it holds: {known}. Choose --precision "
                f"among those{way}"
            )
        if modality not in held.graphs:
            raise BundleError(f"{self.path} holds no {precision} graph for {modality.value} crops")
        return self.path / held.graphs[modality].file


def way_to(precision: str) -> str:
    """The command that makes a bundle with graphs of a precision."""
    flags = _FLAGS.get(precision)
    return f"mip-edge export WEIGHTS -o BUNDLE{f' {flags}' if flags else ''}"


def open_bundle(path: str | Path) -> Bundle:
    """Read the manifest and verify every file against it.

    Raises: BundleError naming the file at fault and what to do.
    """
    bundle = read_bundle(path)
    for name in bundle.manifest.files:
        verify_file(bundle, name)
    return bundle


def read_bundle(path: str | Path) -> Bundle:
    """Read the manifest alone; the files may be missing or altered until `verify_file` says not.

    Raises: BundleError if `path` is no bundle, or its manifest is altered or of another version.
    """
    folder = Path(path)
    manifest_path = folder / MANIFEST_NAME
    if folder.is_file() and folder.suffix == PACKED_SUFFIX:
        raise BundleError(
            f"{folder} is a packed bundle; unpack it with: "
            f"mip-edge bundle unpack {folder} -o {folder.with_suffix('')}"
        )
    if not manifest_path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it holds no {MANIFEST_NAME}. "
            "Make one with: mip-edge export WEIGHTS -o BUNDLE"
        )
    try:
        content = manifest_path.read_bytes()
    except OSError as error:
        raise BundleError(f"{manifest_path} cannot be read: {_reason(error)}") from error
    return Bundle(folder, parse_manifest(content, manifest_path))


def verify_file(bundle: Bundle, name: str) -> None:
    """Compare size and SHA-256 of one file with the manifest. Raises: BundleError naming it."""
    path, expected = bundle.path / name, bundle.manifest.files[name]
    if not path.is_file():
        raise BundleError(f"{path} is missing from the bundle. {COPY_AGAIN}")
    try:
        found = path.stat().st_size
        if found != expected.bytes:
            raise BundleError(
                f"{path} has {found} bytes, its manifest says {expected.bytes}: "
                f"truncated or replaced. {COPY_AGAIN}"
            )
        if _record(path).sha256 != expected.sha256:
            raise BundleError(
                f"{path} differs from what was exported (SHA-256): altered or damaged. {COPY_AGAIN}"
            )
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {_reason(error)}") from error


@contextmanager
def write_bundle(target: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A draft folder beside `target` that takes its name when the block ends well.

    On any error the draft is removed and an older bundle stays as it was.
    Raises: OutputError if `target` exists (without `overwrite`) or cannot be written.
    """
    with write_folder(Path(target), "a bundle", _is_bundle, overwrite=overwrite) as draft:
        yield draft


def seal(draft: Path, manifest: Manifest) -> Manifest:
    """Write the manifest of a draft, with size and SHA-256 of every file that lies in it."""
    names = sorted(entry.name for entry in draft.iterdir() if entry.name != MANIFEST_NAME)
    sealed = replace(manifest, files={name: _record(draft / name) for name in names})
    (draft / MANIFEST_NAME).write_text(sealed.to_json(), encoding="utf-8")
    return sealed


@contextmanager
def rewrite_bundle(
    bundle: Bundle, manifest: Manifest, target: str | Path, *, overwrite: bool = False
) -> Iterator[Path]:
    """An empty draft; what the block writes there joins the files of `bundle`, as `target`.

    A file of the same name is replaced. When the block ends well the draft is sealed with
    `manifest` and takes its place in one rename. `target` may be the bundle itself: then what lies
    in its folder beside the bundle's own files stays there.
    Raises: BundleError if a file to keep is not the one that was exported; OutputError if `target`
    exists (without `overwrite`) or cannot be written. An older bundle then stays as it was.
    """
    place = Path(target).resolve()
    same = place == bundle.path.resolve()
    with write_bundle(place, overwrite=overwrite or same) as draft:
        yield draft
        kept = [name for name in bundle.manifest.files if not (draft / name).exists()]
        for name in kept:
            _bring(bundle.path / name, draft / name, same=same)
        sealed = seal(draft, manifest)
        for name in kept:
            if sealed.files[name] != bundle.manifest.files[name]:
                raise BundleError(
                    f"{bundle.path / name} differs from what was exported (SHA-256): altered or "
                    f"damaged. {COPY_AGAIN}"
                )
        if same:
            for entry in bundle.path.iterdir():
                if entry.name not in sealed.files and entry.name != MANIFEST_NAME:
                    _carry(entry, draft / entry.name)


def _bring(source: Path, copy: Path, *, same: bool) -> None:
    """A file of the old folder: by another name where that one goes, and else a copy."""
    if same:
        try:
            os.link(source, copy)
            return
        except OSError:  # a file system without hard links
            pass
    shutil.copyfile(source, copy)


def _carry(entry: Path, copy: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.copytree(entry, copy, symlinks=True)
    else:
        shutil.copy2(entry, copy, follow_symlinks=False)


def _is_bundle(folder: Path) -> bool:
    """Whether its manifest says so, damaged or not: other programs have a manifest.json too."""
    path = folder / MANIFEST_NAME
    return path.is_file() and FORMAT in path.read_text(encoding="utf-8", errors="replace")


def _record(path: Path) -> FileRecord:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return FileRecord(sha256=digest.hexdigest(), bytes=path.stat().st_size)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
