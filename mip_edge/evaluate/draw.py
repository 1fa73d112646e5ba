"""Which gallery images a trial draws: the random galleries of the field, number for number."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from mip_edge.data.dataset import Sample
from mip_edge.errors import DatasetError

SHOTS = 10
"""Images of one identity and camera in a multi-shot gallery."""
OFFICIAL_SEEDS = {("all", "single"): 254, ("all", "multi"): 1221, ("indoor", "single"): 2936}
"""Seed of the published MIP code's only gallery of each kind; its indoor multi-shot is the last."""


class Draw(Enum):
    """How the random side of a trial is drawn."""

    SINGLE = "single"
    """One image of each identity and camera."""
    MULTI = "multi"
    """Ten images of each identity and camera."""
    OFFICIAL_SINGLE = "official-single"
    """As SINGLE, in the order of the published MIP loader."""
    OFFICIAL_MULTI = "official-multi"
    """As MULTI, in the order of the published MIP loader."""


def draw_rows(
    samples: Sequence[Sample], cameras: Sequence[str], draw: Draw, seed: int
) -> NDArray[np.int64]:
    """Rows of `samples` that a gallery of these cameras gets, in the order drawn.

    SINGLE is the draw of the AGW baseline, PMT and LLCM's code: `random.seed(trial)`, then for
    each identity in sorted order, for each camera in the order of the list, `random.choice` of
    its files sorted by name. (AGW's file as published last has the seeding commented out; its
    descendants seed.) An identity without an image in a camera draws no number there.
    MULTI is that of PMT: `numpy.random.choice(files, 10, replace=False)` in the same order. The
    published code seeds only Python's generator, not numpy's, so its galleries change from run to
    run; here `numpy.random.RandomState(seed)` is seeded for each trial. With fewer than 10 files
    the published code ends in an error; here all of them are taken.
    OFFICIAL_SINGLE and OFFICIAL_MULTI go camera by camera, then identity by identity; the ten are
    ten times `random.choice`, each removed from the rest. This order is that of a loader derived
    from the published one, which itself was not at hand. The published loader takes the files in
    the order of an unsorted `glob`, which depends on the disk: that cannot be reproduced, so the
    files are sorted here, and a drawn image may be another one than the authors'.
    Raises: DatasetError if there is nothing to draw from.
    """
    files = _files(samples, cameras)
    if not files:
        raise DatasetError(
            f"no image of the cameras {', '.join(cameras)} to draw a gallery from; are the camera "
            "folders complete?"
        )
    identities = sorted({identity for identity, _ in files}, key=_identity_order)
    by_identity = [(identity, camera) for identity in identities for camera in cameras]
    by_camera = [(identity, camera) for camera in cameras for identity in identities]
    official = draw in (Draw.OFFICIAL_SINGLE, Draw.OFFICIAL_MULTI)
    groups = [files[key] for key in (by_camera if official else by_identity) if key in files]
    if draw is Draw.MULTI:
        # frozen by numpy: the same numbers in every version, as numpy.random.seed would give
        legacy = np.random.RandomState(seed)
        return np.concatenate(
            [legacy.choice(group, min(SHOTS, len(group)), replace=False) for group in groups]
        ).astype(np.int64)
    rng = random.Random(seed)
    if draw is Draw.OFFICIAL_MULTI:
        return np.array([row for group in groups for row in _one_by_one(group, rng)])
    return np.array([rng.choice(group) for group in groups])


def _files(samples: Sequence[Sample], cameras: Sequence[str]) -> dict[tuple[str, str], list[int]]:
    """Rows of each (identity, camera), sorted by file name."""
    wanted = set(cameras)
    files: dict[tuple[str, str], list[int]] = {}
    for row, sample in enumerate(samples):
        if sample.camera in wanted:
            files.setdefault((sample.identity, str(sample.camera)), []).append(row)
    for rows in files.values():
        rows.sort(key=lambda row: (samples[row].path.name, samples[row].path.as_posix()))
    return files


def _one_by_one(group: Sequence[int], rng: random.Random) -> list[int]:
    left, drawn = list(group), []
    for _ in range(min(SHOTS, len(group))):
        row = rng.choice(left)
        left.remove(row)
        drawn.append(row)
    return drawn


def _identity_order(identity: str) -> tuple[bool, int, str]:
    """As the field sorts its four-digit numbers, with or without leading zeros; names come last."""
    return (not identity.isdecimal(), int(identity) if identity.isdecimal() else 0, identity)
