"""The floors of the house: what an edge box imports needs no torch, and an import does nothing."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mip_edge", "export", "engines", "calibration")
EDGE_MODULES = (
    "mip_edge.cli",
    "mip_edge.errors",
    "mip_edge.spec",
    "mip_edge.preprocess",
    "mip_edge.metrics",
    "mip_edge.gallery",
    "mip_edge.artifact",
    "mip_edge.output",
    "mip_edge.doctor",
    "engines",
    "engines.base",
    "engines.table",
    "engines.fake",
    "engines.parity",
    "engines.ort",
    "engines.ov",
    "mip_edge.embedder",
    *sorted(f"mip_edge.live.{path.stem}" for path in (ROOT / "mip_edge" / "live").glob("[!_]*.py")),
    *sorted(
        f"mip_edge.commands.{path.stem}"
        for path in (ROOT / "mip_edge" / "commands").glob("[!_]*.py")
    ),
)
WATCH = """
import importlib, json, sys
arrived = {}
for name in sys.argv[2:]:
    absent = [library for library in json.loads(sys.argv[1]) if library not in sys.modules]
    importlib.import_module(name)
    arrived[name] = [library for library in absent if library in sys.modules]
print(json.dumps(arrived))
"""


def arrivals(watched: list[str], modules: tuple[str, ...]) -> dict[str, list[str]]:
    """Which of the watched libraries each module is the first to import, in one interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH, json.dumps(watched), *modules],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return {module: libraries for module, libraries in found.items() if libraries}


def test_what_an_edge_box_imports_leaves_torch_alone() -> None:
    assert arrivals(["torch"], EDGE_MODULES) == {}


def test_command_modules_import_nothing_heavy() -> None:
    commands = tuple(m for m in EDGE_MODULES if m.startswith("mip_edge.commands."))
    heavy = ["torch", "onnx", "onnxruntime", "openvino", "cv2", "numpy", "matplotlib", "trackers"]
    assert arrivals(heavy, ("mip_edge.cli", *commands)) == {}


def test_the_torch_watch_sees_torch() -> None:
    assert arrivals(["torch"], ("mip_edge.errors", "mip_edge.model.mip")) == {
        "mip_edge.model.mip": ["torch"]
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_marked_as_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("package", PACKAGES)
def test_package_init_holds_a_docstring_alone(package: str) -> None:
    docstring, *rest = ast.parse((ROOT / package / "__init__.py").read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)
    names = [ast.unparse(node).split(" = ")[0] for node in rest]
    assert names == (["__version__"] if package == "mip_edge" else [])


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_the_one_of_this_checkout(package: str) -> None:
    module = import_module(package)
    assert Path(str(module.__file__)).parent == ROOT / package


def test_no_module_hides_a_standard_one() -> None:
    names = {path.stem for package in PACKAGES for path in (ROOT / package).rglob("[!_]*.py")}
    hidden = names & set(sys.stdlib_module_names)
    assert hidden == set()


def test_every_module_stands_on_a_floor() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    contract = re.search(r"^layers = \[(.*?)^\]", text, re.S | re.M)
    assert contract is not None
    layers = set(re.findall(r"\((\S+)\)", contract[1]))
    parts = [*(ROOT / "mip_edge").glob("*.py"), *(ROOT / "mip_edge").glob("*/__init__.py")]
    names = {path.stem if path.stem != "__init__" else path.parent.name for path in parts}
    here = {f"mip_edge.{name}" for name in names - {"mip_edge"}} | {*PACKAGES} - {"mip_edge"}
    assert here - layers == set()


def test_every_edge_module_is_there() -> None:
    assert [name for name in EDGE_MODULES if find_spec(name) is None] == []
