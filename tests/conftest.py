"""A tiny network with every parameter random, and the bundle it is exported to, made once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from mip_edge.cli import ConsoleHandler
from mip_edge.doctor import PACKAGES

if TYPE_CHECKING:
    import onnx

# The same examples each time, and no clock: what passed here passes on a busy machine too.
# To look further: pytest --hypothesis-profile default
settings.register_profile("mip-edge", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("mip-edge")

CAMERAS = [
    {"name": "gate", "modality": "visible"},
    {"name": "hall", "modality": "visible"},
    {"name": "night", "modality": "infrared"},
]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes to the engine cache of whoever runs it, nor what all tests share."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MIP_EDGE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(autouse=True)
def own_logging() -> None:
    """What a command set up in this process is gone before the next test counts its lines."""
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, ConsoleHandler)]:
        root.removeHandler(handler)
    root.setLevel(logging.WARNING)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.NOTSET)


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


@pytest.fixture(scope="session")
def gpu_graph(tiny_checkpoint: Path) -> onnx.ModelProto:
    """Its visible graph in the form that lower precisions are made of; not to be changed."""
    from export.form import Form
    from export.to_onnx import export_onnx
    from export.wrapper import ExportedMIP
    from mip_edge import checkpoint
    from mip_edge.spec import EmbedderSpec, Modality

    model = checkpoint.load(tiny_checkpoint)
    spec = EmbedderSpec(Modality.VISIBLE, 64, 32, model.options.dimension, "0" * 64)
    module = ExportedMIP(model, Modality.VISIBLE, form=Form().for_gpu())
    return export_onnx(module, spec, metadata={"mip_edge.camera": "none"})


@pytest.fixture(scope="session")
def calibration_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn people in each light, as a folder without parts; not to be changed."""
    from mip_edge.data.image import write_image
    from mip_edge.spec import Modality
    from mip_edge.synthetic.world import sample_crops

    folder = tmp_path_factory.mktemp("calibration") / "crops"
    for modality in Modality:
        (folder / modality.value).mkdir(parents=True)
        for index, crop in enumerate(sample_crops(modality, 12, 5, (64, 32))):
            write_image(folder / modality.value / f"{index:02d}.png", crop)
    return folder


@pytest.fixture(scope="session")
def tiny_int8_bundle(
    tiny_checkpoint: Path, calibration_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same network in INT8, with float16 and with float32 around; not to be changed."""
    from export.bundle import export_bundle
    from export.options import ExportOptions

    path = tmp_path_factory.mktemp("bundle") / "int8"
    options = ExportOptions(fp16=True, int8=True, calibrate=calibration_folder)
    export_bundle(tiny_checkpoint, path, options)
    return path
