"""Where frames come from: a file, a camera or a stream, as RGB frames with number and time."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import OptionError, SourceError
from mip_edge.spec import Modality

KEYS = ("name", "url", "modality")
FORM = "name=gate,url=FILE|0|rtsp://...,modality=visible|infrared"
ASSUMED_RATE = 25.0
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
NETWORK_TIMEOUT_MS = 10_000


def shown_url(url: str) -> str:
    """A URL as it may be shown: passwords and keys masked, in doubt too much.

    `rtsp://user:secret@host/path?token=t` becomes `rtsp://user:***@host/path?token=***`.
    """
    masked = re.sub(r"^(\w[\w+.-]*://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(
        r"(?i)([?&][^=&]*(?:pass|pwd|token|key|secret|auth)[^=&]*=)[^&]*", r"\1***", masked
    )


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """One --source."""

    name: str
    """What the camera is called, everywhere."""
    url: str = field(repr=False)
    """A file, the number of a local camera, or a stream; may hold a password."""
    modality: Modality = Modality.VISIBLE
    """The light it sees."""

    def __post_init__(self) -> None:
        if not self.name or not self.url:
            raise OptionError(f"--source needs a name and a url: {FORM}")

    @classmethod
    def parse(cls, text: str) -> SourceOptions:
        """`name=gate,url=...,modality=visible`. Raises: OptionError with one clear line."""
        values: dict[str, str] = {}
        # A comma inside a url is kept unless a word and "=" follow it.
        for part in re.split(r",(?=\s*\w+=)", text):
            key, equals, value = part.strip().partition("=")
            if not equals or key not in KEYS:
                raise OptionError(f"--source has no key {key!r}; expected {FORM}")
            if key in values:
                raise OptionError(f"--source gives {key} twice; expected {FORM}")
            values[key] = value.strip()
        for key in KEYS:
            if not values.get(key):
                named = f" {values['name']}" if values.get("name") else ""
                raise OptionError(f"--source{named} has no {key}; expected {FORM}")
        words = [modality.value for modality in Modality]
        if values["modality"] not in words:
            raise OptionError(
                f"--source {values['name']}: modality must be {' or '.join(words)}, "
                f"got {values['modality']!r}"
            )
        return cls(values["name"], values["url"], Modality(values["modality"]))

    @property
    def shown(self) -> str:
        """The url without its password."""
        return shown_url(self.url)

    @property
    def is_file(self) -> bool:
        """A recording: it has an end, and can be read faster than it plays."""
        return not self.url.isdigit() and "://" not in self.url


def parse_sources(texts: Sequence[str]) -> tuple[SourceOptions, ...]:
    """All --source of a command line. Raises: OptionError for none, or a doubled name."""
    if not texts:
        raise OptionError(f"no --source; give at least one: --source {FORM}")
    sources = tuple(SourceOptions.parse(text) for text in texts)
    names = [source.name for source in sources]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise OptionError(f"--source name {doubled[0]!r} is given twice; names must differ")
    return sources


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of one camera."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    index: int
    """Number from 0; dropped frames are counted, so numbers of a file are those of the file."""
    time: float
    """Seconds: of a file from its beginning, of a camera since it was opened."""


class SourceState(str, Enum):
    """What a camera is doing."""

    LIVE = "live"
    LOST = "lost"
    ENDED = "ended"


def retry_pauses() -> Iterator[float]:
    """Seconds to wait before each new try of a lost stream: 1, 2, 4 ... 30, 30."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


class Capture(Protocol):
    """What is used of cv2.VideoCapture."""

    def isOpened(self) -> bool: ...  # noqa: N802
    def grab(self) -> bool: ...
    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]: ...
    def get(self, propId: int) -> float: ...  # noqa: N803
    def release(self) -> None: ...


def open_capture(options: SourceOptions) -> Capture:
    """Open the device, file or stream; not yet checked that it gives pictures."""
    if options.url.isdigit():
        device = Path(f"/dev/video{options.url}")
        if sys.platform.startswith("linux") and not device.exists():
            raise SourceError(f"--source {options.name}: there is no camera {device}")
        return cv2.VideoCapture(int(options.url))  # type: ignore[return-value]
    if options.is_file:
        if not Path(options.url).is_file():
            raise SourceError(f"--source {options.name}: {options.shown} does not exist")
        return cv2.VideoCapture(options.url)  # type: ignore[return-value]
    # Named backend: with any backend, one that fails writes the url with its password to stderr.
    return cv2.VideoCapture(  # type: ignore[return-value]
        options.url,
        cv2.CAP_FFMPEG,
        [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            NETWORK_TIMEOUT_MS,
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            NETWORK_TIMEOUT_MS,
        ],
    )


