from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.errors import GalleryError, OptionError
from mip_edge.gallery.base import Gallery, GalleryBounds, best_outside
from mip_edge.gallery.match import match, similarity
from mip_edge.gallery.memory import MemoryGallery
from mip_edge.gallery.sqlite import SqliteGallery
from mip_edge.gallery.stored import StoredGallery
from mip_edge.spec import Crop, Embeddings, Modality

DIMENSION = 4
BOUNDS = GalleryBounds(prototypes=3, max_age=100.0, max_identities=4, max_embeddings=12)
Maker = Callable[[Path], StoredGallery]


def in_memory(folder: Path) -> MemoryGallery:
    return MemoryGallery(fingerprint="model", dimension=DIMENSION, bounds=BOUNDS, thumbnails=True)


def in_file(folder: Path) -> SqliteGallery:
    path = folder / f"{uuid.uuid4().hex}.gallery"
    return SqliteGallery.open(
        path, fingerprint="model", dimension=DIMENSION, bounds=BOUNDS, thumbnails=True
    )


def in_codes(folder: Path) -> StoredGallery:
    """From the first embedding on by codes, and in no exact list."""
    path = folder / f"{uuid.uuid4().hex}.gallery"
    return SqliteGallery.open(
        path,
        fingerprint="model",
        dimension=DIMENSION,
        bounds=BOUNDS,
        thumbnails=True,
        exact_limit=0,
    )


MAKERS: dict[str, Maker] = {"memory": in_memory, "sqlite": in_file, "codes": in_codes}
"""Every gallery is put in here and keeps the contract below."""


