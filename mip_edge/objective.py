"""What a training goes down: one batch through the network, over parts and processes, to losses."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mip_edge.model.distill import logits_loss, relation_loss
from mip_edge.model.losses import Losses, losses
from mip_edge.model.mip import MIP, TrainOutput
from mip_edge.processes import gather_rows


@dataclass(frozen=True, slots=True)
class Lesson:
    """The crops of this process, and what all processes together are asked about them."""

    images: Tensor
    """(B, 3, H, W), augmented and normalised."""
    modality: Tensor
    """(B,), 1 visible and 0 infrared."""
    camera: Tensor | None
    """(B,) rows of the network's camera table."""
    labels: Tensor
    """(size * B,), of the crops of all processes in the order of ranks."""
    all_modality: Tensor
    """(size * B,), likewise."""


class Teacher(nn.Module):
    """A trained network that a smaller one learns to repeat; it does not learn itself."""

    columns: Tensor | None

    def __init__(self, model: MIP, columns: Tensor | None, *, cameras: bool = False) -> None:
        """`columns` (classes,) are its classes in the order of the pupil's; None compares none.

        With `cameras` it has the camera table of its pupil, and uses it.
        """
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.cameras = cameras and model.options.cameras > 0
        self.register_buffer("columns", columns, persistent=False)

    @property
    def compares(self) -> bool:
        """Whether it knows the identities, so that scores can be compared."""
        return self.columns is not None

    def train(self, mode: bool = True) -> Teacher:
        """Stays as it is used: in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, lesson: Lesson) -> tuple[Tensor, list[Tensor]]:
        """Unit embeddings (B, D) of the crops of this process, and five scores (B, classes) of
        the pupil's classes, or none."""
        model = self.model
        images = fit(lesson.images, model.options.image_size)
        camera = lesson.camera if self.cameras else None
        output = model.scores(*model.features(images, lesson.modality, camera))
        embeddings = F.normalize(model.join(output.features).float(), dim=1)
        if self.columns is None:
            return embeddings, []
        return embeddings, [scores[:, self.columns].float() for scores in output.scores]


@dataclass(frozen=True, slots=True)
class ObjectiveOptions:
    """How a batch becomes a loss."""

    accumulate: int = 1
    """Parts in which the crops go through the network, one at a time in memory."""
    label_smoothing: float = 0.0
    relation_weight: float = 1.0
    logits_weight: float = 1.0
    amp: torch.dtype | None = None
    """Type of mixed precision; None is off."""
    gather: bool = False
    """Whether other processes have crops of the same batch."""


class Objective(nn.Module):
    """The network with its losses; DistributedDataParallel wraps this.

    Hard triplets, MSEL and the necks' statistics are those of the whole batch, however it is
    divided: parts and processes only divide the way to the five features of a crop, which depend
    on no other crop. So the gradient is that of one process with one part.
    """

    def __init__(
        self, model: MIP, options: ObjectiveOptions, teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.options = options
        self.teacher = teacher

    def forward(
        self,
        images: Tensor,
        modality: Tensor,
        camera: Tensor | None,
        labels: Tensor,
        all_modality: Tensor,
        msel: bool,
    ) -> tuple[Tensor, ...]:
        """The fields of Losses, in their order. Tensors as in Lesson: DDP looks for them here."""
        lesson = Lesson(images, modality, camera, labels, all_modality)
        with torch.autocast(
            images.device.type, dtype=self.options.amp, enabled=self.options.amp is not None
        ):
            features, instances = self._features(lesson)
            output = self.model.scores(features, instances)
            known = None if self.teacher is None else self.teacher(lesson)
        output = _in_float32(output)
        found = losses(
            output,
            labels,
            all_modality,
            msel=msel,
            label_smoothing=self.options.label_smoothing,
        )
        found = self._with_teacher(found, output, known)
        return tuple(getattr(found, field.name) for field in fields(found))

    def _features(self, lesson: Lesson) -> tuple[list[Tensor], list[Tensor]]:
        """Features and instance prompts of the crops of all processes."""
        parts = self.options.accumulate
        pieces = zip(
            fit(lesson.images, self.model.options.image_size).tensor_split(parts),
            lesson.modality.tensor_split(parts),
            [None] * parts if lesson.camera is None else lesson.camera.tensor_split(parts),
            strict=True,
        )
        run = self.model.features
        if parts == 1:
            found = [run(*piece) for piece in pieces]
        else:
            # only one part's activations are in memory: each is computed again when its turn
            # comes backwards, with the same random numbers
            found = [checkpoint(run, *piece, use_reentrant=False) for piece in pieces]
        features, instances = (
            [torch.cat(same).float() for same in zip(*kind, strict=True)]
            for kind in zip(*found, strict=True)
        )
        if self.options.gather:
            features = [gather_rows(one) for one in features]
            instances = [gather_rows(one) for one in instances]
        return features, instances

    def _with_teacher(
        self, found: Losses, output: TrainOutput, known: tuple[Tensor, list[Tensor]] | None
    ) -> Losses:
        if known is None:
            return found
        theirs, scores = known
        if self.options.gather:
            theirs, scores = gather_rows(theirs), [gather_rows(one) for one in scores]
        ours = F.normalize(self.model.join(output.features), dim=1)
        relation = relation_loss(ours, theirs)
        logits = found.logits
        if scores:
            logits = self.options.logits_weight * logits_loss(output.scores, scores)
        return Losses(
            *(found.identity, found.triplet, found.msel, found.iael),
            relation=self.options.relation_weight * relation,
            logits=logits,
        )


def fit(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, 3, H, W) at another height and width, if they have not that one: bilinear
    without antialiasing, as crops are prepared in use."""
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def _in_float32(output: TrainOutput) -> TrainOutput:
    return TrainOutput(
        [scores.float() for scores in output.scores],
        [features.float() for features in output.features],
        [scores.float() for scores in output.instance_scores],
    )
