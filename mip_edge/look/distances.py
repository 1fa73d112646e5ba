"""How alike crops of one person and of two are, for each pair of lights: counts and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mip_edge.data.dataset import Sample
from mip_edge.errors import OptionError
from mip_edge.gallery.match import similarity
from mip_edge.look.canvas import DIFFERENT, SAME, open_figure, write_figure
from mip_edge.spec import Embeddings, Modality

PAIRS = (
    (Modality.VISIBLE, Modality.VISIBLE),
    (Modality.INFRARED, Modality.INFRARED),
    (Modality.VISIBLE, Modality.INFRARED),
)
BINS = 4000
"""Classes of the cosine in [-1, 1]: the equal error rate is exact up to 0.0005 of similarity."""
_BARS = 100
"""Bars of a drawn histogram over the same range."""
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Similarities:
    """The cosines of one kind of pair, as counts: there are tens of millions in SYSU-MM01."""

    counts: NDArray[np.int64]
    """(BINS,) pairs in each class of similarity."""
    mean: float
    deviation: float
    """Of the cosines themselves, not of their classes."""

    @property
    def pairs(self) -> int:
        """How many there are."""
        return int(self.counts.sum())


@dataclass(frozen=True, slots=True)
class PairSeparation:
    """How far pairs of one person stand from pairs of two, in one combination of lights."""

    first: Modality
    second: Modality
    same: Similarities
    different: Similarities

    @property
    def name(self) -> str:
        """As pictures and tables write it."""
        return f"{self.first.value} - {self.second.value}"

    @property
    def d_prime(self) -> float | None:
        """Distance of the means in units of the root of the mean variance; None without spread."""
        spread = np.sqrt((self.same.deviation**2 + self.different.deviation**2) / 2)
        return float((self.same.mean - self.different.mean) / spread) if spread > 0 else None

    @property
    def equal_error(self) -> float:
        """Share of mistakes at the threshold that makes both kinds equally often."""
        return equal_error_rate(self.same.counts, self.different.counts)

    def figures(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "modalities": [self.first.value, self.second.value],
            "same_pairs": self.same.pairs,
            "different_pairs": self.different.pairs,
            "same_mean": self.same.mean,
            "same_deviation": self.same.deviation,
            "different_mean": self.different.mean,
            "different_deviation": self.different.deviation,
            "d_prime": self.d_prime,
            "equal_error_rate": self.equal_error,
        }


class Tally:
    """Counts cosines as they come, block after block."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, dtype=np.int64)
        self._sum = self._squares = 0.0

    def add(self, cosines: ArrayLike) -> None:
        """More cosines, of any shape."""
        values = np.asarray(cosines, dtype=np.float64).ravel()
        places = np.floor((values + 1) * (BINS / 2)).astype(np.int64)
        self._counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)
        self._sum += float(values.sum())
        self._squares += float(values @ values)

    def close(self) -> Similarities | None:
        """What was counted; None if nothing was."""
        pairs = int(self._counts.sum())
        if pairs == 0:
            return None
        mean = self._sum / pairs
        # rounding alone is no spread
        variance = self._squares / pairs - mean**2
        return Similarities(
            self._counts, mean, float(np.sqrt(variance)) if variance > 1e-12 else 0.0
        )


def equal_error_rate(same: ArrayLike, different: ArrayLike) -> float:
    """Where pairs of one person refused and pairs of two accepted are equally frequent, [0, 1].

    `same` and `different` count pairs by rising similarity (equal lengths). Between the two cuts
    that straddle equality the rates are taken as lines.
    Raises: OptionError if the lengths differ or one holds no pair.
    """
    own, other = np.asarray(same, dtype=np.float64), np.asarray(different, dtype=np.float64)
    if own.shape != other.shape or own.ndim != 1 or own.sum() <= 0 or other.sum() <= 0:
        raise OptionError(
            f"counts have shapes {own.shape} and {other.shape} and {own.sum():.0f} and "
            f"{other.sum():.0f} pairs; expected one shape, and pairs in both"
        )
    refused = np.concatenate([[0.0], np.cumsum(own) / own.sum()])
    accepted = 1 - np.concatenate([[0.0], np.cumsum(other) / other.sum()])
    ahead = refused - accepted  # rises from -1 to 1
    after = int(np.argmax(ahead >= 0))
    part = -ahead[after - 1] / (ahead[after] - ahead[after - 1])
    return float(refused[after - 1] + part * (refused[after] - refused[after - 1]))


def separate_pairs(embeddings: Embeddings, samples: Sequence[Sample]) -> tuple[PairSeparation, ...]:
    """All pairs of two different images in each combination of lights, unit embeddings (N, D).

    A combination that has no pair of one person, or none of two, is left out.
    """
    # a name is compared as a number: strings of a million pairs are slow
    _, identity = np.unique([sample.identity for sample in samples], return_inverse=True)
    rows = {
        modality: np.flatnonzero([sample.modality is modality for sample in samples])
        for modality in Modality
    }
    found = []
    for first, second in PAIRS:
        same, different = Tally(), Tally()
        columns = rows[second]
        for start in range(0, len(rows[first]), _ROWS_AT_ONCE):
            block = rows[first][start : start + _ROWS_AT_ONCE]
            if len(columns) == 0:
                break
            cosines = similarity(embeddings[block], embeddings[columns])
            alike = identity[block][:, None] == identity[columns][None, :]
            # inside one light each pair counts once, and an image never meets itself
            counted = block[:, None] < columns[None, :] if first is second else np.ones_like(alike)
            same.add(cosines[alike & counted])
            different.add(cosines[~alike & counted])
        own, other = same.close(), different.close()
        if own is not None and other is not None:
            found.append(PairSeparation(first, second, own, other))
    return tuple(found)


def draw_distances(separations: Sequence[PairSeparation], path: Path, *, title: str) -> None:
    """A histogram for each combination of lights as PNG: one person filled, two people grey."""
    figure = open_figure(4.3 * len(separations), 4.2)
    columns = figure.subplots(1, len(separations), squeeze=False, sharex=True)[0]
    edges = np.linspace(-1, 1, _BARS + 1)
    known = np.sum([one.same.counts + one.different.counts for one in separations], axis=0)
    shown = np.flatnonzero(known)[[0, -1]] * 2 / BINS - 1
    for axes, one in zip(columns, separations, strict=True):
        for counted, colour, label in (
            (one.different, DIFFERENT, "two people"),
            (one.same, SAME, "one person"),
        ):
            share = 100 * counted.counts.reshape(_BARS, -1).sum(axis=1) / counted.pairs
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.45)
            pairs = f"{label} ({counted.pairs:,} pairs)"
            axes.stairs(share, edges, color=colour, linewidth=1.2, label=pairs)
            axes.axvline(counted.mean, color=colour, linestyle=":", linewidth=1.2)
        d_prime = "none" if one.d_prime is None else f"{one.d_prime:.2f}"
        axes.set_title(
            f"{one.name}\nd' {d_prime}, equal error {100 * one.equal_error:.1f}%", fontsize=10
        )
        axes.set(xlabel="cosine similarity", xlim=(shown[0] - 0.03, shown[1] + 0.03))
        axes.grid(alpha=0.3)
        axes.set_ylim(top=1.28 * axes.get_ylim()[1])
        axes.legend(fontsize=8, loc="upper left")
    columns[0].set_ylabel("share of the pairs of its kind, per cent")
    figure.suptitle(title)
    write_figure(figure, path)
