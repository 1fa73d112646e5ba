"""The files that one synthetic camera writes while it films, and what is counted on the way."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import cv2

from mip_edge.errors import OutputError
from mip_edge.spec import Modality
from mip_edge.synthetic.film import CameraFilm, FilmFrame, SeenPerson
from mip_edge.synthetic.scene import TRUTH_SUFFIX

BOXES_SUFFIX = ".boxes.jsonl"
SURE = 0.3
"""Share of a person that must be seen for a box in the file of boxes."""


@dataclass(slots=True)
class FilmedCamera:
    """What one camera filmed."""

    name: str
    sensor: str
    """visible, infrared or switching."""
    x: float
    """Metres in the plan."""
    y: float
    heading: float
    """Radians, against the clock from the x axis."""
    switches: list[tuple[int, str]]
    """Frames from which another light is seen, and which."""
    people: int = 0
    """Different people seen."""
    boxes: int = 0
    """People seen, counted in each frame."""


class Tape:
    """The files of one camera while it films."""

    def __init__(self, folder: Path, film: CameraFilm, size: tuple[int, int], rate: float) -> None:
        """Frames of height and width `size`, `rate` a second. Raises: OutputError."""
        camera = film.camera
        self.film = film
        self.filmed = FilmedCamera(
            camera.name,
            camera.sensor.value,
            round(camera.x, 3),
            round(camera.y, 3),
            round(camera.heading, 4),
            [],
        )
        self._modality: Modality | None = None
        self._known: set[int] = set()
        height, width = size
        self._video = cv2.VideoWriter(
            str(folder / f"{camera.name}.mp4"),
            cv2.VideoWriter.fourcc(*"mp4v"),
            rate,
            (width, height),
        )
        if not self._video.isOpened():
            raise OutputError(f"{folder} cannot be written: OpenCV opens no mp4v writer here")
        self._truth: TextIO = (folder / f"{camera.name}{TRUTH_SUFFIX}").open("w", encoding="utf-8")
        self._boxes: TextIO = (folder / f"{camera.name}{BOXES_SUFFIX}").open("w", encoding="utf-8")

    def write(self, index: int, frame: FilmFrame) -> None:
        """One frame more."""
        self._video.write(frame.image)
        people = [_row(person) for person in frame.people]
        row = {"frame": index, "modality": frame.modality.value, "people": people}
        self._truth.write(json.dumps(row) + "\n")
        sure = [[*person.box, 1.0] for person in frame.people if person.visible >= SURE]
        self._boxes.write(json.dumps({"frame": index, "boxes": sure}) + "\n")
        if self._modality not in (None, frame.modality):
            self.filmed.switches.append((index, frame.modality.value))
        self._modality = frame.modality
        self._known.update(person.identity for person in frame.people)
        self.filmed.people = len(self._known)
        self.filmed.boxes += len(frame.people)

    def close(self) -> None:
        """Finish the files."""
        self._video.release()
        self._truth.close()
        self._boxes.close()


def _row(person: SeenPerson) -> dict[str, object]:
    return {
        "identity": person.identity,
        "box": person.box,
        "full": person.full,
        "visible": person.visible,
    }


class Changes:
    """Counts how often people change camera or light; remembers each one's last sight alone."""

    def __init__(self) -> None:
        self.counts = Counter({"camera": 0, "modality": 0, "switch": 0})
        self._last: dict[int, dict[str, tuple[int, Modality]]] = {}

    def see(self, index: int, camera: str, frame: FilmFrame, gap: int) -> None:
        """Who is seen well enough in a frame; after `gap` frames unseen somebody comes anew."""
        for person in frame.people:
            if person.visible < SURE:
                continue
            seen = self._last.setdefault(person.identity, {})
            before = seen.get(camera)
            if before is None or index - before[0] > gap:
                if seen:
                    latest = max(seen, key=lambda name: seen[name][0])
                    if seen[latest][1] is not frame.modality:
                        self.counts["modality"] += 1
                    elif latest != camera:
                        self.counts["camera"] += 1
            elif before[1] is not frame.modality:
                self.counts["switch"] += 1
            seen[camera] = (index, frame.modality)
