"""Evaluation of a model, or of embeddings saved before, by the protocols of a data set."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from engines.table import DEFAULT_PRECISION
from mip_edge.data.dataset import Dataset, Sample
from mip_edge.data.image import check_image_suffix, write_image
from mip_edge.data.readers import read_dataset
from mip_edge.data.regdb import SPLITS
from mip_edge.embedding import check_output
from mip_edge.errors import OptionError
from mip_edge.evaluate.camera import CameraPolicy, check_split
from mip_edge.evaluate.embed import embed_dataset, embed_samples
from mip_edge.evaluate.protocol import TRIALS, Protocol, choose_protocols
from mip_edge.evaluate.ranked import draw_ranked_lists
from mip_edge.evaluate.rerank import Reranking
from mip_edge.evaluate.scoring import Distances, ProtocolResult, pool
from mip_edge.evaluate.stored import STORED, DatasetEmbeddings, check_stored
from mip_edge.evaluate.table import format_results
from mip_edge.metrics import Ranking
from mip_edge.spec import Embeddings, Modality

__all__ = [
    "DirectionResult",
    "EvaluateOptions",
    "EvaluationReport",
    "embed_samples",
    "evaluate_embeddings",
    "evaluate_model",
    "evaluate_splits",
    "format_table",
]

SPLIT_MARK = "{split}"
"""Stands in the name of a model for the number of its split."""


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What is scored, and how."""

    dataset: str = "folder"
    """Kind of the data set: its layout and its protocols."""
    protocols: tuple[str, ...] = ()
    """Names of protocols; empty for all standard ones."""
    trials: int = TRIALS
    """Galleries that are drawn, where the protocol draws them."""
    split: int = 1
    """Of RegDB."""
    rerank: bool = False
    """Score the re-ranked lists too."""
    camera: str | None = None
    """Camera policy; None for `own` where the checkpoint knows the cameras, else `mean`."""

    def chosen(self) -> tuple[Protocol, ...]:
        """The protocols; raises OptionError if one is unknown, or the trials are too few."""
        return choose_protocols(self.dataset, self.protocols, trials=self.trials)


@dataclass(frozen=True, slots=True)
class DirectionResult:
    """How queries of one modality find their people in the other."""

    query_modality: Modality
    ranking: Ranking

    @property
    def gallery_modality(self) -> Modality:
        """The modality that is searched."""
        return self.query_modality.other

    @property
    def name(self) -> str:
        """As tables write it."""
        return f"{self.query_modality.value} to {self.gallery_modality.value}"


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """What a model, or one model for each split, reached on a data set."""

    model: str
    data: str
    dataset: str
    fingerprints: tuple[str, ...]
    """SHA-256 of each model."""
    camera: CameraPolicy
    results: tuple[ProtocolResult, ...]
    scoring_seconds: float
    """What the protocols took, without reading and embedding."""
    picture: str | None = None
    """The ranked-list picture, if one was asked for."""

    @property
    def directions(self) -> tuple[DirectionResult, ...]:
        """The first ranking of each protocol, for data sets whose protocols are the directions."""
        return tuple(
            DirectionResult(result.protocol.query_modality, result.rankings[0])
            for result in self.results
            if result.reranking is None
        )

    def figures(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "model": self.model,
            "fingerprints": list(self.fingerprints),
            "data": self.data,
            "dataset": self.dataset,
            "camera": {"policy": self.camera.policy, "reason": self.camera.reason},
            "results": [result.figures() for result in self.results],
            "scoring_seconds": round(self.scoring_seconds, 3),
            "picture": self.picture,
        }


def evaluate_embeddings(
    query_embeddings: Embeddings,
    query_samples: Sequence[Sample],
    gallery_embeddings: Embeddings,
    gallery_samples: Sequence[Sample],
) -> tuple[DirectionResult, ...]:
    """Both directions; embeddings (Q, D) and (G, D) of unit length, one for each sample.

    A query meets only the gallery's images of the other modality: the protocols of `folder`.
    Raises: DatasetError if a direction has no query, no gallery, or no identity in both.
    """
    distances = Distances(query_embeddings, query_samples, gallery_embeddings, gallery_samples)
    return tuple(
        DirectionResult(protocol.query_modality, distances.score(protocol).rankings[0])
        for protocol in choose_protocols("folder")
    )


