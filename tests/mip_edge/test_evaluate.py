"""Evaluation from folders of images to a table, with an embedder that reads the tone of a crop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mip_edge.artifact import open_bundle
from mip_edge.cli import cli
from mip_edge.data.dataset import Sample
from mip_edge.data.folder import read_folder
from mip_edge.data.image import read_image, write_image
from mip_edge.data.readers import read_dataset
from mip_edge.errors import DatasetError, GalleryError, OptionError, OutputError
from mip_edge.evaluate.camera import CameraPolicy, choose_policy
from mip_edge.evaluate.embed import embed_dataset
from mip_edge.evaluate.evaluation import (
    EvaluateOptions,
    embed_samples,
    evaluate_embeddings,
    evaluate_model,
    format_table,
)
from mip_edge.evaluate.protocol import choose_protocols
from mip_edge.evaluate.ranked import draw_ranked_lists
from mip_edge.evaluate.scoring import pool
from mip_edge.open_set import FARS, OpenSet
from mip_edge.spec import Crop, Embeddings, Modality
from tests.mip_edge.trees import write_llcm, write_regdb, write_sysu

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
    """Every model opens as a ToneEmbedder and says nothing of itself; gives the engines that were
    asked for."""
    engines: list[str] = []

    def open_tones(path: str | Path, engine: str, *, precision: str) -> nullcontext[ToneEmbedder]:
        engines.append(engine if precision == "fp32" else f"{engine} in {precision}")
        return nullcontext(ToneEmbedder())

    monkeypatch.setattr("mip_edge.evaluate.embed.Embedder.open", open_tones)
    monkeypatch.setattr("mip_edge.checkpoint.read_metadata", lambda path: {})
    monkeypatch.setattr(
        "mip_edge.evaluate.camera.read_baked", lambda path: CameraPolicy("mean", "made up")
    )
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
    assert figures["fingerprints"] == ["f" * 64]
    assert json.loads(json.dumps(figures)) == figures


def test_a_gallery_without_everybody_is_scored_beside(root: Path, opened: list[str]) -> None:
    report = evaluate_model("model.safetensors", root, EvaluateOptions(rerank=True))
    infrared, reranked = report.results[:2]
    # 8 queries x 8 items: 16 pairs of one person; 48 of two are too few for FAR 0.1
    (found,) = infrared.open_sets
    assert (found.genuine_pairs, found.impostor_pairs, found.strangers) == (16, 48, 4)
    assert infrared.open_set() == {name: dict.fromkeys(FARS) for name in ("tar", "dir")}
    assert reranked.open_sets == ()
    figures = report.figures()["results"]
    assert figures[0]["open_set"]["mean"]["tar"] == {"0.1": None, "0.01": None, "0.001": None}
    assert figures[1]["open_set"] is None
    table = format_table(report)
    line = next(one for one in table.splitlines() if one.startswith("not all enrolled"))
    assert line.split()[3:] == [f"{name}@{far:g}" for name in ("TAR", "DIR") for far in FARS]
    assert "infrared to visible      few" in table


def test_open_set_rates_are_means_over_runs_that_all_can_tell(
    root: Path, opened: list[str]
) -> None:
    (result, _) = evaluate_model("model.safetensors", root).results
    first = OpenSet({0.1: 0.5, 0.01: 0.25, 0.001: None}, dict.fromkeys(FARS), 1, 1, 1)
    second = OpenSet({0.1: 1.0, 0.01: None, 0.001: None}, dict.fromkeys(FARS), 1, 1, 1)
    pooled = pool([replace(result, open_sets=(one,)) for one in (first, second)], ["a", "b"])
    means = pooled.open_set()
    assert means is not None
    assert means["tar"] == {0.1: 3 / 4, 0.01: None, 0.001: None}


def test_an_engine_is_chosen_by_the_kind_of_model_unless_named(
    root: Path, opened: list[str]
) -> None:
    evaluate_model("model.safetensors", root)
    evaluate_model("bundle", root)
    evaluate_model("bundle", root, engine="openvino", precision="fp16")
    assert opened == ["torch", "onnxruntime", "openvino in fp16"]


def test_a_query_of_a_stranger_is_told(root: Path, opened: list[str]) -> None:
    for modality in Modality:
        path = root / "query" / modality.value / "stranger" / "0.png"
        path.parent.mkdir()
        write_image(path, np.full((24, 12, 3), 200, dtype=np.uint8))
    report = evaluate_model("bundle", root)
    assert [direction.ranking.skipped for direction in report.directions] == [1, 1]
    assert "Skipped queries have nobody of theirs in the gallery" in format_table(report)


def test_the_command_prints_json_and_writes_the_picture(root: Path, opened: list[str]) -> None:
    picture = root.parent / "ranked.png"
    model = root.parent / "model.safetensors"
    model.touch()
    call = ["evaluate", str(model), str(root), "--json", "--picture", str(picture)]
    done = CliRunner().invoke(cli, [*call, "--picture-queries", "3"])
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    infrared = figures["results"][0]
    assert infrared["protocol"] == "folder-infrared-to-visible"
    assert infrared["mean"]["rank1"] == infrared["runs"][0]["rank1"] == 0.75
    assert infrared["deviation"] is None
    assert figures["picture"] == str(picture)
    assert read_image(picture).shape[2] == 3

    again = CliRunner().invoke(cli, call)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert CliRunner().invoke(cli, [*call, "--overwrite", "--precision", "fp16"]).exit_code == 0
    assert opened == ["torch", "torch in fp16"]


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
    assert len(report.fingerprints[0]) == 64
    assert [direction.ranking.queries for direction in report.directions] == [8, 8]


FIELD = {"sysu": 10, "regdb": 1, "llcm": 10}
"""Trials of the protocols."""


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small tree of each data set of the field."""
    root = tmp_path_factory.mktemp("trees")
    return {
        "sysu": write_sysu(root / "sysu", test=3, images=3),
        "regdb": write_regdb(root / "regdb"),
        "llcm": write_llcm(root / "llcm"),
    }


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["evaluate", *map(str, words)])


