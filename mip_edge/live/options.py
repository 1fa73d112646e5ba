"""What a live run is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mip_edge.errors import OptionError, OutputError
from mip_edge.gallery.base import GalleryBounds
from mip_edge.live.need import NeedOptions
from mip_edge.live.output import video_paths
from mip_edge.live.quality import QualityOptions
from mip_edge.live.source_options import SourceOptions, require_different_names
from mip_edge.live.travel import Travel
from mip_edge.thresholds import ModalityPair

FALLBACK_MIN_SIMILARITY = 0.6
NANODET, MOTION, FILE = "nanodet", "motion", "file"
DETECTORS = (NANODET, MOTION, FILE)
"""The words of --detector; anything else is a .toml that describes a network."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """All of `mip-edge live` but the embedder and the gallery."""

    sources: tuple[SourceOptions, ...]
    """The cameras, at least one, names differ."""
    travels: tuple[Travel, ...] = ()
    """How long people need between cameras, where that is known."""
    detector: str = NANODET
    """Who finds the people: nanodet, motion, file, or the .toml of a network."""
    detect_every: int | None = None
    """Look for people in every n-th frame; None keeps to what the machine can do."""
    min_score: float = 0.5
    """Detector score that starts a track."""
    thresholds: Mapping[ModalityPair, float] = field(default_factory=dict)
    """Cosine from which two are one person; of pairs not named here the embedder's own."""
    min_crops: int = 3
    """Embeddings of a track before it is somebody new; who is clearly known is matched sooner."""
    decide_crops: int = 12
    """Embeddings from which an uncertain track is decided all the same."""
    margin: float = 0.05
    """Lead over the second best that a match needs."""
    quality: QualityOptions = field(default_factory=QualityOptions)
    """Which crops count, and for how much."""
    need: NeedOptions = field(default_factory=NeedOptions)
    """Which of them are embedded."""
    bounds: GalleryBounds = field(default_factory=lambda: GalleryBounds(max_identities=10_000))
    """How much a gallery that the run makes keeps."""
    realtime: bool = True
    """Files play at their own speed; False reads every frame as fast as it goes."""
    max_frames: int | None = None
    """Frames of each camera after which the run ends."""
    save: Path | None = None
    """An .mp4 of all cameras, or a folder for that and one of each."""
    show: bool = False
    """Open a window."""
    serve: str | None = None
    """[HOST:]PORT of the page."""
    events: Path | None = None
    """A file of JSON lines, see mip_edge/live/event.py."""
    events_boxes: bool = False
    """Also one event a frame and track."""
    mqtt: str | None = field(default=None, repr=False)
    """The broker that hears the events; may hold a password."""
    mqtt_qos: int = 0
    """0 at most once, 1 at least once, 2 exactly once."""
    mqtt_ca: Path | None = None
    """Certificates (PEM) that the broker's is checked with, beside those of the system."""
    truth: Path | None = None
    """Folder with NAME.truth.jsonl of each camera: the run scores itself."""
    threads: int | None = None
    """Threads of the detector; None leaves it to the runtime."""
    overwrite: bool = False
    """Replace what lies at `save` and `events`."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise OptionError("a live run needs at least one --source")
        require_different_names(self.sources)
        if not 0.0 < self.min_score <= 1.0:
            raise OptionError(f"--min-score must be above 0 and at most 1, got {self.min_score}")
        if self.detector not in DETECTORS and not self.detector.endswith(".toml"):
            raise OptionError(
                f"--detector must be {', '.join(DETECTORS)} or a .toml file, got {self.detector!r}"
            )
        for flag, value in (
            ("--max-frames", self.max_frames),
            ("--threads", self.threads),
            ("--detect-every", self.detect_every),
        ):
            if value is not None and value < 1:
                raise OptionError(f"{flag} must be at least 1, got {value}")
        if self.events_boxes and self.events is None and self.mqtt is None:
            raise OptionError("--events-boxes needs --events FILE or --mqtt URL to write to")

    def check_outputs(self) -> None:
        """Refuse to write over what is there. Raises: OutputError."""
        outputs = [("--events", path) for path in [self.events] if path is not None]
        if self.save is not None:
            whole, single = video_paths(self.save, [source.name for source in self.sources])
            outputs += [("--save", path) for path in (whole, *single.values())]
        for flag, file in outputs:
            if file.exists() and not self.overwrite:
                raise OutputError(f"{flag} {file} exists; choose another name or add --overwrite")
        for flag, path in (("--save", self.save), ("--events", self.events)):
            if path is not None and not path.parent.is_dir():
                raise OutputError(f"{flag} {path}: the folder {path.parent} does not exist")
