"""`mip-edge data check`: what it counts, what it compares, and what it calls unreadable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mip_edge import cli
from mip_edge.commands.data import check, data
from mip_edge.data import check as checking
from mip_edge.data.check import check_dataset
from mip_edge.data.readers import DATASETS
from mip_edge.errors import OptionError
from mip_edge.spec import Modality
from tests.mip_edge import trees


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, ["data", "check", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SYSU-MM01 with people in no list; not to be changed."""
    return trees.write_sysu(tmp_path_factory.mktemp("sysu"), strangers=1)


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "SYSU-MM01")
    return tmp_path / "SYSU-MM01"


def test_parts_lights_and_cameras_are_counted(whole: Path) -> None:
    result = run(whole, "--dataset", "sysu", "--no-totals")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()[:5]] == [
        ["part", "light", "identities", "images", "cameras"],
        ["train", "infrared", "4", "16", "cam3", "8,", "cam6", "8"],
        ["train", "visible", "4", "32", "cam1", "8,", "cam2", "8,", "cam4", "8,", "cam5", "8"],
        ["test", "infrared", "2", "8", "cam3", "4,", "cam6", "4"],
        ["test", "visible", "2", "16", "cam1", "4,", "cam2", "4,", "cam4", "4,", "cam5", "4"],
    ]
    assert "72 images decoded, 0 unreadable;" in result.stdout
    assert "images/s with 2 workers" in result.stdout
    assert result.stdout.endswith("\nsound\n")


def test_a_subset_does_not_meet_the_known_totals(whole: Path) -> None:
    result = run(whole, "--dataset", "sysu", "--no-decode")
    assert result.exit_code == 1
    assert "0 of 6 known totals met; a subset takes --no-totals" in result.stdout
    assert "wrong: test infrared images: 8 of the 3,803 known, 3,795 missing" in result.stdout
    assert "no image was decoded" in result.stdout
    # 7 people on 4 visible cameras, the one in no list among them: no fault, whatever it is
    assert "note: 56 visible images in the folders of all people" in result.stdout