@pytest.fixture
def model(tmp_path: Path, opened: list[str]) -> Path:
    """A checkpoint that says nothing of itself, and opens as a ToneEmbedder."""
    path = tmp_path / "model.safetensors"
    path.touch()
    return path


@pytest.mark.parametrize("dataset", FIELD)
def test_every_data_set_of_the_field_is_scored_by_its_protocols(
    dataset: str, trees: dict[str, Path], model: Path, opened: list[str]
) -> None:
    done = run(model, trees[dataset], "--dataset", dataset, "--json")
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)["results"]
    assert [result["protocol"] for result in results] == [
        one.name for one in choose_protocols(dataset)
    ]
    for result in results:
        assert len(result["runs"]) == FIELD[dataset]
        assert (result["deviation"] is None) == (FIELD[dataset] == 1)
        mean = np.mean([one["mAP"] for one in result["runs"]])
        assert result["mean"]["mAP"] == pytest.approx(mean)
    assert len(opened) == 1


def test_the_table_shows_deviation_official_rows_and_re_ranked_rows_beside_the_plain(
    trees: dict[str, Path], model: Path
) -> None:
    call = (model, trees["sysu"], "--dataset", "sysu", "--trials", 3, "--rerank")
    done = run(*call, "--protocol", "official-mip-all-single")
    assert done.exit_code == 0, done.output
    names = [line[:60].split("  ")[0] for line in done.stdout.splitlines()[1:5]]
    title = "all search, single-shot"
    assert names == [
        title,
        f"{title}, re-ranked",
        f"{title}, official MIP scoring",
        f"{title}, official MIP scoring, re-ranked",
    ]
    plain, _, official = done.stdout.splitlines()[1:4]
    assert plain.count("±") == 6
    assert plain.endswith(" 3")
    assert "±" not in official
    assert "sample standard deviation over the runs: seed 0 to seed 2" in done.stdout
    done = run(*call, "--protocol", "sysu-all-single", "--json")
    results = json.loads(done.stdout)["results"]
    constants = {"k1": 20, "k2": 6, "lambda": 0.3}
    assert [result["reranked"] for result in results] == [None, constants]


def test_saved_embeddings_score_as_the_model_did(trees: dict[str, Path], model: Path) -> None:
    saved = model.parent / "rows.npz"
    tree = ("--dataset", "sysu", "--json")
    first = run(model, trees["sysu"], *tree, "--save-embeddings", saved)
    assert first.exit_code == 0, first.output
    again = run(saved, trees["sysu"], *tree)
    assert again.exit_code == 0, again.output
    one, other = json.loads(first.stdout), json.loads(again.stdout)
    assert other["results"] == one["results"]
    assert other["fingerprints"] == one["fingerprints"] == ["f" * 64]
    # rows of any order, as another program may write them
    with np.load(saved) as stored:
        arrays = {name: stored[name] for name in stored.files}
    turned = {name: arrays[name][::-1] for name in ("embeddings", "paths")}
    np.savez(saved, **{**arrays, **turned})
    assert json.loads(run(saved, trees["sysu"], *tree).stdout)["results"] == one["results"]
    taken = run(model, trees["sysu"], *tree, "--save-embeddings", saved)
    assert taken.exit_code == 1
    assert "--overwrite" in taken.stderr


