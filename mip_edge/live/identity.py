"""From tracklets to global identities: who a track of one camera is, across all cameras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError
from mip_edge.gallery import Gallery, IdentityMatch, best_outside
from mip_edge.spec import Modality

TrackKey = tuple[str, int]
"""Camera and its track id."""
NOBODY_KNOWN = 0
"""Stands for "a new identity" where a challenger is counted; identities count from 1."""


@dataclass(frozen=True, slots=True)
class IdentityOptions:
    """When a tracklet is somebody, and how hard it is to change one's mind."""

    min_similarity: float
    """Cosine from which a tracklet is a known identity."""
    min_crops: int = 3
    """Embeddings that a tracklet gathers before it is matched."""
    recheck_crops: int = 5
    """Further embeddings between two looks at the same tracklet."""
    margin: float = 0.05
    """How much better another identity must be, or how far below the threshold one's own."""
    patience: int = 2
    """Looks in a row that must favour the same other identity."""

    def __post_init__(self) -> None:
        if not -1.0 <= self.min_similarity <= 1.0:
            raise OptionError(f"--min-similarity must be in [-1, 1], got {self.min_similarity}")
        for flag, value in (
            ("--min-crops", self.min_crops),
            ("recheck_crops", self.recheck_crops),
            ("patience", self.patience),
        ):
            if value < 1:
                raise OptionError(f"{flag} must be at least 1, got {value}")


@dataclass(frozen=True, slots=True)
class Sighting:
    """One embedded crop of a track."""

    key: TrackKey
    """Which track."""
    modality: Modality
    """The light of its camera."""
    time: float
    """Seconds of its source."""
    embedding: NDArray[np.float32]
    """(D,), unit length."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A tracklet was given an identity, its first or another one."""

    key: TrackKey
    """Which track."""
    identity: int
    """Who it is."""
    similarity: float | None
    """To the identity it was matched with; None if it is new in the gallery."""
    previous: int | None
    """Who it was thought to be before."""


@dataclass(slots=True)
class _Tracklet:
    key: TrackKey
    modality: Modality | None = None
    time: float = 0.0
    crops: int = 0
    total: NDArray[np.float32] | None = None
    identity: int | None = None
    similarity: float | None = None
    next_look: int = 0
    challenger: int | None = None
    streak: int = 0
    ended: bool = False
    seen_with: set[TrackKey] = field(default_factory=set)

    def has_direction(self) -> bool:
        return self.total is not None and float(np.linalg.norm(self.total)) > 1e-3

    def mean(self) -> NDArray[np.float32]:
        assert self.total is not None
        return np.asarray(self.total / np.linalg.norm(self.total), np.float32)


