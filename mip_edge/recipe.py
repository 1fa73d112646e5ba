"""How a MIP is trained: every option, and the two named recipes that fill what was left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from mip_edge.data.augment import Channels
from mip_edge.errors import OptionError
from mip_edge.model.optimizer import FIRST_CYCLE, OptimizerOptions

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "paper": {"instance_queries": "learnable", "iael": True, "select": "validation"},
    "official": {"instance_queries": "zero", "iael": False, "select": "test"},
}
"""What the recipes differ in. paper: the network and losses as the paper draws them, and a
checkpoint chosen on identities of the training part. official: the published train.sh as it is,
which queries with zeros, leaves IAEL out, and chooses the checkpoint on the test part."""
LEARNING_RATES: Mapping[str, float] = {"regdb": 0.008}
"""Published learning rates of single data sets; the others have 0.01."""
SELECT_FROM = 10
"""First epoch that the published training evaluates, and the first with its MSEL."""

_CHOICES = {
    "recipe": tuple(RECIPES),
    "select": (None, "validation", "test", "last"),
    "instance_queries": (None, "zero", "learnable"),
    "amp": ("auto", "on", "off"),
    "lr_per": ("epoch", "step"),
    "lr_groups": ("published", "equal"),
    "schedule": ("published", "cosine"),
    "augmentation": ("published", "light"),
    "channels": ("keep", "grey", "exchange"),
}
_AT_LEAST_1 = ("epochs", "batch", "images", "evaluate_every", "msel_start", "accumulate", "workers")
_AT_LEAST_0 = ("save_every", "relation_weight", "logits_weight")


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a MIP is trained; the defaults are the published recipe where it says anything."""

    dataset: str = "folder"
    """Layout of the data: folder, sysu, regdb or llcm."""
    split: int = 1
    """Which of the ten splits of RegDB."""
    recipe: str = "paper"
    """"paper" or "official": fills `instance_queries`, `iael` and `select` where they are None."""
    model: str = "base"
    """Preset of the network: tiny, small or base."""
    init: str | None = None
    """A mip-edge checkpoint, a timm or Hugging Face ViT (file or hf:ORG/NAME), or "synthetic"."""
    init_prompts: bool = True
    """Take the prompts and the prompt generator of `init` too, not its plain ViT alone."""
    image_size: tuple[int, int] | None = None
    """Height and width of a prepared crop; None takes that of `init`, else 256 x 128."""
    stride: int | None = None
    """Pixels from patch to patch; None takes that of `init`, else 12."""
    instance_queries: str | None = None
    """"zero" or "learnable"; None takes that of `init`, else the recipe's."""
    modality_prompts: bool = True
    """Have modality prompts (MPL); off only to see what they give."""
    instance_prompts: bool = True
    """Have the instance prompt generator (IPG); off only to see what it gives."""
    prompt_scale: float = 20.0
    """Factor of the modality prompts' starting range, as the published script sets it."""
    camera_embedding: bool = True
    """Learn an embedding of each camera (SIE) where the data set names its cameras."""
    epochs: int = 80
    """Passes over the training identities."""
    batch: int = 64
    """Crops of a batch over all processes: half of them visible, half infrared."""
    images: int = 4
    """Crops of one identity in one modality in a batch (K)."""
    accumulate: int = 1
    """Parts in which a batch goes through the network, to fit a small GPU; the gradient is that of
    the whole batch, for one more forward pass."""
    optimizer: str = "sgd"
    """"sgd" as published, or "adamw"."""
    lr: float | None = None
    """Learning rate, of which the parameter groups have multiples; None: 0.01, RegDB 0.008."""
    lr_per: str = "epoch"
    """Move the learning rate once an "epoch" as published, or every "step"."""
    schedule: str = "published"
    """"published": cosine cycles, each a tenth of the one before; "cosine": the first one alone."""
    augmentation: str = "published"
    """"published", or "light" (flip, shift, jitter) to fine-tune on few crops; the published one
    resizes bicubic, the light one as in use."""
    channels: Channels = "keep"
    """Of visible crops: "keep", turn "grey" at random, or "exchange" channels at random (CAJ)."""
    lr_groups: str = "published"
    """"published" multiples of the learning rate for prompts, generator and biases, or "equal"."""
    label_smoothing: float = 0.0
    """Share of the identity loss's target that goes to all identities."""
    msel_start: int = SELECT_FROM
    """First epoch with the modality-shared enhancement loss."""
    iael: bool | None = None
    """Train with the instance-aware enhancement loss; None is the recipe's."""
    iael_block: bool = False
    """Let one more block read the instance prompts for IAEL, in place of their mean."""
    ema: float = 0.0
    """Decay of an average of the weights that is validated and kept instead of them; 0 is off."""
    teacher: str | None = None
    """A checkpoint whose embeddings and scores the network learns to repeat."""
    relation_weight: float = 10.0
    """Of the loss between both networks' similarities of the crops of a batch."""
    logits_weight: float = 1.0
    """Of the loss between both networks' scores, if the teacher knows the same identities."""
    select: str | None = None
    """What chooses the best epoch: identities for "validation", the "test" part (optimistic, as
    the published code does), or nothing ("last"); None is the recipe's."""
    validation_share: float = 0.1
    """Share of the training identities that `select` "validation" keeps aside."""
    evaluate_every: int = 1
    """Epochs from one validation to the next; the last epoch always has one."""
    save_every: int = 0
    """Steps from one resumable state to the next within an epoch; 0 has one at its end only."""
    amp: str = "auto"
    """Mixed precision: "on", "off", or "auto": on CUDA on, on a CPU whichever is faster."""
    seed: int = 1234
    """Of the start, the sampler and the augmentation."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1."""
    threads: int | None = None
    """Threads of a CPU; None takes all cores."""
    workers: int = 2
    """Threads that decode images."""
    cache: str | None = None
    """Folder for decoded crops, mapped into memory; None keeps them in memory."""
    licence: str | None = None
    """Of the weights that come out, for checkpoint, card and bundle."""
    tensorboard: bool = False
    """Write the figures for TensorBoard too."""

    def __post_init__(self) -> None:
        for names, least in ((_AT_LEAST_1, 1), (_AT_LEAST_0, 0)):
            for name in names:
                if getattr(self, name) < least:
                    raise OptionError(
                        f"{_flag(name)} must be at least {least}, got {getattr(self, name)}"
                    )
        if self.batch % (2 * self.images):
            raise OptionError(
                f"--batch must be a multiple of {2 * self.images} (both modalities x --images "
                f"{self.images}), got {self.batch}"
            )
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                listed = " or ".join(choice for choice in choices if choice)
                raise OptionError(f"{_flag(name)} must be {listed}, got {getattr(self, name)!r}")
        for name in ("ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{_flag(name)} must be in [0, 1), got {getattr(self, name)}")
        self.optimizer_options()

    def resolved(self) -> TrainOptions:
        """The same with nothing left to the recipe but `instance_queries`, which `init` may set."""
        chosen = RECIPES[self.recipe]
        return replace(
            self,
            lr=self.optimizer_options().lr,
            iael=(chosen["iael"] and self.instance_prompts) if self.iael is None else self.iael,
            select=chosen["select"] if self.select is None else self.select,
        )

    def optimizer_options(self) -> OptimizerOptions:
        """Of all groups. Raises: OptionError for a learning rate or kind that cannot be."""
        rate = LEARNING_RATES.get(self.dataset, 0.01) if self.lr is None else self.lr
        published = OptimizerOptions(kind=self.optimizer, lr=rate)
        if self.lr_groups == "published":
            return published
        return replace(
            published, bias_multiplier=1.0, modality_multiplier=1.0, instance_multiplier=1.0
        )

    def reached(self, epoch: int, step: int, steps: int) -> float:
        """Where in the schedule step `step` of `steps` of an epoch (from 1) stands."""
        now = epoch if self.lr_per == "epoch" else epoch - 1 + (step + 1) / steps
        return now if self.schedule == "published" else now * FIRST_CYCLE

    @property
    def identities(self) -> int:
        """Identities of a batch (P)."""
        return self.batch // (2 * self.images)


FREE_TO_CHANGE = frozenset(
    {"device", "threads", "workers", "cache", "save_every", "tensorboard", "licence"}
)
"""Options that a resumed run may have otherwise: they do not change what is learned."""


def first_difference(before: Mapping[str, Any], now: TrainOptions) -> str | None:
    """The first option of a run that would go on otherwise, as a message says it."""
    for field in fields(now):
        if field.name in FREE_TO_CHANGE:
            continue
        then, given = before.get(field.name), getattr(now, field.name)
        if isinstance(given, tuple) and isinstance(then, list):
            then = tuple(then)
        if then != given:
            return f"{_flag(field.name)} was {then}, now it is {given}"
    return None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
