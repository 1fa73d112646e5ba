"""A gallery in a file: SQLite in WAL mode, open to several processes, bound to one model."""

from __future__ import annotations

from pathlib import Path

from mip_edge.errors import GalleryError, OptionError
from mip_edge.gallery.base import GalleryBounds
from mip_edge.gallery.connection import Connection, is_sqlite
from mip_edge.gallery.index import EXACT_LIMIT, VectorIndex
from mip_edge.gallery.schema import describe
from mip_edge.gallery.stored import StoredGallery

SUFFIX = ".gallery"


class SqliteGallery(StoredGallery):
    """People of one model in one file, `NAME.gallery`.

    What is added is committed within half a second of adding (`connection.COMMIT_SECONDS`, at the
    next call), or by `flush`: a process that is killed loses that at most. Several processes may
    open one file; SQLite lets one write at a time, the others wait up to ten seconds. What another
    process writes, merges or forgets is seen at the next call.
    """

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        fingerprint: str | None = None,
        dimension: int | None = None,
        bounds: GalleryBounds | None = None,
        thumbnails: bool = False,
        create: bool = True,
        exact_limit: int = EXACT_LIMIT,
    ) -> SqliteGallery:
        """Open the file at `path`, or make it for the model `fingerprint`.

        A file that exists keeps pictures if it was made with `thumbnails`. Its index is
        built here.
        Raises: GalleryError for another model, another kind of file, or a place that cannot be
        written; OptionError if a new file's model is not told.
        """
        path = Path(path)
        db = _connect(path, fingerprint, dimension, thumbnails=thumbnails, create=create)
        try:
            db.check_tables()
            width = int(db.read("SELECT value FROM meta WHERE key='dimension'")[0][0])
            gallery = cls(
                db, bounds or GalleryBounds(), VectorIndex(width, exact_limit=exact_limit), width
            )
            gallery.require(fingerprint or gallery.fingerprint, dimension or gallery.dimension)
        except Exception:
            db.close()
            raise
        return gallery


def open_gallery(path: str | Path, *, bounds: GalleryBounds | None = None) -> SqliteGallery:
    """Open a gallery that exists, whatever its model. Raises: GalleryError."""
    return SqliteGallery.open(path, bounds=bounds, create=False)


def _connect(
    path: Path, fingerprint: str | None, dimension: int | None, *, thumbnails: bool, create: bool
) -> Connection:
    """The file opened, with its tables. Raises: GalleryError, OptionError."""
    if path.is_dir():
        raise GalleryError(f"{path} is a folder; expected a file such as people{SUFFIX}")
    if path.exists() and path.stat().st_size > 0:
        try:
            ours = is_sqlite(path)
        except OSError as error:
            raise GalleryError(f"{path} cannot be opened: {error.strerror}") from error
        if not ours:
            raise GalleryError(f"{path} is no gallery; expected a file of mip-edge gallery")
        return Connection(str(path))
    if not create:
        raise GalleryError(
            f"{path} does not exist; make it with mip-edge gallery enroll, or mip-edge live "
            "--gallery"
        )
    if fingerprint is None or dimension is None or dimension < 1:
        raise OptionError(f"a new gallery {path} needs the fingerprint and dimension of its model")
    if not path.parent.is_dir():
        raise GalleryError(f"{path} cannot be made: the folder {path.parent} does not exist")
    db = Connection(str(path))
    try:
        db.create_tables(describe(fingerprint, dimension, thumbnails=thumbnails))
    except GalleryError:
        db.close()
        raise
    return db
