"""The live page: what it shows, who may ask, and that nobody who asks makes the loop wait."""

from __future__ import annotations

import dataclasses
import http.client
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import cv2
import numpy as np
import pytest

from mip_edge.errors import OptionError, OutputError
from mip_edge.live import page as page_module
from mip_edge.live import page_server
from mip_edge.live.event import EventLog
from mip_edge.live.page import KEPT_EVENTS, Page, is_loopback, parse_address
from mip_edge.live.page_server import host_allowed
from mip_edge.live.presence import GONE, KEPT, Presence
from mip_edge.live.view import CameraView, TrackLabel
from mip_edge.spec import Modality
from mip_edge.thresholds import ModalityPair

HOSTILE = '<script>alert("x")</script>&/?#'


def view_of(name: str = "gate", *labels: TrackLabel, **values: Any) -> CameraView:
    given: dict[str, Any] = {
        "modality": Modality.VISIBLE,
        "image": np.full((120, 160, 3), (200, 100, 50), np.uint8),
        "boxes": np.tile(np.array([[20, 40, 60, 110]], np.float32), (len(labels), 1)),
        "labels": labels,
        "index": 7,
        "time": 0.28,
        "dropped": 3,
        "age_ms": 41.4,
        "width": 160,
        "height": 120,
    }
    return CameraView(name, **{**given, **values})


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page("0", max_clients=4)
    yield page
    page.close()


def ask(
    page: Page, path: str, *, method: str = "GET", host: str | None = None
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(urlsplit(page.url).netloc, timeout=10)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    return connection.getresponse()


def json_of(page: Page, path: str) -> Any:
    reply = ask(page, path)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    return json.loads(reply.read())


# Addresses


def test_an_address_is_this_machine_alone_unless_another_is_said() -> None:
    assert parse_address("8080") == ("127.0.0.1", 8080)
    assert parse_address("0.0.0.0:80") == ("0.0.0.0", 80)
    assert parse_address("[::1]:8080") == ("::1", 8080)
    assert parse_address("box.local:0") == ("box.local", 0)


@pytest.mark.parametrize("address", ["", "gate", ":8080", "host:", "host:-1", "65536", "a:b:c"])
def test_an_address_that_cannot_be_is_refused(address: str) -> None:
    with pytest.raises(OptionError, match=r"--serve takes \[HOST:\]PORT"):
        Page(address)


def test_a_port_that_is_taken_is_one_clear_line(page: Page) -> None:
    port = urlsplit(page.url).port
    with pytest.raises(OutputError, match=f"--serve {port}: Address already in use; choose"):
        Page(str(port))


def test_an_address_that_others_reach_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    Page("127.0.0.1:0").close()
    assert caplog.messages == []
    Page("0.0.0.0:0").close()
    assert "there is no password" in caplog.text
    assert [is_loopback(host) for host in ("127.0.0.2", "::1", "localhost", "10.0.0.1", "box")] == [
        *(True, True, True, False, False)
    ]


def test_the_port_is_free_again_after_closing() -> None:
    page = Page("0")
    port = urlsplit(page.url).port
    page.close()
    Page(str(port)).close()
    assert not [thread for thread in threading.enumerate() if thread.name == "page"]


# What it shows


def test_the_page_needs_nothing_from_elsewhere_and_no_inline_script_but_its_own(
    page: Page,
) -> None:
    reply = ask(page, "/")
    text = reply.read().decode()
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert re.findall(r"(?:https?:)?//[\w.]+\.\w", text) == []
    (nonce,) = set(re.findall(r'nonce="([^"]+)"', text))
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'nonce-{nonce}'" in policy
    assert nonce not in ask(page, "/").read().decode(), "each reply has its own"
    assert len(re.findall(r"<script", text)) == 1
    assert re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text) is None


def test_the_state_tells_of_every_camera(page: Page) -> None:
    label = TrackLabel(1, 12, 0.8, ModalityPair.VISIBLE_VISIBLE)
    lost = view_of(
        "yard",
        modality=None,
        auto=True,
        state="lost",
        reason="no route",
        next_try=4.0,
        age_ms=12_000.0,
    )
    page.update([view_of("gate", label), lost], {"counts": {"crops/s": 21.5}})
    state = json_of(page, "/state")
    gate, yard = state["cameras"]
    assert gate == {
        "name": "gate",
        "state": "live",
        "trouble": None,
        "reason": None,
        "next_try": None,
        "modality": "visible",
        "auto": False,
        "dropped": 3,
        "age_ms": 41,
        "frame": 7,
        "time": 0.28,
        "width": 160,
        "height": 120,
        "people": 1,
    }
    assert (yard["state"], yard["reason"], yard["people"]) == ("lost", "no route", 0)
    assert yard["trouble"] == "LOST for 12 s, next try in 4 s"
    assert (yard["modality"], yard["auto"]) == (None, True)
    assert state["counts"] == {"crops/s": 21.5}
    assert state["silent_s"] < 5


