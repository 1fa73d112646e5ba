"""Whether a person seen again got the identity of before: hand-overs, and how long it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mip_edge.live.score_passage import NOBODY, Stay

KINDS = ("switch", "modality", "camera", "return", "first")
"""How a person comes to a stay: a camera switched its light while he was in view; from another
light; from another camera of this light; to the same camera again; or for the first time."""


@dataclass(slots=True)
class Handovers:
    """What became of the identities of one kind of hand-over."""

    right: int = 0
    """An identity that is his own, given to him before; the first time, one that is nobody's."""
    wrong: int = 0
    """The identity of somebody else."""
    missed: int = 0
    """A new identity although he had been seen, or none."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.right + self.wrong + self.missed


@dataclass(frozen=True, slots=True)
class TimeToIdentify:
    """Seconds from a person's first frame before a camera until the right identity is given."""

    passages: int
    """Passages that were long enough to ask for."""
    median: float | None
    """Of those that were identified right; None if none was."""
    p95: float | None
    never: float | None
    """Share of passages in which the right identity was never given; None without passages."""


@dataclass(frozen=True, slots=True)
class IdentityCounts:
    """How many identities there were, truly and as given."""

    people: int
    """True people with at least one stay that was long enough."""
    identities: int
    """Identities that were given in most frames of such a stay."""
    merged: int
    """Of these, given to two people or more."""
    split: int
    """People who were given two identities or more."""


def order_stays(stays: Sequence[Stay], cameras: Sequence[str]) -> list[Stay]:
    """By their beginning, then in the order of the cameras."""
    place = {camera: number for number, camera in enumerate(cameras)}
    return sorted(stays, key=lambda stay: (stay.first, place[stay.camera], stay.person))


def owners(stays: Sequence[Stay]) -> dict[int, int]:
    """Whose each identity is: the person's to whom it was given first; stays in order."""
    firsts: dict[int, tuple[float, int]] = {}
    for stay in stays:
        for time, identity in stay.given:
            if identity != NOBODY and (identity not in firsts or time < firsts[identity][0]):
                firsts[identity] = (time, stay.person)
    return {identity: person for identity, (_, person) in firsts.items()}


def score_handovers(stays: Sequence[Stay], long: Sequence[Stay]) -> dict[str, Handovers]:
    """Each stay of `long` by its kind; all `stays`, short ones too, tell who had which identity.

    An identity is a person's own if it was given to him before anybody else. Both in order.
    """
    owner = owners(stays)
    tally = {kind: Handovers() for kind in KINDS}
    before: dict[int, list[Stay]] = {}
    held: dict[int, list[Stay]] = {}
    asked = {id(stay) for stay in long}
    for stay in stays:
        earlier = held.setdefault(stay.person, [])
        if id(stay) in asked:
            came = before.setdefault(stay.person, [])
            result = tally[_kind(stay, came)]
            identity = stay.settled
            if identity is None:
                result.missed += 1
            elif owner[identity] != stay.person:
                result.wrong += 1
            elif came and not any(identity in one.counts for one in earlier):
                result.missed += 1
            else:
                result.right += 1
            came.append(stay)
        earlier.append(stay)
    return tally


def _kind(stay: Stay, came: Sequence[Stay]) -> str:
    if not came:
        return "first"
    latest = max(came, key=lambda one: (min(one.last, stay.first), one.first))
    if latest.modality is not stay.modality:
        in_view = latest.camera == stay.camera and latest.passage == stay.passage
        return "switch" if in_view else "modality"
    return "camera" if latest.camera != stay.camera else "return"


def time_to_identify(
    stays: Sequence[Stay], periods: dict[str, float], min_stay: float
) -> TimeToIdentify:
    """Over all passages of at least `min_stay` seconds; `stays` in order."""
    owner = owners(stays)
    passages: dict[tuple[str, int], list[Stay]] = {}
    for stay in stays:
        passages.setdefault((stay.camera, stay.passage), []).append(stay)
    waits: list[float] = []
    asked = 0
    had: dict[int, set[int]] = {}
    for parts in passages.values():
        person, begin = parts[0].person, parts[0].first
        own = had.setdefault(person, set())
        if parts[-1].last - begin + periods[parts[0].camera] >= min_stay - 1e-9:
            asked += 1
            right = (
                time - begin
                for part in parts
                for time, identity in part.given
                if identity != NOBODY and owner[identity] == person and (not own or identity in own)
            )
            wait = next(right, None)
            if wait is not None:
                waits.append(wait)
        own.update(identity for part in parts for identity in part.counts)
    if not asked:
        return TimeToIdentify(0, None, None, None)
    return TimeToIdentify(
        asked,
        float(np.median(waits)) if waits else None,
        float(np.percentile(waits, 95)) if waits else None,
        (asked - len(waits)) / asked,
    )


def count_identities(long: Sequence[Stay]) -> IdentityCounts:
    """People and identities of stays that were long enough."""
    people: dict[int, set[int]] = {}
    identities: dict[int, set[int]] = {}
    for stay in long:
        given = people.setdefault(stay.person, set())
        if stay.settled is not None:
            given.add(stay.settled)
            identities.setdefault(stay.settled, set()).add(stay.person)
    return IdentityCounts(
        len(people),
        len(identities),
        sum(len(whose) > 1 for whose in identities.values()),
        sum(len(given) > 1 for given in people.values()),
    )