class Identifier:
    """Gives tracks their identities; the gallery holds what is known of each.

    Two tracks of one camera that were ever visible in one frame are two people: they never share
    an identity, not later either. A tracklet's own embeddings never speak for it.
    """

    def __init__(self, gallery: Gallery, options: IdentityOptions, *, run: str = "") -> None:
        """`run` tells this run's tracks from those of others that fill the same gallery."""
        self._gallery = gallery
        self._run = run
        self._options = options
        self._tracklets: dict[TrackKey, _Tracklet] = {}

    def step(
        self, visible: Mapping[str, Sequence[int]], sightings: Iterable[Sighting]
    ) -> list[Assignment]:
        """Take in what one step saw; gives the assignments that changed.

        `visible` lists per camera the tracks in its present frame, `sightings` those embedded.
        """
        present = [
            tracklet
            for camera, tracks in visible.items()
            for tracklet in self._meet([(camera, int(track)) for track in tracks])
        ]
        for sighting in sightings:
            self._gather(sighting)
        # A track that came back from behind something may find its identity taken by a newer one.
        changed = [
            self._assign(tracklet)
            for tracklet in sorted(present, key=lambda t: (t.crops, t.key))
            if tracklet.identity is not None and tracklet.identity in self._taken(tracklet)
        ]
        ripe = [
            tracklet
            for tracklet in present
            if tracklet.identity is None
            and tracklet.crops >= self._options.min_crops
            and tracklet.has_direction()
        ]
        # The surest first: whoever resembles most takes the identity, the other looks further.
        for tracklet in sorted(ripe, key=self._certainty, reverse=True):
            changed.append(self._assign(tracklet))
        for tracklet in present:
            if tracklet.identity is not None and tracklet.crops >= tracklet.next_look:
                second_thought = self._look_again(tracklet)
                if second_thought is not None:
                    changed.append(second_thought)
        return changed

    def end(self, key: TrackKey) -> None:
        """The track will not come again; what it was seen with is kept while that matters."""
        if key in self._tracklets:
            self._tracklets[key].ended = True
        remembered = {
            other
            for tracklet in self._tracklets.values()
            if not tracklet.ended
            for other in tracklet.seen_with
        }
        self._tracklets = {
            key: tracklet
            for key, tracklet in self._tracklets.items()
            if not tracklet.ended or key in remembered
        }

    def known(self, key: TrackKey) -> tuple[int | None, float | None]:
        """Identity of a track and the similarity it was matched with; None where there is none."""
        tracklet = self._tracklets.get(key)
        return (tracklet.identity, tracklet.similarity) if tracklet else (None, None)

    def crops(self, key: TrackKey) -> int:
        """Embeddings gathered for a track."""
        return self._tracklets[key].crops if key in self._tracklets else 0

    def _meet(self, keys: list[TrackKey]) -> list[_Tracklet]:
        together = [self._tracklets.setdefault(key, _Tracklet(key)) for key in keys]
        for tracklet in together:
            tracklet.seen_with.update(key for key in keys if key != tracklet.key)
        return together

    def _gather(self, sighting: Sighting) -> None:
        tracklet = self._tracklets.setdefault(sighting.key, _Tracklet(sighting.key))
        tracklet.modality, tracklet.time = sighting.modality, sighting.time
        tracklet.crops += 1
        if tracklet.total is None:
            tracklet.total = np.zeros_like(sighting.embedding)
        tracklet.total = tracklet.total + sighting.embedding

    def _name(self, tracklet: _Tracklet) -> str:
        return f"{self._run}/{tracklet.key[0]}/{tracklet.key[1]}"

    def _taken(self, tracklet: _Tracklet) -> set[int]:
        others = (self._tracklets.get(key) for key in tracklet.seen_with)
        return {o.identity for o in others if o is not None and o.identity is not None}

    def _certainty(self, tracklet: _Tracklet) -> float:
        best = best_outside(self._search(tracklet, -1.0), self._taken(tracklet))
        return best.similarity if best else -1.0

    def _search(self, tracklet: _Tracklet, min_similarity: float) -> list[IdentityMatch]:
        return self._gallery.search(
            tracklet.mean()[np.newaxis],
            # One's own identity and all that are taken may stand before the one looked for.
            top_k=len(tracklet.seen_with) + 2,
            min_similarity=min_similarity,
            except_tracklet=self._name(tracklet),
        )[0]

    def _assign(self, tracklet: _Tracklet) -> Assignment:
        matches = self._search(tracklet, self._options.min_similarity)
        best = best_outside(matches, self._taken(tracklet))
        return self._become(
            tracklet, best.identity if best else None, best.similarity if best else None
        )

    def _become(
        self, tracklet: _Tracklet, identity: int | None, similarity: float | None
    ) -> Assignment:
        previous, tracklet.identity = tracklet.identity, self._remember(tracklet, identity)
        if previous is not None:
            self._gallery.reassign(self._name(tracklet), tracklet.identity)
        tracklet.similarity = similarity
        tracklet.challenger, tracklet.streak = None, 0
        return Assignment(tracklet.key, tracklet.identity, similarity, previous)

    def _remember(self, tracklet: _Tracklet, identity: int | None) -> int:
        assert tracklet.modality is not None
        tracklet.next_look = tracklet.crops + self._options.recheck_crops
        return self._gallery.add(
            tracklet.mean(),
            identity=identity,
            camera=tracklet.key[0],
            modality=tracklet.modality,
            time=tracklet.time,
            tracklet=self._name(tracklet),
        )

    def _look_again(self, tracklet: _Tracklet) -> Assignment | None:
        """Change one's mind only for good: better by a margin, several looks in a row."""
        tracklet.next_look = tracklet.crops + self._options.recheck_crops
        if not tracklet.has_direction():
            return None
        matches = self._search(tracklet, -1.0)
        own = next((m.similarity for m in matches if m.identity == tracklet.identity), None)
        taken = self._taken(tracklet) | {tracklet.identity or NOBODY_KNOWN}
        best = best_outside(matches, taken)
        challenger = self._challenger(own, best)
        tracklet.streak = tracklet.streak + 1 if challenger == tracklet.challenger else 1
        tracklet.challenger = challenger
        if challenger is None:
            tracklet.similarity = own if own is not None else tracklet.similarity
            self._remember(tracklet, tracklet.identity)
            return None
        if tracklet.streak < self._options.patience:
            return None
        if challenger == NOBODY_KNOWN or best is None:
            return self._become(tracklet, None, None)
        return self._become(tracklet, best.identity, best.similarity)

    def _challenger(self, own: float | None, best: IdentityMatch | None) -> int | None:
        """Who else the tracklet should be; `own` is None if only itself stands for its identity."""
        low, margin = self._options.min_similarity, self._options.margin
        rival = best.similarity if best is not None else -1.0
        if best is not None and rival >= max(low, (low if own is None else own) + margin):
            return best.identity
        if own is not None and own < low - margin:
            return NOBODY_KNOWN
        return None
