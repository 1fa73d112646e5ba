"""What opens and reads a source: a local camera, a file, images, a stream, a pipeline."""

from __future__ import annotations

import glob
import logging
import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.data.image import IMAGE_SUFFIXES, read_image
from mip_edge.errors import ImageError, SourceError
from mip_edge.live.source_options import GSTREAMER, SourceOptions

logger = logging.getLogger(__name__)

IMAGES_RATE = 1.0
OPEN_TIMEOUT_MS = 8_000
READ_TIMEOUT_MS = 4_000
CONNECT_TIMEOUT = 1.5
PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935}
OWN_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""Environment variable by which a user tells FFmpeg another way; OpenCV reads it."""


class Capture(Protocol):
    """What is used of cv2.VideoCapture."""

    def isOpened(self) -> bool: ...  # noqa: N802
    def grab(self) -> bool: ...
    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]: ...
    def get(self, propId: int) -> float: ...  # noqa: N803
    def release(self) -> None: ...


def open_capture(options: SourceOptions) -> Capture:
    """Open the device, file, images, stream or pipeline; not yet checked that it gives pictures.

    A stream goes over TCP: OpenCV asks FFmpeg for `rtsp_flags=prefer_tcp` unless the environment
    variable OPENCV_FFMPEG_CAPTURE_OPTIONS says otherwise. Raises: SourceError.
    """
    if options.is_device:
        return _open_device(options)
    if options.is_pipeline:
        return _open_pipeline(options)
    if options.is_local:
        return _open_local(options)
    return _open_stream(options)


class Images:
    """Images of one folder or glob, one after the other; a `Capture`.

    An image that cannot be read is told for the first time and skipped: `retrieve` fails, and the
    next `grab` moves on.
    """

    def __init__(self, name: str, paths: Sequence[Path], rate: float) -> None:
        self._name, self._paths, self._rate = name, list(paths), rate
        self._next = 0
        self._told = False

    def isOpened(self) -> bool:  # noqa: N802
        return bool(self._paths)

    def grab(self) -> bool:
        """Move on without reading: a late image costs nothing."""
        self._next += 1
        return self._next <= len(self._paths)

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        """The present image, in the BGR order of cv2.VideoCapture."""
        try:
            image = read_image(self._paths[self._next - 1])
        except ImageError as error:
            if not self._told:
                logger.warning(
                    "camera %s: %s; it is skipped, and so is any other like it", self._name, error
                )
            self._told = True
            return False, np.empty((0, 0, 3), np.uint8)
        return True, image[:, :, ::-1]

    def get(self, propId: int) -> float:  # noqa: N803
        return self._rate if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        self._paths = []


def find_images(url: str) -> list[Path] | None:
    """Images of a folder or glob in natural order (2 before 10); None if `url` is a file."""
    path = Path(url)
    if path.is_file():
        return [path] if path.suffix.lower() in IMAGE_SUFFIXES else None
    if path.is_dir():
        found = list(path.iterdir())
    elif glob.has_magic(url):
        found = [Path(name) for name in glob.glob(url, recursive=True)]  # noqa: PTH207
    else:
        return None
    images = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    return sorted(images, key=_natural)


def has_gstreamer() -> bool:
    """Whether this build of OpenCV runs pipelines; the wheels of PyPI do not."""
    return re.search(r"GStreamer:\s*YES", cv2.getBuildInformation()) is not None


def _natural(path: Path) -> tuple[list[list[int | str]], str]:
    parts = [re.split(r"(\d+)", part.casefold()) for part in path.parts]
    return [[int(p) if i % 2 else p for i, p in enumerate(part)] for part in parts], str(path)


def _open_device(options: SourceOptions) -> Capture:
    number = options.url if options.url.isdecimal() else None
    device = Path(options.url if number is None else f"/dev/video{number}")
    if sys.platform.startswith("linux") and not device.exists():
        raise SourceError(f"--source {options.name}: there is no camera {device}")
    if number is None:
        return cv2.VideoCapture(options.url, cv2.CAP_V4L2)  # type: ignore[return-value]
    return cv2.VideoCapture(int(number))  # type: ignore[return-value]


def _open_pipeline(options: SourceOptions) -> Capture:
    pipeline = options.url.removeprefix(GSTREAMER).strip()
    if not has_gstreamer():
        raise SourceError(
            f"--source {options.name}: this OpenCV ({cv2.__version__}) was built without "
            "GStreamer, as all wheels of PyPI are; use the OpenCV that JetPack or your "
            "distribution installs, or give an rtsp:// url instead of gst:"
        )
    if "appsink" not in pipeline:
        raise SourceError(
            f"--source {options.name}: {options.shown} has no appsink; expected a pipeline that "
            "ends in: ... ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1"
        )
    return cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)  # type: ignore[return-value]


def _open_local(options: SourceOptions) -> Capture:
    images = find_images(options.url)
    if images is not None:
        if not images:
            raise SourceError(
                f"--source {options.name}: {options.shown} holds no image; "
                f"expected some that end in {', '.join(IMAGE_SUFFIXES)}"
            )
        return Images(options.name, images, options.rate or IMAGES_RATE)
    if not Path(options.url).is_file():
        raise SourceError(f"--source {options.name}: {options.shown} does not exist")
    if options.rate is not None:
        raise SourceError(
            f"--source {options.name}: rate is for a folder or glob of images; "
            f"{options.shown} has its own"
        )
    return cv2.VideoCapture(options.url)  # type: ignore[return-value]


def _open_stream(options: SourceOptions) -> Capture:
    _require_answer(options)
    # Named backend: with any backend, one that fails writes the url with its password to stderr.
    return cv2.VideoCapture(  # type: ignore[return-value]
        options.url,
        cv2.CAP_FFMPEG,
        [
            *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_TIMEOUT_MS),
            *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_TIMEOUT_MS),
        ],
    )


def _require_answer(options: SourceOptions) -> None:
    """Raises: SourceError, quickly and with the reason, if nobody listens.

    FFmpeg would wait for its whole open timeout before a host that is off, and says why on stderr
    alone. Left to FFmpeg where the way leads through a proxy or a user's own options.
    """
    try:
        parts = urlsplit(options.url)
        host, port = parts.hostname, parts.port or PORTS.get(parts.scheme)
    except ValueError:
        return
    if host is None or parts.scheme not in PORTS or port is None:
        return
    if OWN_OPTIONS in os.environ or parts.scheme in getproxies():
        return
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT).close()
    except (OSError, UnicodeError) as error:
        # A name that no name server could have is refused by the encoding before the network.
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise SourceError(
            f"--source {options.name}: {options.shown} does not answer ({reason})"
        ) from error
