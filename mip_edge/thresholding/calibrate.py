"""From a bundle and a data set to the same bundle with a threshold for each pair of lights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from engines.table import DEFAULT_ENGINE, DEFAULT_PRECISION
from mip_edge import __version__
from mip_edge.artifact import open_bundle, rewrite_bundle
from mip_edge.embedder import Embedder
from mip_edge.errors import OutputError
from mip_edge.evaluate.embed import embed_samples
from mip_edge.thresholding.chart import check_drawing, draw_thresholds
from mip_edge.thresholding.learning import (
    BINS,
    Learning,
    LearningOptions,
    check_far,
    learn_thresholds,
)
from mip_edge.thresholding.people import choose_people
from mip_edge.thresholds_record import FIGURES, PICTURE, LearntThresholds

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PeopleOptions:
    """On whom thresholds are learnt."""

    dataset: str = "folder"
    """Kind of the data set."""
    split: int = 1
    """Of RegDB."""
    part: str = "validation"
    """`validation` or `test`, as `choose_people` says."""
    never_seen: bool = False
    """The model knows nobody in the data, by the word of whoever asks."""


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What was learnt, and where it stands now."""

    bundle: Path
    fingerprint: str
    record: LearntThresholds
    learning: Learning
    min_similarity: float | None
    """The one threshold that the model came with."""

    def figures(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "bundle": str(self.bundle),
            "min_similarity": self.min_similarity,
            **curves_of(self.fingerprint, self.record, self.learning),
        }


def calibrate_thresholds(
    bundle: str | Path,
    data: str | Path,
    options: LearningOptions | None = None,
    people: PeopleOptions | None = None,
    *,
    output: str | Path | None = None,
    engine: str = DEFAULT_ENGINE,
    precision: str = DEFAULT_PRECISION,
    engine_options: Mapping[str, Any] | None = None,
    batch: int = 32,
    overwrite: bool = False,
) -> CalibrationReport:
    """Learn thresholds on people the model has never seen, and write them into the bundle.

    The bundle is written anew beside itself (or as `output`) and renamed when it is whole; what
    was in it stays as it was to the byte, thresholds.json, thresholds.png and manifest.json are
    new, and the fingerprint is the same. It fails, and nothing changes, as told below.
    Raises: BundleError, DatasetError, OptionError, EngineError; OutputError if thresholds were
    learnt before or `output` exists (both without `overwrite`), or a place cannot be written.
    """
    options, people = options or LearningOptions(), people or PeopleOptions()
    source = open_bundle(bundle)
    target = source.path if output is None else Path(output)
    _check_target(source.path, source.manifest.learnt, target, overwrite=overwrite)
    check_drawing()
    chosen = choose_people(
        source,
        Path(data),
        dataset=people.dataset,
        split=people.split,
        part=people.part,
        never_seen=people.never_seen,
    )
    identities = [sample.identity for sample in chosen.samples]
    modalities = [sample.modality for sample in chosen.samples]
    check_far(identities, modalities, options.far)
    with Embedder.open(source, engine, precision=precision, **dict(engine_options or {})) as found:
        embeddings = embed_samples(found, chosen.samples, batch=batch)
    console = Console(stderr=True)
    with console.status("learning thresholds") if console.is_terminal else nullcontext():
        learning = learn_thresholds(embeddings, identities, modalities, chosen.sessions, options)
    for line in learning.warnings:
        logger.warning("%s", line)
    record = LearntThresholds(
        far=options.far,
        pairs=learning.pairs,
        data=chosen.record,
        options={
            "crops_per_query": options.crops_per_query,
            "prototypes": options.prototypes,
            "rounds": options.rounds,
            "bootstrap": options.bootstrap,
            "seed": options.seed,
            "engine": engine,
            "precision": precision,
        },
        made_by=f"mip-edge {__version__}",
    )
    fingerprint = source.manifest.fingerprint
    title = (
        f"Thresholds at FAR {options.far:g}: {chosen.record['identities']} people of "
        f"{chosen.record['folder']}, model {fingerprint[:12]}"
    )
    manifest = replace(source.manifest, learnt=record)
    with rewrite_bundle(source, manifest, target, overwrite=overwrite) as draft:
        document = curves_of(fingerprint, record, learning)
        (draft / FIGURES).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        draw_thresholds(learning, options.far, draft / PICTURE, title=title)
    return CalibrationReport(target, fingerprint, record, learning, source.manifest.min_similarity)


