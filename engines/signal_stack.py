"""Keeps the stack that this thread takes signals on as it was, whatever a library does to it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (
        ("address", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("size", ctypes.c_size_t),
    )


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """What is done inside may take another stack for signals; afterwards it is the old one again.

    OpenVINO 2026.4 sets one of its own for every model, and sets the one before when the model
    goes. Of two models closed in the order they were opened, that is the memory of the first, which
    is gone: the next signal, a Ctrl-C say, would kill the process.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    library, before = ctypes.CDLL(None), _Stack()
    library.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(before), None)
