"""What happened in a live run, as JSON lines.

Every line has "event" and, but for `start` and `end`, "camera", "frame" and "time": frame is the
number in that camera's source, time its seconds. "box" is [x1, y1, x2, y2] in pixels of the frame.

    start           schema, version, started (UTC), min_similarity, fingerprint, cameras [{name,
                    modality, url (no password), width, height, rate}]
    track_started   track, box, score
    identity        track, identity, similarity (null: new in the gallery), previous (null: its
                    first), box: the track is this identity from this frame on
    box             track, identity (null: not yet known), similarity, box, score: one a frame and
                    track, only with --events-boxes
    track_ended     track, identity (null: never known), crops; frame is the one that showed it
    camera          state: live, lost or ended
    end             the whole report; a file without this line was cut short

Lines are written as they happen, so that the file can be followed; hence it has its name from the
first line on, and `end` tells that it is whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OutputError

SCHEMA = 1


def rounded(box: NDArray[np.float32]) -> list[float]:
    """A box for JSON, tenths of a pixel."""
    return [round(float(side), 1) for side in box]


class EventLog:
    """Writes events to a file, or nowhere."""

    def __init__(self, path: Path | None, *, boxes: bool = False) -> None:
        """`boxes`: also one line a frame and track. Raises: OutputError if it cannot be opened."""
        self.boxes = boxes
        self._path = path
        try:
            self._file = path.open("w", encoding="utf-8") if path is not None else None
        except OSError as error:
            raise OutputError(f"--events {path} cannot be written: {error.strerror}") from error

    def write(self, event: str, **values: Any) -> None:
        """One line. Raises: OutputError when the disk takes no more."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"event": event, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(f"--events {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()
