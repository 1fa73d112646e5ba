"""On whom thresholds are learnt: people that the model has never seen, and where each was taken."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mip_edge.artifact import Bundle
from mip_edge.data.dataset import Sample
from mip_edge.data.folder import split_validation
from mip_edge.data.readers import read_dataset
from mip_edge.errors import DatasetError, OptionError
from mip_edge.evaluate.camera import check_split
from mip_edge.spec import Modality

logger = logging.getLogger(__name__)

PARTS = ("validation", "test")
BY_PROVENANCE, BY_DATASET, AS_STATED = "by provenance", "by the data set", "as stated"
_LEAST = 2


@dataclass(frozen=True, slots=True)
class People:
    """The crops that thresholds are learnt on."""

    samples: list[Sample]
    sessions: list[str]
    """Where each was taken: its camera, else the part it lies in; empty where nobody knows. Crops
    of one person, light and session may be near-duplicates of one walk past a camera."""
    held_out: str
    """Why they count as unknown to the model."""
    record: Mapping[str, object]
    """As the manifest has it."""


def choose_people(
    bundle: Bundle,
    data: Path,
    *,
    dataset: str = "folder",
    split: int = 1,
    part: str = "validation",
    never_seen: bool = False,
) -> People:
    """The people of a part of `data` that the bundle's model has not learned from.

    `validation` is the people of the training part that its training kept aside; `test` is query
    and gallery: what is evaluated there afterwards is no examination any more. `never_seen` states
    that the model knows nobody in `data`, where its bundle does not say.
    Raises: DatasetError if nobody is left, or nobody can know; OptionError for an unknown part.
    """
    if part not in PARTS:
        raise OptionError(f"--part must be {' or '.join(PARTS)}, got {part}")
    check_split(bundle.path, dataset, split)
    samples, places = _read(data, dataset, split, part)
    train = samples if part == "validation" else None
    must = part == "validation" and not never_seen
    learned = _learned(bundle, data, dataset, split, train, must=must)
    held_out = BY_PROVENANCE
    if never_seen:
        if learned:
            logger.warning(
                "--never-seen, but %s has as many people and crops as this model learned from: if "
                "they are the same, these thresholds are wrong",
                data,
            )
        learned, held_out = frozenset(), AS_STATED
    elif part == "test":
        held_out = BY_DATASET
    rows = [row for row, sample in enumerate(samples) if sample.identity not in learned]
    kept = [samples[row] for row in rows]
    left_out = {sample.identity for sample in samples} - {sample.identity for sample in kept}
    names = sorted({sample.identity for sample in kept})
    if len(names) < _LEAST:
        raise DatasetError(
            f"the model learned from {len(left_out)} of the {len(left_out) + len(names)} people in "
            f"the {part} part of {data}: {len(names)} are left, expected at least {_LEAST}. Train "
            "with --select validation, which keeps people aside, or give other data (or part)"
        )
    for modality in Modality:
        if all(sample.modality is not modality for sample in kept):
            raise DatasetError(f"the {part} part of {data} shows nobody in {modality.value} light")
    if left_out and part == "test":
        logger.warning("%d test people are left out: the model learned from them", len(left_out))
    return People(
        kept,
        [kept_one.camera or places[row] for kept_one, row in zip(kept, rows, strict=True)],
        held_out,
        {
            "dataset": dataset,
            "folder": data.resolve().name,
            "split": split if dataset == "regdb" else None,
            "part": part,
            "held_out": held_out,
            "identities": len(names),
            "crops": len(kept),
            "digest": _digest(kept),
        },
    )


def _read(data: Path, dataset: str, split: int, part: str) -> tuple[list[Sample], list[str]]:
    """The crops of a part, and the part each lies in where that is a session of its own."""
    if part == "validation":
        train = read_dataset(dataset, data, split=split, parts=("train",)).train
        return list(train), [""] * len(train)
    read = read_dataset(dataset, data, split=split, parts=("query", "gallery"))
    if read.query is read.gallery:
        return list(read.query), [""] * len(read.query)
    places = ["query"] * len(read.query) + ["gallery"] * len(read.gallery)
    return [*read.query, *read.gallery], places


def _learned(
    bundle: Bundle,
    data: Path,
    dataset: str,
    split: int,
    train: list[Sample] | None,
    *,
    must: bool,
) -> frozenset[str]:
    """Names of the people in `data` that the model learned from, drawn again as its training did.

    `train` is the training part of `data`, None if nobody has read it yet.
    A bundle holds no names, but seed and share of the draw, and how many people and crops it left:
    where these are those of the training part here, it is taken for the one learned from.
    Raises: DatasetError if `must` and the bundle does not say enough.
    """
    training = bundle.manifest.provenance.get("training")
    training = training if isinstance(training, Mapping) else {}
    told, options = training.get("data"), training.get("options")
    if not isinstance(told, Mapping) or not isinstance(options, Mapping):
        if must:
            raise DatasetError(
                f"{bundle.path} does not say which people it learned from, so those of {data}'s "
                "training part may be among them, and similarities of people it knows lie. Add "
                "--never-seen if it knows none of them, or choose --part test"
            )
        return frozenset()
    if told.get("dataset") != dataset:  # other people
        return frozenset()
    if train is None:
        try:
            train = list(read_dataset(dataset, data, split=split, parts=("train",)).train)
        except DatasetError:
            return frozenset()
    if training.get("selected_by") == "validation":
        rng = np.random.default_rng(int(options["seed"]))
        train = list(split_validation(train, float(options["validation_share"]), rng).train)
    names = frozenset(sample.identity for sample in train)
    if (len(names), len(train)) == (told.get("identities"), told.get("crops")):
        return names
    if must:
        raise DatasetError(
            f"{bundle.path} learned from {told.get('identities')} people on {told.get('crops')} "
            f"crops of {told.get('folder')}; the same draw leaves {len(names)} on {len(train)} in "
            f"{data}, so nobody knows who of them it has seen. Give the data it was trained on, "
            "add --never-seen if these are other people, or choose --part test"
        )
    return frozenset()


def _digest(samples: list[Sample]) -> str:
    lines = (
        f"{one.identity} {one.modality.value} {one.camera or ''} {one.path.name}\n"
        for one in samples
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
