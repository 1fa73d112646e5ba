"""What TensorRT says while it builds and runs, and the one line of it that a user needs."""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from engines.cuda import NEEDS_LESS

logger = logging.getLogger(__name__)

_SOURCE = re.compile(r"^\w+\.cpp:\d+: |^\w+::\w+: Error Code \d+: |\.? In \w+ at /[^\s)]+")
"""Places in TensorRT's own source, which tell a user nothing."""
_KEPT = 1000
"""Messages; a build that complains of every node says no more than that."""
_WAYS = {
    "out of memory": NEEDS_LESS,
    "driver version is insufficient": "update the NVIDIA driver, or choose --engine onnxruntime",
}
"""What to do, by words of the reason."""


def log_of(trt: Any) -> Any:
    """The logger of one library for the whole process: it keeps the first it is given for good.

    `messages` holds (severity, text) of errors and warnings since it was last cleared; warnings
    also go to our log, but for those of a `recording`.
    """
    return _log(trt.ILogger)


@cache
def _log(kind: Any) -> Any:
    """By the class of the library's loggers, which unlike a module can always be a key."""

    class Log(kind):  # type: ignore[misc]
        def __init__(self) -> None:
            kind.__init__(self)
            self.messages: deque[tuple[Any, str]] = deque(maxlen=_KEPT)
            self.fault: BaseException | None = None
            self.recording = False

        def log(self, severity: Any, text: str) -> None:
            # Nothing may be thrown through the C++ frames below; Ctrl-C is `_interrupts_held`.
            try:
                if severity > kind.WARNING:
                    return
                self.messages.append((severity, text))
                if severity == kind.WARNING and not self.recording:
                    logger.warning("TensorRT: %s", one_line(text))
            except BaseException as fault:
                self.fault = fault

    return Log()


@contextmanager
def recording(trt: Any) -> Iterator[Any]:
    """The library's logger, keeping all it is told in the block; nothing is printed.

    What went wrong while the library spoke is raised at the end of the block, and so is Ctrl-C.
    """
    log = log_of(trt)
    log.messages = deque(maxlen=_KEPT)
    log.fault, log.recording = None, True
    with _interrupts_held():
        try:
            yield log
        finally:
            log.recording = False
            if log.fault is not None:
                raise log.fault


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait until the block has ended.

    Python raises it where a function begins, and the next that begins is `log`, called by C++:
    before its first line, where nothing can catch it. The bindings print it there and forget it.
    """
    former = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(former):
        yield
        return
    came: list[int] = []

    def hold(number: int, _: object) -> None:
        came.append(number)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
        if came:
            signal.raise_signal(signal.SIGINT)


def logged_reason(trt: Any, log: Any) -> str:
    """The first error in the log, from which later ones follow; empty if there is none."""
    failures = (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
    texts = (text for severity, text in log.messages if severity in failures)
    return next((one_line(text) or " ".join(text.split()) for text in texts), "")


def one_line(text: str) -> str:
    """A message without its places in TensorRT's source, and without what a missing driver adds."""
    lines = [line for line in text.splitlines() if "catchCudaError" not in line]
    return " ".join(" ".join(_SOURCE.sub("", line) for line in lines).split())


def way_out(reason: str, otherwise: str = "") -> str:
    """What to do about a reason that the library gave."""
    lower = reason.lower()
    return next((way for words, way in _WAYS.items() if words in lower), otherwise)
