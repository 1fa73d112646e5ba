"""`mip-edge gallery`: a person is enrolled, found, merged, split, exported and forgotten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.cli import cli
from mip_edge.errors import GalleryError
from mip_edge.gallery.memory import MemoryGallery
from mip_edge.gallery.portable import export_gallery, import_gallery
from mip_edge.gallery.sqlite import SqliteGallery, open_gallery
from mip_edge.gallery_benchmark import People, measure_gallery
from mip_edge.spec import Modality


def run(*words: object, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["gallery", *map(str, words)])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(scope="module")
def enrolled(
    tiny_bundle: Path, calibration_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Ada by three visible crops, Bob by one in each light; not to be changed."""
    path = tmp_path_factory.mktemp("gallery") / "people.gallery"
    visible = sorted((calibration_folder / "visible").iterdir())
    infrared = sorted((calibration_folder / "infrared").iterdir())
    light = ("--modality", "visible")
    run("enroll", path, tiny_bundle, *visible[:3], *light, "--label", "Ada", "--thumbnails")
    run("enroll", path, tiny_bundle, visible[3], *light, "--label", "Bob")
    done = run(
        *("enroll", path, tiny_bundle, infrared[3], "--modality", "infrared"),
        *("--label", "Bob", "--json"),
    )
    assert json.loads(done.stdout) == {
        "identity": 2,
        "label": "Bob",
        "images": 1,
        "embeddings": 2,
        "new": False,
    }
    return path


@pytest.fixture
def people(enrolled: Path, tmp_path: Path) -> Path:
    """A copy of `enrolled` to be changed."""
    return Path(shutil.copy(enrolled, tmp_path / "people.gallery"))


def test_list_names_people_cameras_and_times(enrolled: Path) -> None:
    known = json.loads(run("list", enrolled, "--json").stdout)["identities"]
    assert [(p["identity"], p["label"], p["embeddings"]) for p in known] == [
        (1, "Ada", 3),
        (2, "Bob", 2),
    ]
    lines = run("list", enrolled).stdout.splitlines()
    assert lines[0].split()[:4] == ["1", "Ada", "3", "embeddings"]
    assert lines[0].endswith("Z  enrolled")
    assert lines[-1].startswith("2 identities, 5 embeddings of ")


def test_show_names_tracklets_and_writes_the_kept_picture(enrolled: Path, tmp_path: Path) -> None:
    shown = run("show", enrolled, 1, "--thumbnails", tmp_path / "faces").stdout
    assert shown.startswith("identity 1 Ada\n  enrolled/")
    assert shown.rstrip().endswith("faces: 1 picture")
    assert (tmp_path / "faces" / "001.jpg").read_bytes()[:2] == b"\xff\xd8"
    lights = json.loads(run("show", enrolled, 2, "--json").stdout)["tracklets"]
    assert [t["modalities"] for t in lights] == [["visible"], ["infrared"]]


def test_search_finds_an_enrolled_crop_beside_pair_and_threshold(
    enrolled: Path, tiny_bundle: Path, calibration_folder: Path
) -> None:
    image = sorted((calibration_folder / "visible").iterdir())[1]
    words = ("search", enrolled, tiny_bundle, image, "--modality", "visible")
    (answer,) = json.loads(run(*words, "--json").stdout)
    best, cross = answer["hits"][0], [h for h in answer["hits"] if h["pair"] != "visible-visible"]
    assert (best["identity"], best["label"], best["pair"]) == (1, "Ada", "visible-visible")
    assert best["similarity"] == pytest.approx(1, abs=1e-3)
    assert (best["threshold"], best["same"]) == (0.5, True), "the threshold of the bundle"
    assert [(h["identity"], h["pair"]) for h in cross] == [(2, "visible-infrared")]
    assert "Ada" in run(*words).stdout.splitlines()[1]


def test_a_merge_is_undone_by_split(people: Path) -> None:
    assert json.loads(run("merge", people, 2, 1, "--json").stdout) == {
        "merge": 1,
        "identity": 2,
        "into": 1,
    }
    assert "merge 1: identity 2 came in" in run("show", people, 2).stdout
    run("split", people, "--merge", 1)
    assert run("list", people).stdout.count("embeddings  ") == 2
    done = run("split", people, "--merge", 1, code=1)
    assert "cannot be undone" in done.output
    assert run("split", people, code=2).output.rstrip().endswith("--merge N.")


def test_split_takes_a_tracklet_away(people: Path) -> None:
    with open_gallery(people) as gallery:
        name = gallery.tracklets(2)[1].tracklet
    new = json.loads(run("split", people, 2, name, "--json").stdout)["identity"]
    with open_gallery(people) as gallery:
        assert [t.tracklet for t in gallery.tracklets(new)] == [name]


def test_forget_asks_for_yes_and_then_removes(people: Path) -> None:
    assert "--yes" in run("forget", people, 1, code=2).output
    assert run("forget", people, "--label", "Bob", "--yes").stdout == "forgotten: 2\n"
    assert "nobody" in run("forget", people, "--label", "Bob", "--yes", code=1).output
    run("forget", people, 1, "--yes")
    assert run("list", people).stdout.startswith("0 identities")
    assert b"Ada" not in people.read_bytes()


