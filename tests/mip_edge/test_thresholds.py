"""Thresholds learnt at a false-accept rate: on whom, how they compare, and what a bundle keeps."""

from __future__ import annotations

import itertools
import json
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.plan import graph_digest
from engines.table import AUTO, settle
from mip_edge.artifact import Bundle, open_bundle
from mip_edge.cli import cli
from mip_edge.data.folder import read_folder, split_validation
from mip_edge.embedder import Embedder
from mip_edge.errors import BundleError, DatasetError, OptionError, OutputError
from mip_edge.manifest import parse_manifest
from mip_edge.open_set import accepted_share
from mip_edge.spec import Modality
from mip_edge.synthetic.world import DatasetOptions, write_dataset
from mip_edge.thresholding.calibrate import PeopleOptions, calibrate_thresholds
from mip_edge.thresholding.learning import (
    Learning,
    LearningOptions,
    check_far,
    learn_thresholds,
    rounded_up,
)
from mip_edge.thresholding.people import choose_people
from mip_edge.thresholding.tracklet import Comparisons, compare_tracklets
from mip_edge.thresholds import ModalityPair, Thresholds
from tests.engines.layouts import write_negated

VISIBLE, INFRARED = Modality.VISIBLE, Modality.INFRARED
BOTH = ModalityPair.VISIBLE_VISIBLE
FIRST = LearningOptions(far=0.1, rounds=2, bootstrap=20)


