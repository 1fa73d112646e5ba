"""Scales of graphs that share weights: smoothing first, then the range of every activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.activations import Inputs, histograms, largest_by_channel
from calibration.ranges import Histogram, Method, Mse
from calibration.smoothing import STRENGTH, inputs_of_maps, smooth
from mip_edge.errors import OptionError

CROPS = 128
SEED = 2406
RANGES = ("joint", "each")
NO_SMOOTHING = 0.0


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """How scales are found."""

    crops: int = CROPS
    """Training crops of both lights together."""
    seed: int = SEED
    """Of their choice."""
    method: Method = field(default_factory=Mse)
    """How the range of an activation is chosen."""
    smoothing: float = STRENGTH
    """Share of an outlier that weights take over; 0 leaves the graph as it is."""
    ranges: str = "joint"
    """`joint`: one scale for both lights; `each`: one for the graph of each light."""

    def __post_init__(self) -> None:
        if self.crops < 2:
            raise OptionError(
                f"--calibration-crops must be at least 2, one of each light, got {self.crops}"
            )
        if not 0 <= self.smoothing < 1:
            raise OptionError(f"--smoothing must be at least 0 and below 1, got {self.smoothing}")
        if self.ranges not in RANGES:
            raise OptionError(f"--ranges must be {' or '.join(RANGES)}, got {self.ranges!r}")


@dataclass(frozen=True, slots=True)
class Source:
    """A graph, its weights inside, and the batches that it is calibrated on."""

    graph: onnx.ModelProto
    batches: Sequence[Inputs]


def calibrate(
    sources: Mapping[str, Source], options: CalibrationOptions
) -> dict[str, dict[str, float]]:
    """Smooth the graphs in place, and give the thresholds of each: activation to largest value.

    Smoothing is one for all, so that the graphs go on sharing their weights.
    Raises: CalibrationError for a value that is not finite, or a source without batches.
    """
    channels: dict[str, NDArray[np.float64]] = {}
    for source in sources.values():
        read = list(inputs_of_maps(source.graph).values())
        for name, largest in largest_by_channel(source.graph, read, source.batches).items():
            channels[name] = np.maximum(channels.get(name, largest), largest)
    if options.smoothing > NO_SMOOTHING:
        for source in sources.values():
            factors = smooth(source.graph, channels, strength=options.smoothing)
        channels = {name: largest / factors.get(name, 1.0) for name, largest in channels.items()}
    tops = {name: float(largest.max()) for name, largest in channels.items()}
    found = {
        name: histograms(source.graph, tops, source.batches) for name, source in sources.items()
    }
    if options.ranges == "joint":
        found = dict.fromkeys(found, _join(list(found.values())))
    return {
        name: {tensor: options.method.threshold(one) for tensor, one in seen.items()}
        for name, seen in found.items()
    }


def _join(parts: Sequence[Mapping[str, Histogram]]) -> dict[str, Histogram]:
    """One histogram of each activation over all graphs; they have the same bins."""
    return {
        name: Histogram(np.sum([part[name].counts for part in parts], axis=0), one.top)
        for name, one in parts[0].items()
    }
