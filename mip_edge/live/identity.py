"""From tracklets to global identities: who a track of one camera is, across all cameras."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mip_edge.gallery.base import Gallery
from mip_edge.live.decision import Candidate, Decision, Verdict, candidates_of, decide
from mip_edge.live.outcome import (
    Assignment,
    Doubt,
    IdentityOptions,
    Known,
    Merge,
    Outcome,
    Sighting,
)
from mip_edge.live.tracker import TrackKey
from mip_edge.live.tracklet import EmbeddingSet
from mip_edge.live.travel import Whereabouts
from mip_edge.live.twins import Twins
from mip_edge.spec import Crop, Modality

CANDIDATES = 16
"""Identities that are asked of the gallery: those of another light, whose threshold is lower, may
stand behind many of this one."""
MOST_CANDIDATES = 100
"""Of them at most, with those that are taken; only a crowd would want more."""
UNLIKE = -2.0
"""Surplus of an identity that is so far below its threshold that the gallery does not name it."""


@dataclass(slots=True)
class _Tracklet:
    key: TrackKey
    views: EmbeddingSet
    modality: Modality | None = None
    time: float = 0.0
    identity: int | None = None
    match: Candidate | None = None
    next_look: int = 0
    remembered: int = 0
    doubt: tuple[str, int] | None = None
    challenger: tuple[Verdict, int] | None = None
    streak: int = 0
    thumbnail: Crop | None = None
    thumbnail_quality: float = 0.0
    seen_with: set[TrackKey] = field(default_factory=set)
    not_these: set[int] = field(default_factory=set)

    def query(self) -> NDArray[np.float32] | None:
        return None if self.modality is None else self.views.query(self.modality)


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
        # Who is less like it is new in any light, whatever else stands beside him.
        least = min(options.thresholds.similarities.values()) - options.margin
        self._least = max(least, -1.0)
        self._tracklets: dict[TrackKey, _Tracklet] = {}
        self._whereabouts = Whereabouts(options.travels)
        self._twins = Twins(options.patience)
        self._outcomes: list[Outcome] = []
        self.merges = 0
        """Identities that turned out to be another one."""

    def step(
        self, visible: Mapping[str, Sequence[int]], sightings: Iterable[Sighting], time: float
    ) -> list[Outcome]:
        """Take in what one step saw at `time`; gives what changed.

        `visible` lists per camera the tracks in its present frame, `sightings` those embedded.
        """
        self._outcomes = []
        present: list[_Tracklet] = []
        for camera, tracks in visible.items():
            present += self._meet([(camera, int(track)) for track in tracks], time)
        for sighting in sightings:
            self._gather(sighting)
        # A track that came back from behind something may find its identity taken by a newer one.
        for tracklet in sorted(present, key=lambda t: (t.views.count, t.key)):
            if tracklet.identity is not None and tracklet.identity in self._taken(tracklet):
                self._settle(tracklet, final=True)
        ripe = [
            tracklet
            for tracklet in present
            if tracklet.identity is None
            and tracklet.views.count >= max(1, tracklet.next_look)
            and tracklet.query() is not None
        ]
        if len(ripe) > 1:
            # The surest first: whoever resembles most takes the identity, the other looks further.
            ripe.sort(key=self._certainty, reverse=True)
        for tracklet in ripe:
            self._settle(tracklet, final=tracklet.views.count >= self._options.decide_crops)
        for tracklet in present:
            if tracklet.identity is not None and tracklet.views.count >= tracklet.next_look:
                self._look_again(tracklet)
        for camera, tracks in visible.items():
            who = [self._tracklets[(camera, int(track))].identity for track in tracks]
            named = [identity for identity in who if identity is not None]
            self._twins.see_together(named)
            for identity in named:
                self._whereabouts.see(identity, camera, time)
        return self._outcomes

    def end(self, key: TrackKey) -> None:
        """The track will not come again; only who it was is kept, by those it was seen with."""
        gone = self._tracklets.pop(key, None)
        if gone is None:
            return
        self._remember_last(gone)
        for other in gone.seen_with:
            if other in self._tracklets:
                self._tracklets[other].seen_with.discard(key)
                if gone.identity is not None:
                    self._tracklets[other].not_these.add(gone.identity)

    def forget(self, identities: Collection[int]) -> None:
        """These went from the gallery: nothing of them is kept here either."""
        if not identities:
            return
        gone = self._twins.forget(identities)
        self._whereabouts.forget(gone)
        for tracklet in self._tracklets.values():
            tracklet.not_these -= gone
            if tracklet.identity in gone:
                tracklet.identity, tracklet.match = None, None
                tracklet.challenger, tracklet.streak = None, 0

    def known(self, key: TrackKey) -> Known:
        """What is known of a track."""
        tracklet = self._tracklets.get(key)
        if tracklet is None:
            return Known()
        return Known(
            tracklet.identity, tracklet.match, tracklet.doubt is not None, tracklet.views.count
        )

    def unsure(self) -> set[TrackKey]:
        """Tracks that nobody is certain of yet, for whom another crop would help most."""
        return {tracklet.key for tracklet in self._tracklets.values() if tracklet.identity is None}

    def _tracklet(self, key: TrackKey) -> _Tracklet:
        if key not in self._tracklets:
            self._tracklets[key] = _Tracklet(key, EmbeddingSet(self._options.kept))
        return self._tracklets[key]

    def _meet(self, keys: list[TrackKey], time: float) -> list[_Tracklet]:
        together = [self._tracklet(key) for key in keys]
        for tracklet in together:
            tracklet.time = time
            tracklet.seen_with.update(key for key in keys if key != tracklet.key)
        return together

    def _gather(self, sighting: Sighting) -> None:
        tracklet = self._tracklet(sighting.key)
        tracklet.modality, tracklet.time = sighting.modality, sighting.time
        tracklet.views.add(sighting.embedding, sighting.quality, sighting.modality, sighting.time)
        if sighting.thumbnail is not None and sighting.quality > tracklet.thumbnail_quality:
            tracklet.thumbnail = sighting.thumbnail
            tracklet.thumbnail_quality = sighting.quality

    def _name(self, tracklet: _Tracklet) -> str:
        return f"{self._run}/{tracklet.key[0]}/{tracklet.key[1]}"

    def _taken(self, tracklet: _Tracklet) -> set[int]:
        others = (self._tracklets[key].identity for key in tracklet.seen_with)
        return tracklet.not_these | {identity for identity in others if identity is not None}

    def _certainty(self, tracklet: _Tracklet) -> float:
        candidates = self._candidates(tracklet)
        return candidates[0].surplus if candidates else -2.0

    def _candidates(self, tracklet: _Tracklet) -> list[Candidate]:
        """Whom it may be, by all that is known: similarity, who else is there, time to travel."""
        query = tracklet.query()
        if query is None or tracklet.modality is None:
            return []
        taken = self._taken(tracklet)
        matches = self._gallery.search(
            query[np.newaxis],
            # One's own identity and all that are taken may stand before the one looked for.
            top_k=min(len(taken) + CANDIDATES, MOST_CANDIDATES),
            min_similarity=self._least,
            except_tracklet=self._name(tracklet),
        )[0]
        camera = tracklet.key[0]
        impossible = {
            match.identity
            for match in matches
            if match.identity != tracklet.identity
            and not self._whereabouts.possible(match.identity, camera, tracklet.time)
        }
        return candidates_of(
            matches,
            tracklet.modality,
            self._options.thresholds,
            excluded=taken | impossible,
        )

    def _settle(self, tracklet: _Tracklet, *, final: bool) -> None:
        """Give it an identity, or tell that it has none yet."""
        if tracklet.query() is None:
            # Its embeddings cancel each other: nobody, until one comes that speaks.
            tracklet.identity, tracklet.match = None, None
            return
        missing = max(self._options.min_crops - tracklet.views.count, 0)
        candidates, decision = self._decide(tracklet, final, missing)
        if decision.verdict is Verdict.UNCERTAIN and self._merge_twins(tracklet, candidates):
            candidates, decision = self._decide(tracklet, final, missing)
        if decision.verdict is Verdict.UNCERTAIN:
            tracklet.next_look = tracklet.views.count + 1
            if not missing:
                self._doubt(tracklet, decision, candidates)
            return
        matched = decision.best if decision.verdict is Verdict.MATCHED else None
        self._become(tracklet, matched, decision.lead)

    def _decide(
        self, tracklet: _Tracklet, final: bool, missing: int
    ) -> tuple[list[Candidate], Decision]:
        candidates = self._candidates(tracklet)
        options = self._options
        more = missing * options.early
        return candidates, decide(candidates, margin=options.margin, final=final, more=more)

    def _doubt(
        self, tracklet: _Tracklet, decision: Decision, candidates: Sequence[Candidate]
    ) -> None:
        """Told once, and again when it is another doubt."""
        assert decision.best is not None
        doubt = (decision.reason, decision.best.identity)
        if doubt != tracklet.doubt:
            tracklet.doubt = doubt
            self._outcomes.append(Doubt(tracklet.key, tuple(candidates[:3]), decision.reason))

    def _become(self, tracklet: _Tracklet, match: Candidate | None, lead: float | None) -> None:
        previous = tracklet.identity
        tracklet.match, tracklet.doubt = match, None
        tracklet.challenger, tracklet.streak = None, 0
        if (
            previous is not None
            and match is not None
            and self._stands_for(tracklet, previous)
            and not self._apart(previous, match.identity)
        ):
            self._merge(previous, match.identity, match.similarity)
            self._remember(tracklet)
            return
        tracklet.identity = match.identity if match is not None else None
        self._remember(tracklet)
        assert tracklet.identity is not None
        # Also those who are not in this frame, or gone: no merge may make them one.
        self._twins.part(tracklet.identity, self._taken(tracklet))
        # At once: the next tracklet of this very step may be at another camera.
        self._whereabouts.see(tracklet.identity, tracklet.key[0], tracklet.time)
        if previous is not None:
            self._gallery.reassign(self._name(tracklet), tracklet.identity)
        self._outcomes.append(Assignment(tracklet.key, tracklet.identity, match, lead, previous))

    def _stands_for(self, tracklet: _Tracklet, identity: int) -> bool:
        """Nothing else is known of this identity but what this tracklet brought."""
        others = (one for one in self._tracklets.values() if one is not tracklet)
        known = [one.tracklet for one in self._gallery.tracklets(identity)]
        return known == [self._name(tracklet)] and all(o.identity != identity for o in others)

    def _remember(self, tracklet: _Tracklet) -> None:
        query = tracklet.query()
        assert query is not None
        assert tracklet.modality is not None
        tracklet.next_look = tracklet.views.count + self._options.recheck_crops
        tracklet.remembered = tracklet.views.count
        tracklet.identity = self._gallery.add(
            query,
            identity=tracklet.identity,
            camera=tracklet.key[0],
            modality=tracklet.modality,
            time=tracklet.time,
            tracklet=self._name(tracklet),
            quality=tracklet.views.best_quality(tracklet.modality),
            thumbnail=tracklet.thumbnail,
        )

    def _remember_last(self, gone: _Tracklet) -> None:
        """What it showed since the last look, unless it was about to be somebody else by then."""
        if (
            gone.identity is not None
            and gone.challenger is None
            and gone.views.count > gone.remembered
            and gone.query() is not None
            and self._gallery.tracklets(gone.identity)
        ):
            self._remember(gone)

    def _look_again(self, tracklet: _Tracklet) -> None:
        """Change one's mind only for good: better by a margin, several looks in a row."""
        tracklet.next_look = tracklet.views.count + self._options.recheck_crops
        assert tracklet.identity is not None
        if tracklet.query() is None:
            return
        known = {one.tracklet for one in self._gallery.tracklets(tracklet.identity)}
        if not known:
            # Somebody else merged or forgot this identity meanwhile: who it is is asked anew.
            gone = tracklet.identity
            tracklet.identity = None
            self.forget([gone])
            self._settle(tracklet, final=True)
            return
        candidates = self._candidates(tracklet)
        if self._merge_twins(tracklet, candidates):
            candidates = self._candidates(tracklet)
        own = next((c for c in candidates if c.identity == tracklet.identity), None)
        rival = next((c for c in candidates if c.identity != tracklet.identity), None)
        held = None if own is None else own.surplus
        if held is None and known - {self._name(tracklet)}:
            held = UNLIKE
        challenger = self._challenger(held, rival)
        tracklet.streak = tracklet.streak + 1 if challenger == tracklet.challenger else 1
        tracklet.challenger = challenger
        if challenger is None:
            if own is not None and tracklet.match is not None:
                tracklet.match = own
            self._remember(tracklet)
        elif tracklet.streak >= self._options.patience:
            self._become(tracklet, rival if challenger[0] is Verdict.MATCHED else None, None)

    def _challenger(
        self, held: float | None, rival: Candidate | None
    ) -> tuple[Verdict, int] | None:
        """Who else it should be; `held` is its own surplus, None if only itself stands for it."""
        margin = self._options.margin
        if rival is not None and rival.surplus >= max(0.0, (held or 0.0) + margin):
            return (Verdict.MATCHED, rival.identity)
        if held is not None and held < -margin:
            return (Verdict.NEW, 0)
        return None

    def _merge_twins(self, tracklet: _Tracklet, candidates: Sequence[Candidate]) -> bool:
        """Two identities that one tracklet resembles alike, look after look, are one person."""
        likely = [candidate for candidate in candidates if candidate.surplus >= 0]
        if len(likely) < 2 or likely[0].surplus - likely[1].surplus >= self._options.margin:
            return False
        (older, kept), (newer, lost) = sorted((one.identity, one) for one in likely[:2])
        if self._apart(older, newer) or not self._alike(older, newer):
            self._twins.differ(older, newer)
            return False
        if not self._twins.agree(older, newer):
            return False
        self._merge(newer, older, min(kept.similarity, lost.similarity))
        return True

    def _apart(self, one: int, other: int) -> bool:
        """They were seen together, if only in this step."""
        return self._twins.apart(one, other) or any(
            other in self._taken(tracklet)
            for tracklet in self._tracklets.values()
            if tracklet.identity == one
        )

    def _alike(self, one: int, other: int) -> bool:
        """The nearest views of both are one person's, by the threshold of their lights."""
        (rows, lights), (columns, others) = map(self._gallery.embeddings_of, (one, other))
        least = np.array(
            [[self._options.thresholds.of(a, b) for b in others] for a in lights], np.float32
        ).reshape(len(lights), len(others))
        return bool(((rows @ columns.T) >= least).any())

    def _merge(self, identity: int, into: int, similarity: float) -> None:
        number = self._gallery.merge(identity, into)
        self.merges += 1
        self._twins.merge(identity, into)
        self._whereabouts.merge(identity, into)
        for other in self._tracklets.values():
            if other.identity == identity:
                other.identity = into
            if identity in other.not_these:
                other.not_these.add(into)
        self._outcomes.append(Merge(number, identity, into, similarity))
