"""The journal of a training: what each epoch reached on validation identities, and the best one."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from mip_edge.data.dataset import Sample
from mip_edge.evaluate.protocol import OFFICIAL, Protocol, choose_protocols
from mip_edge.evaluate.scoring import Distances
from mip_edge.look.look import look_at_prompts
from mip_edge.metrics import best_threshold
from mip_edge.model.mip import MIP
from mip_edge.output import write_text
from mip_edge.recipe import TrainOptions
from mip_edge.run import append_metrics, replace_metrics
from mip_edge.scalars import ScalarLog
from mip_edge.spec import Embeddings, Modality
from mip_edge.training_set import TrainingSet, modality_flags

logger = logging.getLogger(__name__)

PROMPTS = "prompts.json"
"""What the prompts of the best epoch do."""
_OFFICIAL_FIRST = f"{OFFICIAL}-all-single"


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training left behind, and how good its best epoch was."""

    best: Path
    last: Path
    curves: Path
    epoch: int
    """The epoch that `best` holds."""
    selected_by: str
    """validation, test or last."""
    rank1: float | None
    mAP: float | None  # noqa: N815 - the name the field uses
    """Of those that selected, mean of both directions; None if nothing did."""
    min_similarity: float | None
    seconds: float


class Journal:
    """Validates a model, writes the figures down and keeps the best: all of a run but learning."""

    def __init__(
        self,
        folder: Path,
        options: TrainOptions,
        samples: TrainingSet,
        record: Mapping[str, Any],
        held_out: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    ) -> None:
        """`record` says what the training learns from, and goes into every checkpoint; `held_out`
        are the crops of `samples.query` and `samples.gallery`."""
        self._folder = folder
        self._options = options
        self._samples = samples
        self._record = dict(record)
        self._started = time.monotonic()
        self._before = 0.0
        self._rows: list[dict[str, Any]] = []
        self._best: dict[str, Any] | None = None
        self._protocols = _selecting_protocols(options)
        self._query, self._gallery = held_out
        self._scalars = ScalarLog(folder / "tensorboard") if options.tensorboard else None

    def close_epoch(
        self, model: MIP, epoch: int, figures: Mapping[str, float], *, validate: bool
    ) -> None:
        """Write the metrics, the last checkpoint and the curves; with `validate` measure first.

        Without anything to select by, the last epoch is the best.
        """
        validate = validate and bool(self._samples.query)
        row: dict[str, Any] = {"epoch": epoch, "seconds": round(self._seconds(), 2), **figures}
        if validate:
            row |= self._measure(model)
        self._rows.append(row)
        append_metrics(self._folder, row)
        if self._scalars is not None:
            self._scalars.add(epoch, {name: row[name] for name in row if name != "epoch"})
        losses_now = [value for name, value in row.items() if name.startswith("loss_")]
        logger.info(
            "epoch %d: %s%s",
            *(epoch, f"loss {sum(losses_now):.3f}" if losses_now else "the start"),
            f", {self._of_whom} Rank-1 {100 * row['rank1']:.1f}%, mAP {100 * row['mAP']:.1f}%"
            if validate
            else "",
        )
        model = model.eval()
        self._save(model, "last", row)
        if self._is_best(row, validate=validate):
            self._save(model, "best", row)
            self._best = row
        title = f"{self._options.model} on {self._record['data']['folder']}"
        curves = self._folder / "curves.png"
        draw_curves(self._rows, curves, title=title, measured_on=self._of_whom)

    def report(self) -> TrainReport:
        """What the run reached; some epoch has been closed. Says if the prompts have collapsed."""
        assert self._best is not None
        if self._scalars is not None:
            self._scalars.close()
        best = self._folder / "best.safetensors"
        prompts = look_at_prompts(best, self._samples.query) if self._samples.query else None
        if prompts is not None:
            write_text(self._folder / PROMPTS, json.dumps(prompts.figures(), indent=2) + "\n")
            for warning in prompts.warnings:
                logger.warning("%s", warning)
        return TrainReport(
            best=best,
            last=self._folder / "last.safetensors",
            curves=self._folder / "curves.png",
            epoch=self._best["epoch"],
            selected_by=str(self._options.select),
            rank1=self._best.get("rank1"),
            mAP=self._best.get("mAP"),
            min_similarity=self._best.get("min_similarity"),
            seconds=self._seconds(),
        )

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on."""
        return {"rows": self._rows, "best": self._best, "seconds": self._seconds()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`; metrics written after it are taken back."""
        self._rows, self._best = list(state["rows"]), state["best"]
        self._before = float(state["seconds"])
        replace_metrics(self._folder, self._rows)
        if self._scalars is not None:
            self._scalars.close()
            again = self._rows[-1]["epoch"] + 1 if self._rows else 0
            self._scalars = ScalarLog(self._folder / "tensorboard", first_step=again)

    @property
    def _of_whom(self) -> str:
        return "test" if self._options.select == "test" else "validation"

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def _measure(self, model: MIP) -> dict[str, float]:
        query = self._embed(model, self._query, self._samples.query)
        same = self._gallery is self._query
        gallery = query if same else self._embed(model, self._gallery, self._samples.gallery)
        figures = self._score(query, gallery)
        return {**figures, "min_similarity": self._threshold(query, gallery)}

    def _embed(self, model: MIP, crops: NDArray[np.uint8], people: Sequence[Sample]) -> Embeddings:
        return embed_crops(model, crops, modality_flags(people), self._samples.camera_rows(people))

    def _score(self, query: Embeddings, gallery: Embeddings) -> dict[str, float]:
        """Means over the protocols that select, and over their trials."""
        distances = Distances(query, self._samples.query, gallery, self._samples.gallery)
        means = [distances.score(protocol).mean() for protocol in self._protocols]
        return {
            name: float(np.mean([mean[name] for mean in means]))
            for name in ("rank1", "mAP", "mINP")
        }

    def _threshold(self, query: Embeddings, gallery: Embeddings) -> float:
        """The similarity that best tells same from different across the modalities."""
        rows = [one.modality is Modality.INFRARED for one in self._samples.query]
        columns = [one.modality is Modality.VISIBLE for one in self._samples.gallery]
        asked = np.array([one.identity for one in self._samples.query])[rows]
        known = np.array([one.identity for one in self._samples.gallery])[columns]
        return best_threshold(query[rows] @ gallery[columns].T, asked[:, None] == known)

    def _is_best(self, row: Mapping[str, Any], *, validate: bool) -> bool:
        if not self._samples.query:
            return True
        best = self._best
        return validate and (
            best is None or row["rank1"] + row["mAP"] > best["rank1"] + best["mAP"]
        )

    def _save(self, model: MIP, name: str, row: Mapping[str, Any]) -> None:
        save(
            model,
            self._folder / f"{name}.safetensors",
            training={**self._record, "options": asdict(self._options), "validation": dict(row)},
            cameras=self._samples.camera_table(),
            min_similarity=row.get("min_similarity"),
        )


