"""Who hears and sees a run: the event file, MQTT, videos, a window, the page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from mip_edge.live.camera import Camera
from mip_edge.live.event import EventLog, EventSink, FileSink
from mip_edge.live.mqtt import MqttSink, MqttState
from mip_edge.live.options import LiveOptions
from mip_edge.live.page import Page
from mip_edge.live.screen import Screen
from mip_edge.live.step import Recognition

logger = logging.getLogger(__name__)

RATE_SECONDS = 5.0
"""Over so many seconds are the crops a second of the page."""


class Audience:
    """Opens what the options ask for, and hands it what there is to hear and see."""

    def __init__(
        self,
        options: LiveOptions,
        cameras: Sequence[Camera],
        stack: ExitStack,
        now: Callable[[], float],
    ) -> None:
        """`stack` closes all of it. Raises: OutputError, OptionError, EngineError."""
        self._now = now
        self._counted = (now(), 0, 0)
        self._rates = (0.0, 0.0)
        self._page = Page(options.serve) if options.serve is not None else None
        self._events: FileSink | None = None
        self._mqtt: MqttSink | None = None
        sinks: list[EventSink] = []
        # Closed by the log, but for what is opened before the log is there.
        with ExitStack() as opened:
            if self._page is not None:
                sinks.append(self._page)
                opened.callback(self._page.close)
                logger.info("the page is at %s", self._page.url)
            if options.events is not None:
                self._events = FileSink(options.events)
                sinks.append(self._events)
                opened.callback(self._events.close)
            if options.mqtt is not None:
                self._mqtt = MqttSink(options.mqtt, qos=options.mqtt_qos, ca=options.mqtt_ca)
                sinks.append(self._mqtt)
                opened.callback(self._mqtt.close)
            opened.pop_all()
        self.log = EventLog(sinks, boxes=options.events_boxes)
        stack.callback(self.log.close)
        self._screen = Screen(
            {camera.name: camera.source.rate for camera in cameras},
            save=options.save,
            show=options.show,
            stepped=not any(camera.source.threaded for camera in cameras),
            now=now,
            on_failure=self.log.output_failed,
        )
        stack.callback(self._screen.close)
        self._drawn = options.save is not None or options.show or self._page is not None

    @property
    def wanted(self) -> bool:
        """False once the user has closed the window."""
        return self._screen.wanted

    def show(self, cameras: Sequence[Camera], run: Recognition) -> None:
        """Hand what there is to see to whoever looks."""
        if not self._drawn:
            return
        views = [camera.view(run.identifier) for camera in cameras]
        self._screen.update(views)
        if self._page is not None:
            self._page.update(views, self._state(run))

    def finish(self) -> None:
        """Make the videos whole, see that the events are there. Raises: what the videos died of."""
        events = self._events
        if events is not None and not self._off(events) and not events.in_place:
            self.log.output_failed(
                str(events), f"{events}: the file is no longer at its path, it was removed or moved"
            )
        self._screen.finish()

    @property
    def outputs(self) -> tuple[str, ...]:
        """The files that were written and are there; videos from `finish` on."""
        events = self._events
        there = events is not None and not self._off(events)
        return (*self._screen.outputs, *([str(events.path)] if events and there else []))

    def _off(self, sink: EventSink) -> bool:
        return any(failure.output == str(sink) for failure in self.log.off)

    def _state(self, run: Recognition) -> dict[str, Any]:
        counts, (since, asked, done) = run.planner.counts, self._counted
        seconds = self._now() - since
        if seconds >= RATE_SECONDS:
            self._rates = ((counts.asked - asked) / seconds, (counts.done - done) / seconds)
            self._counted = (self._now(), counts.asked, counts.done)
        asked_rate, done_rate = self._rates
        outputs = [
            {"output": failure.output, "state": "failed", "reason": failure.reason}
            for failure in self.log.off
        ]
        if self._mqtt is not None:
            connected = self._mqtt.state is MqttState.CONNECTED
            state = "ok" if connected else self._mqtt.state.value
            outputs.append(
                {"output": str(self._mqtt), "state": state, "reason": self._mqtt.reason or ""}
            )
        return {
            "counts": {
                "crops asked /s": f"{asked_rate:.1f}",
                "crops embedded /s": f"{done_rate:.1f}",
                "crops saved": f"{counts.saved / counts.asked:.0%}" if counts.asked else "-",
                "crops waiting": counts.waiting,
                "identities merged": run.identifier.merges,
            },
            "outputs": outputs,
        }
