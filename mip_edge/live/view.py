"""What one camera shows at one moment: the snapshot that video, window and page are drawn from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mip_edge.live.box import Boxes
from mip_edge.spec import Modality
from mip_edge.thresholds import ModalityPair

PAIR_SIGNS = {
    ModalityPair.VISIBLE_VISIBLE: "V-V",
    ModalityPair.INFRARED_INFRARED: "I-I",
    ModalityPair.VISIBLE_INFRARED: "V-I",
}
"""How a pair of modalities is written at a box, where there is little room."""


@dataclass(frozen=True, slots=True)
class TrackLabel:
    """What is written at one box."""

    track: int
    """Id of this camera's tracker."""
    identity: int | None
    """Who; the best candidate while `uncertain`; None: not yet known."""
    similarity: float | None
    """To whom it was matched; None for an identity seen the first time."""
    pair: ModalityPair | None = None
    """The modalities that `similarity` compares."""
    uncertain: bool = False
    """It may be that identity; more crops will tell."""
    name: str = ""
    """What somebody called that identity."""

    def __str__(self) -> str:
        if self.identity is None:
            return f"? t{self.track}"
        who = f"{'?' if self.uncertain else ''}#{self.identity}{f' {self.name}' * bool(self.name)}"
        score = "new" if self.similarity is None else f"{self.similarity:.2f}"
        pair = f" {PAIR_SIGNS[self.pair]}" if self.pair and self.similarity is not None else ""
        return f"{who} {score}{pair} t{self.track}"


@dataclass(frozen=True, slots=True, eq=False)
class CameraView:
    """One camera now; nothing in it changes any more, so any thread may read it."""

    name: str
    """Its name."""
    modality: Modality | None
    """The light it sees at present; None: not decided yet."""
    auto: bool = False
    """The modality is found by itself, not given."""
    state: str = "live"
    """live, lost or ended."""
    reason: str | None = None
    """Why it is lost."""
    next_try: float | None = None
    """Seconds until a lost stream is tried again."""
    image: NDArray[np.uint8] | None = None
    """The last frame, (H, W, 3) RGB, never written to again; None: none came yet."""
    boxes: Boxes = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """(T, 4) of the tracks in `image`, pixels."""
    labels: tuple[TrackLabel, ...] = ()
    """One a box."""
    index: int | None = None
    """Number of the frame in its source."""
    time: float = 0.0
    """Seconds of the frame in its source."""
    dropped: int = 0
    """Frames dropped until now."""
    age_ms: float | None = None
    """Milliseconds since the frame was taken; None: no frame yet."""
    width: int = 0
    """Pixels of its frames; 0: not known yet."""
    height: int = 0
    """Pixels of its frames; 0: not known yet."""

    @property
    def live(self) -> bool:
        """Frames are coming."""
        return self.state == "live"

    def header(self) -> str:
        """One line about it: name, modality, then its state, or how its frames come."""
        modality = self.modality.value if self.modality else "modality not known yet"
        parts = [f"{self.name} ({modality}{', auto' * self.auto})"]
        if self.live:
            parts += [f"age {self.age_ms:.0f} ms"] if self.age_ms is not None else []
            parts += [f"dropped {self.dropped}"]
            parts += [f"frame {self.index}"] if self.index is not None else []
        else:
            parts.append(self.trouble())
        return "  ".join(parts)

    def trouble(self) -> str:
        """The state in words, with since when and until when; `live` if it is."""
        if self.state != "lost":
            return self.state if self.live else self.state.upper()
        since = f" for {self.age_ms / 1000:.0f} s" if self.age_ms is not None else ""
        again = f", next try in {max(self.next_try, 0):.0f} s" if self.next_try is not None else ""
        return f"LOST{since}{again}"
