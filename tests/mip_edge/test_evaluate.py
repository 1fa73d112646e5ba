"""Evaluation from folders of images to a table, with an embedder that reads the tone of a crop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mip_edge.cli import cli
from mip_edge.data.dataset import Sample
from mip_edge.data.folder import read_folder
from mip_edge.data.image import read_image, write_image
from mip_edge.errors import DatasetError, OptionError, OutputError
from mip_edge.evaluate.evaluation import (
    draw_ranked_lists,
    embed_samples,
    evaluate_embeddings,
    evaluate_model,
    format_table,
)
from mip_edge.spec import Crop, Embeddings, Modality

TONES = {"anna": 20, "bert": 90, "cleo": 160, "dora": 230}


class ToneEmbedder:
    """Equal tones give equal embeddings, and the farther apart two tones are the less alike."""

    fingerprint = "f" * 64
    dimension = 2

    def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
        angles = np.array([crop.mean() / 255 * np.pi / 2 for crop in crops])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four people, two images each; Bert's visible gallery images have the tone of Cleo."""
    for part in ("query", "gallery"):
        for modality in Modality:
            for identity, tone in TONES.items():
                mixed_up = (part, modality, identity) == ("gallery", Modality.VISIBLE, "bert")
                shown = TONES["cleo"] + 2 if mixed_up else tone
                for number in range(2):
                    path = tmp_path / "data" / part / modality.value / identity / f"{number}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_image(path, np.full((24, 12, 3), shown + number, dtype=np.uint8))
    return tmp_path / "data"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every model opens as a ToneEmbedder; gives the engines that were asked for."""
    engines: list[str] = []

    def open_tones(path: str | Path, engine: str) -> nullcontext[ToneEmbedder]:
        engines.append(engine)
        return nullcontext(ToneEmbedder())

    monkeypatch.setattr("mip_edge.evaluate.evaluation.Embedder.open", open_tones)
    return engines


def test_both_directions_are_worked_out_from_their_own_galleries(root: Path) -> None:
    dataset = read_folder(root, parts=("query", "gallery"))
    embedder = ToneEmbedder()
    infrared, visible = evaluate_embeddings(
        embed_samples(embedder, dataset.query, batch=3),
        dataset.query,
        embed_samples(embedder, dataset.gallery),
        dataset.gallery,
    )
    assert (infrared.name, visible.name) == ("infrared to visible", "visible to infrared")
    assert (infrared.ranking.queries, infrared.ranking.gallery) == (8, 8)
    # Anna and Dora find themselves, Cleo too (nearest by one grey level), Bert never first
    assert infrared.ranking.rank1 == 6 / 8
    assert visible.ranking.rank1 == visible.ranking.mAP == visible.ranking.mINP == 1.0
    assert infrared.ranking.chance_rank1 == 2 / 8


def test_a_query_never_meets_its_own_light() -> None:
    # in its own light each finds itself, in the other each finds the other one
    rows = np.eye(2, dtype=np.float32)
    samples = [
        Sample(Path("a.png"), "a", Modality.INFRARED),
        Sample(Path("b.png"), "b", Modality.INFRARED),
        Sample(Path("a.png"), "a", Modality.VISIBLE),
        Sample(Path("b.png"), "b", Modality.VISIBLE),
    ]
    embeddings = np.concatenate([rows, rows[::-1]])
    for direction in evaluate_embeddings(embeddings, samples, embeddings, samples):
        assert direction.ranking.rank1 == 0.0
        assert direction.ranking.mAP == 0.5


def test_embeddings_without_one_light_are_refused() -> None:
    samples = [Sample(Path("a.png"), "a", Modality.INFRARED)]
    row = np.ones((1, 1), dtype=np.float32)
    with pytest.raises(DatasetError, match="the gallery part has no visible images"):
        evaluate_embeddings(row, samples, row, samples)


def test_the_table_and_the_report_say_the_same(root: Path, opened: list[str]) -> None:
    report = evaluate_model("model.safetensors", root)
    text = format_table(report)
    assert "infrared to visible    75.0" in text
    assert "visible to infrared   100.0" in text
    figures = report.figures()
    assert figures["fingerprint"] == "f" * 64
    assert json.loads(json.dumps(figures)) == figures


def test_an_engine_is_chosen_by_the_kind_of_model_unless_named(
    root: Path, opened: list[str]
) -> None:
    evaluate_model("model.safetensors", root)
    evaluate_model("bundle", root)
    evaluate_model("bundle", root, engine="openvino")
    assert opened == ["torch", "onnxruntime", "openvino"]


def test_a_query_of_a_stranger_is_told(root: Path, opened: list[str]) -> None:
    for modality in Modality:
        path = root / "query" / modality.value / "stranger" / "0.png"
        path.parent.mkdir()
        write_image(path, np.full((24, 12, 3), 200, dtype=np.uint8))
    assert "2 queries have nobody of theirs in the gallery" in format_table(
        evaluate_model("bundle", root)
    )


def test_the_command_prints_json_and_writes_the_picture(root: Path, opened: list[str]) -> None:
    picture = root.parent / "ranked.png"
    model = root.parent / "model.safetensors"
    model.touch()
    call = ["evaluate", str(model), str(root), "--json", "--picture", str(picture)]
    done = CliRunner().invoke(cli, [*call, "--picture-queries", "3"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert figures["directions"][0]["rank1"] == 0.75
    assert figures["directions"][0]["query_modality"] == "infrared"
    assert figures["picture"] == str(picture)
    assert read_image(picture).shape[2] == 3

    again = CliRunner().invoke(cli, call)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert CliRunner().invoke(cli, [*call, "--overwrite"]).exit_code == 0


def test_a_picture_that_cannot_be_written_is_refused_before_the_work(
    root: Path, opened: list[str]
) -> None:
    with pytest.raises(OutputError, match="no image suffix"):
        evaluate_model("bundle", root, picture=root.parent / "ranked.gif")
    with pytest.raises(OutputError, match="does not exist"):
        evaluate_model("bundle", root, picture=root.parent / "nowhere" / "ranked.png")
    assert opened == []


def test_the_picture_shows_different_people(root: Path) -> None:
    dataset = read_folder(root, parts=("query", "gallery"))
    query = embed_samples(ToneEmbedder(), dataset.query)
    gallery = embed_samples(ToneEmbedder(), dataset.gallery)
    two, four, many = (
        draw_ranked_lists(query, gallery, dataset, queries=queries).shape[0]
        for queries in (2, 4, 99)
    )
    assert two < four == many
    with pytest.raises(OptionError, match="--picture-queries must be at least 1, got 0"):
        draw_ranked_lists(query, gallery, dataset, queries=0)


def test_a_checkpoint_is_evaluated_from_end_to_end(root: Path) -> None:
    pytest.importorskip("torch", reason="a checkpoint needs torch")
    from mip_edge import checkpoint
    from mip_edge.model.mip import MIP
    from mip_edge.model.options import MIPOptions

    path = root.parent / "small.safetensors"
    options = MIPOptions(width=16, depth=12, heads=2, image_size=(64, 32), stride=16)
    checkpoint.save(MIP(options), path)
    report = evaluate_model(path, root, batch=4)
    assert len(report.fingerprint) == 64
    assert [direction.ranking.queries for direction in report.directions] == [8, 8]