def test_prune_keeps_who_has_a_label(people: Path) -> None:
    with open_gallery(people) as gallery:
        gallery.label(2, "")
    done = json.loads(run("prune", people, "--max-identities", 0, "--json").stdout)
    assert done == {"gone": [2], "embeddings": 3}


def test_an_export_travels_and_is_renumbered_where_it_comes_in(
    people: Path, tmp_path: Path
) -> None:
    out = tmp_path / "people.npz"
    run("export", people, "-o", out)
    assert "--overwrite" in run("export", people, "-o", out, code=1).output
    fresh = run("import", tmp_path / "fresh.gallery", out)
    assert fresh.stdout.startswith("1 is 1 here\n2 is 2 here\n")
    with open_gallery(people) as gallery:
        names = [one.tracklet for who in (1, 2) for one in gallery.tracklets(who)]
    with open_gallery(tmp_path / "fresh.gallery") as gallery:
        assert [one.tracklet for who in (1, 2) for one in gallery.tracklets(who)] == names
        assert gallery.labels() == {1: "Ada", 2: "Bob"}


def test_one_file_imported_twice_doubles_nobody_and_says_so(people: Path, tmp_path: Path) -> None:
    out, fresh = tmp_path / "people.npz", tmp_path / "fresh.gallery"
    run("export", people, "-o", out)
    first = run("import", fresh, out).stdout.splitlines()[-1]
    assert first == f"{fresh}: 2 identities and 5 embeddings came, 5 in all"
    before = run("list", fresh, "--json").stdout
    assert run("import", fresh, out).stdout.splitlines() == [
        "1 is 1 here already",
        "2 is 2 here already",
        f"{fresh}: 0 identities and 0 embeddings came, 5 were there already, 5 in all",
    ]
    assert run("list", fresh, "--json").stdout == before
    assert json.loads(run("import", people, out, "--json").stdout) == {
        "numbers": [{"was": 1, "is": 1}, {"was": 2, "is": 2}],
        "added": 0,
        "left_out": 5,
    }


def test_one_is_one_and_not_many(people: Path) -> None:
    run("forget", people, 1, "--yes")
    with open_gallery(people) as gallery:
        run("split", people, 2, gallery.tracklets(2)[0].tracklet)
    lines = run("list", people).stdout.splitlines()
    assert [line.split()[2:4] for line in lines[:2]] == [["1", "embedding"]] * 2
    assert lines[0].index("202") == lines[1].index("202")
    assert "  1 embedding   202" in run("show", people, 2).stdout
    run("forget", people, 2, "--yes")
    assert run("list", people).stdout.splitlines()[-1].startswith("1 identity, 1 embedding of ")


def gallery_of(*tracklets: tuple[int, str], seed: int = 0) -> MemoryGallery:
    """An embedding of its own for each identity and tracklet, at the time of its place."""
    gallery = MemoryGallery(fingerprint="m", dimension=6)
    numbers: dict[int, int] = {}
    rows = People(6, spread="random", seed=seed).draw(len(tracklets))
    for place, (row, (who, name)) in enumerate(zip(rows, tracklets, strict=True)):
        numbers[who] = gallery.add(
            row,
            identity=numbers.get(who),
            camera="gate",
            modality=Modality.VISIBLE,
            time=float(place),
            tracklet=name,
        )
    return gallery


def held_by(gallery: MemoryGallery) -> dict[int, list[str]]:
    return {
        one.identity: [t.tracklet for t in gallery.tracklets(one.identity)]
        for one in gallery.identities()
    }


def test_what_a_later_export_has_more_of_somebody_joins_whoever_that_is_here(
    tmp_path: Path,
) -> None:
    here = gallery_of((1, "a"), (1, "b"), (2, "c"))
    export_gallery(gallery_of((1, "a"), (1, "b"), (2, "c"), (1, "d"), (3, "e")), tmp_path / "npz")
    done = import_gallery(here, tmp_path / "npz")
    assert (done.numbers, done.known) == ({1: 1, 2: 2, 3: 3}, {1, 2})
    assert (done.added, done.left_out) == (2, 3)
    assert held_by(here) == {1: ["a", "b", "d"], 2: ["c"], 3: ["e"]}


def test_what_a_hand_has_put_right_here_stays_when_the_file_comes_again(tmp_path: Path) -> None:
    here = gallery_of((1, "a"), (1, "b"), (1, "c"), (2, "d"))
    export_gallery(gallery_of((1, "a"), (1, "b"), (1, "c"), (2, "d"), (1, "e")), tmp_path / "npz")
    here.split(1, ["c"])
    here.merge(2, 1)
    here.label(1, "Ada")
    done = import_gallery(here, tmp_path / "npz")
    assert done.numbers == {1: 1, 2: 1}
    assert held_by(here) == {1: ["a", "b", "d", "e"], 3: ["c"]}
    assert here.labels() == {1: "Ada"}


