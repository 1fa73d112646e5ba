from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.errors import GalleryError, OptionError
from mip_edge.gallery import Gallery, MemoryGallery, best_outside, match, similarity
from mip_edge.spec import Embeddings, Modality

DIMENSION = 4
MAKERS: dict[str, Callable[[], Gallery]] = {
    "memory": lambda: MemoryGallery(fingerprint="model", dimension=DIMENSION, prototypes=3),
}
"""Every gallery is put in here and keeps the contract below."""


def unit(*numbers: float) -> Embeddings:
    vector = np.array(numbers, np.float32)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


def units(rng: np.random.Generator, count: int) -> Embeddings:
    rows = rng.normal(size=(count, DIMENSION)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


X, Y, Z = unit(1, 0, 0, 0), unit(0, 1, 0, 0), unit(0, 0, 1, 0)


@pytest.fixture(params=MAKERS)
def gallery(request: pytest.FixtureRequest) -> Gallery:
    return MAKERS[request.param]()


def put(
    gallery: Gallery,
    embedding: Embeddings,
    identity: int | None = None,
    *,
    tracklet: str = "",
    modality: Modality = Modality.VISIBLE,
) -> int:
    return gallery.add(
        embedding, identity=identity, camera="gate", modality=modality, time=0.0, tracklet=tracklet
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
    assert [(m.identity, round(m.similarity, 5)) for m in found[0]] == [(first, 1.0)]
    assert [(m.identity, round(m.similarity, 5)) for m in found[1]] == [(first, 0.8), (second, 0.6)]


def test_a_tracklet_is_no_witness_for_itself(gallery: Gallery) -> None:
    first = put(gallery, X, tracklet="gate/1")
    second = put(gallery, Y)
    found = gallery.search(X[None], top_k=2, min_similarity=-1, except_tracklet="gate/1")[0]
    assert [m.identity for m in found] == [second]
    # An embedding of no tracklet is left out by no name.
    everyone = gallery.search(X[None], top_k=2, min_similarity=-1, except_tracklet="")[0]
    assert [m.identity for m in everyone] == [first, second]


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
@settings(deadline=None, max_examples=40)
@pytest.mark.parametrize("maker", MAKERS)
def test_whatever_comes_the_gallery_stays_bounded_and_finds_the_newest(
    maker: str, seed: int, count: int, people: int
) -> None:
    rng = np.random.default_rng(seed)
    gallery, given_out = MAKERS[maker](), []
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


@given(seed=st.integers(0, 2**32 - 1), top_k=st.integers(1, 8), low=st.floats(-1, 1))
@settings(deadline=None, max_examples=40)
@pytest.mark.parametrize("maker", MAKERS)
def test_search_is_ordered_distinct_and_above_the_threshold(
    maker: str, seed: int, top_k: int, low: float
) -> None:
    rng = np.random.default_rng(seed)
    gallery = MAKERS[maker]()
    kept = units(rng, 6)
    for embedding in kept:
        put(gallery, embedding)
    query = units(rng, 1)
    found = gallery.search(query, top_k=top_k, min_similarity=low)[0]
    scores = [m.similarity for m in found]
    assert scores == sorted(scores, reverse=True)
    assert len({m.identity for m in found}) == len(found) <= top_k
    # One embedding each: the same as the plain match of rows.
    plain = match(query, kept, min_similarity=low, top_k=top_k)[0]
    assert scores == pytest.approx([m.similarity for m in plain], abs=1e-5)
