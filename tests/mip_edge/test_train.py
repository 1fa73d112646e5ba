"""Training: what it reads, what it leaves behind, and what stops it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
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
    ImageError,
    OptionError,
    OutputError,
    TrainingError,
)
from mip_edge.model.mip import MIP
from mip_edge.model.options import MIPOptions
from mip_edge.recipe import TrainOptions
from mip_edge.start import STARTER, build_model, choose_amp
from mip_edge.synthetic.world import DatasetOptions, write_dataset
from mip_edge.train import train
from tests.mip_edge.trees import write_llcm, write_regdb, write_sysu

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
        "state.pt",
        "prompts.json",
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
    model, _ = build_model(options.resolved(), names=list("abcde"))
    assert model.options.image_size == (48, 32)
    assert model.options.stride == 16
    assert model.options.instance_queries == "zero"
    assert torch.equal(model.patch_embed.proj.weight, start.patch_embed.proj.weight)


def test_the_shipped_checkpoint_is_tiny_float16_and_within_12_mb() -> None:
    assert STARTER.stat().st_size <= 12_000_000
    record = read_metadata(STARTER)
    assert record["options"]["width"] == 192
    assert "synthetic" in record["training"]["data"]
    build_model(TrainOptions(model="tiny", init="synthetic").resolved(), names=list("abc"))


def test_the_shipped_checkpoint_for_another_model_names_both_options() -> None:
    options = TrainOptions(model="base", init="synthetic")
    with pytest.raises(OptionError, match=r"--init synthetic is a tiny network, --model is base"):
        build_model(options.resolved(), names=list("abc"))


def test_another_preset_than_that_of_init_is_an_error(tmp_path: Path) -> None:
    start = MIP(MIPOptions.preset("tiny", image_size=(32, 32), stride=16))
    save(start, tmp_path / "start.safetensors")
    options = TrainOptions(model="small", init=str(tmp_path / "start.safetensors"))
    with pytest.raises(CheckpointError, match="heads|shape"):
        build_model(options.resolved(), names=list("abcde"))


def test_init_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth"):
        build_model(TrainOptions(init="nowhere.pth").resolved(), names=list("abcde"))


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
    content = json.loads((tmp_path / "run" / "not_finite.json").read_text())
    assert len(content["batch"]) == 8
    assert all(Path(path).is_file() for path in content["batch"])
    assert content["losses"]["identity"] in ("nan", "inf")


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


def test_a_run_writes_its_figures_for_tensorboard_too(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(data, replace(QUICK, epochs=1, tensorboard=True), tmp_path / "run")
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"rank1" in events.read_bytes()
    assert b"loss_identity" in events.read_bytes()


def test_selection_on_the_test_part_reads_it_and_says_that_it_is_optimistic(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    write_dataset(folder, DatasetOptions(4, 2, crops=2, test_crops=1, image_size=(32, 32)))
    with caplog.at_level("INFO"):
        report = train(folder, replace(QUICK, recipe="official", batch=8), tmp_path / "run")
    assert "TEST part, as published: its figures are optimistic" in caplog.text
    assert report.selected_by == "test"
    # all four people are learned from, and epoch 1 is before the first that is looked at
    record = read_metadata(report.best)["training"]
    assert record["data"]["identities"] == 4
    assert record["data"]["names"] == ["00000", "00001", "00002", "00003"]
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert ["rank1" in row for row in rows] == [False, True]


def test_without_selection_all_people_are_learned_from_and_the_last_epoch_is_kept(
    data: Path, tmp_path: Path
) -> None:
    report = train(data, replace(QUICK, select="last"), tmp_path / "run")
    assert (report.epoch, report.rank1, report.min_similarity) == (2, None, None)
    assert read_metadata(report.best)["training"]["data"]["identities"] == 8
    assert fingerprint(load(report.best)) == fingerprint(load(report.last))


def test_sysu_is_trained_with_its_cameras_and_scored_as_published(tmp_path: Path) -> None:
    write_sysu(tmp_path / "sysu", train=4, test=2, images=2)
    options = replace(QUICK, dataset="sysu", recipe="official", batch=8, epochs=1)
    report = train(tmp_path / "sysu", options, tmp_path / "run")
    model, record = load(report.best), read_metadata(report.best)
    assert model.options.cameras == 6
    assert [camera["name"] for camera in record["cameras"]] == [f"cam{n}" for n in range(1, 7)]
    assert record["training"]["data"]["dataset"] == "sysu"


def test_regdb_trains_one_split_and_says_which(tmp_path: Path) -> None:
    write_regdb(tmp_path / "regdb", train=6, test=2, images=2)
    options = replace(QUICK, dataset="regdb", split=2, epochs=1, lr=None)
    report = train(tmp_path / "regdb", options, tmp_path / "run")
    record = read_metadata(report.best)
    assert record["training"]["data"]["split"] == 2
    assert record["training"]["options"]["lr"] == 0.008
    assert [camera["name"] for camera in record["cameras"]] == ["thermal", "visible"]


def test_llcm_trains(tmp_path: Path) -> None:
    write_llcm(tmp_path / "llcm", train=6, test=2, images=2)
    report = train(tmp_path / "llcm", replace(QUICK, dataset="llcm", epochs=1), tmp_path / "run")
    assert load(report.best).options.cameras == 17


def test_classifiers_of_init_are_taken_for_the_same_people_alone(
    data: Path, run: Path, tmp_path: Path
) -> None:
    names = read_metadata(run / "best.safetensors")["training"]["data"]["names"]
    options = replace(QUICK, init=str(run / "best.safetensors")).resolved()
    theirs = load(run / "best.safetensors").classifiers[0].weight
    same, _ = build_model(options, names=names)
    others, _ = build_model(options, names=[f"x{name}" for name in names])
    assert torch.equal(same.classifiers[0].weight, theirs)
    assert not torch.equal(others.classifiers[0].weight, theirs)
    assert torch.equal(others.blocks[0].attn.q.weight, same.blocks[0].attn.q.weight)


def test_a_teacher_is_learned_from_and_named_in_the_record(
    data: Path, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taught = replace(QUICK, teacher=str(run / "best.safetensors"), epochs=1)
    report = train(data, taught, tmp_path / "same")
    assert read_metadata(report.best)["training"]["teacher"] == {
        "file": "best.safetensors",
        "compares_scores": True,
    }
    row = json.loads((tmp_path / "same" / "metrics.jsonl").read_text())
    assert row["loss_relation"] > 0
    assert row["loss_logits"] > 0
    # another seed keeps other people aside: the teacher does not know all of these
    report = train(data, replace(taught, seed=3), tmp_path / "other")
    assert read_metadata(report.best)["training"]["teacher"]["compares_scores"] is False
    assert "its scores are not" in caplog.text


def test_fewer_images_than_a_batch_shows_of_a_person_are_told(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(data, replace(QUICK, images=4, epochs=1), tmp_path / "run")
    assert "6 identities have fewer than --images 4 infrared images" in caplog.text


def test_fewer_identities_than_a_batch_shows_is_told_with_the_path(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=r"data: 6 identities .* --batch 64 shows 16 at once"):
        train(data, replace(QUICK, batch=64), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_images_that_cannot_be_read_are_all_told_before_a_run_begins(
    data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    for image in sorted((tmp_path / "data").rglob("000.png"))[:3]:
        image.write_bytes(image.read_bytes()[:40])
    with pytest.raises(ImageError, match=r"3 .*000\.png.*mip-edge data check"):
        train(tmp_path / "data", replace(QUICK, select="last"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
def test_a_gpu_trains_in_half_precision_in_parts_and_resumes(data: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    options = replace(QUICK, device="cuda", amp="on", accumulate=2, ema=0.9)
    train(data, options, tmp_path / "run")
    report = train(data, options, tmp_path / "run", resume=True)
    assert np.isfinite(report.mAP)
