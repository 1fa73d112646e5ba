"""Who is who in a gallery: merges and their undoing, splits, forgetting, bounds."""

from __future__ import annotations

import itertools
from collections.abc import Collection

from mip_edge.errors import GalleryError
from mip_edge.gallery import record
from mip_edge.gallery.base import GalleryBounds
from mip_edge.gallery.store import Store
from mip_edge.spec import Modality


def reassign(store: Store, tracklet: str, identity: int) -> list[int]:
    """Give a tracklet to another identity; gives the keys that were too many there."""
    identity = store.current(identity)
    rows = store.db.read("SELECT id, identity FROM tracklet WHERE name=?", (tracklet,))
    if not tracklet or not rows or rows[0][1] == identity:
        return []
    store.move(rows[0][0], rows[0][1], identity)
    return keep_to_cap(store, identity)


def keep_to_cap(store: Store, home: int) -> list[int]:
    """Drop what is too many of a home, of each light; gives the keys that went."""
    return [key for modality in Modality for key in store.drop_redundant(home, modality)]


def merge(store: Store, identity: int, into: int) -> int:
    """Move the tracklets of one identity to another, and note which; gives the merge.

    What took the two apart before holds no more.
    """
    for one in (identity, into):
        if store.current(one) != one:
            raise GalleryError(f"identity {one} is merged into {store.current(one)} already")
    if identity == into:
        raise GalleryError(f"identity {identity} cannot be merged into itself")
    for one in (identity, into):
        if not store.keys_of(one):
            raise GalleryError(f"identity {one} has no embedding to be merged")
    sql = "SELECT max(last_time) FROM identity WHERE id IN (?, ?)"
    seen = store.db.read(sql, (identity, into))[0][0]
    number = store.db.write(
        "INSERT INTO merge (identity, into_identity, time) VALUES (?, ?, ?)", (identity, into, seen)
    )
    sql = "INSERT INTO moved SELECT ?, id FROM tracklet WHERE identity=?"
    store.db.write(sql, (number, identity))
    ones, others = store.members(identity), store.members(into)
    for one, other in (*itertools.product(ones, others), *itertools.product(others, ones)):
        store.db.write("DELETE FROM apart WHERE one=? AND other=?", (one, other))
    store.db.write("UPDATE tracklet SET identity=? WHERE identity=?", (into, identity))
    store.db.write("UPDATE identity SET merged_into=? WHERE id=?", (into, identity))
    store.touch(into)
    return number


def merges_into(store: Store, identity: int) -> list[tuple[int, int]]:
    """Number of each merge that can be undone, and the identity that it brought."""
    rows = store.db.read("SELECT id, identity, into_identity FROM merge ORDER BY id")
    return [(row[0], row[1]) for row in rows if store.current(row[2]) == identity]


def undo_merge(store: Store, number: int) -> int:
    """Move back what that merge moved and is still there; gives the identity that is again."""
    rows = store.db.read("SELECT identity, into_identity FROM merge WHERE id=?", (number,))
    if not rows:
        raise GalleryError(
            f"merge {number} cannot be undone: there was none, it was undone already, or it is too "
            "long ago"
        )
    identity, into = rows[0][0], store.current(rows[0][1])
    moved = "SELECT tracklet FROM moved WHERE merge=?"
    store.db.write(
        f"UPDATE tracklet SET identity=? WHERE identity=? AND id IN ({moved})",
        (identity, into, number),
    )
    # A later merge of the two took these along; undone in its turn it must leave them here.
    store.db.write(f"DELETE FROM moved WHERE merge>? AND tracklet IN ({moved})", (number, number))
    store.db.write("DELETE FROM moved WHERE merge=?", (number,))
    store.db.write("DELETE FROM merge WHERE id=?", (number,))
    store.db.write("UPDATE identity SET merged_into=NULL WHERE id=?", (identity,))
    store.db.write("INSERT OR IGNORE INTO apart VALUES (?, ?)", (identity, into))
    store.touch(identity)
    store.touch(into)
    return int(identity)


