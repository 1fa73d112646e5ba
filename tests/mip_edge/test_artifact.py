"""A bundle opens whole or not at all, and the message names the file at fault."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mip_edge.artifact import (
    FileRecord,
    Graph,
    Manifest,
    Parity,
    Precision,
    open_bundle,
    seal,
    write_bundle,
)
from mip_edge.errors import BundleError, OutputError
from mip_edge.spec import EmbedderSpec, Modality

SPECS = {modality: EmbedderSpec(modality, 64, 32, 240, "abc") for modality in Modality}
PARITY = Parity(smallest_cosine=0.999999, mean_cosine=1.0, top1_agreement=1.0, crops=16)
MANIFEST = Manifest(
    fingerprint="abc",
    model={"width": 48},
    specs=SPECS,
    camera=dict.fromkeys(Modality, "mean"),
    precisions={
        "fp32": Precision(
            {modality: Graph(f"{modality.value}.onnx", PARITY) for modality in Modality}
        )
    },
    min_similarity=0.5,
    licence="CC0-1.0",
)


def make_bundle(target: Path) -> Path:
    with write_bundle(target) as draft:
        for name in ("visible.onnx", "infrared.onnx", "weights.bin"):
            (draft / name).write_bytes(name.encode() * 100)
        seal(draft, MANIFEST)
    return target


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


def edit_manifest(bundle: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def test_what_was_written_is_what_is_opened(bundle: Path) -> None:
    opened = open_bundle(bundle).manifest
    assert opened.specs == SPECS
    assert opened.precisions == MANIFEST.precisions
    assert (opened.min_similarity, opened.licence, opened.fingerprint) == (0.5, "CC0-1.0", "abc")
    assert set(opened.files) == {"visible.onnx", "infrared.onnx", "weights.bin"}
    content = b"weights.bin" * 100
    digest = hashlib.sha256(content).hexdigest()
    assert opened.files["weights.bin"] == FileRecord(sha256=digest, bytes=1100)
    assert open_bundle(bundle).graph_path(Modality.VISIBLE) == bundle / "visible.onnx"


def test_equal_bundles_are_equal_to_the_byte(bundle: Path, tmp_path: Path) -> None:
    again = make_bundle(tmp_path / "again")
    for path in bundle.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_a_truncated_file_is_named(bundle: Path) -> None:
    content = (bundle / "weights.bin").read_bytes()
    (bundle / "weights.bin").write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"weights.bin has 1099 bytes, its manifest says 1100"):
        open_bundle(bundle)


def test_one_altered_byte_is_named(bundle: Path) -> None:
    content = bytearray((bundle / "infrared.onnx").read_bytes())
    content[7] ^= 1
    (bundle / "infrared.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"infrared.onnx differs .*SHA-256.*mip-edge export"):
        open_bundle(bundle)


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "visible.onnx").unlink()
    with pytest.raises(BundleError, match=r"visible.onnx is missing"):
        open_bundle(bundle)


def test_an_altered_manifest_is_refused(bundle: Path) -> None:
    edit_manifest(bundle, lambda document: document["thresholds"].update(min_similarity=0.1))
    with pytest.raises(BundleError, match=r"manifest.json differs from what was exported"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda document: document.update(extra=1), "unknown key 'extra'"),
        (lambda document: document["thresholds"].update(max=1), "unknown key 'max'"),
        (lambda document: document["modalities"]["visible"].update(z=1), "unknown key 'z'"),
        (lambda document: document.pop("camera"), "the key 'camera' is missing"),
        (lambda document: document.update(schema_version=1), "schema version 1.*reads 2"),
        (lambda document: document.update(format="zip"), "not the manifest of a mip-edge bundle"),
        (lambda document: document["modalities"].update(radar={}), "radar"),
        (lambda document: document["modalities"]["visible"].update(height=0), "at least 1"),
        (
            lambda document: document["files"].update({"../x": {"sha256": "", "bytes": 0}}),
            "leads out of the bundle",
        ),
        (lambda document: document.update(files=[]), "does not follow its schema"),
        (
            lambda document: document["precisions"]["fp32"]["graphs"]["visible"].update(
                file="x.onnx"
            ),
            "'x.onnx' is not among its files",
        ),
    ],
)  # fmt: skip
def test_a_manifest_outside_the_schema_is_told(
    bundle: Path, edit: Callable[[dict[str, Any]], None], expected: str
) -> None:
    edit_manifest(bundle, edit)
    with pytest.raises(BundleError, match=f"manifest.json .*{expected}"):
        open_bundle(bundle)


@pytest.mark.parametrize("content", ["", '{"format": "mip', "[]", "\x00\x01"])
def test_a_manifest_that_is_no_document_is_told(bundle: Path, content: str) -> None:
    (bundle / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match="manifest.json"):
        open_bundle(bundle)


def test_what_is_no_bundle_at_all_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for path in (tmp_path, tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(BundleError, match=r"is not a bundle.*mip-edge export"):
            open_bundle(path)


def test_a_precision_that_is_not_there_lists_those_that_are(bundle: Path) -> None:
    with pytest.raises(BundleError, match="holds no int8 graphs; it holds: fp32"):
        open_bundle(bundle).graph_path(Modality.VISIBLE, "int8")


def test_a_bundle_opens_at_another_place(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle, tmp_path / "elsewhere")
    assert open_bundle(tmp_path / "elsewhere").path == tmp_path / "elsewhere"


def test_an_error_in_the_draft_leaves_the_older_bundle(bundle: Path, tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with write_bundle(bundle, overwrite=True) as draft:
            (draft / "half").write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    open_bundle(bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_overwrite_leaves_a_folder_alone_that_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with (
        pytest.raises(OutputError, match="no bundle, so --overwrite leaves it alone"),
        write_bundle(tmp_path / "photos", overwrite=True),
    ):
        pass
    assert (tmp_path / "photos" / "cat.png").read_bytes() == b"cat"


def test_a_failed_rename_puts_the_older_bundle_back(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.replace

    def refuse_draft(self: Path, target: Path) -> Path:
        if ".draft-" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse_draft)
    with (
        pytest.raises(OutputError, match="Input/output error"),
        write_bundle(bundle, overwrite=True) as draft,
    ):
        seal(draft, MANIFEST)
    open_bundle(bundle)
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
