"""Backend of PyTorch on a checkpoint: the reference that every other engine is measured against."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from engines.base import Inputs
from engines.camera import CameraChoice, choose_camera
from mip_edge import checkpoint
from mip_edge.errors import EngineError
from mip_edge.model.mip import MIP
from mip_edge.spec import EmbedderSpec, Embeddings, Modality


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
        fingerprint: str | None = None,
    ) -> None:
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
        try:
            self._device = torch.device(device)
            self._model = model.to(self._device).eval()
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0]
            raise EngineError(
                f"torch cannot use the device {device!r}: {reason}. Choose --device cpu"
            ) from error
        self._camera = None if camera is None else camera.to(self._device)

    @classmethod
    def open(
        cls,
        source: Path,
        modality: Modality,
        *,
        threads: int | None,
        camera: str = "mean",
        device: str = "cpu",
    ) -> EagerBackend:
        """Open one modality of a checkpoint; `threads` is torch's setting for the whole process."""
        if threads is not None:
            torch.set_num_threads(threads)
        model = checkpoint.load(source)
        table = checkpoint.read_metadata(source).get("cameras") or []
        choice = choose_camera(table, model.options.cameras, modality, camera)
        return cls(model, modality, camera=camera_vector(model, choice), device=device)

    def embed(self, inputs: Inputs) -> Embeddings:
        """(N, D) in memory of its own."""
        batch = inputs["images"]
        with torch.inference_mode():
            images = torch.from_numpy(batch).to(self._device).permute(0, 3, 1, 2).float()
            images = (images / 255 - 0.5) / 0.5
            flags = torch.full((len(batch),), self._row)
            raw = self._model(
                images.expand(-1, 3, -1, -1),
                flags.to(self._device),
                camera_vector=self._camera,
            )
            unit = torch.nn.functional.normalize(raw.float(), dim=1)
        return cast(Embeddings, np.array(unit.cpu().numpy()))

    def close(self) -> None:
        """Drop the network."""
        del self._model


def camera_vector(model: MIP, choice: CameraChoice) -> Tensor | None:
    """What a camera choice adds to every token, (D,) with the SIE coefficient in it, or None."""
    if model.sie_embed is None or not choice.rows:
        return None
    chosen = model.sie_embed.detach()[list(choice.rows), 0].double().mean(dim=0)
    return (model.options.sie_coefficient * chosen).float()
