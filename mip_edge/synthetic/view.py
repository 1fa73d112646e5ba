"""How a camera sees a synthetic person: light, place, occlusion, blur and noise."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError
from mip_edge.spec import Crop, Modality
from mip_edge.synthetic.figure import CANVAS, Labels, Pose, draw_figure
from mip_edge.synthetic.identity import Identity


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """How far apart the views of one person may lie."""

    image_size: tuple[int, int] = (128, 64)
    """Height and width of a crop in pixels."""
    difficulty: float = 0.8
    """0: plain backgrounds, whole people, even light; 1: vivid ones, occluders, harsh light."""

    def __post_init__(self) -> None:
        if not 0 <= self.difficulty <= 1:
            raise OptionError(f"--difficulty must be between 0 and 1, got {self.difficulty}")
        if min(self.image_size) < 16:
            raise OptionError(f"--image-size must be at least 16 16, got {self.image_size}")


@dataclass(frozen=True, slots=True)
class View:
    """One crop, and what can be seen where in it."""

    crop: Crop
    """(H, W, 3) uint8 RGB; three equal channels for infrared."""
    labels: Labels
    """(h, w) uint8, indices into PARTS, the same field of view; what is hidden is background."""


def render_view(
    identity: Identity, modality: Modality, rng: np.random.Generator, options: ViewOptions
) -> View:
    """`identity` in a pose and a place drawn by `rng`, with its map of body parts."""
    hard = options.difficulty
    labels = draw_figure(identity, _draw_pose(rng, hard))
    if rng.random() < 0.5:
        labels = np.ascontiguousarray(labels[:, ::-1])
    rows, columns = _detect(labels, rng, hard)
    image = paint(labels, identity, modality, draw_background(rng, modality, hard, CANVAS))
    if rng.random() < 0.45 * hard:
        _occlude(image, labels, rng, modality)
    height, width = options.image_size
    seen = cv2.resize(image[rows, columns], (width, height), interpolation=cv2.INTER_AREA)
    image = expose(np.asarray(seen, dtype=np.uint8), rng, modality, hard)
    if modality is Modality.INFRARED:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    return View(image, labels[rows, columns])


def render_crop(
    identity: Identity, modality: Modality, rng: np.random.Generator, options: ViewOptions
) -> Crop:
    """The crop of `render_view`, (H, W, 3) uint8 RGB."""
    return render_view(identity, modality, rng, options).crop


def paint(
    labels: Labels, identity: Identity, modality: Modality, background: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The figure in the light of `modality` over a background: (H, W, 3), infrared (H, W)."""
    if modality is Modality.VISIBLE:
        tones = np.zeros((256, 1, 3), dtype=np.uint8)
        tones[: len(identity.colours), 0] = identity.colours
        person = cv2.LUT(cv2.merge([labels] * 3), tones)
    else:
        shades = np.zeros((256, 1), dtype=np.uint8)
        shades[: len(identity.reflectances), 0] = identity.reflectances
        person = cv2.LUT(labels, shades)
    return np.asarray(cv2.copyTo(person, labels, background), dtype=np.uint8)


