"""A gallery that lives and dies with the process."""

from __future__ import annotations

from mip_edge.errors import OptionError
from mip_edge.gallery.base import GalleryBounds
from mip_edge.gallery.connection import MEMORY, Connection
from mip_edge.gallery.index import EXACT_LIMIT, VectorIndex
from mip_edge.gallery.schema import describe
from mip_edge.gallery.stored import StoredGallery


class MemoryGallery(StoredGallery):
    """The gallery of `SqliteGallery` without a file, for one run."""

    def __init__(
        self,
        *,
        fingerprint: str,
        dimension: int,
        bounds: GalleryBounds | None = None,
        thumbnails: bool = False,
        exact_limit: int = EXACT_LIMIT,
    ) -> None:
        """Embeddings of the model `fingerprint`, (dimension,) each."""
        if dimension < 1:
            raise OptionError(f"a gallery needs a dimension of at least 1, got {dimension}")
        db = Connection(MEMORY)
        db.create_tables(describe(fingerprint, dimension, thumbnails=thumbnails))
        super().__init__(
            db,
            bounds or GalleryBounds(),
            VectorIndex(dimension, exact_limit=exact_limit),
            dimension,
        )
