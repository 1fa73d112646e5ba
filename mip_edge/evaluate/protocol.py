"""The protocols of the field as values: who meets whom in each trial, and what counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mip_edge.data.dataset import Sample
from mip_edge.errors import DatasetError, OptionError
from mip_edge.evaluate.draw import OFFICIAL_SEEDS, Draw, draw_rows
from mip_edge.spec import Modality

TRIALS = 10
OFFICIAL = "official-mip"
"""Name of all four protocols of the published MIP code together."""
_SYSU_INFRARED = ("cam3", "cam6")
_SYSU_VISIBLE = {"all": ("cam1", "cam2", "cam4", "cam5"), "indoor": ("cam1", "cam2")}


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: rows of the query samples, and rows of the gallery samples that they meet."""

    queries: NDArray[np.int64]
    gallery: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a data set is scored; it knows identities, modalities and cameras, never a model."""

    name: str
    """As `--protocol` takes it."""
    title: str
    """As a table writes it."""
    query_modality: Modality
    query_cameras: tuple[str, ...] | None = None
    """Cameras of the queries; None for all."""
    gallery_cameras: tuple[str, ...] | None = None
    """Cameras of the gallery, in the order in which a draw goes through them; None for all."""
    draw: Draw | None = None
    """How the gallery of a trial is drawn; None takes every image."""
    draws_queries: bool = False
    """The draw chooses the queries, and the gallery is every image."""
    seeds: tuple[int, ...] = (0,)
    """One for each trial."""
    skipped_cameras: tuple[tuple[str, str], ...] = ()
    """(query camera, gallery camera) that never meet."""
    skips_own_camera: bool = False
    """A gallery image of the query's own identity and camera does not count."""
    distinct_identities: bool = False
    """Rank-k counts the identities of a list, not its images."""
    standard: bool = True
    """Whether it runs when no protocol is named."""
    beside: str | None = None
    """The standard protocol that is always scored beside this one."""

    @property
    def gallery_modality(self) -> Modality:
        """The modality that is searched."""
        return self.query_modality.other

    def with_trials(self, trials: int) -> Protocol:
        """The same with `trials` drawn galleries (seeds 0, 1, ...); a fixed one stays one.

        Raises: OptionError for fewer than one.
        """
        if trials < 1:
            raise OptionError(f"--trials must be at least 1, got {trials}")
        if self.draw not in (Draw.SINGLE, Draw.MULTI):
            return self
        return replace(self, seeds=tuple(range(trials)))

    def trial(
        self, seed: int, query_samples: Sequence[Sample], gallery_samples: Sequence[Sample]
    ) -> Trial:
        """Rows of one trial; samples of other modalities and cameras are passed over.

        Raises: DatasetError if a side is empty.
        """
        queries = _rows(query_samples, self.query_modality, self.query_cameras)
        gallery = _rows(gallery_samples, self.gallery_modality, self.gallery_cameras)
        for rows, part, modality in (
            (queries, "query", self.query_modality),
            (gallery, "gallery", self.gallery_modality),
        ):
            if len(rows) == 0:
                cameras = self.query_cameras if part == "query" else self.gallery_cameras
                where = f" of {', '.join(cameras)}" if cameras else ""
                raise DatasetError(
                    f"the {part} part has no {modality.value} images{where} to evaluate"
                )
        if self.draw is None:
            return Trial(queries, gallery)
        if self.draws_queries:
            return Trial(self._drawn(query_samples, queries, seed), gallery)
        return Trial(queries, self._drawn(gallery_samples, gallery, seed))

    def excluded(
        self, queries: Sequence[Sample], gallery: Sequence[Sample]
    ) -> NDArray[np.bool_] | None:
        """(Q, G), true where a gallery image does not count for a query; None if all count."""
        if not self.skipped_cameras and not self.skips_own_camera:
            return None
        query_cameras, gallery_cameras = _cameras(queries), _cameras(gallery)
        mask = np.zeros((len(queries), len(gallery)), dtype=np.bool_)
        for query_camera, gallery_camera in self.skipped_cameras:
            rows, columns = query_cameras == query_camera, gallery_cameras == gallery_camera
            mask |= rows[:, None] & columns[None, :]
        if self.skips_own_camera:
            taken = [f"{sample.identity}/{sample.camera}" for sample in (*queries, *gallery)]
            codes = np.unique(np.array(taken), return_inverse=True)[1]
            mask |= codes[: len(queries), None] == codes[None, len(queries) :]
        return mask

    def _drawn(
        self, samples: Sequence[Sample], rows: NDArray[np.int64], seed: int
    ) -> NDArray[np.int64]:
        assert self.draw is not None
        chosen = [samples[row] for row in rows]
        cameras = self.query_cameras if self.draws_queries else self.gallery_cameras
        if cameras is None:
            nameless = next((sample.path for sample in chosen if sample.camera is None), None)
            if nameless is not None:
                raise DatasetError(f"{nameless} has no camera, but {self.name} draws by camera")
            cameras = tuple(sorted({str(sample.camera) for sample in chosen}))
        return rows[draw_rows(chosen, cameras, self.draw, seed)]


