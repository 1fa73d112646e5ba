from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mip_edge.errors import OptionError
from mip_edge.live.tracklet import EmbeddingSet
from mip_edge.spec import Modality

VISIBLE, INFRARED = Modality.VISIBLE, Modality.INFRARED


def at(degrees: float) -> NDArray[np.float32]:
    """A unit vector in the plane."""
    radians = math.radians(degrees)
    return np.array([math.cos(radians), math.sin(radians)], np.float32)


def degrees(views: EmbeddingSet, modality: Modality = VISIBLE) -> list[float]:
    return [
        round(math.degrees(math.atan2(*one.embedding[::-1].tolist())))
        for one in views.held(modality)
    ]


def test_nothing_seen_is_no_query() -> None:
    views = EmbeddingSet()
    assert views.query(VISIBLE) is None
    assert views.newest is None
    assert (views.count, views.modalities) == (0, ())
    assert views.best_quality(VISIBLE) == 0.0


def test_the_query_is_the_mean_by_quality_at_unit_length() -> None:
    views = EmbeddingSet()
    views.add(at(0), 0.75, VISIBLE, 0.0)
    views.add(at(90), 0.25, VISIBLE, 0.1)
    # (3/4, 1/4) has length sqrt(10) / 4.
    expected = np.array([3, 1]) / math.sqrt(10)
    np.testing.assert_allclose(views.query(VISIBLE), expected, atol=1e-6)
    assert views.best_quality(VISIBLE) == 0.75


def test_crops_of_no_quality_count_alike_where_there_is_no_other() -> None:
    views = EmbeddingSet()
    views.add(at(0), 0.0, VISIBLE, 0.0)
    views.add(at(90), 0.0, VISIBLE, 0.1)
    np.testing.assert_allclose(views.query(VISIBLE), at(45), atol=1e-6)
    views.add(at(180), 1.0, VISIBLE, 0.2)
    query = views.query(VISIBLE)
    assert query is not None
    assert query @ at(180) > 0.999


def test_a_camera_that_switches_its_light_gives_one_track_with_two_sets() -> None:
    views = EmbeddingSet(k=2)
    views.add(at(10), 1.0, VISIBLE, 0.0)
    assert views.query(INFRARED) is None
    for step in range(3):
        views.add(at(100 + 40 * step), 0.5, INFRARED, 1.0 + step)
    assert views.modalities == (VISIBLE, INFRARED)
    np.testing.assert_allclose(views.query(VISIBLE), at(10), atol=1e-6)
    assert len(views.held(INFRARED)) == 2
    assert views.count == 4
    assert views.newest is not None
    assert (views.newest.modality, views.newest.time) == (INFRARED, 3.0)


def test_of_the_two_most_alike_the_one_of_less_quality_goes() -> None:
    views = EmbeddingSet(k=3)
    for angle, quality in ((0, 0.9), (10, 0.5), (90, 0.2)):
        views.add(at(angle), quality, VISIBLE, 0.0)
    views.add(at(180), 0.3, VISIBLE, 1.0)
    assert degrees(views) == [0, 90, 180], "10 is much like 0, and worse"
    views.add(at(95), 0.8, VISIBLE, 2.0)
    assert degrees(views) == [0, 180, 95], "95 shows what 90 showed, and better"
    views.add(at(182), 0.1, VISIBLE, 3.0)
    assert degrees(views) == [0, 180, 95], "the newest may be the one that goes"
    assert views.count == 6
    assert views.newest is not None
    assert views.newest.quality == 0.1


def test_of_two_alike_and_of_one_quality_the_older_goes() -> None:
    views = EmbeddingSet(k=1)
    views.add(at(0), 0.5, VISIBLE, 0.0)
    views.add(at(60), 0.5, VISIBLE, 1.0)
    assert degrees(views) == [60]


def test_opposite_embeddings_cancel_and_give_no_query_until_a_third_comes() -> None:
    views = EmbeddingSet()
    views.add(at(0), 0.5, VISIBLE, 0.0)
    views.add(at(180), 0.5, VISIBLE, 0.1)
    assert views.query(VISIBLE) is None
    views.add(at(90), 0.5, VISIBLE, 0.2)
    np.testing.assert_allclose(views.query(VISIBLE), at(90), atol=1e-5)


def test_one_light_without_a_direction_does_not_take_it_from_the_other() -> None:
    views = EmbeddingSet()
    for angle in (0, 180):
        views.add(at(angle), 0.5, VISIBLE, 0.0)
    views.add(at(30), 0.5, INFRARED, 0.1)
    assert views.query(VISIBLE) is None
    np.testing.assert_allclose(views.query(INFRARED), at(30), atol=1e-6)


def test_a_set_of_nothing_is_refused() -> None:
    with pytest.raises(OptionError, match="at least 1, got 0"):
        EmbeddingSet(0)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 359), st.floats(0, 1), st.booleans()), max_size=20),
)
def test_a_set_never_holds_more_than_k_of_a_light_and_always_its_best_view(
    k: int, seen: list[tuple[int, float, bool]]
) -> None:
    views = EmbeddingSet(k)
    for time, (angle, quality, dark) in enumerate(seen):
        views.add(at(angle), quality, INFRARED if dark else VISIBLE, float(time))
    for modality in Modality:
        qualities = [q for _, q, dark in seen if dark == (modality is INFRARED)]
        assert len(views.held(modality)) == min(k, len(qualities))
        assert views.best_quality(modality) == max(qualities, default=0.0)
        query = views.query(modality)
        assert query is None or abs(float(np.linalg.norm(query)) - 1) < 1e-5
    assert views.count == len(seen)
