"""One way into every data set: its kind and its folder give the samples of its parts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mip_edge.data.dataset import Dataset
from mip_edge.data.folder import PARTS, read_folder
from mip_edge.data.llcm import read_llcm
from mip_edge.data.regdb import read_regdb
from mip_edge.data.sysu import read_sysu
from mip_edge.errors import OptionError

DATASETS = ("folder", "sysu", "regdb", "llcm")
"""What `--dataset` takes."""


def read_dataset(
    kind: str, root: str | os.PathLike[str], *, split: int = 1, parts: Sequence[str] = PARTS
) -> Dataset:
    """The samples of `parts` (train, query, gallery); those not asked for stay empty.

    Of all kinds but "folder", query and gallery are one list, which comes when either is asked for.
    No image is opened. Samples are sorted by modality (infrared first), identity, camera and file
    name. `split` counts for RegDB alone (1 to 10).
    Raises: OptionError for a kind, a part or a split that there is not; DatasetError naming the
    path (and line) where the data are not laid out as published.
    """
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise OptionError(f"a dataset has the parts {', '.join(PARTS)}, not {min(unknown)}")
    folder = Path(root)
    if kind == "folder":
        return read_folder(folder, parts)
    if kind == "sysu":
        return read_sysu(folder, parts)
    if kind == "regdb":
        return read_regdb(folder, parts, split)
    if kind == "llcm":
        return read_llcm(folder, parts)
    raise OptionError(f"--dataset must be one of {', '.join(DATASETS)}, got {kind}")
