"""Backend of PyTorch on a checkpoint: the reference that every other engine is measured against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from engines.base import Inputs
from engines.camera import CameraChoice, choose_camera
from mip_edge import checkpoint
from mip_edge.errors import EngineError, OptionError
from mip_edge.model.mip import MIP
from mip_edge.model.straight import Straight
from mip_edge.spec import EmbedderSpec, Embeddings, Modality

_DTYPES = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
"""What autocast computes in, by the words of the option `dtype`; None is without autocast."""
_CAPTURE_WARM_UPS = 3
"""Runs before a capture: libraries choose their kernels and take their memory in the first."""


class EagerBackend:
    """The network as it was trained, on a device of torch."""

    max_batch = 32

    def __init__(
        self,
        model: MIP,
        modality: Modality,
        *,
        camera: Tensor | None = None,
        device: str = "cpu",
        dtype: str = "fp32",
        compile: bool = False,  # noqa: A002 - torch's own word
        cuda_graphs: bool = False,
        straight: bool = False,
        fingerprint: str | None = None,
    ) -> None:
        _check_device(device, dtype, cuda_graphs)
        height, width = model.options.image_size
        spec = EmbedderSpec(
            modality=modality,
            height=height,
            width=width,
            dimension=model.options.dimension,
            fingerprint=fingerprint or checkpoint.fingerprint(model),
        )
        self.specs = {modality: spec}
        self._row = modality.row
        self._dtype = _DTYPES[dtype]
        try:
            self._device = torch.device(device)
            network = Straight(model) if straight else model
            self._model = network.to(self._device).eval()
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise EngineError(
                f"torch cannot use the device {device!r}: {reason}. "
                "Choose --engine-option device=cpu"
            ) from error
        self._camera = None if camera is None else camera.to(self._device)
        self._run: Callable[[Tensor], Tensor] = self._compute
        if compile:
            self._run = _compile(self._compute, torch.zeros(2, *spec.batch_shape).byte(), device)
        if cuda_graphs:
            self._run = CudaGraphs(self._run, self._device)

    @classmethod
    def open(
        cls,
        source: Path,
        modality: Modality,
        *,
        threads: int | None,
        camera: str = "mean",
        device: str = "cpu",
        dtype: str = "fp32",
        compile: bool = False,  # noqa: A002 - torch's own word
        cuda_graphs: bool = False,
        straight: bool = False,
    ) -> EagerBackend:
        """Open one modality of a checkpoint; `threads` is torch's setting for the whole process.

        `dtype` is that of autocast; with `compile` opening takes minutes; `cuda_graphs` replays
        one captured graph for each batch size; `straight` computes every row that the published
        code computes, for comparison. Raises: OptionError for what no device can do,
        EngineError for what this one cannot.
        """
        _check_device(device, dtype, cuda_graphs)
        if threads is not None:
            torch.set_num_threads(threads)
        model = checkpoint.load(source)
        table = checkpoint.read_metadata(source).get("cameras") or []
        choice = choose_camera(table, model.options.cameras, modality, camera)
        return cls(
            model,
            modality,
            camera=camera_vector(model, choice),
            device=device,
            dtype=dtype,
            compile=compile,
            cuda_graphs=cuda_graphs,
            straight=straight,
        )

    def embed(self, inputs: Inputs) -> Embeddings:
        """(N, D) in memory of its own."""
        with torch.inference_mode():
            unit = self._run(torch.from_numpy(inputs["images"]).to(self._device))
        return cast(Embeddings, np.array(unit.cpu().numpy()))

    def close(self) -> None:
        """Drop the network, and what was compiled or captured of it."""
        del self._model, self._run

    def _compute(self, batch: Tensor) -> Tensor:
        """Unit embeddings (N, D) float32 of a uint8 batch (N, H, W, C), all on the device."""
        images = (batch.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        rows = torch.full((len(batch),), self._row, device=self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            raw = self._model(images.expand(-1, 3, -1, -1), rows, camera_vector=self._camera)
        return torch.nn.functional.normalize(raw.float(), dim=1)


class CudaGraphs:
    """A function on the GPU, captured once for each batch size and then replayed."""

    def __init__(self, function: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._captured: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        # One pool: the graphs never run at the same time, and each result is copied out at once.
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, batch: Tensor) -> Tensor:
        """What the function gives, in memory that the next call uses again."""
        if len(batch) not in self._captured:
            self._captured[len(batch)] = self._capture(batch)
        graph, given, result = self._captured[len(batch)]
        given.copy_(batch)
        graph.replay()
        return result

    def _capture(self, batch: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        given = batch.clone()
        with torch.cuda.device(self._device):
            # as CUDA wants it: what is captured has run before, on a stream beside the main one
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(_CAPTURE_WARM_UPS):
                    self._function(given)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                result = self._function(given)
        return graph, given, result


def camera_vector(model: MIP, choice: CameraChoice) -> Tensor | None:
    """What a camera choice adds to every token, (D,) with the SIE coefficient in it, or None."""
    if model.sie_embed is None or not choice.rows:
        return None
    chosen = model.sie_embed.detach()[list(choice.rows), 0].double().mean(dim=0)
    return (model.options.sie_coefficient * chosen).float()


def _check_device(device: str, dtype: str, cuda_graphs: bool) -> None:
    """Raises: OptionError for what is for NVIDIA GPUs alone, asked of another device."""
    if device.partition(":")[0] == "cuda":
        return
    if dtype == "fp16":
        raise OptionError(
            f"dtype=fp16 is for CUDA, the device is {device}; add device=cuda, or take dtype=bf16"
        )
    if cuda_graphs:
        raise OptionError(f"cuda_graphs is for CUDA, the device is {device}; add device=cuda")


def _compile(
    function: Callable[[Tensor], Tensor], example: Tensor, device: str
) -> Callable[[Tensor], Tensor]:
    """The function compiled for batches of any size, and run once: it compiles when it is run.

    Raises: EngineError if there is no compiler, or it refuses.
    """
    compiled: Callable[[Tensor], Tensor] = torch.compile(function, dynamic=True)
    try:
        with torch.inference_mode():
            compiled(example.to(device))
    except Exception as error:  # a compiler of its own for each device, each with its own errors
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise EngineError(
            f"torch {torch.__version__} cannot compile the network for {device}: {told[0]}. "
            "Leave --engine-option compile out"
        ) from error
    return compiled
