"""A bundle opens whole or not at all, and the message names the file at fault."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.projection import Projection
from mip_edge.artifact import (
    Accuracy,
    Cost,
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
from mip_edge.schema import SCHEMA_PATH, find_fault
from mip_edge.spec import EmbedderSpec, Modality

FINGERPRINT = "ab" * 32
SPECS = {modality: EmbedderSpec(modality, 64, 32, 240, FINGERPRINT) for modality in Modality}
PARITY = Parity(smallest_cosine=0.999999, mean_cosine=1.0, top1_agreement=1.0, crops=16)
MANIFEST = Manifest(
    fingerprint=FINGERPRINT,
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
PROJECTION = Projection(np.zeros(3), np.eye(3, 2), whiten=False, explained=1, crops=9, identities=4)


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
    assert (opened.min_similarity, opened.licence, opened.fingerprint) == (
        0.5,
        "CC0-1.0",
        FINGERPRINT,
    )
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
    with pytest.raises(BundleError, match=r"visible.onnx is missing") as caught:
        open_bundle(bundle)
    assert str(caught.value).endswith(
        "missing from the bundle. Copy the folder again, or export it anew with: "
        "mip-edge export WEIGHTS -o BUNDLE"
    )


def test_an_altered_manifest_is_refused(bundle: Path) -> None:
    edit_manifest(bundle, lambda document: document["thresholds"].update(min_similarity=0.1))
    with pytest.raises(BundleError, match=r"manifest.json differs from what was exported"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda document: document.update(extra=1), "unknown key 'extra' in the document"),
        (
            lambda document: document["thresholds"].update(max=1),
            "unknown key 'max' in thresholds, expected min_similarity",
        ),
        (
            lambda document: document["modalities"]["visible"].update(z=1),
            "unknown key 'z' in modalities.visible, expected index, height",
        ),
        (
            lambda document: document["precisions"]["fp32"]["graphs"]["visible"]["parity"].pop(
                "crops"
            ),
            "'crops' is missing from precisions.fp32.graphs.visible.parity",
        ),
        (lambda document: document.pop("camera"), "the key 'camera' is missing from the document"),
        (lambda document: document.update(schema_version=1), "schema version 1.*reads 4"),
        (lambda document: document.update(format="zip"), "not the manifest of a mip-edge bundle"),
        (lambda document: document["modalities"].update(radar={}), "unknown key 'radar'"),
        (
            lambda document: document["modalities"]["visible"].update(height=0),
            "modalities.visible.height is 0, it must be bigger than or equal to 1",
        ),
        (
            lambda document: document["modalities"]["visible"].update(channels=1),
            "modalities.visible.channels is 1, it must be 3",
        ),
        (
            lambda document: document["modalities"]["infrared"].update(index=1),
            "modalities.infrared.index is 1, it must be 0",
        ),
        (
            lambda document: document["thresholds"].update(min_similarity="0.5"),
            'thresholds.min_similarity is "0.5", it must be number or null',
        ),
        (lambda document: document.update(layout="x" * 99), '"x{59}\\.\\.\\., it must be one of'),
        (
            lambda document: document.update(projection={"method": "pca"}),
            "the key 'dimension' is missing from projection",
        ),
        (lambda document: document.update(files=[]), r"files is \[\], it must be object"),
        (
            lambda document: document["precisions"]["fp32"]["graphs"]["visible"].update(
                file="x.onnx"
            ),
            "'x.onnx' is not among its files",
        ),
        (
            lambda document: document["modalities"].pop("infrared"),
            "a graph for infrared crops, which modalities does not hold",
        ),
        (
            lambda document: document.update(layout="unified"),
            "precision fp32 has 2 graph files in layout unified",
        ),
    ],
)  # fmt: skip
def test_a_manifest_outside_the_schema_is_told(
    bundle: Path, edit: Callable[[dict[str, Any]], None], expected: str
) -> None:
    edit_manifest(bundle, edit)
    with pytest.raises(BundleError, match=f"manifest.json .*{expected}"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "a\\b", "..", ".", "", "x\n", ".hidden", "manifest.json", "ü"]
)
def test_a_file_name_that_may_lead_out_of_the_bundle_is_refused(bundle: Path, name: str) -> None:
    record = {"sha256": "0" * 64, "bytes": 0}
    edit_manifest(bundle, lambda document: document["files"].update({name: record}))
    with pytest.raises(BundleError, match="manifest.json .*unknown key .* in files"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b",\n", b" \n"), (b"\n  ", b"\r\n  "), (b": ", b":\t"), (b"0.5", b"0.50"), (b"}\n", b"}")],
)
def test_a_byte_of_the_manifest_that_changes_no_value_is_noticed_too(
    bundle: Path, old: bytes, new: bytes
) -> None:
    content = (bundle / "manifest.json").read_bytes()
    assert old in content
    (bundle / "manifest.json").write_bytes(new.join(content.rsplit(old, 1)))
    with pytest.raises(BundleError, match="manifest.json (differs|cannot be read as JSON)"):
        open_bundle(bundle)


def fully_measured(modality: Modality) -> Graph:
    cost = Cost(
        macs=10,
        parts={"patches": 1, "blocks": 6, "ipg": 2, "head": 1},
        weight_bytes=40,
        peak_activation_bytes=7,
    )
    return Graph("unified.onnx", PARITY, cost)


@pytest.mark.parametrize(
    "manifest",
    [
        MANIFEST,
        replace(MANIFEST, min_similarity=None, checkpoint=FINGERPRINT, surgery="none"),
        replace(
            MANIFEST,
            layout="unified",
            surgery="rows",
            projection=PROJECTION.to_dict(),
            precisions={
                "fp16": Precision(
                    {modality: fully_measured(modality) for modality in Modality},
                    {"infrared to visible": Accuracy(70.5, 66, 400, 400)},
                    ("blocks.3/attention", "head"),
                )
            },
        ),
        replace(
            MANIFEST,
            specs={Modality.VISIBLE: SPECS[Modality.VISIBLE]},
            camera={Modality.VISIBLE: "gate"},
            precisions={"fp32": Precision({Modality.VISIBLE: Graph("visible.onnx")})},
        ),
    ],
)
def test_what_is_written_follows_the_schema_and_is_read_as_it_was(
    manifest: Manifest, tmp_path: Path
) -> None:
    for name in ("visible.onnx", "infrared.onnx", "unified.onnx"):
        (tmp_path / name).write_bytes(b"onnx")
    sealed = seal(tmp_path, manifest)
    assert find_fault(json.loads(sealed.to_json())) is None
    assert open_bundle(tmp_path).manifest == sealed


def objects_of(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if "properties" in schema and "type" in schema:
            yield schema
        for part in schema.values():
            yield from objects_of(part)


def test_the_schema_knows_every_key_and_describes_it() -> None:
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    closed = list(objects_of(schema))
    assert len(closed) >= 10
    assert [part for part in closed if part["additionalProperties"] is not False] == []
    named = [one for part in closed for one in part["properties"].values()]
    assert [one for one in named if "description" not in one and "$ref" not in one] == []
    assert all("description" in one for one in schema["definitions"].values())


def test_the_schema_knows_all_that_is_told_of_a_projection() -> None:
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))["properties"]["projection"]
    assert set(schema["properties"]) == set(schema["required"]) == set(PROJECTION.to_dict())


def test_the_index_of_a_modality_is_its_row_in_the_prompt_library(bundle: Path) -> None:
    document = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    indices = {key: item["index"] for key, item in document["modalities"].items()}
    assert indices == {"infrared": 0, "visible": 1}


def test_the_schema_is_loaded_when_a_bundle_is_opened_and_not_before() -> None:
    script = "import sys, mip_edge.artifact; print('fastjsonschema' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_a_packed_bundle_is_told_how_to_unpack(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(b"")
    with pytest.raises(BundleError, match=r"b.tar is a packed bundle; .*mip-edge bundle unpack"):
        open_bundle(tmp_path / "b.tar")


@pytest.mark.parametrize(
    "content",
    ["", '{"format": "mip', "[]", "\x00\x01", "NaN", pytest.param("[" * 100_000, id="deep")],
)
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
        pytest.raises(OutputError, match="not a bundle of mip-edge alone, so --overwrite"),
        write_bundle(tmp_path / "photos", overwrite=True),
    ):
        pass
    assert (tmp_path / "photos" / "cat.png").read_bytes() == b"cat"


def test_overwrite_leaves_the_manifest_of_another_program_alone(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "manifest.json").write_text('{"name": "a web page"}', encoding="utf-8")
    with (
        pytest.raises(OutputError, match="page is not a bundle of mip-edge alone"),
        write_bundle(tmp_path / "page", overwrite=True),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_link_is_told_as_one_with_what_it_points_at_and_stays(
    bundle: Path, tmp_path: Path, overwrite: bool, there: bool
) -> None:
    target = Path(bundle.name) if there else Path("gone")
    (tmp_path / "link").symlink_to(target)  # as most are: beside what it points at
    with (
        pytest.raises(OutputError) as caught,
        write_bundle(tmp_path / "link", overwrite=overwrite),
    ):
        pass
    assert str(caught.value) == (
        f"{tmp_path / 'link'} is a link, and no link is replaced: name what it points at "
        f"({(tmp_path / target).resolve()}), or choose another place"
    )
    assert (tmp_path / "link").readlink() == target
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "link"]


def test_a_damaged_bundle_may_be_replaced(bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with write_bundle(bundle, overwrite=True) as draft:
        for name in ("visible.onnx", "infrared.onnx"):
            (draft / name).write_bytes(b"new")
        seal(draft, MANIFEST)
    open_bundle(bundle)


@pytest.mark.parametrize("failing", ["bundle", ".bundle.draft-"])
def test_a_failed_rename_leaves_the_older_bundle(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    rename = Path.replace

    def refuse_draft(self: Path, target: Path) -> Path:
        if self.name.startswith(failing):
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
