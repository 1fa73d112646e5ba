"""Backend of ONNX Runtime on the CPU, the default everywhere."""

from __future__ import annotations

from typing import cast

import onnxruntime

from engines.base import Inputs
from mip_edge.artifact import Bundle
from mip_edge.errors import EngineError
from mip_edge.spec import Embeddings, Modality


class OrtBackend:
    """One inference session."""

    max_batch = 32

    def __init__(
        self,
        source: Bundle,
        modality: Modality,
        *,
        threads: int | None,
        precision: str,
        share_weights: bool = False,
    ) -> None:
        self.specs = source.specs_with(modality)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # Spinning threads of two sessions in turn take the cores from each other.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if share_weights:
            # The runtime maps the weight file, and then packs most of it into memory of its own.
            # Without that it computes on the mapped pages, which all sessions of a file share.
            options.add_session_config_entry("session.disable_prepacking", "1")
        graph = source.graph_path(modality, precision)
        try:
            self._session = onnxruntime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's exceptions share no base class but this
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} refuses {graph}: {_first_line(error)}"
            ) from error

    @classmethod
    def open(
        cls,
        source: Bundle,
        modality: Modality,
        *,
        threads: int | None,
        precision: str,
        share_weights: bool = False,
    ) -> OrtBackend:
        """Open the graph of one modality of a verified bundle.

        `share_weights`: two sessions hold the weights once, for a somewhat slower call.
        """
        return cls(
            source, modality, threads=threads, precision=precision, share_weights=share_weights
        )

    def embed(self, inputs: Inputs) -> Embeddings:
        """(N, D) in memory of its own."""
        return cast(Embeddings, self._session.run(["embeddings"], dict(inputs))[0])

    def close(self) -> None:
        """Drop the session."""
        del self._session


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
