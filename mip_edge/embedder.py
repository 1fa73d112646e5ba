"""Crops of any size and either modality to embeddings of one space, whatever engine runs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.base import Engine
from engines.table import DEFAULT_ENGINE, open_engine, open_source
from mip_edge.artifact import Bundle
from mip_edge.errors import BundleError, EngineError, OptionError
from mip_edge.preprocess import prepare
from mip_edge.spec import Crop, EmbedderSpec, Embeddings, Modality

if TYPE_CHECKING:
    from typing_extensions import Self

_CROPS_AT_ONCE = 64
"""Crops that are prepared together, so that a long list does not fill the memory."""


class Embedder:
    """One model with an engine for each modality; a bundle's are opened when first needed."""

    def __init__(
        self,
        specs: Mapping[Modality, EmbedderSpec],
        *,
        source: Path | Bundle | None = None,
        engine: str = DEFAULT_ENGINE,
        threads: int | None = None,
        engines: Mapping[Modality, Engine] | None = None,
        min_similarity: float | None = None,
    ) -> None:
        """For engines of one's own (such as `FakeEngine`); else use `Embedder.open`."""
        self.specs = dict(specs)
        self.min_similarity = min_similarity
        self._source = source
        self._engine = engine
        self._threads = threads
        self._engines: dict[Modality, Engine] = dict(engines or {})
        self._closed = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        engine: str = DEFAULT_ENGINE,
        *,
        threads: int | None = None,
        **options: Any,
    ) -> Embedder:
        """Open a bundle folder, or a checkpoint with the engine `torch`.

        `options` go to `open_engine`: `torch` knows `camera` and `device`.
        Raises: BundleError, CheckpointError or EngineError with the way out.
        """
        source = open_source(path, engine)
        if isinstance(source, Path):
            return cls._open_checkpoint(source, engine, threads, options)
        if options:
            raise OptionError(f"the engine {engine} has no option {sorted(options)[0]!r}")
        return cls(
            source.manifest.specs,
            source=source,
            engine=engine,
            threads=threads,
            min_similarity=source.manifest.min_similarity,
        )

    @property
    def dimension(self) -> int:
        """Length of an embedding, of either modality."""
        return next(iter(self.specs.values())).dimension

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
            return self._embed_alike(crops, modality)
        if isinstance(modality, str) or len(modality) != len(crops):
            came = repr(modality) if isinstance(modality, str) else f"{len(modality)}"
            raise OptionError(
                f"modality {came} for {len(crops)} crops; expected a Modality, or one for each"
            )
        embeddings = np.zeros((len(crops), self.dimension), dtype=np.float32)
        for one in Modality:
            rows = [row for row, its_modality in enumerate(modality) if its_modality is one]
            if rows:
                embeddings[rows] = self._embed_alike([crops[row] for row in rows], one)
        return embeddings

    def close(self) -> None:
        """Close the engines; closing twice is allowed."""
        for engine in self._engines.values():
            engine.close()
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

    def _engine_of(self, modality: Modality) -> Engine:
        if self._closed:
            raise EngineError("this embedder is closed; open it anew with Embedder.open")
        if modality not in self._engines:
            if modality not in self.specs or self._source is None:
                known = ", ".join(known.value for known in self.specs)
                raise BundleError(f"no engine for {modality.value} crops here; there is: {known}")
            self._engines[modality] = open_engine(
                self._source, modality=modality, engine=self._engine, threads=self._threads
            )
        return self._engines[modality]
