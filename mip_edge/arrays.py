"""Arrays in an .npz, read without running anything that is in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from numpy.lib.npyio import NpzFile


@contextmanager
def open_arrays(path: Path) -> Iterator[NpzFile]:
    """The arrays of an .npz by name, each read when it is asked for.

    Raises: OSError, ValueError, KeyError, EOFError or BadZipFile, in the block too, for any other
    file.
    """
    # opened here, for numpy leaves a file open that it cannot read; and no `np.load`, whose advice
    # about any other file is to load it unsafely
    with path.open("rb") as stream, NpzFile(stream) as stored:
        yield stored
