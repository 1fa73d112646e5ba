"""Galleries in files: what is forgotten is gone, what crashes is whole, two processes agree."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mip_edge.errors import GalleryError, OptionError
from mip_edge.gallery import connection
from mip_edge.gallery.schema import describe
from mip_edge.gallery.sqlite import SqliteGallery, open_gallery
from mip_edge.spec import Crop, Embeddings, Modality

DIMENSION = 8


def units(seed: int, count: int) -> Embeddings:
    rows = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def make(path: Path, *, thumbnails: bool = False) -> SqliteGallery:
    return SqliteGallery.open(
        path, fingerprint="f" * 64, dimension=DIMENSION, thumbnails=thumbnails
    )


def put(
    gallery: SqliteGallery,
    embedding: Embeddings,
    identity: int | None = None,
    *,
    tracklet: str = "",
    thumbnail: Crop | None = None,
) -> int:
    return gallery.add(
        embedding,
        identity=identity,
        camera="gate",
        modality=Modality.VISIBLE,
        time=1.0,
        tracklet=tracklet,
        thumbnail=thumbnail,
    )


def put_all(gallery: SqliteGallery, rows: Embeddings) -> None:
    for row in rows:
        put(gallery, row)


def bytes_of(path: Path) -> bytes:
    """The file, its -wal and its -shm."""
    return b"".join(part.read_bytes() for part in path.parent.glob(f"{path.name}*"))


@pytest.mark.parametrize("reader", [False, True], ids=["alone", "beside another process"])
def test_what_is_forgotten_is_in_no_file(tmp_path: Path, reader: bool) -> None:
    path, rows = tmp_path / "people.gallery", units(0, 40)
    gallery = make(path, thumbnails=True)
    noise = np.random.default_rng(1).integers(0, 255, (64, 32, 3), dtype=np.uint8)
    who = put(gallery, rows[0], tracklet="gate/nineteen", thumbnail=noise)
    for row in range(1, 8):
        put(gallery, rows[row], who, tracklet=f"gate/nineteen{row}")
    others = [put(gallery, rows[row], tracklet=f"yard/{row}") for row in range(8, 40)]
    gallery.label(who, "Ada Lovelace")
    gallery.merge(others[0], who)
    jpeg = gallery.thumbnails(who)["gate/nineteen"]
    secrets = [row.astype("<f2").tobytes() for row in rows[:9]] + [
        jpeg[i : i + 64] for i in range(0, len(jpeg) - 64, 64)
    ]
    secrets += [b"Ada Lovelace", b"gate/nineteen", b"yard/8"]
    gallery.flush()
    before = bytes_of(path)
    assert all(secret in before for secret in secrets), "else this test finds nothing"
    other = open_gallery(path) if reader else None
    gallery.forget(who)
    after = bytes_of(path)
    assert [secret for secret in secrets if secret in after] == []
    assert rows[39].astype("<f2").tobytes() in after, "the others stay"
    assert len(gallery.index) == 31
    if other is not None:
        found = other.search(rows[:1], top_k=99, min_similarity=-1)[0]
        assert {m.identity for m in found} == set(others[1:])
        assert len(other.index) == 31, "forgetting reached the other's index"
        other.close()
    gallery.close()
    assert [secret for secret in secrets if secret in bytes_of(path)] == []


def test_what_the_cap_drops_is_overwritten_too(tmp_path: Path) -> None:
    path, rows = tmp_path / "people.gallery", units(0, 30)
    with make(path) as gallery:
        who = put(gallery, rows[0])
        for row in rows[1:]:
            put(gallery, row, who)
        kept = {row.tobytes() for row in gallery.embeddings_of(who)[0].astype("<f2")}
    content = bytes_of(path)
    there = [row for row in rows if row.astype("<f2").tobytes() in content]
    assert len(there) == len(kept) == 8


def test_a_gallery_reopened_answers_the_same_and_reuses_no_number(tmp_path: Path) -> None:
    path, rows = tmp_path / "people.gallery", units(0, 3)
    with make(path) as gallery:
        people = [put(gallery, row) for row in rows]
        gallery.forget(people[2])
        before = gallery.search(rows, top_k=3, min_similarity=-1)
    with open_gallery(path) as gallery:
        assert gallery.search(rows, top_k=3, min_similarity=-1) == before
        assert put(gallery, rows[2]) == people[2] + 1
        assert (gallery.fingerprint, gallery.dimension) == ("f" * 64, DIMENSION)


CRASH = """
import os, sys, numpy as np
from mip_edge.gallery.sqlite import open_gallery
from mip_edge.spec import Modality
gallery = open_gallery(sys.argv[1])
rows = np.eye(8, dtype=np.float32)
for row in range(100000):
    who = gallery.add(rows[row % 8], camera="gate", modality=Modality.VISIBLE, time=float(row))
    if row == 300:
        gallery.flush()
        print(who, flush=True)
    if row == 350:
        print(who, flush=True)
