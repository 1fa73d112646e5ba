"""A synthetic site filmed by all its cameras: the folder of videos, their truth, and its table."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import Progress

from mip_edge import __version__
from mip_edge.data.image import write_image
from mip_edge.errors import OptionError
from mip_edge.folder import refuse_existing, write_folder
from mip_edge.synthetic.daylight import Daylight, Hours
from mip_edge.synthetic.film import CameraFilm
from mip_edge.synthetic.identity import draw_identity
from mip_edge.synthetic.plan import Plan, make_plan, travels
from mip_edge.synthetic.sheet import ContactSheet
from mip_edge.synthetic.tape import Changes, FilmedCamera, Tape
from mip_edge.synthetic.walk import MEAN_VISIT, SHORTEST_ABSENCE, Walker
from mip_edge.synthetic.wardrobe import Wardrobe

RECORD = "world.json"
SHEET = "world.png"
CAMERAS = "cameras.toml"
_MOMENTS = 6
_TELLING = 20


@dataclass(frozen=True, slots=True)
class FilmOptions:
    """One site, its people, and how long it is filmed."""

    cameras: int = 4
    """Cameras; of each four, two look at one site together."""
    people: int = 12
    """People who come to the site during the film, some only by day, some only by night."""
    at_once: float = 10.0
    """How many of them are on the site at one time, on average."""
    seconds: float = 60.0
    """Length of the film, half of it day and half night."""
    rate: float = 10.0
    """Frames a second."""
    size: tuple[int, int] = (480, 640)
    """Height and width of a frame in pixels."""
    nights: int = 1
    """Nights in the film; cameras switch at each dusk, and back at each dawn between two nights."""
    noise: float = 1.0
    """Noise of the cameras, times what is usual; a long film with 0.2 is much smaller."""
    seed: int = 7
    """Which world: people, places and ways."""

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--cameras", self.cameras, 1),
            ("--people", self.people, 1),
            ("--at-once", self.at_once, 0.1),
            ("--seconds", self.seconds, 1),
            ("--rate", self.rate, 1),
            ("--nights", self.nights, 1),
            ("--noise", self.noise, 0),
            ("--seed", self.seed, 0),
        ):
            if value < least:
                raise OptionError(f"{flag} must be at least {least}, got {value}")
        if self.cameras > 64:
            raise OptionError(f"--cameras must be at most 64, got {self.cameras}")
        if min(self.size) < 120 or any(side % 2 for side in self.size):
            raise OptionError(f"--size must be two even numbers of at least 120, got {self.size}")
        if self.seconds / (2 * self.nights) < 10:
            raise OptionError(
                f"a day and a night need at least 10 seconds each: --seconds {self.seconds:g} with "
                f"--nights {self.nights} leaves {self.seconds / (2 * self.nights):.1f}"
            )

    @property
    def frames(self) -> int:
        """Frames of each camera."""
        return round(self.seconds * self.rate)


SMALL = FilmOptions(people=10, seconds=24.0, size=(240, 320))
"""A film that is drawn in seconds, for a test of the whole system."""


@dataclass(slots=True)
class WorldRecord:
    """What was made, and from what; world.json holds it."""

    options: FilmOptions
    frames: int
    """Frames of each camera."""
    hours: dict[str, list[int]]
    """People who are about by day, by night, and both."""
    cameras: list[FilmedCamera]
    changes: dict[str, int]
    """How often a person came next before another camera of the same light (`camera`), into
    another light (`modality`), or was in view as a camera switched (`switch`)."""

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        return asdict(self)

    def table(self) -> str:
        """All of it for reading, a few lines of text."""
        lines = [f"{'camera':<12}{'sensor':<12}{'people':>8}{'boxes':>8}  switches at frame"]
        lines += [
            f"{camera.name:<12}{camera.sensor:<12}{camera.people:>8}{camera.boxes:>8}  "
            + (", ".join(f"{frame} ({light})" for frame, light in camera.switches) or "-")
            for camera in self.cameras
        ]
        lines.append(
            f"people who came next before another camera of the same light: "
            f"{self.changes['camera']}, in another light: {self.changes['modality']}, "
            f"in view as a camera switched: {self.changes['switch']}"
        )
        return "\n".join(lines)


def write_film(folder: Path, options: FilmOptions, *, overwrite: bool = False) -> WorldRecord:
    """Film a site into `folder`, which ends as a whole world or not at all.

    NAME.mp4, NAME.truth.jsonl and NAME.boxes.jsonl for each camera, cameras.toml for `mip-edge
    live --cameras`, world.json, and world.png to look at.

    The same options give the same truth and the same frames. A line of truth: {"frame": 0,
    "modality": "visible", "people": [{"identity": 12, "box": [x1, y1, x2, y2], "full": [...],
    "visible": 0.8}]}: the box of what is seen, that of the whole figure, and the share seen.
    Raises: OutputError if the folder exists, or cannot be written.
    """
    refuse_existing(folder, "a world", is_world, overwrite=overwrite)
    with write_folder(folder, "a world", is_world, overwrite=overwrite) as draft:
        record = _film(draft, options)
        versions = {
            "mip-edge": __version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "python": platform.python_version(),
        }
        told = {"kind": "mip-edge world", "versions": versions, **record.as_dict()}
        (draft / RECORD).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return record


def is_world(folder: Path) -> bool:
    """Whether `write_film` made this folder."""
    try:
        told = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and told.get("kind") == "mip-edge world"


def _film(folder: Path, options: FilmOptions) -> WorldRecord:
    plan = make_plan(options.cameras)
    daylight = Daylight(options.seconds, options.nights)
    walkers = _draw_walkers(plan, daylight, options)
    changes = Changes()
    sheet = ContactSheet(plan, options.size, _moments(options), options.rate)
    with ExitStack() as stack:
        tapes = []
        for number, camera in enumerate(plan.cameras):
            film = CameraFilm(
                camera, options.size, seed=options.seed, number=number, noise=options.noise
            )
            tape = Tape(folder, film, options.size, options.rate)
            stack.callback(tape.close)
            tapes.append(tape)
        wardrobe = Wardrobe()
        for index in _progress(options.frames):
            time = index / options.rate
            stances = [(walker, walker.at(time)) for walker in walkers]
            people = [
                (walker.identity, walker.tall, stance)
                for walker, stance in stances
                if stance is not None
            ]
            brightness = daylight.brightness(time)
            for tape in tapes:
                camera = tape.film.camera
                frame = tape.film.shoot(
                    people,
                    wardrobe,
                    by_day=daylight.by_day(time - camera.late),
                    brightness=brightness,
                )
                tape.write(index, frame)
                changes.see(index, camera.name, frame, round(2 * options.rate))
                sheet.see(index, camera.name, frame)
    write_image(folder / SHEET, sheet.picture())
    (folder / CAMERAS).write_text(_cameras_toml(plan, options), encoding="utf-8")
    hours: dict[str, list[int]] = {kind.value: [] for kind in Hours}
    for walker in walkers:
        hours[walker.hours.value].append(walker.identity.number)
    return WorldRecord(
        options,
        options.frames,
        hours,
        [tape.filmed for tape in tapes],
        dict(changes.counts),
    )


def _draw_walkers(plan: Plan, daylight: Daylight, options: FilmOptions) -> list[Walker]:
    """All people; one of six comes only by day, one of six only by night."""
    absence = max(MEAN_VISIT * (options.people / options.at_once - 1) - SHORTEST_ABSENCE, 0.1)
    kinds = [Hours.DAY, Hours.NIGHT, *[Hours.BOTH] * 4]
    return [
        Walker(
            draw_identity(options.seed, number),
            kinds[number % len(kinds)] if options.people > 2 else Hours.BOTH,
            plan,
            daylight,
            np.random.default_rng([options.seed, number, 5]),
            absence,
        )
        for number in range(options.people)
    ]


def _moments(options: FilmOptions) -> list[int]:
    """Frames for the contact sheet, evenly, none of them the first or the last."""
    return [round((place + 0.5) * options.frames / _MOMENTS) for place in range(_MOMENTS)]


def _cameras_toml(plan: Plan, options: FilmOptions) -> str:
    """The cameras and what is sure of the times between them, as `mip-edge live` reads it.

    The most is the whole film: people may rest outside between two cameras.
    """
    lines = []
    for camera in plan.cameras:
        lines += [
            "[[camera]]",
            f'name = "{camera.name}"',
            f'url = "{camera.name}.mp4"',
            'modality = "auto"',
            "",
        ]
    for travel in travels(plan, options.size):
        lines += [
            "[[travel]]",
            f'from = "{travel.origin}"',
            f'to = "{travel.destination}"',
            f"min = {travel.seconds}",
            f"max = {float(options.seconds)}",
            "",
        ]
    return "\n".join(lines)


def _progress(frames: int) -> Iterator[int]:
    """The numbers of all frames, with a bar on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("filming", total=frames)
        for index in range(frames):
            yield index
            if index % _TELLING == 0:
                progress.update(task, completed=index)
