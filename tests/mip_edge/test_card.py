"""A card tells what the checkpoint knows of itself and what was measured, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="a card reads a checkpoint")

from mip_edge import checkpoint
from mip_edge.card.evidence import read_evidence
from mip_edge.card.model_card import card_of, format_card, write_card
from mip_edge.card.subject import Subject
from mip_edge.cli import cli
from mip_edge.errors import CheckpointError, OptionError, OutputError
from mip_edge.hub import PINNED

SECTIONS = [
    "What it is",
    "Data and licence",
    "Training",
    "Evaluation",
    "Intended uses",
    "Excluded uses",
    "Limits",
    "Biases",
    "Never measured",
    "How to reproduce",
]
MEAN = {"rank1": 0.7084, "rank5": 0.9, "rank10": 0.95, "rank20": 0.98, "mAP": 0.6641, "mINP": 0.5}
DEVIATION = {"rank1": 0.0123, "mAP": 0.0077}
STARTER = Path(checkpoint.__file__).parent / "assets" / "mip_tiny_synthetic.safetensors"


@pytest.fixture
def weights(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_checkpoint, tmp_path / "best.safetensors"))


@pytest.fixture(scope="module")
def fingerprint(tiny_checkpoint: Path) -> str:
    return checkpoint.fingerprint(checkpoint.load(tiny_checkpoint))


def by_protocol(fingerprint: str, **changed: Any) -> dict[str, Any]:
    entry = {
        "protocol": "sysu-all-single",
        "title": "all search, single-shot",
        "query_modality": "infrared",
        "gallery_modality": "visible",
        "reranked": None,
        "mean": {**MEAN, "queries": 3803.0, "gallery": 301.0},
        "deviation": DEVIATION,
        "runs": [{"run": f"seed {seed}"} for seed in range(10)],
    }
    return {
        "model": "somewhere/best.safetensors",
        "fingerprints": [fingerprint],
        "dataset": "sysu",
        "data": "/home/me/SYSU-MM01",
        "camera": {"policy": "own", "reason": "the model knows its cameras"},
        "results": [entry | changed],
    }


def write_json(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def subject_of(training: dict[str, Any]) -> Subject:
    record = {"options": {"width": 48, "heads": 3, "image_size": [64, 32]}, "training": training}
    return Subject("best.safetensors", 1234, "f" * 64, 5678, record)


def section(card: str, title: str) -> str:
    found = re.search(rf"^## {title}\n\n(.*?)(?=\n\n## |\Z)", card, re.S | re.M)
    assert found is not None
    return found[1]


def test_the_card_has_every_section_and_calls_the_unknown_unknown(weights: Path) -> None:
    report = write_card(weights)
    card = report.path.read_text(encoding="utf-8")
    assert report.path == weights.with_suffix(".md")
    assert re.findall(r"^## (.*)$", card, re.M) == SECTIONS
    assert all(section(card, title).strip() for title in SECTIONS)
    assert "None" not in card.replace("None was given", "")
    assert "Licence of these weights: CC0-1.0" in section(card, "Data and licence")
    assert "Terms of the training data: unknown" in section(card, "Data and licence")
    assert "none: random weights" in section(card, "Data and licence")
    assert "the accuracy is unknown" in section(card, "Evaluation")
    assert "gate (visible), hall (visible), night (infrared)" in section(card, "What it is")
    assert set(report.unknown) >= {"evaluation", "terms of the training data"}


def test_parameters_size_and_fingerprint_are_those_of_the_file(
    weights: Path, fingerprint: str
) -> None:
    report = write_card(weights)
    known = section(report.path.read_text(encoding="utf-8"), "What it is")
    count = sum(one.numel() for one in checkpoint.load(weights).parameters())
    assert f"| parameters | {count:,} |" in known
    assert f"{weights.stat().st_size:,} bytes" in known
    assert f"Fingerprint: `{fingerprint}`" in known
    assert (report.parameters, report.fingerprint) == (count, fingerprint)


def test_figures_are_those_of_the_evaluation_with_their_deviation(
    weights: Path, fingerprint: str
) -> None:
    evaluation = write_json(weights.with_name("sysu.json"), by_protocol(fingerprint))
    card = write_card(weights, evaluations=[evaluation]).path.read_text(encoding="utf-8")
    (row,) = [line for line in card.splitlines() if line.startswith("| all search")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "all search, single-shot",
        *("70.8 ± 1.2", "90.0", "95.0", "98.0", "66.4 ± 0.8", "50.0"),
        *("10", "3803", "301", "no"),
    ]
    assert "On `SYSU-MM01` (sysu), camera embedding: own." in card
    assert "/home/me" not in card


def test_figures_of_a_direction_without_deviation_are_read_too(
    weights: Path, fingerprint: str
) -> None:
    direction = {"query_modality": "visible", "gallery_modality": "infrared", **MEAN}
    document = {"fingerprint": fingerprint, "data": "data", "directions": [direction]}
    evaluation = write_json(weights.with_name("folder.json"), document)
    card = write_card(weights, evaluations=[evaluation]).path.read_text(encoding="utf-8")
    assert "| visible to infrared | 70.8 | 90.0 | 95.0 | 98.0 | 66.4 | 50.0 | 1 |" in card
    assert "| not stated |" in card


def test_figures_of_all_splits_say_that_they_are_of_several_models(
    weights: Path, fingerprint: str
) -> None:
    document = by_protocol("a" * 64) | {"fingerprints": ["a" * 64, fingerprint]}
    evaluation = write_json(weights.with_name("splits.json"), document)
    card = write_card(weights, evaluations=[evaluation]).path.read_text(encoding="utf-8")
    assert "of 2 models, one for each split, this among them" in card


def test_re_ranked_figures_say_so(weights: Path, fingerprint: str) -> None:
    document = by_protocol(fingerprint, reranked={"k1": 20, "k2": 6, "lambda": 0.3})
    evaluation = write_json(weights.with_name("reranked.json"), document)
    card = write_card(weights, evaluations=[evaluation]).path.read_text(encoding="utf-8")
    assert "| 3803 | 301 | yes |" in card


def test_the_figures_that_scoring_prints_are_understood(fingerprint: str, tmp_path: Path) -> None:
    from mip_edge.evaluate.protocol import protocols_of
    from mip_edge.evaluate.scoring import ProtocolResult
    from mip_edge.metrics import evaluate_ranking

    # First run: both queries right at once; second: only one of two.
    right = evaluate_ranking([[0, 1], [1, 0]], ["a", "b"], ["a", "b"])
    half = evaluate_ranking([[0, 1], [0, 1]], ["a", "b"], ["a", "b"])
    result = ProtocolResult(protocols_of("folder")[0], (right, half), ("split 1", "split 2"))
    document = {"fingerprint": fingerprint, "data": "x", "results": [result.figures()]}
    (found,) = read_evidence(write_json(tmp_path / "e.json", document)).results
    assert (found.mean["rank1"], found.mean["mAP"], found.runs) == (3 / 4, 7 / 8, 2)
    assert found.deviation["rank1"] == pytest.approx((1 / 8) ** 0.5)
    assert found.reranked == "no"


def test_an_evaluation_of_another_model_is_refused_and_nothing_written(weights: Path) -> None:
    evaluation = write_json(weights.with_name("other.json"), by_protocol("a" * 64))
    with pytest.raises(OptionError, match=r"other.json is of the model aaaaaaaaaaaa, .*best"):
        write_card(weights, evaluations=[evaluation])
    assert not weights.with_suffix(".md").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("no json", "cannot be read as JSON"),
        ("[]", "holds no evaluation"),
        ('{"results": []}', "names the fingerprint of no model"),
        ('{"fingerprint": "a", "directions": []}', "holds figures of another kind|no figures"),
        ('{"fingerprint": "a", "protocols": [{"mean": {"rank1": 1}}]}', "figures of another kind"),
        ('{"fingerprint": "a", "protocols": [{"mean": 3}]}', "figures of another kind"),
    ],
)
def test_a_file_that_is_no_evaluation_is_told(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(OptionError, match=expected) as told:
        read_evidence(path)
    assert "mip-edge evaluate" in str(told.value)


def test_an_existing_card_is_refused_and_replaced_with_overwrite(weights: Path) -> None:
    weights.with_suffix(".md").write_text("written by hand", encoding="utf-8")
    with pytest.raises(OutputError, match="best.md exists already.*--overwrite"):
        write_card(weights)
    assert weights.with_suffix(".md").read_text(encoding="utf-8") == "written by hand"
    write_card(weights, overwrite=True)
    assert "## Limits" in weights.with_suffix(".md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "training", [{"selected_by": "test"}, {"recipe": "official"}, {"options": {"select": "test"}}]
)
def test_a_checkpoint_chosen_on_test_data_is_called_so(training: dict[str, Any]) -> None:
    told = section(format_card(subject_of(training)), "Training")
    assert "TEST part" in told
    assert "optimistic" in told


def test_the_recipe_official_with_another_selection_is_not_accused() -> None:
    training = {"recipe": "official", "selected_by": "validation"}
    told = section(format_card(subject_of(training)), "Training")
    assert "TEST" not in told
    assert "identities kept aside" in told


def test_a_public_data_set_and_its_start_are_named_with_their_terms() -> None:
    repository = "google/vit-base-patch16-224"
    training = {
        "data": {"dataset": "regdb", "folder": "RegDB", "split": 3, "identities": 206},
        "init_weights": {
            "repository": repository,
            "commit": PINNED[repository].commit,
            "licence": PINNED[repository].licence,
        },
    }
    card = format_card(subject_of(training))
    told = section(card, "Data and licence")
    assert "RegDB, 412 real people" in told
    assert "Split: 3." in told
    assert "has terms of its own" in told
    assert f"{repository}@{PINNED[repository].commit} (licence: Apache-2.0)" in told
    assert "\ndatasets:\n- RegDB\n" in card


def test_the_terms_that_the_user_states_are_written() -> None:
    card = format_card(subject_of({}), data_licence="research only, agreement of 2024")
    assert "Terms of the training data: research only, agreement of 2024." in card


def test_a_synthetic_checkpoint_excludes_real_people() -> None:
    synthetic = subject_of({"data": "synthetic people of mip_edge.synthetic"})
    assert "Real people at all" in section(format_card(synthetic), "Excluded uses")
    real = subject_of({"data": {"dataset": "sysu"}})
    assert "Real people at all" not in section(format_card(real), "Excluded uses")


def test_the_command_line_has_what_is_learned_from_and_no_folder_of_the_machine() -> None:
    options = {
        "dataset": "sysu",
        "init": "/home/me/secret/vit.safetensors",
        "image_size": [256, 128],
        "iael": False,
        "lr": 0.01,
        "stride": None,
        "cache": "/scratch/me",
        "device": "cuda:3",
    }
    card = format_card(subject_of({"options": options}))
    command = "mip-edge train DATA --dataset sysu --init vit.safetensors --image-size 256 128"
    assert f"    {command} --no-iael --lr 0.01 -o RUN\n" in card
    assert "/home" not in card
    assert "scratch" not in card


def test_the_hub_understands_the_head(weights: Path, fingerprint: str) -> None:
    pytest.importorskip("yaml", reason="the hub's library brings it")
    hub = pytest.importorskip("huggingface_hub", reason="the extra train brings it")
    evaluation = write_json(weights.with_name("sysu.json"), by_protocol(fingerprint))
    report = write_card(weights, evaluations=[evaluation])
    data = hub.ModelCard(report.path.read_text(encoding="utf-8")).data
    assert data.license == "cc0-1.0"
    assert "person-re-identification" in data.tags
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    expected = {"rank-1": "rank1", "rank-20": "rank20", "map": "mAP", "minp": "mINP"}
    for kind, key in expected.items():
        assert found[kind] == pytest.approx(100 * MEAN[key])
    assert {result.dataset_type for result in data.eval_results} == {"sysu"}


def test_the_shipped_checkpoint_keeps_the_card_that_comes_with_it() -> None:
    card = card_of(STARTER, checkpoint.load(STARTER), checkpoint.read_metadata(STARTER))
    assert card == STARTER.with_suffix(".md").read_bytes()


def test_a_card_left_from_another_model_is_refused(weights: Path, fingerprint: str) -> None:
    write_card(weights)
    model, record = checkpoint.load(weights), checkpoint.read_metadata(weights)
    assert card_of(weights, model, record) == weights.with_suffix(".md").read_bytes()
    stale = weights.with_suffix(".md").read_text(encoding="utf-8").replace(fingerprint, "b" * 64)
    weights.with_suffix(".md").write_text(stale, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"best.md is the card of another model.*--overwrite"):
        card_of(weights, model, record)


def test_command_writes_the_card_and_prints_json(weights: Path, fingerprint: str) -> None:
    evaluation = write_json(weights.with_name("sysu.json"), by_protocol(fingerprint))
    target = weights.with_name("MODEL.md")
    arguments = ["card", str(weights), "--evaluation", str(evaluation), "-o", str(target)]
    result = CliRunner().invoke(cli, [*arguments, "--data-licence", "research only", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["path"] == str(target)
    assert document["fingerprint"] == fingerprint
    assert document["evaluations"] == 1
    assert "research only" in target.read_text(encoding="utf-8")
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
