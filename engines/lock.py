"""A lock among processes that a dead one cannot hold: the kernel's own, on an open file."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, *, tell_waiting: Callable[[], None]) -> Iterator[None]:
    """Alone with `path` among all processes and threads; the file is there only meanwhile.

    `tell_waiting` is called once if another holds it. Raises: OSError if it cannot be made.
    """
    handle = _acquire(path, tell_waiting)
    try:
        yield
    finally:
        # Removed while it is held, so that whoever waits on it finds that it is gone.
        path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path, tell_waiting: Callable[[], None]) -> int:
    """Descriptor of the locked file that lies at `path`."""
    waiting = False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waiting:
                    waiting = True
                    tell_waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
