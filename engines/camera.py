"""What a camera policy means: none, the mean of a modality's cameras, or one by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mip_edge.errors import OptionError
from mip_edge.spec import Modality


@dataclass(frozen=True, slots=True)
class CameraChoice:
    """What a policy comes to for one modality of one model."""

    policy: str
    """`none`, `mean`, or the name of a camera; this goes into the manifest."""
    rows: tuple[int, ...]
    """Rows of the camera table whose mean is added; empty for none."""


def choose_camera(
    table: Sequence[Mapping[str, object]], cameras: int, modality: Modality, policy: str
) -> CameraChoice:
    """Rows of the camera table that `policy` means for one modality.

    A named camera counts for the modality it belongs to; the other one gets its mean. A model
    without camera embedding (`cameras` 0) gets none under `mean`. A checkpoint without a table of
    names takes all its cameras for both modalities.
    Raises: OptionError for a name that the table does not hold.
    """
    if policy == "none" or (policy == "mean" and cameras == 0):
        return CameraChoice("none", ())
    named = [row for row, entry in enumerate(table) if entry["name"] == policy]
    if policy != "mean" and not named:
        known = ", ".join(["none", "mean", *(str(entry["name"]) for entry in table)])
        raise OptionError(f"--camera {policy!r} is unknown to this checkpoint; it knows: {known}")
    ours = [row for row, entry in enumerate(table) if entry["modality"] == modality.value]
    for row in named:
        if row in ours:
            return CameraChoice(policy, (row,))
    rows = ours if table else list(range(cameras))
    if not rows:
        raise OptionError(
            f"the checkpoint names no {modality.value} camera to take the mean of; "
            "choose --camera none"
        )
    return CameraChoice("mean", tuple(rows))
