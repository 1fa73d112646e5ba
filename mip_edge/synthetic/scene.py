"""Two synthetic cameras, one for day and one for night, and who truly crossed before them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError, OutputError
from mip_edge.spec import Modality
from mip_edge.synthetic.figure import CANVAS, Pose, draw_figure
from mip_edge.synthetic.identity import Identity, draw_identity
from mip_edge.synthetic.view import draw_background, draw_noise, paint

TRUTH_SUFFIX = ".truth.jsonl"
_SPRITE_HEIGHT = 0.9


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """A day and a night at one site."""

    people: int = 10
    """People who cross before both cameras."""
    strangers: int = 2
    """People who cross before the infrared camera only."""
    seed: int = 3
    """Which world they come from."""
    size: tuple[int, int] = (360, 640)
    """Height and width of a frame in pixels."""
    rate: float = 10.0
    """Frames a second."""
    crossing: float = 5.0
    """Seconds that one person needs from side to side."""
    pause: float = 3.0
    """Seconds from one person's start to the next one's."""

    def __post_init__(self) -> None:
        if self.people < 1 or self.strangers < 0:
            raise OptionError(
                f"a scene needs at least 1 person and no fewer than 0 strangers, got "
                f"{self.people} and {self.strangers}"
            )


@dataclass(frozen=True, slots=True)
class Crossing:
    """One person walks once through one camera's picture."""

    identity: Identity
    start: int
    """First frame."""
    frames: int
    """How many frames it takes."""
    leftward: bool
    feet: float
    """Where the feet are, as a share of the frame's height."""
    tall: float
    """Height of the person as a share of the frame's height."""
    turn: float
    """Radians that the body is turned from the pure side view."""
    phase: float
    """Where in the walking cycle the crossing begins."""


@dataclass(frozen=True, slots=True)
class SceneCamera:
    """A video that was written, and its truth beside it."""

    name: str
    modality: Modality
    video: Path
    truth: Path
    frames: int
    people: int


def write_scene(folder: Path, options: SceneOptions) -> list[SceneCamera]:
    """Draw `gate.mp4` (visible) and `yard.mp4` (infrared) with their `.truth.jsonl` into `folder`.

    A line of truth: {"frame": 0, "people": [{"identity": 12, "box": [x1, y1, x2, y2]}]}, what is
    seen of each person in pixels. Raises: OutputError if the folder cannot be written.
    """
    numbers = np.arange(options.people + options.strangers)
    rng = np.random.default_rng([options.seed, 4])
    cameras = []
    for name, modality, who in (
        ("gate", Modality.VISIBLE, numbers[: options.people]),
        ("yard", Modality.INFRARED, numbers),
    ):
        # At night people come in another order than by day, and later.
        late = 0.0 if modality is Modality.VISIBLE else options.crossing + 3 * options.pause
        order = who[np.argsort(np.arange(len(who)) + 3 * rng.random(len(who)))]
        crossings = _plan(order, late, rng, options)
        frames = max(crossing.start + crossing.frames for crossing in crossings)
        video = folder / f"{name}.mp4"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_camera(video, modality, crossings, frames, rng, options)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
        truth = video.with_suffix(TRUTH_SUFFIX)
        cameras.append(SceneCamera(name, modality, video, truth, frames, len(crossings)))
    return cameras


def _plan(
    numbers: NDArray[np.int64], late: float, rng: np.random.Generator, options: SceneOptions
) -> list[Crossing]:
    """One crossing a person, one after another, some passing each other."""
    crossings = []
    for place, number in enumerate(numbers):
        near = rng.random()
        crossings.append(
            Crossing(
                identity=draw_identity(options.seed, int(number)),
                start=round(options.rate * (1 + late + place * options.pause)),
                frames=round(options.rate * options.crossing * (0.9 + 0.3 * rng.random())),
                leftward=bool(rng.random() < 0.5),
                feet=0.84 + 0.12 * near,
                tall=0.55 + 0.12 * near,
                turn=float(rng.uniform(-0.7, 0.7)),
                phase=float(rng.uniform(0, 2 * np.pi)),
            )
        )
    return crossings


