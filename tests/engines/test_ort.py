"""ONNX Runtime: the provider that was asked for runs, or none does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from engines.ort import OrtBackend
from engines.table import open_engine
from mip_edge.artifact import Bundle, open_bundle
from mip_edge.errors import EngineError, OptionError
from mip_edge.spec import Modality

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")

GPU = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


def open_provider(bundle: Bundle, provider: str, **options: Any) -> OrtBackend:
    return OrtBackend.open(
        bundle, Modality.VISIBLE, threads=1, precision="fp32", provider=provider, **options
    )


class StandIn:
    """A session as ONNX Runtime makes it where the GPU's libraries do not load."""

    asked: Any = None
    fallback: Any = None
    runs: tuple[str, ...] = ("CPUExecutionProvider",)

    def __init__(self, path: str, options: Any, *, providers: Any, enable_fallback: int) -> None:
        StandIn.asked, StandIn.fallback = providers, enable_fallback

    def get_providers(self) -> list[str]:
        return list(self.runs)


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """A GPU build of ONNX Runtime, by its face."""
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", StandIn)
    monkeypatch.setattr(StandIn, "runs", ("CPUExecutionProvider",))
    return StandIn


@pytest.mark.skipif(GPU, reason="this ONNX Runtime has CUDA")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_built_in_is_refused(bundle: Bundle, provider: str) -> None:
    expected = "has no (CUDA|Tensorrt)ExecutionProvider; it has: .*CPU.*onnxruntime-gpu.*=cpu"
    with pytest.raises(EngineError, match=expected):
        open_provider(bundle, provider)


def test_a_provider_that_was_dropped_is_refused(bundle: Bundle, gpu_build: type[StandIn]) -> None:
    expected = "dropped CUDAExecutionProvider and would run .*visible.onnx on CPUExecutionProvider"
    with pytest.raises(EngineError, match=expected):
        open_provider(bundle, "cuda")
    assert gpu_build.fallback == 0


def test_the_session_is_asked_for_the_gpu_by_its_number(
    bundle: Bundle, gpu_build: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_build, "runs", ("CUDAExecutionProvider", "CPUExecutionProvider"))
    open_provider(bundle, "cuda", device_id=2).close()
    assert gpu_build.asked == [("CUDAExecutionProvider", {"device_id": "2", "use_tf32": "0"})]
    monkeypatch.setattr(gpu_build, "runs", ("TensorrtExecutionProvider", "CPUExecutionProvider"))
    open_provider(bundle, "tensorrt").close()
    assert gpu_build.asked == [("TensorrtExecutionProvider", {"device_id": "0"})]


def test_options_of_the_gpu_are_refused_on_the_cpu_and_the_other_way(
    bundle: Bundle, gpu_build: type[StandIn]
) -> None:
    with pytest.raises(OptionError, match="device_id=0 is for a GPU; add provider=cuda"):
        open_provider(bundle, "cpu", device_id=0)
    with pytest.raises(OptionError, match="share_weights is for provider=cpu, not for cuda"):
        open_provider(bundle, "cuda", share_weights=True)


def test_a_graph_that_opens_but_does_not_run_is_one_line(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_provider(bundle, "cpu")
    wrong = {"images": np.zeros((1, 2, 2, 3), np.uint8)}
    with pytest.raises(EngineError, match=r"cannot run .*visible\.onnx: .*\[ONNXRuntimeError\]"):
        backend.embed(wrong)


def test_memory_that_has_run_out_is_left_to_the_command_line(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 9")

    backend = open_provider(bundle, "cpu")
    monkeypatch.setattr(backend._session, "run", refuse)
    with pytest.raises(RuntimeError, match="Failed to allocate memory"):
        backend.embed({"images": np.zeros((1, 64, 32, 3), np.uint8)})


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="this ONNX Runtime has no CUDA")
def test_cuda_embeds_as_the_cpu_does(tiny_bundle: Path) -> None:
    with (
        open_engine(tiny_bundle, modality=Modality.VISIBLE) as reference,
        open_engine(tiny_bundle, modality=Modality.VISIBLE, provider="cuda") as engine,
    ):
        batch = np.random.default_rng(1).integers(0, 256, (5, 64, 32, 3), np.uint8)
        np.testing.assert_allclose(engine.embed(batch), reference.embed(batch), atol=1e-4)
