"""Live with an engine on a GPU: frames go up once a tick, and crops never come back."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from engines.cuda import find_no_gpu
from engines.cuda_fake import FakeDevice
from engines.fake import FakeEngine
from engines.gpu_crop import KERNEL, FrameBox, cut_boxes
from engines.plan import read_plan
from engines.table import find_missing
from mip_edge.embedder import Embedder
from mip_edge.errors import EngineError, ImageError
from mip_edge.live.loop import LiveOptions, run_live
from mip_edge.live.need import NeedOptions
from mip_edge.live.options import FILE
from mip_edge.live.source_options import SourceOptions
from mip_edge.live.step import BoxEmbedder, warm_up
from mip_edge.spec import Crop, EmbedderSpec, Embeddings, Modality
from tests.engines import trt_fakes
from tests.engines.test_gpu_crop import fake_kernel
from tests.engines.trt_fakes import FakeTrt, write_plan

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")

NO_GPU = find_no_gpu() or find_missing("tensorrt")
BOXES = [FrameBox(0, 3, 4, 60, 110), FrameBox(1, -5, 0, 30, 40), FrameBox(0, 20, 30, 52, 94)]


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[FakeDevice]:
    made = FakeDevice(name=request.node.nodeid)
    made.kernels[KERNEL] = fake_kernel
    yield made
    assert made.held() == {}


@pytest.fixture
def engine(device: FakeDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """TensorRT, played by stand-ins of the device, the library and its builder."""
    trt = FakeTrt(device)

    def build(graph: Path, options: Any) -> bytes:
        light, _, _ = graph.name.partition(".")
        row = (64, 32, 1 if light == "infrared" else 3)
        return write_plan(row, 240, unified=light == "unified", max_batch=options.max_batch)

    monkeypatch.setenv("MIP_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("engines.table.find_missing", lambda engine: None)
    monkeypatch.setattr("engines.trt.open_device", lambda kind: device)
    monkeypatch.setattr("engines.trt._library", lambda module: trt)
    monkeypatch.setattr("engines.plan.library_version", lambda module: trt_fakes.VERSION)
    monkeypatch.setattr("engines.trt.read_plan", partial(read_plan, build=build))
    return "tensorrt"


def make_frames() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((120, 80, 3), (50, 70, 3))]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the embedder says; building a plan tells of itself."""
    return [one.message for one in caplog.records if one.name == "mip_edge.embedder"]


def check_against_the_host(embedder: Embedder, atol: float) -> None:
    frames = make_frames()
    for modality in Modality:
        found = embedder.embed_boxes(frames, BOXES, modality)
        expected = embedder.embed(cut_boxes(frames, BOXES), modality)
        np.testing.assert_allclose(found, expected, atol=atol)
        assert embedder.embed_boxes(frames, [], modality).shape == (0, embedder.dimension)


