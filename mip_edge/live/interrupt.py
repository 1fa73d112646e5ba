"""Ctrl-C, or the SIGTERM of a service manager: a run ends in order; the second time at once."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)


class Interrupt:
    """Whether somebody asked the run to end; hears signals inside `with`.

    The step under way is done to its end: no line, frame or person is left half written.
    """

    def __init__(self) -> None:
        self.asked = False
        """Somebody did."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Python lets no other thread take signals; a caller there has its own way to stop.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def ends(self) -> Iterator[None]:
        """One that comes as an exception ends this block, and nothing else."""
        try:
            yield
        except KeyboardInterrupt:
            if self.asked:
                raise
            self._ask()

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self._ask()

    def _ask(self) -> None:
        self.asked = True
        logger.info("stopped; what was seen until now is kept (once more: at once, and no video)")
