"""The README's commands and its Python run as they are written, on less data."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from mip_edge.cli import cli
from mip_edge.synthetic.scene import SceneOptions, write_scene

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


def commands() -> list[list[str]]:
    """The `mip-edge` lines of the section on a folder of crops, with continuation lines joined."""
    text = README.read_text()
    section = text.split("## From a folder of crops")[1].split("\n## ")[0]
    block = "\n".join(line for line in section.splitlines() if line.startswith("    "))
    joined = re.sub(r"\\\n\s*", " ", block)
    return [shlex.split(line)[1:] for line in joined.splitlines() if "mip-edge" in line]


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
