"""The contract of every engine: prepared crops in, unit-length embeddings out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from engines.cuda import Device, DeviceBatch
from mip_edge.errors import EngineError
from mip_edge.spec import Batch, EmbedderSpec, Embeddings, Modality

if TYPE_CHECKING:
    from typing_extensions import Self

Inputs = Mapping[str, NDArray[Any]]
"""Arrays by the names that a graph gives its inputs."""


class Backend(Protocol):
    """One runtime with one graph open; it trusts what its front has checked."""

    max_batch: int
    """Largest batch of one call; a larger one is split in front."""

    @property
    def specs(self) -> Mapping[Modality, EmbedderSpec]:
        """What the graph takes: one modality, or both in the layout `unified`."""
        ...

    def embed(self, inputs: Inputs) -> Embeddings:
        """`images` (N, H, W, C) contiguous uint8, 1 <= N <= max_batch, to (N, D).

        A graph of both modalities gets `images` of three channels and `modality`, (N,) int64 of
        `Modality.row`. The result belongs to the caller.
        """
        ...

    def close(self) -> None:
        """Give the runtime's memory back."""
        ...


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """A backend that also takes crops which lie on its GPU."""

    @property
    def device(self) -> Device:
        """Where they must lie."""
        ...

    def embed_on_device(self, batch: DeviceBatch, modality: Modality) -> Embeddings:
        """1 <= count <= max_batch crops of one modality, to (N, D) of the caller's own."""
        ...


class _Front:
    """What every front of a backend does: the empty batch, the split and the end."""

    def __init__(self, backend: Backend, *, name: str) -> None:
        self.name = name
        self._unified = len(backend.specs) > 1
        self._backend: Backend | None = backend

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

    def _open_backend(self) -> Backend:
        if self._backend is None:
            raise EngineError(f"this {self.name} engine is closed; open it anew with open_engine")
        return self._backend

    def _run(self, inputs: dict[str, NDArray[Any]], dimension: int) -> Embeddings:
        backend = self._open_backend()
        count = len(inputs["images"])
        if count == 0:
            return np.zeros((0, dimension), dtype=np.float32)
        parts = []
        for start in range(0, count, backend.max_batch):
            end = start + backend.max_batch
            piece = {key: np.ascontiguousarray(rows[start:end]) for key, rows in inputs.items()}
            parts.append(backend.embed(piece))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Engine(_Front):
    """One modality of a backend, whichever layout its graph has."""

    def __init__(self, backend: Backend, *, name: str, modality: Modality | None = None) -> None:
        """`modality` may be left out where the backend takes only one."""
        super().__init__(backend, name=name)
        self.spec = backend.specs[modality or next(iter(backend.specs))]

    def embed(self, batch: Batch) -> Embeddings:
        """Embeddings of prepared crops, (N, D) float32, unit length; they belong to the caller.

        `batch` is (N, H, W, C) uint8 as `spec` says; N may be 0 or larger than the runtime takes.
        Raises: EngineError for any other batch, and after `close`.
        """
        self._open_backend()
        _check(
            batch,
            self.spec.batch_shape,
            f"{self.spec.modality.value} engine",
            "mip_edge.preprocess.prepare(crops, engine.spec)",
        )
        inputs: dict[str, NDArray[Any]] = {"images": batch}
        if self._unified:
            inputs["images"] = np.broadcast_to(batch, (*batch.shape[:3], 3))
            inputs["modality"] = np.full(len(batch), self.spec.modality.row, dtype=np.int64)
        return self._run(inputs, self.spec.dimension)

    def embed_on_device(self, batch: DeviceBatch) -> Embeddings:
        """The same for crops that lie on the engine's GPU (`device`), as `GpuCropper` makes them.

        Raises: EngineError for another shape, an engine that computes elsewhere, and after `close`.
        """
        backend = self._device_backend()
        height, width, channels = self.spec.batch_shape
        expected = (height, width, 3 if self._unified else channels)
        if batch.shape != expected:
            raise EngineError(
                f"crops of {batch.shape} came; this {self.spec.modality.value} engine takes "
                f"{expected}. Make them with GpuCropper.crop and engine.spec"
            )
        parts = [
            backend.embed_on_device(part, self.spec.modality)
            for part in batch.split(backend.max_batch)
        ]
        empty = np.zeros((0, self.spec.dimension), dtype=np.float32)
        return np.concatenate(parts) if parts else empty

    @property
    def device(self) -> Device:
        """The GPU that computes. Raises: EngineError where none does."""
        return self._device_backend().device

    def _device_backend(self) -> DeviceBackend:
        backend = self._open_backend()
        if not isinstance(backend, DeviceBackend):
            raise EngineError(
                f"the engine {self.name} takes no crops from a GPU; prepare them on the CPU, or "
                "choose --engine tensorrt"
            )
        return backend

    def warm_up(self) -> None:
        """Run once on a grey crop, so that the first real one is not the slow one."""
        self.embed(np.full((1, *self.spec.batch_shape), 128, dtype=np.uint8))


class UnifiedEngine(_Front):
    """Both modalities of a backend whose graph takes them mixed: one session, weights once."""

    def __init__(self, backend: Backend, *, name: str) -> None:
        super().__init__(backend, name=name)
        self.specs = dict(backend.specs)

    def embed(self, batch: Batch, modalities: Sequence[Modality]) -> Embeddings:
        """Embeddings in the order of the crops, (N, D) float32, unit length.

        `batch` is (N, H, W, 3) uint8, an infrared crop with its one channel three times, as
        `mip_edge.preprocess.prepare_mixed` makes it; `modalities` has one for each crop.
        Raises: EngineError for any other batch, and after `close`.
        """
        self._open_backend()
        visible = self.specs[Modality.VISIBLE]
        way = "mip_edge.preprocess.prepare_mixed(crops, modalities, engine.specs)"
        _check(batch, visible.batch_shape, "engine of both modalities", way)
        if len(modalities) != len(batch):
            raise EngineError(f"{len(modalities)} modalities came for {len(batch)} crops")
        rows = np.array([modality.row for modality in modalities], dtype=np.int64)
        infrared = batch[rows == Modality.INFRARED.row]
        if not (infrared == infrared[..., :1]).all():
            raise EngineError(
                f"images: an infrared crop came whose three channels differ; make it with {way}"
            )
        return self._run({"images": batch, "modality": rows}, visible.dimension)

    def warm_up(self) -> None:
        """Run once on a grey crop, so that the first real one is not the slow one."""
        shape = self.specs[Modality.VISIBLE].batch_shape
        self.embed(np.full((1, *shape), 128, dtype=np.uint8), [Modality.VISIBLE])


def _check(batch: Batch, expected: tuple[int, int, int], who: str, way: str) -> None:
    """Refuse what is not (N, *expected) uint8; `who` takes it, `way` makes it."""
    if not isinstance(batch, np.ndarray):
        came = type(batch).__name__
    elif batch.ndim == 4 and batch.shape[1:] == expected and batch.dtype == np.uint8:
        return
    else:
        came = f"{batch.dtype} of shape {batch.shape}"
    height, width, channels = expected
    raise EngineError(
        f"images: {came} came; this {who} takes uint8 of shape "
        f"(N, {height}, {width}, {channels}). Make it with {way}"
    )
