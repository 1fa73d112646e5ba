"""What flows through the tiny network, found once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    import onnx

    from calibration.activations import Inputs


@pytest.fixture(scope="session")
def batch() -> Inputs:
    """Six visible crops of coarse noise; not to be changed."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (6, 8, 4, 3), dtype=np.uint8)
    return {"images": coarse.repeat(8, axis=1).repeat(8, axis=2)}


@pytest.fixture(scope="session")
def thresholds(gpu_graph: onnx.ModelProto, batch: Inputs) -> Mapping[str, float]:
    """Largest value of each activation that a map of `gpu_graph` reads; not to be changed."""
    from calibration.activations import largest_by_channel
    from calibration.smoothing import inputs_of_maps

    read = list(inputs_of_maps(gpu_graph).values())
    found = largest_by_channel(gpu_graph, read, [batch])
    return {name: float(largest.max()) for name, largest in found.items()}
