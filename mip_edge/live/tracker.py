"""Boxes to tracks, by ByteTrack of the `trackers` package: one object a camera, ids are its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import EngineError
from mip_edge.live.box import Boxes, Detections, Scores, area

TrackKey = tuple[str, int]
"""Camera and its track id."""
REFERENCE_RATE = 30.0
LEAST_STEP = 1e-3
QUICK_LOOKS = 0.1
"""Seconds between two looks up to which boxes are compared as they are."""
BUFFER_RATE = 2.0
"""Share of its side by which a box is widened for each further second."""
MAX_BUFFER = 0.4
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

    @classmethod
    def empty(cls, ended: tuple[int, ...] = ()) -> Tracks:
        """Nobody is seen."""
        return cls(
            np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), ended
        )

    def __len__(self) -> int:
        return len(self.ids)


class SteadyClock:
    """A clock that always goes on, made of one that may stand still, jump back or be no number.

    A source's clock that stands still (a coarse one, or a file without good timestamps) goes on by
    one frame; what it was ahead is given back when the source's clock catches up. One that jumps
    back is followed from where it jumped to.
    """

    def __init__(self, period: float, *, max_ahead: float = 1.0) -> None:
        """`period` seconds between frames; at most `max_ahead` seconds are ever given back."""
        self._period = period
        self._max_ahead = max_ahead
        self._source: float | None = None
        self._offset = 0.0
        self.now = 0.0
        """Seconds at the last `advance`."""

    def advance(self, time: float) -> float:
        """Seconds on this clock when the source's shows `time`, always more than before."""
        before, self.now = self.now, self.now + self._period
        if not math.isfinite(time):
            return self.now
        source, self._source = self._source, time
        if source is None or time < source:
            self._offset = self.now - time
        elif time > source:
            self.now = max(time + self._offset, before + LEAST_STEP)
            if self.now - time - self._offset > self._max_ahead:
                self.now = before + min(time - source, self._period)
                self._offset = self.now - time
        return self.now

    def ahead(self, time: float) -> float:
        """Seconds from the last `advance` to the source's `time`, 0 if that is not after it."""
        if self._source is None or not math.isfinite(time):
            return 0.0
        return max(0.0, time - self._source)


class Tracker:
    """ByteTrack: sure boxes start and continue tracks, unsure ones only continue them."""

    def __init__(self, *, rate: float, min_score: float, patience: float = 1.0) -> None:
        """`rate` in frames a second; a track unseen for `patience` seconds is over."""
        try:
            import supervision
            from trackers import BIoU, ByteTrackTracker
            from trackers.utils.state_representations import XYXYStateEstimator
        except ModuleNotFoundError as error:
            if error.name not in ("trackers", "supervision", "scipy"):
                raise
            raise EngineError(MISSING.format(name=error.name)) from error
        self._supervision = supervision
        self._overlap = BIoU(0.0)
        self._tracker = ByteTrackTracker(
            lost_track_buffer=round(patience * REFERENCE_RATE),
            frame_rate=rate,
            track_activation_threshold=min_score,
            high_conf_det_threshold=min_score,
            minimum_consecutive_frames=2,
            minimum_iou_threshold=0.1,
            iou=self._overlap,
            # State: x1, y1, x2, y2 and their velocities in pixels a frame; `predict` reads it.
            state_estimator_class=XYXYStateEstimator,
        )
        self._rate = rate
        self._patience = patience
        self._clock = SteadyClock(1.0 / rate, max_ahead=patience)
        self._alive: set[int] = set()
        self._tracks = Tracks.empty()
        self._velocities: Boxes = np.zeros((0, 4), np.float32)
        self._first_size: tuple[int, int] | None = None
        self._scale: Boxes = np.ones(4, np.float32)
        self.refused = 0
        """Boxes without an area or with a side that is no number, until now."""

    def update(
        self, detections: Detections, time: float, *, size: tuple[int, int] | None = None
    ) -> Tracks:
        """Tracks of the next frame that was looked at, `time` in seconds of its source.

        Steps may be uneven, and frames may have been left out. `size` (width, height) of the frame
        lets tracks go on when a stream changes its size.
        """
        self._scale = self._scale_of(size)
        usable = self._usable(detections)
        before, now = self._clock.now, self._clock.advance(time)
        # Who turns or sets off between two looks far apart is not where the filter expects him.
        buffer = BUFFER_RATE * (now - before - QUICK_LOOKS)
        self._overlap.buffer_ratio = min(max(buffer, 0.0), MAX_BUFFER)
        followed = self._tracker.update(
            self._supervision.Detections(
                xyxy=(usable.boxes / self._scale).astype(np.float32),
                confidence=usable.scores.astype(np.float32),
            ),
            timestamp=now,
        )
        states = {int(t.tracker_id) + 1: t for t in self._tracker.tracks if t.tracker_id >= 0}
        ended = tuple(sorted(self._alive - states.keys()))
        self._alive = set(states)
        self._tracks, self._velocities = self._seen(followed, ended, states)
        return self._tracks

    def predict(self, time: float, *, size: tuple[int, int] | None = None) -> Tracks:
        """The tracks of the last update, moved to where they should be at `time`; none end.

        For the frames between two looks of the detector. Nothing is changed by it, and no track
        is moved on for longer than the patience. `size` as in `update`.
        """
        steps = min(self._clock.ahead(time), self._patience) * self._rate
        boxes = self._tracks.boxes + self._velocities * np.float32(steps)
        boxes = np.asarray(boxes * (self._scale_of(size) / self._scale), np.float32)
        # A box that shrinks must not turn inside out.
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1.0)
        return Tracks(boxes, self._tracks.scores, self._tracks.ids, ())

    def _scale_of(self, size: tuple[int, int] | None) -> Boxes:
        """The library goes on in pixels of the first frame; overlaps do not change by scaling."""
        if size is None:
            return self._scale
        self._first_size = self._first_size or size
        x, y = size[0] / self._first_size[0], size[1] / self._first_size[1]
        return np.array([x, y, x, y], np.float32)

    def _usable(self, detections: Detections) -> Detections:
        finite = np.isfinite(detections.boxes).all(axis=1) & np.isfinite(detections.scores)
        usable = finite & (area(detections.boxes) > 0)
        if usable.all():
            return detections
        self.refused += int(len(usable) - usable.sum())
        return detections.at(usable)

    def _seen(
        self, followed: Any, ended: tuple[int, ...], states: dict[int, Any]
    ) -> tuple[Tracks, Boxes]:
        """The tracks that a box was found for, by id, and their pixels a frame."""
        if not len(followed):
            return Tracks.empty(ended), np.zeros((0, 4), np.float32)
        ids = np.asarray(followed.tracker_id, np.int64) + 1
        mature = np.flatnonzero(ids > 0)
        order = mature[np.argsort(ids[mature], kind="stable")]
        tracks = Tracks(
            np.asarray(followed.xyxy[order] * self._scale, np.float32),
            np.asarray(followed.confidence[order], np.float32),
            ids[order],
            ended,
        )
        velocities = [states[track].state_estimator.kf.state[4:, 0] for track in ids[order]]
        return tracks, np.asarray(velocities, np.float32).reshape(-1, 4) * self._scale