def test_a_second_name_is_not_that_of_another_tracklet_in_the_file(tmp_path: Path) -> None:
    here = gallery_of((1, "a"))
    export_gallery(gallery_of((1, "a"), (2, "a~2"), seed=1), tmp_path / "npz")
    import_gallery(here, tmp_path / "npz")
    assert held_by(here) == {1: ["a"], 2: ["a~3"], 3: ["a~2"]}


def test_somebody_beyond_the_cap_stays_one_and_at_the_cap(tmp_path: Path) -> None:
    there = gallery_of(*((who, f"{who} {place}") for who in (1, 2) for place in range(8)))
    there.merge(2, 1)
    export_gallery(there, tmp_path / "npz")
    here = MemoryGallery(fingerprint="m", dimension=6)
    for _ in range(3):
        assert import_gallery(here, tmp_path / "npz").numbers == {1: 1}
        assert (len(here), list(held_by(here))) == (8, [1])


def test_another_tracklet_of_a_name_that_is_taken_comes_under_another(tmp_path: Path) -> None:
    here = gallery_of((1, "a"), (2, ""))
    export_gallery(gallery_of((1, "a"), (2, ""), seed=1), tmp_path / "npz")
    done = import_gallery(here, tmp_path / "npz")
    assert (done.numbers, done.added, done.left_out) == ({1: 3, 2: 4}, 2, 0)
    assert held_by(here) == {1: ["a"], 2: [""], 3: ["a~2"], 4: [""]}
    done = import_gallery(here, tmp_path / "npz")
    assert (done.numbers, done.added, done.left_out) == ({1: 3, 2: 4}, 0, 2)


def test_the_gallery_of_another_model_is_refused_in_one_line(
    tmp_path: Path, tiny_bundle: Path, calibration_folder: Path
) -> None:
    path = tmp_path / "other.gallery"
    SqliteGallery.open(path, fingerprint="0" * 64, dimension=8).close()
    image = next((calibration_folder / "visible").iterdir())
    for command in ("enroll", "search"):
        done = run(command, path, tiny_bundle, image, "--modality", "visible", code=1)
        assert f"{path} was filled by model 000000000000" in done.output
        assert len(done.output.strip().splitlines()) == 1


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.npz"
    wrong.write_text("nothing")
    refused = run("import", tmp_path / "a", wrong, code=1).output
    assert f"{wrong} is no exported gallery" in refused
    assert "pickle" not in refused  # numpy's advice is to load it unsafely
    np.savez(wrong, version=np.array(1))
    assert "is no exported gallery" in run("import", tmp_path / "a", wrong, code=1).output
    assert not (tmp_path / "a").exists()


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 30))
@settings(deadline=None, max_examples=12)
def test_an_export_imported_answers_the_same(
    seed: int, count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("export") / "people.npz"
    rng = np.random.default_rng(seed)
    rows = People(6, spread="random", seed=seed).draw(count + 3)
    one = MemoryGallery(fingerprint="m", dimension=6)
    other = MemoryGallery(fingerprint="m", dimension=6)
    for row in rows[:count]:
        known = int(rng.integers(0, 5)) + 1
        one.add(
            row,
            identity=known if known in {r.identity for r in one.identities()} else None,
            camera="gate",
            modality=Modality.INFRARED,
            time=float(known),
            tracklet=f"t{known}" if known % 2 else "",
        )
    assert export_gallery(one, path) == len(one)
    numbers = import_gallery(other, path).numbers
    for mine, theirs in zip(
        one.search(rows[count:], top_k=5, min_similarity=-1),
        other.search(rows[count:], top_k=5, min_similarity=-1),
        strict=True,
    ):
        assert [(numbers[m.identity], m.camera, m.time) for m in mine] == [
            (t.identity, t.camera, t.time) for t in theirs
        ]
        assert [m.similarity for m in mine] == pytest.approx([t.similarity for t in theirs])
    size = len(other)
    assert import_gallery(other, path).left_out == len(one)
    assert len(other) == size
    with pytest.raises(GalleryError, match="filled by model"):
        import_gallery(MemoryGallery(fingerprint="another", dimension=6), path)


def test_the_benchmark_measures_an_exact_gallery_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    words = ("benchmark", "--size", 300, "--dimension", 16, "--queries", 5)
    (cost,) = json.loads(run(*words, "--json").stdout)
    assert (cost["size"], cost["index"], cost["recall_at_10"]) == (300, "exact", 1.0)
    assert all(
        cost[name] > 0 for name in ("add_rate", "bulk_rate", "nearest_ms", "query_ms", "file_mb")
    )
    table = run(*words, "--markdown").stdout.splitlines()
    assert [line.count("|") for line in table] == [13, 13, 13]
    assert list(tmp_path.iterdir()) == []


def test_codes_find_what_the_exact_index_finds() -> None:
    cost = measure_gallery(3000, 64, queries=40, exact_limit=200)
    assert cost.index == "codes"
    assert cost.recall_at_10 >= 0.98
