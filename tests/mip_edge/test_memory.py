"""Memory of a process, from Linux's own lines and from processes that are started for it."""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mip_edge.cli import cli
from mip_edge.errors import BundleError, EngineError, OptionError
from mip_edge.memory import measure_memory, read_memory, read_peak, sum_mappings

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

SMAPS = """\
7f00-7f10 rw-p 00000000 fe:00 12 /a/bundle/weights.bin
Size:               4000 kB
Rss:                3000 kB
Pss:                1500 kB
Shared_Clean:       3000 kB
VmFlags: rd wr mr
7f10-7f20 rw-p 00000000 fe:00 12 /a/bundle/weights.bin
Rss:                3000 kB
Pss:                1500 kB
7f20-7f30 r-xp 00000000 fe:00 13 /lib/bundle of others/libc.so (deleted)
Rss:                 500 kB
Pss:                   1 kB
7f30-7f40 rw-p 00000000 00:00 0
Rss:                 100 kB
Pss:                 100 kB
"""


def test_a_weight_file_that_is_mapped_twice_counts_once_and_libraries_whole() -> None:
    resident, physical = sum_mappings(SMAPS.splitlines(keepends=True), Path("/a/bundle"))
    assert resident == pytest.approx((3000 + 3000 + 500 + 100) * 1024 / 1e6)
    assert physical == pytest.approx((3000 + 500 + 100) * 1024 / 1e6)


@linux
def test_sharing_leaves_the_weights_in_memory_once(tiny_bundle: Path) -> None:
    pytest.importorskip("torch", reason="the tiny bundle is exported with torch")
    measured = measure_memory(
        tiny_bundle, ["onnxruntime"], [2, 1, 2], precisions=["fp32"], threads=1
    )
    assert [(one.share_weights, one.batch) for one in measured] == [
        (False, 1),
        (False, 2),
        (True, 1),
        (True, 2),
    ]
    assert all(one.imports_mb > 1 and one.resident_mb > 1 for one in measured)
    weights = (tiny_bundle / "weights.bin").stat().st_size / 1e6
    packed, sharing = measured[1], measured[3]
    twice = sharing.resident_mb - sharing.physical_mb
    # Constants that both graphs have are all of the file but prompts, positions and patches.
    assert 0.6 * weights < twice <= weights + 0.2
    assert packed.resident_mb - packed.physical_mb < 0.5 * twice


@linux
def test_command_prints_memory_beside_the_times(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="the tiny bundle is exported with torch")
    arguments = [
        "benchmark",
        str(tiny_bundle),
        "--engine",
        "fake",
        "--batch",
        "3",
        "--repeats",
        "1",
    ]
    monkeypatch.setattr("mip_edge.benchmark.measure_ceilings", lambda threads: {})
    result = CliRunner().invoke(cli, [*arguments, "--memory", "--json"])
    assert result.exit_code == 0, result.output
    (line,) = json.loads(result.stdout)["memory"]
    assert (line["engine"], line["batch"], line["share_weights"]) == ("fake", 3, False)


@linux
def test_the_whole_process_is_measured_beside_what_was_opened(
    tiny_unified_bundle: Path,
) -> None:
    pytest.importorskip("torch", reason="the tiny bundle is exported with torch")
    measured = measure_memory(
        tiny_unified_bundle, ["fake"], [1], precisions=["fp32", "fp16"], threads=1
    )
    assert [one.precision for one in measured] == ["fp32", "fp16"]
    for one in measured:
        # no file of the bundle is mapped: before and after add up
        assert one.total_mb == pytest.approx(one.imports_mb + one.resident_mb, abs=0.2)
        assert one.peak_mb >= one.total_mb - 0.2
        assert one.without_torch


@linux
def test_the_peak_stays_when_memory_is_given_back() -> None:
    before, _ = read_memory(Path())
    # Not from the heap, which keeps what is given back where it has gaps of that size.
    size = int(1e6 * (read_peak() - before + 50))
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        filled, _ = read_memory(Path())
    after, _ = read_memory(Path())
    assert after < filled - 40
    assert read_peak() >= filled - 5  # the kernel counts pages of a thread in parts


def test_another_system_than_linux_is_told(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mip_edge.memory._MAPPINGS", tmp_path / "smaps")
    with pytest.raises(OptionError, match="--memory reads .*smaps, which .* run it on Linux"):
        measure_memory(tiny_bundle, ["fake"], [1], precisions=["fp32"], threads=1)


@linux
def test_what_cannot_be_measured_is_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    def measure(
        bundle: Path, engine: str, precision: str = "fp32", threads: int | None = 1
    ) -> None:
        measure_memory(bundle, [engine], [1], precisions=[precision], threads=threads)

    with pytest.raises(EngineError, match="unknown engine 'warp'"):
        measure(tiny_bundle, "warp")
    with pytest.raises(BundleError, match="is not a bundle"):
        measure(tmp_path, "fake")
    with pytest.raises(BundleError, match="holds no int4 graphs"):
        measure(tiny_bundle, "fake", "int4")
    with pytest.raises(EngineError, match="engine fake was not measured: --threads must be"):
        measure(tiny_bundle, "fake", threads=0)
