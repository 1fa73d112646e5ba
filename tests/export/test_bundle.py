"""An export is proved, whole, and the same every time; a failed one leaves nothing."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")

from export import bundle as exporter
from export.bundle import export_bundle
from export.gate import collect_crops
from export.options import ExportOptions
from mip_edge.artifact import open_bundle
from mip_edge.cli import cli
from mip_edge.data.image import write_image
from mip_edge.embedder import Embedder
from mip_edge.errors import BundleError, OptionError, OutputError, ParityError
from mip_edge.spec import Modality


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_exports_of_one_checkpoint_are_byte_identical(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    export_bundle(tiny_checkpoint, tmp_path / "again")
    assert read_files(tmp_path / "again") == read_files(tiny_bundle)


def test_the_bundle_holds_its_files_and_the_measured_parity(tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    graphs = {"visible.onnx", "infrared.onnx", "weights.bin"}
    assert set(manifest.files) == graphs | {"report.md", "card.md"}
    for graph in manifest.precisions["fp32"].graphs.values():
        assert graph.parity is not None
        assert graph.parity.smallest_cosine >= 0.99999
        assert graph.parity.crops == 16
    assert manifest.min_similarity == 0.5
    assert manifest.licence == "CC0-1.0"
    assert manifest.provenance["training"]["data"] == "none: random weights"
    assert set(manifest.camera.values()) == {"mean"}
    report = (tiny_bundle / "report.md").read_text(encoding="utf-8")
    assert "| visible, visible.onnx | fp32 | mean | 16 | 1.000000 | 1.000000 | 100.0% |" in report
    assert manifest.fingerprint in report


def test_the_card_travels_in_the_bundle_and_a_changed_one_is_noticed(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    card = (tiny_bundle / "card.md").read_text(encoding="utf-8")
    assert f"Fingerprint: `{manifest.fingerprint}`" in card
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    (copy / "card.md").write_text(card.replace("unknown", "perfect"), encoding="utf-8")
    with pytest.raises(BundleError, match=r"card\.md differs from what was exported"):
        open_bundle(copy)


def test_the_card_beside_a_checkpoint_goes_into_the_bundle_as_it_is(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "best.safetensors"
    shutil.copy(tiny_checkpoint, weights)
    (tmp_path / "best.md").write_bytes(b"# Our own words\n")
    export_bundle(weights, tmp_path / "bundle")
    assert (tmp_path / "bundle" / "card.md").read_bytes() == b"# Our own words\n"


def test_a_parity_failure_names_graph_and_crop_and_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ParityError,
        match=r"exported module of visible.onnx differs.*cosine 1\.0.* \(1 - .*synthetic person",
    ):
        export_bundle(tiny_checkpoint, tmp_path / "bundle", ExportOptions(min_cosine=1.0))
    assert list(tmp_path.iterdir()) == []


def test_a_graph_with_one_wrong_tensor_fails_at_the_default_threshold(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = exporter.share_weights

    def spoil(graphs: dict[str, Any], weights_name: str) -> dict[str, bytes]:
        files = share(graphs, weights_name)
        files[weights_name] = files[weights_name][:-4096] + bytes(4096)
        return files

    monkeypatch.setattr(exporter, "share_weights", spoil)
    with pytest.raises(ParityError, match="differs from the checkpoint: cosine"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_is_refused_and_survives_a_failed_overwrite(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    target = tmp_path / "bundle"
    export_bundle(tiny_checkpoint, target)
    before = read_files(target)
    with pytest.raises(OutputError, match="exists already.*--overwrite"):
        export_bundle(tiny_checkpoint, target)
    with pytest.raises(ParityError):
        export_bundle(tiny_checkpoint, target, ExportOptions(min_cosine=1.0), overwrite=True)
    assert read_files(target) == before
    export_bundle(tiny_checkpoint, target, ExportOptions(camera="none"), overwrite=True)
    assert read_files(target) != before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_up(folder: Path, files: dict[str, bytes]) -> None:
        (folder / "weights.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exporter, "write_files", fill_up)
    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot be written"):
        export_bundle(tiny_checkpoint, tmp_path / "file" / "bundle")


@pytest.mark.parametrize("camera", ["none", "gate"])
def test_a_camera_policy_gives_what_torch_gives_under_it(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path, camera: str
) -> None:
    target = tmp_path / "bundle"
    report = export_bundle(tiny_checkpoint, target, ExportOptions(camera=camera))
    expected = {"none": ("none", "none"), "gate": ("gate", "mean")}[camera]
    assert (
        report.manifest.camera[Modality.VISIBLE],
        report.manifest.camera[Modality.INFRARED],
    ) == expected
    crops = [test.crop for test in collect_crops(None, None, Modality.VISIBLE)[:2]]
    with (
        Embedder.open(target, threads=1) as ours,
        Embedder.open(tiny_checkpoint, engine="torch", camera=camera) as torch_ours,
        Embedder.open(tiny_bundle, threads=1) as other,
    ):
        embeddings = ours.embed(crops, Modality.VISIBLE)
        np.testing.assert_allclose(embeddings, torch_ours.embed(crops, Modality.VISIBLE), atol=1e-5)
        assert np.abs(embeddings - other.embed(crops, Modality.VISIBLE)).max() > 1e-4


def test_crops_of_a_folder_check_the_graph_of_their_modality(tmp_path: Path) -> None:
    (tmp_path / "visible").mkdir()
    (tmp_path / "infrared").mkdir()
    image = np.full((8, 4, 3), 90, dtype=np.uint8)
    for name in ("visible/a.png", "infrared/b.png", "c.jpg"):
        write_image(tmp_path / name, image)
    for modality, expected in ((Modality.VISIBLE, "a.png"), (Modality.INFRARED, "b.png")):
        names = {Path(crop.name).name for crop in collect_crops(tmp_path, None, modality)}
        assert names == {expected, "c.jpg"}
    with pytest.raises(OptionError, match="holds no .png or .jpg"):
        collect_crops(tmp_path / "visible" / "empty", None, Modality.VISIBLE)


def test_command_exports_and_prints_json(tiny_checkpoint: Path, tmp_path: Path) -> None:
    target = str(tmp_path / "bundle")
    result = CliRunner().invoke(cli, ["export", str(tiny_checkpoint), "-o", target, "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["path"] == target
    assert (
        document["precisions"]["fp32"]["graphs"]["infrared"]["parity"]["smallest_cosine"] >= 0.99999
    )
    again = CliRunner().invoke(cli, ["export", str(tiny_checkpoint), "-o", target])
    assert again.exit_code == 1
    assert again.stderr.startswith("Error: ")
    assert "--overwrite" in again.stderr


def test_command_prints_parity_and_sizes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ["export", str(tiny_checkpoint), "-o", str(tmp_path / "bundle")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "visible, fp32: smallest cosine 1.000000" in result.stdout
    assert "weights.bin: " in result.stdout


def test_command_refuses_what_is_no_checkpoint(tmp_path: Path) -> None:
    wrong = tmp_path / "weights.safetensors"
    wrong.write_bytes(b"no weights")
    result = CliRunner().invoke(cli, ["export", str(wrong), "-o", str(tmp_path / "bundle")])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
