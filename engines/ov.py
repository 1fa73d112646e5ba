"""Backend of OpenVINO on the CPU, computing in float32 whatever the graph stores."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino

from engines.base import Inputs
from mip_edge.artifact import Bundle
from mip_edge.errors import EngineError
from mip_edge.spec import Embeddings, Modality


class OvBackend:
    """One compiled model and its only request."""

    max_batch = 32

    def __init__(
        self, source: Bundle, modality: Modality, *, threads: int | None, precision: str
    ) -> None:
        self.specs = source.specs_with(modality)
        # Without the hint the plugin takes bf16 where the CPU has it, and parity is gone.
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        graph = source.graph_path(modality, precision)
        try:
            compiled = openvino.Core().compile_model(str(graph), "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise EngineError(
                f"OpenVINO {openvino.__version__} refuses {graph}: {reason}"
            ) from error
        self._request = compiled.create_infer_request()

    @classmethod
    def open(
        cls, source: Bundle, modality: Modality, *, threads: int | None, precision: str
    ) -> OvBackend:
        """Open the graph of one modality of a verified bundle."""
        return cls(source, modality, threads=threads, precision=precision)

    def embed(self, inputs: Inputs) -> Embeddings:
        """(N, D), copied out of the memory that the request uses again."""
        self._request.infer(dict(inputs))
        return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)

    def close(self) -> None:
        """Drop the request and with it the model."""
        del self._request
