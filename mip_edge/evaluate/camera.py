"""What a model may be given and scored on: its cameras, and the split that it has not learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mip_edge.artifact import open_bundle
from mip_edge.data.dataset import Dataset
from mip_edge.embedding import default_engine
from mip_edge.errors import DatasetError, OptionError

OWN = "own"
"""Camera policy: each image gets the embedding of the camera that took it, as published."""
WITHOUT = "the network has no camera embedding"
"""Reason of the policy `none` that nobody chose."""


@dataclass(frozen=True, slots=True)
class CameraPolicy:
    """Which camera embedding the images get, and why."""

    policy: str
    """`own`, `mean`, `none` or the name of a camera; for a bundle what is baked in."""
    reason: str


def choose_policy(path: Path, dataset: Dataset, asked: str | None) -> CameraPolicy:
    """The camera policy for a model on a data set, with the reason that is told.

    Raises: OptionError if a bundle is asked for another than it has, or `own` cannot be.
    """
    if not is_checkpoint(path):
        if asked is not None:
            raise OptionError(
                f"--camera {asked}: {path} is no checkpoint, and its camera policy is baked in; "
                "evaluate the checkpoint, or export anew with another --camera"
            )
        return read_baked(path)
    from mip_edge.checkpoint import read_metadata  # torch is loaded only on this way

    record = read_metadata(path)
    obstacle = _obstacle(record, dataset)
    if asked == OWN and obstacle is not None:
        raise OptionError(f"--camera own: {obstacle}; choose --camera mean or none")
    if obstacle == WITHOUT and asked in (None, "mean", "none"):
        return CameraPolicy("none", WITHOUT)
    if asked not in (None, OWN):
        return CameraPolicy(str(asked), "asked for with --camera")
    if obstacle is None:
        return CameraPolicy(OWN, "the checkpoint knows the cameras of the data set")
    return CameraPolicy("mean", obstacle)


def check_split(path: Path, dataset: str, split: int) -> None:
    """Refuse a model that learned from another split of this set: its people are this one's test.

    Raises: DatasetError naming both splits. A model that does not say what it learned from passes.
    """
    if dataset != "regdb":
        return
    if is_checkpoint(path):
        from mip_edge.checkpoint import read_metadata  # torch is loaded only on this way

        training = read_metadata(path).get("training")
    else:
        training = open_bundle(path).manifest.provenance.get("training")
    data = training.get("data") if isinstance(training, Mapping) else None
    if not isinstance(data, Mapping) or data.get("dataset") != dataset:
        return
    learned = data.get("split")
    if learned is not None and learned != split:
        raise DatasetError(
            f"{path} was trained on split {learned} of {dataset}, whose training people are among "
            f"the test people of split {split}: evaluate it with --split {learned}"
        )


def is_checkpoint(path: Path) -> bool:
    """Whether a model is a checkpoint, which torch opens, and no bundle."""
    return default_engine(path) == "torch"


def _obstacle(record: Mapping[str, Any], dataset: Dataset) -> str | None:
    """Why the images cannot have their own cameras' embeddings; None if they can.

    `record` is what the checkpoint says of itself.
    """
    if not _has_cameras(record.get("options") or {}):
        return WITHOUT
    samples = [*dataset.query, *dataset.gallery]
    if not samples or any(sample.camera is None for sample in samples):
        return "the data set does not say which camera took an image"
    table: Sequence[Mapping[str, object]] = record.get("cameras") or []
    if not table:
        return "the checkpoint names no cameras"
    known = {(entry["name"], entry["modality"]) for entry in table}
    for sample in samples:
        if (sample.camera, sample.modality.value) not in known:
            return f"the checkpoint does not know the {sample.modality.value} {sample.camera}"
    return None


def read_baked(path: Path) -> CameraPolicy:
    """The camera policy of a bundle, for both modalities."""
    manifest = open_bundle(path).manifest
    reason = "baked into the bundle" if _has_cameras(manifest.model) else WITHOUT
    policies = manifest.camera
    if len(set(policies.values())) == 1:
        return CameraPolicy(next(iter(policies.values())), reason)
    told = ", ".join(f"{modality.value} {policy}" for modality, policy in policies.items())
    return CameraPolicy(told, reason)


def _has_cameras(options: Mapping[str, Any]) -> bool:
    """Whether a network of these options adds anything for a camera; True if they do not say."""
    return bool(options.get("cameras", True))
