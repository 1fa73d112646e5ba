"""A gallery as one file that travels: an .npz without pickle, read by the same model alone.

Arrays, a row each embedding in the order it came: `embeddings` (N, D) float16, `identity`,
`modality`, `camera`, `time`, `quality`, `tracklet`; `labelled` and `labels` name identities;
`fingerprint`, `version`. Merges are as they stand, thumbnails stay at home.
"""

from __future__ import annotations

import zipfile
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mip_edge.arrays import open_arrays
from mip_edge.errors import GalleryError
from mip_edge.gallery.store import Addition
from mip_edge.gallery.stored import StoredGallery
from mip_edge.output import write_beside
from mip_edge.spec import Modality

VERSION = 1
_ROWS = ("identity", "modality", "camera", "time", "quality", "tracklet")


def export_gallery(gallery: StoredGallery, path: Path) -> int:
    """Write all embeddings of a gallery to `path`, whole or not at all; gives how many.

    Raises: OutputError if the place cannot be written.
    """
    rows = [row for part in gallery.stored_rows() for row in part]
    labels = gallery.labels()
    columns: dict[str, Any] = {
        "identity": np.array([row.identity for row in rows], np.int64),
        "modality": np.array([row.modality.value for row in rows], np.str_),
        "camera": np.array([row.camera for row in rows], np.str_),
        "time": np.array([row.time for row in rows], np.float64),
        "quality": np.array([row.quality for row in rows], np.float64),
        "tracklet": np.array([row.tracklet for row in rows], np.str_),
    }
    embeddings = np.array([row.embedding for row in rows], np.float16)
    with write_beside(path) as stream:
        np.savez(
            stream,
            version=np.array(VERSION),
            fingerprint=np.array(gallery.fingerprint),
            embeddings=embeddings.reshape(len(rows), gallery.dimension),
            labelled=np.array(list(labels), np.int64),
            labels=np.array(list(labels.values()), np.str_),
            **columns,
        )
    return len(rows)


def read_model(path: Path) -> tuple[str, int]:
    """Fingerprint and dimension of an exported gallery. Raises: GalleryError."""
    content = _read(path)
    return str(content["fingerprint"]), int(content["embeddings"].shape[1])


@dataclass(frozen=True, slots=True)
class Import:
    """What came of importing a file."""

    numbers: Mapping[int, int]
    """Who each identity of the file is here."""
    known: frozenset[int]
    """Those of the file that were here already, at least in part."""
    added: int
    """Embeddings that came."""
    left_out: int
    """Embeddings whose tracklet was here already."""


def import_gallery(gallery: StoredGallery, path: Path) -> Import:
    """Add an exported gallery, all or nothing, and nothing twice.

    A tracklet is here already if one of its embeddings is, of the same camera, light and second:
    it is left out, whoever it was given to meanwhile. What else the file has of that person goes
    to whoever holds most of it here, and the label here stays. Everybody else gets a new number,
    and a tracklet whose name is taken by another gets `~2` and so on behind it.
    Raises: GalleryError for another model, or a file that is none.
    """
    content = _read(path)
    gallery.require(str(content["fingerprint"]), int(content["embeddings"].shape[1]))
    identities, tracklets = content["identity"].tolist(), content["tracklet"].tolist()
    found = _find(gallery, content)
    names = {tracklets[row] for row in found} - {""}
    left_out = [row in found or name in names for row, name in enumerate(tracklets)]
    holders: dict[int, Counter[int]] = defaultdict(Counter)
    for row, holder in sorted(found.items()):
        holders[identities[row]][holder] += 1
    numbers = {
        int(old): holders[old].most_common(1)[0][0] if old in holders else gallery.new_identity()
        for old in np.unique(content["identity"]).tolist()
    }
    coming = [row for row, out in enumerate(left_out) if not out]
    new = {tracklets[row] for row in coming}
    free = {name: _free_name(gallery, name, new) if name else "" for name in new}
    embeddings = content["embeddings"].astype(np.float32)
    columns = [content[name].tolist() for name in _ROWS]
    rows = list(zip(embeddings, *columns, strict=True))
    gallery.add_many(
        [
            Addition(
                embedding,
                numbers[identity],
                camera,
                Modality(modality),
                time,
                free[tracklet],
                quality,
            )
            for embedding, identity, modality, camera, time, quality, tracklet in (
                rows[row] for row in coming
            )
        ],
        labels={
            numbers[old]: label
            for old, label in zip(
                content["labelled"].tolist(), content["labels"].tolist(), strict=True
            )
            if old in numbers and old not in holders
        },
    )
    return Import(numbers, frozenset(holders), len(coming), sum(left_out))


def _find(gallery: StoredGallery, content: Mapping[str, NDArray[Any]]) -> dict[int, int]:
    """Rows of a file that are here to the bit, with who holds each."""
    taken: dict[tuple[str, str, float], list[int]] = defaultdict(list)
    columns = (content[name].tolist() for name in ("camera", "modality", "time"))
    for row, place in enumerate(zip(*columns, strict=True)):
        taken[place].append(row)
    found: dict[int, int] = {}
    for part in gallery.stored_rows():
        for here in part:
            for row in taken.get((here.camera, here.modality.value, here.time), ()):
                if np.array_equal(content["embeddings"][row], here.embedding):
                    found.setdefault(row, here.identity)
    return found


def _free_name(gallery: StoredGallery, name: str, coming: Collection[str]) -> str:
    """The name, or the first behind it that neither the gallery nor the file has."""
    free, count = name, 1
    while gallery.has_tracklet(free) or (free != name and free in coming):
        count += 1
        free = f"{name}~{count}"
    return free


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with open_arrays(path) as stored:
            content = {name: stored[name] for name in stored.files}
        version = int(content["version"])
        count = len(content["embeddings"])
        whole = content["embeddings"].ndim == 2 and all(len(content[n]) == count for n in _ROWS)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise GalleryError(
            f"{path} is no exported gallery ({error}); expected what mip-edge gallery export writes"
        ) from error
    if version != VERSION or not whole:
        raise GalleryError(
            f"{path} is an exported gallery of version {version}"
            + ("" if whole else " whose columns differ in length")
            + f"; expected a whole one of version {VERSION}"
        )
    return content
