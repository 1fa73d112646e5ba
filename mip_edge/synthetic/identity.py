"""Who a synthetic person is: body, clothes, things carried; colours, and apart from them shine."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HAIR = ("none", "short", "long", "bun", "cap", "hat", "hood")
TOPS = ("sleeveless", "short sleeves", "long sleeves", "open jacket", "coat")
TOP_PATTERNS = ("plain", "bands", "pinstripes", "checks", "dots", "diagonals", "halves", "emblem")
BOTTOMS = ("trousers", "shorts", "skirt", "long skirt")
BOTTOM_PATTERNS = ("plain", "side stripe", "checks", "hem")
CARRIED = ("nothing", "backpack", "shoulder bag", "handbag", "suitcase", "umbrella")
SHOES = ("shoes", "boots")
PERIODS = (0.045, 0.075, 0.12)
"""Periods of a top's pattern, as shares of the body's height."""

PARTS = (
    "background",
    "skin",
    "hair",
    "top",
    "top pattern",
    "bottom",
    "bottom pattern",
    "shoes",
    "bag",
    "bag trim",
    "inner",
    "headgear",
)
"""What a pixel of a drawn person belongs to; the index is the label."""

ATTRIBUTES: dict[str, int] = {
    "hair": len(HAIR),
    "top": len(TOPS),
    "top_pattern": len(TOP_PATTERNS),
    "period": len(PERIODS),
    "bottom": len(BOTTOMS),
    "bottom_pattern": len(BOTTOM_PATTERNS),
    "carried": len(CARRIED),
    "shoes": len(SHOES),
}
"""Every categorical attribute with the number of its values."""
MEASURES = ("build", "legs", "head", "stride")
"""Every continuous attribute, each in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One synthetic person: what stays when the light, the pose and the place change."""

    number: int
    """Which person of the world."""
    hair: int
    top: int
    top_pattern: int
    period: int
    bottom: int
    bottom_pattern: int
    carried: int
    shoes: int
    build: float
    """Width of the body, 0 slender to 1 broad."""
    legs: float
    """Share of the legs in the body's height, 0 short to 1 long."""
    head: float
    """Size of the head, 0 small to 1 large."""
    stride: float
    """Length of a step, 0 short to 1 long: the gait."""
    colours: NDArray[np.uint8]
    """(parts, 3) RGB in visible light."""
    reflectances: NDArray[np.uint8]
    """(parts,) brightness in infrared light, drawn apart from the colours."""

    def attribute_row(self) -> NDArray[np.int64]:
        """The categorical attributes in the order of ATTRIBUTES, (8,) int64."""
        return np.array([getattr(self, name) for name in ATTRIBUTES], dtype=np.int64)

    def measure_row(self) -> NDArray[np.float32]:
        """The continuous attributes in the order of MEASURES, (4,) float32 in [0, 1]."""
        return np.array([getattr(self, name) for name in MEASURES], dtype=np.float32)


def draw_identity(seed: int, number: int) -> Identity:
    """Person `number` of the world `seed`: always the same one."""
    rng = np.random.default_rng([seed, number])
    choices = {name: int(rng.integers(count)) for name, count in ATTRIBUTES.items()}
    measures = {name: float(rng.random()) for name in MEASURES}
    looks: dict[str, Any] = {**choices, **measures}
    return Identity(
        number=number,
        **looks,
        colours=_draw_colours(rng),
        reflectances=_draw_reflectances(rng),
    )


def _draw_colours(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A colour for each part; the two tones of a pattern differ in lightness, as real prints do."""
    hue, saturation, value = rng.random((3, len(PARTS)))
    saturation *= 0.85
    value = 0.12 + 0.83 * value
    for part in ("top", "bottom", "bag"):
        tone, other = PARTS.index(part), PARTS.index(part) + 1
        value[other] = _other_tone(value[tone], rng)
    hue[1], saturation[1] = 0.03 + 0.05 * hue[1], 0.25 + 0.3 * saturation[1]
    value[1] = 0.35 + 0.6 * value[1]
    value[2] = 0.05 + 0.5 * value[2]
    rgb = [colorsys.hsv_to_rgb(*triple) for triple in zip(hue, saturation, value, strict=True)]
    return np.round(255 * np.array(rgb)).astype(np.uint8)


def _draw_reflectances(rng: np.random.Generator) -> NDArray[np.uint8]:
    """A brightness for each part under infrared light: dark cloth may shine there."""
    shine = 0.1 + 0.85 * rng.random(len(PARTS))
    for part in ("top", "bottom", "bag"):
        tone = PARTS.index(part)
        shine[tone + 1] = _other_tone(shine[tone], rng)
    shine[1] = 0.7 + 0.28 * rng.random()
    return np.round(255 * shine).astype(np.uint8)


def _other_tone(tone: float, rng: np.random.Generator) -> float:
    """A brightness at least 0.3 away from `tone`, on the side where there is room."""
    gap = 0.3 + 0.25 * rng.random()
    return tone - gap if tone > 0.55 else tone + gap
