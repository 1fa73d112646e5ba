"""How many crossings a live run matched right, against the truth of a synthetic scene."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mip_edge.errors import ImageError

Box = Sequence[float]
"""x1, y1, x2, y2 in pixels."""
MIN_OVERLAP = 0.4


@dataclass(frozen=True, slots=True)
class CrossingResult:
    """What a live run made of one person before one camera."""

    camera: str
    person: int
    """The true identity."""
    identity: int | None
    """The one that the run gave for most of the crossing; None if it gave none."""
    right: bool
    """Same identity as on every other camera, and no other person's."""


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


def read_sightings(events: Path) -> dict[str, dict[int, list[tuple[int, Box]]]]:
    """Camera to frame to (identity, box) of every box event whose identity is known."""
    sightings: dict[str, dict[int, list[tuple[int, Box]]]] = {}
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
    """One result for each person and camera of `truths`.

    An identity is right if the run gave it to this person on every camera that the person crossed,
    and to nobody else.
    """
    given: dict[tuple[str, int], int | None] = {}
    for camera, frames in truths.items():
        votes: dict[int, Counter[int]] = {}
        for frame, people in frames.items():
            seen = sightings.get(camera, {}).get(frame, [])
            for person, box in people.items():
                identity = _identity_at(box, seen)
                counter = votes.setdefault(person, Counter())
                if identity is not None:
                    counter[identity] += 1
        for person, counter in votes.items():
            given[camera, person] = counter.most_common(1)[0][0] if counter else None
    results = []
    for (camera, person), identity in given.items():
        own = {one for (_, who), one in given.items() if who == person}
        others = {one for (_, who), one in given.items() if who != person}
        right = identity is not None and own == {identity} and identity not in others
        results.append(CrossingResult(camera, person, identity, right))
    return results


def overlap(first: Box, second: Box) -> float:
    """Intersection over union of two boxes."""
    across = min(first[2], second[2]) - max(first[0], second[0])
    down = min(first[3], second[3]) - max(first[1], second[1])
    if across <= 0 or down <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return across * down / (sum(areas) - across * down)


def _identity_at(box: Box, seen: Sequence[tuple[int, Box]]) -> int | None:
    overlaps = [(overlap(box, other), identity) for identity, other in seen]
    best = max(overlaps, default=(0.0, 0))
    return best[1] if best[0] >= MIN_OVERLAP else None
