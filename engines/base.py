"""The contract of every engine: prepared crops of one modality in, unit-length embeddings out."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mip_edge.errors import EngineError
from mip_edge.spec import Batch, EmbedderSpec, Embeddings

if TYPE_CHECKING:
    from typing_extensions import Self


class Backend(Protocol):
    """One runtime with one graph open; it trusts what `Engine` has checked in front of it."""

    spec: EmbedderSpec
    max_batch: int
    """Largest batch of one call; a larger one is split in front."""

    def embed(self, batch: Batch) -> Embeddings:
        """(N, H, W, C) contiguous uint8, 1 <= N <= max_batch, to (N, D) that the caller owns."""
        ...

    def close(self) -> None:
        """Give the runtime's memory back."""
        ...


class Engine:
    """The front of every backend: the checks, the empty batch, the split and the end."""

    def __init__(self, backend: Backend, *, name: str) -> None:
        self.spec = backend.spec
        self.name = name
        self._backend: Backend | None = backend

    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings of prepared crops, (N, D) float32, unit length; they belong to the caller.

        `batch` is (N, H, W, C) uint8 as `spec` says; N may be 0 or larger than the runtime takes.
        Raises: EngineError for any other batch, and after `close`.
        """
        backend = self._backend
        if backend is None:
            raise EngineError(f"this {self.name} engine is closed; open it anew with open_engine")
        self._check(batch)
        if len(batch) == 0:
            return np.zeros((0, self.spec.dimension), dtype=np.float32)
        batch = np.ascontiguousarray(batch)
        starts = range(0, len(batch), backend.max_batch)
        parts = [backend.embed(batch[start : start + backend.max_batch]) for start in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def warm_up(self) -> None:
        """Run once on a grey crop, so that the first real one is not the slow one."""
        self.embed(np.full((1, *self.spec.batch_shape), 128, dtype=np.uint8))

    def close(self) -> None:
        """Give the runtime's memory back; closing twice is allowed."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, batch: Batch) -> None:
        expected = self.spec.batch_shape
        if not isinstance(batch, np.ndarray):
            came = type(batch).__name__
        elif batch.ndim == 4 and batch.shape[1:] == expected and batch.dtype == np.uint8:
            return
        else:
            came = f"{batch.dtype} of shape {batch.shape}"
        height, width, channels = expected
        raise EngineError(
            f"images: {came} came; this {self.spec.modality.value} engine takes uint8 of shape "
            f"(N, {height}, {width}, {channels}). Make it with mip_edge.preprocess.prepare(crops, "
            "engine.spec)"
        )
