"""The journal of a training: what each epoch reached on validation identities, and the best one."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mip_edge.checkpoint import save
from mip_edge.curves import draw_curves
from mip_edge.data.augment import normalize
from mip_edge.data.dataset import Dataset, Sample
from mip_edge.evaluate.evaluation import DirectionResult, evaluate_embeddings
from mip_edge.metrics import best_threshold
from mip_edge.model.mip import MIP
from mip_edge.run import append_metrics
from mip_edge.spec import Embeddings, Modality

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training left behind, and how good its best epoch was."""

    best: Path
    last: Path
    curves: Path
    epoch: int
    """The epoch that `best` holds."""
    rank1: float
    mAP: float  # noqa: N815 - the name the field uses
    """Of the validation identities, mean of both directions."""
    min_similarity: float
    seconds: float


class Journal:
    """Validates a model, writes the figures down and keeps the best: all of a run but learning."""

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, Any],
        data: Path,
        split: Dataset,
        held_out: NDArray[np.uint8],
    ) -> None:
        """`held_out` are the crops of `split.query`; `options` go into every checkpoint."""
        self._folder = folder
        self._options = dict(options)
        self._split = split
        self._held_out = held_out
        self._started = time.monotonic()
        self._rows: list[dict[str, Any]] = []
        self._best: dict[str, Any] | None = None
        identities = len({sample.identity for sample in split.train})
        self._data = {"folder": data.name, "crops": len(split.train), "identities": identities}

    def validate(self, model: MIP, epoch: int, figures: dict[str, float]) -> None:
        """Measure on the validation identities; write the metrics, checkpoints and curves."""
        people = self._split.query
        embeddings = embed_crops(model, self._held_out, modality_flags(people))
        directions = evaluate_embeddings(embeddings, people, embeddings, people)
        row: dict[str, Any] = {
            "epoch": epoch,
            "seconds": round(time.monotonic() - self._started, 2),
            **figures,
            **_mean_figures(directions),
            "min_similarity": _threshold(embeddings, people),
        }
        self._rows.append(row)
        append_metrics(self._folder, row)
        losses_now = [value for name, value in row.items() if name.startswith("loss_")]
        logger.info(
            "epoch %d: %svalidation Rank-1 %.1f%%, mAP %.1f%%",
            *(epoch, f"loss {sum(losses_now):.3f}, " if losses_now else "the start, "),
            *(100 * row["rank1"], 100 * row["mAP"]),
        )
        self._save(model, "last", row)
        best = self._best
        if best is None or row["rank1"] + row["mAP"] > best["rank1"] + best["mAP"]:
            self._save(model, "best", row)
            self._best = row
        title = f"{self._options['model']} on {self._data['folder']}"
        draw_curves(self._rows, self._folder / "curves.png", title=title)

    def report(self) -> TrainReport:
        """What the run reached; some epoch has been validated."""
        assert self._best is not None
        return TrainReport(
            best=self._folder / "best.safetensors",
            last=self._folder / "last.safetensors",
            curves=self._folder / "curves.png",
            epoch=self._best["epoch"],
            rank1=self._best["rank1"],
            mAP=self._best["mAP"],
            min_similarity=self._best["min_similarity"],
            seconds=time.monotonic() - self._started,
        )

    def _save(self, model: MIP, name: str, row: dict[str, Any]) -> None:
        training = {"data": self._data, "options": self._options, "validation": row}
        path = self._folder / f"{name}.safetensors"
        save(model, path, training=training, min_similarity=row["min_similarity"])


@torch.inference_mode()
def embed_crops(
    model: MIP, crops: NDArray[np.uint8], flags: Tensor, *, batch: int = 128
) -> Embeddings:
    """Embeddings (N, D) of unit length of crops (N, H, W, 3), without camera embedding.

    `flags` (N,) as `modality_flags` gives them. Leaves the model in eval mode.
    """
    device = next(model.parameters()).device
    model.eval()
    parts = []
    for start in range(0, len(crops), batch):
        images = normalize(torch.from_numpy(crops[start : start + batch])).to(device)
        raw = model(images, flags[start : start + batch].to(device))
        parts.append(F.normalize(raw, dim=1).float().cpu().numpy())
    return np.concatenate(parts)


def modality_flags(samples: Sequence[Sample]) -> Tensor:
    """1 visible, 0 infrared, as the network takes them, (N,)."""
    return torch.tensor([int(sample.modality is Modality.VISIBLE) for sample in samples])


def _mean_figures(directions: Sequence[DirectionResult]) -> dict[str, float]:
    return {
        name: float(np.mean([getattr(direction.ranking, name) for direction in directions]))
        for name in ("rank1", "mAP", "mINP")
    }


def _threshold(embeddings: Embeddings, samples: Sequence[Sample]) -> float:
    """The similarity that best tells same from different across the modalities."""
    infrared = np.array([sample.modality is Modality.INFRARED for sample in samples])
    identity = np.array([sample.identity for sample in samples])
    similarities = embeddings[infrared] @ embeddings[~infrared].T
    return best_threshold(similarities, identity[infrared][:, None] == identity[~infrared])
