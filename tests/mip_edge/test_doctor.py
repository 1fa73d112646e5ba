"""The doctor: what it finds is what is there, and what is broken is said with its error."""

from __future__ import annotations

import ctypes
import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from engines.table import ENGINES
from mip_edge import __version__, doctor
from mip_edge.cli import cli
from mip_edge.errors import EngineError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def diagnosis() -> doctor.Diagnosis:
    return doctor.examine()


@pytest.fixture
def broken_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An installed library that raises when it is imported."""
    (tmp_path / "broken_runtime.py").write_text(
        "raise RuntimeError('libfoo.so.7 is missing\\nat 0')"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "broken_runtime"
    sys.modules.pop("broken_runtime", None)


def declared() -> dict[str, str | None]:
    """Distribution -> extra as pyproject.toml says, without the tools of developers."""
    text = (ROOT / "pyproject.toml").read_text()
    found: dict[str, str | None] = {}
    base = re.search(r"^dependencies = \[(.*?)\]", text, re.S | re.M)
    extras = re.search(r"^\[project\.optional-dependencies\]\n(.*?)\n\[", text, re.S | re.M)
    assert base is not None
    assert extras is not None
    blocks: list[tuple[str | None, str]] = [(None, base[1])]
    blocks += re.findall(r"^(\w+) = \[(.*?)\]$", extras[1], re.S | re.M)
    for extra, block in blocks:
        if extra != "dev":
            found |= dict.fromkeys(re.findall(r'"([A-Za-z0-9-]+)', block), extra)
    return found


def test_the_doctor_knows_every_dependency_and_its_extra() -> None:
    known = {dependency.distribution: dependency.extra for dependency in doctor.DEPENDENCIES}
    assert known == declared()


def test_versions_are_those_that_are_installed(diagnosis: doctor.Diagnosis) -> None:
    assert diagnosis.version == __version__
    found = {library.name: library for library in diagnosis.libraries}
    for name in ("numpy", "onnxruntime", "opencv-python", "torch"):
        assert found[name].version == version(name)
        assert found[name].error is None


def test_every_engine_of_the_table_is_looked_at(diagnosis: doctor.Diagnosis) -> None:
    states = {engine.name: engine for engine in diagnosis.engines}
    assert list(states) == list(ENGINES)
    assert states["onnxruntime"].opens
    assert states["fake"].opens


def test_an_engine_opens_or_says_why_not(diagnosis: doctor.Diagnosis) -> None:
    assert all(engine.opens == (engine.reason is None) for engine in diagnosis.engines)


def test_devices_of_each_installed_runtime_are_listed(diagnosis: doctor.Diagnosis) -> None:
    devices = {entry.runtime: entry for entry in diagnosis.devices}
    assert "CPUExecutionProvider" in devices["onnxruntime"].names
    assert devices["torch"].names[0] == "cpu"
    assert any(name.startswith("CPU (") for name in devices["openvino"].names)


def test_the_nvidia_driver_is_listed_or_its_absence_is_said(diagnosis: doctor.Diagnosis) -> None:
    nvidia = next(entry for entry in diagnosis.devices if entry.runtime == "nvidia")
    assert bool(nvidia.names) != bool(nvidia.error)


class FakeDriver:
    """Two GPUs and a driver for CUDA 12.6, or what cuInit gives without a GPU."""

    def __init__(self, started: int) -> None:
        self.started = started

    def cuInit(self, flags: int) -> int:
        return self.started

    def cuDriverGetVersion(self, reference: Any) -> int:
        reference._obj.value = 12060
        return 0

    def cuDeviceGetCount(self, reference: Any) -> int:
        reference._obj.value = 2
        return 0

    def cuDeviceGetName(self, buffer: Any, size: int, index: int) -> int:
        buffer.value = f"Orin {index}".encode()
        return 0


def test_the_nvidia_driver_names_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(started=0))
    assert doctor.nvidia_devices() == ("driver for CUDA 12.6", "Orin 0", "Orin 1")


def test_a_driver_without_a_gpu_is_told_apart_from_no_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(started=100))
    with pytest.raises(EngineError, match="finds no GPU .cuInit gives 100."):
        doctor.nvidia_devices()


def test_our_packages_come_from_this_checkout(diagnosis: doctor.Diagnosis) -> None:
    assert {origin.package: Path(origin.folder) for origin in diagnosis.origins} == {
        package: ROOT / package for package in ("mip_edge", "export", "engines", "calibration")
    }


def test_a_broken_runtime_is_shown_with_its_error(broken_module: str) -> None:
    dependency = doctor.Dependency(broken_module, "broken-runtime", "trt")
    library = doctor.find_library(dependency)
    assert library.error == "RuntimeError: libfoo.so.7 is missing"
    assert next(doctor.library_problems([library])).endswith("libfoo.so.7 is missing")


def test_an_engine_with_a_broken_runtime_is_shown_with_its_error(broken_module: str) -> None:
    state = doctor.try_engine("trt", broken_module, None)
    assert not state.opens
    assert state.reason == (
        "its runtime is installed but broken: RuntimeError: libfoo.so.7 is missing"
    )


def test_a_missing_runtime_is_told_with_the_way_out() -> None:
    state = doctor.try_engine("trt", "nowhere", 'pip install "mip-edge[trt]"')
    assert state == doctor.EngineState("trt", False, 'pip install "mip-edge[trt]"')


def test_an_extra_that_is_not_installed_is_no_problem() -> None:
    library = doctor.find_library(doctor.Dependency("not_there.at_all", "not-there", "trt"))
    assert library == doctor.Library("not-there", "trt", None, None)
    assert list(doctor.library_problems([library])) == []


def test_a_base_dependency_that_is_not_installed_is_a_problem() -> None:
    library = doctor.find_library(doctor.Dependency("not_there", "not-there"))
    assert len(list(doctor.library_problems([library]))) == 1


def test_a_library_without_a_pip_name_is_found_by_importing_it() -> None:
    library = doctor.find_library(doctor.Dependency("json", "json-of-the-system"))
    assert library.error is None
    assert library.version == "2.0.9"


def test_two_distributions_with_one_name_are_a_problem() -> None:
    origins = doctor.find_origins({"engines": ["mip-edge", "another", "mip-edge"]})
    assert [o.distributions for o in origins] == [(), (), ("another", "mip-edge"), ()]
    (problem,) = doctor.origin_problems(origins)
    assert problem.startswith("another and mip-edge all install a package named engines")


def test_a_package_from_another_folder_is_a_problem() -> None:
    origins = [
        doctor.Origin("mip_edge", "/site/mip_edge", ()),
        doctor.Origin("export", "/elsewhere/export", ()),
    ]
    (problem,) = doctor.origin_problems(origins)
    assert problem.startswith("export comes from /elsewhere/export, not from /site")


def test_a_runtime_that_cannot_be_asked_is_listed_with_its_error() -> None:
    def asker() -> tuple[str, ...]:
        raise RuntimeError("no driver\nmore")

    assert doctor.ask("openvino", asker) == doctor.Devices(
        "openvino", (), "RuntimeError: no driver"
    )


def test_the_command_prints_json_that_holds_the_diagnosis(
    diagnosis: doctor.Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: diagnosis)
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    printed = json.loads(result.stdout)
    assert printed["version"] == __version__
    assert [engine["name"] for engine in printed["engines"]] == list(ENGINES)
    assert result.exit_code == (1 if printed["problems"] else 0)


def test_the_command_prints_every_library_engine_and_package(
    diagnosis: doctor.Diagnosis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: diagnosis)
    lines = CliRunner().invoke(cli, ["doctor"]).stdout.splitlines()
    first_words = {line.split()[0] for line in lines if line.startswith("  ")}
    assert {library.name for library in diagnosis.libraries} <= first_words
    assert set(ENGINES) <= first_words
    assert {origin.package for origin in diagnosis.origins} <= first_words


def test_the_command_fails_if_something_is_to_be_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    sick = doctor.Diagnosis("1", "3", "python", "p", 1, (), (), (), (), ("numpy is broken",))
    monkeypatch.setattr(doctor, "examine", lambda: sick)
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert result.stdout.endswith("Problem: numpy is broken.\n")
