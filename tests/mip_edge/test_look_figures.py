"""The numbers in the pictures, worked by hand: chance, d', equal error, and who is seen."""

from __future__ import annotations

from math import comb, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.curves import draw_curves
from mip_edge.data.dataset import Sample
from mip_edge.data.image import read_image
from mip_edge.errors import DatasetError, OptionError
from mip_edge.look.cmc import chance_cmc, rank_directions
from mip_edge.look.distances import (
    PairSeparation,
    Tally,
    equal_error_rate,
    separate_pairs,
)
from mip_edge.look.map import check_method, choose_points, place_points
from mip_edge.spec import Modality

VISIBLE, INFRARED = Modality.VISIBLE, Modality.INFRARED


def sample(identity: str, modality: Modality, number: int = 0) -> Sample:
    return Sample(Path(f"{modality.value}/{identity}/{number}.png"), identity, modality)


def separation(same: list[float], different: list[float]) -> PairSeparation:
    closed = []
    for cosines in (same, different):
        tally = Tally()
        tally.add(cosines)
        closed.append(tally.close())
    assert closed[0] is not None
    assert closed[1] is not None
    return PairSeparation(VISIBLE, INFRARED, closed[0], closed[1])


def test_chance_is_the_share_of_random_orders_that_hit() -> None:
    # one right among four: k/4; two right among four: 1 - C(2,k)/C(4,k)
    assert chance_cmc([1], 4, ranks=4) == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1])
    assert chance_cmc([2], 4, ranks=3) == pytest.approx([2 / 4, 5 / 6, 1])
    assert chance_cmc([1, 2], 4, ranks=2) == pytest.approx([3 / 8, 4 / 6])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.data())
def test_chance_is_that_of_drawing_without_putting_back(gallery: int, data: st.DataObject) -> None:
    correct, ranks = data.draw(st.integers(1, gallery)), data.draw(st.integers(1, gallery))
    by_counting = [1 - comb(gallery - correct, k) / comb(gallery, k) for k in range(1, ranks + 1)]
    assert chance_cmc([correct], gallery, ranks=ranks) == pytest.approx(by_counting)


@pytest.mark.parametrize(("correct", "ranks"), [([], 1), ([5], 1), ([0], 1), ([1], 5), ([1], 0)])
def test_chance_of_a_gallery_that_cannot_be_is_refused(correct: list[int], ranks: int) -> None:
    with pytest.raises(OptionError, match="a gallery of 4"):
        chance_cmc(correct, 4, ranks=ranks)


def test_directions_rank_across_the_lights_and_begin_chance_at_its_rank_1() -> None:
    samples = [sample(name, light) for light in (INFRARED, VISIBLE) for name in "ab"]
    # in infrared a and b stand upright; in visible b stands on its own, a half way between them
    half = sqrt(0.5)
    embeddings = np.array([[1, 0], [0, 1], [half, half], [0, 1]], dtype=np.float32)
    infrared, visible = rank_directions(embeddings, samples, embeddings, samples)
    assert (infrared.name, visible.name) == ("infrared to visible", "visible to infrared")
    assert infrared.ranking.rank1 == 1.0
    assert visible.ranking.rank1 == 1.0  # a's tie keeps the order of the gallery
    for direction in (infrared, visible):
        assert direction.chance == pytest.approx([0.5, 1.0])
        assert direction.chance[0] == direction.ranking.chance_rank1
    with pytest.raises(DatasetError, match="gallery part has no visible images"):
        rank_directions(embeddings, samples, embeddings[:2], samples[:2])


def test_d_prime_of_two_groups_of_three_is_the_textbook_value() -> None:
    one = separation([0.6, 0.8, 1.0], [0.0, 0.2, 0.4])
    # means 0.8 and 0.2, both variances (0.04 + 0 + 0.04) / 3
    assert one.d_prime == pytest.approx(0.6 / sqrt(0.08 / 3))
    assert one.equal_error == 0.0
    assert (one.same.pairs, one.different.pairs) == (3, 3)


def test_groups_without_spread_have_no_d_prime() -> None:
    assert separation([0.9, 0.9], [0.1, 0.1, 0.1]).d_prime is None


