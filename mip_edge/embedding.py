"""Image files to embeddings, and embeddings to a file that names the model that made them."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import track

from engines.table import DEFAULT_ENGINE, DEFAULT_PRECISION
from mip_edge.arrays import open_arrays
from mip_edge.data.folder import find_images
from mip_edge.data.image import IMAGE_SUFFIXES, read_image
from mip_edge.embedder import Embedder
from mip_edge.errors import DatasetError, GalleryError, ImageError, OptionError, OutputError
from mip_edge.output import write_beside
from mip_edge.spec import Crop, Embeddings, Modality


class CropEmbedder(Protocol):
    """What is needed of `mip_edge.embedder.Embedder`."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model."""

    @property
    def dimension(self) -> int:
        """Length of one embedding."""

    def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
        """Unit embeddings (N, D) of crops of one modality."""


@dataclass(frozen=True, slots=True)
class StoredEmbeddings:
    """Embeddings of image files, as `mip-edge embed` writes them to one .npz."""

    embeddings: Embeddings
    paths: tuple[str, ...]
    """File of each row, as it was given."""
    modality: Modality
    fingerprint: str
    """SHA-256 of the one model that made them."""

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Writes the .npz, whole or not at all. Raises: OutputError."""
        check_output(path, overwrite=overwrite)
        with write_beside(path) as stream:
            np.savez(
                stream,
                embeddings=self.embeddings,
                paths=np.array(self.paths, dtype=np.str_),
                modality=np.array(self.modality.value),
                fingerprint=np.array(self.fingerprint),
            )

    @classmethod
    def load(cls, path: Path) -> StoredEmbeddings:
        """Reads the .npz; no code in it runs. Raises: GalleryError for any other file."""
        try:
            with open_arrays(path) as stored:
                loaded = cls(
                    np.asarray(stored["embeddings"], dtype=np.float32),
                    tuple(str(name) for name in stored["paths"]),
                    Modality(str(stored["modality"])),
                    str(stored["fingerprint"]),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise GalleryError(
                f"{path} holds no embeddings that can be read ({error}); make it anew with: "
                f"mip-edge embed BUNDLE IMAGES -o {path}"
            ) from error
        if loaded.embeddings.ndim != 2 or len(loaded.embeddings) != len(loaded.paths):
            raise GalleryError(
                f"{path} holds embeddings of shape {loaded.embeddings.shape} for "
                f"{len(loaded.paths)} files; make it anew with: mip-edge embed"
            )
        return loaded

    def require(self, embedder: CropEmbedder, path: Path) -> None:
        """Refuse another model than the one that made these. Raises: GalleryError."""
        if self.fingerprint != embedder.fingerprint:
            raise GalleryError(
                f"{path} was made by model {self.fingerprint[:12]}, the queries are embedded by "
                f"{embedder.fingerprint[:12]}; make it anew with: mip-edge embed BUNDLE IMAGES "
                f"-o {path}"
            )


def embed_files(
    embedder: CropEmbedder,
    paths: Sequence[Path],
    modality: Modality,
    *,
    batch: int = 32,
    task: str | None = None,
) -> Embeddings:
    """Embeddings (N, D) of image files of one modality, `batch` at a time, in their order.

    On a terminal a progress bar named `task` shows on stderr.
    Raises: ImageError naming the file that cannot be read; OptionError for a batch below 1.
    """
    if batch < 1:
        raise OptionError(f"--batch must be at least 1, got {batch}")
    starts = track(
        range(0, len(paths), batch),
        description=task or f"embedding {modality.value}",
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    embeddings = np.empty((len(paths), embedder.dimension), dtype=np.float32)
    for start in starts:
        crops = [read_image(path) for path in paths[start : start + batch]]
        embeddings[start : start + len(crops)] = embedder.embed(crops, modality)
    return embeddings


def embed_images(
    embedder: CropEmbedder,
    sources: Sequence[str | os.PathLike[str]],
    modality: Modality,
    *,
    batch: int = 32,
) -> StoredEmbeddings:
    """Embeddings of all images in `sources`: files, or folders searched at every depth."""
    paths = collect_images(sources)
    embeddings = embed_files(embedder, paths, modality, batch=batch)
    return StoredEmbeddings(
        embeddings, tuple(str(path) for path in paths), modality, embedder.fingerprint
    )


def embed_to_file(
    path: str | Path,
    sources: Sequence[str | os.PathLike[str]],
    modality: Modality,
    output: Path,
    *,
    engine: str | None = None,
    precision: str = DEFAULT_PRECISION,
    engine_options: Mapping[str, Any] | None = None,
    batch: int = 32,
    overwrite: bool = False,
) -> StoredEmbeddings:
    """As `embed_images`, with the bundle or checkpoint at `path`; written to the .npz `output`.

    `engine_options` are what `Embedder.open` takes beside engine and precision.
    """
    if output.suffix != ".npz":
        raise OutputError(f"{output} ends in no .npz; embeddings are written as .npz")
    check_output(output, overwrite=overwrite)
    runs = engine or default_engine(path)
    with Embedder.open(
        path, engine=runs, precision=precision, **(engine_options or {})
    ) as embedder:
        stored = embed_images(embedder, sources, modality, batch=batch)
    stored.save(output, overwrite=overwrite)
    return stored


def default_engine(path: str | Path) -> str:
    """The engine for a file nobody chose one for: torch opens checkpoints, and only those."""
    return "torch" if Path(path).suffix == ".safetensors" else DEFAULT_ENGINE


def collect_images(sources: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Image files of `sources`, each file once, in the order given and sorted inside a folder.

    Raises: ImageError for a file that is missing or of another kind; DatasetError for a folder
    without images.
    """
    paths: dict[Path, None] = {}
    for source in map(Path, sources):
        if source.is_dir():
            inside = find_images(source)
            if not inside:
                raise DatasetError(f"{source} holds no images; expected {_suffixes()} files")
            paths.update(dict.fromkeys(inside))
        elif not source.exists():
            raise ImageError(f"{source} does not exist; expected an image or a folder of images")
        elif source.suffix.lower() not in IMAGE_SUFFIXES:
            raise ImageError(f"{source} is no image by its name; expected {_suffixes()}")
        else:
            paths[source] = None
    return list(paths)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raises: OutputError if `path` exists and may not be replaced, or has no folder to lie in."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder; expected the name of a file")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; choose another name, or --overwrite")
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: the folder {path.parent} does not exist")


def _suffixes() -> str:
    return ", ".join(IMAGE_SUFFIXES[:-1]) + f" or {IMAGE_SUFFIXES[-1]}"
