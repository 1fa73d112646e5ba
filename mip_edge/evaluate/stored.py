"""Embeddings of a data set's test images in one file, to be scored again without the model."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mip_edge.arrays import open_arrays
from mip_edge.data.dataset import Dataset, Sample
from mip_edge.embedding import check_output
from mip_edge.errors import GalleryError, OutputError
from mip_edge.evaluate.camera import CameraPolicy
from mip_edge.gallery.match import UNIT_TOLERANCE
from mip_edge.output import write_beside
from mip_edge.spec import Embeddings

STORED = ".npz"
"""Suffix of embeddings that were saved."""


@dataclass(frozen=True, slots=True)
class DatasetEmbeddings:
    """Embeddings of the query and the gallery part; one array where the two are one list."""

    query: Embeddings
    gallery: Embeddings
    fingerprint: str
    """SHA-256 of the model that made them."""
    camera: CameraPolicy

    def save(self, path: Path, dataset: Dataset, root: Path, *, overwrite: bool = False) -> None:
        """Write `embeddings` (N, D), `paths` (N,) relative to `root`, `fingerprint`, `camera`.

        Raises: OutputError if the place cannot be written.
        """
        check_stored(path, overwrite=overwrite)
        embeddings, samples = self.query, list(dataset.query)
        if dataset.query is not dataset.gallery:
            embeddings = np.concatenate([self.query, self.gallery])
            samples += dataset.gallery
        with write_beside(path) as stream:
            np.savez(
                stream,
                embeddings=embeddings,
                paths=np.array([_name(sample, root) for sample in samples], dtype=np.str_),
                fingerprint=np.array(self.fingerprint),
                camera=np.array(self.camera.policy),
            )

    @classmethod
    def load(cls, path: Path, dataset: Dataset, root: Path) -> DatasetEmbeddings:
        """What `save` wrote, or any .npz of these arrays, its rows in any order.

        Raises: GalleryError if the file is another, has rows not of unit length, names no model,
        or holds other images than the data set.
        """
        embeddings, paths, fingerprint, camera = _read(path)
        row = {name: number for number, name in enumerate(paths)}
        query = [_name(sample, root) for sample in dataset.query]
        gallery = [_name(sample, root) for sample in dataset.gallery]
        if row.keys() != {*query, *gallery} or len(row) != len(paths):
            missing, more = {*query, *gallery} - row.keys(), row.keys() - {*query, *gallery}
            example = min(missing or more, default="an image that stands twice")
            raise GalleryError(
                f"{path} holds other images than {root}: {len(missing)} are not in it, {len(more)} "
                f"are too many (the first: {example}); name the data set and the split it was made "
                "of, or save the embeddings anew with: mip-edge evaluate MODEL DATA "
                "--save-embeddings FILE.npz"
            )
        found = embeddings[[row[name] for name in query]]
        same = dataset.query is dataset.gallery
        return cls(
            found,
            found if same else embeddings[[row[name] for name in gallery]],
            fingerprint,
            CameraPolicy(camera, f"as the embeddings were made, {path.name} says"),
        )


def check_stored(path: Path, *, overwrite: bool) -> None:
    """Raises: OutputError if embeddings cannot be saved at `path`."""
    if path.suffix != STORED:
        raise OutputError(f"{path} ends in no {STORED}; embeddings are written as {STORED}")
    check_output(path, overwrite=overwrite)


def _name(sample: Sample, root: Path) -> str:
    path = sample.path
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _read(path: Path) -> tuple[NDArray[np.float32], list[str], str, str]:
    try:
        with open_arrays(path) as stored:
            embeddings = np.asarray(stored["embeddings"], dtype=np.float32)
            paths = [str(name) for name in stored["paths"]]
            fingerprint = str(stored["fingerprint"])
            camera = str(stored["camera"]) if "camera" in stored else "unknown"
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise GalleryError(
            f"{path} holds no embeddings that can be read ({error}); expected the arrays "
            "embeddings (N, D), paths (N,) relative to DATA and fingerprint, as mip-edge evaluate "
            "MODEL DATA --save-embeddings writes them"
        ) from error
    if embeddings.ndim != 2 or len(embeddings) != len(paths):
        raise GalleryError(
            f"{path} holds embeddings of shape {embeddings.shape} for {len(paths)} images; "
            "expected (N, D) for N images"
        )
    if not fingerprint:
        raise GalleryError(f"{path} names no model; its fingerprint is empty")
    lengths = np.linalg.norm(embeddings, axis=1)
    off = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))
    if len(off):
        raise GalleryError(
            f"{path} holds embeddings that are not of unit length ({lengths[off[0]]:.3g} for "
            f"{paths[off[0]]}); divide each row by its length"
        )
    return embeddings, paths, fingerprint, camera
