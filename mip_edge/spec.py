"""The words that every room shares: modality, batch, embedding, and what an embedder promises."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError

Crop = NDArray[np.uint8]
"""One person, (H, W, 3) RGB, any size."""
Batch = NDArray[np.uint8]
"""Prepared crops, (N, H, W, C) RGB or one channel, the size that the spec says."""
Embeddings = NDArray[np.float32]
"""(N, D), rows of unit length."""


class Modality(str, Enum):
    """The light a camera sees; the only two words for it, from flag to log line."""

    VISIBLE = "visible"
    INFRARED = "infrared"

    @property
    def channels(self) -> int:
        """Channels of a prepared crop: RGB, or one for infrared."""
        return 3 if self is Modality.VISIBLE else 1

    @property
    def row(self) -> int:
        """Row in a network's prompt library, and what the `modality` input of a unified graph
        takes: 0 infrared, 1 visible, as in published checkpoints."""
        return 1 if self is Modality.VISIBLE else 0

    @property
    def other(self) -> Modality:
        """The modality on the other side of the match."""
        return Modality.INFRARED if self is Modality.VISIBLE else Modality.VISIBLE


@dataclass(frozen=True, slots=True)
class EmbedderSpec:
    """What one embedder (one modality of one model) promises; it travels with the file."""

    modality: Modality
    """The only modality that this embedder takes."""
    height: int
    """Pixels of a prepared crop, top to bottom."""
    width: int
    """Pixels of a prepared crop, left to right."""
    dimension: int
    """Length of one embedding."""
    fingerprint: str
    """SHA-256 of the model's weights and options: embeddings of two fingerprints never meet."""

    def __post_init__(self) -> None:
        for name in ("height", "width", "dimension"):
            if getattr(self, name) < 1:
                raise OptionError(f"spec {name} must be at least 1, got {getattr(self, name)}")

    @property
    def channels(self) -> int:
        """Channels of a prepared crop."""
        return self.modality.channels

    @property
    def batch_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one prepared crop."""
        return (self.height, self.width, self.channels)

    def promise(self, *, unified: bool) -> dict[str, str | int]:
        """What a graph says of its input and output in its own metadata; a `unified` one takes
        both lights, in three channels."""
        return {
            "modality": "both" if unified else self.modality.value,
            "height": self.height,
            "width": self.width,
            "channels": Modality.VISIBLE.channels if unified else self.channels,
            "dimension": self.dimension,
        }
