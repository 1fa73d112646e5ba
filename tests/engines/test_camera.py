"""Camera policies, on a table of three cameras."""

from __future__ import annotations

import pytest

from engines.camera import CameraChoice, choose_camera
from mip_edge.errors import OptionError
from mip_edge.spec import Modality

TABLE = [
    {"name": "gate", "modality": "visible"},
    {"name": "night", "modality": "infrared"},
    {"name": "hall", "modality": "visible"},
]


def test_mean_is_over_the_cameras_of_the_modality() -> None:
    assert choose_camera(TABLE, 3, Modality.VISIBLE, "mean") == CameraChoice("mean", (0, 2))
    assert choose_camera(TABLE, 3, Modality.INFRARED, "mean") == CameraChoice("mean", (1,))


def test_a_named_camera_counts_for_its_modality_and_the_other_takes_its_mean() -> None:
    assert choose_camera(TABLE, 3, Modality.VISIBLE, "hall") == CameraChoice("hall", (2,))
    assert choose_camera(TABLE, 3, Modality.INFRARED, "hall") == CameraChoice("mean", (1,))


def test_none_and_a_model_without_cameras_add_nothing() -> None:
    assert choose_camera(TABLE, 3, Modality.VISIBLE, "none") == CameraChoice("none", ())
    assert choose_camera([], 0, Modality.VISIBLE, "mean") == CameraChoice("none", ())


def test_without_a_table_the_mean_is_over_all_cameras() -> None:
    assert choose_camera([], 2, Modality.INFRARED, "mean") == CameraChoice("mean", (0, 1))


def test_an_unknown_camera_lists_the_known() -> None:
    with pytest.raises(OptionError, match="'door' is unknown.*none, mean, gate, night, hall"):
        choose_camera(TABLE, 3, Modality.VISIBLE, "door")


def test_a_modality_without_camera_has_no_mean() -> None:
    with pytest.raises(OptionError, match="names no infrared camera.*--camera none"):
        choose_camera(TABLE[:1], 1, Modality.INFRARED, "mean")
