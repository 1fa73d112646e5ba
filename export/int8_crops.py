"""The crops that the scales of an export are found on, and the batches that its graphs take."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from calibration.activations import Inputs
from calibration.crops import CalibrationCrop, draw_calibration, read_calibration
from export.in_memory import inputs_of
from export.work import Work
from mip_edge.errors import CalibrationError
from mip_edge.preprocess import prepare
from mip_edge.spec import Modality

logger = logging.getLogger(__name__)

BATCH = 8
"""Crops that are run together: all activations of a batch are in memory at once."""


def calibration_crops(work: Work) -> list[CalibrationCrop]:
    """Training crops of both lights; drawn ones for a model that learned from drawn people.

    Raises: CalibrationError where there are none, or such that the gate examines; OptionError and
    DatasetError for data that are not what they should be.
    """
    options, training = work.options, work.record.get("training") or {}
    if options.calibrate is not None:
        data = training.get("data")
        names = data.get("names", ()) if isinstance(data, dict) else ()
        found = read_calibration(
            options.calibrate,
            options.dataset,
            split=options.split,
            count=options.calibration.crops,
            seed=options.calibration.seed,
            trained=names,
        )
        _refuse_examined(work, options.calibrate, found)
        return found
    pretrained = training.get("pretrain")
    if not isinstance(pretrained, dict) or "seed" not in pretrained:
        raise CalibrationError(
            "--int8 needs crops of people that the model learned from, to find its scales; give "
            "them with --calibrate DATA (a data set as --dataset says, or a folder with `visible` "
            "and `infrared` crops)"
        )
    logger.info("the model learned from synthetic people alone: calibrating on such people")
    return draw_calibration(
        options.calibration.crops, int(pretrained["seed"]), work.model.options.image_size
    )


def _refuse_examined(work: Work, root: Path, crops: Sequence[CalibrationCrop]) -> None:
    """Raises: CalibrationError for a crop that --data has in its query or gallery."""
    if work.dataset is None:
        return
    examined = {one.path.resolve() for one in (*work.dataset.query, *work.dataset.gallery)}
    for crop in crops:
        if (root / crop.name).resolve() in examined:
            raise CalibrationError(
                f"{root / crop.name} is a query or gallery crop of --data, the examination; scales "
                "are found on training people only. Give --calibrate their train part"
            )


def calibration_batches(
    work: Work, crops: Sequence[CalibrationCrop], taken: tuple[Modality, ...]
) -> list[Inputs]:
    """What one graph is calibrated on: the crops of its light, or of both."""
    batches: list[Inputs] = []
    for modality in taken:
        mine = [crop.crop for crop in crops if crop.modality is modality]
        prepared = prepare(mine, work.specs[modality])
        batches += [
            inputs_of(prepared[start : start + BATCH], modality, taken)
            for start in range(0, len(prepared), BATCH)
        ]
    return batches
