"""Crops of any size and either modality to embeddings of one space, whatever engine runs them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engines.base import Engine, UnifiedEngine
from engines.gpu_crop import FrameBox, GpuLane, cut_boxes, open_lane
from engines.table import (
    DEFAULT_ENGINE,
    DEFAULT_PRECISION,
    check_options,
    open_engine,
    open_source,
    open_unified,
    settle,
)
from mip_edge.artifact import Bundle
from mip_edge.errors import BundleError, EngineError, OptionError
from mip_edge.preprocess import prepare, prepare_mixed
from mip_edge.spec import Crop, EmbedderSpec, Embeddings, Modality
from mip_edge.thresholds import Thresholds

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

_CROPS_AT_ONCE = 64
"""Crops that are prepared together, so that a long list does not fill the memory."""


class Embedder:
    """One model for crops of both modalities; a bundle's engines are opened when first needed.

    A bundle of the layout `unified` has one engine for both: its weights are in memory once, and
    crops of mixed modalities are embedded in mixed batches. Any other has one for each modality.
    """

    def __init__(
        self,
        specs: Mapping[Modality, EmbedderSpec],
        *,
        source: Path | Bundle | None = None,
        engine: str = DEFAULT_ENGINE,
        threads: int | None = None,
        precision: str = DEFAULT_PRECISION,
        options: Mapping[str, Any] | None = None,
        engines: Mapping[Modality, Engine] | None = None,
        min_similarity: float | None = None,
        thresholds: Thresholds | None = None,
    ) -> None:
        """For engines of one's own (such as `FakeEngine`); else use `Embedder.open`."""
        self.specs = dict(specs)
        self.min_similarity = min_similarity
        self.thresholds = thresholds
        self._source = source
        self._opening: dict[str, Any] = {
            "engine": engine,
            "threads": threads,
            "precision": precision,
            **(options or {}),
        }
        self._unified: UnifiedEngine | None = None
        self._engines: dict[Modality, Engine] = dict(engines or {})
        self._lanes: dict[Modality, GpuLane | None] = {}
        self._closed = False

    @classmethod
    def open(
        cls,
        path: str | Path | Bundle,
        engine: str = DEFAULT_ENGINE,
        *,
        threads: int | None = None,
        precision: str = DEFAULT_PRECISION,
        share_weights: bool = False,
        **options: Any,
    ) -> Embedder:
        """Open a bundle folder, or a checkpoint with the engine `torch`.

        `precision` is that of the graphs; `fp16` is made for GPUs, on a CPU it is mostly slower.
        `auto`, as the engine, the precision or both, is settled here, by measuring once.
        `share_weights` (onnxruntime) keeps the weights of both modalities in memory once, for a
        somewhat slower call. `options` go to `open_engine`: `torch` knows `camera` and `device`.
        Raises: BundleError, CheckpointError or EngineError with the way out.
        """
        source = open_source(path, engine)
        asked = {**options, "share_weights": True} if share_weights else options
        check_options(engine, threads=threads, precision=precision, options=asked)
        if isinstance(source, Path):
            return cls._open_checkpoint(source, engine, threads, asked)
        engine, precision = settle(source, engine, precision, threads=threads, options=asked)
        for modality in source.manifest.specs:
            source.graph_path(modality, precision)
        learnt = source.manifest.learnt
        return cls(
            source.manifest.specs,
            source=source,
            engine=engine,
            threads=threads,
            precision=precision,
            options=asked,
            min_similarity=source.manifest.min_similarity,
            thresholds=None if learnt is None else learnt.thresholds(),
        )

    @property
    def dimension(self) -> int:
        """Length of an embedding, of either modality."""
        return next(iter(self.specs.values())).dimension

    @property
    def engine(self) -> str:
        """The runtime; of `auto`, what was taken."""
        return str(self._opening["engine"])

    @property
    def precision(self) -> str:
        """That of the graphs; of `auto`, what was taken."""
        return str(self._opening["precision"])

    @property
    def fingerprint(self) -> str:
        """What a gallery compares before it takes an embedding."""
        return next(iter(self.specs.values())).fingerprint

    def embed(self, crops: Sequence[Crop], modality: Modality | Sequence[Modality]) -> Embeddings:
        """Embeddings in the order of the crops, (N, D) float32, rows of unit length.

        `modality` is that of all crops, or one for each.
        Raises: ImageError for a crop that is none; OptionError if the modalities do not fit.
        """
        if isinstance(modality, Modality):
            if not self._is_unified:
                return self._embed_alike(crops, modality)
            modality = [modality] * len(crops)
        _check_modalities(crops, modality)
        if self._is_unified:
            return self._embed_mixed(crops, modality)
        embeddings = np.zeros((len(crops), self.dimension), dtype=np.float32)
        for one in Modality:
            rows = [row for row, its_modality in enumerate(modality) if its_modality is one]
            if rows:
                embeddings[rows] = self._embed_alike([crops[row] for row in rows], one)
        return embeddings

    def embed_boxes(
        self, frames: Sequence[NDArray[np.uint8]], boxes: Sequence[FrameBox], modality: Modality
    ) -> Embeddings:
        """Embeddings of boxes in frames of one modality, (N, D) float32, rows of unit length.

        An engine on a GPU (tensorrt, tensorrt-rtx) gets each frame once, and the crops are cut and
        prepared there, to one grey level as they are here for all others; a log line says so.
        Raises: ImageError for a box without pixels or what is no frame; EngineError.
        """
        lane = self._lane_of(modality)
        if lane is not None:
            return lane.embed(frames, boxes)
        return self.embed(cut_boxes(frames, boxes), modality)

    def close(self) -> None:
        """Close the engines; closing twice is allowed."""
        with ExitStack() as stack:
            for engine in (*self._engines.values(), self._unified):
                if engine is not None:
                    stack.callback(engine.close)
            lanes = [lane for lane in self._lanes.values() if lane is not None]
            for cropper in {id(lane.cropper): lane.cropper for lane in lanes}.values():
                stack.callback(cropper.close)
            self._lanes = {}
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @classmethod
    def _open_checkpoint(
        cls, path: Path, engine: str, threads: int | None, options: Mapping[str, Any]
    ) -> Embedder:
        """Both engines at once: a checkpoint's spec is known only when it is read."""
        engines = {
            modality: open_engine(
                path, modality=modality, engine=engine, threads=threads, **options
            )
            for modality in Modality
        }
        from mip_edge.checkpoint import read_metadata  # torch is loaded only on this way

        return cls(
            {modality: opened.spec for modality, opened in engines.items()},
            engine=engine,
            engines=engines,
            min_similarity=read_metadata(path).get("min_similarity"),
        )

    def _embed_alike(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
        engine = self._engine_of(modality)
        parts = [
            engine.embed(prepare(crops[start : start + _CROPS_AT_ONCE], engine.spec))
            for start in range(0, len(crops), _CROPS_AT_ONCE)
        ]
        if not parts:
            return np.zeros((0, engine.spec.dimension), dtype=np.float32)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _embed_mixed(self, crops: Sequence[Crop], modalities: Sequence[Modality]) -> Embeddings:
        engine = self._engine_of_both()
        embeddings = np.empty((len(crops), self.dimension), dtype=np.float32)
        for start in range(0, len(crops), _CROPS_AT_ONCE):
            rows = slice(start, start + _CROPS_AT_ONCE)
            batch = prepare_mixed(crops[rows], modalities[rows], self.specs)
            embeddings[rows] = engine.embed(batch, modalities[rows])
        return embeddings

    @property
    def _is_unified(self) -> bool:
        return isinstance(self._source, Bundle) and self._source.unified

    def _lane_of(self, modality: Modality) -> GpuLane | None:
        """The way over the GPU, where the engine has one."""
        self._check_open()
        if modality not in self._lanes:
            self._lanes[modality] = self._open_lane(modality)
        return self._lanes[modality]

    def _open_lane(self, modality: Modality) -> GpuLane | None:
        engine = self._engine_of_both() if self._is_unified else self._engine_of(modality)
        told = bool(self._lanes)  # of the other modality
        try:
            lane = open_lane(engine, modality, [lane for lane in self._lanes.values() if lane])
        except (EngineError, OptionError) as error:
            # Nobody asked for it, and the engine itself runs: slower is no reason to stop.
            if not told:
                logger.warning("crops are cut and prepared on the CPU: %s", error)
            return None
        if lane is not None and not told:
            where = lane.engine.device.facts.device
            logger.info("crops are cut and prepared on the GPU (%s)", where)
        return lane

    def _engine_of_both(self) -> UnifiedEngine:
        self._check_open()
        if self._unified is None:
            assert self._source is not None  # only a bundle is unified
            self._unified = open_unified(self._source, **self._opening)
        return self._unified

    def _engine_of(self, modality: Modality) -> Engine:
        self._check_open()
        if modality not in self._engines:
            if modality not in self.specs or self._source is None:
                known = ", ".join(known.value for known in self.specs)
                raise BundleError(f"no engine for {modality.value} crops here; there is: {known}")
            self._engines[modality] = open_engine(self._source, modality=modality, **self._opening)
        return self._engines[modality]

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("this embedder is closed; open it anew with Embedder.open")


def _check_modalities(crops: Sequence[Crop], modalities: Sequence[Modality]) -> None:
    """Raises: OptionError if there is not one Modality for each crop."""
    if isinstance(modalities, str):
        came = repr(modalities)
    elif len(modalities) != len(crops):
        came = f"{len(modalities)}"
    elif other := [one for one in modalities if not isinstance(one, Modality)]:
        came = repr(other[0])
    else:
        return
    raise OptionError(
        f"modality {came} for {len(crops)} crops; expected a Modality, or one for each"
    )
