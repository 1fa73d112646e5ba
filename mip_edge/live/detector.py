"""Who finds the people in a frame: a network, motion before a still camera, or a file of boxes."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import SourceError
from mip_edge.live.box import Detections, suppress

BOXES_SUFFIX = ".boxes.jsonl"


class DetectorKind(str, Enum):
    """The choices of --detector."""

    NANODET = "nanodet"
    MOTION = "motion"
    FILE = "file"


class Detector(Protocol):
    """Boxes of the people in one frame."""

    def detect(self, image: NDArray[np.uint8], index: int) -> Detections:
        """People in an RGB frame (H, W, 3), the frame's number beside it."""


class Motion:
    """Whatever moves before a camera that does not: for scenes where the network finds nobody.

    Learns the background as it goes, so one object belongs to one camera. The first frame is all
    background; who stands still melts into it.
    """

    def __init__(self, *, min_area: float = 0.002, history: int = 300) -> None:
        self._subtractor = cv2.createBackgroundSubtractorMOG2(
            history=history, varThreshold=25, detectShadows=True
        )
        # With the default of 0.9 somebody who walks slowly is background after 20 frames.
        self._subtractor.setBackgroundRatio(0.7)
        self._min_area = min_area
        self._frames = 0

    def detect(self, image: NDArray[np.uint8], index: int) -> Detections:
        """Boxes around what moves and covers at least `min_area` of the frame."""
        # The first frames have no background yet: learn them fast and trust them little.
        self._frames += 1
        rate = max(1.0 / self._frames, 0.005)
        blurred = cv2.GaussianBlur(image, (5, 5), 0)
        mask = np.asarray(self._subtractor.apply(blurred, learningRate=rate), np.uint8)
        return boxes_of_mask(mask, self._min_area) if self._frames > 1 else Detections.empty()


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

    def __init__(self, path: Path) -> None:
        self._detections = read_boxes(path)

    def detect(self, image: NDArray[np.uint8], index: int) -> Detections:
        """The boxes noted for frame `index`."""
        return self._detections.get(index, Detections.empty())


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
    frames: dict[int, Detections] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                frame, detections = _parse_line(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
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
    corners = np.array([box[:4] for box in boxes], np.float32).reshape(-1, 4)
    scores = np.array([box[4] if len(box) == 5 else 1.0 for box in boxes], np.float32)
    return int(entry["frame"]), Detections(corners, scores)
