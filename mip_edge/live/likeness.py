"""Whom a tracklet may be by what the gallery answers, less those whom it cannot be."""

from __future__ import annotations

import numpy as np

from mip_edge.gallery.base import Gallery
from mip_edge.live.company import Company
from mip_edge.live.decision import Candidate, candidates_of
from mip_edge.live.outcome import IdentityOptions
from mip_edge.live.tracklet import Tracklet

CANDIDATES = 16
"""Identities that are asked of the gallery: those of another light, whose threshold is lower, may
stand behind many of this one."""
UNLIKE = -2.0
"""Surplus of an identity that is so far below its threshold that the gallery does not name it."""


class Likeness:
    """Compares tracklets with the identities of a gallery, and these with each other."""

    def __init__(self, gallery: Gallery, company: Company, options: IdentityOptions) -> None:
        self._gallery, self._company = gallery, company
        self._thresholds = options.thresholds
        # Who is less like it is new in any light, whatever else stands beside him.
        least = min(options.thresholds.similarities.values()) - options.margin
        self._least = max(least, -1.0)

    def candidates(self, tracklet: Tracklet) -> list[Candidate]:
        """Whom it may be, by all that is known: similarity, who else is there, time to travel."""
        query = tracklet.query()
        if query is None or tracklet.modality is None:
            return []
        matches = self._gallery.search(
            query[np.newaxis],
            top_k=CANDIDATES,
            min_similarity=self._least,
            except_tracklet=tracklet.name,
            except_identities=self._company.taken(tracklet),
        )[0]
        camera = tracklet.key[0]
        impossible = {
            match.identity
            for match in matches
            if match.identity != tracklet.identity
            and not self._company.whereabouts.possible(match.identity, camera, tracklet.time)
        }
        return candidates_of(matches, tracklet.modality, self._thresholds, excluded=impossible)

    def certainty(self, tracklet: Tracklet) -> float:
        """Surplus of the likeliest."""
        candidates = self.candidates(tracklet)
        return candidates[0].surplus if candidates else UNLIKE

    def together(self, one: int, other: int) -> bool:
        """Another run had tracks of both before one camera at one time: it saw that they are two.

        By what the gallery keeps of them. What this run saw itself, it knows.
        """
        times: dict[str, list[tuple[float, float]]] = {}
        for found in self._gallery.tracklets(one):
            run_camera = found.tracklet.rpartition("/")[0]
            times.setdefault(run_camera, []).append((found.first_time, found.last_time))
        return any(
            first <= found.last_time and found.first_time <= last
            for found in self._gallery.tracklets(other)
            if self._company.is_of_another_run(found.tracklet)
            for first, last in times.get(found.tracklet.rpartition("/")[0], ())
        )

    def alike(self, one: int, other: int) -> bool:
        """The nearest views of both are one person's, by the threshold of their lights."""
        (rows, lights), (columns, others) = map(self._gallery.embeddings_of, (one, other))
        least = np.array(
            [[self._thresholds.of(a, b) for b in others] for a in lights], np.float32
        ).reshape(len(lights), len(others))
        return bool(((rows @ columns.T) >= least).any())