def curves_of(fingerprint: str, record: LearntThresholds, learning: Learning) -> dict[str, object]:
    """The document thresholds.json; equal input gives equal bytes, no clock and no path."""
    return {
        "format": "mip-edge thresholds",
        "fingerprint": fingerprint,
        **record.to_dict(),
        "single": {
            "threshold": learning.single.threshold,
            "far": {pair.value: rate for pair, rate in learning.single.far.items()},
        },
        "strangers": {"enrolled": learning.enrolled, "accepted": round(learning.strangers, 6)},
        "warnings": list(learning.warnings),
        "curves": {
            pair.value: {
                "histogram": {
                    "from": -1.0,
                    "to": 1.0,
                    "bins": BINS,
                    "genuine": list(curve.genuine),
                    "impostor": list(curve.impostor),
                },
                "roc": {
                    "far": list(curve.far),
                    "threshold": list(curve.threshold),
                    "tar": list(curve.tar),
                },
            }
            for pair, curve in learning.curves.items()
        },
    }


def format_calibration(report: CalibrationReport) -> str:
    """The thresholds as a table for a person, and what they mean in use."""
    record, learning = report.record, report.learning
    heads = ("", "threshold", "95% interval", "FAR", "TAR", "95% interval", "genuine", "impostor")
    lines = [heads]
    for pair, one in record.pairs.items():
        known = one.tar is not None and one.tar_low is not None and one.tar_high is not None
        lines.append(
            (
                pair.value,
                f"{one.threshold:.3f}",
                f"{one.threshold_low:.3f} to {one.threshold_high:.3f}",
                f"{100 * one.far:.3g}%",
                "none" if one.tar is None else f"{100 * one.tar:.1f}%",
                f"{100 * one.tar_low:.1f} to {100 * one.tar_high:.1f}%"
                if known and one.tar_low is not None and one.tar_high is not None
                else "none",
                f"{one.genuine:,}",
                f"{one.impostor:,}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    table = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
    data = record.data
    single = ", ".join(
        f"{pair.value} {100 * rate:.3g}%" for pair, rate in learning.single.far.items()
    )
    crops, prototypes = record.options["crops_per_query"], record.options["prototypes"]
    notes = (
        f"Learnt on {data['crops']} crops of {data['identities']} people the model has never seen "
        f"({data['held_out']}), {data['part']} part of {data['folder']}.\n"
        f"Compared as a live run does: the mean of {crops} crops with the nearest of up to "
        f"{prototypes} prototypes.\n"
        f"One threshold for all, {learning.single.threshold:.3f}, would have FAR {single}.\n"
        f"FAR is of one comparison: with {learning.enrolled} others enrolled in both lights, "
        f"{100 * learning.strangers:.1f}% of strangers' tracklets are taken for one of them.\n"
        f"{report.bundle}: {FIGURES}, {PICTURE} and manifest.json are new."
    )
    return "\n".join([*table, "", notes])


def _check_target(
    bundle: Path, learnt: LearntThresholds | None, target: Path, *, overwrite: bool
) -> None:
    """Before anything is embedded. Raises: OutputError."""
    if overwrite:
        return
    if target.resolve() != bundle.resolve():
        if target.exists() or target.is_symlink():
            raise OutputError(f"{target} exists already; choose another place or add --overwrite")
    elif learnt is not None:
        raise OutputError(
            f"{bundle} holds thresholds {learnt.thresholds().origin}; add --overwrite to learn "
            "them anew, or name another --output"
        )
