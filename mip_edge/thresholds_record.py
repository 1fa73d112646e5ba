"""Learnt thresholds as a bundle's manifest holds them: each with what it was learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mip_edge.thresholds import ModalityPair, Thresholds

FIGURES, PICTURE = "thresholds.json", "thresholds.png"
"""Files of a bundle: the curves as numbers, and drawn."""


@dataclass(frozen=True, slots=True)
class PairThreshold:
    """The threshold of one pair of lights; intervals are of 95 % by bootstrap over people."""

    threshold: float
    """The least similarity of one person, in [-1, 1]."""
    threshold_low: float
    threshold_high: float
    far: float
    """Share of impostor comparisons that it accepts."""
    tar: float | None
    """Share of genuine comparisons that it accepts; None where there were none."""
    tar_low: float | None
    tar_high: float | None
    genuine: int
    """Comparisons of one person."""
    impostor: int
    """Comparisons of two."""
    genuine_from: str
    """`across sessions` (cameras, or query and gallery), `within a session` (flatters), `none`."""
    crops: float
    """Crops of a query, on average."""
    prototypes: float
    """Of an enrolled person in one light, on average."""


@dataclass(frozen=True, slots=True)
class LearntThresholds:
    """The thresholds of all pairs at one false-accept rate."""

    far: float
    """The rate that was asked for."""
    pairs: Mapping[ModalityPair, PairThreshold]
    """All three."""
    data: Mapping[str, Any]
    """The people they were learnt on: dataset, folder, split, part, identities, crops, digest."""
    options: Mapping[str, Any]
    """How: crops_per_query, prototypes, rounds, bootstrap, seed, engine, precision."""
    made_by: str
    """Program and version."""

    def thresholds(self) -> Thresholds:
        """What a live run compares with."""
        return Thresholds(
            {pair: one.threshold for pair, one in self.pairs.items()},
            far=self.far,
            origin=(
                f"learnt at FAR {self.far:g} on {self.data['identities']} people of "
                f"{self.data['folder']}"
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """As the manifest writes it."""
        return {
            "far": self.far,
            "pairs": {pair.value: asdict(one) for pair, one in self.pairs.items()},
            "data": dict(self.data),
            "options": dict(self.options),
            "made_by": self.made_by,
        }

    @classmethod
    def from_dict(cls, item: Mapping[str, Any]) -> LearntThresholds:
        """Of a document that follows the manifest's schema."""
        return cls(
            far=item["far"],
            pairs={ModalityPair(key): PairThreshold(**one) for key, one in item["pairs"].items()},
            data=item["data"],
            options=item["options"],
            made_by=item["made_by"],
        )
