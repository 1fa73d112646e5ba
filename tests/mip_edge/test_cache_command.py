"""`mip-edge cache`: what lies there is told, and goes when it is asked to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from engines.cache import EngineCache, EngineKey
from mip_edge.cli import cli

KEY = EngineKey(
    graph_digest="ab" * 32, runtime="tensorrt", version="10.3.0", device="Orin", driver="12.6",
    precision="fp16", shapes="1 to 8 crops, best at 8",
)  # fmt: skip


def run(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(cli, ["cache", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIP_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MIP_EDGE_CACHE_LIMIT", "2MB")
    EngineCache().put(KEY, bytes(1_500_000), what="/gate/visible.fp16.onnx", spec={"height": 256})
    return tmp_path / "cache"


def test_a_line_an_entry_tells_its_key_in_words(folder: Path) -> None:
    line, total = run("list").stdout.splitlines()
    assert line.startswith("     1.5 MB  used ")
    assert line.endswith(
        "/gate/visible.fp16.onnx: tensorrt 10.3.0, Orin, driver 12.6, fp16, 1 to 8 crops, best at 8"
    )
    assert total == f"{folder}: 1 entries, 1.5 of 2 MB"


def test_json_tells_all(folder: Path) -> None:
    told = json.loads(run("list", "--json").stdout)
    assert (told["folder"], told["limit_bytes"]) == (str(folder), 2_000_000)
    (entry,) = told["entries"]
    assert entry["key"] == KEY.words()
    assert entry["spec"] == {"height": 256}
    assert entry["path"] == str(folder / f"{KEY.digest()}.bin")


def test_clearing_leaves_an_empty_folder(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert json.loads(run("clear", "--json").stdout) == {
        "folder": str(folder), "entries": 1, "freed_bytes": size,
    }  # fmt: skip
    assert list(folder.iterdir()) == []
    assert run("clear").stdout == f"{folder}: 0 entries removed, 0.0 MB freed\n"


def test_another_folder_is_looked_at_when_it_is_named(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run("clear", "--folder", other).stdout == f"{other}: 0 entries removed, 0.0 MB freed\n"
    assert run("list", "--folder", other).stdout == f"{other}: 0 entries, 0.0 of 2 MB\n"
    assert len(EngineCache().list()) == 1
