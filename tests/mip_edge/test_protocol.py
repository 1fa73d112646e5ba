"""Protocols against hand-worked trials, an independent draw, and four public evaluators."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mip_edge.data.dataset import Sample
from mip_edge.errors import DatasetError, OptionError
from mip_edge.evaluate.protocol import Protocol, choose_protocols, protocols_of
from mip_edge.evaluate.scoring import Distances, pool, score, score_distances
from mip_edge.metrics import evaluate_ranking
from mip_edge.spec import Modality

DATA = Path(__file__).parents[1] / "data"
VISIBLE, INFRARED = Modality.VISIBLE, Modality.INFRARED
LIGHT = {"cam1": VISIBLE, "cam2": VISIBLE, "cam4": VISIBLE, "cam5": VISIBLE}


def protocol(name: str) -> Protocol:
    return next(one for one in protocols_of(name.split("-")[0]) if one.name == name)


def official(name: str) -> Protocol:
    return next(one for one in protocols_of("sysu") if one.name == name)


def image(camera: str, identity: str, number: int, modality: Modality | None = None) -> Sample:
    light = modality or LIGHT.get(camera, INFRARED)
    return Sample(
        Path(f"{light.value}/{camera}/{identity}/{number:04d}.jpg"), identity, light, camera
    )


def sysu_test(images: int) -> list[Sample]:
    """Three people; 0027 was never before camera 2. The order is none that a draw may rely on."""
    return [
        image(camera, identity, number)
        for camera in ("cam5", "cam3", "cam1", "cam6", "cam4", "cam2")
        for identity in ("0027", "0006", "0010")
        for number in range(images, 0, -1)
        if (camera, identity) != ("cam2", "0027")
    ]


def unit(rows: int, seed: int = 0, dimension: int = 8) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def drawn_paths(one: Protocol, seed: int, samples: list[Sample]) -> list[str]:
    return [samples[row].path.as_posix() for row in one.trial(seed, samples, samples).gallery]


@pytest.mark.parametrize("search", ["all", "indoor"])
@pytest.mark.parametrize("trial", [0, 9])
def test_a_single_shot_gallery_is_drawn_as_the_community_draws_it(search: str, trial: int) -> None:
    cameras = [1, 2, 4, 5] if search == "all" else [1, 2]
    rng = random.Random(trial)
    expected = []
    for identity in ("0006", "0010", "0027"):
        for camera in cameras:
            if (camera, identity) == (2, "0027"):
                continue
            files = [f"visible/cam{camera}/{identity}/{number:04d}.jpg" for number in range(1, 8)]
            expected.append(rng.choice(files))
    assert drawn_paths(protocol(f"sysu-{search}-single"), trial, sysu_test(7)) == expected


def test_a_multi_shot_gallery_is_ten_of_each_as_numpy_seeded_by_the_trial_draws_them() -> None:
    expected: list[str] = []
    state = np.random.get_state()  # noqa: NPY002 - the published draw is numpy's global one
    np.random.seed(3)  # noqa: NPY002
    for identity in ("0006", "0010", "0027"):
        for camera in (1, 2):
            if (camera, identity) != (2, "0027"):
                names = [f"visible/cam{camera}/{identity}/{n:04d}.jpg" for n in range(1, 13)]
                expected += np.random.choice(names, 10, replace=False).tolist()  # noqa: NPY002
    np.random.set_state(state)  # noqa: NPY002
    assert drawn_paths(protocol("sysu-indoor-multi"), 3, sysu_test(12)) == expected


def test_fewer_than_ten_images_are_all_taken() -> None:
    paths = drawn_paths(protocol("sysu-indoor-multi"), 0, sysu_test(4))
    assert len(paths) == len(set(paths)) == 5 * 4


def test_the_official_draw_goes_camera_by_camera_with_the_fixed_seed() -> None:
    one = official("official-mip-all-multi")
    assert one.seeds == (1221,)
    rng = random.Random(1221)
    expected = []
    for camera in (1, 2, 4, 5):
        for identity in ("0006", "0010", "0027"):
            if (camera, identity) == (2, "0027"):
                continue
            files = [f"visible/cam{camera}/{identity}/{n:04d}.jpg" for n in range(1, 13)]
            for _ in range(10):
                expected.append(files.pop(files.index(rng.choice(files))))
    assert drawn_paths(one, 1221, sysu_test(12)) == expected
    seeds = {one.name[13:]: one.seeds for one in protocols_of("sysu") if not one.standard}
    assert seeds["all-single"] == (254,)
    assert seeds["indoor-single"] == seeds["indoor-multi"] == (2936,)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_a_draw_does_not_depend_on_the_order_of_the_samples(seed: int, rng: random.Random) -> None:
    samples = sysu_test(3)
    shuffled = rng.sample(samples, len(samples))
    for one in protocols_of("sysu"):
        paths = drawn_paths(one, seed, samples)
        assert paths == drawn_paths(one, seed, shuffled)
        assert len(paths) == len(set(paths))
        assert all(path.startswith("visible/") for path in paths)


def test_every_infrared_image_is_a_query_of_sysu() -> None:
    samples = sysu_test(2)
    rows = protocol("sysu-indoor-single").trial(0, samples, samples).queries
    assert [samples[row].camera for row in rows].count("cam3") == 6
    assert [samples[row].camera for row in rows].count("cam6") == 6


def test_a_camera_3_query_skips_every_image_of_camera_2_and_no_other() -> None:
    queries = [image("cam3", "a", 1), image("cam6", "a", 1)]
    gallery = [image("cam2", "b", 1), image("cam2", "a", 1), image("cam1", "a", 1)]
    # camera 3 sees cam1 alone, its own person; camera 6 sees b first, then a
    distances = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
    one = replace(protocol("sysu-all-single"), draw=None, seeds=(0,))
    (ranking,) = score_distances(one, distances, queries, gallery).rankings
    assert ranking.rank1 == 1 / 2
    assert ranking.mAP == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    # the published MIP code lets camera 3 meet camera 2
    theirs = replace(official("official-mip-all-single"), draw=None, seeds=(0,))
    (ranking,) = score_distances(theirs, distances, queries, gallery).rankings
    assert ranking.rank1 == 0.0


def test_llcm_skips_the_query_s_own_person_in_its_own_camera() -> None:
    queries = [image("cam1", "a", 1, INFRARED)]
    gallery = [image(camera, who, 1, VISIBLE) for camera, who in (("cam1", "a"), ("cam1", "b"))]
    gallery += [image("cam3", "a", 1, VISIBLE)]
    one = protocol("llcm-infrared-to-visible")
    (ranking,) = score_distances(
        one.with_trials(1), np.array([[0.1, 0.2, 0.3]]), queries, gallery
    ).rankings
    assert (ranking.rank1, ranking.mAP) == (0.0, 1 / 2)


def test_both_readings_of_llcm_visible_to_infrared() -> None:
    samples = [
        image(f"cam{camera}", identity, number, light)
        for light in (INFRARED, VISIBLE)
        for identity in ("0001", "0002")
        for camera in (1, 2)
        for number in (1, 2, 3)
    ]
    as_named = protocol("llcm-visible-to-infrared").trial(4, samples, samples)
    swapped = protocol("llcm-visible-to-infrared-transposed").trial(4, samples, samples)
    rng = random.Random(4)
    expected = [
        f"infrared/cam{camera}/{identity}/{rng.choice((1, 2, 3)):04d}.jpg"
        for identity in ("0001", "0002")
        for camera in (1, 2)
    ]
    assert [samples[row].path.as_posix() for row in as_named.gallery] == expected
    np.testing.assert_array_equal(as_named.gallery, swapped.queries)
    assert {samples[row].modality for row in as_named.queries} == {VISIBLE}
    np.testing.assert_array_equal(as_named.queries, swapped.gallery)
    assert len(as_named.queries) == 12


@pytest.fixture(scope="module")
def reference() -> dict[str, NDArray[Any]]:
    with np.load(DATA / "metrics_reference.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("official", "official-mip-all-single"),
        ("agw_sysu", "sysu-all-single"),
        ("agw_regdb", "regdb-infrared-to-visible"),
        ("llcm", "llcm-infrared-to-visible"),
    ],
)
def test_a_protocol_equals_its_public_evaluator(
    reference: dict[str, NDArray[Any]], name: str, chosen: str
) -> None:
    one = official(chosen) if name == "official" else protocol(chosen)
    # no camera of the file is in both modalities, so for LLCM's evaluator alone they were folded
    query_cameras = reference["m_qc"] % 4 if name == "llcm" else reference["m_qc"]
    queries = [
        image(f"cam{camera}", str(identity), row, INFRARED)
        for row, (camera, identity) in enumerate(zip(query_cameras, reference["m_qp"], strict=True))
    ]
    gallery = [
        image(f"cam{camera}", str(identity), row, VISIBLE)
        for row, (camera, identity) in enumerate(
            zip(reference["m_gc"], reference["m_gp"], strict=True)
        )
    ]
    # the file is one trial, drawn already
    one = replace(one, draw=None, seeds=(0,))
    (ranking,) = score_distances(one, reference["m_dist"], queries, gallery).rankings
    expected = reference[f"m_{name}_cmc"]
    assert ranking.cmc is not None
    np.testing.assert_array_equal(ranking.cmc[: len(expected)].astype(np.float32), expected)
    averages = reference[f"m_{name}_map_minp"]
    scores = [ranking.mAP, ranking.mINP][: len(averages)]
    np.testing.assert_allclose(scores, averages, rtol=0, atol=1e-15)


def test_mean_and_sample_deviation_are_those_of_the_trials() -> None:
    samples = sysu_test(3)
    embeddings = unit(len(samples))
    result = score(protocol("sysu-all-single"), embeddings, samples, embeddings, samples)
    assert result.runs == tuple(f"seed {seed}" for seed in range(10))
    values = [ranking.mAP for ranking in result.rankings]
    assert len(set(values)) > 1
    middle = sum(values) / 10
    deviation = result.deviation()
    assert deviation is not None
    assert result.mean()["mAP"] == pytest.approx(middle)
    spread = sum((value - middle) ** 2 for value in values) / 9
    assert deviation["mAP"] == pytest.approx(spread**0.5)
    once = score(
        protocol("sysu-all-single").with_trials(1), embeddings, samples, embeddings, samples
    )
    assert once.deviation() is None
    assert once.rankings[0] == result.rankings[0]


def test_each_trial_is_the_ranking_of_its_own_rows() -> None:
    samples = sysu_test(3)
    embeddings = unit(len(samples))
    for one in choose_protocols("sysu", ["official-mip"], trials=2):
        result = score(one, embeddings, samples, embeddings, samples)
        for seed, ranking in zip(one.seeds, result.rankings, strict=True):
            trial = one.trial(seed, samples, samples)
            queries = [samples[row] for row in trial.queries]
            gallery = [samples[row] for row in trial.gallery]
            skip = one.standard
            excluded = [
                [skip and a.camera == "cam3" and b.camera == "cam2" for b in gallery]
                for a in queries
            ]
            alone = evaluate_ranking(
                -(embeddings[trial.queries] @ embeddings[trial.gallery].T),
                [sample.identity for sample in queries],
                [sample.identity for sample in gallery],
                excluded=excluded,
                distinct_identities=one.standard,
            )
            assert ranking == alone


def test_one_list_serves_both_directions_without_working_twice() -> None:
    samples = [image("thermal", f"{n}", n, INFRARED) for n in range(4)]
    samples += [image("visible", f"{n % 4}", n, VISIBLE) for n in range(6)]
    embeddings = unit(10)
    distances = Distances(embeddings, samples, embeddings, samples)
    for one in protocols_of("regdb"):
        assert distances.score(one) == score(one, embeddings, samples, embeddings, list(samples))
    assert np.shares_memory(distances.between(VISIBLE), distances.between(INFRARED))


def test_splits_are_pooled_into_one_mean() -> None:
    samples = [image("thermal", "a", 1, INFRARED), image("thermal", "b", 2, INFRARED)]
    samples += [image("visible", "a", 1, VISIBLE), image("visible", "b", 2, VISIBLE)]
    one = protocol("regdb-infrared-to-visible")
    good = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
    bad = np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]
    results = [score(one, rows, samples, rows, samples) for rows in (good, bad)]
    both = pool(results, ["split 1", "split 2"])
    assert both.runs == ("split 1", "split 2")
    assert both.mean()["rank1"] == 1 / 2
    deviation = both.deviation()
    assert deviation is not None
    assert deviation["rank1"] == pytest.approx(0.5**0.5)


def test_the_official_scoring_comes_with_the_standard_one_beside_it() -> None:
    names = [one.name for one in choose_protocols("sysu", ["official-mip-indoor-multi"])]
    assert names == ["sysu-indoor-multi", "official-mip-indoor-multi"]
    assert len(choose_protocols("sysu", ["official-mip"])) == 8
    assert [one.name for one in choose_protocols("sysu")] == [
        f"sysu-{search}-{shot}" for search in ("all", "indoor") for shot in ("single", "multi")
    ]
    assert len(choose_protocols("llcm")) == 3


def test_what_cannot_be_scored_is_told() -> None:
    with pytest.raises(OptionError, match="'sysu-all' is none of the data set sysu; there are: s"):
        choose_protocols("sysu", ["sysu-all"])
    with pytest.raises(OptionError, match="'official-mip' is none of the data set regdb"):
        choose_protocols("regdb", ["official-mip"])
    with pytest.raises(OptionError, match="--dataset 'market' is unknown"):
        protocols_of("market")
    with pytest.raises(OptionError, match="--trials must be at least 1, got 0"):
        choose_protocols("sysu", trials=0)
    indoor = [sample for sample in sysu_test(1) if sample.camera in ("cam3", "cam4")]
    rows = unit(len(indoor))
    with pytest.raises(DatasetError, match="gallery part has no visible images of cam1, cam2"):
        score(protocol("sysu-indoor-single"), rows, indoor, rows, indoor)
    with pytest.raises(OptionError, match="5 query embeddings for 6 samples"):
        score(protocol("sysu-indoor-single"), rows[:5], indoor, rows, indoor)
    nameless = [Sample(Path("a.jpg"), "a", light) for light in Modality]
    with pytest.raises(DatasetError, match=r"a\.jpg has no camera"):
        score(protocol("llcm-infrared-to-visible"), unit(2), nameless, unit(2), nameless)
    with pytest.raises(OptionError, match=r"shape \(1, 2\); the samples need \(2, 2\)"):
        score_distances(
            protocol("folder-infrared-to-visible"), np.zeros((1, 2)), nameless, nameless
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans())
def test_float32_distances_rank_as_the_same_ones_in_float64(
    seed: int, distinct: bool, exclude: bool
) -> None:
    rng = np.random.default_rng(seed)
    # few values, both zeros and both signs: ties everywhere
    distances = rng.choice(np.array([-1.5, -1e-30, -0.0, 0.0, 1e-30, 2.0], np.float32), (9, 14))
    gallery = rng.integers(0, 4, 14)
    queries = rng.choice(gallery, 9)
    excluded = rng.random((9, 14)) < 0.3
    excluded[0] = False
    narrow, wide = (
        evaluate_ranking(
            table,
            queries,
            gallery,
            excluded=excluded if exclude else None,
            distinct_identities=distinct,
        )
        for table in (distances, distances.astype(np.float64))
    )
    assert narrow == wide
    np.testing.assert_array_equal(narrow.cmc, wide.cmc)


def test_ten_trials_at_the_size_of_sysu_take_under_ten_seconds() -> None:
    # 3,840 queries and 384 gallery images a trial: under a second where nothing else runs
    samples = [
        image(camera, f"{identity:04d}", number)
        for camera in ("cam1", "cam2", "cam4", "cam5", "cam3", "cam6")
        for identity in range(1, 97)
        for number in range(20)
    ]
    embeddings = unit(len(samples))
    started = time.process_time()
    result = score(protocol("sysu-all-single"), embeddings, samples, embeddings, samples)
    assert time.process_time() - started < 10
    assert result.mean()["queries"] == 3840
    assert result.mean()["gallery"] == 384
