"""What one camera of a synthetic site films: each frame, and who is truly seen where in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.spec import Modality
from mip_edge.synthetic.daylight import LAMPS
from mip_edge.synthetic.figure import CANVAS
from mip_edge.synthetic.identity import Identity
from mip_edge.synthetic.plan import FAR, FOCAL, HORIZON, MOUNT, NEAR, PlanCamera, Sensor
from mip_edge.synthetic.view import draw_background, draw_noise
from mip_edge.synthetic.walk import Stance
from mip_edge.synthetic.wardrobe import BODY, TOP, Figure, Wardrobe

_NOISE_ROOM = 64
"""The tile of noise is that much larger than a frame each way; each frame has its own corner."""
_TINT, _GAIN = 0.25, 0.4
"""How far a camera's colours and its brightness may lie from the middle."""
_BLUR = (1.2, 2.4)
"""Deviation of a camera's blur in pixels of a frame 480 high."""
_SIGMA = {Modality.VISIBLE: 5.0, Modality.INFRARED: 7.0}
"""Deviation of the noise by day, and of the infrared; it grows as daylight goes."""
_NIGHT_FLOOR = 3
"""An infrared lamp reaches who is near: what lies behind is darker by this factor."""
_FLASH = (1.5, 1.25, 1.1)
"""How an infrared picture is overexposed in the first frames after its filter has moved."""


@dataclass(frozen=True, slots=True)
class SeenPerson:
    """One person in one frame."""

    identity: int
    box: tuple[int, int, int, int]
    """x1, y1, x2, y2 of what is seen."""
    full: tuple[int, int, int, int]
    """The whole figure, hidden parts and those beyond the frame with it."""
    visible: float
    """Share of the figure's pixels that are seen."""


@dataclass(frozen=True, slots=True)
class FilmFrame:
    """One frame and its truth."""

    image: NDArray[np.uint8]
    """(H, W, 3) BGR, as videos are written; three equal channels for infrared."""
    modality: Modality
    people: tuple[SeenPerson, ...]


