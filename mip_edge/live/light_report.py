"""What the light switch says of recorded videos, and on what numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mip_edge.errors import SourceError
from mip_edge.live.light import LightOptions, LightSwitch
from mip_edge.live.reader import ASSUMED_RATE
from mip_edge.spec import Modality

HEADER = (
    "source",
    "first",
    "last",
    "infrared",
    "chroma 0%",
    "5%",
    "50%",
    "95%",
    "100%",
    "switches",
)


@dataclass(frozen=True, slots=True)
class Switch:
    """One change of the light."""

    time: float
    """Seconds from the beginning of the video."""
    to: Modality
    """The new light."""


@dataclass(frozen=True, slots=True)
class LightReport:
    """One video as the light switch saw it."""

    source: str
    """The file."""
    frames: int
    """Frames it has."""
    looked: int
    """Frames that were looked at and showed something."""
    first: Modality
    """The light at the beginning."""
    last: Modality
    """The light at the end."""
    infrared: float
    """Share of all frames that were called infrared, in [0, 1]."""
    quantiles: tuple[float, ...]
    """Chroma at 0, 5, 50, 95 and 100% of the frames looked at; empty if all were blank."""
    switches: tuple[Switch, ...]
    """When it changed."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def watch_light(
    path: Path,
    options: LightOptions | None = None,
    *,
    on_frame: Callable[[], None] | None = None,
) -> LightReport:
    """Play a video to the light switch. Raises: SourceError if it gives no picture."""
    capture = cv2.VideoCapture(str(path))
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if 0.5 <= rate <= 240.0 else ASSUMED_RATE
    switch = LightSwitch(options)
    measured: list[float] = []
    switches: list[Switch] = []
    frames = infrared = 0
    first: Modality | None = None
    try:
        while capture.grab():
            ok, image = capture.retrieve()
            if not ok:
                continue
            looked = switch.looked
            told = switch.see(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), frames / rate)  # type: ignore[arg-type]
            if switch.looked != looked and switch.chroma is not None:
                measured.append(switch.chroma)
                first = first or switch.modality
            if told is not None:
                switches.append(Switch(round(frames / rate, 2), told))
            frames += 1
            infrared += switch.modality is Modality.INFRARED
            if on_frame is not None:
                on_frame()
    finally:
        capture.release()
    if not frames:
        raise SourceError(f"{path} gives no picture; expected a video file")
    shares = (0.0, 0.05, 0.5, 0.95, 1.0) if measured else ()
    return LightReport(
        source=str(path),
        frames=frames,
        looked=len(measured),
        first=first or switch.modality,
        last=switch.modality,
        infrared=infrared / frames,
        quantiles=tuple(round(float(np.quantile(measured, share)), 2) for share in shares),
        switches=tuple(switches),
    )


def format_light(reports: Sequence[LightReport]) -> str:
    """A table, a line a video."""
    rows = [HEADER, *(_row(report) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 1, 2, 9) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _row(report: LightReport) -> tuple[str, ...]:
    quantiles = [f"{value:.2f}" for value in report.quantiles] or ["blank"] * 5
    switches = ", ".join(f"{one.time:.2f} s {one.to.value}" for one in report.switches) or "none"
    return (
        report.source,
        report.first.value,
        report.last.value,
        f"{100 * report.infrared:.1f}%",
        *quantiles,
        switches,
    )