def test_a_data_set_of_the_known_size_is_sound(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infrared, visible = Modality.INFRARED, Modality.VISIBLE
    monkeypatch.setitem(checking._IDENTITIES, "sysu", {"train": 4, "test": 2})
    counts = {("train", infrared): 16, ("train", visible): 32}
    counts |= {("test", infrared): 8, ("test", visible): 16}
    monkeypatch.setitem(checking._IMAGES, "sysu", counts)
    result = run(whole, "--dataset", "sysu")
    assert result.exit_code == 0
    assert "6 of 6 known totals met\n" in result.stdout
    monkeypatch.setitem(counts, ("train", visible), 31)
    result = run(whole, "--dataset", "sysu")
    assert result.exit_code == 1
    assert "wrong: train visible images: 32 of the 31 known, 1 too many" in result.stdout


def test_known_totals_add_up_to_those_published() -> None:
    """README of SYSU-MM01 (296 + 99 + 96), of LLCM (1,064 people, 46,767 boxes), RegDB (412)."""
    assert sum(checking._IDENTITIES["sysu"].values()) == 296 + 99 + 96 == 491
    assert sum(checking._IDENTITIES["regdb"].values()) == 412
    assert sum(checking._IDENTITIES["llcm"].values()) == 1064
    assert sum(checking._IMAGES["llcm"].values()) == 46767
    assert sum(checking._IMAGES["regdb"].values()) == 412 * 20
    used = checking._IMAGES["sysu"]
    for light, published in checking._SYSU_FOLDERS.items():
        assert used["train", light] + used["test", light] < published


def spoil(root: Path) -> dict[str, str]:
    """Four faulty images, and the words for each."""
    (root / "cam1/0001/0001.jpg").write_bytes(b"")
    cut = root / "cam2/0002/0001.jpg"
    cut.write_bytes(cut.read_bytes()[:-30])
    (root / "cam3/0003/0001.jpg").write_bytes(b"no image at all")
    folder = root / "cam6/0004/0001.jpg"
    folder.unlink()
    folder.mkdir()
    return {
        "cam1/0001/0001.jpg": "is empty",
        "cam2/0002/0001.jpg": "is a truncated JPEG",
        "cam3/0003/0001.jpg": "is no image",
        "cam6/0004/0001.jpg": "cannot be read",
    }


def test_every_unreadable_image_is_listed_with_its_reason(root: Path) -> None:
    faults = spoil(root)
    result = run(root, "--dataset", "sysu", "--no-totals", "--workers", 3)
    assert result.exit_code == 1
    for name, reason in faults.items():
        assert f"unreadable: {root / name} {reason}" in result.stdout
    assert "68 images decoded, 4 unreadable" in result.stdout
    assert result.stdout.endswith("not sound\n")


def test_json_lists_all_that_the_terminal_cuts(root: Path) -> None:
    for image in (root / "cam1").rglob("*.jpg"):
        image.write_bytes(b"")
    for image in (root / "cam2").rglob("*.jpg"):
        image.write_bytes(b"")
    shown = run(root, "--dataset", "sysu", "--no-totals")
    assert shown.stdout.count("\nunreadable: ") == 20
    assert "and 4 more; --json lists them all" in shown.stdout
    result = run(root, "--dataset", "sysu", "--no-totals", "--json")
    assert result.exit_code == 1
    figures = json.loads(result.stdout)
    assert len(figures["unreadable"]) == 24
    first = root / "cam1/0003/0001.jpg"  # training people come first, from 0003 on
    assert figures["unreadable"][0] == {
        "path": str(first),
        "reason": f"{first} is empty; expected a PNG, JPEG or BMP image",
    }
    assert (figures["decoded"], figures["workers"], figures["sound"]) == (48, 2, False)
    assert figures["images_per_second"] > 0


def test_without_decoding_an_unreadable_image_is_not_seen(root: Path) -> None:
    spoil(root)
    report = check_dataset("sysu", root, decode=False, totals=False)
    assert report.sound
    assert (report.decoded, report.images_per_second) == (0, 0.0)


def test_all_splits_of_regdb_are_read_and_each_image_decoded_once(tmp_path: Path) -> None:
    root = trees.write_regdb(tmp_path, train=2, test=2, images=2)
    assert check_dataset("regdb", root, totals=False).decoded == 16
    (root / "idx/test_visible_7.txt").unlink()
    missing = run(root, "--dataset", "regdb", "--no-totals")
    assert missing.exit_code == 1
    assert "test_visible_7.txt is missing" in missing.stderr
    assert run(root, "--dataset", "regdb", "--no-totals", "--split", 6).exit_code == 0


def test_regdb_totals_are_compared_split_by_split(tmp_path: Path) -> None:
    root = trees.write_regdb(tmp_path, train=1, test=1, images=1, splits=(3,))
    report = check_dataset("regdb", root, split=3, decode=False)
    assert len(report.totals) == 6
    assert "split 3, train visible images: 1 of the 2,060 known, 2,059 missing" in report.missing


def test_an_image_listed_twice_is_told(tmp_path: Path) -> None:
    root = trees.write_llcm(tmp_path)
    path = root / "idx/train_vis.txt"
    lines = path.read_text().splitlines()
    trees.write_lines(path, [*lines, lines[0]])
    report = check_dataset("llcm", root, totals=False)
    assert report.missing == ["train: 1 images are listed twice"]


def test_a_folder_may_lack_parts(tmp_path: Path) -> None:
    for light in Modality:
        for number in range(2):
            path = tmp_path / "train" / light.value / "ann" / f"{number}.png"
            trees.write_person(path, 1, "v", number, (8, 4))
    result = run(tmp_path)
    assert result.exit_code == 0
    assert "note: there is no query part" in result.stdout
    assert "known totals" not in result.stdout


def test_another_layout_is_one_line_and_exit_code_1(whole: Path) -> None:
    result = run(whole / "exp", "--dataset", "sysu", "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"give {whole} instead" in result.stderr


def test_a_split_is_for_regdb_alone(whole: Path) -> None:
    with pytest.raises(OptionError, match="--split is for regdb"):
        check_dataset("sysu", whole, split=2)
    assert run(whole, "--dataset", "regdb", "--split", 11).exit_code == 2


def test_the_command_knows_every_data_set_and_its_options_have_help() -> None:
    options = {option.name: option for option in check.params}
    assert tuple(options["dataset"].type.choices) == DATASETS  # type: ignore[attr-defined]
    assert [o.name for o in check.params if isinstance(o, click.Option) and not o.help] == []
    assert data.commands["check"] is check
