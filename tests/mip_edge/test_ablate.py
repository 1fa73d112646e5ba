"""The ablation: what each variant leaves out, and the one table of all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mip_edge.ablate import AblationReport, Variant, ablate, format_ablation
from mip_edge.checkpoint import load
from mip_edge.cli import cli
from mip_edge.errors import OptionError
from mip_edge.recipe import TrainOptions
from mip_edge.synthetic.world import DatasetOptions, write_dataset

FLAGS = (
    "--model tiny --image-size 32 32 --stride 16 --epochs 1 --batch 8 --images 2 --amp off "
    "--select last --threads 1"
)


def test_variants_leave_out_what_they_say_and_one_table_has_their_figures(tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "runs"
    write_dataset(data, DatasetOptions(4, 2, crops=2, test_crops=1, image_size=(32, 32)))
    arguments = ["ablate", str(data), *FLAGS.split(), "-o", str(folder), "--json"]
    chosen = ["--variant", "baseline", "--variant", "no IPG"]
    result = CliRunner().invoke(cli, [*arguments, *chosen])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["seeds"] == [1234]
    assert [one["name"] for one in report["variants"]] == ["baseline", "no IPG"]
    baseline, other = (
        load(folder / name / "best.safetensors").options
        for name in ("baseline-1234", "no-IPG-1234")
    )
    assert (baseline.modality_prompts, baseline.instance_prompts) == (False, False)
    assert (other.modality_prompts, other.instance_prompts, other.iael) == (True, False, False)
    assert json.loads((folder / "ablation.json").read_text()) == report
    assert (folder / "ablation.md").read_text().count("\n| ") == 3
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_ablation_trains_nothing_that_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, folder = tmp_path / "data", tmp_path / "runs"
    write_dataset(data, DatasetOptions(4, 2, crops=2, test_crops=1, image_size=(32, 32)))
    arguments = ["ablate", str(data), *FLAGS.split(), "--variant", "baseline", "-o", str(folder)]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    before = (folder / "ablation.md").read_text().splitlines()
    monkeypatch.setattr("mip_edge.train.augment", None)  # no step can be made
    result = CliRunner().invoke(cli, [*arguments, "--resume"])
    assert result.exit_code == 0, result.output
    rates = [line.split("|")[:-2] for line in (folder / "ablation.md").read_text().splitlines()]
    assert rates == [line.split("|")[:-2] for line in before]  # all but the seconds


def test_the_table_has_means_and_sample_deviations_over_the_seeds() -> None:
    rates = {"rank1": [[0.1, 0.3]], "mAP": [[0.5, 0.5]], "mINP": [[0.0, 0.2]]}
    variant = Variant("full", ("there",), rates, 7.0)
    table = format_ablation(AblationReport((variant,), (1, 2), Path("a"), Path("b")))
    # of 10 and 30 per cent: mean 20, deviation sqrt(200) = 14.1
    assert "| full | 20.0 ± 14.1 | 50.0 ± 0.0 | 10.0 ± 14.1 | 7 |" in table


def test_a_variant_that_does_not_exist_is_refused_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="'no head' does not exist; there are: baseline"):
        ablate(tmp_path, TrainOptions(), tmp_path / "runs", variants=["no head"])
    assert not (tmp_path / "runs").exists()
