"""A tiny network with every parameter random, and the bundle it is exported to, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

CAMERAS = [
    {"name": "gate", "modality": "visible"},
    {"name": "hall", "modality": "visible"},
    {"name": "night", "modality": "infrared"},
]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Width 48, three heads, two layers, 64x32 crops, three cameras, learnable queries."""
    import torch

    from mip_edge import checkpoint
    from mip_edge.model.mip import MIP
    from mip_edge.model.options import MIPOptions

    torch.manual_seed(11)
    options = MIPOptions(
        width=48,
        heads=3,
        depth=4,
        image_size=(64, 32),
        cameras=3,
        prompt_length=4,
        instance_queries="learnable",
    )
    model = MIP(options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    training = {"data": "none: random weights", "licence": "CC0-1.0"}
    checkpoint.save(model, path, cameras=CAMERAS, training=training, min_similarity=0.5)
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `tiny_checkpoint`, as `mip-edge export` makes it; not to be changed."""
    from export.bundle import export_bundle

    path = tmp_path_factory.mktemp("bundle") / "tiny"
    export_bundle(tiny_checkpoint, path)
    return path


@pytest.fixture(scope="session")
def tiny_unified_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network in the layout `unified`, with float16 too; not to be changed."""
    from export.bundle import export_bundle
    from export.options import ExportOptions

    path = tmp_path_factory.mktemp("bundle") / "unified"
    export_bundle(tiny_checkpoint, path, ExportOptions(layout="unified", fp16=True))
    return path