"""


def test_a_killed_process_loses_at_most_what_was_not_committed(tmp_path: Path) -> None:
    path = tmp_path / "people.gallery"
    make(path).close()
    process = subprocess.Popen(
        [sys.executable, "-c", CRASH, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    committed, given_out = int(process.stdout.readline()), int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with open_gallery(path) as gallery:
        numbers = [record.identity for record in gallery.identities()]
        assert numbers[:committed] == list(range(1, committed + 1))
        assert len(gallery) == len(gallery.index) == len(numbers) >= 301
        assert put(gallery, units(0, 1)[0]) > max(given_out, numbers[-1]), "even what was lost"
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    check.close()


def test_two_processes_write_in_turn_and_see_each_other(tmp_path: Path) -> None:
    path, rows = tmp_path / "people.gallery", units(0, 3)
    with make(path) as live, open_gallery(path) as hand:
        first = put(live, rows[0], tracklet="a")
        assert len(hand) == 0, "not committed yet: a reader is not held up"
        live.flush()
        second = put(hand, rows[1], tracklet="b")
        hand.flush()
        assert first != second
        assert live.search(rows[1:2], top_k=1, min_similarity=0.9)[0][0].identity == second
        hand.merge(second, first)
        assert put(live, rows[2], second, tracklet="c") == first, "a merge by hand counts at once"
        live.flush()
        assert [r.embeddings for r in hand.identities()] == [3]
        hand.forget(first)
        assert live.search(rows, top_k=3, min_similarity=-1) == [[], [], []]
        with pytest.raises(GalleryError, match="forgotten"):
            put(live, rows[0], first)


def test_a_second_writer_is_told_that_it_waits_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BUSY_SECONDS", 0.05)
    path, rows = tmp_path / "people.gallery", units(0, 2)
    with make(path) as one, open_gallery(path) as other:
        put(one, rows[0])
        with pytest.raises(GalleryError, match="another process has been writing"):
            put(other, rows[1])
        one.flush()
        put(other, rows[1])


def test_a_full_disk_is_told_and_what_was_committed_stays(tmp_path: Path) -> None:
    path, rows = tmp_path / "people.gallery", units(0, 2000)
    with make(path) as gallery:
        who = [put(gallery, row) for row in rows[:50]]
        gallery.flush()
        pages = gallery._db.read("PRAGMA page_count")[0][0]
        gallery._db.read(f"PRAGMA max_page_count={pages + 2}")
        with pytest.raises(GalleryError, match="no space left on the disk") as refused:
            put_all(gallery, rows[50:])
        assert "\n" not in str(refused.value)
        assert len(gallery) == len(gallery.index) >= 50, "the index follows the file"
        found = gallery.search(rows[:50], top_k=1, min_similarity=0.99)
        assert [f[0].identity for f in found] == who
        gallery._db.read("PRAGMA max_page_count=100000")
        assert put(gallery, rows[60]) > who[-1], "space came back, and work goes on"
    with open_gallery(path) as gallery:
        assert len(gallery) >= 51


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
def test_a_read_only_folder_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    make(folder / "people.gallery").close()
    folder.chmod(0o555)
    try:
        with pytest.raises(GalleryError, match="people.gallery cannot be"):
            open_gallery(folder / "people.gallery")
        with pytest.raises(GalleryError, match="other.gallery cannot be"):
            make(folder / "other.gallery")
    finally:
        folder.chmod(0o755)


def test_another_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "people.gallery"
    make(path).close()
    with pytest.raises(GalleryError, match=f"{path} was filled by model ffff.*take that model"):
        SqliteGallery.open(path, fingerprint="0" * 64, dimension=DIMENSION)
    with pytest.raises(GalleryError, match="holds 8-wide embeddings, the embedder makes 16"):
        SqliteGallery.open(path, fingerprint="f" * 64, dimension=16)


def test_what_is_no_gallery_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="does not exist"):
        open_gallery(tmp_path / "none.gallery")
    with pytest.raises(GalleryError, match="is a folder"):
        open_gallery(tmp_path)
    text = tmp_path / "text.gallery"
    text.write_text("no database")
    with pytest.raises(GalleryError, match="is no gallery"):
        open_gallery(text)
    foreign = tmp_path / "foreign.gallery"
    other = sqlite3.connect(foreign)
    other.execute("CREATE TABLE t (a)")
    other.close()
    with pytest.raises(GalleryError, match="no gallery of mip-edge"):
        open_gallery(foreign)
    with pytest.raises(OptionError, match="fingerprint"):
        SqliteGallery.open(tmp_path / "new.gallery")
    with pytest.raises(GalleryError, match="folder .* does not exist"):
        make(tmp_path / "nowhere" / "new.gallery")
    with make(tmp_path / "old.gallery") as gallery:
        gallery._db.read("PRAGMA user_version=99")
    with pytest.raises(GalleryError, match="version 99"):
        open_gallery(tmp_path / "old.gallery")


def test_the_cost_of_adding_at_the_cap_does_not_grow(tmp_path: Path) -> None:
    """Counted in steps of SQLite's own machine, which no other process can change."""

    def steps(gallery: SqliteGallery, rows: Embeddings, people: list[int]) -> int:
        count = 0

        def tick() -> int:
            nonlocal count
            count += 1
            return 0

        gallery._db._db.set_progress_handler(tick, 10)
        for row, embedding in enumerate(rows):
            put(gallery, embedding, people[row % len(people)], tracklet=f"t{row % 40}")
        gallery._db._db.set_progress_handler(None, 0)
        return count

    with make(tmp_path / "people.gallery") as gallery:
        people = [put(gallery, row) for row in units(1, 5)]
        steps(gallery, units(2, 300), people)
        early = steps(gallery, units(3, 200), people)
        for seed in range(4, 9):
            steps(gallery, units(seed, 300), people)
        assert len(gallery) <= 5 * 8
        assert steps(gallery, units(3, 200), people) <= 1.1 * early