def compare(
    rows: Sequence[tuple[Sequence[float], int, Modality, str]],
    *,
    crops: int = 1,
    prototypes: int = 8,
    rounds: int = 1,
) -> dict[ModalityPair, Comparisons]:
    """Rows of direction, person, light and session, compared."""
    vectors = np.array([row[0] for row in rows], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return compare_tracklets(
        vectors,
        np.array([row[1] for row in rows]),
        [row[2] for row in rows],
        [row[3] for row in rows],
        crops=crops,
        prototypes=prototypes,
        rounds=rounds,
        rng=np.random.default_rng(0),
    )[0]


# Anna (0) and Bert (1), each seen by two visible cameras and an infrared one.
WORLD = [
    ([1, 0, 0], 0, VISIBLE, "gate"),
    ([4, 3, 0], 0, VISIBLE, "hall"),
    ([0, 1, 0], 1, VISIBLE, "gate"),
    ([0, 4, 3], 1, VISIBLE, "hall"),
    ([1, 0, 0], 0, INFRARED, "yard"),
    ([0, 0, 1], 1, INFRARED, "yard"),
]


def test_two_people_by_hand() -> None:
    found = compare(WORLD)
    visible = found[BOTH]
    # Anna's two views meet each other (4/5), and so do Bert's (4/5); never a camera itself
    assert visible.genuine == pytest.approx([4 / 5] * 4)
    # gate Anna against the best of Bert: 0; hall Anna: 3/5; gate Bert: 3/5; hall Bert: 12/25
    assert sorted(visible.impostor.tolist()) == pytest.approx([0, 12 / 25, 3 / 5, 3 / 5])
    assert visible.genuine_from == "across sessions"
    across = found[ModalityPair.VISIBLE_INFRARED]
    # infrared Anna meets the best of her visible views (1), Bert his (3/5); and the reverse
    assert sorted(across.genuine.tolist()) == pytest.approx([0, 3 / 5, 3 / 5, 4 / 5, 1, 1])
    assert across.impostors_a_round == 6


def test_near_duplicates_of_one_camera_never_meet() -> None:
    twice = [*WORLD, *WORLD]  # each crop has a copy in its own camera
    visible = compare(twice)[BOTH]
    assert visible.genuine.max() == pytest.approx(4 / 5)
    assert (visible.crops, visible.prototypes) == (1.0, 4.0)


def test_where_cameras_are_not_known_no_crop_meets_itself_and_it_is_said() -> None:
    unknown = [(vector, person, light, "") for vector, person, light, _ in WORLD]
    visible = compare(unknown)[BOTH]
    assert visible.genuine == pytest.approx([4 / 5] * 2)
    assert visible.genuine_from == "within a session"


def test_a_person_with_one_crop_of_a_light_has_no_genuine_pair_in_it() -> None:
    infrared = compare(WORLD)[ModalityPair.INFRARED_INFRARED]
    assert (len(infrared.genuine), infrared.genuine_from) == (0, "none")
    assert infrared.impostor == pytest.approx([0, 0])


def test_a_query_is_the_mean_of_its_crops() -> None:
    rows = [
        ([1, 0], 0, VISIBLE, "gate"),
        ([0, 1], 0, VISIBLE, "gate"),
        ([1, 0], 1, VISIBLE, "gate"),
        ([1, 0], 0, INFRARED, "yard"),
        ([1, 0], 1, INFRARED, "yard"),
    ]
    across = compare(rows, crops=2)[ModalityPair.VISIBLE_INFRARED]
    # Anna's visible mean is the diagonal: 1/sqrt(2) from every infrared crop, and they from it
    assert sorted(across.impostor.tolist()) == pytest.approx([0.5**0.5, 0.5**0.5, 1, 1])


def crowd(
    people: int, crops: int = 8, *, spread: float = 1.0, seed: int = 0
) -> NDArray[np.float32]:
    """Embeddings of `people` x two lights x `crops`, in that order."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(people, 1, 1, 16))
    noise = spread * rng.normal(size=(people, 2, crops, 16))
    vectors = (centre + noise).reshape(-1, 16)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def learn(
    embeddings: NDArray[np.float32],
    options: LearningOptions = FIRST,
    *,
    people: int,
    crops: int = 8,
) -> Learning:
    names = np.repeat([f"{number:03d}" for number in range(people)], 2 * crops).tolist()
    lights = ([VISIBLE] * crops + [INFRARED] * crops) * people
    sessions = [f"camera {number % 2}" for number in range(len(names))]
    return learn_thresholds(embeddings, names, lights, sessions, options)


def test_the_rate_holds_after_rounding_and_the_interval_holds_the_threshold() -> None:
    found = learn(crowd(30), LearningOptions(far=0.02), people=30)
    for one in found.pairs.values():
        assert 0.019 < one.far <= 0.02
        assert one.threshold_low <= one.threshold <= one.threshold_high
        assert one.tar is not None
        assert one.tar_low is not None
        assert one.tar_low <= one.tar <= 1
        assert one.threshold == round(one.threshold, 6)


def test_a_smaller_rate_never_lowers_a_threshold() -> None:
    thresholds = [
        [
            one.threshold
            for one in learn(crowd(20), replace(FIRST, far=far), people=20).pairs.values()
        ]
        for far in (0.2, 0.1, 0.05, 0.01)
    ]
    for looser, stricter in itertools.pairwise(thresholds):
        assert all(low <= high for low, high in zip(looser, stricter, strict=True))


def test_more_prototypes_need_a_higher_threshold() -> None:
    embeddings = crowd(30, spread=2.0)
    one, eight = (
        learn(embeddings, replace(FIRST, crops_per_query=1, prototypes=count), people=30)
        for count in (2, 8)
    )
    for pair in ModalityPair:
        assert eight.pairs[pair].threshold > one.pairs[pair].threshold + 0.05


def test_one_seed_gives_one_answer() -> None:
    assert learn(crowd(12), people=12) == learn(crowd(12), people=12)
    other = learn(crowd(12), replace(FIRST, seed=1), people=12)
    assert other.pairs != learn(crowd(12), people=12).pairs


def test_intervals_are_of_people_and_not_of_comparisons() -> None:
    # Two near-twins among strangers at right angles decide the threshold alone: a resample of the
    # people holds both or not, one of the thousands of comparisons would always hold some.
    centres = np.eye(16, dtype=np.float32)
    centres[1] = centres[0] + 0.2 * centres[1]
    vectors = np.repeat(centres / np.linalg.norm(centres, axis=1, keepdims=True), 8, axis=0)
    # 4 of 480 comparisons are of the twins
    found = learn(vectors, LearningOptions(far=0.005, crops_per_query=1), people=16, crops=4)
    visible = found.pairs[BOTH]
    assert visible.threshold > 0.98
    assert visible.threshold_low < 0.21
    assert visible.threshold_high >= visible.threshold


def test_few_people_are_told_with_the_rate_that_they_can_tell() -> None:
    found = learn(crowd(10), LearningOptions(far=0.02, bootstrap=5), people=10)
    # 10 people in two sessions meet 9 others: 180 comparisons in a light, 360 across
    line = found.warnings[0]
    assert "FAR 0.02 cannot be told for visible-visible, infrared-infrared" in line
    assert "180 comparisons of two people, 500 are needed. They tell FAR 0.056" in line


def test_a_rate_below_one_of_all_comparisons_is_refused_with_both_ways_out() -> None:
    # however often two people pass, they are 2 comparisons of one person with another
    with pytest.raises(DatasetError) as caught:
        learn(crowd(2, 40), LearningOptions(far=0.001), people=2, crops=40)
    assert str(caught.value) == (
        "--far 0.001 cannot be learnt for visible-visible, infrared-infrared, visible-infrared: "
        "there are 2 comparisons of one person with another, of which a single false accept is a "
        "share of 0.5. Give at least 33 people, seen in both lights, or take --far 0.5 or more"
    )


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 40), st.floats(0.0005, 0.4))
def test_what_a_refusal_advises_is_never_refused(
    visible: int, infrared: int, both: int, far: float
) -> None:
    def check(visible: int, infrared: int, both: int, far: float) -> None:
        both = min(both, visible, infrared)
        seen = [(f"{number}", VISIBLE) for number in range(visible)]
        seen += [(f"{number + visible - both}", INFRARED) for number in range(infrared)]
        check_far([name for name, _ in seen], [light for _, light in seen], far)

    try:
        check(visible, infrared, both, far)
    except DatasetError as error:
        found = re.search(r"at least (\d+) people.* --far ([\d.e-]+) or more$", str(error))
        assert found is not None
        check(visible, infrared, both, float(found[2]))
        people = int(found[1])
        check(people, people, people, far)
        assert people * (people - 1) >= 1 / far > (people - 1) * (people - 2)


def test_people_seen_in_one_light_alone_are_counted_by_pair() -> None:
    # 3 visible and 2 infrared people, one of them in both: 6, 2 and 3 x 2 - 1 = 5 comparisons
    names = ["a", "b", "c", "c", "d"]
    lights = [VISIBLE] * 3 + [INFRARED] * 2
    check_far(names, lights, 0.5)
    with pytest.raises(DatasetError, match="for infrared-infrared: there are 2 comparisons"):
        check_far(names, lights, 0.2)
    with pytest.raises(DatasetError, match="for infrared-infrared, visible-infrared: there are 2"):
        check_far(names, lights, 0.19)


def test_one_threshold_for_all_is_told_with_the_rate_of_each_pair() -> None:
    embeddings = crowd(30)
    lights = np.tile(np.repeat([0, 1], 8), 30)
    # infrared crops resemble each other: all share a direction
    embeddings[lights == 1] += 0.5 * np.eye(16, dtype=np.float32)[0]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    found = learn(embeddings, people=30)
    infrared, visible = ModalityPair.INFRARED_INFRARED, ModalityPair.VISIBLE_VISIBLE
    assert found.pairs[infrared].threshold > found.pairs[visible].threshold
    assert found.single.far[infrared] > 0.1 > found.single.far[visible]
    assert 0.1 < found.strangers <= 1
    assert found.enrolled == 29


def test_two_people_of_one_embedding_have_no_threshold() -> None:
    same = np.tile(crowd(1, 1)[:1], (2 * 2 * 4, 1))
    with pytest.raises(DatasetError, match="two people have embeddings of cosine 1"):
        learn(same, replace(FIRST, far=0.5), people=2, crops=4)


def test_a_light_with_one_person_is_refused() -> None:
    with pytest.raises(DatasetError, match="1 people are seen in infrared light"):
        learn_thresholds(
            crowd(2, 1)[:3], ["a", "b", "a"], [VISIBLE, VISIBLE, INFRARED], [""] * 3, FIRST
        )


def test_a_written_threshold_is_never_below_the_learnt_one() -> None:
    assert rounded_up(0.1234561) == 0.123457
    assert rounded_up(0.5) == 0.5
    impostor = np.float32(0.7)
    assert accepted_share([impostor], rounded_up(float(np.nextafter(impostor, np.float32(1))))) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"far": 0.0}, "--far must lie between 0 and 1, got 0.0"),
        ({"crops_per_query": 0}, "--crops-per-query must be at least 1, got 0"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
    ],
)
def test_options_are_checked_by_their_flags(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        LearningOptions(**wrong)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training people and four others, four crops in each light; not to be changed."""
    folder = tmp_path_factory.mktemp("thresholds") / "people"
    write_dataset(folder, DatasetOptions(8, 4, 4, 2, (64, 32)))
    return folder


def trained_on(bundle: Path, data: Path, **told: object) -> Bundle:
    """The bundle as if its model had learned from a draw of `data` with seed 5."""
    kept = split_validation(
        read_folder(data, ("train",)).train, 0.5, np.random.default_rng(5)
    ).train
    record = {
        "dataset": "folder",
        "folder": "people",
        "crops": len(kept),
        "identities": len({sample.identity for sample in kept}),
    }
    training = {
        "data": {**record, **told},
        "options": {"seed": 5, "validation_share": 0.5},
        "selected_by": "validation",
    }
    opened = open_bundle(bundle)
    return Bundle(opened.path, replace(opened.manifest, provenance={"training": training}))


def test_thresholds_never_see_the_people_the_model_learned_from(
    tiny_bundle: Path, data: Path
) -> None:
    people = choose_people(trained_on(tiny_bundle, data), data)
    split = split_validation(read_folder(data, ("train",)).train, 0.5, np.random.default_rng(5))
    learned = {sample.identity for sample in split.train}
    chosen = {sample.identity for sample in people.samples}
    assert len(chosen) == len(learned) == 4
    assert not chosen & learned
    assert people.held_out == people.record["held_out"] == "by provenance"


def test_data_that_were_not_those_of_the_training_are_refused(
    tiny_bundle: Path, data: Path
) -> None:
    other = trained_on(tiny_bundle, data, crops=99)
    with pytest.raises(
        DatasetError, match=r"4 people on 99 crops of people.*leaves 4 on 32.*--nev"
    ):
        choose_people(other, data)
    assert len({one.identity for one in choose_people(other, data, never_seen=True).samples}) == 8


def test_files_that_are_no_images_are_told_once(
    tiny_bundle: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "people"
    shutil.copytree(data, folder)
    (folder / "train" / "visible" / "notes.txt").touch()
    bundle = trained_on(tiny_bundle, folder)
    caplog.clear()
    choose_people(bundle, folder)
    assert caplog.text.count("1 other files") == 1


def test_a_bundle_that_does_not_say_whom_it_knows_needs_somebody_to_say_so(
    tiny_bundle: Path, data: Path
) -> None:
    bundle = open_bundle(tiny_bundle)
    with pytest.raises(DatasetError, match="does not say which people.*--never-seen.*--part test"):
        choose_people(bundle, data)
    assert choose_people(bundle, data, never_seen=True).held_out == "as stated"
    test = choose_people(bundle, data, part="test")
    assert test.held_out == "by the data set"
    assert set(test.sessions) == {"query", "gallery"}


def test_a_stated_stranger_who_looks_like_a_training_person_is_warned_of(
    tiny_bundle: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    choose_people(trained_on(tiny_bundle, data), data, never_seen=True)
    assert "if they are the same, these thresholds are wrong" in caplog.text


SMALL = LearningOptions(far=0.2, rounds=1, bootstrap=3)
STATED = PeopleOptions(never_seen=True)


@pytest.fixture(scope="module")
def calibrated(tiny_bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundle with thresholds; not to be changed."""
    target = tmp_path_factory.mktemp("calibrated") / "bundle"
    calibrate_thresholds(tiny_bundle, data, SMALL, STATED, output=target)
    return target


def test_all_else_in_the_bundle_stays_to_the_byte(tiny_bundle: Path, calibrated: Path) -> None:
    before, after = open_bundle(tiny_bundle), open_bundle(calibrated)
    new = {path.name for path in calibrated.iterdir()} - {
        path.name for path in tiny_bundle.iterdir()
    }
    assert new == {"thresholds.json", "thresholds.png"}
    for path in tiny_bundle.iterdir():
        if path.name != "manifest.json":
            assert (calibrated / path.name).read_bytes() == path.read_bytes()
    assert set(after.manifest.files) - set(before.manifest.files) == new
    same = replace(after.manifest, learnt=None, files=before.manifest.files)
    assert same == before.manifest
    for modality in Modality:
        graphs = before.graph_path(modality), after.graph_path(modality)
        assert graph_digest(before, graphs[0]) == graph_digest(after, graphs[1])


def test_a_rate_that_cannot_be_learnt_is_refused_before_anything_is_embedded_or_written(
    tiny_bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("embedded for nothing")

    monkeypatch.setattr("mip_edge.thresholding.calibrate.embed_samples", never)
    call = ["calibrate-thresholds", str(tiny_bundle), str(data), "--never-seen"]
    done = CliRunner().invoke(cli, [*call, "-o", str(tmp_path / "bundle")])
    assert done.exit_code == 1
    # 8 people are 8 x 7 comparisons
    (line,) = done.stderr.splitlines()
    assert "--far 0.001 cannot be learnt" in line
    assert line.endswith("or take --far 0.018 or more")
    assert list(tmp_path.iterdir()) == []


def test_thresholds_let_a_measured_choice_stand(
    tiny_bundle: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = write_negated(tiny_bundle, tmp_path / "bundle")  # with a second precision
    taken = settle(open_bundle(bundle), "onnxruntime", AUTO, threads=1)
    calibrate_thresholds(bundle, data, SMALL, STATED)
    with caplog.at_level(logging.INFO, logger="engines.choice"):
        assert settle(open_bundle(bundle), "onnxruntime", AUTO, threads=1) == taken
    assert "measured before" in caplog.text


def test_an_embedder_has_the_thresholds_of_its_bundle(tiny_bundle: Path, calibrated: Path) -> None:
    learnt = open_bundle(calibrated).manifest.learnt
    assert learnt is not None
    with Embedder.open(calibrated) as embedder:
        thresholds = embedder.thresholds
    assert isinstance(thresholds, Thresholds)
    assert thresholds.far == 0.2
    assert thresholds.of(VISIBLE, INFRARED) == learnt.pairs[ModalityPair.VISIBLE_INFRARED].threshold
    assert thresholds.origin == "learnt at FAR 0.2 on 8 people of people"
    with Embedder.open(tiny_bundle) as embedder:
        assert embedder.thresholds is None


def test_equal_calibrations_are_equal_to_the_byte(
    tiny_bundle: Path, data: Path, calibrated: Path, tmp_path: Path
) -> None:
    calibrate_thresholds(tiny_bundle, data, SMALL, STATED, output=tmp_path / "again")
    for path in calibrated.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_in_place_a_bundle_keeps_what_else_lies_there_and_is_asked_for_once(
    tiny_bundle: Path, data: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    (bundle / "notes.txt").write_text("mine")
    (bundle / "photos").mkdir()
    calibrate_thresholds(bundle, data, SMALL, STATED)
    assert open_bundle(bundle).manifest.learnt is not None
    assert (bundle / "notes.txt").read_text() == "mine"
    assert (bundle / "photos").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    with pytest.raises(OutputError, match="learnt at FAR 0.2 on 8 people of people; add --overwri"):
        calibrate_thresholds(bundle, data, SMALL, STATED)
    calibrate_thresholds(bundle, data, replace(SMALL, far=0.3), STATED, overwrite=True)
    again = open_bundle(bundle).manifest.learnt
    assert again is not None
    assert again.far == 0.3


def test_a_failure_leaves_the_bundle_as_it_was(
    tiny_bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mip_edge.thresholding.calibrate.draw_thresholds", fail)
    with pytest.raises(OutputError, match="No space left"):
        calibrate_thresholds(bundle, data, SMALL, STATED)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_manifest_with_thresholds_but_without_their_curves_is_refused(calibrated: Path) -> None:
    manifest = open_bundle(calibrated).manifest
    files = {name: one for name, one in manifest.files.items() if name != "thresholds.json"}
    content = replace(manifest, files=files).to_json().encode()
    with pytest.raises(BundleError, match=r"thresholds.json is not among its files"):
        parse_manifest(content, calibrated / "manifest.json")
    assert parse_manifest(manifest.to_json().encode(), calibrated) == manifest


def test_the_command_learns_verifies_and_shows(
    tiny_bundle: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    target = tmp_path / "bundle"
    call = ["calibrate-thresholds", str(tiny_bundle), str(data), "--far", "0.2", "--never-seen"]
    call += ["--rounds", "1", "--bootstrap", "3", "-o", str(target)]
    done = CliRunner().invoke(cli, [*call, "--json"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    stored = json.loads((target / "thresholds.json").read_text())
    assert figures.pop("bundle") == str(target)
    assert figures.pop("min_similarity") == 0.5
    assert figures == stored
    assert stored["data"]["folder"] == "people"
    assert (target / "thresholds.png").read_bytes().startswith(b"\x89PNG")
    assert "fewer crops than a live run would have" in "".join(stored["warnings"])
    again = CliRunner().invoke(cli, call)
    assert (again.exit_code, "--overwrite" in again.stderr) == (1, True)
    table = CliRunner().invoke(cli, [*call, "--overwrite"]).stdout
    shown = CliRunner().invoke(cli, ["bundle", "show", str(target)]).stdout
    for pair, one in figures["pairs"].items():
        assert f"{one['threshold']:.3f}" in next(
            line for line in table.splitlines() if line.startswith(pair)
        )
        assert f"{pair} from cosine {one['threshold']:.3f}" in shown
    assert CliRunner().invoke(cli, ["bundle", "verify", str(target)]).exit_code == 0
