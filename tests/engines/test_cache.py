"""The engine cache: one build for all processes, nothing damaged is read, nothing half is left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import cache as cache_module
from engines.cache import EngineCache, EngineKey, default_limit, default_root
from mip_edge.errors import EngineError, OptionError, OutputError

KEY = EngineKey(
    graph_digest="ab" * 32,
    runtime="tensorrt-rtx",
    version="1.7.1",
    device="compute capability 8.6",
    driver="580.2",
    precision="fp16",
    shapes="1 to 32 crops, best at 8",
)
WHAT = "/bundles/gate/visible.fp16.onnx"
BUILDER = """
import sys, time
from pathlib import Path
from engines.cache import EngineCache, EngineKey
root, started, release = (Path(text) for text in sys.argv[1:4])
def build():
    with started.open("a") as stream:
        stream.write("built\\n")
    while not release.exists():
        time.sleep(0.01)
    return b"plan" * 1000
key = EngineKey("ab" * 32, "tensorrt-rtx", "1.7.1", "compute capability 8.6")
sys.stdout.write(EngineCache(root).get(key, build, what="graph").decode())
"""


def never() -> bytes:
    raise AssertionError("built although it is in the cache")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


def fill(cache: EngineCache, key: EngineKey = KEY, content: bytes = b"plan") -> Path:
    cache.put(key, content, what=WHAT)
    found = cache.find(key)
    assert found is not None
    return found.path


def names(cache: EngineCache) -> set[str]:
    return {path.suffix for path in cache.root.iterdir()}


def start(script: str, *arguments: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.01)


def test_what_was_built_once_is_read_from_then_on(cache: EngineCache) -> None:
    assert cache.get(KEY, lambda: b"plan", what=WHAT) == b"plan"
    assert cache.get(KEY, never, what=WHAT) == b"plan"
    assert EngineCache(cache.root).get(KEY, never, what="another word for it") == b"plan"


def test_an_entry_is_two_files_and_the_json_tells_all(cache: EngineCache) -> None:
    cache.put(KEY, b"plan", what=WHAT, spec={"height": 256})
    assert names(cache) == {".bin", ".json"}
    told = json.loads((cache.root / f"{KEY.digest()}.json").read_text())
    assert told["key"] == KEY.words()
    assert told["sha256"] == hashlib.sha256(b"plan").hexdigest()
    assert (told["bytes"], told["what"], told["spec"]) == (4, WHAT, {"height": 256})
    assert told["created_by"].startswith("mip-edge ")


@pytest.mark.parametrize("part", list(KEY.words()))
def test_each_part_of_the_key_makes_another_entry(cache: EngineCache, part: str) -> None:
    fill(cache)
    other = replace(KEY, **{part: "different"})
    assert other.digest() != KEY.digest()
    assert cache.get(other, lambda: b"other", what=WHAT) == b"other"


@given(st.tuples(*[st.text(max_size=3)] * 8), st.tuples(*[st.text(max_size=3)] * 8))
def test_two_keys_share_a_digest_only_if_all_parts_agree(
    one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    assert (EngineKey(*one).digest() == EngineKey(*other).digest()) == (one == other)


@pytest.mark.parametrize(
    ("part", "before", "line"),
    [
        ("driver", "570.1", "driver was 570.1, is 580.2"),
        ("version", "1.6.0", "version was 1.6.0, is 1.7.1"),
        ("graph_digest", "cd" * 32, "the graph is another (SHA-256)"),
        ("device", "compute capability 12.0", "device was compute capability 12.0, is compute"),
        ("shapes", "1 to 8 crops, best at 8", "shapes was 1 to 8 crops"),
        ("options", "workspace 9 bytes", "options was workspace 9 bytes, is none"),
    ],
)
def test_a_rebuild_says_in_one_line_which_part_differs(
    cache: EngineCache, caplog: pytest.LogCaptureFixture, part: str, before: str, line: str
) -> None:
    fill(cache, replace(KEY, **{part: before}))
    with caplog.at_level(logging.INFO):
        cache.get(KEY, lambda: b"plan", what=WHAT)
    assert len(caplog.messages) == 1
    assert f"building {WHAT} anew: {line}" in caplog.messages[0]


def test_the_first_build_names_no_reason(
    cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    fill(cache, replace(KEY, precision="fp32", options="workspace 9 bytes"))
    with caplog.at_level(logging.INFO):
        cache.get(KEY, lambda: b"plan", what=WHAT)
        cache.get(KEY, never, what=WHAT)
    assert caplog.messages == [f"engine cache: building {WHAT} for compute capability 8.6, once"]


@pytest.mark.parametrize("part", ["graph_digest", "version", "driver"])
def test_what_an_update_made_useless_goes(cache: EngineCache, part: str) -> None:
    older = replace(KEY, **{part: "older"})
    fill(cache, older)
    fill(cache)
    assert cache.find(older) is None
    assert len(list(cache.root.iterdir())) == 2


@pytest.mark.parametrize("part", ["device", "precision", "shapes", "options", "runtime"])
def test_what_was_chosen_otherwise_stays(cache: EngineCache, part: str) -> None:
    other = replace(KEY, **{part: "other"})
    fill(cache, other)
    fill(cache)
    assert cache.find(other) is not None


def test_the_same_graph_in_another_bundle_takes_nothing_away(cache: EngineCache) -> None:
    older = replace(KEY, driver="570.1")
    cache.put(older, b"plan", what="/elsewhere/visible.fp16.onnx")
    fill(cache)
    assert cache.find(older) is not None


def damage_bytes(path: Path) -> None:
    path.write_bytes(b"plaN")


def damage_length(path: Path) -> None:
    path.write_bytes(b"pla")


def remove_bytes(path: Path) -> None:
    path.unlink()


def damage_json(path: Path) -> None:
    path.with_suffix(".json").write_text("{")


def damage_key(path: Path) -> None:
    told = path.with_suffix(".json")
    told.write_text(told.read_text().replace("580.2", "580.3"))


def remove_key(path: Path) -> None:
    told = path.with_suffix(".json")
    told.write_text(told.read_text().replace('"shapes"', '"sizes"'))


def make_list(path: Path) -> None:
    path.with_suffix(".json").write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [damage_bytes, damage_length, remove_bytes, damage_json, damage_key, remove_key, make_list],
)
def test_a_damaged_entry_is_built_anew_and_told_in_one_line(
    cache: EngineCache, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    path = fill(cache)
    damage(path)
    with caplog.at_level(logging.INFO):
        assert cache.get(KEY, lambda: b"fresh", what=WHAT) == b"fresh"
    assert len(caplog.messages) == 1
    assert str(path.with_suffix("")) in caplog.messages[0]
    assert cache.get(KEY, never, what=WHAT) == b"fresh"


@settings(deadline=None)  # each example waits for the disk
@given(content=st.binary(max_size=60), flip=st.integers(0, 479))
def test_no_flipped_bit_is_ever_handed_out(content: bytes, flip: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = EngineCache(Path(folder))
        path = fill(cache, content=content)
        damaged = bytearray(content or b"x")
        damaged[flip // 8 % len(damaged)] ^= 1 << flip % 8
        path.write_bytes(damaged)
        assert cache.get(KEY, lambda: content, what=WHAT) == content


def test_a_build_that_fails_leaves_nothing(cache: EngineCache) -> None:
    def refuse() -> bytes:
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        cache.get(KEY, refuse, what=WHAT)
    assert list(cache.root.iterdir()) == []
    assert cache.get(KEY, lambda: b"plan", what=WHAT) == b"plan"


def test_two_processes_at_once_build_one_plan(tmp_path: Path) -> None:
    root, started, release = (tmp_path / name for name in ("cache", "started", "release"))
    first = start(BUILDER, root, started, release)
    wait_for(started)
    second = start(BUILDER, root, started, release)
    third = start(BUILDER, root, started, release)
    time.sleep(0.5)  # they wait now
    release.touch()
    for process in (first, second, third):
        assert process.communicate(timeout=20)[0] == "plan" * 1000
        assert process.returncode == 0
    assert started.read_text() == "built\n"
    assert names(EngineCache(root)) == {".bin", ".json"}


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    root, started, release = (tmp_path / name for name in ("cache", "started", "release"))
    killed = start(BUILDER, root, started, release)
    wait_for(started)
    other = start(BUILDER, root, started, release)
    time.sleep(0.3)
    assert list(root.glob("*.json")) == []
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=20)
    release.touch()
    assert other.communicate(timeout=20)[0] == "plan" * 1000
    assert started.read_text() == "built\n" * 2
    assert names(EngineCache(root)) == {".bin", ".json"}


def test_a_lock_file_left_behind_is_no_lock(cache: EngineCache) -> None:
    cache.root.mkdir()
    (cache.root / f"{KEY.digest()}.lock").touch()
    assert cache.get(KEY, lambda: b"plan", what=WHAT) == b"plan"
    assert names(cache) == {".bin", ".json"}


def test_what_a_killed_writer_left_is_swept_up(cache: EngineCache) -> None:
    cache.root.mkdir()
    own = cache.root / f".{KEY.digest()}.bin.1-ab.part"
    old = cache.root / f"{'cd' * 32}.bin"
    fresh = cache.root / f"{'ef' * 32}.bin"  # another process may be about to write its JSON
    foreign = cache.root / "notes.txt"
    for path in (own, old, fresh, foreign):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(foreign, (0, 0))
    entry = fill(cache)
    left = {path.name for path in cache.root.iterdir()}
    assert left == {entry.name, entry.with_suffix(".json").name, fresh.name, foreign.name}


def age(cache: EngineCache, key: EngineKey, used: float) -> None:
    os.utime(cache.root / f"{key.digest()}.json", (used, used))


def test_beyond_the_limit_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit_bytes=25)
    first, second, third = (replace(KEY, shapes=str(index)) for index in range(3))
    for index, key in enumerate((first, second)):
        fill(cache, key, b"0123456789")
        age(cache, key, 1000.0 + index)
    cache.get(first, never, what=WHAT)  # so the second is the least recently used
    fill(cache, third, b"0123456789")
    assert [cache.find(key) is not None for key in (first, second, third)] == [True, False, True]
    assert [entry.key for entry in cache.list()] == [third, first]


def test_a_single_entry_above_the_limit_stays_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = EngineCache(tmp_path, limit_bytes=5)
    cache.put(replace(KEY, shapes="small"), b"1", what=WHAT)
    assert cache.get(KEY, lambda: b"0123456789", what=WHAT) == b"0123456789"
    assert [entry.key for entry in cache.list()] == [KEY]
    assert "10 bytes, more than the limit of 5; raise MIP_EDGE_CACHE_LIMIT" in caplog.text


def test_clearing_frees_every_byte_and_leaves_other_files(cache: EngineCache) -> None:
    fill(cache)
    cache.timing_path(KEY).write_bytes(b"times")
    (cache.root / "notes.txt").write_text("mine")
    told = (cache.root / f"{KEY.digest()}.json").stat().st_size
    assert cache.clear() == 4 + told + 5
    assert [path.name for path in cache.root.iterdir()] == ["notes.txt"]
    assert cache.clear() == 0
    assert EngineCache(cache.root / "absent").clear() == 0
    assert EngineCache(cache.root / "absent").list() == []


def test_clearing_spoils_nothing_that_is_being_written(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = cache_module.write_beside

    @contextlib.contextmanager
    def write_and_clear(path: Path) -> Iterator[BinaryIO]:
        with write(path) as stream:
            yield stream
            EngineCache(cache.root).clear()

    monkeypatch.setattr(cache_module, "write_beside", write_and_clear)
    assert cache.get(KEY, lambda: b"plan", what=WHAT) == b"plan"
    assert cache.get(KEY, never, what=WHAT) == b"plan"
    left = cache.root / f".{KEY.digest()}.bin.1-ab.part"  # of a process that was killed
    left.touch()
    cache.clear(now=lambda: time.time() + 7200)
    assert not left.exists()


def test_the_times_of_kernels_belong_to_one_device_and_version(cache: EngineCache) -> None:
    path = cache.timing_path(KEY)
    assert cache.timing_path(replace(KEY, precision="fp32", graph_digest="cd" * 32)) == path
    for part in ("runtime", "version", "device"):
        assert cache.timing_path(replace(KEY, **{part: "other"})) != path
    path.write_bytes(b"times")
    os.utime(path, (0, 0))
    fill(cache)
    assert path.exists()


def test_a_folder_that_may_only_be_read_still_serves(
    cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache)

    def refuse(*_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(cache_module, "locked", refuse)
    assert cache.get(KEY, never, what=WHAT) == b"plan"


def test_a_folder_that_cannot_be_made_is_named_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = EngineCache(tmp_path / "file" / "cache")
    with pytest.raises(OutputError, match=r"file/cache cannot be written: .*MIP_EDGE_CACHE$"):
        cache.get(KEY, never, what=WHAT)


def test_reading_a_plan_of_the_base_network_takes_less_than_a_second(cache: EngineCache) -> None:
    fill(cache, content=bytes(180_000_000))
    start = time.process_time()
    cache.get(KEY, never, what=WHAT)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000), ("2K", 2000), ("1TB", 10**12)],
)
def test_the_limit_is_a_size_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, size: int
) -> None:
    monkeypatch.setenv("MIP_EDGE_CACHE_LIMIT", text)
    assert default_limit() == size


@pytest.mark.parametrize("text", ["0", "-1", "much", "5 apples", "0MB"])
def test_a_limit_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MIP_EDGE_CACHE_LIMIT", text)
    with pytest.raises(OptionError, match=r"MIP_EDGE_CACHE_LIMIT must be a size such as"):
        default_limit()


def test_the_folder_is_that_of_the_environment_or_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIP_EDGE_CACHE", str(tmp_path))
    assert default_root() == EngineCache().root == tmp_path
    monkeypatch.delenv("MIP_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    assert default_root() == tmp_path / "users" / "mip-edge" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_root() == tmp_path / "home" / ".cache" / "mip-edge" / "engines"


def test_what_is_mapped_is_what_was_built_and_is_not_written_back(cache: EngineCache) -> None:
    assert cache.map(KEY, lambda: b"plan" * 1000, what=WHAT) == b"plan" * 1000
    mapped = cache.map(KEY, never, what=WHAT)
    assert isinstance(mapped, mmap.mmap)
    assert mapped[:] == b"plan" * 1000
    mapped[:4] = b"mine"
    assert cache.get(KEY, never, what=WHAT) == b"plan" * 1000
    cache.clear()
    assert mapped[4:8] == b"plan"  # whoever uses it keeps it


@pytest.mark.parametrize("damaged", [b"", b"plam", b"pla"])
def test_what_is_damaged_is_not_mapped(cache: EngineCache, damaged: bytes) -> None:
    fill(cache).write_bytes(damaged)
    assert cache.map(KEY, lambda: b"anew", what=WHAT) == b"anew"
    assert cache.get(KEY, never, what=WHAT) == b"anew"
