"""From tracklets to global identities: who a track of one camera is, across all cameras."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from mip_edge.errors import GalleryError
from mip_edge.gallery.base import Gallery
from mip_edge.live.company import Company
from mip_edge.live.correction import Corrections
from mip_edge.live.decision import Candidate, Decision, Verdict, decide
from mip_edge.live.likeness import UNLIKE, Likeness
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
from mip_edge.live.tracklet import Tracklet


class Identifier:
    """Gives tracks their identities; the gallery holds what is known of each.

    Two tracks of one camera that were ever visible in one frame are two people: they never share
    an identity, not later either. A tracklet's own embeddings never speak for it.

    What a hand changes in the gallery meanwhile is followed, and holds: a tracklet stays with whom
    a hand named, and no two are merged that a hand took apart. Where it gives one number to two
    who are in one frame, whom it named keeps the number.
    """

    def __init__(
        self,
        gallery: Gallery,
        options: IdentityOptions,
        *,
        run: str = "",
        dated: Callable[[float], float] = float,
    ) -> None:
        """`run` tells this run's tracks from those of others that fill the same gallery.

        `dated` gives a time of this run as the gallery is to keep it.
        """
        self._dated = dated
        self._gallery = gallery
        self._options = options
        self._company = Company(options, run)
        self._likeness = Likeness(gallery, self._company, options)
        self._corrections = Corrections(gallery, self._company)
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
        present: list[Tracklet] = []
        for camera, tracks in visible.items():
            present += self._company.meet([(camera, int(track)) for track in tracks], time)
        embedded = list(sightings)
        for sighting in embedded:
            self._company.tracklet(sighting.key).gather(sighting)
        # A track that came back from behind something may find its identity taken by a newer one.
        contested = any(self._is_contested(one) for one in present)
        # In most steps there is nothing to decide, and nothing is asked of the gallery.
        if embedded or contested or any(self._is_due(one) for one in present):
            # Also those out of sight: whom they are nobody beside them can be.
            contested |= self._corrections.follow(self._company.tracklets.values())
        # Each is asked again: where one gives way, the other may stay.
        for tracklet in sorted(present, key=lambda t: (t.views.count, t.key)) if contested else ():
            if self._is_contested(tracklet):
                self._settle(tracklet, final=True)
        ripe = [
            tracklet
            for tracklet in present
            if tracklet.identity is None and self._is_due(tracklet) and tracklet.query() is not None
        ]
        if len(ripe) > 1:
            # The surest first: whoever resembles most takes the identity, the other looks further.
            ripe.sort(key=self._likeness.certainty, reverse=True)
        for tracklet in ripe:
            self._settle(tracklet, final=tracklet.views.count >= self._options.decide_crops)
        for tracklet in present:
            if tracklet.identity is not None and self._is_due(tracklet):
                self._look_again(tracklet)
        for tracklet in present:
            self._tell_correction(tracklet)
        self._company.see(visible, time)
        return self.take_outcomes()

    def take_outcomes(self) -> list[Outcome]:
        """What a step that the gallery broke off had found until then; nothing is given twice."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def end(self, key: TrackKey, *, remember: bool = True) -> None:
        """The track will not come again; only who it was is kept, by those it was seen with.

        Without `remember` the gallery is not asked, and does not get what it showed last.
        """
        gone = self._company.tracklets.pop(key, None)
        if gone is None:
            return
        try:
            if remember:
                self._remember_last(gone)
        finally:
            self._company.leave(gone)

    def forget(self, identities: Collection[int]) -> None:
        """These went from the gallery: nothing of them is kept here either."""
        if identities:
            self._company.forget(identities)

    def known(self, key: TrackKey) -> Known:
        """What is known of a track."""
        tracklet = self._company.tracklets.get(key)
        if tracklet is None:
            return Known()
        return Known(
            tracklet.identity, tracklet.match, tracklet.doubt is not None, tracklet.views.count
        )

    def unsure(self) -> set[TrackKey]:
        """Tracks that nobody is certain of yet, for whom another crop would help most."""
        return {tracklet.key for tracklet in self._company.holders(None)}

    def _is_due(self, tracklet: Tracklet) -> bool:
        return tracklet.views.count >= max(1, tracklet.next_look)

    def _is_contested(self, tracklet: Tracklet) -> bool:
        """Somebody whom it was seen with is, or was, whom it is held for."""
        taken = self._company.taken(tracklet)
        return tracklet.identity in taken and not tracklet.placed

    def _tell_correction(self, tracklet: Tracklet) -> None:
        """A track that is in no frame has no box to be told with: it waits until it is seen."""
        if tracklet.identity in (None, tracklet.told):
            return
        candidates = self._likeness.candidates(tracklet)
        tracklet.match = next((c for c in candidates if c.identity == tracklet.identity), None)
        self._append(tracklet, None)

    def _settle(self, tracklet: Tracklet, *, final: bool) -> None:
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
        self, tracklet: Tracklet, final: bool, missing: int
    ) -> tuple[list[Candidate], Decision]:
        candidates = self._likeness.candidates(tracklet)
        options = self._options
        more = missing * options.early
        return candidates, decide(candidates, margin=options.margin, final=final, more=more)

    def _doubt(
        self, tracklet: Tracklet, decision: Decision, candidates: Sequence[Candidate]
    ) -> None:
        """Told once, and again when it is another doubt."""
        assert decision.best is not None
        doubt = (decision.reason, decision.best.identity)
        if doubt != tracklet.doubt:
            tracklet.doubt = doubt
            self._outcomes.append(Doubt(tracklet.key, tuple(candidates[:3]), decision.reason))

    def _become(self, tracklet: Tracklet, match: Candidate | None, lead: float | None) -> None:
        try:
            self._gallery.hold()
        except GalleryError:
            self._recognise(tracklet, match, lead)
            raise
        if self._corrections.follow([tracklet]) or (match and not self._is_there(match.identity)):
            return  # a hand was quicker
        previous = tracklet.identity
        tracklet.match, tracklet.doubt, tracklet.kept = match, None, False
        tracklet.challenger, tracklet.streak = None, 0
        if (
            previous is not None
            and match is not None
            and self._stands_for(tracklet, previous)
            and not self._are_two(previous, match.identity)
        ):
            self._merge(previous, match.identity, match.similarity)
            self._remember(tracklet, match.identity)
            return
        try:
            self._remember(tracklet, match.identity if match is not None else None)
        except GalleryError:
            self._recognise(tracklet, match, lead)
            raise
        # Told before the gallery is asked again: it holds that by now, and may fail at the rest.
        self._tell(tracklet, lead)
        if previous is not None and tracklet.identity is not None:
            self._gallery.reassign(tracklet.name, tracklet.identity)

    def _recognise(self, tracklet: Tracklet, match: Candidate | None, lead: float | None) -> None:
        """Who can be read is recognised, though nothing can be written."""
        if tracklet.identity is None and match is not None:
            tracklet.identity, tracklet.match, tracklet.doubt = match.identity, match, None
            self._tell(tracklet, lead)

    def _tell(self, tracklet: Tracklet, lead: float | None) -> None:
        """It has an identity now, and nobody whom it was seen with has that one."""
        assert tracklet.identity is not None
        # Also those who are not in this frame, or gone: no merge may make them one.
        self._company.twins.part(tracklet.identity, self._company.taken(tracklet))
        # At once: the next tracklet of this very step may be at another camera.
        self._company.whereabouts.see(tracklet.identity, tracklet.key[0], tracklet.time)
        self._append(tracklet, lead)

    def _append(self, tracklet: Tracklet, lead: float | None) -> None:
        assert tracklet.identity is not None
        previous = None if tracklet.told == tracklet.identity else tracklet.told
        tracklet.told = tracklet.identity
        self._outcomes.append(
            Assignment(tracklet.key, tracklet.identity, tracklet.match, lead, previous)
        )

    def _is_there(self, identity: int) -> bool:
        return bool(self._gallery.tracklets(identity))

    def _stands_for(self, tracklet: Tracklet, identity: int) -> bool:
        """Nothing else is known of this identity but what this tracklet brought."""
        others = (one for one in self._company.tracklets.values() if one is not tracklet)
        known = [one.tracklet for one in self._gallery.tracklets(identity)]
        return known == [tracklet.name] and all(o.identity != identity for o in others)

    def _remember(self, tracklet: Tracklet, identity: int | None) -> None:
        query = tracklet.query()
        assert query is not None
        assert tracklet.modality is not None
        tracklet.next_look = tracklet.views.count + self._options.recheck_crops
        tracklet.identity = self._gallery.add(
            query,
            identity=identity,
            camera=tracklet.key[0],
            modality=tracklet.modality,
            time=self._dated(tracklet.time),
            tracklet=tracklet.name,
            quality=tracklet.views.best_quality(tracklet.modality),
            thumbnail=tracklet.thumbnail,
        )
        tracklet.remembered = tracklet.views.count

    def _remember_last(self, gone: Tracklet) -> None:
        """What it showed since the last look, unless it was about to be somebody else by then."""
        if gone.views.count > gone.remembered and gone.query() is not None:
            self._gallery.hold()
        self._corrections.follow([gone])
        if (
            gone.identity is not None
            and gone.challenger is None
            and gone.views.count > gone.remembered
            and gone.query() is not None
            and self._is_there(gone.identity)
        ):
            self._remember(gone, gone.identity)

    def _look_again(self, tracklet: Tracklet) -> None:
        """Change one's mind only for good: better by a margin, several looks in a row."""
        tracklet.next_look = tracklet.views.count + self._options.recheck_crops
        assert tracklet.identity is not None
        if tracklet.query() is None:
            return
        known = {one.tracklet for one in self._gallery.tracklets(tracklet.identity)}
        if not known:
            # Somebody else merged or forgot this identity meanwhile: who it is is asked anew.
            self.forget([tracklet.identity])
            self._settle(tracklet, final=True)
            return
        candidates = self._likeness.candidates(tracklet)
        if self._merge_twins(tracklet, candidates):
            candidates = self._likeness.candidates(tracklet)
        own = next((c for c in candidates if c.identity == tracklet.identity), None)
        rival = next((c for c in candidates if c.identity != tracklet.identity), None)
        held = None if own is None else own.surplus
        if held is None and known - {tracklet.name}:
            held = UNLIKE
        challenger = self._challenger(held, rival)
        tracklet.streak = tracklet.streak + 1 if challenger == tracklet.challenger else 1
        tracklet.challenger = challenger
        if challenger is None:
            if own is not None and tracklet.match is not None:
                tracklet.match = own
            # Again: what was asked of the gallery took its time.
            self._gallery.hold()
            if not self._corrections.follow([tracklet]) and self._is_there(tracklet.identity):
                self._remember(tracklet, tracklet.identity)
        elif tracklet.streak >= self._options.patience and not tracklet.kept:
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

    def _merge_twins(self, tracklet: Tracklet, candidates: Sequence[Candidate]) -> bool:
        """Two identities that one tracklet resembles alike, look after look, are one person."""
        likely = [candidate for candidate in candidates if candidate.surplus >= 0]
        if len(likely) < 2 or likely[0].surplus - likely[1].surplus >= self._options.margin:
            return False
        (older, kept), (newer, lost) = sorted((one.identity, one) for one in likely[:2])
        if self._company.apart(older, newer) or not self._likeness.alike(older, newer):
            self._company.twins.differ(older, newer)
            return False
        if not self._company.twins.agree(older, newer):
            return False
        self._gallery.hold()
        if not (self._is_there(older) and self._is_there(newer)):
            return False  # another was quicker
        if self._are_two(older, newer):
            return False
        self._merge(newer, older, min(kept.similarity, lost.similarity))
        return True

    def _are_two(self, one: int, other: int) -> bool:
        """They were seen together, by this run or another, or a hand once took them apart."""
        if self._company.apart(one, other):
            return True
        two = other in self._gallery.taken_apart(one) or self._likeness.together(one, other)
        if two:
            self._company.twins.part(one, [other])
        return two

    def _merge(self, identity: int, into: int, similarity: float) -> None:
        number = self._gallery.merge(identity, into)
        self.merges += 1
        self._company.unite(identity, into)
        for one in self._company.tracklets.values():
            one.identity = into if one.identity == identity else one.identity
            one.told = into if one.told == identity else one.told
        self._outcomes.append(Merge(number, identity, into, similarity))
