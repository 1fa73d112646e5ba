"""What can be asked of an export: layout, float16, length, accuracy, other servers, the straight
graph; and what is refused before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="a checkpoint is exported with torch")

from export import bundle as exporter
from export import room, work
from export.bundle import export_bundle
from export.form import SURGERIES, TRIED
from export.gate import collect_crops
from export.options import ExportOptions
from export.purpose import export_for
from mip_edge.artifact import open_bundle
from mip_edge.cli import cli
from mip_edge.embedder import Embedder
from mip_edge.errors import DatasetError, OptionError, OutputError, ParityError
from mip_edge.schema import find_fault
from mip_edge.spec import Embeddings, Modality
from mip_edge.synthetic.world import DatasetOptions, write_dataset

LIMIT = 2e-6


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic people: 12 to learn from, 8 others as query and gallery."""
    folder = tmp_path_factory.mktemp("people") / "data"
    write_dataset(
        folder,
        DatasetOptions(
            train_identities=12, test_identities=8, crops=2, test_crops=1, image_size=(64, 32)
        ),
    )
    return folder


def embed(path: Path, engine: str, modality: Modality, **options: str) -> Embeddings:
    crops = [test.crop for test in collect_crops(None, None, modality)[:4]]
    with Embedder.open(path, engine=engine, threads=1, **options) as embedder:
        return embedder.embed(crops, modality)


@pytest.mark.parametrize("modality", list(Modality), ids=lambda modality: modality.value)
def test_a_unified_graph_gives_what_the_graph_of_each_modality_gives(
    tiny_bundle: Path, tiny_unified_bundle: Path, modality: Modality
) -> None:
    one, both = (
        embed(path, "onnxruntime", modality) for path in (tiny_bundle, tiny_unified_bundle)
    )
    assert np.abs(one - both).max() <= LIMIT


def test_float16_graphs_say_how_near_they_are_when_rounded_as_a_gpu_rounds(
    tiny_checkpoint: Path, tiny_unified_bundle: Path
) -> None:
    held = open_bundle(tiny_unified_bundle).manifest.precisions["fp16"]
    for modality, graph in held.graphs.items():
        assert graph.parity is not None
        assert 0.9995 <= graph.parity.smallest_cosine < 1
        expected = embed(tiny_checkpoint, "torch", modality)
        found = embed(tiny_unified_bundle, "onnxruntime", modality, precision="fp16")
        assert np.einsum("nd,nd->n", expected, found).min() >= 0.9995
    fp32 = (tiny_unified_bundle / "weights.bin").stat().st_size
    assert (tiny_unified_bundle / "weights.fp16.bin").stat().st_size < 0.7 * fp32


def test_float16_that_cannot_be_near_enough_names_its_graph(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParityError, match=r"visible.onnx: .*--min-cosine-fp16.*Nothing was"):
        export_bundle(
            tiny_checkpoint, tmp_path / "bundle", ExportOptions(fp16=True, min_cosine_fp16=1.0)
        )
    assert list(tmp_path.iterdir()) == []