def test_saved_query_and_gallery_of_a_folder_are_told_apart(root: Path, opened: list[str]) -> None:
    saved = root.parent / "rows.npz"
    first = evaluate_model("bundle", root, save_embeddings=saved)
    assert evaluate_model(saved, root).results == first.results


def test_saved_embeddings_that_do_not_fit_are_refused(trees: dict[str, Path], model: Path) -> None:
    saved = model.parent / "rows.npz"
    options = EvaluateOptions("regdb")
    evaluate_model(model, trees["regdb"], options, save_embeddings=saved)
    with pytest.raises(
        GalleryError, match=r"rows.npz holds other images than .*regdb: \d+ are not"
    ):
        evaluate_model(saved, trees["regdb"], EvaluateOptions("regdb", split=2))
    with np.load(saved) as stored:
        arrays = {name: stored[name] for name in stored.files}
    for change, message in (
        ({"embeddings": arrays["embeddings"] * 2}, "not of unit length"),
        ({"embeddings": arrays["embeddings"] * np.nan}, "not of unit length"),
        ({"embeddings": arrays["embeddings"][1:]}, "expected .N, D. for N images"),
        ({"fingerprint": ""}, "names no model"),
    ):
        np.savez(saved, **{**arrays, **change})
        with pytest.raises(GalleryError, match=message):
            evaluate_model(saved, trees["regdb"], options)
    saved.write_text("no zip")
    with pytest.raises(GalleryError, match="holds no embeddings that can be read") as caught:
        evaluate_model(saved, trees["regdb"], options)
    assert "pickle" not in str(caught.value)  # numpy's advice is to load it unsafely
    np.savez(saved, embeddings=arrays["embeddings"])
    with pytest.raises(GalleryError, match="holds no embeddings that can be read"):
        evaluate_model(saved, trees["regdb"], options)
    with pytest.raises(OptionError, match="--camera, --engine and --precision are for"):
        evaluate_model(saved, trees["regdb"], EvaluateOptions("regdb", camera="mean"))
    with pytest.raises(OptionError, match="--precision are for a checkpoint"):
        evaluate_model(saved, trees["regdb"], options, precision="fp16")


def test_all_splits_of_regdb_take_a_model_each(trees: dict[str, Path], model: Path) -> None:
    for split in range(1, 11):
        (model.parent / f"run-{split}.safetensors").touch()
    template = model.parent / "run-{split}.safetensors"
    done = run(template, trees["regdb"], "--dataset", "regdb", "--split", "all", "--json")
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)
    assert len(figures["fingerprints"]) == 10
    for number, result in enumerate(figures["results"]):
        assert [one["run"] for one in result["runs"]] == [f"split {n}" for n in range(1, 11)]
        alone = run(template, trees["regdb"], "--dataset", "regdb", "--split", 4, "--json")
        assert json.loads(alone.stdout)["results"][number]["mean"]["mAP"] == pytest.approx(
            result["runs"][3]["mAP"]
        )
    for words, message in (
        ((model, "--dataset", "regdb"), "with {split} for its number"),
        ((template, "--dataset", "sysu"), "--split all is for RegDB"),
        ((model.parent / "gone-{split}.safetensors", "--dataset", "regdb"), "10 of 10 models are"),
    ):
        wrong = run(words[0], trees["regdb"], *words[1:], "--split", "all")
        assert wrong.exit_code == 1
        assert message in wrong.stderr