def split(store: Store, identity: int, tracklets: Collection[str]) -> tuple[int, list[int]]:
    """Move tracklets to a new identity; gives it, and the keys that were too many there."""
    identity = store.current(identity)
    names = sorted(set(tracklets))
    here = {one.tracklet for one in record.tracklets(store, identity)} - {""}
    if not names:
        raise GalleryError(f"no tracklet of identity {identity} was named to be split off")
    for name in names:
        if name not in here:
            known = ", ".join(sorted(here)) or "none with a name"
            raise GalleryError(
                f"identity {identity} has no tracklet {name!r}; it has: {known[:200]}"
            )
    new = store.new_identity()
    for name in names:
        row = store.db.read("SELECT id FROM tracklet WHERE name=?", (name,))[0][0]
        store.move(row, identity, new)
    store.db.write("INSERT OR IGNORE INTO apart VALUES (?, ?)", (new, identity))
    return new, keep_to_cap(store, new)


def taken_apart(store: Store, identity: int) -> set[int]:
    """Who was taken from this identity by `undo_merge` or `split`, or it from them."""
    everyone = store.members(store.current(identity))
    rows = store.db.read_in("SELECT other FROM apart WHERE one IN (?)", everyone)
    rows += store.db.read_in("SELECT one FROM apart WHERE other IN (?)", everyone)
    return {store.current(row[0]) for row in rows}


def forget(store: Store, identity: int, *, remember_number: bool = True) -> list[int]:
    """Remove an identity and all that was merged into it; gives the keys that went."""
    everyone = store.members(identity)
    keys = store.keys_of(identity)
    store.remove(keys)
    for one in everyone:
        store.db.write("DELETE FROM tracklet WHERE identity=?", (one,))
        for row in store.db.read(
            "SELECT id FROM merge WHERE ? IN (identity, into_identity)", (one,)
        ):
            store.db.write("DELETE FROM moved WHERE merge=?", row)
            store.db.write("DELETE FROM merge WHERE id=?", row)
        store.db.write("DELETE FROM apart WHERE ? IN (one, other)", (one,))
        store.db.write("DELETE FROM identity WHERE id=?", (one,))
        if remember_number:
            store.db.write("INSERT OR IGNORE INTO forgotten VALUES (?)", (one,))
    return keys


def prune(
    store: Store, bounds: GalleryBounds, now: float, count: int
) -> tuple[list[int], list[int]]:
    """Keep `count` embeddings to the bounds; gives the identities and the keys that went."""
    keys = make_final(store, now - bounds.undo_age)
    gone = [] if bounds.max_age is None else store.oldest(before=now - bounds.max_age)
    went = [key for identity in gone for key in forget(store, identity, remember_number=False)]
    if bounds.max_identities is not None:
        excess = store.count_identities() - bounds.max_identities
        for identity in store.oldest(count=max(excess, 0)):
            went += forget(store, identity, remember_number=False)
            gone.append(identity)
    if bounds.max_embeddings is not None:
        excess = count - len(keys) - len(went) - bounds.max_embeddings
        while excess > 0:
            oldest = store.oldest(count=64)
            if not oldest:
                break
            for identity in oldest:
                if excess <= 0:
                    break
                more = forget(store, identity, remember_number=False)
                excess -= len(more)
                went += more
                gone.append(identity)
    return gone, keys + went


def make_final(store: Store, before: float) -> list[int]:
    """Merges older than that are undone no more, and the cap holds for the whole identity."""
    keys: list[int] = []
    sql = "SELECT id, identity, into_identity FROM merge WHERE time<? ORDER BY id"
    for number, identity, into in store.db.read(sql, (before,)):
        current = store.current(into)
        store.db.write("UPDATE tracklet SET home=? WHERE home=?", (into, identity))
        store.db.write("DELETE FROM moved WHERE merge=?", (number,))
        store.db.write("DELETE FROM merge WHERE id=?", (number,))
        label = store.db.read("SELECT label FROM identity WHERE id=?", (identity,))[0][0]
        store.db.write("UPDATE identity SET label=? WHERE id=? AND label=''", (label, into))
        for column in ("one", "other"):
            sql = f"UPDATE OR REPLACE apart SET {column}=? WHERE {column}=?"
            store.db.write(sql, (into, identity))
        # Those merged into it before point past it from now on.
        store.db.write("UPDATE identity SET merged_into=? WHERE merged_into=?", (into, identity))
        store.db.write("DELETE FROM identity WHERE id=?", (identity,))
        keys += keep_to_cap(store, into)
        assert current == store.current(into)
    return keys
