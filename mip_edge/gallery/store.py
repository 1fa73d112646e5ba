"""Rows of a gallery: identities, tracklets, embeddings, thumbnails; no vector is compared here."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import GalleryError
from mip_edge.gallery.connection import Connection
from mip_edge.gallery.vector import decode, encode, halves, older_of_closest_pair
from mip_edge.spec import Embeddings, Modality

_RESERVED = 100
"""Identity numbers taken at once: a crash loses them, so that none is ever given out twice."""
MODALITIES = {modality.row: modality for modality in Modality}
"""Each light by the number that its rows have."""


@dataclass(frozen=True, slots=True)
class StoredEmbedding:
    """One embedding without its vector."""

    key: int
    identity: int
    camera: str
    modality: Modality
    time: float
    tracklet: str
    """Empty for one of no tracklet."""


@dataclass(frozen=True, slots=True)
class Addition:
    """One embedding that comes, its identity known."""

    embedding: NDArray[np.float32]
    identity: int
    camera: str
    modality: Modality
    time: float
    tracklet: str = ""
    quality: float = 1.0
    thumbnail: bytes | None = None
    """JPEG."""


class Store:
    """What the tables of one gallery hold. The caller commits."""

    def __init__(self, db: Connection, dimension: int, prototypes: int) -> None:
        self.db = db
        self._dimension = dimension
        self._prototypes = prototypes
        self._next, self._ceiling = 0, 0
        self.removals = 0

    def meta(self, key: str) -> str | int:
        """One line of what the gallery says of itself."""
        value: str | int = self.db.read("SELECT value FROM meta WHERE key=?", (key,))[0][0]
        return value

    # Identities

    def new_identity(self) -> int:
        """A number that was never given out, by no process that ever opened this gallery."""
        self.reserve()
        self._next += 1
        return self._next - 1

    def reserve(self) -> None:
        """See that there is a number for the next; it may commit, and another write between."""
        if self._next == self._ceiling:
            self.db.commit()
            self.db.begin()
            self._next = int(self.meta("next_identity"))
            self._ceiling = self._next + _RESERVED
            self.db.write("UPDATE meta SET value=? WHERE key='next_identity'", (self._ceiling,))
            self.db.commit()

    def give_back_numbers(self) -> None:
        """Those reserved and not given out, if no other process has reserved since."""
        if self._next < self._ceiling:
            self.db.write(
                "UPDATE meta SET value=? WHERE key='next_identity' AND value=?",
                (self._next, self._ceiling),
            )
            self._ceiling = self._next

    def current(self, identity: int) -> int:
        """Who that identity is now, after merges. Raises: GalleryError for none, or forgotten."""
        rows = self.db.read("SELECT merged_into FROM identity WHERE id=?", (identity,))
        if rows:
            return identity if rows[0][0] is None else self.current(rows[0][0])
        if self.db.read("SELECT 1 FROM forgotten WHERE identity=?", (identity,)):
            raise GalleryError(f"identity {identity} was forgotten; begin a new one")
        given_out = 1 <= identity < int(self.meta("next_identity"))
        if not given_out or self._next <= identity < self._ceiling:
            raise GalleryError(f"identity {identity} was never given out by this gallery")
        return identity

    def members(self, identity: int) -> list[int]:
        """An identity, and all that were merged into it."""
        found = [identity]
        for one in found:
            sql = "SELECT id FROM identity WHERE merged_into=?"
            found += [row[0] for row in self.db.read(sql, (one,))]
        return found

    def touch(self, identity: int, time: float | None = None) -> None:
        """Note that an identity was seen at `time`, or look up when it was.

        The row of one that has nothing left goes; its number may still be used by who holds it.
        """
        if time is None:
            sql = (
                "SELECT max(e.time) FROM tracklet t JOIN embedding e ON e.tracklet=t.id "
                "WHERE t.identity=?"
            )
            latest = self.db.read(sql, (identity,))[0][0]
            if latest is None:
                self.db.write(
                    "DELETE FROM identity WHERE id=? AND label='' AND merged_into IS NULL AND "
                    "NOT EXISTS (SELECT 1 FROM identity m WHERE m.merged_into=identity.id)",
                    (identity,),
                )
            else:
                sql = "UPDATE identity SET last_time=? WHERE id=?"
                self.db.write(sql, (latest, identity))
        else:
            self.db.write(
                "INSERT INTO identity (id, last_time) VALUES (?, ?) ON CONFLICT (id) "
                "DO UPDATE SET last_time=max(last_time, excluded.last_time)",
                (identity, time),
            )

    def label(self, identity: int, label: str) -> None:
        """Give an identity a name; an empty one takes it away."""
        self.db.write("UPDATE identity SET label=? WHERE id=?", (label, identity))

    def oldest(self, *, before: float | None = None, count: int = -1) -> list[int]:
        """Identities without a label, those seen longest ago first."""
        sql = (
            "SELECT id FROM identity WHERE merged_into IS NULL AND label='' AND last_time<? "
            "ORDER BY last_time, id LIMIT ?"
        )
        limit = np.inf if before is None else before
        return [row[0] for row in self.db.read(sql, (float(limit), count))]

    def count_identities(self) -> int:
        """Those that have an embedding."""
        sql = "SELECT count(DISTINCT identity) FROM tracklet"
        return int(self.db.read(sql)[0][0])

    # Embeddings

    def insert(self, new: Addition) -> tuple[int, int]:
        """Keep one embedding; gives its key, and the home whose cap it counts for."""
        tracklet, home = self._tracklet_of(new)
        self.touch(new.identity, new.time)
        key = self.db.write(
            "INSERT INTO embedding (tracklet, modality, time, quality, vector) "
            "VALUES (?, ?, ?, ?, ?)",
            (tracklet, new.modality.row, new.time, new.quality, encode(new.embedding)),
        )
        if new.thumbnail is not None:
            self.db.write(
                "INSERT INTO thumbnail VALUES (?, ?, ?) ON CONFLICT (tracklet) DO UPDATE SET "
                "quality=excluded.quality, jpeg=excluded.jpeg "
                "WHERE excluded.quality >= quality",
                (tracklet, new.quality, new.thumbnail),
            )
        return key, home

    def drop_redundant(self, home: int, modality: Modality) -> list[int]:
        """Keep a home's views of one light to the cap; gives the keys that went."""
        sql = (
            "SELECT e.id, e.vector FROM tracklet t CROSS JOIN embedding e ON e.tracklet=t.id "
            "WHERE t.home=? AND e.modality=? ORDER BY e.id"
        )
        rows = self.db.read(sql, (home, modality.row))
        gone: list[int] = []
        while len(rows) > self._prototypes:
            embeddings = decode([row[1] for row in rows], self._dimension)
            gone.append(rows.pop(older_of_closest_pair(embeddings))[0])
        if gone:
            self.remove(gone)
        return gone

    def remove(self, keys: Sequence[int]) -> None:
        """Take embeddings away, and the tracklets that have none left."""
        sql = "SELECT DISTINCT tracklet FROM embedding WHERE id IN (?)"
        tracklets = [row[0] for row in self.db.read_in(sql, keys)]
        self.db.write_many("DELETE FROM embedding WHERE id=?", [(key,) for key in keys])
        self.note_removal()
        for tracklet in tracklets:
            if not self.db.read("SELECT 1 FROM embedding WHERE tracklet=? LIMIT 1", (tracklet,)):
                for table, column in (("moved", "tracklet"), ("thumbnail", "tracklet")):
                    self.db.write(f"DELETE FROM {table} WHERE {column}=?", (tracklet,))
                self.db.write("DELETE FROM tracklet WHERE id=?", (tracklet,))

    def note_removal(self) -> None:
        """Other processes see by this number that their index holds too much."""
        self.removals += 1
        self.db.write("UPDATE meta SET value=value+1 WHERE key='removals'")

    def keys_of(self, identity: int) -> list[int]:
        """Keys of all embeddings of an identity, oldest first."""
        sql = "SELECT e.id FROM tracklet t JOIN embedding e ON e.tracklet=t.id WHERE t.identity=?"
        return sorted(row[0] for row in self.db.read(sql, (identity,)))

    def look_up(self, keys: Sequence[int]) -> dict[int, tuple[int, str]]:
        """Identity and tracklet of each key that is there."""
        sql = (
            "SELECT e.id, t.identity, coalesce(t.name, '') FROM embedding e "
            "JOIN tracklet t ON t.id=e.tracklet WHERE e.id IN (?)"
        )
        return {row[0]: (row[1], row[2]) for row in self.db.read_in(sql, keys)}

    def views(self, identities: Sequence[int]) -> tuple[list[StoredEmbedding], Embeddings]:
        """All that is kept of some identities, and the embedding (N, D) of each."""
        sql = (
            "SELECT e.id, t.identity, t.camera, e.modality, e.time, coalesce(t.name, ''), "
            "e.vector FROM tracklet t CROSS JOIN embedding e ON e.tracklet=t.id "
            "WHERE t.identity IN (?)"
        )
        rows = sorted(self.db.read_in(sql, identities))
        found = [
            StoredEmbedding(key, identity, camera, MODALITIES[light], time, name)
            for key, identity, camera, light, time, name, _ in rows
        ]
        return found, decode([row[-1] for row in rows], self._dimension)

    def vectors(
        self, *, above: int = 0, chunk: int = 10_000
    ) -> Iterator[tuple[list[int], Embeddings]]:
        """Keys greater than `above` with their embeddings, `chunk` at a time."""
        sql = f"SELECT id, vector FROM embedding WHERE id>{above} ORDER BY id"
        for rows in self.db.rows(sql, chunk):
            yield [row[0] for row in rows], decode([row[1] for row in rows], self._dimension)

    def additions(self, chunk: int = 10_000) -> Iterator[list[Addition]]:
        """All embeddings as they came, without thumbnails, `chunk` at a time."""
        sql = (
            "SELECT e.vector, t.identity, t.camera, e.modality, e.time, coalesce(t.name, ''), "
            "e.quality FROM embedding e JOIN tracklet t ON t.id=e.tracklet ORDER BY e.id"
        )
        for rows in self.db.rows(sql, chunk):
            # As they lie in the file: made unit length and rounded again they would change.
            embeddings = halves([row[0] for row in rows], self._dimension).astype(np.float32)
            yield [
                Addition(embedding, identity, camera, MODALITIES[light], time, name, quality)
                for embedding, (_, identity, camera, light, time, name, quality) in zip(
                    embeddings, rows, strict=True
                )
            ]

    def identities_of(self, tracklets: Collection[str]) -> dict[str, int]:
        """Whose each tracklet is that is there."""
        sql = "SELECT name, identity FROM tracklet WHERE name IN (?)"
        return dict(self.db.read_in(sql, list(tracklets)))

    def has_tracklet(self, name: str) -> bool:
        """Whether a tracklet of that name is there."""
        return bool(self.db.read("SELECT 1 FROM tracklet WHERE name=?", (name,)))

    def keys(self) -> NDArray[np.int64]:
        """Keys of all embeddings."""
        sql = "SELECT id FROM embedding"
        parts = [np.array(rows, np.int64)[:, 0] for rows in self.db.rows(sql, 100_000)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _tracklet_of(self, new: Addition) -> tuple[int, int]:
        """The row of its tracklet and its home, made or moved to its identity if need be."""
        if new.tracklet:
            sql = "SELECT id, identity, home FROM tracklet WHERE name=?"
            rows = self.db.read(sql, (new.tracklet,))
        else:
            sql = (
                "SELECT id, identity, home FROM tracklet "
                "WHERE identity=? AND camera=? AND name IS NULL"
            )
            rows = self.db.read(sql, (new.identity, new.camera))
        if rows:
            if rows[0][1] != new.identity:
                self.move(rows[0][0], rows[0][1], new.identity)
                return rows[0][0], new.identity
            return rows[0][0], rows[0][2]
        tracklet = self.db.write(
            "INSERT INTO tracklet (name, identity, home, camera) VALUES (?, ?, ?, ?)",
            (new.tracklet or None, new.identity, new.identity, new.camera),
        )
        return tracklet, new.identity

    def move(self, tracklet: int, previous: int, identity: int) -> None:
        """Give a tracklet to an identity for good; no merge that is undone takes it along."""
        sql = "SELECT max(time) FROM embedding WHERE tracklet=?"
        latest = self.db.read(sql, (tracklet,))[0][0]
        self.db.write(
            "UPDATE tracklet SET identity=?, home=? WHERE id=?", (identity, identity, tracklet)
        )
        self.db.write("DELETE FROM moved WHERE tracklet=?", (tracklet,))
        self.touch(identity, latest)
        self.touch(previous)
