"""What a gallery knows of one identity, gathered for a reader."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mip_edge.errors import GalleryError
from mip_edge.folder import write_folder
from mip_edge.gallery.base import TrackletRecord
from mip_edge.gallery.stored import StoredGallery


@dataclass(frozen=True, slots=True)
class MergeRecord:
    """A merge that can be undone."""

    merge: int
    identity: int
    """Who came in."""


@dataclass(frozen=True, slots=True)
class IdentityReport:
    """One identity with its tracklets, and the merges that made it."""

    identity: int
    label: str
    tracklets: tuple[TrackletRecord, ...]
    merges: tuple[MergeRecord, ...]


def describe_identity(gallery: StoredGallery, identity: int) -> IdentityReport:
    """All records of an identity, or of whom it was merged into. Raises: GalleryError."""
    current = gallery.current(identity)
    return IdentityReport(
        identity=current,
        label=gallery.labels().get(current, ""),
        tracklets=tuple(gallery.tracklets(current)),
        merges=tuple(MergeRecord(*pair) for pair in gallery.merges_into(current)),
    )


def find_labelled(gallery: StoredGallery, label: str) -> list[int]:
    """Everybody of that label. Raises: GalleryError if nobody has it."""
    found = [identity for identity, name in gallery.labels().items() if name == label]
    if not found:
        raise GalleryError(f"nobody in {gallery.name} is called {label!r}")
    return found


def write_thumbnails(gallery: StoredGallery, identity: int, folder: Path) -> int:
    """The kept pictures of an identity as NUMBER.jpg in a new folder; gives how many.

    Raises: OutputError if the folder exists; GalleryError if no picture is kept.
    """
    pictures = gallery.thumbnails(identity)
    if not pictures:
        raise GalleryError(f"{gallery.name} keeps no picture of identity {identity}")
    with write_folder(folder, "a folder of thumbnails", lambda _: False) as draft:
        for number, jpeg in enumerate(pictures.values(), 1):
            (draft / f"{number:03d}.jpg").write_bytes(jpeg)
    return len(pictures)