@pytest.mark.parametrize("layout", ["tiny_bundle", "tiny_unified_bundle"])
def test_boxes_are_embedded_on_the_gpu_as_their_crops_are_from_the_host(
    engine: str,
    device: FakeDevice,
    layout: str,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bundle: Path = request.getfixturevalue(layout)
    with (
        caplog.at_level(logging.INFO, "mip_edge.embedder"),
        Embedder.open(bundle, engine) as opened,
    ):
        check_against_the_host(opened, 1e-6)
        frames = make_frames()
        launched, uploads = device.count("launch_kernel"), device.count("upload")
        opened.embed_boxes(frames, BOXES, Modality.INFRARED)
        assert device.count("launch_kernel") == launched + 1
        of_both = layout == "tiny_unified_bundle"  # its plan is also told the modality
        assert device.count("upload") == uploads + 2 + of_both
    assert told(caplog) == [f"crops are cut and prepared on the GPU ({device.facts.device})"]


def test_one_cropper_serves_both_modalities_of_one_device(
    engine: str, device: FakeDevice, tiny_bundle: Path
) -> None:
    with Embedder.open(tiny_bundle, engine) as opened:
        warm_up(opened, list(Modality))
        assert device.held()["modules"] == 1


def test_a_gpu_that_refuses_the_kernel_is_told_once_and_embeds_crops_of_the_host(
    engine: str, device: FakeDevice, tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device.failing = lambda call: (
        "cudaErrorUnsupportedPtxVersion" if call == "load_module" else None
    )
    with Embedder.open(tiny_bundle, engine) as opened:
        check_against_the_host(opened, 0.0)
    (line,) = told(caplog)
    assert "crops are cut and prepared on the CPU: cudaErrorUnsupportedPtxVersion" in line
    assert device.count("launch_kernel") == 0


def test_an_engine_on_the_host_cuts_there(caplog: pytest.LogCaptureFixture) -> None:
    specs = {modality: EmbedderSpec(modality, 64, 32, 8, "f" * 64) for modality in Modality}
    engines = {modality: FakeEngine(spec) for modality, spec in specs.items()}
    embedder = Embedder(specs, engines=engines)
    with caplog.at_level(logging.INFO):
        check_against_the_host(embedder, 0.0)
    assert told(caplog) == []
    with pytest.raises(ImageError, match=r"holds no pixel of its frame of 80x120"):
        embedder.embed_boxes(make_frames(), [FrameBox(0, 80, 0, 90, 9)], Modality.VISIBLE)
    embedder.close()
    with pytest.raises(EngineError, match="closed"):
        embedder.embed_boxes(make_frames(), BOXES, Modality.VISIBLE)


class CropsOnly:
    """What a user may write: no more than the protocol asks."""

    fingerprint, dimension, min_similarity = "mine", 2, 0.9

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
        self.shapes += [crop.shape for crop in crops]
        return np.tile(np.array([1, 0], np.float32), (len(crops), 1))


class BoxesToo(CropsOnly):
    """And one that cuts for itself."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, tuple[int, ...]]] = []

    def embed_boxes(
        self, frames: Sequence[NDArray[np.uint8]], boxes: Sequence[FrameBox], modality: Modality
    ) -> Embeddings:
        self.calls.append((len(frames), tuple(box.frame for box in boxes)))
        return super().embed(cut_boxes(frames, boxes), modality)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras of 12 frames, two people who stand still before each; their boxes beside."""
    folder = tmp_path_factory.mktemp("film")
    boxes = "[[20, 20, 60, 110, 0.9], [90, 30, 130, 115, 0.9]]"
    for name in ("gate", "yard"):
        writer = cv2.VideoWriter(
            str(folder / f"{name}.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (160, 120)
        )
        rng = np.random.default_rng(1)
        picture = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (160, 120))
        for _ in range(12):
            writer.write(picture)
        writer.release()
        lines = [f'{{"frame": {index}, "boxes": {boxes}}}' for index in range(12)]
        (folder / f"{name}.boxes.jsonl").write_text("\n".join(lines))
    return folder


def run(film: Path, embedder: Any) -> Any:
    sources = tuple(
        SourceOptions(name, str(film / f"{name}.mp4"), Modality.VISIBLE)
        for name in ("gate", "yard")
    )
    need = NeedOptions(min_quality=0.0)
    options = LiveOptions(sources=sources, detector=FILE, realtime=False, need=need)
    return run_live(options, embedder)


def test_an_embedder_that_takes_crops_alone_gets_them(film: Path) -> None:
    embedder = CropsOnly()
    assert not isinstance(embedder, BoxEmbedder)
    report = run(film, embedder)
    assert report.crops > 0
    assert len(embedder.shapes) == report.crops + 1  # and one to warm up
    assert set(embedder.shapes[1:]) <= {(90, 40, 3), (85, 40, 3)}


def test_an_embedder_that_takes_boxes_gets_each_frame_once(film: Path) -> None:
    embedder, plain = BoxesToo(), CropsOnly()
    run(film, embedder)
    run(film, plain)
    assert embedder.shapes == plain.shapes
    (warm, *calls) = embedder.calls
    assert warm == (1, (0,))
    assert (2, (0, 1, 0, 1)) in calls
    assert all(frames == len(set(places)) for frames, places in calls)


class OnHost:
    """Hides of an embedder that it can cut."""

    def __init__(self, embedder: Embedder) -> None:
        self.fingerprint, self.dimension = embedder.fingerprint, embedder.dimension
        self.min_similarity, self.embed = embedder.min_similarity, embedder.embed


def test_a_live_run_on_the_gpu_finds_whom_the_host_finds(
    engine: str, device: FakeDevice, tiny_bundle: Path, film: Path
) -> None:
    with Embedder.open(tiny_bundle, engine) as opened:
        on_host = run(film, OnHost(opened))
        assert device.count("launch_kernel") == 0
        on_gpu = run(film, opened)
        assert device.count("launch_kernel") > 1
    assert (on_gpu.crops, on_gpu.identities) == (on_host.crops, on_host.identities)
    assert on_gpu.crops > 0


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU is not None, reason=str(NO_GPU))
def test_a_real_gpu_embeds_boxes_as_the_host_does(tiny_bundle: Path) -> None:
    with Embedder.open(tiny_bundle, "tensorrt") as opened:
        check_against_the_host(opened, 0.02)  # one grey level, through an untrained network
