"""The index of one process kept to what the tables say, whoever wrote them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mip_edge.gallery.connection import Connection
from mip_edge.gallery.index import VectorIndex
from mip_edge.gallery.store import Store
from mip_edge.spec import Embeddings


class IndexFollower:
    """Brings into the index what was added and removed: by this gallery, and by other processes."""

    def __init__(self, db: Connection, store: Store, index: VectorIndex) -> None:
        """Takes in all that is there; a failure of `db` to write is followed from now on."""
        self._db, self._store, self._index = db, store, index
        self._newest = 0
        self._removals = -1
        self._version = -1
        db.on_failure(self._resynchronise)
        self.refresh()

    def refresh(self) -> None:
        """See what another process has written since the last look."""
        if not self._db.in_transaction:  # else nobody can have
            self._look()

    def begin(self) -> None:
        """Nobody else writes until the next commit, and what they wrote until now is seen.

        To wait for them takes its time: what was looked up before it may hold no more.
        """
        if not self._db.in_transaction:
            self._db.begin()
            self._look()

    def add(self, keys: Sequence[int], embeddings: Embeddings) -> None:
        """These (N, D) were added to the tables here since `begin`, the newest last."""
        self._index.add(keys, embeddings)
        self._newest = keys[-1]

    def drop(self, keys: Sequence[int]) -> None:
        """The tables have lost these by our own hand."""
        if keys:
            self._index.remove(keys)
        self._removals = self._store.removals

    def _look(self) -> None:
        version = self._db.version()
        if version == self._version:
            return
        removals = int(self._store.meta("removals"))
        if removals != self._removals:
            present = self._store.keys()
            held = self._index.keys()
            self._index.remove(held[~np.isin(held, present)])
        for keys, embeddings in self._store.vectors(above=self._newest):
            self._index.add(keys, embeddings)
            self._newest = keys[-1]
        self._version, self._removals = version, removals
        self._store.removals = removals

    def _resynchronise(self) -> None:
        """What was written was taken back: the index follows."""
        present = self._store.keys()
        held = self._index.keys()
        self._index.remove(held[~np.isin(held, present)])
        missing = set(present.tolist()) - set(held.tolist())
        if missing:
            for keys, embeddings in self._store.vectors():
                rows = [row for row, key in enumerate(keys) if key in missing]
                self._index.add([keys[row] for row in rows], embeddings[rows])
        self._newest = int(present.max(initial=0))
        self._removals = self._store.removals = int(self._store.meta("removals"))
