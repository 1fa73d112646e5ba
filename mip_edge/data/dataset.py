"""What every reader hands out: the samples of a data set, part by part, and its cameras."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mip_edge.spec import Modality


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of one person."""

    path: Path
    identity: str
    modality: Modality
    camera: str | None = None
    """Name of the camera that took it; None where the data set does not say."""


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera of a data set."""

    name: str
    modality: Modality


@dataclass(frozen=True, slots=True)
class Dataset:
    """The parts of a data set, each sorted by modality (infrared first), identity and file name.

    Where one set of test images serves both as queries and as gallery (SYSU-MM01, RegDB, LLCM),
    `query` and `gallery` are the same list; the protocol draws the trials from it.
    """

    train: list[Sample] = field(default_factory=list)
    query: list[Sample] = field(default_factory=list)
    gallery: list[Sample] = field(default_factory=list)
    cameras: tuple[Camera, ...] = ()
    """Of the training part, in the order of the network's camera table; empty where unknown."""
    name: str = "folder"
    """Kind of the data set, as `--dataset` takes it."""
