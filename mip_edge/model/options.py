"""What a MIP network is made of: the options that travel with every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mip_edge.errors import OptionError

PRESETS: Mapping[str, Mapping[str, int]] = {
    "tiny": {"width": 192, "heads": 3},
    "small": {"width": 384, "heads": 6},
    "base": {"width": 768, "heads": 12},
}
NECK_CHOICES = ("before", "after")
QUERY_CHOICES = ("zero", "learnable")
LOCAL_GROUPS = 4
# Fields that the first checkpoints did not have. Left unsaid at these defaults, so that the
# fingerprint of a network does not change, and bundles and galleries made with it stay valid.
_LATER: Mapping[str, Any] = {
    "modality_prompts": True,
    "instance_prompts": True,
    "iael_block": False,
}
_MINIMUM = {
    "width": 1,
    "depth": 3,
    "heads": 1,
    "patch": 1,
    "stride": 1,
    "prompt_length": 1,
    "cameras": 0,
    "classes": 0,
}


@dataclass(frozen=True, slots=True)
class MIPOptions:
    """The network of "Enhancing Visible-Infrared Person Re-identification with Modality- and
    Instance-aware Visual Prompt Learning" (ICMR 2024), as its published code runs it."""

    width: int
    """Length of a token; the embedding is five times as long."""
    heads: int
    """Attention heads; they divide `width`."""
    depth: int = 12
    """Blocks of the ViT it starts from; of these depth - 2 run, and the last becomes the head."""
    image_size: tuple[int, int] = (256, 128)
    """Height and width of a prepared crop in pixels."""
    patch: int = 16
    """Side of a patch in pixels."""
    stride: int = 12
    """Pixels from patch to patch; below `patch` they overlap."""
    prompt_length: int = 16
    """Prompts of each kind (modality, instance) a layer sees."""
    instance_queries: str = "zero"
    """What asks the instance prompt generator: "zero" (as published) or "learnable"."""
    cameras: int = 0
    """Cameras with an embedding of their own (SIE); 0 has none."""
    sie_coefficient: float = 3.0
    """Factor of the camera embedding."""
    extra_block: bool = False
    """Run block depth - 2 too, which the published code skips."""
    classes: int = 0
    """Identities that the classifiers tell apart; 0 has no classifiers."""
    neck: str = "before"
    """Take the embedding "before" or "after" the batch normalisation."""
    iael: bool = False
    """Have the classifiers of the instance-aware enhancement loss."""
    drop_path: float = 0.1
    """Stochastic depth of the last block in training; it grows linearly from 0."""
    prompt_dropout: float = 0.1
    """Dropout on the projected modality prompts in training."""
    prompt_scale: float = 1.0
    """Factor of the prompts' starting range (the published training script takes 20)."""
    modality_prompts: bool = True
    """Give each layer the prompts of the crop's modality (MPL)."""
    instance_prompts: bool = True
    """Give each layer prompts that are generated from the crop itself (IPG)."""
    iael_block: bool = False
    """Let one more block read the instance prompts for IAEL, in place of their mean."""

    def __post_init__(self) -> None:
        self._check_types()
        for name, smallest in _MINIMUM.items():
            if getattr(self, name) < smallest:
                raise OptionError(f"{name} must be at least {smallest}, got {getattr(self, name)}")
        if self.width % self.heads:
            raise OptionError(f"width {self.width} cannot be divided among {self.heads} heads")
        if min(self.image_size) < self.patch:
            raise OptionError(
                f"image_size {self.image_size[0]}x{self.image_size[1]} is smaller than "
                f"one patch of {self.patch}x{self.patch}"
            )
        if self.patches < LOCAL_GROUPS:
            raise OptionError(
                f"image_size {self.image_size[0]}x{self.image_size[1]} at stride {self.stride} "
                f"gives {self.patches} patches; the head needs at least {LOCAL_GROUPS}"
            )
        for name, choices in (("neck", NECK_CHOICES), ("instance_queries", QUERY_CHOICES)):
            if getattr(self, name) not in choices:
                listed = " or ".join(choices)
                raise OptionError(f"{name} must be {listed}, got {getattr(self, name)!r}")
        for name in ("drop_path", "prompt_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise OptionError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0 < self.prompt_scale < float("inf"):
            raise OptionError(f"prompt_scale must be a number above 0, got {self.prompt_scale}")
        if not 0 <= self.sie_coefficient < float("inf"):
            raise OptionError(f"sie_coefficient must be at least 0, got {self.sie_coefficient}")
        if self.iael and not self.classes:
            raise OptionError("iael needs classes to tell apart, got classes=0")
        if self.iael and not self.instance_prompts:
            raise OptionError("iael needs instance prompts, got instance_prompts=False")
        if self.iael_block and not self.iael:
            raise OptionError("iael_block needs iael, got iael=False")

    def _check_types(self) -> None:
        size = self.image_size
        if (
            not isinstance(size, tuple)
            or len(size) != 2
            or not all(isinstance(side, int) and not isinstance(side, bool) for side in size)
        ):
            raise OptionError(f"image_size must be (height, width) in pixels, got {size!r}")
        for field in fields(self):
            given = getattr(self, field.name)
            if field.type == "int" and (not isinstance(given, int) or isinstance(given, bool)):
                raise OptionError(f"{field.name} must be a whole number, got {given!r}")
            if field.type == "float" and (
                not isinstance(given, (int, float)) or isinstance(given, bool)
            ):
                raise OptionError(f"{field.name} must be a number, got {given!r}")
            if field.type == "bool" and not isinstance(given, bool):
                raise OptionError(f"{field.name} must be true or false, got {given!r}")

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> MIPOptions:
        """One of the named sizes, with any field changed by keyword.

        Raises: OptionError for a name or a field that does not exist.
        """
        if name not in PRESETS:
            raise OptionError(f"model must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls.from_dict({**PRESETS[name], **overrides})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MIPOptions:
        """The inverse of `to_dict`.

        Raises: OptionError for a field that does not exist, is missing or cannot be.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise OptionError(f"model option {unknown[0]!r} does not exist")
        missing = [name for name in ("width", "heads") if name not in values]
        if missing:
            raise OptionError(f"model option {missing[0]!r} is missing")
        given = dict(values)
        if isinstance(given.get("image_size"), list):
            given["image_size"] = tuple(given["image_size"])
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Fields as plain JSON values, those of `_LATER` only where they are not the default."""
        values = {**asdict(self), "image_size": list(self.image_size)}
        return {
            name: value
            for name, value in values.items()
            if name not in _LATER or value != _LATER[name]
        }

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_size
        return (
            (height - self.patch) // self.stride + 1,
            (width - self.patch) // self.stride + 1,
        )

    @property
    def patches(self) -> int:
        """Patches of one crop."""
        rows, columns = self.grid
        return rows * columns

    @property
    def layers(self) -> int:
        """Prompted blocks that run."""
        return self.depth - 1 if self.extra_block else self.depth - 2

    @property
    def dimension(self) -> int:
        """Length of the embedding."""
        return (1 + LOCAL_GROUPS) * self.width
