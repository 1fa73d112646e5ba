"""One thing in the engine cache: the key it lies under, and the JSON that tells of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mip_edge import __version__

FORMAT = "mip-edge engine cache 1"
TOLD, BYTES = ".json", ".bin"
"""Endings of the two files of an entry; their name is the digest of its key."""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that a compiled engine depends on; where one part differs, it is compiled anew."""

    graph_digest: str
    """SHA-256 over the ONNX file and its external weights."""
    runtime: str
    """`tensorrt-rtx`, `tensorrt`, `openvino`, ..."""
    version: str
    """Of the runtime."""
    device: str
    """The GPU it runs on, or what it was built for: `compute capability 8.6`."""
    driver: str = ""
    """Empty where the bytes do not depend on it."""
    precision: str = "fp32"
    shapes: str = ""
    """Batches, in words: `1 to 32 crops, best at 8`."""
    options: str = ""
    """All other choices of the build, in words."""

    def digest(self) -> str:
        """SHA-256 of all parts; the name of the entry."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def words(self) -> dict[str, str]:
        """Its parts by name, in their order."""
        return asdict(self)

    def differences(self, other: EngineKey) -> list[str]:
        """Which parts differ, in words: `driver was 570.1, is 580.2`; `other` is the older."""
        told = []
        for name, now in self.words().items():
            before = getattr(other, name)
            if before == now:
                continue
            if name == "graph_digest":
                told.append("the graph is another (SHA-256)")
            else:
                told.append(f"{name} was {before or 'none'}, is {now or 'none'}")
        return told


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One thing in the cache, as its JSON tells it."""

    key: EngineKey
    what: str
    """What it was made of: the path of the graph."""
    path: Path
    bytes: int
    sha256: str
    created: float
    """Seconds since 1970."""
    used: float
    """When it was read last, seconds since 1970."""
    created_by: str
    spec: Mapping[str, Any]
    """What else its maker wrote down: spec of the graph, launches, seconds of the build."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {
            **asdict(self), "key": self.key.words(), "path": str(self.path),
            "spec": dict(self.spec),
        }  # fmt: skip


def told_of(key: EngineKey, content: bytes, what: str, spec: Mapping[str, Any]) -> str:
    """The JSON beside the bytes of an entry."""
    document = {
        "format": FORMAT,
        "what": what,
        "key": key.words(),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "created_by": f"mip-edge {__version__}",
        "spec": dict(spec),
    }
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def read_entry(told: Path) -> CacheEntry:
    """The entry of a JSON file. Raises: OSError or ValueError if a file is missing or no such."""
    document = json.loads(told.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("it is not of this cache")
    path = told.with_suffix(BYTES)
    try:
        return CacheEntry(
            key=EngineKey(**document["key"]),
            what=str(document["what"]),
            path=path,
            bytes=int(document["bytes"]),
            sha256=str(document["sha256"]),
            created=path.stat().st_mtime,
            used=told.stat().st_mtime,
            created_by=str(document["created_by"]),
            spec=dict(document["spec"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks a part or has one too many ({error})") from error
