"""Which embeddings are nearest to a query: all compared while they are few, short codes beyond.

Beyond `EXACT_LIMIT` every embedding has a code of 256 bits, the signs of its projections on as many
directions. A query is compared with all codes (Charikar 2002: the share of bits that differ tells
the angle), and the few hundred nearest are then compared by their components in eight bits. Unlike
a graph (HNSW) this takes an embedding in microseconds, gives up a forgotten one at once and wholly,
needs no minutes to be built, and finds as many: docs/live.md has the figures of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import GalleryError
from mip_edge.spec import Embeddings

Scalar = TypeVar("Scalar", bound=np.generic)
Keys = NDArray[np.int64]
Ranked = tuple[Keys, NDArray[np.float32]]
"""Some keys and their cosines with a query, best first."""

EXACT_LIMIT = 20_000
"""Embeddings up to which every one is compared; 20,000 x 512 take 40 MB and about 2 ms."""
FIRST_CHUNK = 32
SORTED_FIRST = 512
BITS = 256
"""Of a code."""
SHORTLISTS = (256, 2048)
"""Codes whose embeddings are compared, first and at most; who stands further is nobody's match."""
_SEED = 20
"""Of the directions; the codes of one process are never met by another's."""


class ExactIndex:
    """All embeddings in one matrix, every one compared."""

    def __init__(self, dimension: int) -> None:
        self._embeddings = np.empty((64, dimension), np.float32)
        self._keys = np.empty(64, np.int64)
        self._rows: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: int) -> bool:
        return key in self._rows

    @property
    def memory(self) -> int:
        """Bytes."""
        return self._embeddings.nbytes + 100 * len(self)

    def keys(self) -> Keys:
        """All keys, in no order."""
        return np.array(self._keys[: len(self)])

    def embeddings(self) -> Embeddings:
        """All embeddings in the order of `keys`; a view."""
        return self._embeddings[: len(self)]

    def add(self, keys: Keys, embeddings: Embeddings) -> None:
        """Take embeddings (N, D) under keys that are not there yet."""
        start, end = len(self), len(self) + len(keys)
        if end > len(self._keys):
            room = max(end, 2 * len(self._keys))
            self._embeddings = _enlarged(self._embeddings, room)
            self._keys = _enlarged(self._keys, room)
        self._embeddings[start:end] = embeddings
        self._keys[start:end] = keys
        self._rows.update(zip(keys.tolist(), range(start, end), strict=True))

    def remove(self, key: int) -> None:
        """The last row takes the place of the one that goes, which is wiped."""
        row, last = self._rows.pop(key), len(self._rows)
        if row != last:
            moved = int(self._keys[last])
            self._embeddings[row], self._keys[row] = self._embeddings[last], moved
            self._rows[moved] = row
        self._embeddings[last] = 0

    def rank(self, query: NDArray[np.float32]) -> Iterator[Ranked]:
        """All keys by their cosine with a query (D,), the best few first."""
        cosines = self.embeddings() @ query
        keys = self._keys[: len(self)]
        rest = np.arange(len(keys))
        if len(keys) > 2 * SORTED_FIRST:  # to sort all costs more than to compare all
            parted = np.argpartition(-cosines, SORTED_FIRST)
            best, rest = parted[:SORTED_FIRST], parted[SORTED_FIRST:]
            best = best[np.lexsort((keys[best], -cosines[best]))]
            for part in (best[:FIRST_CHUNK], best[FIRST_CHUNK:]):
                yield keys[part], cosines[part]
        rest = rest[np.lexsort((keys[rest], -cosines[rest]))]
        start, count = 0, FIRST_CHUNK
        while start < len(rest):
            part = rest[start : start + count]
            yield keys[part], cosines[part]
            start, count = start + count, 4 * count


