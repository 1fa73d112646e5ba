"""Each point of the line is timed in turn with float32, and two sessions are open at a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="an export needs torch")

from calibration.sensitivity import Sensitivity
from engines.base import Inputs
from export import int8_speed
from export.int8 import Point
from mip_edge.spec import Modality

MILLISECONDS = {"float32": 80.0, "keep": 16.0, "keep a": 32.0}
"""Of a call on eight crops."""


class Backend:
    """Takes the time of its graph by a clock that stands still otherwise."""

    now = 0.0
    opened: list[str]
    calls: list[str]

    def __init__(self, graph: str, specs: object) -> None:
        self.graph = "float32" if isinstance(graph, onnx.ModelProto) else graph
        assert len(Backend.opened) < 2
        Backend.opened.append(self.graph)

    def embed(self, inputs: Inputs) -> None:
        assert inputs["images"].shape == (8, 4, 2, 3)
        Backend.calls.append(self.graph)
        Backend.now += MILLISECONDS[self.graph] / 1000

    def close(self) -> None:
        Backend.opened.remove(self.graph)


def test_points_are_timed_in_turn_with_float32_and_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backend, "opened", [], raising=False)
    monkeypatch.setattr(Backend, "calls", [], raising=False)
    monkeypatch.setattr(int8_speed, "MemoryBackend", Backend)
    monkeypatch.setattr(
        int8_speed, "quantize", lambda graph, found, keep: " ".join(["keep", *keep])
    )
    examined = SimpleNamespace(batch=np.zeros((3, 4, 2, 3), dtype=np.uint8))
    work = SimpleNamespace(
        files={"visible.onnx": (Modality.VISIBLE,)},
        specs={Modality.VISIBLE: None},
        examinations={Modality.VISIBLE: examined},
    )
    quantized = SimpleNamespace(
        smooth={"visible.onnx": onnx.ModelProto()},
        thresholds={"visible.onnx": {}},
        sensitivity=[Sensitivity("a", 0.2), Sensitivity("b", 0.1)],
        points=[Point(0, 0.9, 0.3), Point(1, 0.5, 0.1)],
        kept=("a",),
    )
    timed = int8_speed.time_points(work, quantized, clock=lambda: Backend.now)  # type: ignore[arg-type]
    assert [one.chosen for one in timed] == [False, True]
    assert [one.float32_ms for one in timed] == pytest.approx([10, 10])
    assert [one.milliseconds for one in timed] == pytest.approx([2, 4])
    assert [one.speedup for one in timed] == pytest.approx([5, 2.5])
    assert Backend.calls == [*["float32", "keep"] * 8, *["float32", "keep a"] * 8]
    assert Backend.opened == []
