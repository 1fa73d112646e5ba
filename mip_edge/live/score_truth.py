"""The truth of one camera of a synthetic film, frame by frame, and where it lies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mip_edge.errors import ImageError, SourceError
from mip_edge.spec import Modality

TRUTH_SUFFIX = ".truth.jsonl"
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""


@dataclass(frozen=True, slots=True)
class TruePerson:
    """One person in one frame."""

    identity: int
    box: Box
    """What is seen."""
    full: Box
    """The whole figure; where a truth does not tell it, what is seen."""
    visible: float = 1.0
    """Share of the figure that is seen."""


@dataclass(frozen=True, slots=True)
class TrueFrame:
    """One frame."""

    index: int
    modality: Modality | None
    """The light of the frame; None in a truth that does not tell."""
    people: tuple[TruePerson, ...]


@dataclass(frozen=True, slots=True)
class CameraTruth:
    """All frames of one camera in order; in memory, or read from a file each time anew."""

    frames: Sequence[TrueFrame] = ()
    path: Path | None = None

    def __iter__(self) -> Iterator[TrueFrame]:
        """The frames. Raises: ImageError naming file and line."""
        return iter(self.frames) if self.path is None else read_frames(self.path)


def read_frames(path: Path) -> Iterator[TrueFrame]:
    """The frames of a file one after another; only one is held in memory.

    Raises: ImageError naming file and line for what is no truth, or frames out of order.
    """
    last = -1
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    frame = _parse(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ImageError(
                        f"{path}, line {number}: {line.strip()[:60]!r} is not "
                        '{"frame": 0, "modality": "visible", "people": [{"identity": 1, '
                        '"box": [x1, y1, x2, y2]}]}'
                    ) from error
                if frame.index <= last:
                    raise ImageError(
                        f"{path}, line {number}: frame {frame.index} comes after frame {last}; "
                        "expected growing numbers"
                    )
                last = frame.index
                yield frame
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{path} cannot be read as the truth of a film: {error}") from error


def _parse(row: dict[str, Any]) -> TrueFrame:
    told = row.get("modality")
    people = []
    for person in row["people"]:
        box = _box(person["box"])
        full = _box(person["full"]) if "full" in person else box
        share = float(person.get("visible", 1.0))
        people.append(TruePerson(int(person["identity"]), box, full, share))
    return TrueFrame(int(row["frame"]), None if told is None else Modality(told), tuple(people))


def _box(corners: Sequence[float]) -> Box:
    x1, y1, x2, y2 = (float(corner) for corner in corners)
    return x1, y1, x2, y2


def find_truths(folder: Path, cameras: Sequence[str]) -> dict[str, Path]:
    """NAME.truth.jsonl in `folder` for each camera of a run, as `mip-edge world make` names them.

    Raises: SourceError naming the first camera that has none.
    """
    truths = {camera: folder / f"{camera}{TRUTH_SUFFIX}" for camera in cameras}
    for path in truths.values():
        if not path.is_file():
            there = sorted(
                p.name.removesuffix(TRUTH_SUFFIX) for p in folder.glob("*" + TRUTH_SUFFIX)
            )
            known = (
                f"there are truths of {', '.join(there)}" if there else "there is no truth at all"
            )
            raise SourceError(
                f"--truth: {path} does not exist, {known}; expected one for each camera of the "
                "run, as mip-edge world make writes them"
            )
    return truths
