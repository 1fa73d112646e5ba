"""Runs that are killed, and end as if nobody had killed them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import mip_edge.train as training
from mip_edge.checkpoint import fingerprint, load
from mip_edge.cli import cli
from mip_edge.errors import CheckpointError, OptionError, OutputError
from mip_edge.recipe import TrainOptions
from mip_edge.synthetic.world import DatasetOptions, write_dataset
from mip_edge.train import train

FLAGS = (
    "--model tiny --image-size 32 32 --stride 16 --epochs 3 --batch 8 --images 2 --lr 0.005 "
    "--msel-start 2 --validation-share 0.3 --amp off --threads 1 --ema 0.9 --save-every 2"
)
OPTIONS = TrainOptions(
    model="tiny",
    image_size=(32, 32),
    stride=16,
    epochs=3,
    batch=8,  # type: ignore[arg-type]
    images=2,
    lr=0.005,
    msel_start=2,
    validation_share=0.3,
    amp="off",  # type: ignore[arg-type]
    threads=1,
    ema=0.9,
    save_every=2,  # type: ignore[arg-type]
)


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """All runs here as the killed ones: bit for bit holds for one number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "data"
    write_dataset(folder, DatasetOptions(8, 1, crops=2, test_crops=1, image_size=(32, 32)))
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(data, OPTIONS, folder)
    return folder


def weights(run: Path) -> str:
    return fingerprint(load(run / "last.safetensors"))


def figures(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def dying(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """Does as `function`, and dies in its place at call number `calls`."""
    left = calls

    def instead(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        return function(*arguments, **named)

    return instead


@pytest.mark.parametrize(
    ("where", "calls"),
    [("augment", 2), ("augment", 6), ("save_state", 2)],
)
def test_a_run_that_broke_off_ends_with_the_same_weights_and_figures(
    data: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    calls: int,
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(training, where, dying(getattr(training, where), calls))
        with pytest.raises(Killed):
            train(data, OPTIONS, folder)
    report = train(data, OPTIONS, folder, resume=True)
    assert weights(folder) == weights(whole)
    assert figures(folder) == figures(whole)
    best = json.loads((whole / "metrics.jsonl").read_text().splitlines()[report.epoch - 1])
    assert report.rank1 == best["rank1"]


def test_a_run_killed_twice_by_sigkill_ends_with_the_same_weights(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "mip_edge", "train", str(data)),
        *FLAGS.split(),
        *("-o", str(folder), "--resume"),
    ]
    state = folder / "state.pt"
    for _ in range(2):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 100
        while not state.exists() or state.stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            if process.poll() is not None:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "resuming in epoch" in done.stderr
    assert weights(folder) == weights(whole)
    assert figures(folder) == figures(whole)
    assert json.loads((folder / "run.json").read_text())["resumed"]


def test_a_finished_run_gives_its_report_again_and_trains_nothing(
    data: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, told = (whole / "last.safetensors").read_bytes(), figures(whole)
    monkeypatch.setattr(training, "augment", dying(training.augment, 1))
    report = train(data, OPTIONS, whole, resume=True)
    assert (whole / "last.safetensors").read_bytes() == before
    assert figures(whole) == told
    assert report.rank1 == told[report.epoch - 1]["rank1"]


def test_resume_with_other_options_or_images_is_refused_and_changes_nothing(
    data: Path, whole: Path, tmp_path: Path
) -> None:
    before = (whole / "metrics.jsonl").read_bytes()
    with pytest.raises(OptionError, match=r"--lr was 0\.005, now it is 0\.5; give the same"):
        train(data, replace(OPTIONS, lr=0.5), whole, resume=True)
    other = tmp_path / "data"
    write_dataset(other, DatasetOptions(8, 1, crops=3, test_crops=1, image_size=(32, 32)))
    with pytest.raises(OptionError, match="training images of .* have changed"):
        train(other, OPTIONS, whole, resume=True)
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_resume_in_a_folder_of_something_else_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(OutputError, match="holds no run of mip-edge train"):
        train(data, OPTIONS, tmp_path, resume=True)


def test_a_damaged_state_is_told_and_not_run(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(data, replace(OPTIONS, epochs=1), folder)
    (folder / "state.pt").write_bytes((folder / "state.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be read.*without --resume"):
        train(data, replace(OPTIONS, epochs=1), folder, resume=True)


def test_torchrun_trains_in_two_processes_and_one_of_them_writes(
    data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
        *("--standalone", "-m", "mip_edge", "train", str(data)),
        *FLAGS.split(),
        *("--epochs", "1", "-o", str(folder), "--json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["epoch"] == 1
    assert done.stderr.count("training on 24 crops of 6 identities in 2 processes") == 1
    assert len(figures(folder)) == 1


def test_the_command_names_the_flag_that_changed(data: Path, whole: Path) -> None:
    flags = FLAGS.replace("--lr 0.005", "--lr 0.006")
    arguments = ["train", str(data), *flags.split(), "-o", str(whole), "--resume"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "--lr was 0.005, now it is 0.006" in result.output
