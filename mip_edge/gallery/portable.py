"""A gallery as one file that travels: an .npz without pickle, read by the same model alone.

Arrays, a row each embedding in the order it came: `embeddings` (N, D) float16, `identity`,
`modality`, `camera`, `time`, `quality`, `tracklet`; `labelled` and `labels` name identities;
`fingerprint`, `version`. Merges are as they stand, thumbnails stay at home.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

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


def import_gallery(gallery: StoredGallery, path: Path) -> dict[int, int]:
    """Add an exported gallery, all or nothing; gives the new number of each identity.

    A tracklet whose name is taken gets `~2` and so on behind it. Raises: GalleryError for another
    model, or a file that is none.
    """
    content = _read(path)
    gallery.require(str(content["fingerprint"]), int(content["embeddings"].shape[1]))
    numbers = {int(old): gallery.new_identity() for old in np.unique(content["identity"])}
    names = {
        name: _free_name(gallery, name) if name else ""
        for name in np.unique(content["tracklet"]).tolist()
    }
    embeddings = content["embeddings"].astype(np.float32)
    columns = [content[name].tolist() for name in _ROWS]
    gallery.add_many(
        [
            Addition(
                embedding,
                numbers[identity],
                camera,
                Modality(modality),
                time,
                names[tracklet],
                quality,
            )
            for embedding, identity, modality, camera, time, quality, tracklet in zip(
                embeddings, *columns, strict=True
            )
        ],
        labels={
            numbers[old]: label
            for old, label in zip(
                content["labelled"].tolist(), content["labels"].tolist(), strict=True
            )
            if old in numbers
        },
    )
    return numbers


def _free_name(gallery: StoredGallery, name: str) -> str:
    free, count = name, 1
    while gallery.has_tracklet(free):
        count += 1
        free = f"{name}~{count}"
    return free


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        # opened here, for numpy leaves a file open that it cannot read; and no `np.load`, whose
        # advice about any other file is to load it unsafely
        with path.open("rb") as stream, NpzFile(stream) as stored:
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
