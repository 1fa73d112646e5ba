"""Visible or infrared: which light a camera sees now, told by the colour in its picture.

An infrared picture is grey, at most with one tint all over: what it has of colour follows from its
brightness. A visible picture has colours of its own. So is a colourless scene by day taken for
infrared; the camera's modality can be fixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError
from mip_edge.spec import Modality

SMALL = (24, 18)
"""Width and height of the picture that is looked at: means of blocks, in which noise is gone."""
SHARE = 0.95
"""Coloured text and lamps may fill up to a twentieth of an infrared picture."""
CALM = 0.8
"""Share of the blocks that the tint is fitted to."""
BLANK = 3.0
"""Grey levels of contrast below which a picture shows nothing: a covered lens, a lost signal."""


@dataclass(frozen=True, slots=True)
class LightOptions:
    """When a camera counts as having switched."""

    infrared_below: float = 3.0
    """Chroma, in grey levels, below which a picture is infrared."""
    visible_above: float = 4.0
    """Chroma from which it is visible; between the two nothing changes."""
    hold: float = 2.0
    """Seconds of the source for which the other light must be seen without a break."""
    frames: int = 4
    """And so many pictures looked at."""
    every: float = 0.25
    """Seconds of the source between two pictures that are looked at."""

    def __post_init__(self) -> None:
        if not 0.0 < self.infrared_below <= self.visible_above:
            raise OptionError(
                "infrared_below must be above 0 and at most visible_above, got "
                f"{self.infrared_below} and {self.visible_above}"
            )
        if self.hold < 0 or self.every < 0 or self.frames < 1:
            raise OptionError(
                "hold and every must not be negative and frames at least 1, got "
                f"{self.hold}, {self.every} and {self.frames}"
            )

    @property
    def middle(self) -> float:
        """Chroma that decides the first picture, which has no past."""
        return (self.infrared_below + self.visible_above) / 2


def chroma(image: NDArray[np.uint8]) -> float | None:
    """How much colour of its own an RGB frame (H, W, 3) has, in grey levels; None if it is blank.

    Block means are brought to Cb and Cr; what of these is a straight line of the brightness (a
    tint, whatever its strength) is taken away; of the rest, the length at the 95th percentile of
    the blocks.
    """
    small = cv2.resize(image, SMALL, interpolation=cv2.INTER_AREA).reshape(-1, 3)
    red, green, blue = small.astype(np.float32).T
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    dark, bright = np.quantile(grey, (0.01, 0.99))
    if bright - dark < BLANK:
        return None
    planes = np.stack([0.713 * (red - grey), 0.564 * (blue - grey)], axis=1)
    line = np.stack([grey, np.ones_like(grey)], axis=1)
    away = _away_from_line(line, planes, np.ones(len(grey), np.bool_))
    # Once more without the most coloured: a lamp must not bend the tint of all the others.
    away = _away_from_line(line, planes, away <= np.quantile(away, CALM))
    return float(np.quantile(away, SHARE))


def _away_from_line(
    line: NDArray[np.float32], planes: NDArray[np.float32], fitted: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Distance of each block from the straight line through the `fitted` ones, (N,)."""
    tint, *_ = np.linalg.lstsq(line[fitted], planes[fitted], rcond=None)
    left = planes - line @ tint
    return np.asarray(np.hypot(left[:, 0], left[:, 1]), np.float32)


class LightSwitch:
    """The present light of one camera: changes when the other is seen clearly, and for long enough.

    The first picture that shows anything decides at once; until then the light is visible.
    """

    def __init__(
        self, options: LightOptions | None = None, *, fixed: Modality | None = None
    ) -> None:
        """With `fixed` nothing is looked at."""
        self.options = options or LightOptions()
        self.fixed = fixed
        self.modality = fixed or Modality.VISIBLE
        self.chroma: float | None = None
        """Of the last picture looked at; None before, or if it was blank."""
        self.decided = fixed is not None
        """Whether a picture, or `fixed`, has decided the light."""
        self.looked: float | None = None
        """When it last looked, in seconds of the source."""
        self._since: float | None = None
        self._against = 0

    @property
    def doubtful(self) -> bool:
        """Whether the last picture spoke for the other light: crops of now may be of either."""
        return self._since is not None

    def see(self, image: NDArray[np.uint8], time: float) -> Modality | None:
        """Look at an RGB frame (H, W, 3) of `time` seconds of its source.

        Gives the new light if it has just switched; the first decision is no switch.
        """
        if self.fixed is not None or not self._due(time):
            return None
        self.looked = time
        self.chroma = chroma(image)
        return None if self.chroma is None else self._weigh(self.chroma, time)

    def _due(self, time: float) -> bool:
        # A clock that went back (a film that begins anew) must not stop the looking.
        return self.looked is None or not 0.0 <= time - self.looked < self.options.every

    def _weigh(self, measured: float, time: float) -> Modality | None:
        if not self.decided:
            below = measured < self.options.middle
            self.modality = Modality.INFRARED if below else Modality.VISIBLE
            self.decided = True
            return None
        if self.modality is Modality.VISIBLE:
            other = measured < self.options.infrared_below
        else:
            other = measured >= self.options.visible_above
        if not other:
            self._since, self._against = None, 0
            return None
        if self._since is None or time < self._since:
            self._since, self._against = time, 0
        self._against += 1
        if self._against < self.options.frames or time - self._since < self.options.hold:
            return None
        self._since, self._against = None, 0
        self.modality = self.modality.other
        return self.modality
