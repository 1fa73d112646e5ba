"""From which similarity two crops are one person: one threshold for each pair of modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from mip_edge.errors import OptionError
from mip_edge.spec import Modality


class ModalityPair(str, Enum):
    """The lights of two crops that are compared, in no order."""

    VISIBLE_VISIBLE = "visible-visible"
    INFRARED_INFRARED = "infrared-infrared"
    VISIBLE_INFRARED = "visible-infrared"

    @classmethod
    def of(cls, one: Modality, other: Modality) -> ModalityPair:
        """The pair of two crops."""
        if one is not other:
            return cls.VISIBLE_INFRARED
        return cls.VISIBLE_VISIBLE if one is Modality.VISIBLE else cls.INFRARED_INFRARED


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The least similarity of one person for each pair, each in [-1, 1]."""

    similarities: Mapping[ModalityPair, float]
    """All three pairs."""
    far: float | None = None
    """The false-accept rate that they were learnt at; None if they were not."""
    origin: str = field(default="given", compare=False)
    """Where they come from, in words for a log line."""

    def __post_init__(self) -> None:
        missing = [pair.value for pair in ModalityPair if pair not in self.similarities]
        if missing:
            raise OptionError(f"thresholds lack the pair {missing[0]}; expected all three")
        for pair, similarity in self.similarities.items():
            if not -1.0 <= similarity <= 1.0:
                raise OptionError(
                    f"the threshold of {pair.value} must be in [-1, 1], got {similarity}"
                )

    @classmethod
    def uniform(cls, min_similarity: float, *, origin: str = "given") -> Thresholds:
        """The same for every pair."""
        return cls(dict.fromkeys(ModalityPair, min_similarity), origin=origin)

    def of(self, one: Modality, other: Modality) -> float:
        """The threshold for two crops of these lights."""
        return self.similarities[ModalityPair.of(one, other)]


def parse_thresholds(
    texts: Sequence[str], min_similarity: float | None = None
) -> dict[ModalityPair, float]:
    """Every `PAIR=COSINE` of a command line; `min_similarity` is that of the pairs not named.

    Raises: OptionError for an unknown pair, one given twice, or what is no number.
    """
    asked: dict[ModalityPair, float] = {}
    for text in texts:
        word, equals, number = text.partition("=")
        pairs = {pair.value: pair for pair in ModalityPair}
        if not equals or word not in pairs:
            raise OptionError(
                f"--threshold {text}: expected PAIR=COSINE with PAIR one of {', '.join(pairs)}"
            )
        if pairs[word] in asked:
            raise OptionError(f"--threshold gives {word} twice")
        try:
            asked[pairs[word]] = float(number)
        except ValueError:
            raise OptionError(f"--threshold {text}: {number!r} is no number") from None
    if min_similarity is not None:
        asked = {pair: asked.get(pair, min_similarity) for pair in ModalityPair}
    return asked