def evaluate_model(
    path: str | Path,
    data: str | Path,
    options: EvaluateOptions | None = None,
    *,
    engine: str | None = None,
    precision: str = DEFAULT_PRECISION,
    engine_options: Mapping[str, Any] | None = None,
    batch: int = 32,
    picture: Path | None = None,
    picture_queries: int = 8,
    save_embeddings: Path | None = None,
    overwrite: bool = False,
) -> EvaluationReport:
    """Evaluates a bundle, a .safetensors checkpoint or saved embeddings (.npz) on `data`.

    `engine` None is torch for a checkpoint, the default engine for a bundle; `precision` is that
    of the bundle's graphs; `engine_options` are what `Embedder.open` takes beside. `picture` gets
    the ranked lists of `picture_queries` infrared queries, `save_embeddings` the embeddings.
    Raises: OptionError for a protocol, camera or file that does not go with the rest; DatasetError
    for a model that has learned from the people it would be tested on.
    """
    options = options or EvaluateOptions()
    protocols = options.chosen()
    path, root = Path(path), Path(data)
    _check_outputs(picture, save_embeddings, overwrite=overwrite)
    stored = path.suffix == STORED
    another = precision != DEFAULT_PRECISION or engine_options
    if stored and (save_embeddings or options.camera or engine or another):
        raise OptionError(
            f"{path} holds embeddings already: --save-embeddings, --engine-option, --camera, "
            "--engine and --precision are for a checkpoint or a bundle"
        )
    if not stored:
        check_split(path, options.dataset, options.split)
    dataset = read_dataset(options.dataset, root, split=options.split, parts=("query", "gallery"))
    if stored:
        embedded = DatasetEmbeddings.load(path, dataset, root)
    else:
        embedded = embed_dataset(
            path,
            dataset,
            engine=engine,
            precision=precision,
            engine_options=engine_options,
            batch=batch,
            camera=options.camera,
        )
    if save_embeddings is not None:
        embedded.save(save_embeddings, dataset, root, overwrite=overwrite)
    started = time.perf_counter()
    results = score_dataset(embedded, dataset, protocols, rerank=options.rerank)
    seconds = time.perf_counter() - started
    if picture is not None:
        lists = draw_ranked_lists(
            embedded.query, embedded.gallery, dataset, queries=picture_queries
        )
        write_image(picture, lists)
    return EvaluationReport(
        str(path),
        str(data),
        options.dataset,
        (embedded.fingerprint,),
        embedded.camera,
        results,
        seconds,
        None if picture is None else str(picture),
    )


def evaluate_splits(
    template: str,
    data: str | Path,
    options: EvaluateOptions,
    *,
    splits: Sequence[int] = SPLITS,
    engine: str | None = None,
    precision: str = DEFAULT_PRECISION,
    engine_options: Mapping[str, Any] | None = None,
    batch: int = 32,
    save_embeddings: Path | None = None,
    overwrite: bool = False,
) -> EvaluationReport:
    """RegDB as it is reported: a model for each split, and their mean and deviation.

    `template` is a path in which {split} stands for the number; so is `save_embeddings`.
    Raises: OptionError without {split}, for another data set, or for a model that is missing.
    """
    if options.dataset != "regdb":
        raise OptionError(f"--split all is for RegDB, which has splits; {options.dataset} has not")
    for flag, value in (("MODEL", template), ("--save-embeddings", save_embeddings)):
        if value is not None and SPLIT_MARK not in str(value):
            raise OptionError(
                f"--split all needs one {flag} for each split, with {SPLIT_MARK} for its number, "
                f"such as runs/regdb-{SPLIT_MARK}/best.safetensors; got {value}"
            )
    models = [fill_split(template, split) for split in splits]
    missing = [str(model) for model in models if not model.exists()]
    if missing:
        raise OptionError(f"{len(missing)} of {len(models)} models are missing: {missing[0]}")
    reports = [
        evaluate_model(
            model,
            data,
            replace(options, split=split),
            engine=engine,
            precision=precision,
            engine_options=engine_options,
            batch=batch,
            save_embeddings=save_embeddings and fill_split(str(save_embeddings), split),
            overwrite=overwrite,
        )
        for model, split in zip(models, splits, strict=True)
    ]
    names = [f"split {split}" for split in splits]
    return replace(
        reports[0],
        model=template,
        fingerprints=tuple(print_ for report in reports for print_ in report.fingerprints),
        results=tuple(
            pool(results, names)
            for results in zip(*(report.results for report in reports), strict=True)
        ),
        scoring_seconds=sum(report.scoring_seconds for report in reports),
    )


def score_dataset(
    embedded: DatasetEmbeddings,
    dataset: Dataset,
    protocols: Sequence[Protocol],
    *,
    rerank: bool = False,
) -> tuple[ProtocolResult, ...]:
    """Each protocol on the embeddings of a data set, with open-set figures; with `rerank` its
    re-ranked lists after it.

    Re-ranking takes seconds a trial at SYSU-MM01's size; on a terminal a progress bar shows.
    """
    distances = Distances(embedded.query, dataset.query, embedded.gallery, dataset.gallery)
    passes = [None, Reranking()] if rerank else [None]
    work = [(protocol, reranking) for protocol in protocols for reranking in passes]
    steps = track(
        work,
        description="scoring",
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    return tuple(
        distances.score(protocol, reranking=reranking, open_set=True)
        for protocol, reranking in steps
    )


def fill_split(template: str, split: int) -> Path:
    """The path with the number of a split in the place of {split}."""
    return Path(template.replace(SPLIT_MARK, str(split)))


def format_table(report: EvaluationReport) -> str:
    """The report as a table for a person, rates in per cent."""
    lines = format_results(report.results)
    lines.append(f"Camera embedding: {report.camera.policy} ({report.camera.reason}).")
    if report.picture:
        lines.append(f"Ranked lists: {report.picture}")
    lines.append(f"Scored in {report.scoring_seconds:.1f} s.")
    return "\n".join(lines)


def _check_outputs(picture: Path | None, save_embeddings: Path | None, *, overwrite: bool) -> None:
    if picture is not None:
        check_image_suffix(picture)
        check_output(picture, overwrite=overwrite)
    if save_embeddings is not None:
        check_stored(save_embeddings, overwrite=overwrite)