def test_a_closed_gallery_says_so_and_closes_twice(tmp_path: Path) -> None:
    gallery = make(tmp_path / "people.gallery")
    gallery.close()
    gallery.close()
    with pytest.raises(GalleryError, match="is closed"):
        gallery.identities()


def open_small(path: Path) -> SqliteGallery:
    """As though twenty embeddings were many."""
    return SqliteGallery.open(path, fingerprint="f" * 64, dimension=DIMENSION, exact_limit=20)


def test_a_large_gallery_follows_what_others_add_and_forget(tmp_path: Path) -> None:
    path, rows = tmp_path / "people.gallery", units(0, 120)
    with open_small(path) as gallery:
        people = [put(gallery, row) for row in rows[:100]]
        gallery.flush()
        with open_gallery(path) as other:
            people += [put(other, row) for row in rows[100:]]
            other.forget(people[3])
        assert (len(gallery), gallery.index.kind) == (119, "codes")
        found = gallery.search(rows, top_k=1, min_similarity=0.99)
        assert [f[0].identity for f in found if f] == [*people[:3], *people[4:]]
        assert found[3] == []
    assert [file.name for file in tmp_path.iterdir()] == ["people.gallery"], "nothing beside it"


# Two runs fill one gallery


def while_it_waits(
    gallery: SqliteGallery, monkeypatch: pytest.MonkeyPatch, deed: Callable[[], object]
) -> None:
    """`deed` of another process is done while this one waits for its turn to write."""
    begin, todo = gallery._db.begin, [deed]

    def late() -> None:
        if todo and not gallery._db.in_transaction:
            todo.pop()()
        begin()

    monkeypatch.setattr(gallery._db, "begin", late)


def test_what_another_process_adds_while_this_one_waits_to_write_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = units(0, 3)
    with make(tmp_path / "a.gallery") as one, make(tmp_path / "a.gallery") as other:
        first = put(one, rows[0], tracklet="first")
        one.flush()
        added: list[int] = []

        def add() -> None:
            added.append(put(other, rows[1], tracklet="other"))
            other.flush()

        while_it_waits(one, monkeypatch, add)
        put(one, rows[2], first, tracklet="first")
        one.flush()
        (found,) = one.search(rows[1:2], top_k=1, min_similarity=0.9)
        assert [match.identity for match in found] == added
        assert len(one) == 3


def test_two_who_merge_the_same_two_at_once_make_no_circle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(tmp_path / "a.gallery") as one, make(tmp_path / "a.gallery") as other:
        first, second = (put(one, row, tracklet=str(n)) for n, row in enumerate(units(0, 2)))
        one.flush()
        while_it_waits(one, monkeypatch, lambda: other.merge(first, second))
        with pytest.raises(GalleryError, match="is merged into 2 already"):
            one.merge(second, first)
        assert one.current(first) == second
        put(other, units(1, 1)[0])
        other.flush()  # who was refused keeps nobody out


def test_a_crop_that_waits_while_its_person_is_merged_goes_to_whom_he_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = units(0, 3)
    with make(tmp_path / "a.gallery") as one, make(tmp_path / "a.gallery") as other:
        first, second = (put(one, row, tracklet=str(n)) for n, row in enumerate(rows[:2]))
        one.flush()
        while_it_waits(one, monkeypatch, lambda: other.merge(second, first))
        assert put(one, rows[2], second, tracklet="1") == first
        assert [record.identity for record in one.identities()] == [first]


def test_who_is_forgotten_while_a_crop_of_his_waits_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(tmp_path / "a.gallery") as one, make(tmp_path / "a.gallery") as other:
        who = put(one, units(0, 1)[0], tracklet="t")
        one.flush()
        while_it_waits(one, monkeypatch, lambda: other.forget(who))
        with pytest.raises(GalleryError, match="was forgotten"):
            put(one, units(1, 1)[0], who, tracklet="t")
        assert one.identities() == []


def test_who_makes_a_gallery_that_another_has_just_made_takes_that(tmp_path: Path) -> None:
    path = str(tmp_path / "a.gallery")
    one, other = connection.Connection(path), connection.Connection(path)
    for db, dimension in ((one, 8), (other, 9)):
        db.create_tables(describe("f" * 64, dimension, thumbnails=False))
    assert other.read("SELECT value FROM meta WHERE key='dimension'") == [(8,)]
    for db in (one, other):
        assert db.read("PRAGMA journal_mode") == [("wal",)]
        db.close()
