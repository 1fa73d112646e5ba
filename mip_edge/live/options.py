"""What a live run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mip_edge.errors import OptionError, OutputError
from mip_edge.live.crop import CropOptions
from mip_edge.live.detector import DetectorKind
from mip_edge.live.source import SourceOptions

FALLBACK_MIN_SIMILARITY = 0.6


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """All of `mip-edge live` but the embedder."""

    sources: tuple[SourceOptions, ...]
    """The cameras, at least one, names differ."""
    detector: DetectorKind = DetectorKind.NANODET
    """Who finds the people."""
    min_score: float = 0.5
    """Detector score that starts a track."""
    min_similarity: float | None = None
    """Cosine from which two are one person; None takes what the embedder states."""
    min_crops: int = 3
    """Embeddings a track gathers before it is matched."""
    crop: CropOptions = field(default_factory=CropOptions)
    """Which crops count."""
    realtime: bool = True
    """Files play at their own speed; False reads every frame as fast as it goes."""
    max_frames: int | None = None
    """Frames of each camera after which the run ends."""
    save: Path | None = None
    """An mp4 of all cameras side by side."""
    show: bool = False
    """Open a window."""
    events: Path | None = None
    """A file of JSON lines, see mip_edge/live/event.py."""
    events_boxes: bool = False
    """Also one event a frame and track."""
    threads: int | None = None
    """Threads of the detector; None leaves it to the runtime."""
    overwrite: bool = False
    """Replace what lies at `save` and `events`."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise OptionError("a live run needs at least one --source")
        if len({source.name for source in self.sources}) < len(self.sources):
            raise OptionError("two --source have one name; names must differ")
        if not 0.0 < self.min_score <= 1.0:
            raise OptionError(f"--min-score must be above 0 and at most 1, got {self.min_score}")
        for flag, value in (("--max-frames", self.max_frames), ("--threads", self.threads)):
            if value is not None and value < 1:
                raise OptionError(f"{flag} must be at least 1, got {value}")
        if self.events_boxes and self.events is None:
            raise OptionError("--events-boxes needs --events FILE to write to")

    def check_outputs(self) -> None:
        """Refuse to write over what is there. Raises: OutputError."""
        for flag, path in (("--save", self.save), ("--events", self.events)):
            if path is not None and path.exists() and not self.overwrite:
                raise OutputError(f"{flag} {path} exists; choose another name or add --overwrite")
            if path is not None and not path.parent.is_dir():
                raise OutputError(f"{flag} {path}: the folder {path.parent} does not exist")
