"""One camera of a live run: its source, light, detector, tracker and what they gave last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mip_edge.live.box import Detections
from mip_edge.live.capture import Capture, open_capture
from mip_edge.live.detector import Detector, Motion, RecordedBoxes, boxes_path
from mip_edge.live.identity import Identifier
from mip_edge.live.light import LightSwitch
from mip_edge.live.onnx_detector import open_detector
from mip_edge.live.options import FILE, MOTION, LiveOptions
from mip_edge.live.reader import ASSUMED_RATE
from mip_edge.live.report import CameraReport
from mip_edge.live.source import Frame, SourceState, VideoSource
from mip_edge.live.source_options import SourceOptions
from mip_edge.live.tracker import Tracker, Tracks
from mip_edge.live.view import CameraView, TrackLabel
from mip_edge.spec import Modality

UNSURE = 0.6
"""Share of --min-score down to which a box may still continue a track, though never start one."""


@dataclass(slots=True)
class Camera:
    """What belongs to one camera and to no other."""

    source: VideoSource
    """Where its frames come from."""
    detector: Detector
    """Finds the people."""
    tracker: Tracker
    """Follows them."""
    light: LightSwitch
    """Says what light it sees."""
    report: CameraReport
    """Counts."""
    max_frames: int | None = None
    """Frames after which it is done."""
    frame: Frame | None = None
    """The newest frame."""
    tracks: Tracks = field(default_factory=Tracks.empty)
    """Tracks in that frame: seen by the detector, or moved on from where it saw them last."""
    alive: set[int] = field(default_factory=set)
    """Tracks that were started and have not ended."""
    told: SourceState = SourceState.LIVE
    """The state that was told last."""
    away: float = 0.0
    """Seconds that it was lost, the last time."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.source.options.name

    @property
    def auto(self) -> bool:
        """Its light is found out, not given."""
        return self.source.options.modality is None

    @property
    def modality(self) -> Modality:
        """The light it sees at present."""
        return self.light.modality

    @property
    def done(self) -> bool:
        """No further frame is wanted or will come."""
        enough = self.max_frames is not None and self.report.frames >= self.max_frames
        return enough or self.source.exhausted

    def take(self, frame: Frame) -> Modality | None:
        """Make `frame` the newest; gives the light that it saw until now if that has changed."""
        before = self.modality
        self.frame = frame
        self.report.frames += 1
        self.report.dropped = self.source.dropped
        switched = self.light.see(frame.image, frame.time) is not None
        self.report.modality = self.modality.value
        self.report.modality_changes += switched
        return before if switched else None

    def follow(self, detections: Detections) -> list[int]:
        """Track what was detected in the newest frame; gives the ids that are new."""
        assert self.frame is not None
        self.tracks = self.tracker.update(detections, self.frame.time, size=_size(self.frame))
        self.report.looks += 1
        self.report.refused += detections.refused
        started = [track for track in self.tracks.ids.tolist() if track not in self.alive]
        self.alive.update(started)
        self.report.tracks += len(started)
        return started

    def predict(self) -> None:
        """Move the tracks to where they should be in the newest frame, which is not looked at."""
        assert self.frame is not None
        self.tracks = self.tracker.predict(self.frame.time, size=_size(self.frame))

    def lose_sight(self) -> tuple[int, ...]:
        """End the tracks of a camera that has been away for longer than a track may be."""
        if not self.alive or self.frame is None or self.source.lost_for <= 0:
            return ()
        self.tracks = self.tracker.update(
            Detections.empty(), self.frame.time + self.source.lost_for
        )
        return self.tracks.ended

    def leave(self) -> tuple[int, ...]:
        """No further frame will come: nobody is before it any more; gives the tracks that end."""
        if self.alive:
            self.tracks = Tracks.empty()
        return tuple(sorted(self.alive))

    def finish(self) -> None:
        """Count what only the end of the run shows."""
        self.report.dropped = self.source.dropped
        self.report.unreadable = self.source.unreadable
        # Once, though a run that dies as it ends asks again.
        self.report.refused += self.tracker.refused
        self.tracker.refused = 0

    def view(self, identifier: Identifier) -> CameraView:
        """What it shows now; nothing in it changes any more."""
        frame, source = self.frame, self.source
        live = source.state is SourceState.LIVE
        return CameraView(
            name=self.name,
            modality=self.modality if frame is not None else source.options.modality,
            auto=self.auto,
            state=source.state.value,
            reason=source.lost_reason or None,
            next_try=source.next_try,
            image=None if frame is None else frame.image,
            boxes=self.tracks.boxes if live else Tracks.empty().boxes,
            labels=tuple(self._label(track, identifier) for track in self.tracks.ids.tolist())
            if live
            else (),
            index=None if frame is None else frame.index,
            time=0.0 if frame is None else frame.time,
            dropped=source.dropped,
            age_ms=None if frame is None else 1000 * source.age,
            width=source.width,
            height=source.height,
        )

    def _label(self, track: int, identifier: Identifier) -> TrackLabel:
        known = identifier.known((self.name, track))
        return TrackLabel(
            track,
            known.identity,
            None if known.match is None else known.match.similarity,
            None if known.match is None else known.match.pair,
            uncertain=known.uncertain,
        )


