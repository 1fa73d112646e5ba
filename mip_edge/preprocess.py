"""The one preparation of a crop for inference: live, calibration and evaluation all call it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from mip_edge.errors import ImageError
from mip_edge.spec import Batch, Crop, EmbedderSpec, Modality


def prepare(crops: Sequence[Crop], spec: EmbedderSpec) -> Batch:
    """Crops of any size to the batch that `spec` promises, (N, H, W, C) uint8.

    Bilinear resize without antialiasing, as published; an infrared crop becomes its one channel.
    Raises: ImageError for a crop that is not (h, w, 3) or (h, w) uint8, or is empty; and for one
    crop where a list of crops belongs.
    """
    _check_list(crops)
    batch = np.empty((len(crops), *spec.batch_shape), dtype=np.uint8)
    for index, crop in enumerate(crops):
        batch[index] = _prepare_one(crop, spec)
    return batch


def prepare_mixed(
    crops: Sequence[Crop],
    modalities: Sequence[Modality],
    specs: Mapping[Modality, EmbedderSpec],
) -> Batch:
    """The same for a graph of both modalities, (N, H, W, 3) uint8, each crop by its own spec.

    An infrared crop has its one channel three times. All specs are of one size.
    Raises: ImageError as `prepare` does.
    """
    _check_list(crops)
    size = next(iter(specs.values()))
    batch = np.empty((len(crops), size.height, size.width, 3), dtype=np.uint8)
    for index, (crop, modality) in enumerate(zip(crops, modalities, strict=True)):
        batch[index] = _prepare_one(crop, specs[modality])
    return batch


def _check_list(crops: Sequence[Crop]) -> None:
    """Raises: ImageError for one picture, whose rows would pass for crops three pixels wide."""
    if isinstance(crops, np.ndarray) and crops.ndim == 3 and crops.shape[2] == 3:
        raise ImageError(
            f"one picture of shape {crops.shape} came; expected a list of crops: [picture]"
        )


def _prepare_one(crop: Crop, spec: EmbedderSpec) -> Batch:
    if not hasattr(crop, "dtype"):  # None is what OpenCV gives for a file that it cannot read
        raise ImageError(
            f"{type(crop).__name__} came for a crop; expected an array, (height, width, 3) or "
            "(height, width) uint8, such as mip_edge.data.image.read_image gives"
        )
    if crop.dtype != np.uint8 or crop.ndim not in (2, 3) or 0 in crop.shape:
        raise ImageError(
            f"a crop of shape {crop.shape} and type {crop.dtype} came; "
            "expected (height, width, 3) or (height, width) uint8, not empty"
        )
    if crop.ndim == 3 and crop.shape[2] == 1:
        crop = crop[:, :, 0]
    if crop.ndim == 3 and crop.shape[2] != 3:
        raise ImageError(f"a crop has {crop.shape[2]} channels; expected 3 (RGB) or 1")
    if spec.channels == 1 and crop.ndim == 3:
        crop = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    elif spec.channels == 3 and crop.ndim == 2:
        crop = np.asarray(cv2.cvtColor(crop, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    size = (spec.width, spec.height)
    resized = np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    return resized.reshape(spec.batch_shape)
