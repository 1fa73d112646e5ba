"""NanoDet-g: the person detector that comes with the package (see assets/NANODET_NOTICE.txt)."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from mip_edge.errors import EngineError
from mip_edge.live.box import MAX_PEOPLE
from mip_edge.live.onnx_description import DEFAULT_INPUTS, DetectorDescription, Kind
from mip_edge.live.onnx_detector import OnnxDetector

ASSET = "nanodet_g_416.fp16.onnx"
CLASSES = 80
PERSON = 0
MAX_OVERLAP = 0.6
SIDE = 416
MULTIPLE = 32
FIXED_SIZE = bytes.fromhex("0a0308a0030a0308a003")
"""Height and width in the file: two dimensions of value 416, as protobuf writes them."""
OPEN_SIZE = b"\x0a\x03\x12\x01H\x0a\x03\x12\x01W"
"""The same two, open: dimensions of the names H and W."""


def open_size(graph: bytes) -> bytes:
    """The shipped graph with open height and width. Raises: EngineError for another file.

    All its layers are convolutions and resizings by a factor, so that any multiple of 32 will do.
    """
    if graph.count(FIXED_SIZE) != 1:
        raise EngineError(f"{ASSET} is not the file that was shipped; install mip-edge anew")
    return graph.replace(FIXED_SIZE, OPEN_SIZE)


class NanoDet(OnnxDetector):
    """Finds people in visible and thermal frames; one object may serve all cameras.

    Height and width of the graph are opened in memory, so that no border is computed: a frame of
    640x480 is read as 416x320 instead of 416x416. It takes one frame a call; one with an open batch
    axis was tried on 2 cores: the same outputs, and no faster.
    """

    def __init__(
        self, *, min_score: float, threads: int | None = None, max_people: int = MAX_PEOPLE
    ) -> None:
        asset = Path(str(files("mip_edge") / "assets" / ASSET))
        if not asset.is_file():
            raise EngineError(f"{asset.name} is missing from the package; install mip-edge anew")
        description = DetectorDescription(
            kind=Kind.NANODET,
            model=asset,
            person=PERSON,
            classes=CLASSES,
            max_overlap=MAX_OVERLAP,
            input=replace(DEFAULT_INPUTS[Kind.NANODET], width=SIDE, height=SIDE, multiple=MULTIPLE),
        )
        super().__init__(
            description,
            min_score=min_score,
            threads=threads,
            max_people=max_people,
            graph=open_size(asset.read_bytes()),
        )
