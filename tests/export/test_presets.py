"""Every preset at every stride: the float32 file gives what the published forward gives, and base
costs less than half of its published operations."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks are made with torch")
onnxruntime = pytest.importorskip("onnxruntime", reason="graphs run in it")

from export.cost import count_cost  # noqa: E402
from export.to_onnx import export_onnx  # noqa: E402
from export.wrapper import ExportedMIP  # noqa: E402
from mip_edge.model.mip import MIP  # noqa: E402
from mip_edge.model.options import MIPOptions  # noqa: E402
from mip_edge.model.straight import Straight  # noqa: E402
from mip_edge.spec import EmbedderSpec, Modality  # noqa: E402

LIMIT = 2e-6
MOST = {12: 17_700_000_000, 16: 9_700_000_000}
"""Multiply-accumulates of base that the export may take, for the queries tested here."""


@pytest.mark.parametrize(
    ("preset", "stride", "queries", "modality"),
    [
        ("tiny", 12, "zero", Modality.VISIBLE),
        ("tiny", 12, "learnable", Modality.INFRARED),
        ("tiny", 16, "zero", Modality.INFRARED),
        ("tiny", 16, "learnable", Modality.VISIBLE),
        ("small", 12, "zero", Modality.INFRARED),
        ("small", 16, "learnable", Modality.VISIBLE),
        ("base", 12, "learnable", Modality.VISIBLE),
        ("base", 16, "zero", Modality.INFRARED),
    ],
)
def test_the_file_gives_what_the_published_forward_gives(
    preset: str, stride: int, queries: str, modality: Modality
) -> None:
    torch.manual_seed(5)
    options = MIPOptions.preset(preset, stride=stride, instance_queries=queries, cameras=2)
    model = MIP(options).eval()
    camera = options.sie_coefficient * torch.randn(options.width)
    spec = EmbedderSpec(modality, *options.image_size, options.dimension, "random")
    graph = export_onnx(ExportedMIP(model, modality, {modality: camera}), spec, metadata={})
    if preset == "base":
        assert count_cost(graph).macs <= MOST[stride]
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = torch.randint(0, 256, (2, *spec.batch_shape), dtype=torch.uint8)
    (found,) = session.run(["embeddings"], {"images": images.numpy()})
    del graph, session
    pixels = (images.permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        raw = Straight(model.double())(
            pixels.expand(-1, 3, -1, -1),
            torch.full((2,), modality.row),
            camera_vector=camera.double(),
        )
    expected = torch.nn.functional.normalize(raw, dim=1).numpy()
    assert np.abs(found - expected).max() <= LIMIT
