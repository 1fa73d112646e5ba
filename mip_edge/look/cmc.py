"""The CMC curve of both directions, beside what a random order of the same gallery would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mip_edge.data.dataset import Sample
from mip_edge.errors import DatasetError, OptionError
from mip_edge.gallery.match import similarity
from mip_edge.look.canvas import CHANCE, COLOURS, open_figure, write_figure
from mip_edge.metrics import Ranking, evaluate_ranking
from mip_edge.spec import Embeddings, Modality

LONGEST = 50
"""Ranks that the picture shows, or fewer if the gallery is smaller."""
_TICKS = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True, slots=True)
class Direction:
    """How queries of one light find their people in the other."""

    query_modality: Modality
    ranking: Ranking
    chance: NDArray[np.float64]
    """Rank-k of a random order for k = 1, 2, ..., as far as the picture goes."""

    @property
    def name(self) -> str:
        """As pictures and tables write it."""
        return f"{self.query_modality.value} to {self.query_modality.other.value}"

    def figures(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "query_modality": self.query_modality.value,
            "gallery_modality": self.query_modality.other.value,
            **self.ranking.figures(),
        }


def rank_directions(
    query_embeddings: Embeddings,
    query_samples: Sequence[Sample],
    gallery_embeddings: Embeddings,
    gallery_samples: Sequence[Sample],
) -> tuple[Direction, ...]:
    """Infrared to visible, and the reverse: every query against all images of the other light.

    Embeddings (Q, D) and (G, D) of unit length, one for each sample. No trial is drawn and no
    camera left out, so on SYSU-MM01, RegDB and LLCM these are no figures of the field's protocol.
    Raises: DatasetError if a light is missing on a side, or nobody is on both.
    """
    found = []
    for modality in (Modality.INFRARED, Modality.VISIBLE):
        queries = _rows(query_samples, modality, "query")
        gallery = _rows(gallery_samples, modality.other, "gallery")
        query_ids = np.array([query_samples[row].identity for row in queries])
        gallery_ids = np.array([gallery_samples[row].identity for row in gallery])
        cosines = similarity(query_embeddings[queries], gallery_embeddings[gallery])
        ranking = evaluate_ranking(-cosines, query_ids, gallery_ids)
        names, counts = np.unique(gallery_ids, return_counts=True)
        right = dict(zip(names.tolist(), counts.tolist(), strict=True))
        correct = [right[name] for name in query_ids.tolist() if name in right]
        chance = chance_cmc(correct, len(gallery), ranks=min(LONGEST, len(gallery)))
        found.append(Direction(modality, ranking, chance))
    return tuple(found)


def chance_cmc(correct: Sequence[int], gallery: int, *, ranks: int) -> NDArray[np.float64]:
    """Rank-k, k = 1..ranks, that a random order of `gallery` items gives on average, (ranks,).

    `correct` (Q,) counts the right items of each query: of those with c the share that misses
    all of them in the first k is C(gallery - c, k) / C(gallery, k).
    Raises: OptionError if there are more ranks or right items than the gallery has.
    """
    counts = np.asarray(correct, dtype=np.float64)
    if len(counts) == 0 or counts.max() > gallery or counts.min() < 1 or not 0 < ranks <= gallery:
        raise OptionError(
            f"a gallery of {gallery} cannot have {ranks} ranks, or {list(correct)[:4]}... right "
            "items; expected at least one of each, and not more than the gallery"
        )
    places = np.arange(ranks)
    missed = np.clip(gallery - counts[:, None] - places, 0, None) / (gallery - places)
    return np.asarray(1 - np.cumprod(missed, axis=1).mean(axis=0), dtype=np.float64)


def draw_cmc(directions: Sequence[Direction], path: Path, *, title: str) -> None:
    """Rank-k over k (logarithmic) of each direction as PNG; chance dashed in the same colour."""
    figure = open_figure(7.5, 4.8)
    axes = figure.subplots()
    for direction in directions:
        cmc, colour = direction.ranking.cmc, COLOURS[direction.query_modality]
        assert cmc is not None
        ranks = np.arange(1, len(direction.chance) + 1)
        marked = [tick - 1 for tick in _TICKS if tick <= len(ranks)]
        label = f"{direction.name}: Rank-1 {100 * direction.ranking.rank1:.1f}%"
        axes.plot(
            ranks, 100 * cmc[: len(ranks)], color=colour, marker="o", markevery=marked, label=label
        )
        label = f"chance: {100 * direction.chance[0]:.1f}%"
        axes.plot(ranks, 100 * direction.chance, color=colour, linestyle="--", label=label)
    longest = max(len(direction.chance) for direction in directions)
    ticks = [tick for tick in _TICKS if tick <= longest]
    axes.set_xscale("log")
    axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.axhline(100, color=CHANCE, linewidth=0.8)
    axes.set(xlabel="k, images of the gallery looked at", ylabel="Rank-k, per cent", ylim=(0, 103))
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=9)
    axes.set_title(title)
    write_figure(figure, path)


def _rows(samples: Sequence[Sample], modality: Modality, part: str) -> NDArray[np.int64]:
    rows = [row for row, sample in enumerate(samples) if sample.modality is modality]
    if not rows:
        raise DatasetError(f"the {part} part has no {modality.value} images to look at")
    return np.array(rows, dtype=np.int64)
