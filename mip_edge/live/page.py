"""The live page: cameras, people and events of a running `mip-edge live`, for a browser.

    /                    the page; mip_edge/assets/live.html, nothing from elsewhere
    /state               JSON: cameras, people, and what the loop tells of itself
    /events?after=N      JSON: the newest events after number N, and the number to ask with next
    /camera/NAME.jpg     the camera's newest picture with its boxes

Whoever reaches the address sees the cameras: there is no password. It is this machine alone unless
another address is asked for; from elsewhere, an SSH tunnel keeps it so.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from ipaddress import ip_address
from typing import Any

import cv2

from mip_edge.errors import OptionError, OutputError
from mip_edge.live.overlay import cell_size, draw
from mip_edge.live.page_server import Reply, open_server
from mip_edge.live.presence import Presence
from mip_edge.live.view import CameraView

FORM = "[HOST:]PORT, such as 8080 or 0.0.0.0:8080"
HERE = "127.0.0.1"
KEPT_EVENTS = 200
WIDEST, TALLEST = 1280, 720
"""Pixels of a camera's picture on the page, at most."""
FRESH = 0.1
"""Seconds that one picture serves everybody who asks: so many people cost what one does."""
QUALITY = 80
HTML = "text/html; charset=utf-8"

logger = logging.getLogger(__name__)


def parse_address(address: str) -> tuple[str, int]:
    """Host and port of `[HOST:]PORT`; port 0 takes a free one. Raises: OptionError."""
    host, colon, port = address.rpartition(":")
    host = host.strip("[]") if colon else HERE
    if not host or not re.fullmatch(r"\d{1,5}", port) or int(port) > 65535:
        raise OptionError(f"--serve takes {FORM}; got {address!r}")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Only this machine reaches it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(slots=True)
class _Encoder:
    """The newest JPEG of one camera, made when somebody asks."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    view: CameraView | None = None
    at: float = 0.0
    jpeg: bytes = b""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What the loop told last; replaced as a whole, never changed."""

    views: Mapping[str, CameraView]
    state: Mapping[str, Any]
    at: float


class Page:
    """Serves the page from threads of its own; the loop only hands in snapshots.

    It is an EventSink too. Pictures are drawn and encoded when a browser asks, in the thread of
    that request; nobody who is slow or many makes the loop wait.
    """

    def __init__(
        self,
        address: str,
        *,
        max_clients: int = 16,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_clients` requests at one time; more are told to come again.

        Raises: OptionError for an address that cannot be, OutputError if it cannot be served.
        """
        host, port = parse_address(address)
        self._now = now
        self._snapshot = _Snapshot({}, {}, now())
        self._presence = Presence()
        self._lock = threading.Lock()
        self._events: deque[tuple[int, dict[str, Any]]] = deque(maxlen=KEPT_EVENTS)
        self._count = 0
        self._encoders: dict[str, _Encoder] = {}
        self._html = (files("mip_edge") / "assets" / "live.html").read_text(encoding="utf-8")
        try:
            self._server = open_server(host, port, self._answer, max_clients)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(
                f"--serve {address}: {reason}; choose another port or address"
            ) from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.port}/"
        if not is_loopback(host):
            logger.warning(
                "%s is open to everyone who reaches this machine: there is no password", self.url
            )

    def __str__(self) -> str:
        return f"--serve {self.url}"

    def update(self, views: Sequence[CameraView], state: Mapping[str, Any]) -> None:
        """Show this from now on. `state` is plain values for JSON; the page shows of it

        `counts` {words: number or text} as tiles, and `outputs` [{output, state, reason}].
        """
        at = self._now()
        with self._lock:
            self._presence.update(views, at)
        self._snapshot = _Snapshot({view.name: view for view in views}, dict(state), at)

    def write(self, event: Mapping[str, Any]) -> None:
        """One more event; boxes are in the pictures."""
        if event["event"] == "box":
            return
        with self._lock:
            self._count += 1
            self._events.append((self._count, dict(event)))

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    # From here on in the threads of requests.

    def _answer(self, path: str, query: Mapping[str, str]) -> Reply | None:
        """What stands at a path, None for nothing."""
        if path == "/":
            nonce = secrets.token_urlsafe(16)
            return Reply(self._html.replace("{{nonce}}", nonce).encode(), HTML, nonce=nonce)
        if path == "/state":
            return _json_reply(self.state())
        if path == "/events":
            after = query.get("after", "0")
            return _json_reply(self.events(int(after) if re.fullmatch(r"\d{1,15}", after) else 0))
        if path.startswith("/camera/") and path.endswith(".jpg"):
            jpeg = self.jpeg(path.removeprefix("/camera/").removesuffix(".jpg"))
            return Reply(jpeg, "image/jpeg") if jpeg else None
        return None

    def state(self) -> dict[str, Any]:
        """What /state gives."""
        snapshot, at = self._snapshot, self._now()
        with self._lock:
            people = self._presence.rows(at)
        return {
            **snapshot.state,
            "silent_s": round(at - snapshot.at, 2),
            "cameras": [_camera_row(view) for view in snapshot.views.values()],
            "people": people,
        }

    def events(self, after: int) -> dict[str, Any]:
        """What /events gives."""
        with self._lock:
            newer = [event for number, event in self._events if number > after]
            return {"next": self._count, "events": newer}

    def jpeg(self, name: str) -> bytes | None:
        """The newest picture of a camera; None if there is no such camera."""
        view = self._snapshot.views.get(name)
        if view is None:
            return None
        with self._lock:
            encoder = self._encoders.setdefault(name, _Encoder())
        with encoder.lock:
            fresh = self._now() - encoder.at < FRESH
            if not encoder.jpeg or (encoder.view is not view and not fresh):
                width, height = cell_size([view], widest=WIDEST, tallest=TALLEST)
                picture = cv2.cvtColor(draw(view, width, height), cv2.COLOR_RGB2BGR)
                _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
                encoder.view, encoder.at, encoder.jpeg = view, self._now(), jpeg.tobytes()
            return encoder.jpeg


def _camera_row(view: CameraView) -> dict[str, Any]:
    return {
        "name": view.name,
        "state": view.state,
        "trouble": None if view.live else view.trouble(),
        "reason": view.reason,
        "next_try": view.next_try,
        "modality": view.modality.value if view.modality else None,
        "auto": view.auto,
        "dropped": view.dropped,
        "age_ms": None if view.age_ms is None else round(view.age_ms),
        "frame": view.index,
        "time": round(view.time, 3),
        "width": view.width,
        "height": view.height,
        "people": len(view.labels) if view.live else 0,
    }


def _json_reply(values: Mapping[str, Any]) -> Reply:
    return Reply(json.dumps(values).encode(), "application/json")
