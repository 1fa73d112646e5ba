"""What is told of the machine, on which a measurement depends."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from engines.machine import describe_machine, digest_instructions, module_version


def test_the_cores_that_the_process_may_use_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 5, 7}, raising=False)
    told = describe_machine()
    assert told.partition(";")[0].endswith(", 3 cores")
    assert len(told.partition(",")[0]) > 2  # a processor has a name


def test_versions_are_those_of_the_installed_distributions() -> None:
    assert module_version("numpy") == np.__version__
    assert module_version("onnxruntime") == version("onnxruntime")
    assert module_version("cv2").count(".") >= 2  # its distribution has another name
    assert module_version("no_such_module") == "that cannot be imported"


def test_instruction_sets_have_a_digest_that_knows_no_order(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        (tmp_path / "cpuinfo").write_text(text)
        return digest_instructions(tmp_path / "cpuinfo")

    first = digest("processor : 0\nflags\t\t: avx2 avx512f\nflags\t\t: avx2 avx512f\n")
    assert len(first) == 8
    assert digest("flags : avx512f avx2\ncpu MHz : 2596\n") == first
    assert digest("flags : avx2\n") != first
    assert digest("Features : avx2 avx512f\n") == first  # Linux's word on Arm
    assert digest("nothing of the kind\n") == "unknown"
    assert digest_instructions(tmp_path / "missing") == "unknown"
