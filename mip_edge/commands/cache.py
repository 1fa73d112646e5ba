"""The command group `mip-edge cache`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from engines.cache import CacheEntry

folder_option = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="$MIP_EDGE_CACHE, or mip-edge/engines in the user's cache folder",
    help="The cache, where it is another than this user's.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print it all as JSON.")


@click.group()
def cache() -> None:
    """List or clear what engines compiled from bundles on this machine."""


@cache.command(name="list")
@folder_option
@json_option
def list_entries(folder: Path | None, as_json: bool) -> None:
    """List every entry, the last used first.

    MIP_EDGE_CACHE_LIMIT (4GB by default) is the room for all; beyond it the least recently used
    go first.
    """
    from engines.cache import EngineCache

    found = EngineCache(folder)
    entries = found.list()
    if as_json:
        document = {
            "folder": str(found.root),
            "limit_bytes": found.limit_bytes,
            "entries": [entry.to_dict() for entry in entries],
        }
        click.echo(json.dumps(document, indent=2))
        return
    for entry in entries:
        click.echo(_line(entry))
    total = sum(entry.bytes for entry in entries)
    room = f"{total / 1e6:.1f} of {found.limit_bytes / 1e6:.0f} MB"
    click.echo(f"{found.root}: {len(entries)} entries, {room}")


@cache.command()
@folder_option
@json_option
def clear(folder: Path | None, as_json: bool) -> None:
    """Remove every entry; always safe, an engine that needs one makes it anew."""
    from engines.cache import EngineCache

    found = EngineCache(folder)
    count, freed = len(found.list()), found.clear()
    if as_json:
        document = {"folder": str(found.root), "entries": count, "freed_bytes": freed}
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(f"{found.root}: {count} entries removed, {freed / 1e6:.1f} MB freed")


def _line(entry: CacheEntry) -> str:
    key = entry.key
    used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
    parts = [f"{key.runtime} {key.version}", key.device, key.driver and f"driver {key.driver}"]
    parts += [key.precision, key.shapes, key.options]
    told = ", ".join(part for part in parts if part)
    return f"{entry.bytes / 1e6:8.1f} MB  used {used}  {entry.what}: {told}"
