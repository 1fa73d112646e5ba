"""What a hand, or another process, changes in the gallery while people are in view: followed."""

from __future__ import annotations

from collections.abc import Iterable

from mip_edge.gallery.base import Gallery
from mip_edge.live.company import Company
from mip_edge.live.tracklet import Tracklet


class Corrections:
    """Compares whom tracklets are held for with what the gallery says; the gallery is right.

    Whom a hand took apart are two from then on, and it is not undone by likeness: a tracklet that
    was moved stays, and so do those whom it was put together with.
    """

    def __init__(self, gallery: Gallery, company: Company) -> None:
        self._gallery, self._company = gallery, company
        self._failures = gallery.failures

    def follow(self, tracklets: Iterable[Tracklet]) -> bool:
        """Take over whom the gallery says they are; True if that is news of any. One query."""
        named = {one.name: one for one in tracklets if one.identity is not None}
        if not named:
            return False
        told = self._gallery.identities_of(named)
        # What a full disk took back was no hand.
        by_hand = self._gallery.failures == self._failures
        self._failures = self._gallery.failures
        moved = [(named[name], who) for name, who in told.items() if who != named[name].identity]
        for tracklet, identity in moved:
            self._correct(tracklet, identity, by_hand=by_hand)
        return bool(moved)

    def _correct(self, tracklet: Tracklet, identity: int, *, by_hand: bool) -> None:
        previous = tracklet.identity
        assert previous is not None
        if not self._gallery.tracklets(previous):
            self._company.unite(previous, identity)
        elif by_hand:
            self._company.twins.take_apart(previous, identity)
            # Where it was seen last may have been this track.
            self._company.whereabouts.forget([previous])
            for one in self._company.holders(previous):
                one.not_these.add(identity)
            tracklet.not_these.add(previous)
        tracklet.not_these.discard(identity)
        tracklet.identity, tracklet.match = identity, None
        tracklet.challenger, tracklet.streak = None, 0
        tracklet.placed = tracklet.kept = by_hand
        if by_hand:
            for one in self._company.holders(identity):
                one.kept = True
