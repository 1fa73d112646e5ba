"""Pre-training on synthetic people: it learns, resumes exactly, and tests on others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mip_edge import pretrain as module
from mip_edge.checkpoint import fingerprint, load, read_metadata
from mip_edge.errors import CheckpointError, OptionError
from mip_edge.pretrain import TEST_WORLD, PretrainOptions, build_model, contrast, measure, pretrain

QUICK = PretrainOptions(
    image_size=(32, 32),
    steps=4,
    people=4,
    warmup=2,
    contrast_start=2,
    evaluate_every=2,
    test_people=4,
    threads=1,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(QUICK, folder)
    return folder


def test_a_run_leaves_a_float16_checkpoint_with_one_head_stored(run: Path) -> None:
    path = run / "checkpoint.safetensors"
    model = load(path)
    assert torch.equal(
        model.head.local_block.mlp.fc1.weight, model.head.global_block.mlp.fc1.weight
    )
    assert read_metadata(path)["training"]["pretrain"]["steps"] == 4
    assert path.stat().st_size < 12_000_000
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert "contrast" not in rows[0]
    assert "contrast" in rows[1]


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = module._keep

    def keep_and_stop(*arguments: object) -> None:
        keep(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_keep", keep_and_stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(QUICK, tmp_path / "cut")
    monkeypatch.undo()
    path = pretrain(QUICK, tmp_path / "cut", resume=True)
    assert fingerprint(load(path)) == fingerprint(load(run / "checkpoint.safetensors"))


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="without --resume"):
        pretrain(QUICK, tmp_path, resume=True)


def test_an_untrained_network_is_near_chance() -> None:
    torch.manual_seed(0)
    figures = measure(build_model(QUICK), people=40)
    assert figures["rank1"] < 0.12
    assert figures["mAP"] < 0.15


def test_contrast_is_least_when_the_two_crops_of_a_person_agree() -> None:
    people = torch.eye(4)
    agreeing = contrast(torch.cat([people, people]), 0.1)
    swapped = contrast(torch.cat([people, people.roll(1, 0)]), 0.1)
    assert agreeing < 1e-3 < swapped


def test_the_learning_rate_rises_holds_and_falls() -> None:
    options = PretrainOptions(steps=1000, warmup=100, lr=1.0)
    assert options.lr_at(0) == pytest.approx(0.01)
    assert options.lr_at(500) == 1.0
    assert options.lr_at(875) == pytest.approx(0.5)


def test_nobody_trains_on_the_test_people() -> None:
    with pytest.raises(OptionError, match="test people"):
        PretrainOptions(seed=TEST_WORLD)
