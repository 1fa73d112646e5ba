"""`mip-edge look` from folders of images to a page whose pictures are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch", reason="a checkpoint needs torch")
pytest.importorskip("sklearn", reason="needs mip-edge[plots]")

from mip_edge.cli import cli
from mip_edge.data.image import read_image, write_image
from mip_edge.errors import OptionError
from mip_edge.look.look import LookOptions
from mip_edge.look.page import write_page
from mip_edge.spec import Modality

TONES = {"anna": 20, "bert": 90, "cleo": 160, "dora": 230}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four people of plain tone with a little noise, two images each in every part and light."""
    root = tmp_path_factory.mktemp("look") / "data"
    rng = np.random.default_rng(0)
    for part in ("train", "query", "gallery"):
        for modality in Modality:
            for identity, tone in TONES.items():
                for number in range(2):
                    path = root / part / modality.value / identity / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    noise = rng.integers(0, 20, (24, 12, 3))
                    write_image(path, (tone + noise).astype(np.uint8))
    return root


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["look", *map(str, arguments)])


def test_a_checkpoint_is_looked_at_from_end_to_end(
    data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "a" / "look"
    done = run(tiny_checkpoint, data, "-o", folder, "--json")
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures == json.loads((folder / "look.json").read_text())
    page = (folder / "index.html").read_text()
    shown = re.findall(r'src="([^"]+)"', page)
    assert sorted(shown) == ["cmc.png", "distances.png", "map.png", "prompts.png"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*shown, "index.html", "look.json"]
    )
    for name in shown:
        picture = read_image(folder / name)
        assert min(picture.shape[:2]) > 300
        assert picture.std() > 5
    assert (figures["queries"], figures["gallery"], figures["identities"]) == (16, 16, 4)
    assert figures["map"] == {"method": "tsne", "points": 32}
    # four images of each of four people in each light
    same = [pair["same_pairs"] for pair in figures["distances"]]
    assert same == [4 * 6, 4 * 6, 4 * 16]
    assert len(figures["prompts"]["modality_distance"]) == 2


def test_a_bundle_shows_everything_but_prompts_and_an_old_picture_does_not_stay(
    data: Path, tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    assert run(tiny_checkpoint, data, "-o", tmp_path / "look").exit_code == 0
    (tmp_path / "look" / "mine.txt").write_text("a note")
    again = run(tiny_bundle, data, "-o", tmp_path / "look", "--map", "none")
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    done = run(tiny_bundle, data, "-o", tmp_path / "look", "--map", "none", "--overwrite")
    assert done.exit_code == 0, done.output
    left = sorted(path.name for path in (tmp_path / "look").iterdir())
    assert left == ["cmc.png", "distances.png", "index.html", "look.json", "mine.txt"]
    assert "infrared to visible: Rank-1" in done.stdout
    assert "prompts" not in done.stdout


def test_a_folder_of_something_else_is_never_written_into(
    data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("not a look")
    done = run(tiny_checkpoint, data, "-o", tmp_path, "--overwrite")
    assert done.exit_code == 1
    assert "holds no earlier look" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_training_part_is_one_set_of_images(
    data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    done = run(
        *(tiny_checkpoint, data, "-o", tmp_path / "look", "--part", "train", "--json"),
        *("--map", "none"),
    )
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert (figures["queries"], figures["gallery"]) == (16, 16)
    # each image counts once: two of each person in each light
    assert [pair["same_pairs"] for pair in figures["distances"]] == [4, 4, 16]


def test_collapsed_prompts_are_told_on_stderr_and_on_the_page(
    data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import torch

    from mip_edge import checkpoint

    model = checkpoint.load(tiny_checkpoint)
    assert model.modality_prompts is not None
    with torch.no_grad():
        model.modality_prompts.library[1] = model.modality_prompts.library[0]
    cameras = checkpoint.read_metadata(tiny_checkpoint)["cameras"]
    checkpoint.save(model, tmp_path / "flat.safetensors", cameras=cameras)
    done = run(tmp_path / "flat.safetensors", data, "-o", tmp_path / "look", "--map", "none")
    assert done.exit_code == 0, done.output
    assert "WARNING: modality prompts have collapsed" in done.stderr
    assert (
        "Warning: modality prompts have collapsed" in (tmp_path / "look" / "index.html").read_text()
    )


def test_the_page_shows_names_as_text_and_warns_of_galleries_without_a_protocol() -> None:
    figures = {
        "model": "<b>.safetensors",
        "data": "a&b",
        "dataset": "sysu",
        "part": "test",
        "fingerprint": "f" * 64,
        "queries": 1,
        "gallery": 1,
        "identities": 1,
        "directions": [],
        "distances": [],
        "map": None,
        "prompts": None,
        "warnings": ["<i>"],
    }
    page = write_page(figures)
    assert "&lt;b&gt;.safetensors on a&amp;b" in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "not the data set&#x27;s protocol" in page
    assert "protocol" not in write_page({**figures, "dataset": "folder"})


def test_a_part_that_there_is_not_is_refused() -> None:
    with pytest.raises(OptionError, match="--part must be test or train, got all"):
        LookOptions(part="all")
