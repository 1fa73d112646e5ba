"""How a live run did on a synthetic film, whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mip_edge.errors import OptionError
from mip_edge.live.box import Boxes
from mip_edge.live.score_identity import (
    Handovers,
    IdentityCounts,
    TimeToIdentify,
    count_identities,
    order_stays,
    score_handovers,
    time_to_identify,
)
from mip_edge.live.score_metric import (
    IdentityScore,
    ModalityScore,
    TrackingScore,
    score_identity,
    score_modality,
    score_tracking,
)
from mip_edge.live.score_passage import NOBODY, ScoreLimits, SeenFrame, compare
from mip_edge.live.score_truth import CameraTruth
from mip_edge.spec import Modality

_WORDS = {
    "switch": "in view as a camera switched",
    "modality": "next in another modality",
    "camera": "next at another camera, same modality",
    "return": "again at the same camera",
    "first": "first comers, told from all others",
}


@dataclass(frozen=True, slots=True)
class WorldScore:
    """Everything that a run is scored for; shares from 0 to 1, None where there was nothing."""

    limits: ScoreLimits
    """Whom it counts."""
    cameras: dict[str, TrackingScore]
    """Detection and tracking of each camera."""
    tracking: TrackingScore
    """Of all cameras together."""
    identity: IdentityScore
    """Of the identities as they were given at the time."""
    identity_after_merges: IdentityScore
    """The same with the merges of the run done from the beginning."""
    counts: IdentityCounts
    """People and identities."""
    handovers: dict[str, Handovers]
    """By kind: switch, modality, camera, return, first."""
    short_stays: int
    """Stays too short to ask for an identity."""
    identify: TimeToIdentify
    """How long the right identity takes."""
    modality: dict[str, ModalityScore]
    """Of each camera whose light was told."""

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    def table(self) -> str:
        """All of it for reading, a few lines of text."""
        heads = ("HOTA", "DetA", "AssA", "IDF1", "MOTA")
        lines = [
            f"{'tracking':<16}" + "".join(f"{head:>8}" for head in heads) + f"{'switches':>10}"
            f"{'frames':>8}{'dropped':>9}"
        ]
        for name, score in (*self.cameras.items(), ("all", self.tracking)):
            rates = (score.hota, score.detection, score.association, score.idf1, score.mota)
            lines.append(
                f"{name:<16}"
                + "".join(f"{_percent(rate):>8}" for rate in rates)
                + f"{score.id_switches:>10}{score.frames:>8}{score.dropped:>9}"
            )
        lines += ["", f"{'identity':<16}{'precision':>10}{'recall':>8}{'IDF1':>8}"]
        for name, one in (
            ("as given", self.identity),
            ("after merges", self.identity_after_merges),
        ):
            rates3 = f"{_percent(one.precision):>10}{_percent(one.recall):>8}{_percent(one.f1):>8}"
            lines.append(f"{name:<16}{rates3}")
        counts = self.counts
        lines.append(
            f"{counts.people} people, {counts.identities} identities: {counts.merged} given to "
            f"two people or more, {counts.split} people with two identities or more"
        )
        lines += ["", f"{'hand-overs':<40}{'right':>7}{'wrong':>7}{'missed':>8}"]
        lines += [
            f"{_WORDS[kind]:<40}{one.right:>7}{one.wrong:>7}{one.missed:>8}"
            for kind, one in self.handovers.items()
        ]
        wait = self.identify
        lines += [
            "",
            (
                f"right identity after {_seconds(wait.median)} (median), {_seconds(wait.p95)} "
                f"(p95); never in {_percent(wait.never)}% of {wait.passages} passages"
            ),
        ]
        for name, light in self.modality.items():
            delays = ", ".join(_seconds(delay) for delay in light.delays) or "-"
            lines.append(
                f"{name}: light told wrong in {light.wrong} of {light.frames} frames, "
                f"{light.told_switches} switches told, {light.switches} true, told after {delays}"
            )
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"


class TruthScore:
    """Hears what a run sees, frame by frame, and scores it at the end.

    Boxes that show nobody who counts (`ScoreLimits`) but somebody hidden or small are no fault.
    Frames that a run drops are not scored; their number is told, and the time that they cost
    counts in the time to identify. It keeps a few hundred bytes for each frame that it hears.
    """

    def __init__(
        self, truths: Mapping[str, Path | CameraTruth], limits: ScoreLimits | None = None
    ) -> None:
        """The truth of each camera of the run, by name."""
        self._truths = {
            name: CameraTruth(path=truth) if isinstance(truth, Path) else truth
            for name, truth in truths.items()
        }
        self._limits = limits or ScoreLimits()
        self._seen: dict[str, list[SeenFrame]] = {name: [] for name in truths}
        self._told: dict[str, list[tuple[int, Modality]]] = {name: [] for name in truths}
        self._merged: dict[int, int] = {}

    def see(
        self,
        camera: str,
        frame: int,
        time: float,
        boxes: Boxes,
        tracks: Sequence[int],
        identities: Sequence[int | None],
    ) -> None:
        """One frame that went through: the tracks in it, and who each is held for at this time.

        `time` is seconds of the source. Raises: OptionError for a camera without truth, a frame
        that is not after the last one, or lengths that differ.
        """
        seen = self._camera(camera)
        if seen and frame <= seen[-1].index:
            raise OptionError(f"{camera}: frame {frame} came after frame {seen[-1].index}")
        if not len(boxes) == len(tracks) == len(identities):
            raise OptionError(
                f"{camera}, frame {frame}: {len(boxes)} boxes, {len(tracks)} tracks and "
                f"{len(identities)} identities; expected as many of each"
            )
        given = [NOBODY if identity is None else identity for identity in identities]
        seen.append(
            SeenFrame(
                frame,
                time,
                np.array(boxes, np.float32).reshape(-1, 4),
                np.array(tracks, np.int64),
                np.array(given, np.int64),
            )
        )

    def modality(self, camera: str, frame: int, modality: Modality) -> None:
        """From this frame on the camera is held to see this light; may be told with each frame."""
        self._camera(camera)
        told = self._told[camera]
        if not told or told[-1][1] is not modality:
            told.append((frame, modality))

    def merged(self, identity: int, into: int) -> None:
        """`identity` turned out to be `into`."""
        self._merged[identity] = into

    def unmerged(self, identity: int) -> None:
        """That was a mistake."""
        self._merged.pop(identity, None)

    def result(self) -> WorldScore:
        """The score of all that was heard. Raises: ImageError for a truth that cannot be read."""
        compared = {
            name: compare(name, truth, self._seen[name], self._limits)
            for name, truth in self._truths.items()
        }
        every = [stay for camera in compared.values() for stay in camera.stays]
        stays = order_stays(every, list(compared))
        periods = {name: camera.period for name, camera in compared.items()}
        least = self._limits.min_stay - 1e-9
        long = [stay for stay in stays if stay.seconds(periods[stay.camera]) >= least]
        told = {name: score_modality(camera, self._told[name]) for name, camera in compared.items()}
        return WorldScore(
            limits=self._limits,
            cameras={name: score_tracking([camera]) for name, camera in compared.items()},
            tracking=score_tracking(list(compared.values())),
            identity=score_identity(compared.values()),
            identity_after_merges=score_identity(compared.values(), self._resolved()),
            counts=count_identities(long),
            handovers=score_handovers(stays, long),
            short_stays=len(stays) - len(long),
            identify=time_to_identify(stays, periods, self._limits.min_stay),
            modality={name: score for name, score in told.items() if score is not None},
        )

    def _camera(self, camera: str) -> list[SeenFrame]:
        if camera not in self._seen:
            known = ", ".join(self._seen) or "no camera"
            raise OptionError(f"there is no truth of camera {camera!r}, but of {known}")
        return self._seen[camera]

    def _resolved(self) -> dict[int, int]:
        """Each merged identity to the last one it became; a circle ends where it was entered."""
        resolved = {}
        for identity in self._merged:
            into, passed = identity, {identity}
            while into in self._merged and self._merged[into] not in passed:
                into = self._merged[into]
                passed.add(into)
            resolved[identity] = into
        return resolved
