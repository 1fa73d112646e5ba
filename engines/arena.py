"""Device memory that the engines of a process compute in by turns."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

from engines.cuda import Device

_arenas: WeakValueDictionary[tuple[str, str], Arena] = WeakValueDictionary()
_arenas_lock = threading.Lock()


class Arena:
    """One block of device memory that engines of a process compute in by turns.

    A network's activations are needed only while it runs, so two networks that never run at the
    same moment need the larger of both, not the sum.
    """

    def __init__(self, device: Device) -> None:
        self.lock = threading.RLock()
        """Held by whoever computes in the block, until the device has done it."""
        self.address = 0
        """0 while nobody needs any."""
        self.size = 0
        self.users = 0
        self._device = device

    def enter(self, size: int) -> None:
        """Take part in the block, which becomes `size` bytes large at least.

        A block that grows has another address: whoever kept the old one must look again.
        Raises: CudaError; the block then is what it was.
        """
        with self.lock:
            if size > self.size:
                grown = self._device.allocate(size)
                self._drop()
                self.address, self.size = grown, size
            self.users += 1

    def leave(self) -> None:
        """Take part no more; the last one gives the block back."""
        with self.lock:
            self.users -= 1
            if self.users == 0:
                self._drop()

    def _drop(self) -> None:
        address, self.address, self.size = self.address, 0, 0
        if address:
            self._device.free(address)


def shared_arena(device: Device) -> Arena:
    """The one block of this process on that GPU; it lives as long as an engine that uses it.

    What one library took another cannot free: each that talks to the GPU has a block of its own.
    """
    key = device.facts.name, device.facts.library
    with _arenas_lock:
        arena = _arenas.get(key)
        if arena is None:
            arena = _arenas[key] = Arena(device)
        return arena
