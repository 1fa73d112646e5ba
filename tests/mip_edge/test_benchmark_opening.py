"""Engines are opened from the disk, as on a device that was just switched on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mip_edge.artifact import open_bundle
from mip_edge.benchmark_opening import drop_from_file_cache

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
