"""Which crops are embedded in this tick, by need; the others wait for their turn."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum

from mip_edge.errors import OptionError
from mip_edge.live.tracker import TrackKey
from mip_edge.spec import Modality

CLOCK_SLACK = 1e-6
"""Seconds that two sums of frame times may differ by."""


@dataclass(frozen=True, slots=True)
class NeedOptions:
    """When a crop is worth an embedding."""

    max_age: float = 2.0
    """Seconds after which a track's last embedding is old."""
    better: float = 1.25
    """By what factor a crop must beat the best that is held to be embedded at once."""
    min_quality: float = 0.35
    """A crop of less is poor."""
    patience: int = 10
    """After so many sightings without one good crop, a poor one is taken."""
    per_track_gap: float = 0.2
    """Seconds at least between two embeddings of one track in one light."""
    batch: int = 16
    """Crops of one light that are embedded in one tick at most."""
    waits: float = 0.5
    """Seconds of waiting that raise a crop's need by one level, so that nobody starves."""

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--embed-every", self.max_age, 0.0),
            ("better", self.better, 1.0),
            ("min_quality", self.min_quality, 0.0),
            ("patience", self.patience, 1),
            ("per_track_gap", self.per_track_gap, 0.0),
            ("--embed-batch", self.batch, 1),
        ):
            # Not the other way round: no number at all must be refused too.
            if not value >= least:
                raise OptionError(f"{flag} must be at least {least}, got {value}")
        if not self.waits > 0:
            raise OptionError(f"waits must be above 0 seconds, got {self.waits}")


class Need(IntEnum):
    """Why a crop is wanted; what stands first matters most."""

    NEW = 0
    """Nothing of its track is embedded yet."""
    UNSURE = 1
    """Who its track is, is not settled."""
    SWITCHED = 2
    """Nothing of its track is embedded in this light: its camera has just switched."""
    OLD = 3
    """What is embedded of its track is old."""
    BETTER = 4
    """It is clearly better than what is embedded of its track."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One sighting of a track that could be embedded."""

    key: TrackKey
    """Whose."""
    modality: Modality
    """The light it is seen in."""
    row: int
    """Of the tracks in its camera's frame; only carried along."""
    quality: float
    """In [0, 1]; 0 is unusable."""
    time: float
    """Seconds of its source."""


@dataclass(slots=True)
class NeedCounts:
    """Crops of one camera, or of all."""

    asked: int = 0
    """Usable sightings: what embedding all of them would have embedded."""
    done: int = 0
    """Crops that were embedded."""
    waiting: int = 0
    """Crops that were wanted in the last tick and did not fit into its batch."""

    @property
    def saved(self) -> int:
        """Usable sightings that were not embedded."""
        return self.asked - self.done


@dataclass(slots=True)
class _Held:
    time: float
    quality: float


@dataclass(slots=True)
class _Known:
    """What the planner keeps of one track."""

    now: float
    """Its source's time when it was last seen."""
    held: dict[Modality, _Held] = field(default_factory=dict)
    """Time of the last embedding, and the best quality, in each light."""
    poor: int = 0
    """Sightings in a row without a good crop."""
    wanted: float | None = None
    """Since when it waits."""

    def at(self, time: float) -> None:
        """Come to `time`. If the source's clock jumped back, what is old stays as old as it is."""
        jump = min(time - self.now, 0.0)
        self.now = time
        for held in self.held.values():
            held.time += jump
        if self.wanted is not None:
            self.wanted += jump


class NeedPlanner:
    """Chooses what is embedded; deterministic, and the only time it knows is the sources'."""

    def __init__(self, options: NeedOptions) -> None:
        self._options = options
        self._known: dict[TrackKey, _Known] = {}
        self._counts: dict[str, NeedCounts] = {}

    def plan(
        self, offers: Sequence[Offer], *, unsure: Collection[TrackKey] = frozenset()
    ) -> list[Offer]:
        """Those to embed in this tick, the most needed first; at most `batch` of each light.

        `unsure` are the tracks whose identity is not settled. Call `done` with those that were
        really embedded; until then they stay wanted.
        """
        for camera in {offer.key[0] for offer in offers}:
            self._counts.setdefault(camera, NeedCounts()).waiting = 0
        wanted = []
        for offer in _best_of_each(offers):
            known = self._known.setdefault(offer.key, _Known(offer.time))
            known.at(offer.time)
            need = self._need(offer, known, offer.key in unsure)
            if need is None:
                known.wanted = None
                continue
            if known.wanted is None:
                known.wanted = offer.time
            waited = offer.time - known.wanted
            level = need - waited // self._options.waits
            wanted.append((level, -offer.quality, -waited, offer.key, offer))
        for offer in offers:
            self._counts[offer.key[0]].asked += offer.quality > 0
        # A key stands in it once, so that offers themselves are never compared.
        return self._bounded([offer for *_, offer in sorted(wanted)])

    def done(self, chosen: Sequence[Offer]) -> None:
        """These crops were embedded."""
        for offer in chosen:
            self._counts.setdefault(offer.key[0], NeedCounts()).done += 1
            known = self._known.get(offer.key)
            if known is None:
                continue
            known.wanted = None
            held = known.held.setdefault(offer.modality, _Held(offer.time, offer.quality))
            held.time = offer.time
            held.quality = max(held.quality, offer.quality)

    def end(self, key: TrackKey) -> None:
        """The track will not come again; nothing of it is kept."""
        self._known.pop(key, None)

    @property
    def tracks(self) -> int:
        """Tracks that something is kept of."""
        return len(self._known)

    @property
    def counts(self) -> NeedCounts:
        """All cameras together."""
        total = NeedCounts()
        for counts in self._counts.values():
            for one in fields(NeedCounts):
                setattr(total, one.name, getattr(total, one.name) + getattr(counts, one.name))
        return total

    @property
    def by_camera(self) -> Mapping[str, NeedCounts]:
        """Each camera that had an offer."""
        return self._counts

    def _need(self, offer: Offer, known: _Known, unsure: bool) -> Need | None:
        """Why this crop is wanted now; None if it is not."""
        options = self._options
        good = offer.quality >= options.min_quality and offer.quality > 0
        # Who never shows himself whole is still better known by a part than not at all.
        known.poor = 0 if good else known.poor + 1
        if not offer.quality > 0 or (not good and known.poor <= options.patience):
            return None
        if not known.held:
            return Need.NEW
        held = known.held.get(offer.modality)
        if held is None:
            return Need.UNSURE if unsure else Need.SWITCHED
        age = offer.time - held.time + CLOCK_SLACK
        if age < options.per_track_gap:
            return None
        if unsure:
            return Need.UNSURE
        if age >= options.max_age:
            return Need.OLD
        return Need.BETTER if offer.quality >= options.better * held.quality else None

    def _bounded(self, ordered: Sequence[Offer]) -> list[Offer]:
        room = dict.fromkeys(Modality, self._options.batch)
        chosen = []
        for offer in ordered:
            if room[offer.modality] > 0:
                room[offer.modality] -= 1
                chosen.append(offer)
            else:
                self._counts[offer.key[0]].waiting += 1
        return chosen


def _best_of_each(offers: Sequence[Offer]) -> Iterator[Offer]:
    """One sighting of each track, its best; two frames of a camera may come in one tick."""
    best: dict[TrackKey, Offer] = {}
    for offer in offers:
        held = best.get(offer.key)
        if held is None or offer.quality > held.quality:
            best[offer.key] = offer
    return iter(best.values())
