"""The README's commands and its Python run as they are written, on less data."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

from engines.table import find_missing
from mip_edge.cli import cli
from mip_edge.synthetic.scene import SceneOptions, write_scene
from mip_edge.synthetic.world import DatasetOptions, write_dataset
from tests.mip_edge.trees import write_regdb, write_sysu

README = Path(__file__).parents[2] / "README.md"
OFFICIAL = Path(__file__).parents[1] / "data" / "mip_tiny_state_dict.pth"
# What is added to a command so that it takes seconds, and a stream that no test can have.
LESS = {
    "synthetic": "--train-identities 24 --test-identities 6 --crops 4 --test-crops 2",
    "train": "--epochs 1 --batch 32 --validation-share 0.2",
    "benchmark": "--repeats 2",
    "live": "--no-realtime --max-frames 15",
}
STREAM = "rtsp://camera/stream"


EXPORTS = {
    "benchmark": "--repeats 2",
    "benchmark-export": "--repeats 1 --modality visible --batch 1",
}


QUANTIZED = {
    # A network of random weights has neighbours by chance.
    "export": "--calibration-crops 8 --max-drop 100",
    "benchmark": "--repeats 2 --batch 1",
}


SHIPPED = "mip_edge/assets/mip_tiny_synthetic.safetensors"
LIVE = {
    "synthetic": "--train-identities 6 --crops 4 --test-identities 1 --image-size 64 32",
    "calibrate-thresholds": "--rounds 1 --bootstrap 5 --far 0.1",
    "world": "--small --seconds 20 --cameras 2",
}


def commands(title: str = "## From a folder of crops") -> list[list[str]]:
    """The `mip-edge` lines of a section, with continuation lines joined."""
    text = README.read_text()
    section = text.split(title)[1].split("\n## ")[0]
    block = "\n".join(line for line in section.splitlines() if line.startswith("    "))
    joined = re.sub(r"\\\n\s*", " ", block)
    return [shlex.split(line)[1:] for line in joined.splitlines() if "mip-edge" in line]


def lay_out(checkpoint: Path, *, people: int) -> None:
    """What the first section leaves behind: trained weights, and the data they learned from."""
    Path("runs/mine").mkdir(parents=True)
    shutil.copy(checkpoint, "runs/mine/best.safetensors")
    sizes = DatasetOptions(train_identities=people, test_identities=4, crops=2, image_size=(64, 32))
    write_dataset(Path("data"), sizes)


def test_the_readme_walks_from_a_folder_of_crops_to_live_cameras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path, SceneOptions(people=1, strangers=0, size=(180, 320)))
    names = [command[0] for command in commands()]
    assert names == ["synthetic", "train", "evaluate", "export", "benchmark", "search", "live"]
    for command in commands():
        arguments = [part.replace(STREAM, "yard.mp4") for part in command]
        result = CliRunner().invoke(cli, [*arguments, *shlex.split(LESS.get(command[0], ""))])
        assert result.exit_code == 0, (command, result.output)
    for name in ("ranked.png", "found.png", "live.mp4", "bundle/manifest.json"):
        assert Path(name).is_file(), name

    shutil.copy(next(Path("data/gallery/visible").glob("*/*.png")), "noon.png")
    shutil.copy(next(Path("data/query/infrared").glob("*/*.png")), "midnight.png")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    shutil.copy(OFFICIAL, "mip_sysu.pth")
    assert len(blocks) == 2
    exec(compile(blocks[0], "README.md", "exec"), {})
    # The published network at its tiny size: the same call with the size of its images.
    small = blocks[1].replace('"mip_sysu.pth"', '"mip_sysu.pth", image_size=(64, 32)')
    assert small != blocks[1]
    exec(compile(small, "README.md", "exec"), {})
    assert Path("mip_sysu.safetensors").is_file()


# A network of a minute on a CPU that starts from nothing, in place of hours on a GPU.
SMALL = {
    "--model base": "--model tiny --image-size 32 32 --stride 16 --epochs 1 --batch 8 --amp off",
    "--init hf:timm/vit_base_patch16_224.orig_in21k_ft_in1k": "--images 2 --validation-share 0.3",
    "--device cuda": "--threads 1",
    "data check SYSU-MM01": "data check SYSU-MM01 --no-totals",
}


def test_the_readme_exports_in_every_way_it_names(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lay_out(tiny_checkpoint, people=70)
    asked = commands("## Export: the same function")
    kinds = ["export"] * 5 + ["inspect", "bundle", "bundle", "benchmark", "benchmark-export"]
    assert [command[0] for command in asked] == kinds
    # The section before it leaves a bundle, which its first command replaces.
    assert CliRunner().invoke(cli, [*asked[0][:2], "-o", "bundle"]).exit_code == 0
    for command in asked:
        # The checkpoint of this test has embeddings of 240 numbers.
        arguments = ["200" if part == "256" else part for part in command]
        result = CliRunner().invoke(cli, [*arguments, *shlex.split(EXPORTS.get(command[0], ""))])
        assert result.exit_code == 0, (command, result.output)
    for name in ("bundle/visible.fp16.onnx", "both/unified.onnx", "bundle.tar"):
        assert Path(name).is_file(), name
    assert Path("model_repository/mip_visible/config.pbtxt").is_file()


@pytest.mark.skipif(
    find_missing("openvino") is not None or find_spec("tensorrt_rtx_bindings") is None,
    reason="OpenVINO and TensorRT-RTX are not installed",
)
def test_the_readme_quantizes_times_and_builds(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lay_out(tiny_checkpoint, people=8)
    asked = commands("## INT8 and engines")
    assert [one[0] for one in asked] == [
        "export",
        "evaluate",
        "embed",
        "benchmark",
        "build",
        "cache",
    ]
    for command in asked:
        result = CliRunner().invoke(cli, [*command, *shlex.split(QUANTIZED.get(command[0], ""))])
        assert result.exit_code == 0, (command, result.output)
    for name in ("int8/visible.int8.onnx", "int8-report/int8.png", "benchmark.md"):
        assert Path(name).is_file(), name


def test_the_readme_films_a_site_recognises_people_in_it_and_forgets_one(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = commands("## Live: many cameras")
    assert [command[0] for command in asked] == [
        *("export", "synthetic", "calibrate-thresholds", "world", "live"),
        *("gallery", "gallery", "live"),
    ]
    for command in asked[:-1]:
        plain = [str(tiny_checkpoint) if part == SHIPPED else part for part in command]
        less = shlex.split(LIVE.get(command[0], ""))
        result = CliRunner().invoke(cli, [*plain, *less])
        assert result.exit_code == 0, (command, result.output)
        assert ("hand-overs" in result.output) == (command[0] == "live")
    assert {path.suffix for path in Path("videos").iterdir()} == {".mp4"}
    # The cameras of the last are nobody's here: its options are, and what it says of them.
    shutil.copytree("shipped", "bundle")
    result = CliRunner().invoke(cli, [*asked[-1], "--precision", "fp32"])
    assert result.exit_code != 0
    assert "--source gate: rtsp://user:***@gate/stream" in result.output
    assert "password" not in result.output


def test_the_readme_trains_and_scores_sysu_and_regdb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sysu(tmp_path / "SYSU-MM01", train=6, test=3, images=2)
    write_regdb(tmp_path / "RegDB", train=6, test=3, images=2)
    for command in commands("## Train and score like the field"):
        line = shlex.join(command)
        for plain, less in SMALL.items():
            line = line.replace(plain, less)
        line, _, target = line.partition(" '>' ")
        # the loop of the shell; two of its ten rounds
        for split in ("1", "2") if "$n" in line else ("",):
            again = (
                line.replace("'$n'", split).replace("$n", split).replace("--split all", "--split 2")
            )
            result = CliRunner().invoke(cli, shlex.split(again))
            assert result.exit_code == 0, (again, result.output)
            if target:
                Path(target).write_text(result.stdout)
    for name in ("sysu/best.md", "sysu/sysu.json", "regdb-2/best.safetensors"):
        assert (tmp_path / "runs" / name).is_file(), name
