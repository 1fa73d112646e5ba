"""The machine in words."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from mip_edge.benchmark_machine import describe_machine, find_integer_product, read_versions


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: sse avx2 avx_vnni avx512_vnni", ["avx512_vnni"]),
        ("Features\t: fp asimd asimddp i8mm", ["i8mm"]),
        ("flags\t\t: sse avx2", []),
        ("model name\t: amx_int8 in its name", []),
    ],
)
def test_the_fastest_instructions_for_int8_are_named(
    tmp_path: Path, line: str, expected: list[str]
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\n{line}\n\nprocessor\t: 1\n{line}\n")
    assert find_integer_product(path) == expected


def test_a_system_that_does_not_tell_is_no_error(tmp_path: Path) -> None:
    assert find_integer_product(tmp_path / "nothing") == []


@pytest.mark.parametrize(
    ("threads", "words"),
    [(1, "; 1 thread"), (2, "; 2 threads"), (None, "; threads as the runtime chooses")],
)
def test_the_threads_of_an_engine_are_told(threads: int | None, words: str) -> None:
    assert describe_machine(threads).endswith(words)
    assert "core" in describe_machine(threads)


def test_versions_are_those_of_the_packages() -> None:
    found = read_versions(["onnxruntime", "numpy"])
    assert list(found) == ["mip-edge", "python", "numpy", "onnxruntime"]
    assert found["onnxruntime"] == version("onnxruntime")
