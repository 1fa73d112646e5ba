"""Training: what it reads, what it leaves behind, and what stops it."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mip_edge.checkpoint import fingerprint, load, read_metadata, save
from mip_edge.cli import cli
from mip_edge.errors import (
    CheckpointError,
    DatasetError,
    OptionError,
    OutputError,
    TrainingError,
)
from mip_edge.model.mip import MIP
from mip_edge.model.options import MIPOptions
from mip_edge.synthetic.world import DatasetOptions, write_dataset
from mip_edge.train import TrainOptions, build_model, choose_amp, train

# 32 x 32 pixels are four patches, the least that the head takes.
QUICK = TrainOptions(
    model="tiny",
    image_size=(32, 32),
    stride=16,
    epochs=2,
    batch=16,
    images=2,
    lr=0.005,
    msel_start=2,
    validation_share=0.3,
    amp="off",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "data"
    write_dataset(folder, DatasetOptions(8, 1, crops=2, test_crops=1, image_size=(32, 32)))
    # Training must not need them.
    shutil.rmtree(folder / "query")
    shutil.rmtree(folder / "gallery")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    train(data, QUICK, folder)
    return folder


def test_a_run_leaves_its_record_metrics_checkpoints_and_curves(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        "run.json",
        "metrics.jsonl",
        "best.safetensors",
        "last.safetensors",
        "curves.png",
    }
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"loss_identity", "loss_triplet", "loss_msel", "loss_iael", "rank1", "mAP"} <= set(
        rows[0]
    )
    assert rows[0]["loss_msel"] == 0
    assert rows[1]["loss_msel"] > 0
    record = json.loads((run / "run.json").read_text())
    assert record["options"]["lr"] == 0.005
    assert record["versions"]["torch"] == version("torch")


def test_the_best_checkpoint_is_the_best_epoch_and_knows_its_threshold(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: row["rank1"] + row["mAP"])
    record = read_metadata(run / "best.safetensors")
    assert record["training"]["validation"]["epoch"] == best["epoch"]
    assert record["min_similarity"] == best["min_similarity"]
    # Two of eight identities select and are not learned from.
    assert record["training"]["data"]["identities"] == 6


def test_the_same_seed_trains_the_same_weights(data: Path, run: Path, tmp_path: Path) -> None:
    train(data, QUICK, tmp_path / "two")
    assert fingerprint(load(run / "last.safetensors")) == fingerprint(
        load(tmp_path / "two" / "last.safetensors")
    )


def test_training_starts_where_init_says_and_takes_its_sizes(tmp_path: Path) -> None:
    start = MIP(MIPOptions.preset("tiny", image_size=(48, 32), stride=16))
    save(start, tmp_path / "start.safetensors")
    options = TrainOptions(model="tiny", init=str(tmp_path / "start.safetensors"))
    model = build_model(options, classes=5)
    assert model.options.image_size == (48, 32)
    assert model.options.stride == 16
    assert model.options.instance_queries == "zero"
    assert torch.equal(model.patch_embed.proj.weight, start.patch_embed.proj.weight)


def test_the_shipped_checkpoint_is_tiny_float16_and_within_12_mb() -> None:
    from mip_edge.train import STARTER

    assert STARTER.stat().st_size <= 12_000_000
    record = read_metadata(STARTER)
    assert record["options"]["width"] == 192
    assert "synthetic" in record["training"]["data"]
    build_model(TrainOptions(model="tiny", init="synthetic"), classes=3)


def test_another_preset_than_that_of_init_is_an_error(tmp_path: Path) -> None:
    start = MIP(MIPOptions.preset("tiny", image_size=(32, 32), stride=16))
    save(start, tmp_path / "start.safetensors")
    options = TrainOptions(model="small", init=str(tmp_path / "start.safetensors"))
    with pytest.raises(CheckpointError, match="heads|shape"):
        build_model(options, classes=5)


def test_init_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth"):
        build_model(TrainOptions(init="nowhere.pth"), classes=5)


def test_a_folder_in_use_is_refused_and_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        train(data, QUICK, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_loss_that_is_not_finite_stops_and_names_images(data: Path, tmp_path: Path) -> None:
    wild = TrainOptions(
        model="tiny",
        image_size=(32, 32),
        stride=16,
        epochs=4,
        batch=8,
        images=2,
        lr=1e30,
        validation_share=0.3,
        amp="off",
    )
    with pytest.raises(TrainingError, match=r"in epoch \d.*\.png.*--lr"):
        train(data, wild, tmp_path / "run")


def test_data_without_infrared_is_an_error(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "train" / "infrared")
    with pytest.raises(DatasetError, match="no infrared images"):
        train(tmp_path / "data", QUICK, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_split_names_the_flag() -> None:
    with pytest.raises(OptionError, match=r"--batch must be a multiple of 8"):
        TrainOptions(batch=60)


def test_a_device_that_is_not_there_is_one_clear_error(data: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(OptionError, match="--device cuda"):
        train(data, TrainOptions(device="cuda"), tmp_path / "run")


def test_auto_precision_leaves_no_gradient_and_no_changed_random_state() -> None:
    model = MIP(MIPOptions.preset("tiny", image_size=(32, 32), stride=16))
    before = torch.get_rng_state()
    assert choose_amp(model, TrainOptions()) in (True, False)
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_command_prints_its_report_as_json(data: Path, tmp_path: Path) -> None:
    arguments = (
        f"train {data} --model tiny --image-size 32 32 --stride 16 --epochs 1 --batch 8 "
        f"--images 2 --validation-share 0.3 --amp off --json -o {tmp_path / 'run'}"
    )
    result = CliRunner().invoke(cli, arguments.split())
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["epoch"] == 1
    assert np.isfinite(report["mAP"])
    assert Path(report["best"]).is_file()
