"""How many crossings a live run matched right, against the truth of a synthetic scene."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mip_edge.errors import ImageError
from mip_edge.live.box import intersection_over_union

Box = Sequence[float]
"""x1, y1, x2, y2 in pixels."""
Sightings = dict[str, dict[int, list[tuple[int, Box]]]]
"""Camera to frame to (identity, box)."""
MIN_OVERLAP = 0.4


@dataclass(frozen=True, slots=True)
class CrossingResult:
    """What a live run made of one person before one camera."""

    camera: str
    person: int
    """The true identity."""
    identity: int | None
    """The one that the run gave for most of the crossing; None if it gave none."""
    again: bool
    """This person has crossed before, and is to be recognised; else to be told from all others."""
    right: bool
    """The identity of the earlier crossing, or, the first time, one that nobody had."""


def read_truth(path: Path) -> dict[int, dict[int, Box]]:
    """Frame number to {person: box}. Raises: ImageError for a file that is not a truth."""
    frames: dict[int, dict[int, Box]] = {}
    try:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            frames[int(row["frame"])] = {one["identity"]: one["box"] for one in row["people"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ImageError(f"{path} is no truth of a synthetic scene ({error})") from error
    return frames


def read_sightings(events: Path) -> Sightings:
    """Camera to frame to (identity, box) of every box event whose identity is known."""
    sightings: Sightings = {}
    for line in events.read_text().splitlines():
        row = json.loads(line)
        if row["event"] == "box" and row["identity"] is not None:
            frames = sightings.setdefault(row["camera"], {})
            frames.setdefault(row["frame"], []).append((row["identity"], row["box"]))
    return sightings


def score_crossings(
    truths: Mapping[str, Mapping[int, Mapping[int, Box]]],
    sightings: Mapping[str, Mapping[int, Sequence[tuple[int, Box]]]],
) -> list[CrossingResult]:
    """One result for each person and camera of `truths`, in the order of their first frames.

    Cameras run at one time. An identity belongs to the person who had it first, and a person's
    identity is the first one given; another person's crossing under it is wrong, not his own.
    """
    given = [
        (min(seen), camera, person, _given_to(seen, sightings.get(camera, {})))
        for camera, frames in truths.items()
        for person, seen in _by_person(frames).items()
    ]
    owner: dict[int, int] = {}
    own: dict[int, int | None] = {}
    results = []
    for _, camera, person, identity in sorted(given, key=lambda crossing: crossing[:3]):
        again = person in own
        expected = own.setdefault(person, identity)
        first_owner = person if identity is None else owner.setdefault(identity, person)
        right = identity is not None and identity == expected and first_owner == person
        results.append(CrossingResult(camera, person, identity, again, right))
    return results


def _by_person(frames: Mapping[int, Mapping[int, Box]]) -> dict[int, dict[int, Box]]:
    people: dict[int, dict[int, Box]] = {}
    for frame, boxes in frames.items():
        for person, box in boxes.items():
            people.setdefault(person, {})[frame] = box
    return people


def _given_to(
    boxes: Mapping[int, Box], sightings: Mapping[int, Sequence[tuple[int, Box]]]
) -> int | None:
    """The identity that a run gave in most frames of one crossing."""
    votes = Counter(
        identity
        for frame, box in boxes.items()
        if (identity := _identity_at(box, sightings.get(frame, []))) is not None
    )
    return votes.most_common(1)[0][0] if votes else None


def _identity_at(box: Box, seen: Sequence[tuple[int, Box]]) -> int | None:
    if not seen:
        return None
    boxes = np.array([other for _, other in seen], np.float32)
    overlaps = intersection_over_union(np.array([box], np.float32), boxes)[0]
    best = int(overlaps.argmax())
    return seen[best][0] if overlaps[best] >= MIN_OVERLAP else None
