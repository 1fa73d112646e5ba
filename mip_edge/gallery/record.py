"""What a gallery tells of its people: identities, their tracklets, labels and pictures."""

from __future__ import annotations

from mip_edge.gallery.base import IdentityRecord, TrackletRecord
from mip_edge.gallery.store import MODALITIES, Store


def identities(store: Store) -> list[IdentityRecord]:
    """Of all identities that have an embedding, by number."""
    sql = (
        "SELECT t.identity, t.camera, count(*), min(e.time), max(e.time) FROM tracklet t "
        "CROSS JOIN embedding e ON e.tracklet=t.id GROUP BY t.identity, t.camera"
    )
    known = labels(store)
    grouped: dict[int, list[tuple[str, int, float, float]]] = {}
    for identity, *rest in sorted(store.db.read(sql)):
        grouped.setdefault(identity, []).append((rest[0], rest[1], rest[2], rest[3]))
    return [
        IdentityRecord(
            identity=identity,
            embeddings=sum(part[1] for part in parts),
            cameras=tuple(part[0] for part in parts),
            first_time=min(part[2] for part in parts),
            last_time=max(part[3] for part in parts),
            label=known.get(identity, ""),
        )
        for identity, parts in grouped.items()
    ]


def labels(store: Store) -> dict[int, str]:
    """The label of each identity that has one, its own before one that a merge brought."""
    rows = store.db.read("SELECT id, label, merged_into FROM identity WHERE label<>''")
    brought = {store.current(row[0]): row[1] for row in rows if row[2] is not None}
    return brought | {row[0]: row[1] for row in rows if row[2] is None}


def tracklets(store: Store, identity: int) -> list[TrackletRecord]:
    """Of all tracklets of one identity, by time."""
    sql = (
        "SELECT coalesce(t.name, ''), t.camera, e.modality, min(e.time), max(e.time), count(*) "
        "FROM tracklet t JOIN embedding e ON e.tracklet=t.id WHERE t.identity=? "
        "GROUP BY t.id, e.modality ORDER BY t.id, e.modality DESC"
    )
    found: dict[tuple[str, str], TrackletRecord] = {}
    for name, camera, light, first, last, count in store.db.read(sql, (identity,)):
        other = found.get((name, camera))
        found[name, camera] = TrackletRecord(
            tracklet=name,
            identity=identity,
            camera=camera,
            modalities=(*(other.modalities if other else ()), MODALITIES[light]),
            first_time=min(first, other.first_time) if other else first,
            last_time=max(last, other.last_time) if other else last,
            embeddings=count + (other.embeddings if other else 0),
        )
    return sorted(found.values(), key=lambda one: (one.first_time, one.tracklet))


def thumbnails(store: Store, identity: int) -> dict[str, bytes]:
    """JPEG of each tracklet of an identity that has one."""
    sql = (
        "SELECT coalesce(t.name, ''), h.jpeg FROM tracklet t JOIN thumbnail h "
        "ON h.tracklet=t.id WHERE t.identity=?"
    )
    return dict(store.db.read(sql, (identity,)))
