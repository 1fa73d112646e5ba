"""One camera of a live run: its source, detector, tracker and what they gave last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from mip_edge.live.crop import CropSelector, cut
from mip_edge.live.detector import (
    Detector,
    DetectorKind,
    Motion,
    RecordedBoxes,
    boxes_path,
)
from mip_edge.live.nanodet import NanoDet
from mip_edge.live.options import LiveOptions
from mip_edge.live.report import CameraReport
from mip_edge.live.source import Frame, SourceOptions, SourceState, VideoSource
from mip_edge.live.tracker import Tracker, Tracks
from mip_edge.spec import Crop, Modality

UNSURE = 0.6
"""Share of --min-score down to which a box may still continue a track, though never start one."""
IDLE_WAIT = 0.02


@dataclass(slots=True)
class Camera:
    """What belongs to one camera and to no other."""

    source: VideoSource
    """Where its frames come from."""
    detector: Detector
    """Finds the people."""
    tracker: Tracker
    """Follows them."""
    selector: CropSelector
    """Chooses who is embedded."""
    report: CameraReport
    """Counts."""
    max_frames: int | None = None
    """Frames after which it is done."""
    frame: Frame | None = None
    """The present frame, until the next step."""
    tracks: Tracks | None = None
    """Tracks of the last frame."""
    alive: set[int] = field(default_factory=set)
    """Tracks that were started and have not ended."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.source.options.name

    @property
    def modality(self) -> Modality:
        """The light it sees."""
        return self.source.options.modality

    @property
    def done(self) -> bool:
        """No further frame is wanted or will come."""
        enough = self.max_frames is not None and self.report.frames >= self.max_frames
        return enough or self.source.exhausted

    def take(self, frame: Frame) -> None:
        """Make `frame` the present one."""
        self.frame = frame
        self.report.frames += 1
        self.report.dropped = self.source.dropped

    def follow(self) -> tuple[Tracks, list[int]]:
        """Detect and track in the present frame; gives the tracks, and the ids that are new."""
        assert self.frame is not None
        detections = self.detector.detect(self.frame.image, self.frame.index)
        self.tracks = self.tracker.update(detections, self.frame.time)
        started = [track for track in self.tracks.ids.tolist() if track not in self.alive]
        self.alive.update(started)
        self.report.tracks += len(started)
        return self.tracks, started

    def crops(self) -> list[tuple[int, Crop]]:
        """Track id and crop of those in the present frame that are due and good."""
        assert self.frame is not None
        assert self.tracks is not None
        chosen = self.selector.choose(
            self.tracks, self.frame.index, self.source.width, self.source.height
        )
        self.report.crops += len(chosen)
        return [
            (int(self.tracks.ids[row]), cut(self.frame.image, self.tracks.boxes[row]))
            for row in chosen
        ]

    def header(self) -> str:
        """One line about it, for the picture."""
        at = f"  frame {self.frame.index}  {self.frame.time:.1f} s" if self.frame else ""
        dropped = f"  dropped {self.source.dropped}" if self.source.dropped else ""
        state = "" if self.source.state is SourceState.LIVE else f"  {self.source.state.value}"
        return f"{self.name} ({self.modality.value}){at}{dropped}{state}"


def open_cameras(options: LiveOptions, stack: ExitStack, now: Callable[[], float]) -> list[Camera]:
    """All cameras, sources open; `stack` closes them. Raises: SourceError, EngineError."""
    sources = []
    for source in options.sources:
        opened = VideoSource(source, realtime=options.realtime, now=now)
        stack.callback(opened.close)
        sources.append(opened)
    detectors = open_detectors(options)
    return [
        Camera(
            source=source,
            detector=detector,
            tracker=Tracker(rate=source.rate, min_score=options.min_score),
            selector=CropSelector(options.crop),
            report=CameraReport(source.options.name, source.options.modality.value),
            max_frames=options.max_frames,
        )
        for source, detector in zip(sources, detectors, strict=True)
    ]


def open_detectors(options: LiveOptions) -> list[Detector]:
    """One detector a source; the network has no memory and is shared."""
    if options.detector is DetectorKind.NANODET:
        network = NanoDet(min_score=UNSURE * options.min_score, threads=options.threads)
        return [network] * len(options.sources)
    return [_own_detector(options.detector, source) for source in options.sources]


def _own_detector(kind: DetectorKind, source: SourceOptions) -> Detector:
    return Motion() if kind is DetectorKind.MOTION else RecordedBoxes(boxes_path(source.url))


def read_cameras(cameras: Sequence[Camera]) -> list[Camera]:
    """Those cameras that have a new frame now, taken.

    Files that are read frame by frame keep in step by their own time, whatever their rates; for
    the others this waits a moment if none has anything new.
    """
    waiting = [camera for camera in cameras if not camera.done]
    stepped = [camera.source for camera in waiting if not camera.source.threaded]
    if stepped:
        half_period = 0.5 / max(source.rate for source in stepped)
        until = min(source.next_time for source in stepped) + half_period
        waiting = [c for c in waiting if c.source.threaded or c.source.next_time <= until]
    seen: list[Camera] = []
    for camera in waiting:
        # Only the last may wait, and only if all before it had nothing.
        idle = not seen and not stepped and camera is waiting[-1]
        frame = camera.source.read(IDLE_WAIT if idle else 0.0)
        if frame is not None:
            camera.take(frame)
            seen.append(camera)
    return seen
