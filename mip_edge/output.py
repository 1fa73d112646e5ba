"""Files written beside their place, then renamed: whole or not at all; the last good one stays."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from mip_edge.errors import OutputError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def write_beside(path: Path, *, lasting: bool = True) -> Iterator[BinaryIO]:
    """A stream whose bytes become `path` when the block ends well, in one rename.

    They go to a hidden file beside it first. If the block fails, or the disk does, that file is
    removed and whatever stood at `path` stays as it was. With `lasting` the bytes are on the disk
    before the rename, so that a power cut leaves the old file or the new one; do without for many
    small files that can be made again.
    Raises: OutputError if the place cannot be written; what the block itself raises goes through.
    """
    # process ids repeat among the machines and containers that share a folder
    beside = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(3).hex()}.part")
    try:
        part = _Part(beside, "xb")
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        with io.BufferedWriter(part) as stream:
            yield cast(BinaryIO, stream)
            stream.flush()
            if lasting:
                part.sync()
        part.move(path)
        if lasting:
            _sync_folder(path.parent)
    except Exception as error:
        failure = part.failure
        if failure is None and isinstance(error, OSError) and error.errno in _FULL:
            failure = error  # what the block put elsewhere on the way filled a disk
        if failure is None:
            raise
        raise _refusal(path, failure) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, lasting: bool = True) -> None:
    """`text` as UTF-8 at `path`, whole or not at all. Raises: OutputError as `write_beside`."""
    with write_beside(path, lasting=lasting) as stream:
        stream.write(text.encode())


class _Part(io.FileIO):
    """The file beside; it keeps the failure of its disk, which torch.save hides behind its own."""

    failure: OSError | None = None

    def write(self, content: Any, /) -> int:
        with self._noting():
            return super().write(content)

    def sync(self) -> None:
        with self._noting():
            os.fsync(self.fileno())

    def move(self, path: Path) -> None:
        with self._noting():
            os.replace(str(self.name), path)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            raise


def _refusal(path: Path, error: OSError) -> OutputError:
    reason = f"{path} cannot be written: {error.strerror}"
    if error.errno in _FULL:
        reason += "; free some space, what stood there before is unchanged"
    return OutputError(reason)


def _sync_folder(folder: Path) -> None:
    """The rename itself reaches the disk, where the file system can promise it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
