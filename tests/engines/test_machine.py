"""What is told of the machine, on which a measurement depends."""

from __future__ import annotations

import os
from importlib.metadata import version

import numpy as np
import pytest

from engines.machine import describe_machine, module_version


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
