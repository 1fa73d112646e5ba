"""The HTTP side of the live page: who may ask, how many at once, and for how long."""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

SLOW = 5.0
"""Seconds that one read or write of a client may take."""
LONGEST = 15.0
"""Seconds that a client may take in all."""
TEXT = "text/plain; charset=utf-8"
BUSY = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src {nonce}; "
    "style-src {nonce}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, and of our own page only what bears this reply's nonce."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back."""

    body: bytes
    """Its content."""
    kind: str
    """Its media type."""
    nonce: str | None = None
    """What script and style of an HTML page must show to be run."""


Answer = Callable[[str, Mapping[str, str]], Reply | None]
"""Path (decoded) and query to what stands there."""


def host_allowed(header: str | None, served: str) -> bool:
    """Whether a request's Host header is one of ours.

    A page elsewhere may point a name of its own at this machine to read the cameras through a
    visitor's browser (DNS rebinding); an address as a number cannot be pointed anywhere.
    """
    if not header:
        return False
    try:
        name = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    try:
        ip_address(name)
    except ValueError:
        return name in {"localhost", served.lower(), socket.gethostname().lower()}
    return True


def open_server(host: str, port: int, answer: Answer, max_clients: int) -> PageServer:
    """A server that runs already. Raises: OSError if the address cannot be had."""
    family, *_, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return PageServer(family, address, host, answer, max_clients)


class PageServer(ThreadingHTTPServer):
    """A thread a request, so many at most; each ends by itself."""

    daemon_threads = True

    def __init__(
        self,
        family: socket.AddressFamily,
        address: Any,
        host: str,
        answer: Answer,
        max_clients: int,
    ) -> None:
        self.address_family = family
        self.host, self.answer = host, answer
        self._places = threading.BoundedSemaphore(max_clients)
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self._guard = threading.Lock()
        super().__init__(address, PageHandler)
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.1,), name="page", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The TCP port that it listens at."""
        return int(self.server_address[1])

    def server_bind(self) -> None:
        """As in TCPServer: the HTTP one asks the network for our name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)

    def close(self) -> None:
        """Stop listening; requests under way end by themselves."""
        self.shutdown()
        self._thread.join()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for it if there is a place."""
        if not self._places.acquire(blocking=False):
            request.setblocking(False)
            try:
                request.send(BUSY)
            except OSError:
                logger.debug("a client left before it heard that all places are taken")
            self.shutdown_request(request)
            return
        with self._guard:
            self._open[id(request)] = (request, time.monotonic())
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The request, then its place is free again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._guard:
                self._open.pop(id(request), None)
            self._places.release()

    def service_actions(self) -> None:
        """Cut off who takes too long over a request, drop by drop."""
        with self._guard:
            late = [r for r, begun in self._open.values() if time.monotonic() - begun > LONGEST]
            for request in late:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    logger.debug("a slow client left by itself")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error; a fault of ours is shown."""
        fault = sys.exc_info()[1]
        if isinstance(fault, (ConnectionError, TimeoutError)):
            logger.debug("a client of the page left in the middle")
        else:
            logger.error("a request of the page failed", exc_info=fault)


class PageHandler(BaseHTTPRequestHandler):
    """Reads only: GET and HEAD."""

    timeout = SLOW
    server: PageServer
    server_version, sys_version = "mip-edge", ""

    def do_GET(self) -> None:
        """Send what stands at the path."""
        if not host_allowed(self.headers.get("Host"), self.server.host):
            self._send(403, Reply(b"ask by the address that mip-edge live shows\n", TEXT))
            return
        parts = urlsplit(self.path)
        reply = self.server.answer(unquote(parts.path), dict(parse_qsl(parts.query)))
        if reply is None:
            self._send(404, Reply(b"nothing here\n", TEXT))
        else:
            self._send(200, reply)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """To the log of mip-edge, where it is quiet by default."""
        logger.debug(format, *args)

    def _send(self, status: int, reply: Reply) -> None:
        nonce = f"'nonce-{reply.nonce}'" if reply.nonce else "'none'"
        self.send_response(status)
        for name, content in (
            ("Content-Type", reply.kind),
            ("Content-Length", str(len(reply.body))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", POLICY.format(nonce=nonce)),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            # No other site may embed or read it, even where the browser could reach it.
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ):
            self.send_header(name, content)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)
