"""Who is there now, and who was lately: from the snapshots of all cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mip_edge.live.overlay import identity_color
from mip_edge.live.view import CameraView
from mip_edge.spec import Modality

GONE = 5.0
"""Seconds unseen after which a person is no longer present."""
KEPT = 100
"""People remembered, those seen last."""


@dataclass(slots=True)
class _Person:
    since: float
    last: float
    camera: str
    modality: Modality | None
    name: str
    similarity: float | None
    cameras: tuple[str, ...] = ()


class Presence:
    """Since when each identity is there, and where it was seen last."""

    def __init__(self) -> None:
        self._people: dict[int, _Person] = {}

    def update(self, views: Sequence[CameraView], at: float) -> None:
        """Take in what all cameras show at `at`, seconds of any clock that does not stand still."""
        where: dict[int, list[str]] = {}
        for view in views:
            for label in view.labels if view.live else ():
                if label.identity is None or label.uncertain:
                    continue
                where.setdefault(label.identity, []).append(view.name)
                person = self._people.pop(label.identity, None)
                if person is None or at - person.last > GONE:
                    person = _Person(at, at, view.name, view.modality, "", None)
                person.last, person.camera, person.modality = at, view.name, view.modality
                person.name, person.similarity = label.name, label.similarity
                # Put back at the end: the order is that of the last sighting.
                self._people[label.identity] = person
        for identity, person in self._people.items():
            person.cameras = tuple(dict.fromkeys(where.get(identity, ())))
        while len(self._people) > KEPT:
            del self._people[next(iter(self._people))]

    def rows(self, at: float) -> list[dict[str, Any]]:
        """One row a person for the page, seen last first; times are seconds before `at`."""
        return [
            {
                "identity": identity,
                "name": person.name,
                "color": "#{:02x}{:02x}{:02x}".format(*identity_color(identity)),
                "present": at - person.last <= GONE,
                "cameras": list(person.cameras),
                "camera": person.camera,
                "modality": person.modality.value if person.modality else None,
                "similarity": None if person.similarity is None else round(person.similarity, 4),
                "since_s": round(at - person.since, 1),
                "last_s": round(at - person.last, 1),
            }
            for identity, person in reversed(self._people.items())
        ]
