"""Which tracks of a frame are worth embedding now, and their crops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError
from mip_edge.live.box import Boxes, covered
from mip_edge.live.tracker import Tracks
from mip_edge.spec import Crop

BORDER = 2.0


@dataclass(frozen=True, slots=True)
class CropOptions:
    """What a crop must be to count."""

    every: int = 1
    """A track is embedded at most every so many frames of its camera."""
    min_height: int = 40
    """Pixels; a smaller crop says nothing."""
    max_covered: float = 0.5
    """Largest share that another person in front may hide."""
    patience: int = 10
    """After so many sightings without one good crop, a cut or covered one is taken."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise OptionError(f"--crop-every must be at least 1, got {self.every}")
        if self.min_height < 2:
            raise OptionError(f"--min-height must be at least 2, got {self.min_height}")


def tall_enough(boxes: Boxes, min_height: int) -> NDArray[np.bool_]:
    """Boxes of at least `min_height` pixels and a quarter of that in width, (N,)."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray((sides[:, 1] >= min_height) & (sides[:, 0] >= min_height / 4), np.bool_)


def whole(boxes: Boxes, width: int, height: int, max_covered: float) -> NDArray[np.bool_]:
    """Boxes that no frame border cuts and nobody in front hides, (N,)."""
    inside = (
        (boxes[:, 0] >= BORDER)
        & (boxes[:, 1] >= BORDER)
        & (boxes[:, 2] <= width - BORDER)
        & (boxes[:, 3] <= height - BORDER)
    )
    return np.asarray(inside & (covered(boxes) <= max_covered), np.bool_)


def cut(image: NDArray[np.uint8], box: NDArray[np.float32]) -> Crop:
    """The pixels of one box, at least one, a copy that outlives the frame."""
    height, width = image.shape[:2]
    x1, y1 = min(int(box[0]), width - 1), min(int(box[1]), height - 1)
    x2, y2 = max(int(np.ceil(box[2])), x1 + 1), max(int(np.ceil(box[3])), y1 + 1)
    return np.ascontiguousarray(image[max(y1, 0) : y2, max(x1, 0) : x2])


class CropSelector:
    """Remembers when each track of one camera was last embedded, and how long it waits."""

    def __init__(self, options: CropOptions) -> None:
        self._options = options
        self._last: dict[int, int] = {}
        self._waited: dict[int, int] = {}

    def choose(self, tracks: Tracks, index: int, width: int, height: int) -> list[int]:
        """Rows of `tracks` to embed in frame `index` of a camera of that size."""
        for track in tracks.ended:
            self._last.pop(track, None)
            self._waited.pop(track, None)
        tall = tall_enough(tracks.boxes, self._options.min_height)
        good = tall & whole(tracks.boxes, width, height, self._options.max_covered)
        chosen = []
        for row, track in enumerate(tracks.ids.tolist()):
            last = self._last.get(track)
            waited = self._waited[track] = self._waited.get(track, 0) + 1
            due = last is None or index - last >= self._options.every
            # Who never shows himself whole is still better known by a part than not at all.
            if due and (good[row] or (tall[row] and waited > self._options.patience)):
                chosen.append(row)
                self._last[track] = index
                if good[row]:
                    self._waited[track] = 0
        return chosen
