"""What runtimes compiled from bundles on this device, kept by a key of all that it depends on.

Deleting it is always safe. An entry is two files: the bytes, and a JSON of the same name that
tells what they are and their SHA-256; the JSON comes last, so bytes without it are no entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.entry import BYTES, TOLD, CacheEntry, EngineKey, read_entry, told_of
from engines.lock import locked
from mip_edge.errors import OptionError, OutputError
from mip_edge.output import write_beside, write_text

__all__ = ["CacheEntry", "EngineCache", "EngineKey", "default_limit", "default_root"]

logger = logging.getLogger(__name__)

ROOT_VARIABLE = "MIP_EDGE_CACHE"
LIMIT_VARIABLE = "MIP_EDGE_CACHE_LIMIT"
_ANOTHER = f"Choose another folder with {ROOT_VARIABLE}"
DEFAULT_LIMIT_BYTES = 4 << 30
"""Room for some twenty float16 plans of the base network."""
_DEAD_SECONDS = 3600
"""Age of half an entry from which nobody can still be at work on it."""
_LOCK, _TIMING, _PART = ".lock", ".timing", ".part"
_NAME = re.compile(r"[0-9a-f]{64}\.(json|bin|lock|timing)|\.[0-9a-f]{64}\..*\.part")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?B?)", re.IGNORECASE)
_UNITS = {
    **dict.fromkeys(("", "B"), 1), **dict.fromkeys(("K", "KB"), 10**3),
    **dict.fromkeys(("M", "MB"), 10**6), **dict.fromkeys(("G", "GB"), 10**9),
    **dict.fromkeys(("T", "TB"), 10**12),
}  # fmt: skip

_Load = Callable[[Path], "bytes | mmap.mmap"]


class EngineCache:
    """Bytes by key in one folder, safe with several processes at once."""

    def __init__(self, root: Path | None = None, limit_bytes: int | None = None) -> None:
        """`root` None: $MIP_EDGE_CACHE, or the user's cache folder; it is made when needed.

        `limit_bytes` None: $MIP_EDGE_CACHE_LIMIT, or `DEFAULT_LIMIT_BYTES`; what was read longest
        ago goes first. Raises: OptionError for a limit that is no size.
        """
        self.root = default_root() if root is None else root
        self.limit_bytes = default_limit() if limit_bytes is None else limit_bytes
        if self.limit_bytes < 1:
            raise OptionError(f"limit_bytes must be at least 1, got {self.limit_bytes}")

    def get(
        self,
        key: EngineKey,
        build: Callable[[], bytes],
        *,
        what: str,
        spec: Mapping[str, Any] | None = None,
    ) -> bytes:
        """The bytes of `key`; what is missing or damaged is built, once for all processes.

        `what` names the source for people, best the path of the graph: an entry of the same
        `what` and of another graph, version or driver is replaced. `spec` is written down beside.
        Raises: OutputError if the folder cannot be written; what `build` raises goes through.
        """
        return bytes(self._get(key, build, what, spec, Path.read_bytes))

    def map(
        self,
        key: EngineKey,
        build: Callable[[], bytes],
        *,
        what: str,
        spec: Mapping[str, Any] | None = None,
    ) -> bytes | mmap.mmap:
        """The same, but what is there already is mapped instead of read: for what is large.

        The mapping is private and survives the removal of its entry. Raises: as `get`.
        """
        return self._get(key, build, what, spec, _map)

    def _get(
        self,
        key: EngineKey,
        build: Callable[[], bytes],
        what: str,
        spec: Mapping[str, Any] | None,
        load: _Load,
    ) -> bytes | mmap.mmap:
        content, _ = self._read(key, load)
        if content is not None:
            return content
        with self._locked(key, what):
            content, damage = self._read(key, load)  # another may have built it meanwhile
            if content is not None:
                return content
            logger.info("%s", self._reason(key, what, damage))
            content = build()
            self._write(key, content, what, spec)
        self._tidy(key, what)
        return content

    def put(
        self, key: EngineKey, content: bytes, *, what: str, spec: Mapping[str, Any] | None = None
    ) -> None:
        """Write bytes, in place of older ones. Raises: OutputError."""
        with self._locked(key, what):
            self._write(key, content, what, spec)
        self._tidy(key, what)

    def discard(self, key: EngineKey) -> None:
        """Remove one entry, if it is there."""
        path = self._told(key.digest())
        for file in (path, path.with_suffix(BYTES)):  # without its JSON the rest is no entry
            with contextlib.suppress(OSError):
                file.unlink()

    def find(self, key: EngineKey) -> CacheEntry | None:
        """What is told of the entry of `key`; None if there is none or it cannot be read."""
        try:
            return read_entry(self._told(key.digest()))
        except (OSError, ValueError):
            return None

    def clear(self, now: Callable[[], float] = time.time) -> int:
        """Remove all that this cache ever wrote into its folder; the bytes that this freed.

        What another process is writing just now stays, else its build would be for nothing.
        """
        freed = 0
        for path in self._files():
            with contextlib.suppress(OSError):
                file = path.stat()
                if path.suffix == _PART and file.st_mtime > now() - _DEAD_SECONDS:
                    continue
                path.unlink()
                freed += file.st_size
        return freed

    def timing_path(self, key: EngineKey) -> Path:
        """Where the builder of one version on one device keeps the times of its kernels."""
        name = hashlib.sha256(f"{key.runtime} {key.version} {key.device}".encode()).hexdigest()
        self._make_root()
        return self.root / f"{name}{_TIMING}"

    def _read(self, key: EngineKey, load: _Load) -> tuple[bytes | mmap.mmap | None, str]:
        """The bytes, or None and what is wrong with them; no words if they were never there."""
        told = self._told(key.digest())
        try:
            entry = read_entry(told)
            if entry.key != key:
                return None, f"{told} is of another key"
            content = load(entry.path)
        except FileNotFoundError:
            return None, f"{told.with_suffix(BYTES)} is missing" if told.exists() else ""
        except OSError as error:
            return None, f"{error.filename} cannot be read: {error.strerror}"
        except ValueError as error:
            return None, f"{told} cannot be read: {error}"
        if len(content) != entry.bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
            return None, f"{entry.path} is not what was written (SHA-256)"
        with contextlib.suppress(OSError):  # a folder that is mounted to be read only
            os.utime(told)
        return content, ""

    def _reason(self, key: EngineKey, what: str, damage: str) -> str:
        """Why there is something to build, in one line."""
        if damage:
            return f"engine cache: {damage}; building {what} anew"
        older = [
            entry.key
            for entry in self.list()
            if entry.what == what or entry.key.graph_digest == key.graph_digest
        ]
        near = [one for one in older if one.runtime == key.runtime and _is_near(key, one)]
        if not near:
            return f"engine cache: building {what} for {key.device}, once"
        nearest = min(near, key=lambda one: len(key.differences(one)))
        return f"engine cache: building {what} anew: {'; '.join(key.differences(nearest))}"

    def _write(
        self, key: EngineKey, content: bytes, what: str, spec: Mapping[str, Any] | None
    ) -> None:
        told = self._told(key.digest())
        for part in self.root.glob(f".{key.digest()}.*{_PART}"):  # of a process that was killed
            part.unlink(missing_ok=True)
        try:
            with write_beside(told.with_suffix(BYTES)) as stream:
                stream.write(content)
            write_text(told, told_of(key, content, what, spec or {}))
        except OutputError as error:
            raise OutputError(f"{error}. {_ANOTHER}") from error

    def _tidy(self, key: EngineKey, what: str) -> None:
        """Remove what the new entry replaces, then the least recently used beyond the limit."""
        own = self.find(key)
        if own is None:  # cleared by somebody else meanwhile
            return
        room = self.limit_bytes - own.bytes
        if room < 0:
            logger.warning(
                "engine cache: %s takes %d bytes, more than the limit of %d; raise %s",
                what, own.bytes, self.limit_bytes, LIMIT_VARIABLE,
            )  # fmt: skip
        for entry in self.list():
            if entry.key == key:
                continue
            replaced = entry.what == what and _replaces(key, entry.key)
            if not replaced:
                room -= entry.bytes
            if replaced or room < 0:
                self.discard(entry.key)
        for path in self._files():
            whole = path.suffix in (TOLD, _TIMING) or path.with_suffix(TOLD).is_file()
            with contextlib.suppress(OSError):
                if not whole and path.stat().st_mtime < own.created - _DEAD_SECONDS:
                    path.unlink()

    def foreign(self) -> str | None:
        """Name of a file in the folder that this cache never wrote; None if there is none."""
        names = (path.name for path in self.root.iterdir()) if self.root.is_dir() else iter(())
        return next((name for name in sorted(names) if not _NAME.fullmatch(name)), None)

    def _files(self) -> list[Path]:
        """JSON files first."""
        if not self.root.is_dir():
            return []
        ours = [path for path in self.root.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(ours, key=lambda path: (path.suffix != TOLD, path.name))

    def _told(self, digest: str) -> Path:
        return self.root / f"{digest}{TOLD}"

    def _make_root(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> OutputError:
        return OutputError(
            f"the engine cache {self.root} cannot be written: {error.strerror}. {_ANOTHER}"
        )

    @contextlib.contextmanager
    def _locked(self, key: EngineKey, what: str) -> Iterator[None]:
        """Alone with one key among all processes."""

        def tell_waiting() -> None:
            logger.info("engine cache: another process builds %s; waiting for it", what)

        self._make_root()
        with contextlib.ExitStack() as stack:
            try:
                path = self.root / f"{key.digest()}{_LOCK}"
                stack.enter_context(locked(path, tell_waiting=tell_waiting))
            except OSError as error:
                raise self._refusal(error) from error
            yield

    def list(self) -> list[CacheEntry]:
        """All entries, the last used first; what cannot be read is none."""
        found = []
        for path in self.root.glob(f"*{TOLD}"):
            if _NAME.fullmatch(path.name):
                with contextlib.suppress(OSError, ValueError):
                    found.append(read_entry(path))
        return sorted(found, key=lambda entry: (-entry.used, entry.path.name))


def default_root() -> Path:
    """$MIP_EDGE_CACHE, or `mip-edge/engines` in the user's cache folder."""
    chosen = os.environ.get(ROOT_VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mip-edge" / "engines"


def default_limit() -> int:
    """Bytes that $MIP_EDGE_CACHE_LIMIT says. Raises: OptionError if that is no size."""
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        return DEFAULT_LIMIT_BYTES
    match = _SIZE.fullmatch(text.strip())
    if match is None or float(match[1]) == 0:
        raise OptionError(f"{LIMIT_VARIABLE} must be a size such as 500MB or 4GB, got {text!r}")
    return max(1, int(float(match[1]) * _UNITS[match[2].upper()]))


def _map(path: Path) -> mmap.mmap:
    """Writable for this process alone, as runtimes want what they share.

    Raises: OSError; ValueError for an empty file.
    """
    with path.open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)


def _replaces(newer: EngineKey, older: EngineKey) -> bool:
    """Whether the older can be of no use: its graph, its runtime or its driver is no more."""
    return not _chosen_apart(newer, older)


def _is_near(newer: EngineKey, older: EngineKey) -> bool:
    """Whether the older is the same thing made before, with another choice at most."""
    return _chosen_apart(newer, older) <= 1


def _chosen_apart(one: EngineKey, other: EngineKey) -> int:
    """How many parts differ of those that a user chooses or that name the device."""
    given = {"graph_digest": "", "version": "", "driver": ""}
    return len(replace(one, **given).differences(replace(other, **given)))