def open_cameras(
    options: LiveOptions,
    stack: ExitStack,
    now: Callable[[], float],
    capture: Callable[[SourceOptions], Capture] = open_capture,
) -> list[Camera]:
    """All cameras, sources open; `stack` closes them. Raises: SourceError, EngineError."""
    # What takes its time to import is imported before the first frame waits for it.
    Tracker(rate=ASSUMED_RATE, min_score=options.min_score)
    sources = []
    for asked in options.sources:
        source = VideoSource(asked, realtime=options.realtime, now=now, capture=capture)
        stack.callback(source.close)
        sources.append(source)
    # All are asked first: several that hang are waited for at the same time.
    for source in sources:
        stack.callback(source.stop)
    cameras = []
    for source, detector in zip(sources, open_detectors(options), strict=True):
        light = LightSwitch(fixed=source.options.modality)
        cameras.append(
            Camera(
                source=source,
                detector=detector,
                tracker=Tracker(rate=source.rate, min_score=options.min_score),
                light=light,
                report=CameraReport(source.options.name, light.modality.value),
                max_frames=options.max_frames,
            )
        )
    return cameras


def open_detectors(options: LiveOptions) -> list[Detector]:
    """One detector a source; a network has no memory and is shared."""
    if options.detector in (MOTION, FILE):
        return [_own_detector(options.detector, source) for source in options.sources]
    choice = options.detector if Path(options.detector).suffix == "" else Path(options.detector)
    network = open_detector(choice, min_score=UNSURE * options.min_score, threads=options.threads)
    return [network] * len(options.sources)


def _size(frame: Frame) -> tuple[int, int]:
    height, width = frame.image.shape[:2]
    return width, height


def _own_detector(kind: str, source: SourceOptions) -> Detector:
    return Motion() if kind == MOTION else RecordedBoxes(boxes_path(source.url))


def read_cameras(cameras: Sequence[Camera]) -> list[tuple[Camera, Frame]]:
    """Those cameras that have a new frame now; none if nobody has.

    Files that are read frame by frame keep in step by their own time, whatever their rates.
    """
    waiting = [camera for camera in cameras if not camera.done]
    stepped = [camera.source for camera in waiting if not camera.source.threaded]
    if stepped:
        half_period = 0.5 / max(source.rate for source in stepped)
        until = min(source.next_time for source in stepped) + half_period
        waiting = [c for c in waiting if c.source.threaded or c.source.next_time <= until]
    found = [(camera, camera.source.read()) for camera in waiting]
    return [(camera, frame) for camera, frame in found if frame is not None]
