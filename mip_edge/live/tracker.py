"""Boxes to tracks, by ByteTrack of the `trackers` package: one object a camera, ids are its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import EngineError
from mip_edge.live.box import Boxes, Detections, Scores

REFERENCE_RATE = 30.0
MISSING = (
    '--source needs a tracker, and {name} is not installed. pip install "mip-edge[live]" brings it.'
)


@dataclass(frozen=True, slots=True)
class Tracks:
    """The tracks seen in one frame, and those that are over."""

    boxes: Boxes
    """(T, 4) x1, y1, x2, y2."""
    scores: Scores
    """(T,) of the detector."""
    ids: NDArray[np.int64]
    """(T,) from 1, of this camera's tracker alone."""
    ended: tuple[int, ...]
    """Ids that will not come again."""

    def __len__(self) -> int:
        return len(self.ids)


class Tracker:
    """ByteTrack: sure boxes start and continue tracks, unsure ones only continue them."""

    def __init__(self, *, rate: float, min_score: float, patience: float = 1.0) -> None:
        """`rate` in frames a second; a track unseen for `patience` seconds is over."""
        try:
            import supervision
            from trackers import ByteTrackTracker
        except ModuleNotFoundError as error:
            if error.name not in ("trackers", "supervision", "scipy"):
                raise
            raise EngineError(MISSING.format(name=error.name)) from error
        self._supervision = supervision
        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(patience * REFERENCE_RATE),
            frame_rate=rate,
            track_activation_threshold=min_score,
            high_conf_det_threshold=min_score,
            minimum_consecutive_frames=2,
            minimum_iou_threshold=0.1,
        )
        self._alive: set[int] = set()
        self._time = -np.inf

    def update(self, detections: Detections, time: float) -> Tracks:
        """Tracks of the next frame; `time` in seconds must grow, gaps are dropped frames."""
        # Two frames of one instant (a camera's coarse clock) would make the tracker skip a step.
        self._time = max(time, self._time + 1e-3)
        followed = self._tracker.update(
            self._supervision.Detections(
                xyxy=detections.boxes.astype(np.float32),
                confidence=detections.scores.astype(np.float32),
            ),
            timestamp=float(self._time),
        )
        alive = {int(t.tracker_id) + 1 for t in self._tracker.tracks if t.tracker_id >= 0}
        ended = tuple(sorted(self._alive - alive))
        self._alive = alive
        if not len(followed):
            return Tracks(
                np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ended
            )
        scores = followed.confidence
        assert scores is not None, "the tracker keeps the scores it was given"
        ids = np.asarray(followed.tracker_id, np.int64) + 1
        mature = np.flatnonzero(ids > 0)
        order = mature[np.argsort(ids[mature], kind="stable")]
        return Tracks(
            np.asarray(followed.xyxy[order], np.float32),
            np.asarray(scores[order], np.float32),
            ids[order],
            ended,
        )
