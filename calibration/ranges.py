"""From how large activations are to the range that INT8 covers: min-max, percentile, entropy, MSE.

All ranges are symmetric, -threshold to threshold: builders refuse another zero point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import CalibrationError, OptionError

BINS = 2048
LEVELS = 127
"""Steps of a symmetric INT8 range on one side of zero."""
_CANDIDATES = 128
"""Thresholds that a search tries, evenly spaced up to the largest value."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often the absolute values of one tensor lay where, in equal bins from 0 to `top`."""

    counts: NDArray[np.int64]
    top: float
    """Upper edge of the last bin; no value lies above."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.top) or self.top < 0:
            raise CalibrationError(f"the largest absolute value must be finite, got {self.top}")

    @property
    def largest(self) -> float:
        """Upper edge of the last bin that holds a value."""
        filled = np.flatnonzero(self.counts)
        return self.top * (int(filled[-1]) + 1) / len(self.counts) if len(filled) else self.top

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle of each bin."""
        width = self.top / len(self.counts)
        return (np.arange(len(self.counts), dtype=np.float64) + 0.5) * width


class Method(Protocol):
    """A way to choose the range of a tensor."""

    @property
    def name(self) -> str:
        """As `--calibration-method` and the report write it."""
        ...

    def threshold(self, histogram: Histogram) -> float:
        """Largest absolute value that INT8 still covers."""
        ...


@dataclass(frozen=True, slots=True)
class MinMax:
    """All that was seen."""

    name: str = "min-max"

    def threshold(self, histogram: Histogram) -> float:
        """The largest absolute value, to the width of a bin."""
        return histogram.largest


@dataclass(frozen=True, slots=True)
class Percentile:
    """All but the largest values."""

    percent: float = 99.99

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise OptionError(f"a percentile must be above 0 and at most 100, got {self.percent}")

    @property
    def name(self) -> str:
        """`percentile`, with its percent."""
        return f"percentile {self.percent:g}"

    def threshold(self, histogram: Histogram) -> float:
        """Upper edge of the bin that completes `percent` of all values."""
        seen = np.cumsum(histogram.counts)
        if seen[-1] == 0:
            return histogram.top
        last = int(np.searchsorted(seen, seen[-1] * self.percent / 100))
        return histogram.top * (min(last, len(seen) - 1) + 1) / len(seen)


@dataclass(frozen=True, slots=True)
class Mse:
    """The range whose rounding and clipping together lose the least squared error."""

    name: str = "mse"

    def threshold(self, histogram: Histogram) -> float:
        """The best of evenly spaced thresholds; the largest of equal ones."""
        centres = histogram.centres
        best, lowest = histogram.largest, np.inf
        for candidate in _candidates(histogram):
            step = candidate / LEVELS
            kept = np.clip(np.round(centres / step), 0, LEVELS) * step
            error = float(histogram.counts @ (centres - kept) ** 2)
            if error < lowest:
                best, lowest = candidate, error
        return best


@dataclass(frozen=True, slots=True)
class Entropy:
    """The range whose INT8 distribution tells most of the original one (smallest KL divergence).

    Source: S. Migacz, 8-bit Inference with TensorRT, GTC 2017, on absolute values.
    """

    name: str = "entropy"

    def threshold(self, histogram: Histogram) -> float:
        """The best of evenly spaced thresholds; the largest of equal ones."""
        best, lowest = histogram.largest, np.inf
        for candidate in _candidates(histogram):
            bins = round(candidate / histogram.top * len(histogram.counts))
            if bins <= LEVELS:
                continue
            divergence = _divergence(histogram.counts, bins)
            if divergence < lowest:
                best, lowest = candidate, divergence
        return best


METHODS: tuple[Method, ...] = (MinMax(), Percentile(), Entropy(), Mse())
"""All methods with their usual settings."""


def method_of(name: str) -> Method:
    """The method that `--calibration-method` names: min-max, percentile, entropy or mse.

    Raises: OptionError for another name.
    """
    for method in METHODS:
        if method.name.split()[0] == name:
            return method
    known = ", ".join(method.name.split()[0] for method in METHODS)
    raise OptionError(f"--calibration-method must be one of {known}, got {name!r}")


def _candidates(histogram: Histogram) -> list[float]:
    """Thresholds from the largest value down."""
    if histogram.top == 0:
        return []
    return [histogram.largest * part / _CANDIDATES for part in range(_CANDIDATES, 0, -1)]


def _divergence(counts: NDArray[np.int64], bins: int) -> float:
    """KL divergence of the first `bins` bins, what lies above added to the last, from themselves in
    `LEVELS` steps."""
    reference = counts[:bins].astype(np.float64)
    kept = reference.copy()
    reference[-1] += counts[bins:].sum()
    step = np.arange(bins) * LEVELS // bins
    filled = kept > 0
    totals = np.bincount(step, weights=kept, minlength=LEVELS)
    shares = np.bincount(step, weights=filled, minlength=LEVELS)
    spread = np.where(filled, (totals / np.maximum(shares, 1))[step], 0.0)
    if spread.sum() == 0:
        return np.inf
    first, second = reference / reference.sum(), spread / spread.sum()
    # What was clipped into an empty last bin has no counterpart: no threshold to choose.
    if np.any((first > 0) & (second == 0)):
        return np.inf
    there = first > 0
    return float(np.sum(first[there] * np.log(first[there] / second[there])))
