"""What a --source asks for: a name, a url and the light, read from the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from mip_edge.errors import OptionError
from mip_edge.spec import Modality

KEYS = ("name", "url", "modality", "rate")
FORM = "name=gate,url=FILE|FOLDER|0|rtsp://...|gst:...,modality=visible|infrared|auto"
AUTO = "auto"
GSTREAMER = "gst:"
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mkv", ".avi", ".mov", ".webm", ".mpg", ".mpeg")
_SECRET = r"(?:pass|pwd|psw|pw|token|key|secret|auth)"


def shown_url(url: str) -> str:
    """A URL as it may be shown: passwords and keys masked, in doubt too much.

    `rtsp://user:secret@host/path?token=t` becomes `rtsp://user:***@host/path?token=***`.
    """
    masked = re.sub(r"(\w[\w+.-]*://[^:/@]*):.*@", r"\1:***@", url)
    # A user without a password may be a key.
    masked = re.sub(r"(\w[\w+.-]*://)[^:/@]+@", r"\1***@", masked)
    return re.sub(rf"(?i)([^\s=&?/,;]*{_SECRET}[^\s=&?/,;]*=)[^&\s]*", r"\1***", masked)


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """One --source."""

    name: str
    """What the camera is called, everywhere."""
    url: str = field(repr=False)
    """A file, a folder or glob of images, the number of a local camera, a stream, or `gst:` and a
    GStreamer pipeline; may hold a password."""
    modality: Modality | None = None
    """The light it sees; None is found out from the picture."""
    rate: float | None = None
    """Images a second of a folder or glob; None is 1."""

    def __post_init__(self) -> None:
        if not self.name or not self.url:
            raise OptionError(f"--source needs a name and a url: {FORM}")
        if re.search(r"[/\\+#\x00-\x1f\x7f]", self.name) or self.name in (".", ".."):
            raise OptionError(
                f"--source name {self.name!r} cannot be part of a file name or topic; "
                r"expected one without / \ + # and control characters"
            )
        if self.rate is None:
            return
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise OptionError(f"--source {self.name}: rate must be above 0, got {self.rate:g}")
        if not self.is_local:
            raise OptionError(
                f"--source {self.name}: rate is for a folder or glob of images; "
                f"{self.shown} has its own"
            )

    @classmethod
    def parse(cls, text: str) -> SourceOptions:
        """`name=gate,url=...,modality=auto`, or a url alone, which then gives the name.

        Raises: OptionError with one clear line.
        """
        return _parse(text)[0]

    @property
    def shown(self) -> str:
        """The url without its password."""
        return shown_url(self.url)

    @property
    def is_device(self) -> bool:
        """A camera of this machine, by its number or by its place under /dev."""
        return self.url.isdecimal() or self.url.startswith("/dev/")

    @property
    def is_pipeline(self) -> bool:
        """A GStreamer pipeline."""
        return self.url.startswith(GSTREAMER)

    @property
    def is_local(self) -> bool:
        """A file, folder or glob of this machine."""
        return not (self.is_device or self.is_pipeline or "://" in self.url)

    @property
    def is_network(self) -> bool:
        """What FFmpeg reads by a url."""
        return not (self.is_device or self.is_pipeline or self.is_local)

    @property
    def is_file(self) -> bool:
        """A recording: it has an end, and can be read faster than it plays."""
        if self.is_pipeline:
            return "filesrc" in self.url
        if "://" not in self.url:
            return not self.is_device
        address = re.split(r"[?#]", self.url)[0]
        return self.url.startswith("file:") or (
            self.url.startswith(("http:", "https:")) and address.lower().endswith(VIDEO_SUFFIXES)
        )


def parse_sources(texts: Sequence[str]) -> tuple[SourceOptions, ...]:
    """All --source of a command line; names made from equal urls get -2, -3.

    Raises: OptionError for none, or for a name that is given twice.
    """
    if not texts:
        raise OptionError(f"no --source; give at least one: --source {FORM}")
    parsed = [_parse(text) for text in texts]
    taken = require_different_names([source for source, named in parsed if named])
    sources = []
    for source, named in parsed:
        if not named:
            source = replace(source, name=_free_name(source.name, taken))
            taken.add(source.name)
        sources.append(source)
    return tuple(sources)


def require_different_names(sources: Sequence[SourceOptions]) -> set[str]:
    """The names of `sources`. Raises: OptionError if two are the same."""
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"--source name {name!r} is given twice; names must differ")
    return set(names)


def parse_modality(word: str, of: str) -> Modality | None:
    """The modality that `word` names, None for auto. Raises: OptionError that begins with `of`."""
    words = [modality.value for modality in Modality]
    if word not in (*words, AUTO):
        raise OptionError(f"{of}: modality must be {', '.join(words)} or {AUTO}, got {word!r}")
    return None if word == AUTO else Modality(word)


def name_of(url: str) -> str:
    """A name for a url that was given without one; holds no user, password or path of a stream."""
    if url.isdecimal():
        return f"camera{url}"
    if url.startswith(GSTREAMER):
        return "pipeline"
    if "://" in url:
        # The authority ends where FFmpeg ends it; what follows may be a key.
        try:
            host = urlsplit(url).hostname
        except ValueError:
            host = None
        return re.sub(r"[^\w.-]", "-", host or "").strip("-") or "stream"
    path = Path(url)
    parts = [path.stem if path.suffix else path.name, *(parent.name for parent in path.parents)]
    return next((part for part in parts if re.fullmatch(r"[\w. -]*\w[\w. -]*", part)), "images")


def _parse(text: str) -> tuple[SourceOptions, bool]:
    """One --source, and whether it was given its name."""
    values = _values(text)
    named = "name" in values
    of = f"--source {values['name']}" if values.get("name") else "--source"
    for key, value in {"url": "", **values}.items():
        if not value:
            raise OptionError(f"{of} has no {key}; expected {FORM}")
    name = values.get("name") or name_of(values["url"])
    modality = parse_modality(values.get("modality", AUTO), f"--source {name}")
    rate = values.get("rate")
    try:
        number = None if rate is None else float(rate)
    except ValueError:
        raise OptionError(
            f"--source {name}: rate must be a number of images a second, got {rate!r}"
        ) from None
    return SourceOptions(name, values["url"], modality, number), named


def _values(text: str) -> dict[str, str]:
    values: dict[str, str] = {}
    bare = re.match(r"\s*\w+\s*=", text) is None
    # A comma inside a url is kept unless a word and "=" follow it; in a pipeline, unless a key.
    for part in re.split(r",(?=\s*\w+\s*=)", f"url={text}" if bare else text):
        key, equals, value = part.strip().partition("=")
        key = key.strip()
        pipeline = values.get("url", "").startswith(GSTREAMER)
        if pipeline and key not in ("name", "url", "modality"):
            values["url"] += f",{part}"
            continue
        if key not in KEYS and "@" in value and "://" in values.get("url", ""):
            # Not the key: it is a piece of the password.
            raise OptionError("--source: a comma in a url must be written %2C where = follows it")
        if not equals or key not in KEYS:
            raise OptionError(f"--source has no key {key!r}; expected {FORM}")
        if key in values:
            raise OptionError(f"--source gives {key} twice; expected {FORM}")
        values[key] = value.strip()
    return values


def _free_name(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    return f"{name}-{number}"
