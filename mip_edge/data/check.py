"""A data set looked through before it is trained on: counts, known totals, every image decoded."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from mip_edge.data import sysu
from mip_edge.data.dataset import Dataset, Sample
from mip_edge.data.folder import PARTS
from mip_edge.data.image import read_image
from mip_edge.data.readers import read_dataset
from mip_edge.data.regdb import SPLITS
from mip_edge.errors import ImageError, OptionError
from mip_edge.spec import Modality

_I, _V = Modality.INFRARED, Modality.VISIBLE
_SHOWN = 20
"""Unreadable images that the terminal shows before it only counts them."""

# The README of SYSU-MM01 counts every image in the folders, and those of people in no list are
# among them; training and test use fewer, and these are the numbers that published runs logged.
_IDENTITIES = {
    "sysu": {"train": 395, "test": 96},
    "regdb": {"train": 206, "test": 206},
    "llcm": {"train": 713, "test": 351},
}
_IMAGES = {
    "sysu": {("train", _I): 11909, ("train", _V): 22258, ("test", _I): 3803, ("test", _V): 6775},
    "regdb": {(part, light): 2060 for part in ("train", "test") for light in (_I, _V)},
    "llcm": {("train", _I): 13975, ("train", _V): 16946, ("test", _I): 7166, ("test", _V): 8680},
}
_SYSU_FOLDERS = {_I: 15792, _V: 30071}


@dataclass(frozen=True, slots=True)
class Count:
    """What one part has in one light."""

    part: str
    modality: str
    identities: int
    images: int
    cameras: dict[str, int]
    """Images of each camera; empty where the data set does not tell cameras."""


@dataclass(frozen=True, slots=True)
class Total:
    """One number that is known of the whole data set."""

    what: str
    found: int
    known: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """One image that cannot be decoded, and why."""

    path: str
    reason: str


@dataclass(slots=True)
class CheckReport:
    """What `check_dataset` found."""

    dataset: str
    root: str
    counts: list[Count]
    totals: list[Total] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """What is wrong or not there, one sentence each."""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing, and no fault."""
    unreadable: list[Unreadable] = field(default_factory=list)
    decoded: int = 0
    seconds: float = 0.0
    workers: int = 0

    @property
    def images_per_second(self) -> float:
        """Images read from disk and decoded in a second, 0 if none were."""
        return self.decoded / self.seconds if self.seconds else 0.0

    @property
    def sound(self) -> bool:
        """Nothing is missing, every image opens, and the known totals are met."""
        return not (self.missing or self.unreadable)

    def figures(self) -> dict[str, object]:
        """All of it, as JSON takes it."""
        return {
            **asdict(self),
            "images_per_second": round(self.images_per_second, 1),
            "sound": self.sound,
        }


def check_dataset(
    kind: str,
    root: Path,
    *,
    split: int | None = None,
    workers: int = 2,
    decode: bool = True,
    totals: bool = True,
) -> CheckReport:
    """Counts, compares with the known totals and decodes every image with `workers` threads.

    Of RegDB every split is read (or `split` alone), its first one counted, and each image decoded
    once. A part that a "folder" has not got is a note: training and scoring need different parts.
    Raises: DatasetError where the layout is not that of the data set, OptionError for a split where
    there are none.
    """
    if split is not None and kind != "regdb":
        raise OptionError(f"--split is for regdb, --dataset {kind} has none")
    splits = list(SPLITS) if split is None and kind == "regdb" else [split or 1]
    parts = [part for part in PARTS if kind != "folder" or (root / part).is_dir()] or list(PARTS)
    report = CheckReport(dataset=kind, root=str(root), counts=[])
    paths: dict[Path, None] = {}
    for number in splits:
        dataset = read_dataset(kind, root, split=number, parts=parts)
        place = f"split {number}, " if kind == "regdb" else ""
        counts = _count(dataset)
        if not report.counts:
            report.counts = counts
        if totals and kind in _IMAGES:
            _compare(report, counts, _named(dataset), place)
        for part, samples in _named(dataset).items():
            repeated = len(samples) - len({sample.path for sample in samples})
            if repeated:
                report.missing.append(f"{place}{part}: {repeated} images are listed twice")
            paths.update(dict.fromkeys(sample.path for sample in samples))
    if len(splits) > 1:
        report.notes.append(f"these are the counts of split 1; splits 1 to {splits[-1]} were read")
    report.notes += [f"there is no {part} part" for part in PARTS if part not in parts]
    if kind == "sysu" and totals:
        report.notes += _compare_folders(root)
    if decode:
        _decode(report, list(paths), workers)
    return report


