"""MQTT: the topics and payloads, the queue while the broker is away, and a real mosquitto."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mip_edge.errors import EngineError, OptionError
from mip_edge.live import mqtt as mqtt_module
from mip_edge.live.event import EventLog, FileSink, to_json
from mip_edge.live.mqtt import IN_FLIGHT, MqttSink, MqttState, paho_client
from mip_edge.live.mqtt_address import MqttAddress

URL = "mqtt://user:s3cr3t@broker:1884/site/floor"
SECRET = "s3cr3t"


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that other threads do."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.005)


# Addresses


def test_a_url_names_broker_prefix_and_account() -> None:
    address = MqttAddress.parse("mqtt://us%40er:p%2Fw@broker:1884/site/floor/")
    assert (address.host, address.port, address.prefix) == ("broker", 1884, "site/floor")
    assert (address.user, address.password, address.tls) == ("us@er", "p/w", False)
    plain = MqttAddress.parse("mqtts://[::1]")
    assert (plain.host, plain.port, plain.prefix) == ("::1", 8883, "mip-edge")
    assert (plain.user, plain.password, plain.tls) == (None, None, True)


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{SECRET}@broker",
        f"user:{SECRET}@broker",
        f"mqtt://user:{SECRET}@",
        f"mqtt://user:{SECRET}@broker:port",
        f"mqtt://user:1/{SECRET}@broker",
        f"mqtt://user:{SECRET}@broker..site",
        f"mqtt://user:{SECRET}@broker/a?qos=1",
        f"mqtt://user:{SECRET}@broker/a%23b",
        f"mqtt://user:{SECRET}@broker/$SYS",
        "mqtt://",
        "",
    ],
)
def test_a_malformed_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(OptionError, match="--mqtt") as caught:
        MqttSink(url, connect=FakeClient)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_events_of_a_camera_and_of_the_run_have_their_topics() -> None:
    address = MqttAddress.parse(URL)
    assert address.topic({"event": "matched", "camera": "gate"}) == "site/floor/gate/matched"
    assert address.topic({"event": "merged"}) == "site/floor/merged"
    assert address.status == "site/floor/status"


def test_names_that_mqtt_would_read_as_signs_stay_one_level_and_apart() -> None:
    address = MqttAddress.parse("mqtt://broker")
    names = ["a/b", "a+b", "#", "a%2Fb", "Tür 1", "a\x00", "\udcff"]
    topics = [address.topic({"event": "left", "camera": name}) for name in names]
    levels = [topic.split("/") for topic in topics]
    assert levels[:5] == [
        ["mip-edge", level, "left"] for level in ("a%2Fb", "a%2Bb", "%23", "a%252Fb", "Tür 1")
    ]
    assert all(len(parts) == 3 and not {"+", "#", "\x00"} & set(parts[1]) for parts in levels)
    assert len(set(topics)) == len(names)


@pytest.mark.parametrize(
    ("extra", "words"),
    [({"qos": 3}, "--mqtt-qos"), ({"queue": 0}, "queue"), ({"ca": Path("ca.pem")}, "mqtts://")],
)
def test_options_that_cannot_be_are_refused(extra: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        MqttSink(URL, connect=FakeClient, **extra)


def test_a_file_that_holds_no_certificates_is_refused(tmp_path: Path) -> None:
    for ca in (tmp_path / "none.pem", Path(__file__)):
        with pytest.raises(OptionError, match="holds no certificates"):
            MqttSink("mqtts://broker", ca=ca, connect=paho_client)


def test_without_paho_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(EngineError, match=r'pip install "mip-edge\[live\]"'):
        MqttSink(URL)


# The queue, with a client that the test drives


class FakeClient:
    """Does what paho does: takes messages, and calls back from a thread of its own."""

    def __init__(self) -> None:
        self.published: list[tuple[str, str, int, bool]] = []
        self.messages: list[SimpleNamespace] = []
        self.settings: list[tuple[Any, ...]] = []
        self.connected = self.acknowledges = False
        self.on_connect: Any = None
        self.on_connect_fail: Any = None
        self.on_disconnect: Any = None
        self.on_publish: Any = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values, **named: self.settings.append((name, *values, named))

    def publish(self, topic: str, payload: str, qos: int, retain: bool = False) -> SimpleNamespace:
        message = SimpleNamespace(mid=len(self.messages) + 1, rc=0, is_published=lambda: True)
        self.messages.append(message)
        self.published.append((topic, payload, qos, retain))
        if not self.connected:
            message.rc = 4
        elif self.acknowledges:
            # Before `publish` has returned, as a fast broker may.
            self.run(self.on_publish, message.mid, None, None)
        return message

    def run(self, callback: Any, *values: Any) -> None:
        thread = threading.Thread(target=callback, args=(self, None, *values))
        thread.start()
        thread.join()

    def come(self) -> None:
        self.connected = True
        self.run(self.on_connect, None, SimpleNamespace(is_failure=False), None)

    def go(self) -> None:
        self.connected = False
        self.run(self.on_disconnect, None, "Unspecified error", None)

    @property
    def events(self) -> list[int]:
        """The numbers of the tracks told, in their order."""
        return [
            json.loads(payload)["track"]
            for topic, payload, *_ in self.published
            if not topic.endswith("/status")
        ]


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def sink(client: FakeClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[MqttSink]:
    monkeypatch.setattr(mqtt_module, "PATIENCE", 0.1)
    sink = MqttSink(URL, queue=100, connect=lambda: client)  # type: ignore[arg-type, return-value]
    yield sink
    sink.close()


def event(track: int) -> dict[str, Any]:
    return {"event": "left", "camera": "gate", "track": track}


def test_the_last_will_and_the_account_are_set_before_the_connection(
    client: FakeClient, sink: MqttSink
) -> None:
    calls = [call[0] for call in client.settings]
    assert calls.index("will_set") < calls.index("connect_async") < calls.index("loop_start")
    assert ("username_pw_set", "user", SECRET, {}) in client.settings
    assert (
        "will_set",
        "site/floor/status",
        "offline",
        {"qos": 1, "retain": True},
    ) in client.settings


def test_the_password_is_shown_nowhere(
    client: FakeClient, sink: MqttSink, caplog: pytest.LogCaptureFixture
) -> None:
    client.run(client.on_connect_fail)
    client.come()
    client.go()
    shown = [str(sink), repr(sink), repr(sink.address), caplog.text]
    assert not any(SECRET in words for words in shown)
    assert str(sink) == "--mqtt mqtt://user:***@broker:1884/site/floor"


def test_events_wait_for_the_broker_and_are_sent_in_their_order(
    client: FakeClient, sink: MqttSink, caplog: pytest.LogCaptureFixture
) -> None:
    assert sink.state is MqttState.CONNECTING
    client.acknowledges = True
    for track in range(5):
        sink.write(event(track))
    client.run(client.on_connect_fail)
    client.run(client.on_connect_fail)
    assert (sink.state, sink.reason) == (MqttState.AWAY, "the broker does not answer")
    assert client.published == []
    client.come()
    until(lambda: sink.sent == 5)
    assert client.published[0] == ("site/floor/status", "online", 1, True)
    assert client.events == [0, 1, 2, 3, 4]
    assert client.published[1] == ("site/floor/gate/left", to_json(event(0)), 0, False)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, "one line when it is away, one when it is there"
    assert "trying again" in told[0]


def test_a_full_queue_drops_the_oldest_and_says_so_once(
    client: FakeClient, sink: MqttSink, caplog: pytest.LogCaptureFixture
) -> None:
    for track in range(130):
        sink.write(event(track))
    assert sink.dropped == 30
    assert [r.getMessage().endswith("old ones go") for r in caplog.records] == [True]
    client.acknowledges = True
    client.come()
    until(lambda: sink.sent == 100)
    assert client.events == list(range(30, 130))


def test_no_more_than_a_bound_is_handed_to_a_broker_that_does_not_acknowledge(
    client: FakeClient, sink: MqttSink
) -> None:
    client.come()
    for track in range(90):
        sink.write(event(track))
    until(lambda: len(client.events) == IN_FLIGHT - 1)  # and the status
    time.sleep(0.05)
    assert len(client.events) == IN_FLIGHT - 1
    assert sink.sent == 0
    for message in list(client.messages[:10]):
        client.run(client.on_publish, message.mid, None, None)
    until(lambda: len(client.events) == IN_FLIGHT + 9)
    assert sink.sent == 9


def test_what_went_down_with_a_connection_is_sent_again_once(
    client: FakeClient, sink: MqttSink
) -> None:
    client.come()
    for track in range(3):
        sink.write(event(track))
    until(lambda: client.events == [0, 1, 2])
    client.run(client.on_publish, client.messages[1].mid, None, None)
    client.go()
    assert sink.state is MqttState.AWAY
    assert sink.reason == "the connection is lost: Unspecified error"
    sink.write(event(3))
    for message in client.messages:
        message.rc = 7  # what paho marks as lost when it connects anew
    client.acknowledges = True
    client.come()
    until(lambda: sink.sent == 4)
    assert client.events == [0, 1, 2, 1, 2, 3]


def test_a_refusal_is_told_by_its_reason(client: FakeClient, sink: MqttSink) -> None:
    class Refused(SimpleNamespace):
        def __str__(self) -> str:
            return "Not authorized"

    client.run(client.on_connect, None, Refused(is_failure=True), None)
    client.run(client.on_disconnect, None, "Unspecified error", None)
    assert (sink.state, sink.reason) == (
        MqttState.AWAY,
        "the broker refuses us: Not authorized",
    )


def test_the_end_waits_for_what_is_sent_says_offline_and_counts_the_rest(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mqtt_module, "PATIENCE", 0.2)
    sink = MqttSink(URL, connect=lambda: client)  # type: ignore[arg-type, return-value]
    client.come()
    client.acknowledges = True
    sink.write(event(0))
    until(lambda: sink.sent == 1)
    client.acknowledges = False
    sink.write(event(1))
    sink.close()
    sink.close()
    assert sink.state is MqttState.CLOSED
    assert client.published[-1] == ("site/floor/status", "offline", 1, True)
    assert (sink.sent, sink.dropped) == (1, 1)
    assert "1 events were never sent" in caplog.text


def test_writing_never_waits_for_the_broker() -> None:
    # A port where nobody answers: the connection hangs or is refused, `write` must not care.
    sink = MqttSink("mqtt://127.0.0.1:1/x")
    begin = time.perf_counter()
    for track in range(500):
        sink.write(event(track))
    assert time.perf_counter() - begin < 1.0
    until(lambda: sink.state is MqttState.AWAY)
    begin = time.perf_counter()
    sink.close()
    assert time.perf_counter() - begin < 6.0
    assert sink.dropped == 500


# A real broker


class Mosquitto:
    """A mosquitto on a port of its own, with an account, that can die and come back."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        accounts, self.config = folder / "accounts", folder / "mosquitto.conf"
        subprocess.run(["mosquitto_passwd", "-b", "-c", accounts, "user", SECRET], check=True)
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous false",
            f"password_file {accounts}",
            f"user {'root' if os.geteuid() == 0 else 'mosquitto'}",
        ]
        self.config.write_text("\n".join(lines))
        self.process: subprocess.Popen[bytes] | None = None

    def encrypt(self, folder: Path) -> Path:
        """Speak TLS alone, with a certificate that is its own authority; gives it."""
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        name = ("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
        subprocess.run(
            ["openssl", "req", "-x509", *curve, *name, "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
        text = self.config.read_text()
        self.config.write_text(f"{text}\ncertfile {certificate}\nkeyfile {key}\n")
        return certificate

    def url(self, password: str = SECRET) -> str:
        return f"mqtt://user:{password}@127.0.0.1:{self.port}/site"

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["mosquitto", "-c", self.config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._answers)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Listener:
    """Everything that a subscriber of `site/#` hears."""

    def __init__(self, broker: Mosquitto) -> None:
        self.heard: list[tuple[str, str, bool]] = []
        self._client = paho_client()
        self._client.username_pw_set("user", SECRET)
        self._client.reconnect_delay_set(1, 1)
        subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("site/#", qos=1)
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_message = lambda _, __, message: self.heard.append(
            (message.topic, message.payload.decode(), message.retain)
        )
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert subscribed.wait(10)

    def of(self, topic: str) -> list[str]:
        return [payload for found, payload, _ in self.heard if found == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mosquitto]:
    if not os.environ.get("MIP_EDGE_TEST_SERVERS"):
        pytest.skip("set MIP_EDGE_TEST_SERVERS=1 to test with a real mosquitto (make servers)")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    assert shutil.which("mosquitto"), "MIP_EDGE_TEST_SERVERS is set, but mosquitto is missing"
    broker = Mosquitto(tmp_path)
    yield broker
    broker.stop()


@pytest.mark.servers
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_mosquitto_hands_on_the_very_lines_of_the_file(
    broker: Mosquitto, tmp_path: Path, qos: int
) -> None:
    broker.start()
    listener = Listener(broker)
    sink = MqttSink(broker.url(), qos=qos)
    log = EventLog([FileSink(tmp_path / "events.jsonl"), sink])
    for track in range(200):
        log.write("appeared", camera="gate 1/2", frame=track, track=track)
    log.write("end", frames=200)
    log.close()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    until(lambda: len(listener.heard) == 203)
    assert listener.of("site/gate 1%2F2/appeared") == lines[:200]
    assert listener.of("site/end") == lines[200:]
    assert listener.of("site/status") == ["online", "offline"]
    assert (sink.sent, sink.dropped) == (201, 0)
    listener.close()
    late = Listener(broker)
    until(lambda: late.heard == [("site/status", "offline", True)])
    late.close()


@pytest.mark.servers
def test_a_broker_that_comes_late_and_dies_is_waited_for(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    sink = MqttSink(broker.url(), qos=1)
    sink.write(event(0))
    until(lambda: sink.state is MqttState.AWAY)
    broker.start()
    listener = Listener(broker)
    until(lambda: sink.sent == 1)
    broker.stop()
    until(lambda: sink.state is MqttState.AWAY)
    for track in range(1, 20):
        sink.write(event(track))
    broker.start()
    until(lambda: sink.sent == 20, 20)
    assert sink.dropped == 0
    sink.close()
    listener.close()
    told = [r.getMessage() for r in caplog.records if r.name == mqtt_module.__name__]
    assert [("trying again" in line, "connected again" in line) for line in told] == [
        (True, False),
        (False, True),
    ] * 2


@pytest.mark.servers
def test_a_run_that_dies_is_offline_by_its_last_will(broker: Mosquitto) -> None:
    broker.start()
    listener = Listener(broker)
    code = (
        "import sys, time\n"
        "from mip_edge.live.mqtt import MqttSink, MqttState\n"
        "sink = MqttSink(sys.argv[1])\n"
        "time.sleep(60)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code, broker.url()])
    until(lambda: listener.of("site/status") == ["online"], 20)
    run.kill()
    run.wait()
    until(lambda: listener.of("site/status") == ["online", "offline"])
    listener.close()


@pytest.mark.servers
def test_a_wrong_password_is_told_by_the_broker_and_not_by_us(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    broker.start()
    sink = MqttSink(broker.url("wr0ng"))
    until(lambda: sink.reason is not None)
    assert sink.state is MqttState.AWAY
    assert "the broker refuses us" in caplog.text
    assert "wr0ng" not in caplog.text
    sink.close()


@pytest.mark.servers
# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_trusts_only_a_certificate_it_was_given(broker: Mosquitto, tmp_path: Path) -> None:
    certificate = broker.encrypt(tmp_path)
    broker.start()
    url = broker.url().replace("mqtt://", "mqtts://")
    trusting, wary = MqttSink(url, ca=certificate), MqttSink(url)
    trusting.write(event(0))
    until(lambda: trusting.sent == 1)
    until(lambda: wary.state is MqttState.AWAY)
    assert wary.reason == "the broker does not answer, or its certificate is not trusted"
    trusting.close()
    wary.close()
