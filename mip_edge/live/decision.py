"""Who a tracklet is, decided from what the gallery answers: matched, new, or not sure yet."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from mip_edge.gallery.base import IdentityMatch
from mip_edge.spec import Modality
from mip_edge.thresholds import ModalityPair, Thresholds


class Verdict(str, Enum):
    """What is made of a tracklet."""

    MATCHED = "matched"
    NEW = "new"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One identity that a tracklet may be."""

    identity: int
    """Who."""
    similarity: float
    """Cosine, in [-1, 1], of the pair of lights that speaks most for it."""
    pair: ModalityPair
    """That pair."""
    threshold: float
    """The least similarity of one person for that pair."""

    @property
    def surplus(self) -> float:
        """How far above its threshold: what makes similarities of two pairs comparable."""
        return self.similarity - self.threshold


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict and what it stands on."""

    verdict: Verdict
    best: Candidate | None = None
    """The candidate that speaks most for itself; None if there is none."""
    lead: float | None = None
    """Surplus of the best over that of the second; None if there is no second."""
    reason: str = ""
    """Why it is uncertain."""


def candidates_of(
    matches: Iterable[IdentityMatch],
    modality: Modality,
    thresholds: Thresholds,
    *,
    excluded: Collection[int] = (),
) -> list[Candidate]:
    """Each identity once, by the pair with the largest surplus; largest surplus first.

    `modality` is that of the query, `excluded` identities are left out.
    """
    best: dict[int, Candidate] = {}
    for match in matches:
        if match.identity in excluded:
            continue
        pair = ModalityPair.of(modality, match.modality)
        candidate = Candidate(match.identity, match.similarity, pair, thresholds.similarities[pair])
        known = best.get(match.identity)
        if known is None or candidate.surplus > known.surplus:
            best[match.identity] = candidate
    return sorted(best.values(), key=lambda one: (-one.surplus, one.identity))


def decide(
    candidates: Sequence[Candidate], *, margin: float, final: bool, more: float = 0.0
) -> Decision:
    """From candidates, best first, to a verdict.

    Matched: above the threshold, and ahead of the second, both by `margin`. New: below the
    threshold by `margin`. Between them uncertain, unless `final` asks for the likelier of the two
    now. `more` than 0 is asked beyond `margin` of a tracklet that has too few crops yet: then
    nobody is new.
    """
    best = candidates[0] if candidates else None
    lead = candidates[0].surplus - candidates[1].surplus if len(candidates) > 1 else None
    if best is None or best.surplus < -margin:
        if more > 0 and not final:
            return Decision(Verdict.UNCERTAIN, best, lead, "too few crops")
        return Decision(Verdict.NEW, best, lead)
    least = 0.0 if final else margin + more
    above, ahead = best.surplus >= least, lead is None or lead >= least
    if above and ahead:
        return Decision(Verdict.MATCHED, best, lead)
    if final:
        return Decision(Verdict.NEW, best, lead)
    if more > 0:
        return Decision(Verdict.UNCERTAIN, best, lead, "too few crops")
    reason = "two identities resemble it" if above else "close to the threshold"
    return Decision(Verdict.UNCERTAIN, best, lead, reason)
