"""Who was seen with whom, and where last: what that forbids of the identities of all tracks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mip_edge.live.outcome import IdentityOptions
from mip_edge.live.tracker import TrackKey
from mip_edge.live.tracklet import EmbeddingSet, Tracklet
from mip_edge.live.travel import Whereabouts
from mip_edge.live.twins import Twins


class Company:
    """All tracks that have not ended, and what is known of identities beside each other."""

    def __init__(self, options: IdentityOptions, run: str) -> None:
        """`run` begins the name of every tracklet."""
        self._run, self._kept = run, options.kept
        self.tracklets: dict[TrackKey, Tracklet] = {}
        self.whereabouts = Whereabouts(options.travels)
        self.twins = Twins(options.patience)

    def tracklet(self, key: TrackKey) -> Tracklet:
        """That of a track, begun if need be."""
        if key not in self.tracklets:
            name = f"{self._run}/{key[0]}/{key[1]}"
            self.tracklets[key] = Tracklet(key, name, EmbeddingSet(self._kept))
        return self.tracklets[key]

    def is_of_another_run(self, name: str) -> bool:
        """Whether another live run gave that tracklet its name."""
        return name.count("/") >= 2 and not name.startswith(f"{self._run}/")

    def holders(self, identity: int | None) -> list[Tracklet]:
        """Those who are held for this identity, or for nobody yet."""
        return [one for one in self.tracklets.values() if one.identity == identity]

    def meet(self, keys: Sequence[TrackKey], time: float) -> list[Tracklet]:
        """All of these are in one frame."""
        together = [self.tracklet(key) for key in keys]
        for tracklet in together:
            tracklet.time = time
            tracklet.seen_with.update(key for key in keys if key != tracklet.key)
        return together

    def see(self, visible: Mapping[str, Sequence[int]], time: float) -> None:
        """Who was named in the frames of one step is there, and each somebody else."""
        for camera, tracks in visible.items():
            who = [self.tracklets[(camera, int(track))].identity for track in tracks]
            named = [identity for identity in who if identity is not None]
            self.twins.see_together(named)
            for identity in named:
                self.whereabouts.see(identity, camera, time)

    def taken(self, tracklet: Tracklet) -> set[int]:
        """Whom it cannot be: those it was seen with, and those that a hand took it from."""
        others = (self.tracklets[key].identity for key in tracklet.seen_with)
        return tracklet.not_these | {identity for identity in others if identity is not None}

    def apart(self, one: int, other: int) -> bool:
        """They were seen together, if only in this step, or a hand took them apart."""
        return self.twins.apart(one, other) or any(
            other in self.taken(tracklet) for tracklet in self.holders(one)
        )

    def unite(self, identity: int, into: int) -> None:
        """What is known of one holds for the other, who it is from now on."""
        self.twins.merge(identity, into)
        self.whereabouts.merge(identity, into)
        for other in self.tracklets.values():
            if identity in other.not_these:
                other.not_these.add(into)

    def leave(self, gone: Tracklet) -> None:
        """It is over; those it was seen with are not who it was, later neither."""
        for other in gone.seen_with:
            if other in self.tracklets:
                self.tracklets[other].seen_with.discard(gone.key)
                if gone.identity is not None:
                    self.tracklets[other].not_these.add(gone.identity)

    def forget(self, identities: Collection[int]) -> None:
        """Nothing is kept of these, and who is held for one of them is nobody."""
        gone = self.twins.forget(identities)
        self.whereabouts.forget(gone)
        for tracklet in self.tracklets.values():
            tracklet.not_these -= gone
            if tracklet.identity in gone:
                tracklet.name_nobody()
