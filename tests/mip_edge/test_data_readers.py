"""Readers of the published data sets: what they give, and what each fault of a tree is told."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mip_edge.data import llcm, regdb, sysu
from mip_edge.data.dataset import Dataset, Sample
from mip_edge.data.readers import DATASETS, read_dataset
from mip_edge.data.sampler import IdentitySampler
from mip_edge.errors import DatasetError, OptionError
from mip_edge.spec import Modality
from tests.mip_edge import trees

WRITERS = {"sysu": trees.write_sysu, "regdb": trees.write_regdb, "llcm": trees.write_llcm}
KINDS = tuple(WRITERS)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(kind: str, **options: int) -> Path:
        return WRITERS[kind](tmp_path / kind, **options)  # type: ignore[operator]

    return write


def brief(samples: list[Sample], root: Path) -> list[tuple[str, str, str | None, str]]:
    return [
        (one.modality.value, one.identity, one.camera, one.path.relative_to(root).as_posix())
        for one in samples
    ]


def refuses(root: Path, kind: str, message: str, **options: object) -> None:
    with pytest.raises(DatasetError, match=message):
        read_dataset(kind, root, **options)  # type: ignore[arg-type]


# --- what is read


def test_sysu_trains_on_train_and_validation_identities(write: Callable[..., Path]) -> None:
    root = write("sysu", train=1, validation=1, test=1, images=1, strangers=1)
    dataset = read_dataset("sysu", root)
    assert brief(dataset.train, root) == [
        (light, identity, f"cam{camera}", f"cam{camera}/{identity}/0001.jpg")
        for light, cameras in (("infrared", (3, 6)), ("visible", (1, 2, 4, 5)))
        for identity in ("0002", "0003")
        for camera in cameras
    ]
    assert {one.identity for one in dataset.query} == {"0001"}
    assert [one.camera for one in dataset.query] == ["cam3", "cam6", "cam1", "cam2", "cam4", "cam5"]


def test_a_regdb_identity_is_its_folder_not_its_label(tmp_path: Path) -> None:
    root = trees.write_regdb(tmp_path, train=2, test=2, images=1, splits=(1,))
    for part, people in (("train", (3, 1)), ("test", (2, 4))):  # labels count from 0 in both
        for folder, light in (("Visible", "v"), ("Thermal", "t")):
            trees.write_lines(
                root / "idx" / f"{part}_{folder.lower()}_1.txt",
                [
                    f"{folder}/{person}/male_front_{light}_{100 * person + 1:05d}_{person}.bmp {n}"
                    for n, person in enumerate(people)
                ],
            )
    dataset = read_dataset("regdb", root)
    assert brief(dataset.train, root) == [
        ("infrared", "0001", "thermal", "Thermal/1/male_front_t_00101_1.bmp"),
        ("infrared", "0003", "thermal", "Thermal/3/male_front_t_00301_3.bmp"),
        ("visible", "0001", "visible", "Visible/1/male_front_v_00101_1.bmp"),
        ("visible", "0003", "visible", "Visible/3/male_front_v_00301_3.bmp"),
    ]
    assert {one.identity for one in dataset.query} == {"0002", "0004"}


def test_regdb_splits_deal_the_people_anew(write: Callable[..., Path]) -> None:
    root = write("regdb", train=4, test=4)
    people = [
        frozenset(one.identity for one in read_dataset("regdb", root, split=split).train)
        for split in range(1, 11)
    ]
    assert len(set(people)) > 1
    assert all(len(one) == 4 for one in people)


def test_llcm_takes_the_camera_of_a_training_image_from_its_name(
    write: Callable[..., Path],
) -> None:
    root = write("llcm", train=1, test=1)
    dataset = read_dataset("llcm", root)
    assert brief(dataset.train, root)[0] == (
        ("infrared", "0002", "cam1", "nir/0002/0002_c01_s1002_f1_nir.jpg")
    )
    assert brief(dataset.query, root)[-1] == (
        ("visible", "0001", "cam9", "test_vis/cam9/0001/0001_c09_s1001_f1_vis.jpg")
    )
    infrared = [one.camera for one in dataset.query if one.modality is Modality.INFRARED]
    assert infrared == [f"cam{number}" for number in (1, 2, 4, 5, 6, 7, 8, 9)]


def test_camera_tables_are_those_of_the_networks() -> None:
    def table(cameras: tuple[sysu.Camera, ...]) -> list[str]:
        return [f"{one.name} {one.modality.value[0]}" for one in cameras]

    assert table(sysu.CAMERAS) == ["cam1 v", "cam2 v", "cam3 i", "cam4 v", "cam5 v", "cam6 i"]
    assert table(regdb.CAMERAS) == ["thermal i", "visible v"]
    assert table(llcm.CAMERAS) == (
        [f"cam{number} v" for number in range(1, 10)]
        + [f"cam{number} i" for number in (1, 2, 4, 5, 6, 7, 8, 9)]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_query_and_gallery_are_one_list(write: Callable[..., Path], kind: str) -> None:
    dataset = read_dataset(kind, write(kind))
    assert dataset.query is dataset.gallery
    assert {one.modality for one in dataset.query} == set(Modality)
    assert dataset.name == kind


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_part_does_not_need_may_be_away(write: Callable[..., Path], kind: str) -> None:
    root = write(kind)
    whole = read_dataset(kind, root)
    for part, other in (("train", whole.query), ("query", whole.train)):
        copy = root.parent / f"without {part}"
        shutil.copytree(root, copy)
        for one in other:
            (copy / one.path.relative_to(root)).unlink()
        dataset = read_dataset(kind, copy, parts=(part,))
        kept = dataset.train if part == "train" else dataset.gallery
        emptied = dataset.query if part == "train" else dataset.train
        expected = whole.train if part == "train" else whole.query
        assert brief(kept, copy) == brief(expected, root)
        assert emptied == []


@pytest.mark.parametrize("kind", KINDS)
def test_no_image_is_opened(write: Callable[..., Path], kind: str) -> None:
    root = write(kind)
    before = read_dataset(kind, root)
    for one in (*before.train, *before.query):
        one.path.write_bytes(b"")
    assert read_dataset(kind, root) == before


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_reading_does_not_depend_on_the_order_of_creation(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    first = WRITERS[kind](tmp_path_factory.mktemp("first"), image_size=(2, 2))  # type: ignore[operator]
    files = sorted(path for path in first.rglob("*") if path.is_file())
    data.draw(st.randoms(use_true_random=False)).shuffle(files)
    second = tmp_path_factory.mktemp("second")
    for path in files:
        copy = second / path.relative_to(first)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    one, other = read_dataset(kind, first), read_dataset(kind, second)
    assert brief(one.train, first) == brief(other.train, second)
    assert brief(one.query, first) == brief(other.query, second)


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    train=st.integers(2, 4),
    test=st.integers(1, 3),
    images=st.integers(1, 2),
)
def test_every_sample_is_sorted_real_and_in_the_camera_table(
    tmp_path_factory: pytest.TempPathFactory, kind: str, train: int, test: int, images: int
) -> None:
    root = tmp_path_factory.mktemp("tree")
    WRITERS[kind](root, train=train, test=test, images=images, image_size=(2, 2))  # type: ignore[operator]
    dataset = read_dataset(kind, root)
    table = {(camera.name, camera.modality) for camera in dataset.cameras}
    for samples in (dataset.train, dataset.query):
        assert {(one.camera, one.modality) for one in samples} == table
        keys = [(one.modality.value, one.identity, one.camera, one.path.name) for one in samples]
        assert keys == sorted(set(keys))
        assert all(one.path.is_file() for one in samples)
    assert {one.identity for one in dataset.train}.isdisjoint(one.identity for one in dataset.query)


# --- a person with few images


def test_a_person_with_a_single_image_of_a_light_is_kept_and_drawn_again(
    write: Callable[..., Path],
) -> None:
    import numpy as np

    root = write("sysu")
    shutil.rmtree(root / "cam3/0004")
    (root / "cam6/0004/0002.jpg").unlink()
    train = read_dataset("sysu", root).train
    lone = [one for one in train if one.identity == "0004" and one.modality is Modality.INFRARED]
    assert len(lone) == 1
    sampler = IdentitySampler(train, identities=4, images=4, rng=np.random.default_rng(0))
    assert all(train.index(lone[0]) in batch for batch in sampler.epoch())


@pytest.mark.parametrize(("cameras", "light"), [((3, 6), "infrared"), ((1, 2, 4, 5), "visible")])
def test_a_training_identity_without_one_light_is_named(
    write: Callable[..., Path], cameras: tuple[int, ...], light: str
) -> None:
    root = write("sysu")
    for camera in cameras:
        shutil.rmtree(root / f"cam{camera}/0004")
    refuses(root, "sysu", rf"train_id\.txt and val_id\.txt: no {light} image .* identity 0004;")
    assert len(read_dataset("sysu", root, parts=("query",)).query) == 24


def test_a_test_identity_without_one_light_is_kept(write: Callable[..., Path]) -> None:
    root = write("sysu")
    for camera in (3, 6):
        shutil.rmtree(root / f"cam{camera}/0001")
    lights = {one.modality for one in read_dataset("sysu", root).query if one.identity == "0001"}
    assert lights == {Modality.VISIBLE}


# --- a layout that is wrong


@pytest.mark.parametrize("kind", KINDS)
def test_a_root_too_high_or_too_low_is_told_which_to_give(
    write: Callable[..., Path], kind: str
) -> None:
    root = write(kind)
    for path in (root.parent, *(one for one in root.iterdir() if one.is_dir())):
        refuses(path, kind, rf"give {root} instead")
    deep = next(one for one in sorted(root.glob("*/*")) if one.is_dir())
    refuses(deep, kind, rf"{deep} is a folder inside of .*; give {root} instead")


def test_another_data_set_is_told_what_is_missing(write: Callable[..., Path]) -> None:
    refuses(write("regdb"), "llcm", "is no LLCM: test_vis, test_nir missing there")
    refuses(write("llcm"), "sysu", "is no SYSU-MM01: exp, cam1, .* missing there")
    refuses(write("sysu") / "nowhere", "sysu", "nowhere is no folder; expected that of SYSU-MM01")


@pytest.mark.parametrize(
    ("kind", "folder", "message"),
    [
        ("sysu", "cam4", "is no SYSU-MM01: cam4 missing there"),
        ("llcm", "test_nir/cam7", r"test_nir/cam7 is missing; expected .*<identity>"),
    ],
)
def test_a_camera_that_is_missing_is_named(
    write: Callable[..., Path], kind: str, folder: str, message: str
) -> None:
    root = write(kind)
    shutil.rmtree(root / folder)
    refuses(root, kind, message)


@pytest.mark.parametrize(("kind", "folder"), [("sysu", "cam4"), ("llcm", "test_nir/cam7")])
def test_a_camera_without_images_is_named(
    write: Callable[..., Path], kind: str, folder: str
) -> None:
    root = write(kind)
    for image in (root / folder).rglob("*.jpg"):
        image.unlink()
    refuses(root, kind, rf"{folder} has no image of the \d identities in .*_id\.txt")


@pytest.mark.parametrize(("kind", "person"), [("sysu", "0001"), ("llcm", "0002")])
def test_a_listed_identity_without_images_is_named(
    write: Callable[..., Path], kind: str, person: str
) -> None:
    root = write(kind)
    for folder in root.rglob(person):
        if "cam" in folder.parent.name:
            shutil.rmtree(folder)
    refuses(root, kind, rf"test_id\.txt: no image of identity {person} in ")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("sysu", "exp/val_id.txt"),
        ("regdb", "idx/test_thermal_1.txt"),
        ("llcm", "idx/train_nir.txt"),
        ("llcm", "idx/test_id.txt"),
    ],
)
def test_a_list_that_is_missing_empty_or_no_text_is_named(
    write: Callable[..., Path], kind: str, name: str
) -> None:
    path = write(kind) / name
    for content, said in ((b"\n", "identity|is empty"), (b"\xff\xfe\x00", "cannot be read")):
        path.write_bytes(content)
        refuses(path.parent.parent, kind, rf"{name} .*({said})")
    path.unlink()
    refuses(path.parent.parent, kind, f"{name} is missing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n\n5,x3", r"test_id\.txt:3: 'x3' is no identity; expected numbers"),
        ("1,,2", r"test_id\.txt:1: '' is no identity"),
        ("1,2,\n1", r"test_id\.txt:1: '' is no identity"),
        ("1\n2,1", r"test_id\.txt:2: identity 0001 is listed twice"),
    ],
)
def test_a_garbled_list_of_identities_names_the_line(
    write: Callable[..., Path], text: str, message: str
) -> None:
    root = write("sysu")
    (root / "exp/test_id.txt").write_text(text)
    refuses(root, "sysu", message)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Visible/1/x.bmp", "'Visible/1/x.bmp'; expected RELATIVE/PATH LABEL"),
        ("Visible/1/x.bmp one", "expected RELATIVE/PATH LABEL"),
        ("7", "expected RELATIVE/PATH LABEL"),
        ("/etc/passwd 7", "leads out of"),
        ("Visible/../../x.bmp 7", "leads out of"),
        ("Visible/x.bmp 7", "lies in no person's folder"),
    ],
)
def test_a_garbled_list_of_images_names_the_line(
    write: Callable[..., Path], line: str, message: str
) -> None:
    root = write("regdb")
    path = root / "idx/train_visible_1.txt"
    lines = path.read_text().splitlines()
    trees.write_lines(path, [*lines, "", line])
    refuses(root, "regdb", rf"train_visible_1\.txt:{len(lines) + 2}: .*{message}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0009.jpg", "tells no identity and camera"),
        ("0009_c03_s1_f1_nir.jpg", "LLCM has no infrared camera cam3"),
        ("0009_c10_s1_f1_nir.jpg", "LLCM has no infrared camera cam10"),
    ],
)
def test_an_llcm_name_that_tells_no_camera_is_refused(
    write: Callable[..., Path], name: str, message: str
) -> None:
    root = write("llcm")
    trees.write_lines(root / "idx/train_nir.txt", [f"nir/0009/{name} 9"])
    refuses(root, "llcm", rf"train_nir\.txt:1: .*{message}")


@pytest.mark.parametrize(("old", "new"), [(" 1\n", " 0\n"), (" 0\n", " 9\n")])
def test_labels_that_mix_two_people_are_refused(
    write: Callable[..., Path], old: str, new: str
) -> None:
    root = write("regdb")
    path = root / "idx/train_visible_1.txt"
    head, _, tail = path.read_text().rpartition(old)
    path.write_text(head + new + tail)
    refuses(root, "regdb", r"train_visible_1\.txt:\d+: .*published")


@pytest.mark.parametrize(("kind", "folder"), [("regdb", "Thermal"), ("llcm", "nir")])
def test_a_listed_image_that_is_not_there_is_named_with_its_line(
    write: Callable[..., Path], kind: str, folder: str
) -> None:
    root = write(kind, train=3, test=1)
    first = read_dataset(kind, root).train[0]
    first.path.unlink()
    refuses(root, kind, rf"train_.*\.txt:\d+: {first.path} does not exist; copy")
    shutil.rmtree(root / folder)
    (root / folder).mkdir()
    refuses(root, kind, r"does not exist \(and \d+ more images of lists\)")


def test_identities_in_train_and_test_are_named(write: Callable[..., Path]) -> None:
    sysu_root = write("sysu")
    for name in ("train", "val"):
        path = sysu_root / f"exp/{name}_id.txt"
        kept = path.read_text()
        path.write_text(f"{kept.strip()},1\n")
        refuses(sysu_root, "sysu", rf"identity 0001 in both .*{name}_id\.txt and .*test_id\.txt")
        path.write_text(kept)
    regdb_root = write("regdb")
    for light in ("visible", "thermal"):
        shutil.copyfile(
            regdb_root / f"idx/train_{light}_1.txt", regdb_root / f"idx/test_{light}_1.txt"
        )
    refuses(regdb_root, "regdb", r"identities \d{4}, \d{4}, \d{4} in both")
    llcm_root = write("llcm")
    (llcm_root / "idx/test_id.txt").write_text("1,2,3")
    refuses(llcm_root, "llcm", r"identity 0003 in both .*train_\*\.txt and .*test_id\.txt")


def test_a_split_that_there_is_not_is_refused(write: Callable[..., Path]) -> None:
    root = write("regdb")
    for split in (0, 11):
        with pytest.raises(OptionError, match=rf"splits 1 to 10, not --split {split}"):
            read_dataset("regdb", root, split=split)


def test_an_unknown_kind_or_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="must be one of folder, sysu, regdb, llcm, got market"):
        read_dataset("market", tmp_path)
    for kind in DATASETS:
        with pytest.raises(OptionError, match="not tests"):
            read_dataset(kind, tmp_path, parts=("tests",))


def test_what_is_no_image_is_left_aside_and_told(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = write("sysu")
    before = read_dataset("sysu", root)
    (root / "cam1/0004/Thumbs.db").touch()
    (root / "cam1/0004/._0001.jpg").touch()
    (root / "cam1/0005").joinpath("notes").mkdir()
    with caplog.at_level(logging.WARNING):
        assert read_dataset("sysu", root) == before
    assert "3 other files left aside" in caplog.text


def test_a_folder_is_read_as_before(tmp_path: Path) -> None:
    for part in ("train", "query", "gallery"):
        for light in Modality:
            for number in range(2):
                path = tmp_path / part / light.value / "ann" / f"{number}.bmp"
                trees.write_person(path, 1, "v", number, (8, 4))
    dataset = read_dataset("folder", tmp_path)
    assert isinstance(dataset, Dataset)
    assert [len(part) for part in (dataset.train, dataset.query, dataset.gallery)] == [4, 4, 4]


def test_the_lists_may_come_in_any_order(write: Callable[..., Path]) -> None:
    root = write("llcm")
    before = read_dataset("llcm", root)
    for name in ("train_vis", "train_nir"):
        path = root / "idx" / f"{name}.txt"
        lines = path.read_text().splitlines()
        random.Random(4).shuffle(lines)
        path.write_text("\ufeff" + "\r\n".join(lines))  # as an editor on Windows leaves it
    assert read_dataset("llcm", root) == before
