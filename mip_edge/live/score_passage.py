"""What a run saw of one camera laid on its truth: passages of people, and who was given them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mip_edge.live.box import Boxes, intersection_over_union
from mip_edge.live.score_truth import TrueFrame, TruePerson
from mip_edge.spec import Modality

MIN_OVERLAP = 0.5
"""IoU from which a box is of a person, as in MOTChallenge."""
MAX_GAP = 2.0
"""Seconds unseen after which a person's next appearance is another passage: no tracker of one
camera could know that it is the same person."""
NOBODY = -1


@dataclass(frozen=True, slots=True)
class ScoreLimits:
    """Whom a score counts."""

    min_visible: float = 0.3
    """Share of a person that must be seen; who is hidden more is neither asked for nor a fault."""
    min_height: float = 40.0
    """Pixels of what is seen, top to bottom; likewise."""
    min_stay: float = 1.0
    """Seconds; shorter stays before a camera ask for no identity."""


@dataclass(frozen=True, slots=True)
class SeenFrame:
    """One frame as a run saw it."""

    index: int
    time: float
    boxes: Boxes
    tracks: NDArray[np.int64]
    identities: NDArray[np.int64]
    """NOBODY where none was given yet."""


@dataclass(frozen=True, slots=True)
class ComparedFrame:
    """One frame of a run beside its truth: what the metrics take."""

    passages: NDArray[np.int64]
    """(G,) which passage each true person is in."""
    people: NDArray[np.int64]
    """(G,) who it truly is."""
    tracks: NDArray[np.int64]
    """(T,) of the run."""
    identities: NDArray[np.int64]
    """(T,) of the run, NOBODY for none."""
    overlaps: NDArray[np.float64]
    """(G, T) intersection over union."""


@dataclass(slots=True)
class Stay:
    """A passage, or that part of one in one light."""

    camera: str
    person: int
    passage: int
    modality: Modality | None
    first: float
    """Seconds at which the person is first seen well enough."""
    last: float
    given: list[tuple[float, int]] = field(default_factory=list)
    """From when on which identity was given, NOBODY with them."""
    counts: Counter[int] = field(default_factory=Counter)
    """Frames of each given identity."""

    def note(self, time: float, identity: int) -> None:
        """The person has this identity in a frame."""
        if not self.given or self.given[-1][1] != identity:
            self.given.append((time, identity))
        if identity != NOBODY:
            self.counts[identity] += 1

    @property
    def settled(self) -> int | None:
        """The identity of most frames; of two alike the one given later; None if there is none."""
        if not self.counts:
            return None
        most = max(self.counts.values())
        return next(one for _, one in reversed(self.given) if self.counts.get(one) == most)

    def seconds(self, period: float) -> float:
        """How long it lasts, its last frame with it."""
        return self.last - self.first + period


@dataclass(slots=True)
class ComparedCamera:
    """All of one camera."""

    frames: list[ComparedFrame] = field(default_factory=list)
    """Of the run, in order."""
    stays: list[Stay] = field(default_factory=list)
    """Each passage, cut where the light changes."""
    lights: list[tuple[float, Modality, int]] = field(default_factory=list)
    """Time, true light and index of each frame of the run whose light is told."""
    changes: list[tuple[float, int, Modality]] = field(default_factory=list)
    """Time and index of each true switch, and the light after it."""
    period: float = 0.1
    """Seconds from one frame of the film to the next."""
    dropped: int = 0
    """Frames of the truth, up to the last one of the run, that the run did not see."""
    untold: int = 0
    """Frames of the run that the truth does not have."""


def compare(
    camera: str, truth: Iterable[TrueFrame], seen: Sequence[SeenFrame], limits: ScoreLimits
) -> ComparedCamera:
    """Lay the frames of a run, in order, on the truth of its camera."""
    result = ComparedCamera()
    if not seen:
        return result
    first, last = seen[0], seen[-1]
    if last.index > first.index and last.time > first.time:
        result.period = (last.time - first.time) / (last.index - first.index)
    pending = iter(seen)
    present = next(pending, None)
    known: dict[int, Stay] = {}
    passages = 0
    light: Modality | None = None
    for frame in truth:
        if frame.index > last.index:
            break
        while present is not None and present.index < frame.index:
            result.untold += 1
            present = next(pending, None)
        time = first.time + (frame.index - first.index) * result.period
        if light is not None and frame.modality not in (None, light):
            assert frame.modality is not None
            result.changes.append((time, frame.index, frame.modality))
        light = frame.modality or light
        counted = [person for person in frame.people if counts(person, limits)]
        for person in counted:
            stay = known.get(person.identity)
            fresh = stay is None or time - stay.last > MAX_GAP
            if fresh or stay is None or stay.modality is not frame.modality:
                passages += fresh
                passage = passages if fresh or stay is None else stay.passage
                stay = Stay(camera, person.identity, passage, frame.modality, time, time)
                known[person.identity] = stay
                result.stays.append(stay)
            stay.last = time
        if present is None or present.index != frame.index:
            result.dropped += 1
            continue
        ignored = [person for person in frame.people if not counts(person, limits)]
        compared = _compare_frame(counted, ignored, present, known)
        result.frames.append(compared)
        if frame.modality is not None:
            result.lights.append((time, frame.modality, frame.index))
        for row, column in assign(compared.overlaps):
            stay = known[int(compared.people[row])]
            stay.note(time, int(compared.identities[column]))
        present = next(pending, None)
    result.untold += sum(1 for _ in pending) + (present is not None)
    return result


def counts(person: TruePerson, limits: ScoreLimits) -> bool:
    """Whether a person is seen well enough to be asked for."""
    tall = person.box[3] - person.box[1]
    return person.visible >= limits.min_visible and tall >= limits.min_height


def assign(overlaps: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of person and box, one to one, those of the greatest overlap first."""
    pairs: list[tuple[int, int]] = []
    rows, columns = np.nonzero(overlaps >= MIN_OVERLAP)
    order = np.argsort(-overlaps[rows, columns], kind="stable")
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if all(row != one and column != other for one, other in pairs):
            pairs.append((row, column))
    return pairs


def _compare_frame(
    counted: Sequence[TruePerson],
    ignored: Sequence[TruePerson],
    seen: SeenFrame,
    known: dict[int, Stay],
) -> ComparedFrame:
    """One frame, without those boxes that are of nobody counted but of somebody ignored."""
    overlaps = _overlaps([person.box for person in counted], seen.boxes)
    kept = np.ones(len(seen.boxes), np.bool_)
    if ignored:
        shapes = [box for person in ignored for box in (person.box, person.full)]
        kept = np.asarray((_overlaps(shapes, seen.boxes) < MIN_OVERLAP).all(axis=0), np.bool_)
        kept[[column for _, column in assign(overlaps)]] = True
    return ComparedFrame(
        passages=np.array([known[person.identity].passage for person in counted], np.int64),
        people=np.array([person.identity for person in counted], np.int64),
        tracks=seen.tracks[kept],
        identities=seen.identities[kept],
        overlaps=overlaps[:, kept],
    )


def _overlaps(boxes: Sequence[tuple[float, ...]], others: Boxes) -> NDArray[np.float64]:
    mine = np.array(boxes, np.float32).reshape(-1, 4)
    return intersection_over_union(mine, others).astype(np.float64)
