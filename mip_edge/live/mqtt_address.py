"""Which MQTT broker, and where on it each event belongs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from mip_edge.errors import OptionError
from mip_edge.live.source_options import shown_url

FORM = "mqtt://[user:password@]host[:port][/prefix], or mqtts:// for TLS"
PORTS = {"mqtt": 1883, "mqtts": 8883}
PREFIX = "mip-edge"


@dataclass(frozen=True, slots=True)
class MqttAddress:
    """A broker and where on it."""

    host: str
    """Name or address."""
    port: int
    """TCP port."""
    prefix: str = PREFIX
    """First part of every topic."""
    tls: bool = False
    """Encrypted, and the broker's certificate is checked."""
    user: str | None = None
    """Who we are."""
    password: str | None = field(default=None, repr=False)
    """Shown nowhere."""

    @classmethod
    def parse(cls, url: str) -> MqttAddress:
        """`mqtt://user:password@host:1883/prefix`. Raises: OptionError without the password."""
        shown = shown_url(url) if "://" in url else "a url without ://"
        refusal = OptionError(f"--mqtt takes {FORM}; got {shown}")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            (host or "").encode("idna")
        except ValueError:
            # Its message may quote a password that was cut in two by a character such as "/".
            raise refusal from None
        # An "@" behind the host: a password with a "/" that is not written %2F.
        if (
            parts.scheme not in PORTS
            or not host
            or parts.query
            or parts.fragment
            or "@" in parts.path
        ):
            raise refusal
        prefix = unquote(parts.path.strip("/")) or PREFIX
        if re.search(r"[+#\x00-\x1f]", prefix) or prefix.startswith("$"):
            raise OptionError(
                f"--mqtt: the prefix {prefix!r} must hold neither + nor #, nor begin with $"
            )
        return cls(
            host,
            port or PORTS[parts.scheme],
            prefix,
            parts.scheme == "mqtts",
            None if parts.username is None else unquote(parts.username),
            None if parts.password is None else unquote(parts.password),
        )

    @property
    def status(self) -> str:
        """The topic that tells whether the run is there."""
        return f"{self.prefix}/status"

    def topic(self, event: Mapping[str, Any]) -> str:
        """Where an event belongs."""
        camera = event.get("camera")
        if camera is None:
            return f"{self.prefix}/{event['event']}"
        return f"{self.prefix}/{_level(str(camera))}/{event['event']}"


def _level(name: str) -> str:
    """A name as one level of a topic: what MQTT reads as a sign is written %2F and the like."""
    clean = re.sub(r"[%/+#\x00-\x1f\x7f]", lambda sign: f"%{ord(sign[0]):02X}", name)
    return clean.encode("utf-8", "replace").decode()
