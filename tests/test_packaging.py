"""The wheel: what lies in it, and that it runs where only its base dependencies are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from mip_edge import __version__

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"mip_edge", "export", "engines", "calibration"}
DIST_INFO = f"mip_edge-{__version__}.dist-info"


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, without the paths of this test run."""
    surroundings = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    return subprocess.run(
        command, cwd=cwd, env=surroundings, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=ROOT
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return path


def base_closure(wheel: Path) -> set[str]:
    """Distributions that the wheel installs without any extra, by what each of them requires."""
    with ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{DIST_INFO}/METADATA").decode())
    waiting = list(metadata.get_all("Requires-Dist", []))
    found: set[str] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in found:
            found.add(requirement.name)
            waiting += distribution(requirement.name).requires or []
    return found


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and its base dependencies, linked from the one we run in."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for name in base_closure(wheel):
        found = distribution(name)
        tops = {path.parts[0] for path in found.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    installed = run(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--no-deps", "--no-index", "--disable-pip-version-check", wheel),
        cwd=folder,
    )
    assert installed.returncode == 0, installed.stderr
    return folder / "bin"


def test_top_level_is_the_four_packages_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {*PACKAGES, DIST_INFO}


def test_every_source_and_data_file_is_in_the_wheel(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.startswith(DIST_INFO)}
    here = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == here
    assert {f"{package}/py.typed" for package in PACKAGES} <= packed


@pytest.mark.parametrize("pattern", ["*.onnx", "*.safetensors"])
def test_the_shipped_models_are_in_the_wheel(wheel: Path, pattern: str) -> None:
    shipped = [path.name for path in (ROOT / "mip_edge" / "assets").glob(pattern)]
    assert shipped != []
    with ZipFile(wheel) as archive:
        packed = archive.namelist()
    assert [name for name in shipped if f"mip_edge/assets/{name}" not in packed] == []


def test_licence_and_notice_travel_with_the_wheel(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        packed = archive.namelist()
        metadata = Parser().parsestr(archive.read(f"{DIST_INFO}/METADATA").decode())
    assert {f"{DIST_INFO}/licenses/{name}" for name in ("LICENSE", "NOTICE")} <= set(packed)
    assert metadata["License-Expression"] == "Apache-2.0"


def test_the_plain_installation_brings_no_training_library(wheel: Path) -> None:
    brought = {name.lower() for name in base_closure(wheel)}
    assert {"numpy", "opencv-python", "click", "onnxruntime", "rich"} <= brought
    assert brought & {"torch", "onnx", "onnxsim", "matplotlib", "safetensors", "openvino"} == set()


def test_help_runs_in_a_bare_environment_from_another_folder(bare: Path, tmp_path: Path) -> None:
    shown = run(bare / "mip-edge", "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("Usage: mip-edge")
    assert list(tmp_path.iterdir()) == []


def test_the_bare_environment_has_no_torch(bare: Path, tmp_path: Path) -> None:
    tried = run(bare / "python", "-c", "import torch", cwd=tmp_path)
    assert "No module named 'torch'" in tried.stderr


@pytest.mark.parametrize("command", ["live", "embed", "search", "benchmark", "train", "demo"])
def test_help_of_a_command_needs_no_extra(bare: Path, tmp_path: Path, command: str) -> None:
    shown = run(bare / "mip-edge", command, "--help", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr


def test_doctor_of_a_bare_environment_finds_the_wheel_and_nothing_to_mend(
    bare: Path, tmp_path: Path
) -> None:
    shown = run(bare / "mip-edge", "doctor", "--json", cwd=tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    found = json.loads(shown.stdout)
    homes = {Path(origin["folder"]).parent for origin in found["origins"]}
    assert {home.name for home in homes} == {"site-packages"}
    assert len(homes) == 1
    assert all(origin["distributions"] == ["mip-edge"] for origin in found["origins"])
    states = {engine["name"]: engine for engine in found["engines"]}
    assert states["onnxruntime"]["opens"]
    assert "mip-edge[train]" in states["torch"]["reason"]


def test_a_command_that_needs_an_extra_names_it(bare: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"")
    tried = run(bare / "mip-edge", "export", weights, "-o", tmp_path / "bundle", cwd=tmp_path)
    assert tried.returncode == 1
    assert tried.stderr.count("\n") == 1
    assert 'pip install "mip-edge[train]"' in tried.stderr


def test_every_dependency_that_make_installs_is_pinned_to_a_tested_version() -> None:
    pins = {
        Requirement(line).name.lower(): Requirement(line).specifier
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert all(str(pin).startswith("==") for pin in pins.values())
    text = (ROOT / "pyproject.toml").read_text()
    unpinned = {"cuda-bindings", "tensorrt", "pycuda"}  # extras that make does not install
    for requirement in map(Requirement, re.findall(r'"([a-z][a-z-]*[<>=][^"]*)"', text)):
        assert requirement.name in pins or requirement.name in unpinned
        if requirement.name in pins:
            (pin,) = pins[requirement.name]
            assert requirement.specifier.contains(pin.version)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lists_the_two_commands_of_the_readme() -> None:
    shown = run("make", "--no-print-directory", "help", cwd=ROOT)
    assert "make demo" in shown.stdout
    assert "make test" in shown.stdout