def unit(*numbers: float) -> Embeddings:
    vector = np.array(numbers, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def units(rng: np.random.Generator, count: int) -> Embeddings:
    rows = rng.normal(size=(count, DIMENSION)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


X, Y, Z = unit(1, 0, 0, 0), unit(0, 1, 0, 0), unit(0, 0, 1, 0)


@pytest.fixture(params=MAKERS)
def gallery(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoredGallery]:
    with MAKERS[request.param](tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("galleries")


def put(
    gallery: Gallery,
    embedding: Embeddings,
    identity: int | None = None,
    *,
    tracklet: str = "",
    modality: Modality = Modality.VISIBLE,
    time: float = 0.0,
) -> int:
    return gallery.add(
        embedding, identity=identity, camera="gate", modality=modality, time=time, tracklet=tracklet
    )


def answers(gallery: Gallery, queries: Embeddings) -> list[list[tuple[int, float, str]]]:
    return [
        [(m.identity, round(m.similarity, 5), m.modality.value) for m in found]
        for found in gallery.search(queries, top_k=9, min_similarity=-1)
    ]


def all_of(gallery: Gallery) -> tuple[object, ...]:
    """All that a gallery knows, to be compared."""
    people = gallery.identities()
    rng = np.random.default_rng(3)
    return (
        people,
        [gallery.tracklets(one.identity) for one in people],
        [gallery.embeddings_of(one.identity)[0].tolist() for one in people],
        answers(gallery, units(rng, 5)),
        len(gallery),
    )


def test_similarity_is_the_cosine_of_each_pair() -> None:
    queries = np.stack([X, unit(3, 4, 0, 0)])
    expected = [[1, 0, 0], [3 / 5, 4 / 5, 0]]
    np.testing.assert_allclose(similarity(queries, np.stack([X, Y, Z])), expected, atol=1e-6)


def test_match_gives_the_best_rows_first_and_none_below_the_threshold() -> None:
    gallery = np.stack([X, Y, unit(3, 4, 0, 0)])
    found = match(X[None], gallery, min_similarity=0.5, top_k=3)[0]
    assert [(m.index, round(m.similarity, 6)) for m in found] == [(0, 1.0), (2, 0.6)]
    assert match(X[None], gallery, min_similarity=-1, top_k=1)[0][0].index == 0


def test_equal_similarities_keep_the_order_of_the_gallery() -> None:
    found = match(X[None], np.stack([Y, X, Z, X]), min_similarity=0, top_k=4)[0]
    assert [m.index for m in found] == [1, 3, 0, 2]


def test_match_refuses_another_width_and_a_top_k_of_zero() -> None:
    with pytest.raises(GalleryError, match="same model"):
        match(X[None], np.ones((1, 5), np.float32), min_similarity=0, top_k=1)
    with pytest.raises(OptionError, match="top_k"):
        match(X[None], X[None], min_similarity=0, top_k=0)


def test_no_queries_and_no_gallery_give_no_matches() -> None:
    nobody = np.zeros((0, DIMENSION), np.float32)
    assert match(nobody, X[None], min_similarity=0, top_k=1) == []
    assert match(X[None], nobody, min_similarity=0, top_k=1) == [[]]


def test_best_outside_skips_those_that_are_taken(gallery: Gallery) -> None:
    first, second = put(gallery, X), put(gallery, unit(3, 4, 0, 0))
    found = gallery.search(X[None], top_k=5, min_similarity=-1)[0]
    assert [m.identity for m in found] == [first, second]
    best = best_outside(found, {first})
    assert best is not None
    assert best.identity == second
    assert best_outside(found, {first, second}) is None


# The contract of every gallery


def test_an_empty_gallery_knows_nobody(gallery: Gallery) -> None:
    assert len(gallery) == 0
    assert gallery.identities() == []
    assert gallery.search(np.stack([X, Y]), top_k=1, min_similarity=-1) == [[], []]


def test_zero_queries_give_zero_rows(gallery: Gallery) -> None:
    assert gallery.search(np.zeros((0, DIMENSION), np.float32), top_k=1, min_similarity=0) == []


def test_an_identity_answers_with_its_best_embedding(gallery: Gallery) -> None:
    first, second = put(gallery, X), put(gallery, Y)
    assert put(gallery, Z, first) == first
    assert first != second
    found = gallery.search(np.stack([Z, unit(0, 3, 4, 0)]), top_k=2, min_similarity=0.1)
    assert [(m.identity, round(m.similarity, 3)) for m in found[0]] == [(first, 1.0)]
    assert [(m.identity, round(m.similarity, 3)) for m in found[1]] == [(first, 0.8), (second, 0.6)]


def test_a_tracklet_is_no_witness_for_itself(gallery: Gallery) -> None:
    first = put(gallery, X, tracklet="gate/1")
    second = put(gallery, Y)
    found = gallery.search(X[None], top_k=2, min_similarity=-1, except_tracklet="gate/1")[0]
    assert [m.identity for m in found] == [second]
    # An embedding of no tracklet is left out by no name.
    everyone = gallery.search(X[None], top_k=2, min_similarity=-1, except_tracklet="")[0]
    assert [m.identity for m in everyone] == [first, second]


def test_those_left_out_of_a_search_leave_room_for_the_next(gallery: Gallery) -> None:
    views = [unit(10, n, 0, 0) for n in range(6)]
    people = [put(gallery, view) for view in views]
    put(gallery, views[0], people[1], modality=Modality.INFRARED)
    found = gallery.search(
        np.stack([X, X]), top_k=2, min_similarity=-1, except_identities=[people[1], *people[2:4]]
    )
    assert [[m.identity for m in row] for row in found] == [[people[0], people[4]]] * 2
    (nobody,) = gallery.search(X[None], top_k=9, min_similarity=-1, except_identities=people)
    assert nobody == []
    (all_,) = gallery.search(X[None], top_k=9, min_similarity=-1, except_identities={99})
    assert {m.identity for m in all_} == set(people), "a number that nobody has leaves nobody out"


@given(seed=st.integers(0, 2**32 - 1), top_k=st.integers(1, 8), left_out=st.sets(st.integers(1, 6)))
@settings(deadline=None, max_examples=12)
@pytest.mark.parametrize("maker", MAKERS)
def test_a_search_without_some_is_the_search_of_all_without_those(
    maker: str, seed: int, top_k: int, left_out: set[int], folder: Path
) -> None:
    rng = np.random.default_rng(seed)
    with MAKERS[maker](folder) as gallery:
        for embedding in units(rng, 6):
            put(gallery, embedding)
        query = units(rng, 1)
        (everyone,) = gallery.search(query, top_k=6, min_similarity=-1)
        (found,) = gallery.search(query, top_k=top_k, min_similarity=-1, except_identities=left_out)
        others = [m for m in everyone if m.identity not in left_out][:top_k]
        assert [m.identity for m in found] == [m.identity for m in others]
        assert [m.similarity for m in found] == pytest.approx([m.similarity for m in others])


def test_a_tracklet_is_whose_it_was_last_given_to(gallery: Gallery) -> None:
    assert gallery.identities_of([]) == gallery.identities_of(["a"]) == {}
    first, second = put(gallery, X, tracklet="a"), put(gallery, Y, tracklet="b")
    put(gallery, Z)
    assert gallery.identities_of(["a", "b", "c", ""]) == {"a": first, "b": second}
    number = gallery.merge(second, first)
    assert gallery.identities_of(["b"]) == {"b": first}
    gallery.undo_merge(number)
    assert gallery.identities_of(["b"]) == {"b": second}
    gallery.reassign("b", first)
    assert gallery.identities_of(["b"]) == {"b": first}
    third = gallery.split(first, ["b"])
    assert gallery.identities_of({"a", "b"}) == {"a": first, "b": third}
    gallery.forget(third)
    assert gallery.identities_of(["a", "b"]) == {"a": first}


def test_a_tracklet_that_has_nothing_left_is_nobodys(gallery: Gallery) -> None:
    who = put(gallery, X, tracklet="a")
    for height in (0.01, 0.5, 1):  # three are kept, and of the two most alike the newer
        put(gallery, unit(1, height, 0, 0), who, tracklet="b")
    assert gallery.identities_of(["a", "b"]) == {"b": who}


def test_a_reassigned_tracklet_takes_its_embeddings_along(gallery: Gallery) -> None:
    first = put(gallery, X, tracklet="gate/1")
    second = put(gallery, Y, tracklet="gate/2")
    gallery.reassign("gate/1", second)
    assert [r.identity for r in gallery.identities()] == [second]
    assert gallery.search(X[None], top_k=1, min_similarity=0.9)[0][0].identity == second
    assert put(gallery, Z) not in (first, second), "a number is given out once"


def test_records_tell_where_and_when(gallery: Gallery) -> None:
    identity = gallery.add(X, camera="yard", modality=Modality.INFRARED, time=7.0)
    gallery.add(Y, identity=identity, camera="gate", modality=Modality.VISIBLE, time=3.0)
    (record,) = gallery.identities()
    assert (record.embeddings, record.cameras) == (2, ("gate", "yard"))
    assert (record.first_time, record.last_time) == (3.0, 7.0)
    nearest = gallery.search(X[None], top_k=1, min_similarity=0)[0][0]
    assert (nearest.camera, nearest.modality, nearest.time) == ("yard", Modality.INFRARED, 7.0)


def test_another_model_or_width_is_refused(gallery: Gallery) -> None:
    gallery.require("model", DIMENSION)
    with pytest.raises(GalleryError, match="build the gallery anew"):
        gallery.require("another", DIMENSION)
    with pytest.raises(GalleryError, match="4-wide"):
        gallery.require("model", 5)
    with pytest.raises(GalleryError, match="dimension 4"):
        put(gallery, np.ones(5, np.float32))
    with pytest.raises(GalleryError, match="dimension 4"):
        gallery.search(np.ones((1, 5), np.float32), top_k=1, min_similarity=0)


@pytest.mark.parametrize("length", [0.0, 2.0, np.nan])
def test_what_is_not_of_unit_length_is_refused(gallery: Gallery, length: float) -> None:
    with pytest.raises(GalleryError, match="unit"):
        put(gallery, np.asarray(X * np.float32(length), np.float32))
    assert len(gallery) == 0


def test_an_identity_never_given_out_is_refused(gallery: Gallery) -> None:
    with pytest.raises(GalleryError, match="identity 7"):
        put(gallery, X, 7)
    with pytest.raises(GalleryError, match="identity 7"):
        gallery.reassign("gate/1", 7)


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 40), people=st.integers(1, 5))
@settings(deadline=None, max_examples=12)
@pytest.mark.parametrize("maker", MAKERS)
def test_whatever_comes_the_gallery_stays_bounded_and_finds_the_newest(
    maker: str, seed: int, count: int, people: int, folder: Path
) -> None:
    rng = np.random.default_rng(seed)
    gallery, given_out = MAKERS[maker](folder), list[int]()
    for embedding in units(rng, count):
        pick = int(rng.integers(0, people))
        modality = Modality.VISIBLE if rng.random() < 0.5 else Modality.INFRARED
        known = given_out[pick] if pick < len(given_out) else None
        identity = put(gallery, embedding, known, modality=modality)
        if known is None:
            given_out.append(identity)
        best = gallery.search(embedding[None], top_k=1, min_similarity=-1)[0][0]
        assert best.similarity == pytest.approx(1.0, abs=1e-5)
    records = gallery.identities()
    assert [r.identity for r in records] == sorted(given_out)
    assert len(gallery) == sum(r.embeddings for r in records)
    assert all(r.embeddings <= 3 * len(Modality) for r in records)
    gallery.close()


@given(seed=st.integers(0, 2**32 - 1), top_k=st.integers(1, 8), low=st.floats(-1, 1))
@settings(deadline=None, max_examples=12)
@pytest.mark.parametrize("maker", MAKERS)
def test_search_is_ordered_distinct_and_above_the_threshold(
    maker: str, seed: int, top_k: int, low: float, folder: Path
) -> None:
    rng = np.random.default_rng(seed)
    gallery = MAKERS[maker](folder)
    kept = units(rng, 6)
    for embedding in kept:
        put(gallery, embedding)
    query = units(rng, 1)
    found = gallery.search(query, top_k=top_k, min_similarity=low)[0]
    scores = [m.similarity for m in found]
    assert scores == sorted(scores, reverse=True)
    assert len({m.identity for m in found}) == len(found) <= top_k
    # One embedding each: the same as the plain match of rows, but for what float16 rounds.
    plain = match(query, kept, min_similarity=low, top_k=top_k)[0]
    clear = [m.similarity for m in plain if m.similarity > low + 1e-3]
    assert scores[: len(clear)] == pytest.approx(clear, abs=1e-3)
    assert len(found) <= len(clear) + sum(abs(m.similarity - low) <= 1e-3 for m in plain) + 1
    gallery.close()


def test_an_identity_answers_once_for_each_light(gallery: Gallery) -> None:
    first = put(gallery, X, modality=Modality.VISIBLE)
    put(gallery, unit(3, 4, 0, 0), first, modality=Modality.INFRARED)
    put(gallery, unit(0, 4, 3, 0), first, modality=Modality.INFRARED)
    second = put(gallery, unit(4, 3, 0, 0), modality=Modality.INFRARED)
    (found,) = gallery.search(X[None], top_k=1, min_similarity=-1)
    assert [(m.identity, m.modality.value, round(m.similarity, 3)) for m in found] == [
        (first, "visible", 1.0),
        (first, "infrared", 0.6),
    ]
    (found,) = gallery.search(X[None], top_k=2, min_similarity=0.7)
    assert [m.identity for m in found] == [first, second]


def test_embeddings_of_gives_what_was_added_with_its_light(gallery: Gallery) -> None:
    who = put(gallery, unit(3, 4, 0, 0), modality=Modality.INFRARED)
    put(gallery, Z, who)
    embeddings, lights = gallery.embeddings_of(who)
    np.testing.assert_allclose(embeddings, [[0.6, 0.8, 0, 0], [0, 0, 1, 0]], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert lights == [Modality.INFRARED, Modality.VISIBLE]


def test_tracklets_tell_camera_lights_and_times(gallery: Gallery) -> None:
    who = put(gallery, X, tracklet="gate/1", time=5.0)
    put(gallery, Y, who, tracklet="gate/1", time=6.0, modality=Modality.INFRARED)
    put(gallery, Z, who, tracklet="gate/2", time=2.0)
    later, earlier = gallery.tracklets(who)[::-1]
    assert (earlier.tracklet, earlier.identity, earlier.embeddings) == ("gate/2", who, 1)
    assert (later.tracklet, later.camera, later.embeddings) == ("gate/1", "gate", 2)
    assert later.modalities == (Modality.VISIBLE, Modality.INFRARED)
    assert (later.first_time, later.last_time) == (5.0, 6.0)


def test_a_tracklet_added_under_another_identity_moves_there_whole(gallery: Gallery) -> None:
    first, second = put(gallery, X, tracklet="gate/1"), put(gallery, Y)
    put(gallery, Z, second, tracklet="gate/1")
    assert [(r.identity, r.embeddings) for r in gallery.identities()] == [(second, 3)]
    assert put(gallery, X, first) == first, "a number that was given out may be used again"


def test_a_merged_identity_is_the_other_and_comes_back_when_undone(gallery: Gallery) -> None:
    first, second = put(gallery, X, tracklet="a", time=1.0), put(gallery, Y, tracklet="b", time=2.0)
    before = all_of(gallery)
    number = gallery.merge(second, first)
    assert [(r.identity, r.embeddings, r.last_time) for r in gallery.identities()] == [
        (first, 2, 2.0)
    ]
    assert gallery.search(Y[None], top_k=1, min_similarity=0.9)[0][0].identity == first
    assert gallery.undo_merge(number) == second
    assert all_of(gallery) == before
    with pytest.raises(GalleryError, match="cannot be undone"):
        gallery.undo_merge(number)


def test_what_comes_after_a_merge_costs_no_view_of_before(gallery: Gallery) -> None:
    views = units(np.random.default_rng(1), 12)
    first, second = put(gallery, views[0], tracklet="a"), put(gallery, views[1], tracklet="b")
    for row in (2, 3):
        put(gallery, views[row], second, tracklet="b")
    before = gallery.embeddings_of(second)[0].tolist()
    number = gallery.merge(second, first)
    for row in range(4, 12):
        assert put(gallery, views[row], second, tracklet="c") == first, "the merged is the other"
    gallery.undo_merge(number)
    assert gallery.embeddings_of(second)[0].tolist() == before
    assert [r.tracklet for r in gallery.tracklets(first)] == ["a", "c"] or [
        r.tracklet for r in gallery.tracklets(first)
    ] == ["c"]


@given(seed=st.integers(0, 2**32 - 1), merges=st.integers(1, 5))
@settings(deadline=None, max_examples=12)
@pytest.mark.parametrize("maker", MAKERS)
def test_merges_undone_backwards_leave_what_was(
    maker: str, seed: int, merges: int, folder: Path
) -> None:
    rng = np.random.default_rng(seed)
    with MAKERS[maker](folder) as gallery:
        people = [put(gallery, e, tracklet=f"t{i}") for i, e in enumerate(units(rng, 6))]
        before, done = all_of(gallery), []
        for _ in range(merges):
            one, other = rng.choice(len(people), 2, replace=False)
            done.append(gallery.merge(people.pop(int(max(one, other))), people[min(one, other)]))
        assert [r.identity for r in gallery.identities()] == sorted(people)
        for number in reversed(done):
            gallery.undo_merge(number)
        assert all_of(gallery) == before


def test_merges_may_be_undone_in_the_order_they_came(gallery: Gallery) -> None:
    a, b, c = put(gallery, X, tracklet="a"), put(gallery, Y, tracklet="b"), put(gallery, Z)
    before = all_of(gallery)
    first, second = gallery.merge(a, b), gallery.merge(b, c)
    gallery.undo_merge(first)
    assert gallery.search(X[None], top_k=1, min_similarity=0.9)[0][0].identity == a
    gallery.merge(a, c)
    gallery.undo_merge(second)
    assert [r.tracklet for r in gallery.tracklets(c)] == ["", "a"], "the last merge still holds"
    gallery.undo_merge(second + 1)
    assert all_of(gallery) == before


def test_merges_that_cannot_be_are_refused(gallery: Gallery) -> None:
    first, second = put(gallery, X), put(gallery, Y)
    with pytest.raises(GalleryError, match="into itself"):
        gallery.merge(first, first)
    with pytest.raises(GalleryError, match="never given out"):
        gallery.merge(first, 99)
    gallery.merge(second, first)
    with pytest.raises(GalleryError, match="merged into 1 already"):
        gallery.merge(second, first)


def test_a_split_takes_named_tracklets_to_a_new_identity(gallery: Gallery) -> None:
    who = put(gallery, X, tracklet="a")
    put(gallery, Y, who, tracklet="b")
    new = gallery.split(who, ["b"])
    assert new != who
    assert gallery.search(Y[None], top_k=1, min_similarity=0.9)[0][0].identity == new
    assert [r.tracklet for r in gallery.tracklets(who)] == ["a"]
    with pytest.raises(GalleryError, match="no tracklet 'b'; it has: a"):
        gallery.split(who, ["b"])


def test_who_was_taken_apart_by_hand_is_known_until_a_merge_says_otherwise(
    gallery: StoredGallery,
) -> None:
    first, other = put(gallery, X, tracklet="a"), put(gallery, Z, tracklet="c")
    put(gallery, Y, first, tracklet="b")
    assert gallery.taken_apart(first) == set()
    second = gallery.split(first, ["b"])
    assert (gallery.taken_apart(first), gallery.taken_apart(second)) == ({second}, {first})
    # Who one of them turns out to be was taken from the other too, and is so when that is undone.
    number = gallery.merge(second, other)
    assert (gallery.taken_apart(first), gallery.taken_apart(other)) == ({other}, {first})
    gallery.undo_merge(number)
    assert gallery.taken_apart(second) == {first, other}
    assert (gallery.taken_apart(first), gallery.taken_apart(other)) == ({second}, {second})
    gallery.merge(second, first)
    assert (gallery.taken_apart(first), gallery.taken_apart(other)) == ({other}, {first})
    gallery.forget(other)
    assert gallery.taken_apart(first) == set()


def test_a_forgotten_identity_is_gone_and_its_number_too(gallery: StoredGallery) -> None:
    first, second = put(gallery, X, tracklet="a"), put(gallery, Y)
    third = put(gallery, Z, tracklet="c")
    number = gallery.merge(third, first)
    gallery.forget(first)
    assert [r.identity for r in gallery.identities()] == [second]
    assert [m.identity for m in gallery.search(X[None], top_k=9, min_similarity=-1)[0]] == [second]
    assert (len(gallery), len(gallery.index)) == (1, 1)
    for gone in (first, third):
        with pytest.raises(GalleryError, match="was forgotten"):
            put(gallery, X, gone)
    with pytest.raises(GalleryError, match="cannot be undone"):
        gallery.undo_merge(number)
    assert put(gallery, X) > third


def test_prune_lets_the_longest_unseen_go(gallery: StoredGallery) -> None:
    many = units(np.random.default_rng(0), 7)
    people = [put(gallery, e, time=10.0 * i) for i, e in enumerate(many)]
    assert gallery.prune(now=115.0) == people[:3], "two too old for 100 s, one above four people"
    gallery.label(people[3], "Ada")
    assert gallery.prune(now=1e6) == people[4:], "who has a label stays"
    assert [r.label for r in gallery.identities()] == ["Ada"]


def test_prune_keeps_the_embeddings_below_their_bound(gallery: Gallery) -> None:
    rng = np.random.default_rng(0)
    for person in range(3):
        who = None
        for row, embedding in enumerate(units(rng, 6)):
            light = Modality.VISIBLE if row < 3 else Modality.INFRARED
            who = put(gallery, embedding, who, modality=light, time=float(person))
    assert len(gallery) == 18
    assert gallery.prune(now=10.0) == [1]
    assert len(gallery) == 12


def test_an_old_merge_is_final_and_keeps_to_the_cap_of_one(folder: Path) -> None:
    bounds = GalleryBounds(prototypes=2, undo_age=50.0)
    gallery = MemoryGallery(fingerprint="model", dimension=DIMENSION, bounds=bounds)
    views = units(np.random.default_rng(0), 4)
    first, second = put(gallery, views[0]), put(gallery, views[1], tracklet="b")
    put(gallery, views[2], first)
    put(gallery, views[3], second, tracklet="b")
    gallery.label(second, "Ada")
    number = gallery.merge(second, first)
    gallery.prune(now=40.0)
    assert len(gallery) == 4
    gallery.prune(now=60.0)
    assert [(r.identity, r.embeddings, r.label) for r in gallery.identities()] == [
        (first, 2, "Ada")
    ]
    with pytest.raises(GalleryError, match="too long ago"):
        gallery.undo_merge(number)


def test_who_was_taken_apart_stays_so_when_an_old_merge_is_final() -> None:
    bounds = GalleryBounds(undo_age=50.0)
    gallery = MemoryGallery(fingerprint="model", dimension=DIMENSION, bounds=bounds)
    first, second = put(gallery, X, tracklet="a"), put(gallery, Y, tracklet="b")
    put(gallery, Z, second, tracklet="c")
    third = gallery.split(second, ["c"])
    gallery.merge(second, first)
    gallery.prune(now=60.0)
    assert (gallery.taken_apart(first), gallery.taken_apart(third)) == ({third}, {first})


def test_a_thumbnail_is_kept_of_the_best_crop_of_a_tracklet(gallery: StoredGallery) -> None:
    def crop(grey: int) -> Crop:
        return np.full((16, 8, 3), grey, np.uint8)

    who = None
    for grey, quality in ((40, 0.5), (200, 0.9), (90, 0.7)):
        who = gallery.add(
            X,
            identity=who,
            camera="gate",
            modality=Modality.VISIBLE,
            time=0.0,
            tracklet="a",
            quality=quality,
            thumbnail=crop(grey),
        )
    assert who is not None
    (jpeg,) = gallery.thumbnails(who).values()
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert abs(int(picture.mean()) - 200) <= 2


def test_a_gallery_without_leave_keeps_no_thumbnail() -> None:
    gallery = MemoryGallery(fingerprint="model", dimension=DIMENSION)
    black = np.zeros((4, 4, 3), np.uint8)
    who = gallery.add(X, camera="gate", modality=Modality.VISIBLE, time=0.0, thumbnail=black)
    assert gallery.thumbnails(who) == {}


@pytest.mark.parametrize("bad", [{"prototypes": 0}, {"max_age": -1.0}, {"undo_age": float("nan")}])
def test_bounds_that_cannot_be_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=next(iter(bad))):
        GalleryBounds(**bad)  # type: ignore[arg-type]
