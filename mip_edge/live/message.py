"""Lines of the event log, from what the cameras and a step gave; event.py lists them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from mip_edge import __version__
from mip_edge.live.camera import Camera
from mip_edge.live.decision import Candidate
from mip_edge.live.event import SCHEMA, EventLog, rounded
from mip_edge.live.identity import Identifier
from mip_edge.live.outcome import Assignment, Doubt, Merge, Outcome
from mip_edge.live.source import SourceState
from mip_edge.live.tracker import TrackKey
from mip_edge.spec import Modality
from mip_edge.thresholds import Thresholds


def tell_start(
    log: EventLog, cameras: Sequence[Camera], thresholds: Thresholds, fingerprint: str
) -> None:
    """The first line: what runs, and on what."""
    log.write(
        "start",
        schema=SCHEMA,
        version=__version__,
        started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        thresholds={pair.value: value for pair, value in thresholds.similarities.items()},
        fingerprint=fingerprint,
        cameras=[
            {
                "name": camera.name,
                "modality": camera.modality.value,
                "auto": camera.auto,
                "url": camera.source.options.shown,
                "width": camera.source.width,
                "height": camera.source.height,
                "rate": camera.source.rate,
            }
            for camera in cameras
        ],
    )


def tell_state(log: EventLog, camera: Camera, before: SourceState) -> None:
    """The camera was lost, came back or ended; `camera.told` is what it is now."""
    # Not the source's own state: its thread may have changed that since.
    state = camera.told
    if state is SourceState.LOST:
        log.write(
            "camera_lost",
            **_at(camera),
            reason=camera.source.lost_reason,
            next_try=camera.source.next_try,
        )
    elif state is SourceState.ENDED:
        log.write("camera_ended", **_at(camera))
    elif before is SourceState.LOST:
        log.write("camera_back", **_at(camera), seconds=round(camera.away, 1))


def tell_light(log: EventLog, camera: Camera, before: Modality) -> None:
    """The camera sees another light from this frame on."""
    values = {"from": before.value, "to": camera.modality.value}
    log.write("modality_changed", **_at(camera), **values)


def tell_started(log: EventLog, camera: Camera, started: Iterable[int]) -> None:
    """A line for each track that is new in the present frame."""
    assert camera.tracks is not None
    new = set(started)
    for row, track in enumerate(camera.tracks.ids.tolist()):
        if track in new:
            log.write(
                "appeared",
                **_at(camera),
                track=track,
                box=rounded(camera.tracks.boxes[row]),
                score=round(float(camera.tracks.scores[row]), 3),
                modality=camera.modality.value,
            )


def tell_outcomes(log: EventLog, cameras: Sequence[Camera], outcomes: Sequence[Outcome]) -> None:
    """A line for each track that got an identity, another one or none yet, and each merge."""
    places: dict[TrackKey, tuple[Camera, list[float]]] = {
        (camera.name, track): (camera, rounded(camera.tracks.boxes[row]))
        for camera in cameras
        if camera.tracks is not None
        for row, track in enumerate(camera.tracks.ids.tolist())
    }
    for outcome in outcomes:
        if isinstance(outcome, Merge):
            log.write(
                "merged",
                merge=outcome.merge,
                identity=outcome.identity,
                into=outcome.into,
                score=round(outcome.similarity, 4),
            )
        elif isinstance(outcome, Doubt):
            camera, box = places[outcome.key]
            log.write(
                "uncertain",
                **_at(camera),
                track=outcome.key[1],
                candidates=[_candidate(one) for one in outcome.candidates],
                reason=outcome.reason,
                box=box,
            )
        else:
            _tell_assignment(log, outcome, *places[outcome.key])


def _tell_assignment(log: EventLog, told: Assignment, camera: Camera, box: list[float]) -> None:
    values: dict[str, Any] = {"track": told.key[1]}
    if told.match is None:
        values["identity"] = told.identity
    else:
        values |= _candidate(told.match)
        values["margin"] = None if told.margin is None else round(told.margin, 4)
    log.write(
        "new" if told.match is None else "matched",
        **_at(camera),
        **values,
        previous=told.previous,
        box=box,
    )


def tell_boxes(log: EventLog, camera: Camera, identifier: Identifier) -> None:
    """A line for each track in the present frame, with who it is held for now."""
    assert camera.tracks is not None
    for row, track in enumerate(camera.tracks.ids.tolist()):
        known = identifier.known((camera.name, track))
        log.write(
            "box",
            **_at(camera),
            track=track,
            identity=known.identity,
            similarity=None if known.match is None else round(known.match.similarity, 4),
            box=rounded(camera.tracks.boxes[row]),
            score=round(float(camera.tracks.scores[row]), 3),
        )


def tell_ended(log: EventLog, camera: Camera, ended: Iterable[int], identifier: Identifier) -> None:
    """A line for each track that is over; it is forgotten, its identity stays in the gallery."""
    for track in ended:
        known = identifier.known((camera.name, track))
        log.write("left", **_at(camera), track=track, identity=known.identity, crops=known.crops)


def _at(camera: Camera) -> dict[str, str | int | float | None]:
    frame = camera.frame
    return {
        "camera": camera.name,
        "frame": frame.index if frame else None,
        "time": round(frame.time, 3) if frame else None,
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "identity": candidate.identity,
        "score": round(candidate.similarity, 4),
        "pair": candidate.pair.value,
        "threshold": round(candidate.threshold, 4),
    }