class CodeIndex:
    """A code of each embedding, all compared; and its components in eight bits, for the nearest."""

    def __init__(self, dimension: int) -> None:
        """Raises: GalleryError without faiss."""
        self._faiss = _import_faiss()
        self._directions = _directions(dimension)
        self._scale = np.float32(127 * max(1.0, dimension**0.5 / 6))
        self._codes = np.empty((64, BITS // 8), np.uint8)
        self._rows = np.empty((64, dimension), np.int8)
        self._keys = np.empty(64, np.int64)
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: int) -> bool:
        return key in self._places

    @property
    def memory(self) -> int:
        """Bytes."""
        return self._codes.nbytes + self._rows.nbytes + self._directions.nbytes + 100 * len(self)

    def keys(self) -> Keys:
        """All keys, in no order."""
        return np.array(self._keys[: len(self)])

    def add(self, keys: Keys, embeddings: Embeddings) -> None:
        """Take embeddings (N, D) under keys that are not there yet."""
        start, end = len(self), len(self) + len(keys)
        if end > len(self._keys):
            room = max(end, 2 * len(self._keys))
            self._codes = _enlarged(self._codes, room)
            self._rows = _enlarged(self._rows, room)
            self._keys = _enlarged(self._keys, room)
        self._codes[start:end] = self._coded(embeddings)
        # Components of a unit vector are small: six times their usual size is 127.
        self._rows[start:end] = np.clip(np.rint(embeddings * self._scale), -127, 127)
        self._keys[start:end] = keys
        self._places.update(zip(keys.tolist(), range(start, end), strict=True))

    def remove(self, key: int) -> None:
        """The last takes the place of the one that goes, which is wiped."""
        row, last = self._places.pop(key), len(self._places)
        for array in (self._codes, self._rows, self._keys):
            array[row] = array[last]
            array[last] = 0
        if row != last:
            self._places[int(self._keys[row])] = row

    def rank(self, query: NDArray[np.float32]) -> Iterator[Ranked]:
        """Keys by their cosine with a query (D,), asked for deeper until nobody wants more."""
        code = self._coded(query[np.newaxis])
        seen = np.empty(0, np.int64)
        for count in SHORTLISTS:
            if len(seen) == len(self):
                return
            _, found = self._faiss.knn_hamming(
                code, self._codes[: len(self)], min(count, len(self)), variant="hc"
            )
            rows = np.setdiff1d(found[0], seen, assume_unique=True)
            cosines = (self._rows[rows].astype(np.float32) @ query) / self._scale
            best = np.argsort(-cosines, kind="stable")
            for part in (best[:FIRST_CHUNK], best[FIRST_CHUNK:]):
                yield self._keys[rows[part]], np.asarray(cosines[part], np.float32)
            seen = found[0]

    def _coded(self, embeddings: Embeddings) -> NDArray[np.uint8]:
        return np.packbits(embeddings @ self._directions > 0, axis=1)


class VectorIndex:
    """Exact up to `exact_limit` embeddings, by codes beyond."""

    def __init__(self, dimension: int, *, exact_limit: int = EXACT_LIMIT) -> None:
        self._dimension = dimension
        self._limit = exact_limit
        self._index: ExactIndex | CodeIndex = ExactIndex(dimension)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def kind(self) -> str:
        """`exact` or `codes`."""
        return "exact" if isinstance(self._index, ExactIndex) else "codes"

    @property
    def memory(self) -> int:
        """Bytes of what it holds."""
        return self._index.memory

    def keys(self) -> Keys:
        """All keys, in no order."""
        return self._index.keys()

    def add(self, keys: Sequence[int] | Keys, embeddings: Embeddings) -> None:
        """Take embeddings (N, D) under new keys. Raises: GalleryError without faiss."""
        few = self._index
        if isinstance(few, ExactIndex) and len(few) + len(keys) > self._limit:
            many = CodeIndex(self._dimension)
            many.add(few.keys(), few.embeddings())
            self._index = many
        self._index.add(np.asarray(keys, np.int64), embeddings)

    def remove(self, keys: Sequence[int] | Keys) -> None:
        """Drop keys; those that are not there are none."""
        for key in map(int, keys):
            if key in self._index:
                self._index.remove(key)

    def rank(self, query: NDArray[np.float32]) -> Iterator[Ranked]:
        """Keys by their cosine with a query (D,), in parts, best first.

        By codes the cosines are near ones, and the list is as deep as `SHORTLISTS` go.
        """
        yield from self._index.rank(query)


def _directions(dimension: int) -> NDArray[np.float32]:
    """(D, BITS) directions, as far from each other as can be: bits that repeat tell nothing."""
    rng = np.random.default_rng(_SEED)
    blocks = [
        np.linalg.qr(rng.standard_normal((dimension, min(dimension, BITS))))[0]
        for _ in range(-(-BITS // dimension))
    ]
    return np.ascontiguousarray(np.hstack(blocks)[:, :BITS], np.float32)


def _enlarged(array: NDArray[Scalar], room: int) -> NDArray[Scalar]:
    larger = np.zeros((room, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


def _import_faiss() -> ModuleType:
    try:
        import faiss
    except ModuleNotFoundError as error:
        if error.name != "faiss":
            raise
        raise GalleryError(
            f"a gallery of more than {EXACT_LIMIT:,} embeddings needs faiss, which is not "
            'installed: pip install "mip-edge[live]", or keep fewer'
        ) from error
    assert isinstance(faiss, ModuleType)
    # One query is the work of one thread; a second would only wait where the machine is busy.
    faiss.omp_set_num_threads(1)
    return faiss
