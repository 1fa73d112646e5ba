"""HOTA, IDF1 and MOTA of compared frames, by the evaluation of the `trackers` package."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mip_edge.live.score_passage import (
    MIN_OVERLAP,
    NOBODY,
    ComparedCamera,
    ComparedFrame,
    assign,
)
from mip_edge.spec import Modality

SEQUENCE = 6000
"""Frames that are scored as one sequence: HOTA needs memory of tracks times passages."""


@dataclass(frozen=True, slots=True)
class TrackingScore:
    """Detection and tracking; None where nobody was there and nobody was seen."""

    hota: float | None
    """Luiten et al., IJCV 2021; mean over 19 overlaps, as its two parts are."""
    detection: float | None
    """DetA of HOTA."""
    association: float | None
    """AssA of HOTA."""
    idf1: float | None
    """Ristani et al., ECCV 2016, of track ids against passages."""
    mota: float | None
    """Bernardin and Stiefelhagen, 2008."""
    id_switches: int
    """A passage that went on under another track."""
    true_boxes: int
    boxes: int
    frames: int
    """Frames that were scored."""
    dropped: int
    """Frames that the run did not see; they are not scored."""
    untold: int
    """Frames of the run that the truth does not have."""


@dataclass(frozen=True, slots=True)
class IdentityScore:
    """Identities over all cameras and the whole time: IDP, IDR and IDF1 of Ristani et al., ECCV
    2016, with the frames of all cameras one after another."""

    precision: float | None
    """Share of boxes with an identity that are of the person whom it fits best, one to one."""
    recall: float | None
    """Share of true boxes that have the identity that fits their person best."""
    f1: float | None


@dataclass(frozen=True, slots=True)
class ModalityScore:
    """How well a camera's light was told; delays in seconds of its film."""

    frames: int
    """Frames for which a light was told."""
    wrong: int
    """Of these, told wrong."""
    switches: int
    """True switches, from the first frame of the run to the last."""
    told_switches: int
    """Switches that the run told."""
    delays: tuple[float | None, ...]
    """From each true switch to the first frame with the new light told; None if it never was
    before the next switch."""


def score_tracking(cameras: Sequence[ComparedCamera]) -> TrackingScore:
    """Of one camera, or of several together: their sequences count by their boxes."""
    from trackers.eval import (
        aggregate_clear_metrics,
        aggregate_hota_metrics,
        aggregate_identity_metrics,
        compute_clear_metrics,
        compute_hota_metrics,
        compute_identity_metrics,
    )

    hota, clear, identity = [], [], []
    for frames in _sequences(cameras):
        truths = [frame.passages for frame in frames]
        tracks = [frame.tracks for frame in frames]
        overlaps = [frame.overlaps for frame in frames]
        hota.append(compute_hota_metrics(truths, tracks, overlaps))
        clear.append(compute_clear_metrics(truths, tracks, overlaps, threshold=MIN_OVERLAP))
        identity.append(compute_identity_metrics(truths, tracks, overlaps, threshold=MIN_OVERLAP))
    frames = [frame for camera in cameras for frame in camera.frames]
    true_boxes = sum(len(frame.passages) for frame in frames)
    boxes = sum(len(frame.tracks) for frame in frames)
    empty = true_boxes + boxes == 0
    whole, mot = aggregate_hota_metrics(hota), aggregate_clear_metrics(clear)
    return TrackingScore(
        hota=None if empty else float(whole["HOTA"]),
        detection=None if empty else float(whole["DetA"]),
        association=None if empty else float(whole["AssA"]),
        idf1=None if empty else float(aggregate_identity_metrics(identity)["IDF1"]),
        # Without any true box MOTA divides by nothing.
        mota=None if true_boxes == 0 else float(mot["MOTA"]),
        id_switches=int(mot["IDSW"]),
        true_boxes=true_boxes,
        boxes=boxes,
        frames=len(frames),
        dropped=sum(camera.dropped for camera in cameras),
        untold=sum(camera.untold for camera in cameras),
    )


def _sequences(cameras: Iterable[ComparedCamera]) -> Iterable[list[ComparedFrame]]:
    for camera in cameras:
        for start in range(0, len(camera.frames), SEQUENCE):
            yield camera.frames[start : start + SEQUENCE]


def score_identity(
    cameras: Iterable[ComparedCamera], merged: dict[int, int] | None = None
) -> IdentityScore:
    """Over all cameras; `merged` tells which identity became which, resolved to the last one."""
    from trackers.eval import compute_identity_metrics

    people, identities, overlaps = [], [], []
    for camera in cameras:
        for frame in camera.frames:
            for who, given, shared in _distinct(frame, merged or {}):
                people.append(who)
                identities.append(given)
                overlaps.append(shared)
    true_boxes, boxes = sum(map(len, people)), sum(map(len, identities))
    scores = compute_identity_metrics(people, identities, overlaps, threshold=MIN_OVERLAP)
    return IdentityScore(
        precision=float(scores["IDP"]) if boxes else None,
        recall=float(scores["IDR"]) if true_boxes else None,
        f1=float(scores["IDF1"]) if true_boxes + boxes else None,
    )


_Part = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
"""People, identities, and the overlaps between them."""


def _distinct(frame: ComparedFrame, merged: dict[int, int]) -> Iterator[_Part]:
    """A frame's boxes with an identity, in parts that hold no identity twice.

    The library counts an identity once a frame, however often it is there; parts of one frame
    add up to the same counts as the frame.
    """
    known = frame.identities != NOBODY
    given = np.array([merged.get(one, one) for one in frame.identities[known].tolist()], np.int64)
    overlaps = frame.overlaps[:, known]
    if len(np.unique(given)) == len(given):
        yield frame.people, given, overlaps
        return
    pairs = assign(overlaps)
    for row, column in pairs:
        yield (
            frame.people[[row]],
            given[[column]],
            overlaps[row : row + 1, column : column + 1],
        )
    found = [row for row, _ in pairs]
    yield np.delete(frame.people, found), given[:0], np.zeros((len(frame.people) - len(found), 0))
    for column in np.delete(np.arange(len(given)), [column for _, column in pairs]).tolist():
        yield frame.people[:0], given[[column]], np.zeros((0, 1))


def score_modality(
    camera: ComparedCamera, told: Sequence[tuple[int, Modality]]
) -> ModalityScore | None:
    """`told` is from which frame on which light was told, in order; None if it never was, or the
    truth does not tell."""
    if not told or not camera.lights:
        return None
    frames = wrong = place = 0
    decided: list[tuple[float, int, Modality]] = []
    for time, light, index in camera.lights:
        while place < len(told) and told[place][0] <= index:
            place += 1
        if place:
            frames += 1
            wrong += told[place - 1][1] is not light
            decided.append((time, index, told[place - 1][1]))
    delays: list[float | None] = []
    changes = [change for change in camera.changes if change[1] <= camera.lights[-1][2]]
    for number, (begin, first, light) in enumerate(changes):
        until = changes[number + 1][1] if number + 1 < len(changes) else None
        right = (
            time - begin
            for time, index, one in decided
            if one is light and index >= first and (until is None or index < until)
        )
        delays.append(next(right, None))
    switched = sum(before[1] is not after[1] for before, after in pairwise(told))
    return ModalityScore(frames, wrong, len(changes), switched, tuple(delays))
