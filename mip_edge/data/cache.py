"""Crops decoded and resized once, kept in memory: the input of every epoch of training."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from mip_edge.data.dataset import Sample
from mip_edge.data.image import read_image
from mip_edge.errors import OptionError
from mip_edge.preprocess import prepare
from mip_edge.spec import EmbedderSpec, Modality


def load_crops(
    samples: Sequence[Sample], image_size: tuple[int, int], *, threads: int = 2
) -> NDArray[np.uint8]:
    """All crops as (N, H, W, 3) RGB uint8 for `image_size` (H, W), in the order of `samples`.

    Prepared as for inference; the one channel of an infrared crop stands three times, as the
    network in training takes it.
    Raises: ImageError naming the first file that cannot be read.
    """
    if threads < 1:
        raise OptionError(f"threads must be at least 1, got {threads}")
    height, width = image_size
    # `prepare` reads the modality and the size alone: there is no model yet
    specs = {
        modality: EmbedderSpec(modality, height, width, dimension=1, fingerprint="")
        for modality in Modality
    }
    crops = np.empty((len(samples), height, width, 3), dtype=np.uint8)

    def load(index: int) -> None:
        sample = samples[index]
        crops[index] = prepare([read_image(sample.path)], specs[sample.modality])[0]

    # OpenCV lets go of the interpreter while it decodes and resizes
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(load, range(len(samples))):
            pass
    return crops
