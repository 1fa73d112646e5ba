"""How well strangers are refused: thresholds at a false-accept rate, TAR at FAR, DIR at FAR.

The definitions are those of P. J. Phillips, P. Grother and R. Micheals, "Evaluation Methods in Face
Recognition", Handbook of Face Recognition (2005), chapter 14, which NIST's evaluations and the
IJB data sets took over (there 1 - DIR is FNIR at rank 1, and the FAR of an open gallery FPIR).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mip_edge.errors import OptionError

FARS = (0.1, 0.01, 0.001)
"""False-accept rates that are reported."""
LEAST_ACCEPTED = 10
"""False accepts below which a rate is an anecdote: its standard error is a third at ten."""
SPLITS = 10
"""Splits of the identities into enrolled people and strangers that are averaged."""

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class OpenSet:
    """What a gallery gives where not everybody is in it; rates are fractions in [0, 1]."""

    tar: Mapping[float, float | None]
    """By FAR: share of genuine pairs above its threshold; None where the pairs are too few."""
    dir: Mapping[float, float | None]
    """By FAR: share of enrolled people's queries found at rank 1 above its threshold, mean over
    the splits; None where the strangers are too few."""
    genuine_pairs: int
    impostor_pairs: int
    strangers: int
    """Queries of people who are not enrolled, of the split that has fewest."""

    def figures(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "tar": {f"{far:g}": value for far, value in self.tar.items()},
            "dir": {f"{far:g}": value for far, value in self.dir.items()},
            "genuine_pairs": self.genuine_pairs,
            "impostor_pairs": self.impostor_pairs,
            "strangers": self.strangers,
        }


def threshold_at_far(impostors: ArrayLike, far: float) -> float:
    """The smallest similarity at which the share of impostors accepted (>=) is at most `far`.

    That is the next number above the first impostor that must be refused, in the precision of
    `impostors`; -1 if all may be accepted.
    Raises: OptionError for a rate outside [0, 1], for no impostors, or values that are not finite.
    """
    values = _checked(impostors, "impostors")
    if not 0 <= far <= 1:
        raise OptionError(f"a false-accept rate lies in [0, 1], got {far}")
    if values.size == 0:
        raise OptionError("there is no pair of two people; a threshold at a FAR needs some")
    allowed = _allowed(values.size, far)
    if allowed >= values.size:
        return -1.0
    place = values.size - allowed - 1
    refused = np.partition(values, place)[place]
    return float(np.nextafter(refused, values.dtype.type(np.inf)))


def accepted_share(similarities: ArrayLike, threshold: float) -> float:
    """Share of similarities that are at least `threshold`; NaN of none."""
    values = _checked(similarities, "similarities")
    # in float64: a threshold between two float32 must not be rounded onto the lower one
    return float(np.mean(values >= np.float64(threshold))) if values.size else float("nan")


def true_accept_rate(genuine: ArrayLike, impostors: ArrayLike, far: float) -> float:
    """TAR at FAR: share of genuine pairs accepted at the threshold of the impostors."""
    return accepted_share(genuine, threshold_at_far(impostors, far))


def resolvable_far(comparisons: int) -> float:
    """The least false-accept rate that so many impostor comparisons tell with ten accepts."""
    return min(1.0, LEAST_ACCEPTED / comparisons) if comparisons else 1.0


def resolves(comparisons: int, far: float) -> bool:
    """Whether so many impostor comparisons tell `far` with ten accepts."""
    return _allowed(comparisons, far) >= LEAST_ACCEPTED


def identification_rate(
    similarities: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    enrolled: ArrayLike,
    far: float,
    *,
    excluded: ArrayLike | None = None,
) -> float:
    """DIR at FAR, of a gallery of the identities `enrolled` alone.

    Share of queries of enrolled people whose best gallery item is theirs (rank 1) and reaches the
    threshold that at most `far` of the strangers' queries reach with their best item. Of equally
    good identities the one that sorts first counts. `similarities` (Q, G), ids (Q,) and (G,);
    `excluded` (Q, G) is true where an item does not count for a query.
    Raises: OptionError if there are no queries of enrolled people, or none of strangers.
    """
    table = _Identities(similarities, query_ids, gallery_ids, excluded)
    rates, strangers, known = table.split(np.asarray(enrolled), (far,))
    if not strangers or not known:
        raise OptionError(
            f"{known} queries of enrolled people and {strangers} of strangers; DIR at FAR needs "
            "both"
        )
    return rates[far]


def evaluate_open_set(
    similarities: ArrayLike,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    *,
    excluded: ArrayLike | None = None,
    fars: Sequence[float] = FARS,
    splits: int = SPLITS,
    seed: int = 0,
) -> OpenSet:
    """TAR and DIR at each of `fars`, of cosines (Q, G) and ids (Q,) and (G,).

    Every query meets every item for TAR. For DIR half of the gallery's identities are enrolled,
    drawn `splits` times with `seed`, and the queries of all others are strangers. A rate is None
    where fewer than ten false accepts decide its threshold.
    Raises: OptionError for shapes that do not fit or values that are not finite.
    """
    table = _Identities(similarities, query_ids, gallery_ids, excluded)
    genuine, impostors = table.pairs()
    tar = {
        far: true_accept_rate(genuine, impostors, far)
        if genuine.size and resolves(impostors.size, far)
        else None
        for far in fars
    }
    # names, not places, are drawn from: the order of queries and gallery changes nothing
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(splits if len(table.names) > 1 else 0):
        enrolled = rng.permutation(table.names)[: (len(table.names) + 1) // 2]
        found.append(table.split(enrolled, fars))
    found = [one for one in found if one[1] and one[2]]
    strangers = min((one[1] for one in found), default=0)
    rates = {
        far: float(np.mean([one[0][far] for one in found])) if resolves(strangers, far) else None
        for far in fars
    }
    return OpenSet(tar, rates, int(genuine.size), int(impostors.size), strangers)


class _Identities:
    """Similarities of queries with gallery items, and with identities by their best item."""

    def __init__(
        self,
        similarities: ArrayLike,
        query_ids: ArrayLike,
        gallery_ids: ArrayLike,
        excluded: ArrayLike | None,
    ) -> None:
        self._table = _checked(similarities, "similarities")
        self._queries, self._gallery = np.asarray(query_ids), np.asarray(gallery_ids)
        expected = (len(self._queries), len(self._gallery))
        if self._table.shape != expected or 0 in expected:
            raise OptionError(
                f"similarities have shape {self._table.shape}; expected {expected}: one row for "
                "each query id, one column for each gallery id, not empty"
            )
        self._out = None if excluded is None else np.asarray(excluded, dtype=bool)
        if self._out is not None and self._out.shape != expected:
            raise OptionError(f"excluded has shape {self._out.shape}; expected {expected}")
        self.names, code = np.unique(self._gallery, return_inverse=True)
        place = np.minimum(np.searchsorted(self.names, self._queries), len(self.names) - 1)
        self._own = np.where(self.names[place] == self._queries, place, -1)
        counted = self._table
        if self._out is not None:
            counted = np.where(self._out, counted.dtype.type(-np.inf), counted)
        order = np.argsort(code, kind="stable")
        starts = np.searchsorted(code[order], np.arange(len(self.names)))
        self._best: Floats = np.maximum.reduceat(counted[:, order], starts, axis=1)

    def pairs(self) -> tuple[Floats, Floats]:
        """Similarities of one person and of two, of all pairs that count."""
        same = self._queries[:, None] == self._gallery[None, :]
        if self._out is None:
            return self._table[same], self._table[~same]
        return self._table[same & ~self._out], self._table[~same & ~self._out]

    def split(
        self, enrolled: NDArray[np.generic], fars: Sequence[float]
    ) -> tuple[dict[float, float], int, int]:
        """DIR by FAR with these people enrolled; how many queries of strangers and of them."""
        inside = np.isin(self.names, enrolled)
        if not inside.any():
            return {}, 0, 0
        best = np.where(inside[None, :], self._best, -np.inf)
        top = best.argmax(axis=1)
        score = self._best[np.arange(len(top)), top]
        found = np.isfinite(best[np.arange(len(top)), top])
        own = self._best[np.arange(len(top)), self._own]
        member = (self._own >= 0) & inside[self._own]
        known = member & np.isfinite(own)
        strangers = score[~member & found]
        if not strangers.size or not known.any():
            return {}, int(strangers.size), int(known.sum())
        right = score[known & (top == self._own)]
        rates = {}
        for far in fars:
            threshold = np.float64(threshold_at_far(strangers, far))
            rates[far] = float((right >= threshold).sum() / known.sum())
        return rates, int(strangers.size), int(known.sum())


def _allowed(comparisons: int, far: float) -> int:
    """How many of them may be accepted; 0.001 of 10,000 are 10, whatever binary fractions say."""
    return int(np.floor(comparisons * far * (1 + 1e-12)))


def _checked(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise OptionError(f"{name} hold values that are not finite; are the embeddings broken?")
    return array