def test_equal_error_counts_both_kinds_of_mistakes() -> None:
    # cut between 0.45 and 0.55: one of three of each kind is on the wrong side
    assert separation([0.35, 0.7, 0.9], [0.0, 0.2, 0.6]).equal_error == pytest.approx(1 / 3)
    # all mixed up: every cut that balances the two is wrong every time
    assert separation([0.0, 0.1], [0.8, 0.9]).equal_error == 1.0
    # at 0.3 the refused leap from 0 to 1/2 while 1/4 is accepted before and after
    assert separation([0.3, 0.7], [0.0, 0.1, 0.2, 0.5]).equal_error == pytest.approx(1 / 4)


@pytest.mark.parametrize(("same", "different"), [([1], [1, 1]), ([0], [1]), ([1], [0])])
def test_an_equal_error_without_pairs_is_refused(same: list[int], different: list[int]) -> None:
    with pytest.raises(OptionError, match="expected one shape, and pairs in both"):
        equal_error_rate(same, different)


def test_every_pair_of_two_images_counts_once_and_none_meets_itself() -> None:
    samples = [
        *(sample("a", VISIBLE, number) for number in range(3)),
        *(sample("b", VISIBLE, number) for number in range(2)),
        *(sample("a", INFRARED, number) for number in range(2)),
        sample("b", INFRARED),
    ]
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=(8, 4)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    visible, infrared, across = separate_pairs(embeddings, samples)
    assert (visible.same.pairs, visible.different.pairs) == (3 + 1, 3 * 2)
    assert (infrared.same.pairs, infrared.different.pairs) == (1, 2 * 1)
    assert (across.same.pairs, across.different.pairs) == (3 * 2 + 2 * 1, 3 * 1 + 2 * 2)
    own = [embeddings[one] @ embeddings[other] for one, other in ((0, 1), (0, 2), (1, 2), (3, 4))]
    assert visible.same.mean == pytest.approx(np.mean(own), abs=1e-6)
    assert visible.same.deviation == pytest.approx(np.std(own), abs=1e-6)


def test_a_pair_of_lights_without_two_crops_of_anybody_is_left_out() -> None:
    samples = [sample(name, light) for light in (INFRARED, VISIBLE) for name in "ab"]
    (only,) = separate_pairs(np.eye(4, dtype=np.float32), samples)
    assert only.name == "visible - infrared"


def test_a_map_shows_people_of_both_lights_spread_evenly() -> None:
    samples = [
        sample(name, light, number)
        for light in (INFRARED, VISIBLE)
        for name in "abcde"
        for number in range(5)
        if (name, light) != ("c", INFRARED)
    ]
    rows = choose_points(samples, identities=2, crops=3)
    seen = [(samples[row].identity, samples[row].modality) for row in rows]
    assert set(seen) == {(name, light) for name in "ae" for light in (INFRARED, VISIBLE)}
    assert [samples[row].path.stem for row in rows] == ["0", "2", "4"] * 4
    assert len(set(rows)) == len(rows)
    with pytest.raises(DatasetError, match="nobody is in both lights"):
        choose_points(samples[:3])


def test_the_map_keeps_people_together_and_is_the_same_twice() -> None:
    pytest.importorskip("sklearn", reason="needs mip-edge[plots]")
    rng = np.random.default_rng(0)
    centres = np.eye(3, 8).repeat(6, axis=0)
    embeddings = (centres + 0.05 * rng.normal(size=centres.shape)).astype(np.float32)
    places = place_points(embeddings, "tsne")
    assert places.shape == (18, 2)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(18)
    assert (apart.argmin(axis=1) // 6 == np.arange(18) // 6).all()
    np.testing.assert_array_equal(places, place_points(embeddings, "tsne"))
    with pytest.raises(DatasetError, match="at least 5 crops, got 4"):
        place_points(embeddings[:4], "tsne")


def test_a_method_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r'pip install "mip-edge\[plots\]", or --map none'):
        check_method("tsne")
    with pytest.raises(OptionError, match=r'pip install "mip-edge\[umap\]", or --map none'):
        check_method("umap")
    with pytest.raises(OptionError, match="--map must be tsne, umap or none, got pca"):
        check_method("pca")


def test_curves_show_a_loss_that_begins_late_and_a_start_without_losses(tmp_path: Path) -> None:
    figures = {"rank1": 0.5, "mAP": 0.4, "mINP": 0.3}
    rows = [
        {"epoch": 0, **figures},
        {"epoch": 1, "loss_identity": 2.0, "loss_msel": 0.0, **figures},
    ]
    path = tmp_path / "curves.png"
    draw_curves(rows[:1], path, title="the start")
    empty = read_image(path)
    draw_curves([*rows, {"epoch": 2, **figures}], path, title="the start")
    assert (read_image(path) != empty).any()
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]
