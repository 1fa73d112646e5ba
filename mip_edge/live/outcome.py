"""What identification is asked to do, what it takes in and what it gives."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError
from mip_edge.live.decision import Candidate
from mip_edge.live.tracker import TrackKey
from mip_edge.live.travel import Travel
from mip_edge.spec import Crop, Modality
from mip_edge.thresholds import Thresholds


@dataclass(frozen=True, slots=True)
class IdentityOptions:
    """When a tracklet is somebody, and how hard it is to change one's mind."""

    thresholds: Thresholds
    """Cosine from which a tracklet is a known identity, for each pair of lights."""
    min_crops: int = 3
    """Embeddings that a tracklet gathers before it is new, or matched by a margin only."""
    early: float = 0.1
    """What an earlier match needs beyond the margin, for each embedding that is missing."""
    decide_crops: int = 12
    """Embeddings from which an uncertain tracklet is decided all the same."""
    recheck_crops: int = 3
    """Further embeddings between two looks at the same tracklet."""
    margin: float = 0.05
    """Lead over the second best; width of the band about the threshold that is uncertain."""
    patience: int = 2
    """Looks in a row that must favour the same other identity."""
    kept: int = 8
    """Embeddings of a tracklet and light that are kept to make its mean."""
    travels: tuple[Travel, ...] = ()
    """How long people need between cameras, where that is known."""

    def __post_init__(self) -> None:
        for flag, value in (
            ("--min-crops", self.min_crops),
            ("--decide-crops", self.decide_crops),
            ("recheck_crops", self.recheck_crops),
            ("patience", self.patience),
            ("kept", self.kept),
        ):
            if value < 1:
                raise OptionError(f"{flag} must be at least 1, got {value}")
        if not 0.0 <= self.margin <= 1.0:
            raise OptionError(f"--margin must be in [0, 1], got {self.margin}")
        # Not the other way round: no number at all must be refused too.
        if not self.early > 0.0:
            raise OptionError(f"early must be above 0, got {self.early}")


@dataclass(frozen=True, slots=True)
class Sighting:
    """One embedded crop of a track."""

    key: TrackKey
    """Which track."""
    modality: Modality
    """The light it was seen in."""
    time: float
    """Seconds, of a clock that all cameras share."""
    embedding: NDArray[np.float32]
    """(D,), unit length."""
    quality: float = 1.0
    """Of the crop, in (0, 1]."""
    thumbnail: Crop | None = field(default=None, repr=False)
    """The crop itself, for a gallery that keeps pictures."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A tracklet was given an identity, its first or another one."""

    key: TrackKey
    """Which track."""
    identity: int
    """Who it is."""
    match: Candidate | None = None
    """What it was matched by; None if it is new in the gallery."""
    margin: float | None = None
    """Lead over the second best; None where there was none."""
    previous: int | None = None
    """Who it was thought to be before."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A tracklet is uncertain until more crops come."""

    key: TrackKey
    """Which track."""
    candidates: tuple[Candidate, ...]
    """Whom it may be, the likeliest first, at most three."""
    reason: str
    """Why."""


@dataclass(frozen=True, slots=True)
class Merge:
    """Two identities turned out to be one."""

    merge: int
    """Its number in the gallery, for `undo_merge`."""
    identity: int
    """Who is no more."""
    into: int
    """Who has all of his embeddings now."""
    similarity: float
    """Cosine of the tracklet that told."""


Outcome = Assignment | Doubt | Merge


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a track now."""

    identity: int | None = None
    """Who; None if not known yet."""
    match: Candidate | None = None
    """What it was matched by; None if it is new in the gallery or not known."""
    uncertain: bool = False
    """It was looked at, and waits for more crops."""
    crops: int = 0
    """Embeddings gathered."""