class VideoSource:
    """Frames of one --source; opens at once and fails there.

    A file with `realtime=False` is read by the caller, every frame. Anything else is read by a
    thread that keeps the newest frame: one not fetched in time is dropped and counted. A camera or
    stream that stops is LOST and tried again with growing pauses; the end of a file is its end.
    """

    def __init__(
        self,
        options: SourceOptions,
        *,
        realtime: bool,
        now: Callable[[], float],
        capture: Callable[[SourceOptions], Capture] = open_capture,
    ) -> None:
        """Raises: SourceError if it does not open or gives no picture."""
        self.options = options
        self.state = SourceState.LIVE
        self.dropped = 0
        self._open, self._now = capture, now
        self._capture, first = self._opened()
        self.height, self.width = first.shape[:2]
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0.5 <= rate <= 240.0 else ASSUMED_RATE
        self._index = 0
        self._started = now()
        self._pending: Frame | None = Frame(first, 0, 0.0)
        self._failure: BaseException | None = None
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.threaded = realtime or not options.is_file
        if self.threaded:
            self._thread = threading.Thread(
                target=self._run, name=f"source-{options.name}", daemon=True
            )
            self._thread.start()

    @property
    def next_time(self) -> float:
        """When the next frame of an unthreaded file plays, in its seconds."""
        return self._index / self.rate

    def read(self, timeout: float = 0.0) -> Frame | None:
        """The newest frame not yet handed out; None if there is none within `timeout` seconds.

        Raises: whatever the reading thread died of.
        """
        if not self.threaded:
            return self._read_next()
        with self._arrived:
            if self._pending is None and self.state is not SourceState.ENDED:
                self._arrived.wait(timeout)
            frame, self._pending = self._pending, None
            if frame is None and self._failure is not None:
                raise self._failure
            return frame

    @property
    def exhausted(self) -> bool:
        """Nothing more will come, not even the error that a thread died of."""
        over = self.state is SourceState.ENDED and self._pending is None
        return over and self._failure is None

    def close(self) -> None:
        """Stop and join the thread, let the device go."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._capture.release()

    def _opened(self) -> tuple[Capture, NDArray[np.uint8]]:
        capture = self._open(self.options)
        image = _next_image(capture) if capture.isOpened() else None
        if image is None:
            capture.release()
            raise SourceError(
                f"--source {self.options.name}: {self.options.shown} gives no picture; "
                "expected a video file, the number of a camera, or a stream that runs"
            )
        return capture, image

    def _read_next(self) -> Frame | None:
        if self._pending is not None:
            frame, self._pending = self._pending, None
        else:
            image = _next_image(self._capture)
            if image is None:
                self.state = SourceState.ENDED
                return None
            frame = Frame(image, self._index, self._index / self.rate)
        self._index = frame.index + 1
        return frame

    def _run(self) -> None:
        try:
            self._started = self._now()
            if self.options.is_file:
                self._play()
            else:
                self._follow()
        except BaseException as error:
            # It must reach the main loop: a thread that dies alone looks like a quiet camera.
            self._failure = error
        finally:
            with self._arrived:
                self.state = SourceState.ENDED
                self._arrived.notify_all()

    def _play(self) -> None:
        """A file at its own speed; frames that are late already are not even decoded."""
        period, index = 1.0 / self.rate, 0
        while True:
            index += 1
            wait = self._started + index * period - self._now()
            if wait > 0 and self._stop.wait(wait):
                return
            if self._stop.is_set() or not self._capture.grab():
                return
            if wait < -period:
                self.dropped += 1
                continue
            ok, image = self._capture.retrieve()
            if ok:
                self._publish(Frame(_to_rgb(image), index, index * period))

    def _follow(self) -> None:
        """A camera or stream for as long as it lives, and again when it comes back."""
        index, pauses = 0, retry_pauses()
        image: NDArray[np.uint8] | None = None
        while not self._stop.is_set():
            image = _next_image(self._capture) if image is None else image
            if image is not None:
                index, pauses = index + 1, retry_pauses()
                self._publish(Frame(image, index, self._now() - self._started))
                image = None
                continue
            self.state = SourceState.LOST
            self._capture.release()
            if self._stop.wait(next(pauses)):
                return
            try:
                self._capture, image = self._opened()
            except SourceError:
                # Still away: that is what the state says already.
                continue

    def _publish(self, frame: Frame) -> None:
        with self._arrived:
            self.dropped += self._pending is not None
            self._pending = frame
            self.state = SourceState.LIVE
            self._arrived.notify_all()


def _next_image(capture: Capture) -> NDArray[np.uint8] | None:
    if not capture.grab():
        return None
    ok, image = capture.retrieve()
    return _to_rgb(image) if ok else None


def _to_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BGR ends here."""
    code = cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(image, code), np.uint8)