class CameraFilm:
    """Films one camera, frame after frame; what does not change is drawn once."""

    def __init__(
        self,
        camera: PlanCamera,
        size: tuple[int, int],
        *,
        seed: int,
        number: int,
        noise: float = 1.0,
    ) -> None:
        """`size` is height and width in pixels; `number` of the camera in its plan; `noise`
        multiplies the deviation of the noise."""
        self.camera, self._size = camera, size
        self._noise = noise
        self._focal = FOCAL * size[0]
        places = np.random.default_rng([seed, number, 6])
        self._places = {modality: _draw_place(modality, places, size) for modality in Modality}
        self._tint = 1 + _TINT * (2 * places.random(3) - 1)
        self._gain = {modality: 1 + _GAIN * (2 * places.random() - 1) for modality in Modality}
        self._blur = float(places.uniform(*_BLUR)) * size[0] / 480
        self._front = [_draw_front(kind, places, size) for kind in ("planter", "post")]
        self._noise_seed = [seed, number, 7]
        self._rng = np.random.default_rng([seed, number, 8])
        self._owners = np.zeros(size, np.uint8)
        self._scene: tuple[Modality, float] | None = None
        self._place: NDArray[np.uint8] = self._places[Modality.VISIBLE]
        self._more = self._less = self._place
        self._since = 0

    def shoot(
        self,
        people: Sequence[tuple[Identity, float, Stance]],
        wardrobe: Wardrobe,
        *,
        by_day: bool,
        brightness: float,
    ) -> FilmFrame:
        """One frame of `people` (who, metres tall, where), in the daylight of the moment."""
        modality = self.camera.sensor.modality(by_day)
        self._light(modality, self._level(modality, brightness))
        image = self._place.copy()
        self._owners[:] = 0
        placed = []
        for identity, tall, stance in people:
            ahead, right = self.camera.locate(stance.x, stance.y)
            if NEAR < ahead < FAR:
                placed.append((ahead, right, identity, tall, stance))
        # Who stands nearer hides the others: the farthest is drawn first.
        placed.sort(key=lambda one: (-one[0], one[2].number))
        drawn = []
        for owner, (ahead, right, identity, tall, stance) in enumerate(placed, start=1):
            figure = wardrobe.figure(identity, stance.phase, self.camera.yaw(stance.facing))
            put = self._put(image, figure, identity, (ahead, right, tall), owner)
            if put is not None:
                drawn.append((identity.number, owner, *put))
        self._put_front(image)
        seen = [self._truth(*one) for one in drawn]
        self._add_noise(image)
        if modality is Modality.INFRARED:
            image = np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
        return FilmFrame(image, modality, tuple(one for one in seen if one is not None))

    def _level(self, modality: Modality, brightness: float) -> float:
        if modality is Modality.VISIBLE:
            return max(brightness, LAMPS) if self.camera.sensor is Sensor.VISIBLE else brightness
        if self.camera.sensor is Sensor.SWITCHING and self._since < len(_FLASH):
            return _FLASH[self._since]
        return 1.0

    def _light(self, modality: Modality, level: float) -> None:
        """The empty place and the noise of this light, anew only where it has changed."""
        if self._scene is None or self._scene[0] is not modality:
            self._since = 0
        self._since += 1
        if self._scene == (modality, level):
            return
        self._scene = (modality, level)
        gains = self._gains(level)
        table = np.clip(np.arange(256)[:, None] * gains, 0, 255).astype(np.uint8)
        self._place = np.asarray(cv2.LUT(self._places[modality], table[:, None]), np.uint8)
        sigma = self._noise * _SIGMA[modality]
        if modality is Modality.VISIBLE:
            sigma /= level**0.5
        shape = tuple(side + _NOISE_ROOM for side in self._size) + self._place.shape[2:]
        noise = draw_noise(np.random.default_rng(self._noise_seed), shape, sigma)
        # Two unsigned tiles: adding one and taking the other away is the fastest noise there is.
        self._more = np.clip(noise, 0, 255).round().astype(np.uint8)
        self._less = np.clip(-noise, 0, 255).round().astype(np.uint8)

    def _gains(self, level: float) -> NDArray[np.float64]:
        """What multiplies each channel: three for visible light, BGR, one for infrared."""
        assert self._scene is not None
        gain = level * self._gain[self._scene[0]]
        return gain * self._tint if self._scene[0] is Modality.VISIBLE else np.array([gain])

    def _put(
        self,
        image: NDArray[np.uint8],
        figure: Figure,
        identity: Identity,
        place: tuple[float, float, float],
        owner: int,
    ) -> tuple[tuple[int, int, int, int], int] | None:
        """Draw one person; gives the box and the pixels of the whole figure, None if outside."""
        assert self._scene is not None
        ahead, right, tall = place
        height, width = self._size
        scale = self._focal * tall / ahead / (BODY * CANVAS[0])
        wide = max(round(figure.labels.shape[1] * scale), 2)
        high = max(round(figure.labels.shape[0] * scale), 2)
        feet = HORIZON * height + self._focal * MOUNT / ahead
        middle = width / 2 + self._focal * right / ahead
        left = round(middle + (figure.left - 0.5 * CANVAS[1]) * scale)
        top = round(feet + (figure.top - (TOP + BODY) * CANVAS[0]) * scale)
        x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + wide, width), min(top + high, height)
        if x1 >= x2 or y1 >= y2:
            return None
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        colours = self._tones(identity, ahead)
        channels = colours.shape[1]
        flat = figure.labels if channels == 1 else cv2.merge([figure.labels] * channels)
        person = cv2.resize(cv2.LUT(flat, colours[:, None]), (wide, high), interpolation=how)
        body = cv2.threshold(figure.labels, 0, 255, cv2.THRESH_BINARY)[1]
        person = cv2.GaussianBlur(person, (0, 0), self._blur)
        cover = cv2.GaussianBlur(
            cv2.resize(body, (wide, high), interpolation=how), (0, 0), self._blur
        )
        solid = np.asarray(cv2.threshold(cover, 127, 255, cv2.THRESH_BINARY)[1], np.uint8)
        part = (slice(y1 - top, y2 - top), slice(x1 - left, x2 - left))
        free = cv2.bitwise_not(np.asarray(cover, np.uint8)[part])
        free = free if channels == 1 else cv2.merge([free] * channels)
        field = image[y1:y2, x1:x2]
        # Labels of the background have no colour, so that a resized figure is weighted already.
        behind = cv2.multiply(field, free, scale=1 / 255)
        image[y1:y2, x1:x2] = cv2.add(behind, person[part])
        self._owners[y1:y2, x1:x2][solid[part] > 0] = owner
        return (left, top, left + wide, top + high), int(cv2.countNonZero(solid))

    def _put_front(self, image: NDArray[np.uint8]) -> None:
        """What stands nearer to the camera than anybody walks, and hides whom it hides."""
        assert self._scene is not None
        for (x1, y1, x2, y2), tones in self._front:
            bare = tones[self._scene[0].channels]
            image[y1:y2, x1:x2] = np.clip(bare * self._gains(self._scene[1]), 0, 255).astype(
                np.uint8
            )
            self._owners[y1:y2, x1:x2] = 0

    def _tones(self, identity: Identity, ahead: float) -> NDArray[np.uint8]:
        """What each part of a person looks like in the present light, (256, channels)."""
        assert self._scene is not None
        visible = self._scene[0] is Modality.VISIBLE
        bare = identity.colours[:, ::-1] if visible else identity.reflectances[:, None]
        # An infrared lamp stands at its camera: who is farther away is darker.
        reach = 1.0 if visible else min(1.25 - 0.055 * ahead, 1.05)
        tones = np.zeros((256, bare.shape[1]), np.uint8)
        tones[1 : len(bare)] = np.clip(bare[1:] * reach * self._gains(self._scene[1]), 0, 255)
        return tones

    def _truth(
        self, number: int, owner: int, full: tuple[int, int, int, int], pixels: int
    ) -> SeenPerson | None:
        height, width = self._size
        left, top = max(full[0], 0), max(full[1], 0)
        region = self._owners[top : min(full[3], height), left : min(full[2], width)]
        own = np.asarray(cv2.inRange(region, owner, owner), np.uint8)
        count = cv2.countNonZero(own)
        if count == 0 or pixels == 0:
            return None
        x, y, wide, high = cv2.boundingRect(own)
        box = (left + x, top + y, left + x + wide, top + y + high)
        return SeenPerson(number, box, full, round(count / pixels, 3))

    def _add_noise(self, image: NDArray[np.uint8]) -> None:
        y, x = self._rng.integers(_NOISE_ROOM, size=2).tolist()
        height, width = self._size
        corner = (slice(y, y + height), slice(x, x + width))
        cv2.add(image, self._more[corner], dst=image)
        cv2.subtract(image, self._less[corner], dst=image)


def _draw_place(
    modality: Modality, rng: np.random.Generator, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """A wall with things on it, and the ground before it."""
    place = draw_background(rng, modality, 0.7, size)
    ground = draw_background(rng, modality, 0.0, size)
    foot = round(size[0] * (HORIZON + FOCAL * MOUNT / FAR))
    place[foot:] = ground[foot:]
    if modality is Modality.INFRARED:
        place //= _NIGHT_FLOOR
    return place


def _draw_front(
    kind: str, rng: np.random.Generator, size: tuple[int, int]
) -> tuple[tuple[int, int, int, int], dict[int, NDArray[np.float64]]]:
    """A low planter or a post: its box, and its tones by the number of channels."""
    height, width = size
    wide = round(width * float(rng.uniform(0.15, 0.3) if kind == "planter" else 0.04))
    left = round(float(rng.uniform(0.05, 0.95)) * (width - wide))
    top = round(height * float(rng.uniform(0.76, 0.84))) if kind == "planter" else 0
    tone = 40 + 120 * rng.random(3)
    return (left, top, left + wide, height), {3: tone, 1: tone[:1] / _NIGHT_FLOOR}
