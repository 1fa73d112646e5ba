"""Protocols on embeddings or distances: the ranking of every trial, their mean and deviation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mip_edge.data.dataset import Sample
from mip_edge.errors import OptionError
from mip_edge.evaluate.protocol import Protocol
from mip_edge.evaluate.rerank import Reranking, rerank
from mip_edge.gallery.match import similarity
from mip_edge.metrics import Ranking, evaluate_ranking
from mip_edge.open_set import FARS, SPLITS, OpenSet, evaluate_open_set
from mip_edge.spec import Embeddings, Modality

RATES = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "chance_rank1")
COUNTS = ("queries", "gallery", "skipped")
_TRIALS_AT_ONCE = 4
"""Threads at most: a multi-shot trial of SYSU-MM01 holds some 60 MB."""


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """What one protocol gave: a ranking for each trial, or for each split."""

    protocol: Protocol
    rankings: tuple[Ranking, ...]
    runs: tuple[str, ...]
    """What each ranking is of: "seed 0", or "split 3"."""
    reranking: Reranking | None = None
    """Set if the lists were re-ranked."""
    open_sets: tuple[OpenSet, ...] = ()
    """For each ranking what the same trial gives where not everybody is enrolled; empty if it was
    not asked for, or the lists were re-ranked: re-ranked distances are no similarities to part."""

    @property
    def title(self) -> str:
        """As tables write it; what was re-ranked says so."""
        return f"{self.protocol.title}, re-ranked" if self.reranking else self.protocol.title

    def mean(self) -> dict[str, float]:
        """Mean over the runs of each rate (a fraction) and count."""
        return {
            name: float(np.mean([getattr(ranking, name) for ranking in self.rankings]))
            for name in RATES + COUNTS
        }

    def deviation(self) -> dict[str, float] | None:
        """Sample standard deviation (divided by runs - 1) of each rate; None with a single run."""
        if len(self.rankings) < 2:
            return None
        return {
            name: float(np.std([getattr(one, name) for one in self.rankings], ddof=1))
            for name in RATES
        }

    def open_set(self) -> dict[str, dict[float, float | None]] | None:
        """Mean over the runs of `tar` and `dir` by FAR, None where a run cannot tell; None without.

        A run whose pairs are too few for a rate leaves that rate untold.
        """
        if not self.open_sets:
            return None
        means: dict[str, dict[float, float | None]] = {}
        for name in ("tar", "dir"):
            means[name] = {}
            for far in FARS:
                rates = [getattr(one, name)[far] for one in self.open_sets]
                told = None not in rates
                means[name][far] = float(np.mean(rates)) if told else None
        return means

    def _open_figures(self) -> dict[str, object] | None:
        means = self.open_set()
        if means is None:
            return None
        by_name = {
            name: {f"{far:g}": rate for far, rate in rates.items()} for name, rates in means.items()
        }
        return {
            "mean": by_name,
            "tar_is": "share of pairs of one person above the similarity that a share of FAR of "
            "pairs of two exceeds",
            "dir_is": "share of queries of enrolled people right at rank 1 and above the "
            f"similarity that a share of FAR of strangers' queries exceeds; mean over {SPLITS} "
            "splits, half of the gallery's people enrolled",
            "runs": [
                {"run": run, **one.figures()}
                for run, one in zip(self.runs, self.open_sets, strict=True)
            ],
        }

    def figures(self) -> dict[str, object]:
        """For `--json`: mean, deviation and every run; rates are fractions."""
        reranking = self.reranking
        return {
            "protocol": self.protocol.name,
            "title": self.title,
            "query_modality": self.protocol.query_modality.value,
            "gallery_modality": self.protocol.gallery_modality.value,
            "distinct_identities": self.protocol.distinct_identities,
            "reranked": None
            if reranking is None
            else {"k1": reranking.k1, "k2": reranking.k2, "lambda": reranking.weight},
            "mean": self.mean(),
            "deviation": self.deviation(),
            "deviation_is": "sample standard deviation over runs (n - 1)",
            "runs": [
                {"run": run, **ranking.figures()}
                for run, ranking in zip(self.runs, self.rankings, strict=True)
            ],
            "open_set": self._open_figures(),
        }


class Distances:
    """Distances between the modalities of embedded samples, each block worked out once."""

    def __init__(
        self,
        query_embeddings: Embeddings,
        query_samples: Sequence[Sample],
        gallery_embeddings: Embeddings,
        gallery_samples: Sequence[Sample],
    ) -> None:
        """Embeddings (Q, D) and (G, D) of unit length, one for each sample.

        Raises: OptionError if their numbers differ.
        """
        for embeddings, samples, part in (
            (query_embeddings, query_samples, "query"),
            (gallery_embeddings, gallery_samples, "gallery"),
        ):
            if len(embeddings) != len(samples):
                raise OptionError(f"{len(embeddings)} {part} embeddings for {len(samples)} samples")
        self._query = {one: _side(query_embeddings, query_samples, one) for one in Modality}
        self._same = query_samples is gallery_samples and query_embeddings is gallery_embeddings
        self._gallery = (
            self._query
            if self._same
            else {one: _side(gallery_embeddings, gallery_samples, one) for one in Modality}
        )
        self._between: dict[Modality, NDArray[np.float32]] = {}

    def sides(self, query_modality: Modality) -> tuple[list[Sample], list[Sample]]:
        """The queries of one modality, and the gallery of the other: rows and columns below."""
        return self._query[query_modality].samples, self._gallery[query_modality.other].samples

    def between(self, query_modality: Modality) -> NDArray[np.float32]:
        """Negative cosine of each query with each gallery image, (Q, G)."""
        if query_modality not in self._between:
            reverse = self._between.get(query_modality.other)
            if self._same and reverse is not None:
                return np.asarray(reverse.T)
            query, gallery = self._query[query_modality], self._gallery[query_modality.other]
            cosines = similarity(query.embeddings, gallery.embeddings)
            self._between[query_modality] = np.negative(cosines, out=cosines)
        return self._between[query_modality]

    def within_queries(self, modality: Modality) -> NDArray[np.float32]:
        """Negative cosines among the queries of one modality, (Q, Q)."""
        return self._query[modality].within

    def within_gallery(self, modality: Modality) -> NDArray[np.float32]:
        """Negative cosines among the gallery images of one modality, (G, G)."""
        return self._gallery[modality].within

    def score(
        self, protocol: Protocol, *, reranking: Reranking | None = None, open_set: bool = False
    ) -> ProtocolResult:
        """One protocol; with `reranking` re-ranked, else with `open_set` those figures too.

        Raises: DatasetError if a side is empty or they share no identity.
        """
        one = protocol.query_modality
        queries, gallery = self.sides(one)
        if not queries or not gallery:
            protocol.trial(protocol.seeds[0], queries, gallery)  # raises, and says which is empty
        return _score(
            protocol,
            self.between(one),
            queries,
            gallery,
            reranking,
            (self.within_queries(one), self.within_gallery(one.other)) if reranking else None,
            open_set=open_set and reranking is None,
        )


def score(
    protocol: Protocol,
    query_embeddings: Embeddings,
    query_samples: Sequence[Sample],
    gallery_embeddings: Embeddings,
    gallery_samples: Sequence[Sample],
    *,
    reranking: Reranking | None = None,
) -> ProtocolResult:
    """All trials of a protocol on embeddings (Q, D) and (G, D) of unit length.

    Images are compared by their cosine. Samples that the protocol does not use are passed over.
    For several protocols on the same embeddings make one `Distances`, and call its `score`.
    Raises: DatasetError if a side is empty or they share no identity; OptionError for embeddings
    that do not fit their samples.
    """
    distances = Distances(query_embeddings, query_samples, gallery_embeddings, gallery_samples)
    return distances.score(protocol, reranking=reranking)


def score_distances(
    protocol: Protocol,
    distances: NDArray[np.floating],
    query_samples: Sequence[Sample],
    gallery_samples: Sequence[Sample],
) -> ProtocolResult:
    """All trials of a protocol on distances (Q, G), whatever made them; smaller is nearer.

    Raises: as `score`.
    """
    expected = (len(query_samples), len(gallery_samples))
    if distances.shape != expected:
        raise OptionError(f"distances have shape {distances.shape}; the samples need {expected}")
    return _score(protocol, distances, query_samples, gallery_samples, None, None)


def pool(results: Sequence[ProtocolResult], runs: Sequence[str]) -> ProtocolResult:
    """One result over several models, such as those of RegDB's splits.

    A model's own trials, if there are several, stay runs of their own.
    """
    rankings = tuple(ranking for result in results for ranking in result.rankings)
    names = tuple(
        run if len(result.rankings) == 1 else f"{run}, {own}"
        for result, run in zip(results, runs, strict=True)
        for own in result.runs
    )
    open_sets = tuple(one for result in results for one in result.open_sets)
    return ProtocolResult(results[0].protocol, rankings, names, results[0].reranking, open_sets)


class _Side:
    """The embeddings and samples of one modality."""

    def __init__(self, embeddings: Embeddings, samples: list[Sample]) -> None:
        self.embeddings = embeddings
        self.samples = samples

    @cached_property
    def within(self) -> NDArray[np.float32]:
        cosines = similarity(self.embeddings, self.embeddings)
        return np.negative(cosines, out=cosines)


def _side(embeddings: Embeddings, samples: Sequence[Sample], modality: Modality) -> _Side:
    rows = [row for row, sample in enumerate(samples) if sample.modality is modality]
    return _Side(embeddings[rows], [samples[row] for row in rows])


def _score(
    protocol: Protocol,
    distances: NDArray[np.floating],
    query_samples: Sequence[Sample],
    gallery_samples: Sequence[Sample],
    reranking: Reranking | None,
    within: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    *,
    open_set: bool = False,
) -> ProtocolResult:
    def rank(seed: int) -> tuple[Ranking, OpenSet | None]:
        trial = protocol.trial(seed, query_samples, gallery_samples)
        queries = [query_samples[row] for row in trial.queries]
        gallery = [gallery_samples[row] for row in trial.gallery]
        chosen = _block(distances, trial.queries, trial.gallery)
        if reranking and within:
            # from negative cosines to the squared Euclidean distances of unit vectors
            chosen = rerank(
                2 + 2 * chosen.astype(np.float32),
                2 + 2 * _block(within[0], trial.queries, trial.queries),
                2 + 2 * _block(within[1], trial.gallery, trial.gallery),
                reranking,
            )
        names = np.array([sample.identity for sample in (*queries, *gallery)])
        identities = np.unique(names, return_inverse=True)[1]
        query_ids, gallery_ids = identities[: len(queries)], identities[len(queries) :]
        excluded = protocol.excluded(queries, gallery)
        ranking = evaluate_ranking(
            chosen,
            query_ids,
            gallery_ids,
            excluded=excluded,
            distinct_identities=protocol.distinct_identities,
        )
        if not open_set:
            return ranking, None
        # strangers are drawn anew in each trial, as its gallery is
        return ranking, evaluate_open_set(
            -chosen, query_ids, gallery_ids, excluded=excluded, seed=seed
        )

    # numpy sorts without the interpreter's lock; re-ranking needs the memory for itself
    workers = 1 if reranking else min(_TRIALS_AT_ONCE, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool_of_threads:
        found = tuple(pool_of_threads.map(rank, protocol.seeds))
    runs = tuple(f"seed {seed}" if protocol.draw else "all images" for seed in protocol.seeds)
    rankings = tuple(ranking for ranking, _ in found)
    open_sets = tuple(one for _, one in found if one is not None)
    return ProtocolResult(protocol, rankings, runs, reranking, open_sets)


def _block(
    table: NDArray[np.floating], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.floating]:
    """table[rows, columns], without a copy of rows that are all there."""
    if len(rows) != len(table) or (rows != np.arange(len(table))).any():
        table = table[rows]
    if len(columns) == table.shape[1] and (columns == np.arange(len(columns))).all():
        return table
    return np.take(table, columns, axis=1)
