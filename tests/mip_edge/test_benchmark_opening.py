"""Engines are opened from the disk, as on a device that was just switched on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from engines.cache import EngineCache, EngineKey
from engines.plan import graph_digest
from mip_edge.artifact import open_bundle
from mip_edge.benchmark_opening import drop_from_file_cache, open_all
from mip_edge.benchmark_options import BenchmarkOptions
from mip_edge.spec import Modality

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot be asked")
def test_every_file_of_the_bundle_is_dropped_whole(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def advise(handle: int, start: int, length: int, advice: int) -> None:
        asked[os.fstat(handle).st_ino] = (start, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    bundle = open_bundle(tiny_bundle)
    drop_from_file_cache(bundle)
    files = {(bundle.path / name).stat().st_ino for name in bundle.manifest.files}
    assert asked == dict.fromkeys(files, (0, 0, os.POSIX_FADV_DONTNEED))


def test_a_system_that_cannot_be_asked_is_left_alone(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise AssertionError("nothing is to be opened")

    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    bundle = open_bundle(tiny_bundle)
    monkeypatch.setattr(os, "open", refuse)
    drop_from_file_cache(bundle)


def test_the_first_opening_compiles_although_the_cache_is_full(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setenv("MIP_EDGE_CACHE", str(tmp_path / "cache"))
    bundle, cache = open_bundle(tiny_bundle), EngineCache()
    digest = graph_digest(bundle, bundle.graph_path(Modality.VISIBLE))
    ours = EngineKey(digest, "openvino", "0", "before")
    plan = EngineKey(digest, "tensorrt", "0", "takes minutes")
    other = EngineKey("ab" * 32, "openvino", "0", "another graph")
    for key in (ours, plan, other):
        cache.put(key, b"compiled", what=str(key))
    options = BenchmarkOptions(
        engines=("openvino",), precisions=("fp32",), threads=1, engine_options=("cache=true",)
    )  # fmt: skip
    runs = open_all(bundle, Modality.VISIBLE, ["fp32"], options, {}, time.perf_counter)
    runs[0].engine.close()
    assert {entry.key for entry in cache.list()} >= {plan, other}
    assert cache.find(ours) is None
    (made,) = (entry for entry in cache.list() if entry.key.version not in {"0"})
    assert made.key.graph_digest == digest
