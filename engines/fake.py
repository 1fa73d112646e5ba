"""An engine without a network, for tests: the same crop always gives the same embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from engines.base import Engine, Inputs
from mip_edge.artifact import Bundle
from mip_edge.spec import Batch, EmbedderSpec, Embeddings, Modality


class FakeBackend:
    """Seeds a normal distribution with the hash of each crop."""

    max_batch = 32

    def __init__(self, specs: Mapping[Modality, EmbedderSpec]) -> None:
        self.specs = specs

    @classmethod
    def open(
        cls,
        source: Bundle,
        modality: Modality,
        *,
        threads: int | None,  # noqa: ARG003 - part of the contract
        precision: str,
    ) -> FakeBackend:
        """Promise what the bundle promises, without reading its graphs."""
        source.graph_path(modality, precision)
        return cls(source.specs_with(modality))

    def embed(self, inputs: Inputs) -> Embeddings:
        """(N, D), the same in every process and on every machine, and in every layout."""
        images = inputs["images"]
        rows = inputs.get("modality", np.ones(len(images)))
        return np.stack(
            [
                self._embed_one(crop if row == Modality.VISIBLE.row else crop[..., :1])
                for crop, row in zip(images, rows, strict=True)
            ]
        )

    def close(self) -> None:
        """Nothing to give back."""

    def _embed_one(self, crop: Batch) -> Embeddings:
        digest = hashlib.sha256(crop.tobytes()).digest()
        rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
        row = rng.standard_normal(next(iter(self.specs.values())).dimension)
        unit: Embeddings = (row / np.linalg.norm(row)).astype(np.float32)
        return unit


class FakeEngine(Engine):
    """An engine of any spec, without files; two modalities of one crop do not meet."""

    def __init__(self, spec: EmbedderSpec) -> None:
        super().__init__(FakeBackend({spec.modality: spec}), name="fake")
