"""Events to an MQTT broker: the same JSON as in the file, at `prefix/camera/event`.

Events that belong to no camera are at `prefix/event`. `prefix/status` holds `online`, or `offline`
once the run has ended or died (retained; the broker itself says it, as the last will).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mip_edge.errors import EngineError, OptionError
from mip_edge.live.event import to_json
from mip_edge.live.mqtt_address import MqttAddress
from mip_edge.live.source_options import shown_url

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessageInfo

MISSING = '--mqtt needs paho-mqtt, which is not installed. pip install "mip-edge[live]" brings it.'
QUEUE = 1000
"""Events that wait for the broker; beyond, the oldest is dropped and counted."""
IN_FLIGHT = 64
"""Events given to the network thread and not yet sent."""
KEEPALIVE = 15
"""Seconds without a word after which broker and client hold each other for gone."""
FIRST_PAUSE, LONGEST_PAUSE = 1, 10
"""Seconds between two tries to reach the broker."""
PATIENCE = 2.0
"""Seconds that the end of a run waits for what is not sent yet."""

logger = logging.getLogger(__name__)


class MqttState(str, Enum):
    """What the connection is doing."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    AWAY = "away"
    CLOSED = "closed"


class MqttSink:
    """Publishes events; a broker that is away is waited for, in threads of its own.

    Nothing here makes the loop wait or fail: events queue up to a bound while the broker is away
    or slow, the oldest are dropped and counted beyond it, and sent when it is back.
    """

    def __init__(
        self,
        url: str,
        *,
        qos: int = 0,
        queue: int = QUEUE,
        ca: Path | None = None,
        connect: Callable[[], Client] | None = None,
    ) -> None:
        """`qos` 0 at most once, 1 at least once, 2 exactly once; `ca` certificates (PEM) to trust.

        Raises: OptionError for what cannot be, EngineError without paho-mqtt; never for a broker
        that is not there.
        """
        self._shown = shown_url(url)
        self.address = MqttAddress.parse(url)
        if qos not in (0, 1, 2):
            raise OptionError(f"--mqtt-qos must be 0, 1 or 2, got {qos}")
        if queue < 1:
            raise OptionError(f"the queue of --mqtt must hold at least 1 event, got {queue}")
        if ca is not None and not self.address.tls:
            raise OptionError("--mqtt-ca needs an mqtts:// url")
        self._qos = qos
        self._limit = queue
        self._waiting: deque[tuple[str, str]] = deque()
        self._in_flight: deque[tuple[MQTTMessageInfo, tuple[str, str] | None]] = deque()
        self._acknowledged: set[int] = set()
        self._changed = threading.Condition()
        self._state = MqttState.CONNECTING
        self._reason: str | None = None
        self._told: str | None = None
        self._dropped = self._dropped_told = self._sent = 0
        self._client = (connect or paho_client)()
        self._set_up(ca)
        self._pump = threading.Thread(target=self._run, name="mqtt-events", daemon=True)
        self._pump.start()

    def __str__(self) -> str:
        return f"--mqtt {self._shown}"

    @property
    def state(self) -> MqttState:
        """Whether the broker is there."""
        return self._state

    @property
    def reason(self) -> str | None:
        """Why it is not."""
        return self._reason

    @property
    def sent(self) -> int:
        """Events that reached the network (QoS 0) or the broker (1 and 2)."""
        with self._changed:
            self._settle()
            return self._sent

    @property
    def dropped(self) -> int:
        """Events that found the queue full, or did not go out before the end."""
        return self._dropped

    def write(self, event: Mapping[str, Any]) -> None:
        """Queue one event; never waits for the network."""
        item = (self.address.topic(event), to_json(event))
        with self._changed:
            if len(self._waiting) >= self._limit:
                self._waiting.popleft()
                self._dropped += 1
                first = self._dropped == self._dropped_told + 1
            else:
                first = False
            self._waiting.append(item)
            self._changed.notify_all()
        if first:
            logger.warning("%s: the queue of %d events is full; old ones go", self, self._limit)

    def close(self) -> None:
        """Send what waits, say `offline`, and leave; takes a few seconds at most."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            if self._state is MqttState.CLOSED:
                return
            self._changed.wait_for(self._idle, PATIENCE)
            connected = self._connected()
            self._state = MqttState.CLOSED
            self._changed.notify_all()
        self._pump.join()
        if connected:
            # A clean leave is no death: the last will stays unsaid, so it is said here.
            farewell = self._client.publish(self.address.status, "offline", qos=1, retain=True)
            with suppress(RuntimeError):  # the connection went just now; the last will says it
                while not farewell.is_published() and time.monotonic() < deadline + 1.0:
                    time.sleep(0.01)
        self._client.disconnect()
        # paho waits for its thread without an end, and that one may be waiting for a dead host.
        leaving = threading.Thread(target=self._client.loop_stop, name="mqtt-end", daemon=True)
        leaving.start()
        leaving.join(PATIENCE)
        with self._changed:
            self._settle()
            lost = len(self._waiting) + sum(item is not None for _, item in self._in_flight)
        if lost:
            self._dropped += lost
            logger.warning("%s: %d events were never sent", self, lost)

    def _set_up(self, ca: Path | None) -> None:
        client, address = self._client, self.address
        if address.user is not None:
            client.username_pw_set(address.user, address.password)
        if address.tls:
            try:
                client.tls_set(ca_certs=None if ca is None else str(ca))
            except (OSError, ValueError) as error:
                raise OptionError(f"--mqtt-ca {ca} holds no certificates: {error}") from error
        client.will_set(address.status, "offline", qos=1, retain=True)
        client.reconnect_delay_set(FIRST_PAUSE, LONGEST_PAUSE)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.connect_async(address.host, address.port, KEEPALIVE)
        client.loop_start()

    # Our thread: from the queue to paho, a bounded number at a time. It never holds our lock
    # while it is in paho, whose own locks are held when it calls back.

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._ready)
                if self._state is MqttState.CLOSED:
                    return
                item = self._waiting.popleft()
            message = self._client.publish(*item, qos=self._qos)
            with self._changed:
                self._in_flight.append((message, item))
                self._settle()

    def _connected(self) -> bool:
        return self._state is MqttState.CONNECTED

    def _ready(self) -> bool:
        self._settle()
        can_send = self._connected() and len(self._in_flight) < IN_FLIGHT
        return self._state is MqttState.CLOSED or (can_send and bool(self._waiting))

    def _idle(self) -> bool:
        """Nothing is left to wait for: all is out, or the broker is away."""
        self._settle()
        return self._state is MqttState.AWAY or not (self._waiting or self._in_flight)

    def _settle(self) -> None:
        """Forget what is out, and queue again in its order what went down with a connection."""
        lost, open_ones = [], []
        for message, item in self._in_flight:
            if message.mid in self._acknowledged:
                self._acknowledged.discard(message.mid)
                self._sent += item is not None
            elif message.rc > 0 and self._qos == 0 and item is not None:
                # With QoS 1 and 2 paho keeps a message that met no connection, and sends it itself.
                lost.append(item)
            else:
                open_ones.append((message, item))
        self._in_flight = deque(open_ones)
        self._waiting.extendleft(reversed(lost))

    # paho's thread

    def _on_connect(self, _client: Client, _: Any, __: Any, code: Any, ___: Any) -> None:
        if code.is_failure:
            self._set(MqttState.AWAY, f"the broker refuses us: {code}")
            return
        status = self._client.publish(self.address.status, "online", qos=1, retain=True)
        with self._changed:
            self._in_flight.append((status, None))
        self._set(MqttState.CONNECTED, None)

    def _on_connect_fail(self, _client: Client, _: Any) -> None:
        # paho keeps the reason to itself.
        tls = ", or its certificate is not trusted" if self.address.tls else ""
        self._set(MqttState.AWAY, f"the broker does not answer{tls}")

    def _on_disconnect(self, _client: Client, _: Any, __: Any, code: Any, ___: Any) -> None:
        # After a refusal paho also tells the disconnection; the refusal says more.
        if self._state is MqttState.CONNECTED:
            self._set(MqttState.AWAY, f"the connection is lost: {code}")

    def _on_publish(self, _client: Client, _: Any, mid: int, ___: Any, ____: Any) -> None:
        # It may come before `publish` has returned the message, so the number is kept.
        with self._changed:
            self._acknowledged.add(mid)
            self._changed.notify_all()

    def _set(self, state: MqttState, reason: str | None) -> None:
        with self._changed:
            if self._state is MqttState.CLOSED:
                return
            dropped = self._dropped - self._dropped_told
            self._state, self._reason = state, reason
            if state is MqttState.CONNECTED:
                self._dropped_told = self._dropped
            self._changed.notify_all()
        if reason == self._told:
            return
        if reason is not None:
            logger.warning("%s: %s; trying again until it is there", self, reason)
        elif self._told is not None:
            logger.warning("%s: connected again; %d events were dropped", self, dropped)
        self._told = reason


def paho_client() -> Client:
    """A client of paho. Raises: EngineError if it is not installed."""
    try:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "paho":
            raise
        raise EngineError(MISSING) from error
    return Client(CallbackAPIVersion.VERSION2)
