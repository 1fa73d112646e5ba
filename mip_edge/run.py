"""The folder of a run: what was asked, with which versions, and a line of figures an epoch."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mip_edge import __version__
from mip_edge.errors import OutputError
from mip_edge.output import write_text

RECORD = "run.json"
METRICS = "metrics.jsonl"
_PACKAGES = ("torch", "numpy", "opencv-python", "safetensors")


def start_run(folder: Path, command: str, options: Mapping[str, Any]) -> None:
    """Make `folder` and write down the command line, options, versions and git commit.

    Raises: OutputError if the folder holds anything, or cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is not empty; name another --output or remove it")
    record = {
        "command": command,
        "command_line": sys.argv,
        "options": dict(options),
        "versions": _all_versions(),
        "git_commit": _git_commit(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
    write_text(folder / RECORD, json.dumps(record, indent=2, default=str) + "\n")


def resume_run(folder: Path, command: str) -> dict[str, Any] | None:
    """The record of the run of `command` in `folder`, to which this command line is added.

    None if there is nothing in `folder` yet. Raises: OutputError if it holds anything else.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if made_by(folder) != command:
        raise OutputError(f"{folder} holds no run of mip-edge {command}; nothing to resume there")
    record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    again = {"command_line": sys.argv, "versions": _all_versions(), "git_commit": _git_commit()}
    resumed = [*record.get("resumed", []), again]
    write_text(folder / RECORD, json.dumps({**record, "resumed": resumed}, indent=2) + "\n")
    return record


def made_by(folder: Path) -> str | None:
    """The command whose run `folder` is; None if it is no run's folder."""
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None
    command = record.get("command") if isinstance(record, dict) else None
    return command if isinstance(command, str) else None


def append_metrics(folder: Path, row: Mapping[str, Any]) -> None:
    """One more JSON line in the run's metrics."""
    try:
        with (folder / METRICS).open("a") as lines:
            lines.write(json.dumps(dict(row)) + "\n")
    except OSError as error:
        raise OutputError(f"{folder / METRICS} cannot be written: {error.strerror}") from error


def replace_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """These rows in place of the run's metrics."""
    write_text(folder / METRICS, "".join(json.dumps(dict(row)) + "\n" for row in rows))


def _all_versions() -> dict[str, str]:
    return {"mip-edge": __version__, "python": platform.python_version(), **_versions()}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git_commit() -> str | None:
    """The commit of the code that runs; None where it is not run from a git checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
