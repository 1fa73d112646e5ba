"""Backend of ONNX Runtime on the CPU, the default everywhere."""

from __future__ import annotations

from typing import cast

import onnxruntime

from mip_edge.artifact import Bundle
from mip_edge.errors import EngineError
from mip_edge.spec import Batch, Embeddings, Modality


class OrtBackend:
    """One inference session; the weight file of the bundle is mapped by the runtime."""

    max_batch = 32

    def __init__(self, source: Bundle, modality: Modality, *, threads: int | None) -> None:
        self.spec = source.manifest.specs[modality]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # Spinning threads of two sessions in turn take the cores from each other.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = source.graph_path(modality)
        try:
            self._session = onnxruntime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's exceptions share no base class but this
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} refuses {graph}: {_first_line(error)}"
            ) from error

    @classmethod
    def open(cls, source: Bundle, modality: Modality, *, threads: int | None) -> OrtBackend:
        """Open the graph of one modality of a verified bundle."""
        return cls(source, modality, threads=threads)

    def embed(self, batch: Batch) -> Embeddings:
        """(N, D) in memory of its own."""
        return cast(Embeddings, self._session.run(["embeddings"], {"images": batch})[0])

    def close(self) -> None:
        """Drop the session."""
        del self._session


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
