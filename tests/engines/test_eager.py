"""PyTorch: autocast, compiling and captured graphs, and what only a GPU can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from engines.table import open_engine  # noqa: E402 - only where torch is
from mip_edge.errors import EngineError, OptionError  # noqa: E402
from mip_edge.model.straight import Straight  # noqa: E402
from mip_edge.spec import Batch, Embeddings, Modality  # noqa: E402

GPU = torch.cuda.is_available()
NO_GPU = "torch finds no NVIDIA GPU"


def make_crops(count: int, seed: int = 7) -> Batch:
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 8, 4, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def embed(checkpoint: Path, crops: Batch, **options: Any) -> Embeddings:
    with open_engine(
        checkpoint, modality=Modality.VISIBLE, engine="torch", threads=1, **options
    ) as engine:
        return engine.embed(crops)


def test_the_published_forward_gives_the_same_with_more_work(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = make_crops(3)
    plain = embed(tiny_checkpoint, crops)
    ran = []
    forward = Straight.forward

    def count(self: Straight, *inputs: Any, **named: Any) -> Any:
        ran.append(True)
        return forward(self, *inputs, **named)

    monkeypatch.setattr(Straight, "forward", count)
    np.testing.assert_allclose(embed(tiny_checkpoint, crops, straight=True), plain, atol=2e-6)
    assert ran


def test_bf16_is_near_float32_but_not_the_same(tiny_checkpoint: Path) -> None:
    crops = make_crops(6)
    exact, half = (embed(tiny_checkpoint, crops, dtype=dtype) for dtype in ("fp32", "bf16"))
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-5)
    assert (exact * half).sum(axis=1).min() > 0.999
    assert np.abs(exact - half).max() > 1e-5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dtype": "fp16"}, "dtype=fp16 is for CUDA, the device is cpu; add device=cuda"),
        ({"cuda_graphs": True}, "cuda_graphs is for CUDA, the device is cpu; add device=cuda"),
        ({"cuda_graphs": True, "device": "mps"}, "cuda_graphs is for CUDA, the device is mps"),
    ],
)
def test_what_only_a_gpu_can_do_is_refused_elsewhere(
    tiny_checkpoint: Path, options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(OptionError, match=expected):
        embed(tiny_checkpoint, make_crops(1), **options)


@pytest.mark.skipif(GPU, reason="this machine has a GPU")
def test_a_gpu_that_is_not_here_is_told(tiny_checkpoint: Path) -> None:
    with pytest.raises(EngineError, match="torch cannot use the device 'cuda'.*device=cpu"):
        embed(tiny_checkpoint, make_crops(1), device="cuda", cuda_graphs=True, dtype="fp16")


def test_what_is_compiled_is_what_runs(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def compile_nothing(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        assert options == {"dynamic": True}

        def run(batch: Any) -> Any:
            sizes.append(len(batch))
            return -function(batch)

        return run

    plain = embed(tiny_checkpoint, make_crops(3))
    monkeypatch.setattr(torch, "compile", compile_nothing)
    np.testing.assert_allclose(
        embed(tiny_checkpoint, make_crops(3), compile=True), -plain, atol=1e-6
    )
    assert sizes == [2, 1, 3]  # compiled when it is opened, then warmed up


def test_a_compiler_that_refuses_is_one_line(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_nothing(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        def run(batch: Any) -> Any:
            raise RuntimeError("no C++ compiler\nmore of it")

        return run

    monkeypatch.setattr(torch, "compile", compile_nothing)
    expected = "cannot compile the network for cpu: no C\\+\\+ compiler. Leave .*compile out$"
    with pytest.raises(EngineError, match=expected):
        embed(tiny_checkpoint, make_crops(1), compile=True)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason=NO_GPU)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_captured_graphs_embed_as_the_cpu_does(tiny_checkpoint: Path, dtype: str) -> None:
    with open_engine(
        tiny_checkpoint, modality=Modality.VISIBLE, engine="torch", device="cuda", dtype=dtype,
        cuda_graphs=True,
    ) as engine:  # fmt: skip
        for count in (3, 8, 3, 1):  # a size that was captured before is replayed on other crops
            crops = make_crops(count, seed=count)
            cosines = (engine.embed(crops) * embed(tiny_checkpoint, crops)).sum(axis=1)
            assert cosines.min() > (0.99999 if dtype == "fp32" else 0.999)