def _write_camera(
    video: Path,
    modality: Modality,
    crossings: list[Crossing],
    frames: int,
    rng: np.random.Generator,
    options: SceneOptions,
) -> None:
    height, width = options.size
    beside = video.with_name(f".{video.stem}.part.mp4")
    writer = cv2.VideoWriter(
        str(beside), cv2.VideoWriter.fourcc(*"mp4v"), options.rate, (width, height)
    )
    if not writer.isOpened():
        raise OutputError(f"{video} cannot be written: OpenCV opens no mp4v writer here")
    lines = []
    try:
        for index, (image, people) in enumerate(
            draw_frames(modality, crossings, frames, rng, options)
        ):
            code = cv2.COLOR_RGB2BGR if image.ndim == 3 else cv2.COLOR_GRAY2BGR
            writer.write(cv2.cvtColor(image, code))
            lines.append(json.dumps({"frame": index, "people": people}))
    finally:
        writer.release()
    os.replace(beside, video)
    video.with_suffix(TRUTH_SUFFIX).write_text("\n".join(lines) + "\n")


def draw_frames(
    modality: Modality,
    crossings: list[Crossing],
    frames: int,
    rng: np.random.Generator,
    options: SceneOptions,
) -> Iterator[tuple[NDArray[np.uint8], list[dict[str, object]]]]:
    """Each frame, (H, W, 3) RGB or (H, W) infrared, and who is seen where in it."""
    place = _draw_place(modality, rng, options.size)
    sigma = 4.0 if modality is Modality.VISIBLE else 5.0
    for index in range(frames):
        image = place.copy()
        owners = np.zeros(options.size, dtype=np.int32)
        # Whose feet are lower stands nearer, and hides the others.
        for crossing in sorted(crossings, key=lambda one: one.feet):
            if 0 <= index - crossing.start < crossing.frames:
                _put(image, owners, crossing, index, modality, options)
        noisy = image.astype(np.float32) + draw_noise(rng, image.shape, sigma)
        people = [
            {"identity": number - 1, "box": _box(owners == number)}
            for number in np.unique(owners[owners > 0]).tolist()
        ]
        yield np.clip(noisy, 0, 255).astype(np.uint8), people


def _draw_place(
    modality: Modality, rng: np.random.Generator, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """A wall with things on it, and a floor."""
    place = draw_background(rng, modality, 0.25, size)
    floor = draw_background(rng, modality, 0.0, size)
    horizon = int(0.72 * size[0])
    place[horizon:] = floor[horizon:]
    if modality is Modality.INFRARED:
        # The lamp of a night camera reaches who is near; what lies behind stays dark.
        place //= 16
    return place


def _put(
    image: NDArray[np.uint8],
    owners: NDArray[np.int32],
    crossing: Crossing,
    index: int,
    modality: Modality,
    options: SceneOptions,
) -> None:
    """Draw one walking person into the frame."""
    height, width = options.size
    done = (index - crossing.start) / crossing.frames
    yaw = (3 * np.pi / 2 if crossing.leftward else np.pi / 2) + crossing.turn
    steps = 2 * np.pi * options.crossing * 0.9
    pose = Pose(phase=crossing.phase + steps * done, yaw=yaw, height=_SPRITE_HEIGHT, top=0.05)
    tall = round(crossing.tall * height / _SPRITE_HEIGHT)
    wide = tall * CANVAS[1] // CANVAS[0]
    figure = draw_figure(crossing.identity, pose)
    labels = np.asarray(
        cv2.resize(figure, (wide, tall), interpolation=cv2.INTER_NEAREST), dtype=np.uint8
    )
    along = 1 - done if crossing.leftward else done
    left = round(-wide + along * (width + wide))
    top = round(crossing.feet * height - tall * (0.05 + _SPRITE_HEIGHT))
    x1, x2, y1, y2 = max(left, 0), min(left + wide, width), max(top, 0), min(top + tall, height)
    if x1 >= x2 or y1 >= y2:
        return
    part = np.ascontiguousarray(labels[y1 - top : y2 - top, x1 - left : x2 - left])
    field = np.ascontiguousarray(image[y1:y2, x1:x2])
    image[y1:y2, x1:x2] = paint(part, crossing.identity, modality, field)
    owners[y1:y2, x1:x2][part > 0] = crossing.identity.number + 1


def _box(mask: NDArray[np.bool_]) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
