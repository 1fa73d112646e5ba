"""What a gallery costs at a size: adding, opening, searching, memory and disk.

The embeddings are drawn, not seen: ten of a person, each the person's centre and noise of 0.8 of
its length, so that two of one person have a cosine of about 0.6; the directions fall off as those
of a learnt embedding do (about 97 effective ones of 512). With `spread` "random" every embedding is
its own random direction, which no model makes: then ten nearest are hardly nearer than the rest,
and an index that does not compare all finds few of them.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mip_edge.gallery.base import GalleryBounds
from mip_edge.gallery.index import EXACT_LIMIT
from mip_edge.gallery.sqlite import SqliteGallery
from mip_edge.gallery.store import Addition
from mip_edge.spec import Embeddings, Modality

PER_PERSON = 10
_CHUNK = 10_000
_NOISE = 0.8
_FALL = 0.375
_FINGERPRINT = "benchmark"


@dataclass(frozen=True, slots=True)
class GalleryCost:
    """What was measured at one size."""

    size: int
    dimension: int
    index: str
    """exact or codes."""
    add_rate: float
    """Embeddings a second one by one, of people at their cap: one comes, one goes."""
    bulk_rate: float
    """Embeddings a second while filling, many at once, rows and index."""
    open_s: float
    """Seconds to open the file and to build its index."""
    nearest_ms: float
    """Median of naming the ten nearest embeddings, by the index alone."""
    query_ms: float
    """Median of one search for ten identities, compared again by the float16 of the file."""
    query_p95_ms: float
    recall_at_10: float
    """Share of the ten truly nearest embeddings that are among the first ten of the index."""
    index_mb: float
    process_mb: float
    """Resident memory of the whole process after opening, without what the benchmark holds."""
    file_mb: float


class People:
    """Drawn embeddings (N, D), the same for a seed."""

    def __init__(self, dimension: int, *, spread: str, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._random = spread == "random"
        fall = np.arange(1, dimension + 1, dtype=np.float32) ** -_FALL
        mix = np.linalg.qr(self._rng.standard_normal((dimension, dimension)))[0]
        self._mix = np.asarray(fall[:, None] * mix, np.float32)

    def draw(self, count: int) -> Embeddings:
        """Random directions."""
        rows = self._rng.standard_normal((count, len(self._mix)), dtype=np.float32)
        return _unit(rows if self._random else rows @ self._mix)

    def views(self, count: int) -> tuple[Embeddings, Embeddings]:
        """`count` embeddings, ten of a person in a row, and the centre of each person."""
        centres = self.draw(-(-count // PER_PERSON))
        if self._random:
            return self.draw(count), centres
        own = np.repeat(centres, PER_PERSON, axis=0)[:count]
        return _unit(own + _NOISE * self.draw(count)), centres

    def looks_at(self, centres: Embeddings) -> Embeddings:
        """Another view of each."""
        if self._random:
            return centres
        return _unit(centres + _NOISE * self.draw(len(centres)))


def measure_gallery(
    size: int,
    dimension: int,
    *,
    queries: int = 100,
    spread: str = "people",
    exact_limit: int = EXACT_LIMIT,
    tell: Callable[[int], None] = lambda _: None,
) -> GalleryCost:
    """Fill a gallery of `size` in a temporary folder, and time it; `tell` gets what is done."""
    people = People(dimension, spread=spread)
    bounds = GalleryBounds(prototypes=PER_PERSON)
    with tempfile.TemporaryDirectory(prefix="mip-edge-gallery-") as folder:
        path = Path(folder) / "people.gallery"
        truth = np.memmap(Path(folder) / "truth", np.float16, "w+", shape=(size, dimension))
        gallery = SqliteGallery.open(
            path,
            fingerprint=_FINGERPRINT,
            dimension=dimension,
            bounds=bounds,
            exact_limit=exact_limit,
        )
        spent, looked = 0.0, []
        for start in range(0, size, _CHUNK):
            count = min(_CHUNK, size - start)
            rows, centres = people.views(count)
            truth[start : start + count] = rows
            looked.append(centres[:: max(1, size // _CHUNK)][:queries])
            began = time.perf_counter()
            gallery.add_many(list(_additions(gallery, rows, start)))
            spent += time.perf_counter() - began
            tell(start + count)
        gallery.close()
        del gallery  # its index would count twice
        began = time.perf_counter()
        with SqliteGallery.open(
            path, bounds=bounds, create=False, exact_limit=exact_limit
        ) as opened:
            open_s = time.perf_counter() - began
            chosen = np.concatenate(looked)
            pick = np.linspace(0, len(chosen) - 1, min(queries, len(chosen))).astype(int)
            asked = people.looks_at(chosen[pick])
            times, nearest = [], []
            for query in asked:
                began = time.perf_counter()
                next(opened.index.rank(query))
                nearest.append(1e3 * (time.perf_counter() - began))
                began = time.perf_counter()
                opened.search(query[None], top_k=10, min_similarity=-1.0)
                times.append(1e3 * (time.perf_counter() - began))
            held = _resident_mb()
            recall = _recall(opened, asked, truth)
            index_mb = opened.index.memory / 1e6
            return GalleryCost(
                size=size,
                dimension=dimension,
                index=opened.index.kind,
                add_rate=round(_add_at_cap(opened, people), 1),
                bulk_rate=round(size / spent, 1),
                open_s=round(open_s, 2),
                nearest_ms=round(statistics.median(nearest), 3),
                query_ms=round(statistics.median(times), 3),
                query_p95_ms=round(float(np.percentile(times, 95)), 3),
                recall_at_10=round(recall, 4),
                index_mb=round(index_mb, 1),
                process_mb=round(held, 1),
                file_mb=round(path.stat().st_size / 1e6, 1),
            )


def _additions(gallery: SqliteGallery, rows: Embeddings, start: int) -> Iterator[Addition]:
    identity = 0
    for row, embedding in enumerate(rows):
        if row % PER_PERSON == 0:
            identity = gallery.new_identity()
        yield Addition(
            embedding, identity, "gate", Modality.VISIBLE, float(start + row), f"{start + row}"
        )


def _add_at_cap(gallery: SqliteGallery, people: People) -> float:
    """Embeddings a second, one by one, of people who are at their cap: one comes, one goes."""
    rows, _ = people.views(min(2000, len(gallery)))
    known = len(gallery) // PER_PERSON
    began = time.perf_counter()
    for row, embedding in enumerate(rows):
        gallery.add(
            embedding,
            identity=1 + row % known,
            camera="gate",
            modality=Modality.VISIBLE,
            time=float(row),
            tracklet=f"more/{row}",
        )
    gallery.flush()
    return len(rows) / (time.perf_counter() - began)


def _recall(gallery: SqliteGallery, asked: Embeddings, truth: NDArray[np.float16]) -> float:
    """Of the ten nearest of all, those that the index ranks among the first ten."""
    best = np.full((len(asked), 10), -2.0, np.float32)
    where = np.zeros((len(asked), 10), np.int64)
    parts = (truth[start : start + _CHUNK] for start in range(0, len(truth), _CHUNK))
    start = 1  # the keys of SQLite count from one, in the order of adding
    for part in parts:
        cosines = asked @ np.asarray(part, np.float32).T
        keys = np.broadcast_to(np.arange(start, start + len(part)), cosines.shape)
        cosines, keys = np.hstack([best, cosines]), np.hstack([where, keys])
        top = np.argsort(-cosines, axis=1)[:, :10]
        best, where = np.take_along_axis(cosines, top, 1), np.take_along_axis(keys, top, 1)
        start += len(part)
    found = 0
    for query, nearest in zip(asked, where, strict=True):
        keys, _ = next(gallery.index.rank(query))
        found += len(set(keys[:10].tolist()) & set(nearest.tolist()))
    return found / where.size


def _unit(rows: Embeddings) -> Embeddings:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _resident_mb() -> float:
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    # Pages of files (the benchmark's own truth) are not counted.
    return int(status.split("RssAnon:")[1].split()[0]) / 1000
