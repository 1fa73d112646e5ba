"""A bundle as one file for transport: an uncompressed tar of which every byte is decided."""

from __future__ import annotations

import hashlib
import struct
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mip_edge.artifact import open_bundle, write_bundle
from mip_edge.errors import BundleError, OutputError
from mip_edge.manifest import MANIFEST_NAME, FileRecord, Manifest, parse_manifest
from mip_edge.output import write_beside

_BLOCK = 512
"""A header takes one block, a content is filled up with zeros to the next."""
_END = bytes(2 * _BLOCK)
_LARGEST = 8**11 - 1
"""Bytes of one member that the eleven octal digits of a USTAR header can say."""
_CHUNK_BYTES = 1 << 20
_KINDS = {
    tarfile.DIRTYPE: "a folder",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
_PACK_ANEW = "Copy the file again, or pack the bundle anew with: mip-edge bundle pack"
Advance = Callable[[int], None]
"""Told the bytes of each chunk that was copied."""


@dataclass(frozen=True, slots=True)
class PackReport:
    """What lies in a packed file, or came out of it."""

    path: Path
    """The packed file, or the bundle."""
    fingerprint: str
    files: Mapping[str, int]
    """Bytes of each file, the manifest too."""
    left_out: tuple[str, ...] = ()
    """What lies in the folder but is no part of the bundle."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {
            "path": str(self.path),
            "fingerprint": self.fingerprint,
            "files": dict(self.files),
            "left_out": list(self.left_out),
        }


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    start: int
    """Where in the packed file its content begins."""
    size: int


def pack_bundle(
    bundle: str | Path,
    target: str | Path,
    *,
    overwrite: bool = False,
    advance: Advance | None = None,
) -> PackReport:
    """Verify a bundle and write it into one file; equal bundles give equal files, to the byte.

    POSIX USTAR, members by name, no times and no owners; any tar can read it. `advance` is told
    the bytes that were copied.
    Raises: BundleError if the bundle is not whole, OutputError if `target` exists (without
    `overwrite`) or cannot be written.
    """
    folder, target = Path(bundle), Path(target)
    if target.is_dir():
        raise OutputError(f"{target} is a folder; give the name of a file, such as bundle.tar")
    if not overwrite and (target.exists() or target.is_symlink()):
        raise OutputError(f"{target} exists already; choose another name or add --overwrite")
    if not target.parent.is_dir():
        raise OutputError(f"{target} cannot be written: the folder {target.parent} does not exist")
    manifest = open_bundle(folder).manifest
    records = {**manifest.files, MANIFEST_NAME: _record(manifest.to_json().encode())}
    with write_beside(target) as stream:
        for name in sorted(records):
            size = records[name].bytes
            stream.write(_header(name, size))
            with _open(folder / name) as source:
                same = _copy(source, stream, records[name], advance)
            if not same:
                raise BundleError(f"{folder / name} changed while it was packed; pack it again")
            stream.write(bytes(-size % _BLOCK))
        stream.write(_END)
    left_out = sorted(entry.name for entry in folder.iterdir() if entry.name not in records)
    sizes = {name: records[name].bytes for name in sorted(records)}
    return PackReport(target, manifest.fingerprint, sizes, tuple(left_out))


def unpack_bundle(
    packed: str | Path,
    target: str | Path,
    *,
    overwrite: bool = False,
    advance: Advance | None = None,
) -> PackReport:
    """The bundle that `pack_bundle` wrote into `packed`, as the folder `target`; whole or not.

    Nothing is written outside a draft beside `target`, which takes its name when every byte is
    the one that was packed.
    Raises: BundleError naming the member at fault, OutputError if `target` exists (without
    `overwrite`) or cannot be written.
    """
    packed = Path(packed)
    with _open(packed) as source:
        members = {member.name: member for member in _read_members(packed, source)}
        manifest = _read_manifest(packed, source, members)
        with write_bundle(target, overwrite=overwrite) as draft:
            for name, record in manifest.files.items():
                with (draft / name).open("xb") as stream:
                    _unpack(packed, source, members[name], record, stream, advance)
            (draft / MANIFEST_NAME).write_bytes(manifest.to_json().encode())
            open_bundle(draft)
    sizes = {name: member.size for name, member in members.items()}
    return PackReport(Path(target), manifest.fingerprint, sizes)


def _read_members(packed: Path, source: BinaryIO) -> Iterator[_Member]:
    """Every member in the order of the file, its header compared with the one that we write."""
    start, names = 0, [""]
    while (block := _read(source, _BLOCK, start=start)) != _END[:_BLOCK]:
        if len(block) < _BLOCK:
            raise _truncated(packed, names[-1])
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except tarfile.HeaderError as error:
            if start == 0:
                raise BundleError(
                    f"{packed} is no packed bundle (an uncompressed tar). Make one with: "
                    "mip-edge bundle pack BUNDLE -o FILE.tar"
                ) from error
            raise BundleError(
                f"{packed} is damaged at byte {start}, after {names[-1]}: no header of a member "
                f"stands there. {_PACK_ANEW}"
            ) from error
        _check_kind(packed, header)
        if header.name in names:
            raise BundleError(f"{packed} holds {header.name!r} twice. {_PACK_ANEW}")
        if block != _header(header.name, header.size):
            raise BundleError(
                f"{packed} holds {header.name!r} with a header that mip-edge does not write: "
                f"damaged, or packed by another program. {_PACK_ANEW}"
            )
        if names[-1] > header.name:
            raise BundleError(f"{packed} holds {header.name!r} out of order. {_PACK_ANEW}")
        names.append(header.name)
        yield _Member(header.name, start + _BLOCK, header.size)
        start += _BLOCK + header.size + -header.size % _BLOCK
    if _read(source, 2 * len(_END), start=start) != _END:
        raise BundleError(
            f"{packed} does not end where its last member ends: truncated, or something was "
            f"added. {_PACK_ANEW}"
        )


def _check_kind(packed: Path, header: tarfile.TarInfo) -> None:
    """Refuse what is no plain file, and names that lead out of the bundle."""
    if header.type != tarfile.REGTYPE:
        kind = _KINDS.get(header.type, f"of the tar type {header.type!r}")
        raise BundleError(
            f"{packed} holds {header.name!r}, which is {kind}; a packed bundle holds plain files "
            f"only. {_PACK_ANEW}"
        )
    if header.name in ("", ".", "..") or "/" in header.name or "\\" in header.name:
        raise BundleError(
            f"{packed} holds {header.name!r}, which leads out of the bundle; its members have "
            f"plain names. {_PACK_ANEW}"
        )


def _read_manifest(packed: Path, source: BinaryIO, members: Mapping[str, _Member]) -> Manifest:
    """The manifest inside, and every member held against it."""
    if MANIFEST_NAME not in members:
        raise BundleError(f"{packed} is no packed bundle: it holds no {MANIFEST_NAME}")
    member = members[MANIFEST_NAME]
    content = _read(source, member.size, start=member.start)
    manifest = parse_manifest(content, packed / MANIFEST_NAME)
    _check_padding(packed, source, member)
    for name in sorted(members.keys() - manifest.files.keys() - {MANIFEST_NAME}):
        raise BundleError(f"{packed} holds {name}, which its manifest does not name. {_PACK_ANEW}")
    for name, record in manifest.files.items():
        if name not in members:
            raise BundleError(f"{packed} lacks {name}, which its manifest names. {_PACK_ANEW}")
        if members[name].size != record.bytes:
            raise BundleError(
                f"{packed} holds {name} of {members[name].size} bytes, its manifest says "
                f"{record.bytes}. {_PACK_ANEW}"
            )
    return manifest


def _unpack(
    packed: Path,
    source: BinaryIO,
    member: _Member,
    record: FileRecord,
    stream: BinaryIO,
    advance: Advance | None,
) -> None:
    source.seek(member.start)
    if not _copy(source, stream, record, advance):
        raise BundleError(
            f"{packed} holds {member.name} damaged: it differs from what was packed (SHA-256). "
            f"{_PACK_ANEW}"
        )
    _check_padding(packed, source, member)


def _check_padding(packed: Path, source: BinaryIO, member: _Member) -> None:
    """The bytes that fill the last block carry nothing, and so must be nothing."""
    padding = _read(source, -member.size % _BLOCK, start=member.start + member.size)
    if any(padding):
        raise BundleError(f"{packed} is damaged behind the end of {member.name}. {_PACK_ANEW}")


def _copy(source: BinaryIO, stream: BinaryIO, record: FileRecord, advance: Advance | None) -> bool:
    """Copy as many bytes as `record` says; whether they are the ones that it means."""
    digest, left = hashlib.sha256(), record.bytes
    while left and (chunk := _read(source, min(left, _CHUNK_BYTES))):
        stream.write(chunk)
        digest.update(chunk)
        left -= len(chunk)
        if advance is not None:
            advance(len(chunk))
    return digest.hexdigest() == record.sha256


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error


def _read(source: BinaryIO, size: int, *, start: int | None = None) -> bytes:
    """At most `size` bytes; a failing disk is told apart from one that cannot be written."""
    try:
        if start is not None:
            source.seek(start)
        return source.read(size)
    except OSError as error:
        raise BundleError(f"{source.name} cannot be read: {error.strerror}") from error


def _truncated(packed: Path, name: str) -> BundleError:
    where = f"in or right after {name}" if name else "before its first member"
    return BundleError(f"{packed} is truncated: it ends {where}. {_PACK_ANEW}")


def _record(content: bytes) -> FileRecord:
    return FileRecord(hashlib.sha256(content).hexdigest(), len(content))


def _header(name: str, size: int) -> bytes:
    """The USTAR header of a plain file: mode 644, owner, group and time zero.

    Written out here, as the standard library's fills unused fields by its version.
    """
    if size > _LARGEST:
        raise BundleError(f"{name} has {size} bytes; a packed bundle takes files below 8 GiB")
    fields = struct.pack(
        "100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x",
        name.encode(),
        b"0000644\0", b"0000000\0", b"0000000\0", b"%011o\0" % size, b"%011o\0" % 0, b" " * 8,
        tarfile.REGTYPE, b"", b"ustar\0", b"00", b"", b"", b"0000000\0", b"0000000\0", b"",
    )  # fmt: skip
    return fields[:148] + b"%06o\0 " % sum(fields) + fields[156:]
