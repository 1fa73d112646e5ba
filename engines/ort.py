"""Backend of ONNX Runtime: on the CPU the default everywhere, on NVIDIA GPUs by its GPU build."""

from __future__ import annotations

from typing import Any, cast

import onnxruntime

from engines.base import Inputs
from mip_edge.artifact import Bundle
from mip_edge.errors import EngineError, OptionError
from mip_edge.spec import Embeddings, Modality

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""By the words of the option `provider`."""
_WAY = "or choose --engine-option provider=cpu"


def open_graph(graph: bytes, *, optimise: bool = True) -> onnxruntime.InferenceSession:
    """A CPU session of a serialized graph with its weights inside, for those who calibrate or
    compare; without `optimise` every node runs as it stands."""
    options = _quiet()
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


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
        provider: str = "cpu",
        device_id: int | None = None,
        share_weights: bool = False,
    ) -> None:
        self.specs = source.specs_with(modality)
        asked = _choose_provider(provider, device_id, share_weights)
        options = _quiet()
        options.intra_op_num_threads = threads or 0
        if share_weights:
            # The runtime maps the weight file, and then packs most of it into memory of its own.
            # Without that it computes on the mapped pages, which all sessions of a file share.
            options.add_session_config_entry("session.disable_prepacking", "1")
        graph = source.graph_path(modality, precision)
        try:
            # Left to itself the session takes the CPU, with a print, if the GPU refuses.
            session = onnxruntime.InferenceSession(
                str(graph), options, providers=[asked], enable_fallback=0
            )
        except Exception as error:  # the runtime's exceptions share no base class but this
            way = "" if provider == "cpu" else f". Mend that, {_WAY}"
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} refuses {graph}: {_first_line(error)}{way}"
            ) from error
        # A provider whose libraries do not load is dropped without an error.
        running = session.get_providers()[0]
        if running != _PROVIDERS[provider]:
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} dropped {_PROVIDERS[provider]} and would "
                f"run {graph} on {running}: no GPU, or its driver, CUDA or cuDNN is missing or of "
                f"another version. Mend that, {_WAY}"
            )
        self._session, self._graph = session, graph

    @classmethod
    def open(
        cls,
        source: Bundle,
        modality: Modality,
        *,
        threads: int | None,
        precision: str,
        provider: str = "cpu",
        device_id: int | None = None,
        share_weights: bool = False,
    ) -> OrtBackend:
        """Open the graph of one modality of a verified bundle.

        `provider` is `cpu`, `cuda` or `tensorrt`, the latter two on the GPU `device_id` (0 if
        None). `share_weights`: two sessions hold the weights once, for a somewhat slower call.
        Raises: EngineError if the provider is missing here or does not take the graph.
        """
        return cls(
            source,
            modality,
            threads=threads,
            precision=precision,
            provider=provider,
            device_id=device_id,
            share_weights=share_weights,
        )

    def embed(self, inputs: Inputs) -> Embeddings:
        """(N, D) in memory of its own. Raises: EngineError for a graph that opens, but fails."""
        try:
            return cast(Embeddings, self._session.run(["embeddings"], dict(inputs))[0])
        except Exception as error:  # as above
            if "alloc" in str(error):
                raise  # memory has run out, which the command line has words for
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} cannot run {self._graph}: "
                f"{_first_line(error)}"
            ) from error

    def close(self) -> None:
        """Drop the session."""
        del self._session


def _quiet() -> onnxruntime.SessionOptions:
    """No warnings, and no thread that spins."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Spinning threads of two sessions in turn take the cores from each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _choose_provider(
    provider: str, device_id: int | None, share_weights: bool
) -> str | tuple[str, dict[str, Any]]:
    """What the session is asked for. Raises: OptionError, or EngineError if it is not here."""
    name = _PROVIDERS[provider]
    if provider == "cpu":
        if device_id is not None:
            raise OptionError(
                f"--engine-option device_id={device_id} is for a GPU; add provider=cuda"
            )
        return name
    if share_weights:
        raise OptionError(f"share_weights is for provider=cpu, not for {provider}; leave one out")
    here = onnxruntime.get_available_providers()
    if name not in here:
        raise EngineError(
            f"this onnxruntime {onnxruntime.__version__} has no {name}; it has: {', '.join(here)}. "
            f"Put its GPU build in place (pip uninstall onnxruntime; pip install onnxruntime-gpu), "
            f"{_WAY}"
        )
    chosen = {"device_id": str(device_id or 0)}
    if provider == "cuda":
        chosen["use_tf32"] = "0"  # float32 graphs in float32: parity was measured so
    return name, chosen


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
