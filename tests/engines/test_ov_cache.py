"""OpenVINO's compiled graphs: kept where it pays, never taken by mistake, the same embeddings."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
pytest.importorskip("torch", reason="the tiny bundle is exported with torch")

from engines import ov, ov_cache  # noqa: E402 - only where OpenVINO is
from engines.cache import EngineCache  # noqa: E402
from engines.table import open_engine  # noqa: E402
from mip_edge.artifact import open_bundle  # noqa: E402
from mip_edge.errors import OptionError, OutputError  # noqa: E402
from mip_edge.spec import Batch, Embeddings, Modality  # noqa: E402

BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
CROPS: Batch = np.random.default_rng(4).integers(0, 256, (5, 64, 32, 3), dtype=np.uint8)
PROCESS = """
import sys
import numpy as np
from engines.table import open_engine
from mip_edge.spec import Modality
crops = np.random.default_rng(4).integers(0, 256, (5, 64, 32, 3), dtype=np.uint8)
with open_engine(
    sys.argv[1], modality=Modality.VISIBLE, engine="openvino", threads=1, cache=True
) as engine:
    np.save(sys.argv[2], engine.embed(crops))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    monkeypatch.setenv("MIP_EDGE_CACHE", str(tmp_path / "cache"))
    return EngineCache()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precision of every graph that was compiled, not imported."""
    found: list[str] = []
    original = ov.OvBackend._compile

    def compile_one(backend: Any, core: Any, device: str, settings: Any) -> Any:
        found.append(settings["INFERENCE_PRECISION_HINT"])
        return original(backend, core, device, settings)

    monkeypatch.setattr(ov.OvBackend, "_compile", compile_one)
    return found


def embed(bundle: Path, **options: Any) -> Embeddings:
    with open_engine(
        bundle, modality=Modality.VISIBLE, engine="openvino", threads=1, **options
    ) as engine:
        return engine.embed(CROPS)


def test_what_was_kept_gives_the_same_embeddings_and_compiles_nothing(
    tiny_bundle: Path, cache: EngineCache, compiled: list[str]
) -> None:
    plain = embed(tiny_bundle, cache=False)
    assert cache.list() == []
    first = embed(tiny_bundle, cache=True)
    assert len(compiled) == 2
    again = embed(tiny_bundle, cache=True)
    assert len(compiled) == 2
    np.testing.assert_array_equal(first, plain)
    np.testing.assert_array_equal(again, plain)


def test_the_entry_tells_what_it_is_of(tiny_bundle: Path, cache: EngineCache) -> None:
    embed(tiny_bundle, cache=True)
    (entry,) = cache.list()
    assert entry.what == str((tiny_bundle / "visible.onnx").resolve())
    key = entry.key
    assert (key.runtime, key.version, key.precision) == ("openvino", openvino.__version__, "fp32")
    assert key.options == (
        "inference_num_threads 1, inference_precision_hint f32, performance_hint LATENCY"
    )
    name = openvino.Core().get_property("CPU", "FULL_DEVICE_NAME").strip()
    assert key.device.startswith(f"{name}, ")
    assert "FP32" in key.device
    assert "instructions" in key.device
    assert entry.spec["fingerprint"] == open_bundle(tiny_bundle).manifest.fingerprint


@pytest.mark.parametrize(
    "changed",
    [{"threads": 2}, {"hint": "throughput"}] + ([{"dtype": "bf16"}] if BF16 else []),
)
def test_other_settings_are_another_entry(
    tiny_bundle: Path, cache: EngineCache, changed: dict[str, Any]
) -> None:
    for options in ({}, changed):
        wanted = {"threads": 1, **options}
        open_engine(
            tiny_bundle, modality=Modality.VISIBLE, engine="openvino", cache=True, **wanted
        ).close()
    assert len({entry.key.options for entry in cache.list()}) == 2


@pytest.mark.parametrize("other", ["machine", "version", "instructions"])
def test_what_another_machine_or_version_compiled_is_not_taken(
    tiny_bundle: Path,
    compiled: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    other: str,
) -> None:
    with monkeypatch.context() as patch:
        if other == "machine":
            patch.setattr(ov_cache, "count_cores", lambda: 64)
        elif other == "instructions":
            patch.setattr(ov_cache, "digest_instructions", lambda: "0" * 8)
        else:
            patch.setattr(openvino, "__version__", "2025.1")
        embed(tiny_bundle, cache=True)
    with caplog.at_level(logging.INFO, "engines.cache"):
        embed(tiny_bundle, cache=True)
    assert len(compiled) == 2
    told = "version was 2025.1" if other == "version" else "device was"
    assert told in caplog.text


def test_damaged_bytes_are_compiled_anew_and_told(
    tiny_bundle: Path, cache: EngineCache, compiled: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    plain = embed(tiny_bundle, cache=True)
    path = cache.list()[0].path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.INFO, "engines.cache"):
        again = embed(tiny_bundle, cache=True)
    (record,) = caplog.records
    assert record.message == (
        f"engine cache: {path} is not what was written (SHA-256); "
        f"building {cache.list()[0].what} anew"
    )
    np.testing.assert_array_equal(again, plain)
    assert len(compiled) == 2
    embed(tiny_bundle, cache=True)
    assert len(compiled) == 2


def test_an_empty_file_is_compiled_anew(
    tiny_bundle: Path, cache: EngineCache, compiled: list[str]
) -> None:
    embed(tiny_bundle, cache=True)
    cache.list()[0].path.write_bytes(b"")
    embed(tiny_bundle, cache=True)
    assert len(compiled) == 2


def test_what_openvino_does_not_take_back_is_made_anew_and_told(
    tiny_bundle: Path, cache: EngineCache, compiled: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    plain = embed(tiny_bundle, cache=True)
    (entry,) = cache.list()
    whole = entry.path.read_bytes()
    cache.put(entry.key, b"\0" * 64 + whole[64:], what=entry.what)  # of another format, say
    with caplog.at_level(logging.INFO, "engines.ov_cache"):
        again = embed(tiny_bundle, cache=True)
    (record,) = caplog.records
    assert record.message.startswith("engine cache: OpenVINO: [CPU] Cannot import compiled blob")
    assert record.message.endswith(f"building {entry.what} anew")
    np.testing.assert_array_equal(again, plain)
    embed(tiny_bundle, cache=True)
    assert len(compiled) == 2


def test_an_open_engine_outlives_its_entry(tiny_bundle: Path, cache: EngineCache) -> None:
    plain = embed(tiny_bundle, cache=True)
    with open_engine(
        tiny_bundle, modality=Modality.VISIBLE, engine="openvino", threads=1, cache=True
    ) as engine:
        assert cache.clear() > 0
        np.testing.assert_array_equal(engine.embed(CROPS), plain)


@pytest.mark.skipif(not BF16, reason="this processor does not compute bf16")
def test_bf16_is_compared_when_it_is_made_and_kept_unasked(
    tiny_bundle: Path, compiled: list[str]
) -> None:
    first = embed(tiny_bundle, dtype="bf16")
    assert compiled == ["bf16", "f32"]
    again = embed(tiny_bundle, dtype="bf16")
    assert compiled == ["bf16", "f32"]
    np.testing.assert_array_equal(again, first)


@pytest.mark.skipif(not BF16, reason="this processor does not compute bf16")
def test_bf16_that_is_wrong_is_not_kept(
    tiny_bundle: Path, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ov, "_MIN_COSINE", 1.01)
    with pytest.raises(Exception, match="wrongly in bf16"):
        embed(tiny_bundle, dtype="bf16")
    assert cache.list() == []


def test_int8_and_bf16_are_kept_unasked_and_float32_is_not() -> None:
    def kept(**chosen: Any) -> bool:
        asked = {"device": "CPU", "precision": "fp32", "dtype": "f32", **chosen}
        return ov_cache.is_cached(
            chosen.pop("wanted", None),
            **{name: value for name, value in asked.items() if name != "wanted"},
        )

    assert [kept(precision=one) for one in ("fp32", "fp16", "int8", "int8-fp16")] == [
        False, False, True, True,
    ]  # fmt: skip
    assert kept(dtype="bf16")
    assert kept(wanted=True)
    assert not kept(precision="int8", wanted=False)
    assert not kept(precision="int8", device="AUTO")
    with pytest.raises(OptionError, match="cache=true is for device=CPU, not for device=GPU"):
        kept(device="GPU", wanted=True)


def test_what_exceeds_the_limit_is_not_written(
    tiny_bundle: Path,
    cache: EngineCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MIP_EDGE_CACHE_LIMIT", "1KB")
    with pytest.raises(OutputError, match="bytes, more than the limit of 1000; raise MIP_EDGE"):
        embed(tiny_bundle, cache=True)
    monkeypatch.setattr(ov, "is_cached", lambda *_, **__: True)
    assert len(embed(tiny_bundle)) == len(CROPS)
    assert "more than the limit of 1000; raise MIP_EDGE_CACHE_LIMIT" in caplog.text
    assert cache.list() == []


def test_a_cache_that_cannot_be_written_is_refused_only_if_it_was_asked_for(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MIP_EDGE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OutputError, match="file/cache cannot be written"):
        embed(tiny_bundle, cache=True)
    monkeypatch.setattr(ov, "is_cached", lambda *_, **__: True)
    assert len(embed(tiny_bundle)) == len(CROPS)
    (record,) = caplog.records
    assert "cannot be written" in record.message
    assert "choose cache=false" in record.message


def test_two_processes_at_once_make_one_entry_and_agree(
    tiny_bundle: Path, tmp_path: Path, cache: EngineCache
) -> None:
    files = [tmp_path / "one.npy", tmp_path / "two.npy"]
    running = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(tiny_bundle), str(file)])
        for file in files
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    np.testing.assert_array_equal(*map(np.load, files))
    assert len(cache.list()) == 1
    assert {path.suffix for path in cache.root.iterdir()} == {".json", ".bin"}


def test_another_graph_is_another_key(tiny_bundle: Path) -> None:
    bundle, core = open_bundle(tiny_bundle), openvino.Core()
    keys = [
        ov_cache.compiled_key(core, bundle, bundle.graph_path(modality), "fp32", {})
        for modality in Modality
    ]
    assert keys[0].graph_digest != keys[1].graph_digest
    assert replace(keys[0], graph_digest="") == replace(keys[1], graph_digest="")