def test_the_straight_graph_gives_the_same_at_its_published_cost(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    straight = tmp_path / "straight"
    report = export_bundle(tiny_checkpoint, straight, ExportOptions(surgery="none"))
    assert report.manifest.surgery == "none"
    for modality in Modality:
        found = embed(straight, "onnxruntime", modality)
        assert np.abs(found - embed(tiny_bundle, "onnxruntime", modality)).max() <= LIMIT
        ours = open_bundle(tiny_bundle).manifest.precisions["fp32"].graphs[modality].cost
        theirs = report.manifest.precisions["fp32"].graphs[modality].cost
        assert ours is not None
        assert theirs is not None
        assert theirs.macs > 1.8 * ours.macs


def test_float32_takes_the_form_of_cpus_and_float16_that_of_gpus(
    tiny_unified_bundle: Path,
) -> None:
    for name, products in (("unified.onnx", 2), ("unified.fp16.onnx", 1)):
        graph = onnx.load(str(tiny_unified_bundle / name)).graph
        maps = [
            node.name
            for node in graph.node
            if node.op_type == "MatMul" and node.name.startswith("blocks.0/mlp/fc1")
        ]
        assert len(maps) == products, name


@pytest.mark.parametrize("name", [*SURGERIES, *TRIED])
def test_a_manifest_can_name_every_form(tiny_bundle: Path, name: str) -> None:
    document = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    assert find_fault({**document, "surgery": name}) is None


def test_dim_is_learned_from_training_people_and_built_in(
    tiny_checkpoint: Path, people: Path, tmp_path: Path
) -> None:
    options = ExportOptions(dimensions=(12, 24), data=people, layout="unified")
    report = export_bundle(tiny_checkpoint, tmp_path / "bundle", options)
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert {spec.dimension for spec in manifest.specs.values()} == {12}
    assert manifest.projection is not None
    assert (manifest.projection["dimension"], manifest.projection["crops"]) == (12, 48)
    assert manifest.fingerprint != manifest.checkpoint  # its embeddings meet no others
    assert [row.dimension for row in report.dimensions] == [240, 12, 24]
    held = manifest.precisions["fp32"]
    assert held.accuracy == report.accuracy
    assert set(held.accuracy or {}) == {"infrared to visible", "visible to infrared"}
    assert report.dimensions[1].accuracy == report.accuracy
    page = (tmp_path / "bundle" / "report.md").read_text(encoding="utf-8")
    assert "| 12 (built in) |" in page
    assert "| PyTorch | infrared to visible | 8 | 8 |" in page


def test_a_whitened_space_forgets_the_threshold_of_the_old_one(
    tiny_checkpoint: Path, people: Path, tmp_path: Path
) -> None:
    options = ExportOptions(dimensions=(12,), whiten=True, data=people)
    report = export_bundle(tiny_checkpoint, tmp_path / "bundle", options)
    assert report.manifest.min_similarity is None
    assert report.manifest.projection is not None
    assert report.manifest.projection["whiten"] is True


def test_a_graph_that_loses_accuracy_is_refused(
    tiny_checkpoint: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = exporter.measure_accuracy
    seen: list[object] = []

    def lose(embedded: object, dataset: object, kind: str) -> object:
        found = measure(embedded, dataset, kind)  # type: ignore[arg-type]
        seen.append(embedded)
        if len(seen) == 1:  # the checkpoint's own figures
            return {
                key: type(one)(one.rank1 + 50, one.mean_ap, one.queries, one.gallery)
                for key, one in found.items()
            }
        return found

    monkeypatch.setattr(exporter, "measure_accuracy", lose)
    with pytest.raises(ParityError, match="the fp32 export loses 50.00 percentage points of Rank"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", ExportOptions(data=people))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("purpose", ["triton", "deepstream"])
def test_other_servers_get_a_folder_of_a_checked_export(
    tiny_checkpoint: Path, tmp_path: Path, purpose: str
) -> None:
    target = tmp_path / "there"
    report = export_for(purpose, tiny_checkpoint, target)
    assert report.path == target
    assert list(target.rglob("*.onnx"))
    assert not (target / "manifest.json").exists()
    written = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert set(report.to_dict()["bytes"]) == written
    with pytest.raises(OutputError, match="exists already.*--overwrite"):
        export_for(purpose, tiny_checkpoint, target)


def test_command_prints_what_was_measured(
    tiny_checkpoint: Path, people: Path, tmp_path: Path
) -> None:
    arguments = ["export", str(tiny_checkpoint), "-o", str(tmp_path / "bundle")]
    result = CliRunner().invoke(cli, [*arguments, "--data", str(people), "--dim", "16"])
    assert result.exit_code == 0, result.output
    assert "visible, fp32: smallest cosine 1.000000" in result.stdout
    assert "PyTorch, infrared to visible: Rank-1 " in result.stdout
    assert "16 numbers: infrared to visible Rank-1 " in result.stdout
    again = CliRunner().invoke(
        cli, ["export", str(tiny_checkpoint), "-o", str(tmp_path / "other"), "--json"]
    )
    document = json.loads(again.stdout)
    assert document["dimensions"] == []
    assert document["accuracy"] is None
    assert document["module"]["visible"]["smallest_cosine"] >= 0.99999


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--dim", "16"], "give a data set with --data"),
        (["--whiten"], "--whiten belongs to --dim"),
        (["--surgery", "half"], "--surgery must be one of full, rows, none"),
        (["--surgery", "none", "--fp16"], "without --fp16"),
        (["--surgery", "none", "--layout", "unified"], "without --layout unified"),
        (["--camera", "roof"], "--camera 'roof' is unknown to this checkpoint; it knows: none"),
        (["--for", "deepstream", "--surgery", "half"], "--surgery must be one of"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path, given: list[str], words: str
) -> None:
    arguments = ["export", str(tiny_checkpoint), "-o", str(tmp_path / "bundle"), *given]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "needed"),
    [
        ("--split", "--data"),
        ("--max-drop-float", "--data"),
        ("--max-drop", "--int8"),
        ("--min-cosine-fp16", "--fp16"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, flag: str, needed: str
) -> None:
    arguments = ["export", str(tiny_checkpoint), "-o", str(tmp_path / "bundle"), flag, "1"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert f"{flag} belongs to {needed}; give both" in result.stderr


def test_the_command_and_the_options_have_the_same_defaults() -> None:
    command = cli.get_command(click.Context(cli), "export")
    assert command is not None
    told = {option.name: option.default for option in command.params}
    options = ExportOptions()
    for name in (
        "layout",
        "surgery",
        "camera",
        "dataset",
        "split",
        "min_cosine",
        "min_cosine_fp16",
        "max_drop",
        "max_drop_float",
    ):
        assert told[name] == getattr(options, name), name


def test_everything_at_once_is_byte_identical_twice(
    tiny_checkpoint: Path, people: Path, tmp_path: Path
) -> None:
    options = ExportOptions(
        layout="unified", fp16=True, dimensions=(12,), data=people, camera="gate"
    )
    for name in ("one", "two"):
        export_bundle(tiny_checkpoint, tmp_path / name, options)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_projection_that_keeps_little_forgets_the_threshold_too(
    tiny_checkpoint: Path, people: Path, tmp_path: Path
) -> None:
    kept = {}
    for dimension in (1, 40):
        target = tmp_path / str(dimension)
        options = ExportOptions(dimensions=(dimension,), data=people)
        manifest = export_bundle(tiny_checkpoint, target, options).manifest
        assert manifest.projection is not None
        kept[dimension] = (manifest.projection["explained"] >= 0.99, manifest.min_similarity)
    assert kept == {1: (False, None), 40: (True, 0.5)}


def test_a_target_that_appears_during_the_export_is_left_alone(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "deep" / "bundle"
    write_report = exporter.write_report

    def interfere(*arguments: object) -> None:
        target.mkdir()
        (target / "mine.txt").write_text("mine", encoding="utf-8")
        write_report(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(exporter, "write_report", interfere)
    with pytest.raises(OutputError, match="exists already"):
        export_bundle(tiny_checkpoint, target)
    assert [path.name for path in target.parent.iterdir()] == ["bundle"]
    assert (target / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_a_failed_export_leaves_no_new_parents(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ParityError):
        export_bundle(
            tiny_checkpoint, tmp_path / "a" / "b" / "bundle", ExportOptions(min_cosine=1.0)
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("purpose", ["triton", "deepstream"])
def test_a_foreign_folder_is_refused_before_anything_is_computed(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, purpose: str
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(work, "export_onnx", None)
    with pytest.raises(OutputError, match="--overwrite leaves it as it is"):
        export_for(purpose, tiny_checkpoint, tmp_path / "there", overwrite=True)


@pytest.mark.parametrize(
    ("dimension", "words"), [(241, "above the width"), (100, "directions that 48 training crops")]
)
def test_a_length_that_cannot_be_learned_names_the_way_out(
    tiny_checkpoint: Path, people: Path, tmp_path: Path, dimension: int, words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        export_bundle(
            tiny_checkpoint,
            tmp_path / "bundle",
            ExportOptions(dimensions=(dimension,), data=people),
        )
    assert list(tmp_path.iterdir()) == []


def test_data_without_query_or_gallery_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", ExportOptions(data=tmp_path / "empty"))


def test_too_small_a_disk_is_told_before_anything_is_computed(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: usage)
    monkeypatch.setattr(work, "export_onnx", None)
    with pytest.raises(OutputError, match="an export wants 68 MB of disk, .* has 1 MB free"):
        export_bundle(tiny_checkpoint, tmp_path / "deep" / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_told_before_anything_is_computed(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "available_memory", lambda: 50_000_000)
    monkeypatch.setattr(work, "export_onnx", None)
    with pytest.raises(OptionError, match="takes about 74 MB of memory, 50 MB are free"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_free_memory_is_read_where_the_system_tells_it() -> None:
    free = room.available_memory()
    assert free is None or free > 1 << 20