def format_report(report: CheckReport) -> str:
    """The report for a terminal, the first unreadable images alone."""
    rows = [("part", "light", "identities", "images", "cameras")]
    for one in report.counts:
        cameras = ", ".join(f"{name} {count:,}" for name, count in one.cameras.items())
        rows.append(
            (one.part, one.modality, f"{one.identities:,}", f"{one.images:,}", cameras or "-")
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{part:<{widths[0]}}  {light:<{widths[1]}}  {identities:>{widths[2]}}  "
        f"{images:>{widths[3]}}  {cameras}"
        for part, light, identities, images, cameras in rows
    ]
    if report.totals:
        met = sum(total.found == total.known for total in report.totals)
        advice = "" if met == len(report.totals) else "; a subset takes --no-totals"
        lines.append(f"{met} of {len(report.totals)} known totals met{advice}")
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"wrong: {what}" for what in report.missing]
    lines += [f"unreadable: {image.reason}" for image in report.unreadable[:_SHOWN]]
    if len(report.unreadable) > _SHOWN:
        lines.append(f"and {len(report.unreadable) - _SHOWN:,} more; --json lists them all")
    if report.workers:
        lines.append(
            f"{report.decoded:,} images decoded, {len(report.unreadable):,} unreadable; "
            f"{report.images_per_second:,.0f} images/s with {report.workers} workers"
        )
    else:
        lines.append("no image was decoded (--no-decode)")
    lines.append("sound" if report.sound else "not sound")
    return "\n".join(lines)


def _named(dataset: Dataset) -> dict[str, Sequence[Sample]]:
    """The parts under their names: one "test" where query and gallery are one list."""
    if dataset.query is dataset.gallery:
        named: dict[str, Sequence[Sample]] = {"train": dataset.train, "test": dataset.query}
    else:
        named = {part: getattr(dataset, part) for part in PARTS}
    return {part: samples for part, samples in named.items() if samples}


def _count(dataset: Dataset) -> list[Count]:
    counts = []
    for part, samples in _named(dataset).items():
        for modality in (_I, _V):
            chosen = [sample for sample in samples if sample.modality is modality]
            cameras = Counter(sample.camera for sample in chosen if sample.camera is not None)
            counts.append(
                Count(
                    part,
                    modality.value,
                    len({sample.identity for sample in chosen}),
                    len(chosen),
                    dict(sorted(cameras.items())),
                )
            )
    return counts


def _compare(
    report: CheckReport, counts: Iterable[Count], named: dict[str, Sequence[Sample]], place: str
) -> None:
    found = [
        Total(
            f"{place}{part} identities",
            len({sample.identity for sample in samples}),
            _IDENTITIES[report.dataset][part],
        )
        for part, samples in named.items()
    ]
    found += [
        Total(
            f"{place}{one.part} {one.modality} images",
            one.images,
            _IMAGES[report.dataset][one.part, Modality(one.modality)],
        )
        for one in counts
    ]
    report.totals += found
    for total in found:
        if total.found != total.known:
            much = f"{abs(total.known - total.found):,} "
            much += "missing" if total.found < total.known else "too many"
            report.missing.append(
                f"{total.what}: {total.found:,} of the {total.known:,} known, {much}"
            )


def _compare_folders(root: Path) -> list[str]:
    """The published size of SYSU-MM01 beside the images in its folders.

    No fault if they differ: nobody trains or scores on the images of people in no list.
    """
    return [
        f"{count:,} {modality.value} images in the folders of all people, in the lists or not; "
        f"published: {_SYSU_FOLDERS[modality]:,}"
        for modality, count in sysu.count_folders(root).items()
    ]


def _decode(report: CheckReport, paths: Sequence[Path], workers: int) -> None:
    """Reads every image, with a progress bar on a terminal."""

    def reason(path: Path) -> str | None:
        try:
            read_image(path)
        except ImageError as error:
            return str(error)
        return None

    started = time.perf_counter()
    # OpenCV lets go of the interpreter while it decodes
    with (
        Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress,
        ThreadPoolExecutor(workers) as pool,
    ):
        task = progress.add_task("decode", total=len(paths))
        try:
            for path, why in zip(paths, pool.map(reason, paths), strict=True):
                progress.advance(task)
                if why is not None:
                    report.unreadable.append(Unreadable(str(path), why))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    report.seconds = time.perf_counter() - started
    report.decoded = len(paths) - len(report.unreadable)
    report.workers = workers
