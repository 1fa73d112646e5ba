"""The tables of a gallery file, and what is written into a new one."""

from __future__ import annotations

APPLICATION_ID = 0x6D697067
"""What SQLite's header says of whose file it is: "mipg"."""
SCHEMA_VERSION = 1
PAGE_BYTES = 8192
"""Seven embeddings of 512 float16 to a page; with SQLite's own 4096 a quarter would stay empty."""

# AUTOINCREMENT: a number that was removed is never given out again, so that a number in another
# process's index, or in somebody's notes, never comes to mean somebody else.
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE identity (
    id INTEGER PRIMARY KEY,
    label TEXT NOT NULL DEFAULT '',
    merged_into INTEGER,
    last_time REAL NOT NULL
);
CREATE INDEX identity_by_time ON identity (last_time) WHERE merged_into IS NULL;
CREATE INDEX identity_by_merge ON identity (merged_into) WHERE merged_into IS NOT NULL;
CREATE TABLE tracklet (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT UNIQUE,
    identity INTEGER NOT NULL,
    home INTEGER NOT NULL,
    camera TEXT NOT NULL
);
CREATE INDEX tracklet_by_identity ON tracklet (identity, camera);
CREATE INDEX tracklet_by_home ON tracklet (home);
CREATE TABLE embedding (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tracklet INTEGER NOT NULL,
    modality INTEGER NOT NULL,
    time REAL NOT NULL,
    quality REAL NOT NULL,
    vector BLOB NOT NULL
);
CREATE INDEX embedding_by_tracklet ON embedding (tracklet, modality);
CREATE TABLE thumbnail (tracklet INTEGER PRIMARY KEY, quality REAL NOT NULL, jpeg BLOB NOT NULL);
CREATE TABLE merge (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    identity INTEGER NOT NULL,
    into_identity INTEGER NOT NULL,
    time REAL NOT NULL
);
CREATE TABLE moved (
    merge INTEGER NOT NULL, tracklet INTEGER NOT NULL, PRIMARY KEY (merge, tracklet)
) WITHOUT ROWID;
CREATE INDEX moved_by_tracklet ON moved (tracklet);
CREATE TABLE apart (
    one INTEGER NOT NULL, other INTEGER NOT NULL, PRIMARY KEY (one, other)
) WITHOUT ROWID;
CREATE INDEX apart_by_other ON apart (other);
CREATE TABLE forgotten (identity INTEGER PRIMARY KEY);
"""
"""`tracklet.identity` is whose it is, `home` whose it was before merges: the cap of an identity is
kept for each home, so that a merge can be undone without loss. `apart` names two that a hand took
from each other. `forgotten` holds numbers alone."""


def describe(fingerprint: str, dimension: int, *, thumbnails: bool) -> dict[str, str | int]:
    """What a new gallery says of itself."""
    return {
        "fingerprint": fingerprint,
        "dimension": dimension,
        "thumbnails": int(thumbnails),
        "next_identity": 1,
        "removals": 0,
    }
