"""The command `mip-edge doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mip_edge.doctor import Diagnosis


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Show versions, devices, and which engines open on this machine.

    Exit code 1 if something is to be mended: a library that is broken or missing from the plain
    installation, or another package in front of one of ours. An extra that is not installed is
    shown, and is no fault.
    """
    from mip_edge.doctor import examine

    diagnosis = examine()
    click.echo(json.dumps(asdict(diagnosis), indent=2) if as_json else report(diagnosis))
    if diagnosis.problems:
        ctx.exit(1)


def report(diagnosis: Diagnosis) -> str:
    """The findings as text for a person."""
    lines = [
        f"mip-edge {diagnosis.version}, Python {diagnosis.python} ({diagnosis.executable})",
        f"{diagnosis.platform}, {diagnosis.processors} processors",
        "",
        "Libraries",
    ]
    for library in diagnosis.libraries:
        extra = f" [{library.extra}]" if library.extra else ""
        state = library.version or f'not installed: pip install "mip-edge[{library.extra}]"'
        if library.error:
            state = f"{library.version or ''} BROKEN: {library.error}".strip()
        lines.append(f"  {library.name + extra:<38} {state}")
    lines += ["", "Devices"]
    for devices in diagnosis.devices:
        lines.append(f"  {devices.runtime:<12} {devices.error or ', '.join(devices.names)}")
    lines += ["", "Engines"]
    for engine in diagnosis.engines:
        lines.append(f"  {engine.name:<12} {'opens' if engine.opens else engine.reason}")
    lines += ["", "Packages"]
    for origin in diagnosis.origins:
        brought = f" ({', '.join(origin.distributions)})" if origin.distributions else ""
        lines.append(f"  {origin.package:<12} {origin.folder}{brought}")
    lines += ["", *(f"Problem: {problem}." for problem in diagnosis.problems)]
    if not diagnosis.problems:
        lines.append("Nothing to mend.")
    return "\n".join(lines)
