"""The gallery itself: rows in SQLite are the truth, an index beside them finds the nearest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import GalleryError
from mip_edge.gallery import people, record
from mip_edge.gallery.answer import Question, answer
from mip_edge.gallery.base import GalleryBounds, IdentityMatch, IdentityRecord, TrackletRecord
from mip_edge.gallery.connection import MEMORY, Connection
from mip_edge.gallery.follower import IndexFollower
from mip_edge.gallery.index import VectorIndex
from mip_edge.gallery.match import check_embeddings, check_top_k
from mip_edge.gallery.store import Addition, Store
from mip_edge.gallery.vector import renormalise
from mip_edge.spec import Crop, Embeddings, Modality

if TYPE_CHECKING:
    from typing_extensions import Self

_JPEG_QUALITY = 85


class StoredGallery:
    """A gallery whose truth is a `Connection`; see `MemoryGallery` and `SqliteGallery`.

    An identity answers with the best of its embeddings of each light. Of each identity and light
    at most `bounds.prototypes` are kept; when one too many comes, the older of the two most alike
    goes, so that the views kept stay different and the newest is always among them. One thread at
    a time.
    """

    def __init__(
        self, db: Connection, bounds: GalleryBounds, index: VectorIndex, dimension: int
    ) -> None:
        self._db = db
        self._bounds = bounds
        self._index = index
        self._store = Store(db, dimension, bounds.prototypes)
        self._dimension = dimension
        self._fingerprint = str(self._store.meta("fingerprint"))
        self._thumbnails = bool(self._store.meta("thumbnails"))
        self._follower = IndexFollower(db, self._store, index)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the one model whose embeddings are kept here."""
        return self._fingerprint

    @property
    def dimension(self) -> int:
        """Length of one embedding."""
        return self._dimension

    @property
    def keeps_thumbnails(self) -> bool:
        """Whether this gallery was made to keep pictures."""
        return self._thumbnails

    @property
    def index(self) -> VectorIndex:
        """What finds the nearest; to be looked at, not changed."""
        return self._index

    @property
    def name(self) -> str:
        """How errors call it."""
        return "the gallery" if self._db.path == MEMORY else self._db.path

    @property
    def failures(self) -> int:
        """How often the file could not be read or written; what was not yet in it was lost."""
        return self._db.failures

    def require(self, fingerprint: str, dimension: int) -> None:
        """Refuse an embedder that did not fill this gallery. Raises: GalleryError."""
        if fingerprint != self._fingerprint:
            raise GalleryError(
                f"{self.name} was filled by model {self._fingerprint[:12]}, the embedder is model "
                f"{fingerprint[:12]}; their embeddings cannot be compared: take that model, or "
                "build the gallery anew"
            )
        if dimension != self._dimension:
            raise GalleryError(
                f"{self.name} holds {self._dimension}-wide embeddings, the embedder makes "
                f"{dimension}; build the gallery anew"
            )

    def add(
        self,
        embedding: NDArray[np.float32],
        *,
        identity: int | None = None,
        camera: str,
        modality: Modality,
        time: float,
        tracklet: str = "",
        quality: float = 1.0,
        thumbnail: Crop | None = None,
    ) -> int:
        """Keep one embedding, as `base.Gallery.add` says."""
        rows = check_embeddings(embedding[np.newaxis], self._dimension)
        jpeg = _encode(thumbnail) if self._thumbnails and thumbnail is not None else None
        asked = self._store.new_identity() if identity is None else identity
        with self._alone():
            who = self._store.current(asked)
            key, home = self._store.insert(
                Addition(rows[0], who, camera, modality, time, tracklet, quality, jpeg)
            )
            gone = self._store.drop_redundant(home, modality)
            self._follower.add([key], renormalise(rows))
            self._follower.drop(gone)
        self._db.commit_if_due()
        return who

    def hold(self) -> None:
        """Nobody else writes until what follows is written, as `base.Gallery.hold` says."""
        self._follower.begin()

    def new_identity(self) -> int:
        """A number that was never given out, for `add_many`."""
        return self._store.new_identity()

    def add_many(
        self, additions: Sequence[Addition], *, labels: Mapping[int, str] | None = None
    ) -> None:
        """Keep many embeddings of identities whose numbers are known, all or none of them.

        Raises: GalleryError as `add`.
        """
        if not additions:
            return
        rows = np.stack([new.embedding for new in additions])
        check_embeddings(rows, self._dimension)
        self._db.commit()
        self._follower.begin()
        keys, homes = [], set()
        for new in additions:
            key, home = self._store.insert(new)
            keys.append(key)
            homes.add(home)
        gone = [key for home in sorted(homes) for key in people.keep_to_cap(self._store, home)]
        for identity, label in (labels or {}).items():
            self._store.label(identity, label)
        self._db.commit()
        self._follower.add(keys, renormalise(rows))
        self._follower.drop(gone)

    def search(
        self,
        embeddings: Embeddings,
        *,
        top_k: int,
        min_similarity: float,
        except_tracklet: str | None = None,
        except_identities: Collection[int] = (),
    ) -> list[list[IdentityMatch]]:
        """For each query (Q, D) its best identities, as `base.Gallery.search` says.

        Beyond the index's exact limit the identities come from codes, and one may be missed; the
        similarities are exact always.
        """
        check_top_k(top_k)
        queries = check_embeddings(embeddings, self._dimension)
        self._follower.refresh()
        question = Question(
            top_k, min_similarity, except_tracklet or None, frozenset(except_identities)
        )
        return [answer(self._store, self._index, query, question) for query in queries]

    def embeddings_of(self, identity: int) -> tuple[Embeddings, list[Modality]]:
        """All that is kept of one identity: (N, D), and the modality of each row."""
        self._follower.refresh()
        views, embeddings = self._store.views([self._store.current(identity)])
        return embeddings, [view.modality for view in views]

    def identities_of(self, tracklets: Collection[str]) -> dict[str, int]:
        """Whose each of these tracklets is; one without an embedding here is left out."""
        return self._store.identities_of(tracklets)

    def reassign(self, tracklet: str, identity: int) -> None:
        """Give all embeddings of one tracklet to another identity. Raises: GalleryError."""
        with self._alone():
            self._follower.drop(people.reassign(self._store, tracklet, identity))
        self._db.commit_if_due()

    def merge(self, identity: int, into: int) -> int:
        """`identity` was `into` all the time; gives the number of this merge, for `undo_merge`."""
        with self._alone():
            number = people.merge(self._store, identity, into)
        self._db.commit()
        return number

    def undo_merge(self, merge: int) -> int:
        """What was merged becomes an identity again; gives it. Raises: GalleryError."""
        with self._alone():
            identity = people.undo_merge(self._store, merge)
        self._db.commit()
        return identity

    def split(self, identity: int, tracklets: Collection[str]) -> int:
        """Take tracklets away from an identity; gives the new identity that they become."""
        self._store.reserve()
        with self._alone():
            new, gone = people.split(self._store, identity, tracklets)
        self._follower.drop(gone)
        self._db.commit()
        return new

    def taken_apart(self, identity: int) -> set[int]:
        """Who was taken from this identity, as `base.Gallery.taken_apart` says."""
        self._follower.refresh()
        return people.taken_apart(self._store, identity)

    def forget(self, identity: int) -> None:
        """Remove an identity and all that is known of it, for good.

        Its rows are overwritten with zeros, and the log of SQLite is written back and emptied.
        Raises: GalleryError for a number that is none, or if another process reads that log.
        """
        with self._alone():
            gone = people.forget(self._store, self._store.current(identity))
        self._db.commit()
        self._follower.drop(gone)
        if not self._db.truncate_log():
            raise GalleryError(
                f"identity {identity} is removed, but old copies stay in {self.name}-wal while "
                "another process reads it: end that, and run mip-edge gallery prune"
            )

    def prune(self, now: float) -> list[int]:
        """Keep to the bounds, `now` in the time of `add`; gives the identities that went.

        Those with a label stay, whatever the bounds say.
        """
        with self._alone():
            identities, gone = people.prune(self._store, self._bounds, now, len(self._index))
        self._db.commit()
        self._follower.drop(gone)
        return identities

    def label(self, identity: int, label: str) -> None:
        """Give an identity a name; an empty one takes it away. Raises: GalleryError."""
        with self._alone():
            self._store.label(self._store.current(identity), label)
        self._db.commit()

    def identities(self) -> list[IdentityRecord]:
        """All identities that have an embedding, by number."""
        self._follower.refresh()
        return record.identities(self._store)

    def tracklets(self, identity: int) -> list[TrackletRecord]:
        """All tracklets of one identity that have an embedding, by time."""
        self._follower.refresh()
        return record.tracklets(self._store, identity)

    def stored_rows(self) -> Iterator[list[Addition]]:
        """All embeddings as they came, without thumbnails, in parts."""
        self._follower.refresh()
        return self._store.additions()

    def has_tracklet(self, name: str) -> bool:
        """Whether a tracklet of that name is there."""
        return self._store.has_tracklet(name)

    def labels(self) -> dict[int, str]:
        """The label of each identity that has one."""
        return record.labels(self._store)

    def current(self, identity: int) -> int:
        """Who that identity is now, after merges. Raises: GalleryError for none or forgotten."""
        self._follower.refresh()
        return self._store.current(identity)

    def merges_into(self, identity: int) -> list[tuple[int, int]]:
        """Number of each merge that can be undone, and the identity that it brought."""
        self._follower.refresh()
        return people.merges_into(self._store, identity)

    def compact(self) -> None:
        """Give the disk back what was removed, and empty SQLite's log. Raises: GalleryError."""
        self._db.commit()
        self._db.read("VACUUM")
        self._db.truncate_log()

    def thumbnails(self, identity: int) -> dict[str, bytes]:
        """The JPEG of each tracklet of an identity that has one."""
        return record.thumbnails(self._store, identity)

    def flush(self) -> None:
        """What was added is in the file, and others may write. Raises: GalleryError."""
        self._db.commit()

    def close(self) -> None:
        """Let files go; what was added stays. Closing twice is allowed."""
        if self._db.is_open:
            try:
                self._follower.refresh()
                self._store.give_back_numbers()
            finally:
                self._db.close()

    def __len__(self) -> int:
        self._follower.refresh()
        return len(self._index)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """What is looked up inside still holds when it is written; a refusal keeps nobody out."""
        self._follower.begin()
        try:
            yield
        except GalleryError:
            self._db.commit()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _encode(thumbnail: Crop) -> bytes:
    done, jpeg = cv2.imencode(
        ".jpg",
        cv2.cvtColor(thumbnail, cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY],
    )
    assert done, "OpenCV encodes any uint8 image"
    return jpeg.tobytes()
