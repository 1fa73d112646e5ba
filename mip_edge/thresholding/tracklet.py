"""Crops compared as the live loop compares them: a tracklet's mean with a person's prototypes.

A threshold learnt crop against crop is wrong for a loop that takes the nearest of several
prototypes: the best of eight is higher than one, for strangers too. So both sides are drawn as the
loop makes them: a query is the direction of the mean of some crops of one light and session, a
prototype is the same of other crops, and the nearest prototype of a person and light counts.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mip_edge.spec import Embeddings, Modality
from mip_edge.thresholds import ModalityPair

ACROSS, WITHIN, NOWHERE = "across sessions", "within a session", "none"
_AT_ONCE = 512
"""Queries compared at once, so that the products stay small."""
_DRAWS = 4
"""Sets of crops drawn for each prototype that is wanted: some come twice."""
_CANCELLED = 1e-6


@dataclass(frozen=True, slots=True)
class Comparisons:
    """All comparisons of one pair of lights; people are numbers from 0."""

    genuine: NDArray[np.float32]
    """(n,) of one person, all rounds."""
    genuine_person: NDArray[np.int32]
    impostor: NDArray[np.float32]
    """(m,) of two, all rounds."""
    impostor_query: NDArray[np.int32]
    """Whose the query is."""
    impostor_enrolled: NDArray[np.int32]
    """Whose the prototypes are."""
    impostor_tracklet: NDArray[np.int32]
    """Which query, over all lights and rounds."""
    genuine_from: str
    crops: float
    """Of a query, mean."""
    prototypes: float
    """Of an enrolled person, mean."""
    rounds: int

    @property
    def impostors_a_round(self) -> int:
        """Comparisons of two people that do not repeat people and sessions."""
        return len(self.impostor) // self.rounds


class _Set(NamedTuple):
    """Crops whose mean is one query or prototype."""

    rows: NDArray[np.int64]
    person: int
    session: int


@dataclass(frozen=True, slots=True)
class _Side:
    """Queries or prototypes of one light."""

    vectors: Embeddings
    person: NDArray[np.int32]
    session: NDArray[np.int32]
    crops: NDArray[np.int32]


def compare_tracklets(
    embeddings: Embeddings,
    people: NDArray[np.int64],
    modalities: Sequence[Modality],
    sessions: Sequence[str],
    *,
    crops: int,
    prototypes: int,
    rounds: int,
    rng: np.random.Generator,
) -> tuple[dict[ModalityPair, Comparisons], int]:
    """Comparisons of each pair of lights, and how many queries there were in all rounds.

    `embeddings` (N, D) of unit length, `people` (N,) numbers from 0. In one light a query never
    meets its own session's prototypes of its own person. Where nobody was seen in two sessions of
    a light, crops of one session are parted into two disjoint halves instead, and said so. With
    fewer crops than asked for, tracklets are of those there are.
    """
    groups = _group(people, modalities, sessions)
    across = {
        light: any(len(found) > 1 and "" not in found for found in groups[light].values())
        for light in Modality
    }
    numbers = {name: number for number, name in enumerate(sorted(set(sessions)))}
    parts: dict[ModalityPair, list[tuple[NDArray[np.generic], ...]]] = defaultdict(list)
    own: dict[ModalityPair, list[tuple[NDArray[np.float32], NDArray[np.int32]]]] = defaultdict(list)
    sizes: dict[ModalityPair, list[tuple[float, float]]] = defaultdict(list)
    tracklets = 0
    for _ in range(rounds):
        queries, enrolled = {}, {}
        for light in Modality:
            queries[light], enrolled[light] = _draw(
                embeddings, groups[light], numbers, crops, prototypes, rng
            )
        for light, other in itertools.product(Modality, Modality):
            pair, asked, known = ModalityPair.of(light, other), queries[light], enrolled[other]
            found, rated = _compare(asked, known, same_light=light is other, first=tracklets)
            parts[pair].append(found)
            if light is not other or across[light]:
                own[pair].append(rated)
            else:
                own[pair].append(_halves(embeddings, groups[light], crops, prototypes, rng))
            enrolled_people = len(np.unique(known.person))
            sizes[pair].append((float(asked.crops.mean()), len(known.person) / enrolled_people))
            if other is list(Modality)[-1]:
                tracklets += len(asked.person)
    return {
        pair: _join(pair, parts[pair], own[pair], sizes[pair], across, rounds)
        for pair in ModalityPair
    }, tracklets


def _group(
    people: NDArray[np.int64], modalities: Sequence[Modality], sessions: Sequence[str]
) -> dict[Modality, dict[int, dict[str, NDArray[np.int64]]]]:
    """Rows by light, person and session."""
    rows: dict[Modality, dict[int, dict[str, list[int]]]] = {light: {} for light in Modality}
    for row, (person, light, session) in enumerate(
        zip(people.tolist(), modalities, sessions, strict=True)
    ):
        rows[light].setdefault(person, {}).setdefault(session, []).append(row)
    return {
        light: {
            person: {name: np.array(found) for name, found in sorted(of.items())}
            for person, of in sorted(everyone.items())
        }
        for light, everyone in rows.items()
    }


def _draw(
    embeddings: Embeddings,
    everyone: dict[int, dict[str, NDArray[np.int64]]],
    numbers: dict[str, int],
    crops: int,
    prototypes: int,
    rng: np.random.Generator,
) -> tuple[_Side, _Side]:
    """A query of each person and session, and the prototypes of each person."""
    asked: list[_Set] = []
    known: list[_Set] = []
    for person, sessions in everyone.items():
        # places are dealt to the sessions in turn, as cameras fill a gallery in turn
        shares = [
            prototypes // len(sessions) + (number < prototypes % len(sessions))
            for number in range(len(sessions))
        ]
        for (name, rows), share in zip(sessions.items(), shares, strict=True):
            asked.append(_Set(rng.permutation(rows)[:crops], person, numbers[name]))
            known += [_Set(one, person, numbers[name]) for one in _subsets(rows, crops, share, rng)]
    return _side(embeddings, asked), _side(embeddings, known)


def _subsets(
    rows: NDArray[np.int64], crops: int, count: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """`count` different sets of `crops` rows, or as many as there are; they may share rows, as the
    running means of one tracklet do."""
    size = min(crops, len(rows))
    if math.comb(len(rows), size) <= count:
        return [np.array(one) for one in itertools.combinations(rows.tolist(), size)]
    drawn = np.argsort(rng.random((_DRAWS * count, len(rows))), axis=1)[:, :size]
    distinct = dict.fromkeys(map(tuple, np.sort(drawn, axis=1).tolist()))
    return [rows[list(one)] for one in itertools.islice(distinct, count)]


def _side(embeddings: Embeddings, sets: Sequence[_Set]) -> _Side:
    return _Side(
        _directions(embeddings, [one.rows for one in sets]),
        np.array([one.person for one in sets], np.int32),
        np.array([one.session for one in sets], np.int32),
        np.array([len(one.rows) for one in sets], np.int32),
    )


def _directions(embeddings: Embeddings, sets: Sequence[NDArray[np.int64]]) -> Embeddings:
    """The mean of each set of rows at unit length; its first row where they cancel out."""
    found = np.empty((len(sets), embeddings.shape[1]), np.float32)
    sizes = np.array([len(rows) for rows in sets])
    for size in np.unique(sizes):
        places = np.flatnonzero(sizes == size)
        rows = np.stack([sets[place] for place in places.tolist()])
        mean = embeddings[rows].mean(axis=1)
        length = np.linalg.norm(mean, axis=1, keepdims=True)
        whole = length > _CANCELLED
        found[places] = np.where(whole, mean / np.where(whole, length, 1), embeddings[rows[:, 0]])
    return found


def _compare(
    asked: _Side, known: _Side, *, same_light: bool, first: int
) -> tuple[tuple[NDArray[np.generic], ...], tuple[NDArray[np.float32], NDArray[np.int32]]]:
    """Impostors (similarity, query, enrolled, tracklet) and genuine (similarity, person)."""
    enrolled, starts = np.unique(known.person, return_index=True)
    best = np.empty((len(asked.person), len(enrolled)), np.float32)
    for start in range(0, len(asked.person), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        cosines = np.clip(asked.vectors[rows] @ known.vectors.T, -1, 1)
        if same_light:
            own = asked.person[rows, None] == known.person[None, :]
            cosines[own & (asked.session[rows, None] == known.session[None, :])] = -np.inf
        best[rows] = np.maximum.reduceat(cosines, starts, axis=1)
    same = asked.person[:, None] == enrolled[None, :]
    query, place = np.nonzero(~same)
    impostors = (
        best[query, place],
        asked.person[query],
        enrolled[place],
        (query + first).astype(np.int32),
    )
    right, place = np.nonzero(same & np.isfinite(best))
    return impostors, (best[right, place], asked.person[right])


def _halves(
    embeddings: Embeddings,
    everyone: dict[int, dict[str, NDArray[np.int64]]],
    crops: int,
    prototypes: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Genuine comparisons within a session: disjoint halves, as one crop is like itself."""
    queries: list[NDArray[np.int64]] = []
    known: list[NDArray[np.int64]] = []
    starts: list[int] = []
    person_of: list[int] = []
    for person, sessions in everyone.items():
        for rows in sessions.values():
            if len(rows) < 2:
                continue
            mixed = rng.permutation(rows)
            taken = min(crops, len(rows) // 2)
            queries.append(mixed[:taken])
            starts.append(len(known))
            known += _subsets(mixed[taken:], crops, prototypes, rng)
            person_of.append(person)
    if not queries:
        return np.empty(0, np.float32), np.empty(0, np.int32)
    counts = np.diff([*starts, len(known)])
    asked = np.repeat(_directions(embeddings, queries), counts, axis=0)
    cosines = np.clip((asked * _directions(embeddings, known)).sum(axis=1), -1, 1)
    return np.maximum.reduceat(cosines, starts), np.array(person_of, np.int32)


def _join(
    pair: ModalityPair,
    parts: Sequence[tuple[NDArray[np.generic], ...]],
    own: Sequence[tuple[NDArray[np.float32], NDArray[np.int32]]],
    sizes: Sequence[tuple[float, float]],
    across: dict[Modality, bool],
    rounds: int,
) -> Comparisons:
    impostor, query, enrolled, tracklet = (
        np.concatenate([part[column] for part in parts]) for column in range(4)
    )
    genuine, person = (np.concatenate([one[column] for one in own]) for column in range(2))
    light = Modality.VISIBLE if pair is ModalityPair.VISIBLE_VISIBLE else Modality.INFRARED
    apart = pair is ModalityPair.VISIBLE_INFRARED or across[light]
    crops, prototypes = np.mean(sizes, axis=0)
    return Comparisons(
        genuine.astype(np.float32),
        person.astype(np.int32),
        impostor.astype(np.float32),
        query.astype(np.int32),
        enrolled.astype(np.int32),
        tracklet.astype(np.int32),
        (ACROSS if apart else WITHIN) if len(genuine) else NOWHERE,
        round(float(crops), 3),
        round(float(prototypes), 3),
        rounds,
    )