def draw_background(
    rng: np.random.Generator, modality: Modality, hard: float, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """A place: smooth light and a few things in it; (H, W, 3), or (H, W) for infrared."""
    height, width = size
    channels = modality.channels
    base = 60 + 120 * rng.random(channels)
    if channels == 3:
        base = base.mean() + (0.15 + 0.5 * hard) * (base - base.mean())
    spread = 12 + 50 * hard
    coarse = base + spread * rng.standard_normal((5, 3, channels))
    coarse8 = np.clip(coarse, 0, 255).astype(np.uint8)
    smooth = cv2.resize(coarse8, (width, height), interpolation=cv2.INTER_LINEAR)
    image = np.asarray(smooth, dtype=np.uint8)
    for _ in range(int(rng.integers(0, 2 + round(6 * hard)))):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        across, down = int(rng.integers(4, width // 2)), int(rng.integers(8, height // 2))
        colour = np.clip(base + 1.6 * spread * rng.standard_normal(channels), 0, 255)
        cv2.rectangle(image, (x, y), (x + across, y + down), colour.tolist(), -1)
    return image


def expose(
    image: NDArray[np.uint8], rng: np.random.Generator, modality: Modality, hard: float
) -> NDArray[np.uint8]:
    """Illumination from a side, gain, tint, blur and noise; same shape and type."""
    height, width = image.shape[:2]
    gain = 1.0 + 0.45 * hard * (2 * rng.random() - 1)
    offset = 30 * hard * (2 * rng.random() - 1)
    down, across = (0.5 * hard * (2 * rng.random((2,)) - 1)).tolist()
    rows = gain + gain * down * np.linspace(-1, 1, height, dtype=np.float32)
    columns = 1 + across * np.linspace(-1, 1, width, dtype=np.float32)
    light = rows[:, None] * columns[None]
    sigma = 2 + (6 if modality is Modality.VISIBLE else 12) * hard * rng.random()
    if image.ndim == 3:
        tint = (1 + 0.15 * hard * (2 * rng.random(3) - 1)).astype(np.float32)
        light = light[..., None] * tint
    lit = cv2.multiply(image, light, dtype=cv2.CV_32F)
    noise = draw_noise(rng, image.shape, sigma, offset)
    exposed = cv2.add(lit, noise, dtype=cv2.CV_8U)
    if rng.random() < 0.2 + 0.4 * hard:
        blur = 0.4 + (0.9 * hard * height / 128) * rng.random()
        exposed = cv2.GaussianBlur(exposed, (0, 0), blur)
    return np.asarray(exposed, dtype=np.uint8)


def draw_noise(
    rng: np.random.Generator, shape: tuple[int, ...], sigma: float, mean: float = 0.0
) -> NDArray[np.float32]:
    """Noise of deviation `sigma`: the sum of two uniform bytes, faster than a normal."""
    count = int(np.prod(shape))
    pair = np.frombuffer(rng.bytes(2 * count), dtype=np.uint8).reshape(2, *shape)
    scale = sigma / 104.5
    noise = cv2.addWeighted(pair[0], scale, pair[1], scale, mean - 255 * scale, dtype=cv2.CV_32F)
    return np.asarray(noise, dtype=np.float32)


def _detect(labels: Labels, rng: np.random.Generator, hard: float) -> tuple[slice, slice]:
    """Rows and columns of the body, as a detector boxes it: tight, and a little off each side."""
    spans = []
    tall = np.flatnonzero(labels.any(axis=1))
    for axis, size in enumerate(labels.shape):
        inside = np.flatnonzero(labels.any(axis=1 - axis)) if axis else tall
        slack = (0.01 + 0.05 * hard) * len(tall) * (2 * rng.random(2) - 0.6)
        start, end = inside[0] - slack[0], inside[-1] + 1 + slack[1]
        spans.append(slice(max(int(start), 0), min(round(float(end)), size)))
    return spans[0], spans[1]


def _draw_pose(rng: np.random.Generator, hard: float) -> Pose:
    height = 0.93 - (0.03 + 0.12 * hard) * rng.random()
    return Pose(
        phase=2 * np.pi * rng.random(),
        yaw=2 * np.pi * rng.random(),
        height=height,
        centre=0.5 + (0.02 + 0.14 * hard) * (rng.random() - 0.5) * 2,
        top=0.02 + (0.96 - height) * rng.random(),
        lean=0.02 * hard * (2 * rng.random() - 1),
    )


def _occlude(
    image: NDArray[np.uint8], labels: Labels, rng: np.random.Generator, modality: Modality
) -> None:
    """Something before the person: a low wall, or a post at one side."""
    height, width = labels.shape
    colour = (255 * rng.random(modality.channels)).tolist()
    if rng.random() < 0.5:
        top, left, right = int(height * (1 - 0.3 * rng.random())), 0, width
    else:
        across = int(width * (0.08 + 0.22 * rng.random()))
        top, left = 0, int(rng.random() * (width - across))
        right = left + across
    cv2.rectangle(image, (left, top), (right - 1, height), colour, -1)
    labels[top:, left:right] = 0
