"""Writing beside and renaming: the last good file survives whatever ends the writing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mip_edge.errors import OutputError
from mip_edge.output import write_beside

FULL_DISK = """
import json, resource, sys
from pathlib import Path
import numpy as np
import torch
from mip_edge import checkpoint
from mip_edge.data.image import write_image
from mip_edge.embedding import StoredEmbeddings
from mip_edge.errors import OutputError
from mip_edge.model.mip import MIP
from mip_edge.model.options import MIPOptions
from mip_edge.output import write_beside
from mip_edge.spec import Modality

def save_torch(path):
    with write_beside(path) as stream:
        torch.save({"weights": torch.zeros(10_000)}, stream)

def save_crop(path):
    write_image(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))

model = MIP(MIPOptions.preset("tiny", image_size=(64, 32), stride=16, classes=2))
rows = np.ones((100, 64), dtype=np.float32)
stored = StoredEmbeddings(rows, ("a",) * 100, Modality.VISIBLE, "f")
folder = Path(sys.argv[1])
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limit[1]))
told = {}
for name, save in {
    "model.safetensors": lambda path: checkpoint.save(model, path),
    "state.pt": save_torch,
    "crop.png": save_crop,
    "embeddings.npz": lambda path: stored.save(path, overwrite=True),
}.items():
    try:
        save(folder / name)
    except OutputError as error:
        told[name] = str(error)
print(json.dumps(told))
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("lasting", [True, False])
def test_a_block_that_ends_well_replaces_the_file(tmp_path: Path, lasting: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with write_beside(path, lasting=lasting) as stream:
        stream.write(b"new, ")
        stream.write(b"and whole")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new, and whole"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "error", [ValueError("of the block"), KeyboardInterrupt(), FileNotFoundError("another file")]
)
def test_what_the_block_raises_goes_through_and_the_old_file_stays(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error)) as caught, write_beside(path) as stream:  # noqa: PT012
        stream.write(b"half")
        raise error
    assert caught.value is error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with write_beside(path) as one:
        one.write(b"one")
        with write_beside(path) as other:
            other.write(b"the other")
        assert path.read_bytes() == b"the other"
    assert path.read_bytes() == b"one"
    assert names(tmp_path) == ["file"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for path, words in (
        (tmp_path / "nowhere" / "file", os.strerror(errno.ENOENT)),
        (tmp_path / "taken", os.strerror(errno.EISDIR)),
    ):
        with pytest.raises(OutputError) as caught, write_beside(path) as stream:
            stream.write(b"bytes")
        assert str(caught.value) == f"{path} cannot be written: {words}"
    assert names(tmp_path) == ["taken"]


def test_a_disk_that_is_full_only_at_the_end_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError) as caught, write_beside(path) as stream:
        stream.write(b"new")
    assert str(caught.value).startswith(f"{path} cannot be written: No space left on device; free")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_disk_that_the_block_filled_elsewhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), write_beside(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_the_last_good_files_survive_a_full_disk(tmp_path: Path) -> None:
    files = ["crop.png", "embeddings.npz", "model.safetensors", "state.pt"]
    for name in files:
        (tmp_path / name).write_bytes(b"the last good one")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        name: f"{tmp_path / name} cannot be written: {os.strerror(errno.EFBIG)}" for name in files
    }
    assert names(tmp_path) == files
    assert {(tmp_path / name).read_bytes() for name in files} == {b"the last good one"}
