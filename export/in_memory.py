"""Graphs that are not written yet, behind the same contract as every engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import onnx
import onnxruntime

from engines.base import Engine, Inputs
from engines.ort import open_graph
from mip_edge.spec import Batch, EmbedderSpec, Embeddings, Modality


class MemoryBackend:
    """One session of ONNX Runtime on a graph with its weights inside, optimised as engines are."""

    max_batch = 32

    def __init__(self, graph: onnx.ModelProto, specs: Mapping[Modality, EmbedderSpec]) -> None:
        self.specs = specs
        session = open_graph(graph.SerializeToString())
        self._session: onnxruntime.InferenceSession | None = session

    def embed(self, inputs: Inputs) -> Embeddings:
        """(N, D) in memory of its own."""
        assert self._session is not None
        return cast(Embeddings, self._session.run(["embeddings"], dict(inputs))[0])

    def close(self) -> None:
        """Drop the session; engines of both modalities may share it, and each closes it."""
        self._session = None


def inputs_of(images: Batch, modality: Modality, taken: tuple[Modality, ...]) -> Inputs:
    """One batch (N, H, W, C) of a light by the names of a graph that takes the lights `taken`."""
    if len(taken) == 1:
        return {"images": images}
    return {
        "images": np.ascontiguousarray(np.broadcast_to(images, (*images.shape[:3], 3))),
        "modality": np.full(len(images), modality.row, dtype=np.int64),
    }


def open_graphs(
    graphs: Mapping[str, onnx.ModelProto],
    taken: Mapping[str, tuple[Modality, ...]],
    specs: Mapping[Modality, EmbedderSpec],
) -> dict[Modality, Engine]:
    """Engines of graphs in memory; `taken` tells which modalities each graph takes."""
    engines = {}
    for name, graph in graphs.items():
        backend = MemoryBackend(graph, {one: specs[one] for one in taken[name]})
        for modality in taken[name]:
            engines[modality] = Engine(backend, name="onnxruntime", modality=modality)
    return engines