def _selecting_protocols(options: TrainOptions) -> tuple[Protocol, ...]:
    """Both directions for validation identities. For the test part those of the data set, and for
    SYSU-MM01 the one that the published training looks at."""
    if options.select != "test":
        return choose_protocols("folder")
    if options.dataset == "sysu":
        return tuple(
            one for one in choose_protocols("sysu", [OFFICIAL]) if one.name == _OFFICIAL_FIRST
        )
    return choose_protocols(options.dataset)


@torch.inference_mode()
def embed_crops(
    model: MIP,
    crops: NDArray[np.uint8],
    flags: Tensor,
    cameras: Tensor | None = None,
    *,
    batch: int = 128,
) -> Embeddings:
    """Embeddings (N, D) of unit length of crops (N, H, W, 3).

    `flags` (N,) as `modality_flags` gives them, `cameras` (N,) rows of the model's camera table;
    None adds no camera embedding. Leaves the model in eval mode.
    """
    device = next(model.parameters()).device
    model.eval()
    parts = []
    for start in range(0, len(crops), batch):
        rows = slice(start, start + batch)
        images = normalize(torch.from_numpy(np.array(crops[rows])).to(device))
        camera = None if cameras is None else cameras[rows].to(device)
        raw = model(images, flags[rows].to(device), camera)
        parts.append(F.normalize(raw, dim=1).float().cpu().numpy())
    return np.concatenate(parts)