def test_a_model_of_another_split_is_refused(
    trees: dict[str, Path], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = {"training": {"data": {"dataset": "regdb", "split": 3}}}
    monkeypatch.setattr("mip_edge.checkpoint.read_metadata", lambda path: record)
    wrong = run(model, trees["regdb"], "--dataset", "regdb", "--split", 5)
    assert wrong.exit_code == 1
    assert "was trained on split 3 of regdb" in wrong.stderr
    assert "test people of split 5: evaluate it with --split 3" in wrong.stderr
    assert run(model, trees["regdb"], "--dataset", "regdb", "--split", 3).exit_code == 0


def test_each_image_gets_its_own_camera_if_the_checkpoint_knows_it(
    trees: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="a checkpoint needs torch")
    import torch

    from mip_edge import checkpoint
    from mip_edge.model.mip import MIP
    from mip_edge.model.options import MIPOptions

    torch.manual_seed(0)
    options = MIPOptions(width=16, depth=12, heads=2, image_size=(64, 32), stride=16, cameras=2)
    network = MIP(options)
    assert network.sie_embed is not None
    torch.nn.init.normal_(network.sie_embed)
    table = [
        {"name": "thermal", "modality": "infrared"},
        {"name": "visible", "modality": "visible"},
    ]
    named, nameless = tmp_path / "named.safetensors", tmp_path / "nameless.safetensors"
    checkpoint.save(network, named, cameras=table)
    checkpoint.save(network, nameless)
    dataset = read_dataset("regdb", trees["regdb"], parts=("query",))
    own = embed_dataset(named, dataset)
    assert own.camera.policy == "own"
    assert own.query is own.gallery
    for camera in ("thermal", "visible"):
        rows = [row for row, one in enumerate(dataset.query) if one.camera == camera]
        alone = embed_dataset(named, dataset, camera=camera).query[rows]
        np.testing.assert_allclose(own.query[rows], alone, atol=1e-6)
    mean = embed_dataset(nameless, dataset)
    assert mean.camera.policy == "mean"
    assert mean.camera.reason == "the checkpoint names no cameras"
    assert np.abs(own.query - mean.query).max() > 1e-3
    with pytest.raises(OptionError, match="--camera own: the checkpoint names no cameras"):
        embed_dataset(nameless, dataset, camera="own")
    with pytest.raises(OptionError, match="its camera policy is baked in"):
        embed_dataset(tmp_path, dataset, camera="own")
    sysu = read_dataset("sysu", trees["sysu"], parts=("query",))
    policy = choose_policy(named, sysu, None)
    assert policy.reason == "the checkpoint does not know the infrared cam3"


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose network has no camera embedding."""
    pytest.importorskip("torch", reason="a checkpoint needs torch")
    from mip_edge import checkpoint
    from mip_edge.model.mip import MIP
    from mip_edge.model.options import MIPOptions

    path = tmp_path_factory.mktemp("blind") / "blind.safetensors"
    checkpoint.save(
        MIP(MIPOptions(width=16, depth=12, heads=2, image_size=(64, 32), stride=16)), path
    )
    return path


@pytest.mark.parametrize("asked", [None, "mean", "none"])
def test_a_network_without_camera_embedding_is_said_to_have_none(
    blind: Path, trees: dict[str, Path], asked: str | None
) -> None:
    report = evaluate_model(blind, trees["regdb"], EvaluateOptions("regdb", camera=asked))
    line = "Camera embedding: none (the network has no camera embedding)."
    assert line in format_table(report)
    told = {"policy": "none", "reason": "the network has no camera embedding"}
    assert report.figures()["camera"] == told


def test_a_network_without_camera_embedding_has_no_camera_to_be_asked_for(
    blind: Path, trees: dict[str, Path]
) -> None:
    for asked, message in (
        ("own", "--camera own: the network has no camera embedding"),
        ("gate", "--camera 'gate' is unknown to this checkpoint; it knows: none, mean"),
    ):
        with pytest.raises(OptionError, match=message):
            evaluate_model(blind, trees["regdb"], EvaluateOptions("regdb", camera=asked))


def test_the_bundle_of_a_network_without_camera_embedding_says_so_too(
    blind: Path, trees: dict[str, Path], tmp_path: Path
) -> None:
    from export.bundle import export_bundle

    bundle = tmp_path / "bundle"
    export_bundle(blind, bundle)
    report = evaluate_model(bundle, trees["regdb"], EvaluateOptions("regdb"))
    assert report.camera.policy == "none"
    assert report.camera.reason == "the network has no camera embedding"
    assert "visible.onnx | fp32 | none |" in (bundle / "report.md").read_text()
    saved = tmp_path / "saved.npz"
    evaluate_model(bundle, trees["regdb"], EvaluateOptions("regdb"), save_embeddings=saved)
    assert evaluate_model(saved, trees["regdb"], EvaluateOptions("regdb")).camera.policy == "none"


def test_a_bundle_tells_the_camera_policy_that_is_baked_into_it(
    tiny_bundle: Path, trees: dict[str, Path]
) -> None:
    report = evaluate_model(tiny_bundle, trees["regdb"], EvaluateOptions("regdb"))
    assert report.camera.policy == open_bundle(tiny_bundle).manifest.camera[Modality.VISIBLE]
    assert "(baked into the bundle)" in format_table(report)