def test_the_page_says_that_the_loop_is_silent() -> None:
    times = iter([0.0, 0.0, 10.0])
    page = Page("0", now=lambda: next(times))
    page.update([view_of()], {})
    assert page.state()["silent_s"] == 10.0
    page.close()


def test_a_picture_is_drawn_with_its_boxes_and_scaled_to_the_page(page: Page) -> None:
    page.update([view_of("gate", TrackLabel(1, 3, 0.9))], {})
    reply = ask(page, "/camera/gate.jpg?123")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "image/jpeg")
    picture = cv2.imdecode(np.frombuffer(reply.read(), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert picture.shape == (120, 160, 3)
    assert picture[100, 120].tolist() == pytest.approx([200, 100, 50], abs=8)
    assert np.abs(picture[90, 20].astype(int) - [200, 100, 50]).max() > 60, "a box"
    large = view_of("gate", image=np.zeros((1080, 1920, 3), np.uint8), width=1920, height=1080)
    page.update([large], {})
    time.sleep(page_module.FRESH)
    jpeg = page.jpeg("gate")
    assert jpeg is not None
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (720, 1280, 3)


def test_names_from_outside_reach_the_browser_as_data_alone(page: Page) -> None:
    page.update([view_of(HOSTILE, TrackLabel(1, 3, 0.9, name=HOSTILE))], {})
    page.write({"event": "camera_lost", "camera": HOSTILE, "reason": HOSTILE})
    assert HOSTILE.encode() not in ask(page, "/").read()
    state = json_of(page, "/state")
    assert state["cameras"][0]["name"] == state["people"][0]["name"] == HOSTILE
    assert json_of(page, "/events")["events"][0]["reason"] == HOSTILE
    assert ask(page, f"/camera/{quote(HOSTILE, safe='')}.jpg").status == 200
    assert ask(page, "/state").headers["X-Content-Type-Options"] == "nosniff"


def test_events_are_given_once_to_who_asks_with_the_number(page: Page) -> None:
    log = EventLog([page])
    for track in range(3):
        log.write("appeared", camera="gate", track=track)
        log.write("box", camera="gate", track=track)
    first = json_of(page, "/events")
    assert [event["track"] for event in first["events"]] == [0, 1, 2]
    assert first["next"] == 3
    log.write("end")
    assert [e["event"] for e in json_of(page, "/events?after=3")["events"]] == ["end"]
    assert json_of(page, "/events?after=4")["events"] == []
    assert len(json_of(page, "/events?after=x")["events"]) == 4
    for _ in range(KEPT_EVENTS):
        log.write("end")
    assert len(json_of(page, "/events")["events"]) == KEPT_EVENTS
    log.close()


@pytest.mark.parametrize(
    "path", ["/none", "/camera/none.jpg", "/camera/", "/../state", "/state/", "/assets/live.html"]
)
def test_what_is_not_there_is_not_found(page: Page, path: str) -> None:
    assert ask(page, path).status == 404


def test_only_reading_is_possible(page: Page) -> None:
    head = ask(page, "/state", method="HEAD")
    assert (head.status, head.read()) == (200, b"")
    assert int(head.headers["Content-Length"]) > 0
    assert [ask(page, "/state", method=m).status for m in ("POST", "PUT", "DELETE", "OPTIONS")] == [
        501
    ] * 4


# Who may ask


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("127.0.0.1:8080", True),
        ("localhost:8080", True),
        ("[::1]:8080", True),
        ("10.0.0.7", True),
        ("Box.Local:80", True),
        ("evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("[::1", False),
        ("", False),
        (None, False),
    ],
)
def test_a_name_that_somebody_points_here_is_refused(header: str | None, allowed: bool) -> None:
    assert host_allowed(header, "box.local") is allowed


def test_a_foreign_site_can_neither_ask_by_its_name_nor_read_nor_embed(page: Page) -> None:
    page.update([view_of()], {})
    for path in ("/", "/state", "/events", "/camera/gate.jpg"):
        assert ask(page, path, host="evil.example").status == 403
        reply = ask(page, path)
        assert reply.status == 200
        assert "Access-Control-Allow-Origin" not in reply.headers
        assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]


# Nobody slows the loop


def test_pictures_are_encoded_only_when_asked_and_once_for_all_who_ask(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int | None] = []
    real = page_module.draw

    def count(view: CameraView, width: int, height: int) -> Any:
        drawn.append(view.index)
        return real(view, width, height)

    monkeypatch.setattr(page_module, "draw", count)
    monkeypatch.setattr(page_module, "FRESH", 60.0)
    for index in range(50):
        page.update([view_of(index=index)], {})
    assert drawn == []
    answers = [page.jpeg("gate") for _ in range(5)]
    page.update([view_of(index=50)], {})
    answers.append(page.jpeg("gate"))
    assert drawn == [49], "within FRESH nobody makes us draw again"
    assert len(set(answers)) == 1
    monkeypatch.setattr(page_module, "FRESH", 0.0)
    page.jpeg("gate")
    page.jpeg("gate")
    assert drawn == [49, 50]


def test_a_client_that_reads_nothing_makes_neither_the_loop_nor_others_wait(page: Page) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    page.update([view_of(image=noise, width=1280, height=720)], {})
    address = (str(urlsplit(page.url).hostname), int(urlsplit(page.url).port or 0))
    with socket.create_connection(address) as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(b"GET /camera/gate.jpg HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        begin = time.perf_counter()
        for index in range(200):
            page.update([view_of(index=index)], {})
        assert time.perf_counter() - begin < page_server.SLOW / 2
        assert json_of(page, "/state")["cameras"][0]["frame"] == 199


def test_more_clients_than_places_are_told_to_come_again(page: Page) -> None:
    address = (str(urlsplit(page.url).hostname), int(urlsplit(page.url).port or 0))
    silent = [socket.create_connection(address) for _ in range(4)]
    time.sleep(0.3)
    with socket.create_connection(address) as fifth:
        fifth.settimeout(5)
        assert fifth.recv(100).startswith(b"HTTP/1.0 503 ")
    for connection in silent:
        connection.close()
    end = time.monotonic() + 5
    while ask_or_none(page) != 200:
        assert time.monotonic() < end, "the places are free again"
        time.sleep(0.05)


def ask_or_none(page: Page) -> int | None:
    try:
        return ask(page, "/state").status
    except (ConnectionError, http.client.HTTPException):
        return None


def test_who_asks_drop_by_drop_is_cut_off(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "LONGEST", 0.3)
    address = (str(urlsplit(page.url).hostname), int(urlsplit(page.url).port or 0))
    with socket.create_connection(address) as slow:
        slow.settimeout(5)
        slow.sendall(b"GET / HT")
        begin = time.monotonic()
        assert slow.recv(100) == b""
        assert 0.2 < time.monotonic() - begin < 3


def test_a_fault_of_ours_is_logged_and_the_page_goes_on(
    page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    page.update([], {"counts": {"bad": object()}})
    with pytest.raises(http.client.RemoteDisconnected):
        ask(page, "/state")
    assert any(record.exc_info and record.levelno == logging.ERROR for record in caplog.records)
    page.update([], {})
    assert json_of(page, "/state")["cameras"] == []


# Who is there


def test_people_are_told_with_where_and_since_when() -> None:
    presence = Presence()
    anna = TrackLabel(1, 12, 0.91234, ModalityPair.VISIBLE_VISIBLE, name="Anna")
    boris = TrackLabel(2, 7, None)
    unsure, unknown = TrackLabel(3, 31, 0.5, uncertain=True), TrackLabel(4, None, None)
    yard = view_of("yard", anna, modality=Modality.INFRARED)
    presence.update([view_of("gate", anna, boris, unsure, unknown)], 100.0)
    presence.update([view_of("gate", boris), yard], 102.0)
    presence.update([view_of("gate"), yard], 103.0)
    rows = {row["identity"]: row for row in presence.rows(103.5)}
    assert list(rows) == [12, 7], "who was seen last stands first; doubtful ones do not stand"
    assert rows[12] == {
        "identity": 12,
        "name": "Anna",
        "color": rows[12]["color"],
        "present": True,
        "cameras": ["yard"],
        "camera": "yard",
        "modality": "infrared",
        "similarity": 0.9123,
        "since_s": 3.5,
        "last_s": 0.5,
    }
    assert (rows[7]["cameras"], rows[7]["camera"], rows[7]["last_s"]) == ([], "gate", 1.5)
    assert re.fullmatch("#[0-9a-f]{6}", rows[7]["color"])


def test_who_comes_back_is_there_since_the_return() -> None:
    presence = Presence()
    label = TrackLabel(1, 12, 0.9)
    presence.update([view_of("gate", label)], 0.0)
    presence.update([view_of("gate", label)], GONE - 1)
    presence.update([view_of("gate")], 60.0)
    assert [row["present"] for row in presence.rows(60.0)] == [False]
    presence.update([view_of("gate", label)], 90.0)
    (row,) = presence.rows(91.0)
    assert (row["present"], row["since_s"]) == (True, 1.0)


def test_a_lost_camera_shows_nobody() -> None:
    presence = Presence()
    view = view_of("gate", TrackLabel(1, 12, 0.9))
    presence.update([dataclasses.replace(view, state="lost")], 0.0)
    assert presence.rows(0.0) == []


def test_the_people_of_months_take_no_more_room_than_a_bound() -> None:
    presence = Presence()
    for identity in range(3 * KEPT):
        presence.update([view_of("gate", TrackLabel(1, identity, 0.9))], float(identity))
    assert [row["identity"] for row in presence.rows(1e9)][:: KEPT - 1] == [
        3 * KEPT - 1,
        2 * KEPT,
    ]
