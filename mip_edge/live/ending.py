"""How a run ends: nobody is there any more, videos, gallery and events are whole, the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from mip_edge.errors import MipEdgeError
from mip_edge.live.audience import Audience
from mip_edge.live.camera import Camera
from mip_edge.live.report import LiveReport
from mip_edge.live.source_options import shown_url
from mip_edge.live.step import Recognition
from mip_edge.thresholds import Thresholds

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Ending:
    """Makes whole what a run leaves behind, whether it ends well or dies."""

    run: Recognition
    """What the steps shared."""
    cameras: Sequence[Camera]
    """Those of the run."""
    audience: Audience
    """Who is to hear of it."""
    thresholds: Thresholds
    """Those that were used."""
    steps: int = 0
    """Rounds of the loop until now."""
    _begin: float = field(init=False)
    _seconds: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._begin = self.run.now()

    def conclude(self) -> LiveReport:
        """All sources have ended, or somebody asked the run to. Raises: what goes wrong at it."""
        self._stop_watch()
        for camera in self.cameras:
            self._leave(camera)
        self.run.keeper.flush()
        # First the videos: what fails there is among the failures.
        self.audience.finish()
        report = self._tell(None)
        # Writing that line may have failed too.
        return replace(report, outputs=self.audience.outputs, failures=self._failures())

    def rescue(self, error: Exception) -> None:
        """The run dies of `error`: what was recorded until then is kept, and the events say so.

        What goes wrong at it is told in the log, and hides neither `error` nor the rest.
        """
        self._stop_watch()
        failed = _words(error)
        for camera in self.cameras:
            self._attempt(partial(self._leave, camera))
        self._attempt(self.run.keeper.flush)
        self._attempt(self.audience.finish)
        if not self._attempt(lambda: self._tell(failed)):
            self._attempt(lambda: self.audience.log.write("end", failed=failed))
        kept = ", ".join(self.audience.outputs)
        logger.warning(
            "the run died after %d steps; what was recorded until then is kept%s",
            self.steps,
            f": {kept}" if kept else "",
        )

    def _stop_watch(self) -> None:
        if self._seconds is None:
            self._seconds = self.run.now() - self._begin

    def _leave(self, camera: Camera) -> None:
        """No frame will come: nobody is before this camera any more."""
        camera.finish()
        self.run.end(camera, camera.leave())

    def _tell(self, failed: str | None) -> LiveReport:
        report = self._report(failed)
        self.audience.log.write("end", **report.as_dict())
        return report

    def _report(self, failed: str | None) -> LiveReport:
        run, cameras = self.run, self.cameras
        return LiveReport(
            steps=self.steps,
            frames=sum(camera.report.frames for camera in cameras),
            crops=sum(camera.report.crops for camera in cameras),
            seconds=self._seconds or 0.0,
            identities=run.keeper.count(),
            thresholds={pair.value: value for pair, value in self.thresholds.similarities.items()},
            cameras=tuple(camera.report for camera in cameras),
            latencies=run.watch.latencies(),
            outputs=self.audience.outputs,
            failures=self._failures(),
            merges=run.identifier.merges,
            gallery_failures=run.keeper.failures,
            clock_jumps=self.audience.log.jumps,
            crops_a_call=run.watch.mean("crops in a call"),
            truth=None if run.score is None else run.score.result(),
            failed=failed,
        )

    def _failures(self) -> tuple[str, ...]:
        return tuple(failure.reason for failure in self.audience.log.failures)

    def _attempt(self, work: Callable[[], object]) -> bool:
        try:
            work()
        except Exception as error:
            logger.warning("as the run died, this failed as well: %s", _words(error))
            return False
        return True


def _words(error: Exception) -> str:
    """One line without passwords; the kind of error where it is no message to the user."""
    kind, words = type(error).__name__, shown_url(str(error))
    if isinstance(error, MipEdgeError):
        return words
    return f"{kind}: {words}" if words else kind
