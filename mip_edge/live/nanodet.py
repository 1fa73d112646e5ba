"""NanoDet-g: the person detector that comes with the package (see assets/NANODET_NOTICE.txt)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import EngineError
from mip_edge.live.box import Boxes, Detections, suppress

ASSET = "nanodet_g_416.fp16.onnx"
SIDE = 416
BINS = 11
CLASSES = 80
PERSON = 0
STRIDES = {52 * 52: 8, 26 * 26: 16, 13 * 13: 32}
MEAN_BGR = np.array([103.53, 116.28, 123.675], np.float32)
STD_BGR = np.array([57.375, 57.12, 58.395], np.float32)
MAX_OVERLAP = 0.6


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How a frame was laid into the square input."""

    scale: float
    """Input pixels per frame pixel."""
    left: int
    """Input pixels left of the frame."""
    top: int
    """Input pixels above the frame."""

    def to_frame(self, boxes: Boxes) -> Boxes:
        """Boxes of the input to boxes of the frame."""
        offset = np.array([self.left, self.top, self.left, self.top], np.float32)
        return np.asarray((boxes - offset) / self.scale, np.float32)


def prepare_frame(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Letterbox]:
    """An RGB frame (H, W, 3) to the network's input (1, 3, 416, 416) BGR, and how it lies there."""
    height, width = image.shape[:2]
    scale = min(SIDE / width, SIDE / height)
    inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (SIDE - inner_width) // 2, (SIDE - inner_height) // 2
    square = np.zeros((SIDE, SIDE, 3), np.uint8)
    resized = cv2.resize(image, (inner_width, inner_height), interpolation=cv2.INTER_LINEAR)
    square[top : top + inner_height, left : left + inner_width] = resized
    normalised = (square[:, :, ::-1].astype(np.float32) - MEAN_BGR) / STD_BGR
    tensor = np.ascontiguousarray(normalised.transpose(2, 0, 1)[np.newaxis])
    return tensor, Letterbox(scale, left, top)


def decode(outputs: Sequence[NDArray[np.float32]], min_score: float) -> Detections:
    """Six output tensors to persons in input pixels, before suppression.

    Scores are (1, N, 80) and box distributions (1, N, 44), one pair a stride, told apart by shape.
    A side's distance is the expectation over its 11 bins, times the stride, from the cell's centre.
    """
    found = [
        _decode_stride(
            _tensor(outputs, cells, CLASSES)[:, PERSON],
            _tensor(outputs, cells, 4 * BINS),
            stride,
            min_score,
        )
        for cells, stride in STRIDES.items()
    ]
    return Detections(
        np.concatenate([part.boxes for part in found]),
        np.concatenate([part.scores for part in found]),
    )


def _tensor(
    outputs: Sequence[NDArray[np.float32]], cells: int, channels: int
) -> NDArray[np.float32]:
    for tensor in outputs:
        if tensor.shape == (1, cells, channels):
            return np.asarray(tensor[0], np.float32)
    raise EngineError(
        f"the detector gave shapes {[tensor.shape for tensor in outputs]}; "
        f"expected one of (1, {cells}, {channels}): {ASSET} is not the file that was shipped"
    )


def _decode_stride(
    scores: NDArray[np.float32],
    distributions: NDArray[np.float32],
    stride: int,
    min_score: float,
) -> Detections:
    cells = np.flatnonzero(scores >= min_score)
    bins = distributions[cells].reshape(len(cells), 4, BINS)
    weights = np.exp(bins - bins.max(axis=2, keepdims=True))
    expected = (weights * np.arange(BINS)).sum(axis=2) / weights.sum(axis=2)
    left, top, right, bottom = (expected * stride).T
    columns = SIDE // stride
    x, y = (cells % columns + 0.5) * stride, (cells // columns + 0.5) * stride
    boxes = np.stack([x - left, y - top, x + right, y + bottom], axis=1)
    return Detections(boxes.astype(np.float32), scores[cells])


class NanoDet:
    """Finds people in visible and thermal frames; one object may serve all cameras."""

    def __init__(self, *, min_score: float, threads: int | None = None) -> None:
        import onnxruntime

        session_options = onnxruntime.SessionOptions()
        session_options.log_severity_level = 3
        if threads is not None:
            session_options.intra_op_num_threads = threads
        # It takes turns with the embedder: a spinning pool steals the other's time.
        session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        asset = Path(str(files("mip_edge") / "assets" / ASSET))
        if not asset.is_file():
            raise EngineError(f"{asset.name} is missing from the package; install mip-edge anew")
        self._session = onnxruntime.InferenceSession(
            asset.read_bytes(), session_options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._min_score = min_score
        self.detect(np.zeros((SIDE, SIDE, 3), np.uint8), 0)

    def detect(self, image: NDArray[np.uint8], index: int) -> Detections:
        """People in an RGB frame, boxes in its pixels."""
        tensor, letterbox = prepare_frame(image)
        outputs = self._session.run(None, {self._input: tensor})
        found = suppress(decode(outputs, self._min_score), MAX_OVERLAP)
        height, width = image.shape[:2]
        in_frame = Detections(letterbox.to_frame(found.boxes), found.scores)
        return in_frame.within_frame(width, height)
