"""Who finds the people in a frame: a network, motion before a still camera, or a file of boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import SourceError
from mip_edge.live.box import MAX_PEOPLE, Detections, suppress

BOXES_SUFFIX = ".boxes.jsonl"


class Detector(Protocol):
    """Boxes of the people in frames.

    A network has no memory: one object serves all cameras, and gets their frames in one call.
    What remembers (Motion, RecordedBoxes) belongs to one camera, and takes its frames in order.
    """

    def detect(
        self, images: Sequence[NDArray[np.uint8]], indices: Sequence[int]
    ) -> list[Detections]:
        """People in each RGB frame (H, W, 3), sizes may differ; `indices` are the frames' numbers.

        One entry a frame, in the order given: boxes in its pixels, cut to it, with a positive
        area, at most MAX_PEOPLE; what was dropped is counted in the entry.
        """


class Motion:
    """Whatever moves before a camera that does not: for scenes where the network finds nobody.

    Learns the background as it goes, so one object belongs to one camera. The first frame is all
    background; who stands still melts into it. Frames of another size are a new view: it learns
    them from nothing.
    """

    def __init__(
        self, *, min_area: float = 0.002, history: int = 300, max_people: int = MAX_PEOPLE
    ) -> None:
        self._min_area, self._history, self._max_people = min_area, history, max_people
        self._size: tuple[int, ...] | None = None
        self._begin()

    def detect(
        self, images: Sequence[NDArray[np.uint8]], indices: Sequence[int]
    ) -> list[Detections]:
        """Boxes around what moves and covers at least `min_area` of the frame."""
        return [self._detect_one(image) for image in images]

    def _begin(self) -> None:
        self._subtractor = cv2.createBackgroundSubtractorMOG2(
            history=self._history, varThreshold=25, detectShadows=True
        )
        # With the default of 0.9 somebody who walks slowly is background after 20 frames.
        self._subtractor.setBackgroundRatio(0.7)
        self._frames = 0

    def _detect_one(self, image: NDArray[np.uint8]) -> Detections:
        if self._size not in (None, image.shape):
            self._begin()
        self._size = image.shape
        # The first frames have no background yet: learn them fast and trust them little.
        self._frames += 1
        rate = max(1.0 / self._frames, 0.005)
        blurred = cv2.GaussianBlur(image, (5, 5), 0)
        mask = np.asarray(self._subtractor.apply(blurred, learningRate=rate), np.uint8)
        if self._frames == 1:
            return Detections.empty()
        return boxes_of_mask(mask, self._min_area).surest(self._max_people)


def boxes_of_mask(mask: NDArray[np.uint8], min_area: float) -> Detections:
    """Foreground (255; shadows are 127) to boxes that cover at least `min_area` of the frame.

    The closing is higher than wide: it joins head, body and legs of one person, not two neighbours.
    """
    height, width = mask.shape
    foreground = np.where(mask == 255, 255, 0).astype(np.uint8)
    foreground = np.asarray(
        cv2.morphologyEx(foreground, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8
    )
    reach = max(3, height // 40)
    joined = cv2.morphologyEx(
        foreground, cv2.MORPH_CLOSE, np.ones((2 * reach + 1, reach | 1), np.uint8)
    )
    contours, _ = cv2.findContours(joined, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    boxes = [
        (x, y, x + w, y + h)
        for x, y, w, h in map(cv2.boundingRect, contours)
        if w * h >= min_area * height * width
    ]
    if not boxes:
        return Detections.empty()
    found = Detections(np.array(boxes, np.float32), np.ones(len(boxes), np.float32))
    return suppress(found, 0.6).within_frame(width, height)


class RecordedBoxes:
    """Boxes read from a JSON-lines file: {"frame": 0, "boxes": [[x1, y1, x2, y2(, score)]]}.

    A frame without a line has nobody in it.
    """

    def __init__(self, path: Path, *, max_people: int = MAX_PEOPLE) -> None:
        self._detections = read_boxes(path)
        self._max_people = max_people

    def detect(
        self, images: Sequence[NDArray[np.uint8]], indices: Sequence[int]
    ) -> list[Detections]:
        """The boxes noted for each frame, cut to it; also one that fills it is believed."""
        return [
            self._detections.get(index, Detections.empty())
            .within_frame(image.shape[1], image.shape[0], fills=1.0)
            .surest(self._max_people)
            for image, index in zip(images, indices, strict=True)
        ]


def boxes_path(video: str) -> Path:
    """Where the boxes of a recorded video lie: gate.mp4 -> gate.boxes.jsonl."""
    return Path(video).with_suffix(BOXES_SUFFIX)


def read_boxes(path: Path) -> dict[int, Detections]:
    """Frame number to its boxes. Raises: SourceError naming the file and the line."""
    if not path.is_file():
        raise SourceError(
            f"--detector file: {path} does not exist; expected the boxes beside the video, "
            "or choose --detector nanodet"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"--detector file: {path} cannot be read as text: {error}") from error
    frames: dict[int, Detections] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                frame, detections = _parse_line(json.loads(line))
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise SourceError(
                    f"{path}, line {number}: {line[:60]!r} is not "
                    '{"frame": 0, "boxes": [[x1, y1, x2, y2(, score)]]}'
                ) from error
            frames[frame] = detections
    return frames


def _parse_line(entry: dict[str, Any]) -> tuple[int, Detections]:
    boxes = entry["boxes"]
    if any(len(box) not in (4, 5) for box in boxes):
        raise ValueError("a box has 4 or 5 numbers")
    # A number too large for float32 becomes infinite here, and is refused with its frame.
    with np.errstate(over="ignore"):
        corners = np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4)
        scores = np.array([box[4] if len(box) == 5 else 1.0 for box in boxes], np.float32)
    return int(entry["frame"]), Detections(corners, scores)