def protocols_of(dataset: str) -> tuple[Protocol, ...]:
    """All protocols of a kind of data set, the standard ones first.

    SYSU-MM01: all search and indoor search, single-shot and multi-shot, ten drawn galleries; a
    query of camera 3 skips every image of camera 2, which stands in the same room; Rank-k counts
    identities (the README and evaluation of wuancong/SYSU-MM01). RegDB: both directions, every
    image, nothing excluded (AGW's eval_regdb). LLCM: both directions, ten galleries of one image
    of each identity and camera, own identity in own camera excluded, Rank-k counts identities
    (ZYK100/LLCM). There the reference code's "visible to infrared" swaps the sides after drawing:
    the drawn infrared images are its queries, and every visible image its gallery; that reading
    is `llcm-visible-to-infrared-transposed`, the one the name says `llcm-visible-to-infrared`.
    `official-mip-*`: the published MIP code's scoring of SYSU-MM01: one gallery of a fixed seed,
    camera 2 not skipped, Rank-k counts images; see `draw_rows` for what cannot be reproduced.
    Raises: OptionError for an unknown kind.
    """
    tables = {"folder": _folder, "sysu": _sysu, "regdb": _regdb, "llcm": _llcm}
    if dataset not in tables:
        raise OptionError(f"--dataset {dataset!r} is unknown; there are: {', '.join(tables)}")
    return tuple(tables[dataset]())


def choose_protocols(
    dataset: str, names: Sequence[str] = (), *, trials: int = TRIALS
) -> tuple[Protocol, ...]:
    """The protocols named, or all standard ones; one that is not standard brings its standard one.

    Raises: OptionError for a name that the data set does not have.
    """
    known = protocols_of(dataset)
    by_name = {protocol.name: protocol for protocol in known}
    groups = {OFFICIAL: [name for name in by_name if name.startswith(f"{OFFICIAL}-")]}
    chosen: set[str] = set()
    for name in names or [protocol.name for protocol in known if protocol.standard]:
        members = groups.get(name) or [name]
        if not set(members) <= set(by_name):
            offered = [*by_name, *(group for group, inside in groups.items() if inside)]
            raise OptionError(
                f"--protocol {name!r} is none of the data set {dataset}; "
                f"there are: {', '.join(offered)}"
            )
        chosen.update(members)
        chosen.update(str(by_name[member].beside) for member in members if by_name[member].beside)
    return tuple(protocol.with_trials(trials) for protocol in known if protocol.name in chosen)


def _directions(dataset: str) -> list[Protocol]:
    return [
        Protocol(f"{dataset}-{one.value}-to-{one.other.value}", _title(one), one)
        for one in (Modality.INFRARED, Modality.VISIBLE)
    ]


def _folder() -> list[Protocol]:
    return _directions("folder")


def _regdb() -> list[Protocol]:
    return _directions("regdb")


def _sysu() -> list[Protocol]:
    standard, official = [], []
    for search, cameras in _SYSU_VISIBLE.items():
        for shot, draw, official_draw in (
            ("single", Draw.SINGLE, Draw.OFFICIAL_SINGLE),
            ("multi", Draw.MULTI, Draw.OFFICIAL_MULTI),
        ):
            base = Protocol(
                f"sysu-{search}-{shot}",
                f"{search} search, {shot}-shot",
                Modality.INFRARED,
                _SYSU_INFRARED,
                cameras,
                draw,
                seeds=tuple(range(TRIALS)),
                skipped_cameras=(("cam3", "cam2"),),
                distinct_identities=True,
            )
            seed = OFFICIAL_SEEDS.get((search, shot), OFFICIAL_SEEDS["indoor", "single"])
            standard.append(base)
            official.append(
                replace(
                    base,
                    name=f"{OFFICIAL}-{search}-{shot}",
                    title=f"{base.title}, official MIP scoring",
                    draw=official_draw,
                    seeds=(seed,),
                    skipped_cameras=(),
                    skips_own_camera=True,
                    distinct_identities=False,
                    standard=False,
                    beside=base.name,
                )
            )
    return [*standard, *official]


def _llcm() -> list[Protocol]:
    forward, reverse = (
        replace(
            one,
            draw=Draw.SINGLE,
            seeds=tuple(range(TRIALS)),
            skips_own_camera=True,
            distinct_identities=True,
        )
        for one in _directions("llcm")
    )
    transposed = replace(
        forward,
        name="llcm-visible-to-infrared-transposed",
        title=f"{reverse.title}, transposed as in the reference code",
        draws_queries=True,
    )
    return [forward, reverse, transposed]


def _title(query: Modality) -> str:
    return f"{query.value} to {query.other.value}"


def _rows(
    samples: Sequence[Sample], modality: Modality, cameras: tuple[str, ...] | None
) -> NDArray[np.int64]:
    return np.array(
        [
            row
            for row, sample in enumerate(samples)
            if sample.modality is modality and (cameras is None or sample.camera in cameras)
        ],
        dtype=np.int64,
    )


def _cameras(samples: Sequence[Sample]) -> NDArray[np.str_]:
    return np.array([sample.camera or "" for sample in samples], dtype=np.str_)
