"""OpenVINO: streams share a batch; what the device computes wrongly or not at all is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
pytest.importorskip("torch", reason="the tiny bundle is exported with torch")

from engines import ov  # noqa: E402 - only where OpenVINO is
from engines.table import open_engine, open_unified  # noqa: E402
from mip_edge.artifact import open_bundle  # noqa: E402
from mip_edge.errors import EngineError, OptionError  # noqa: E402
from mip_edge.spec import Batch, Modality  # noqa: E402

BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def make_crops(count: int) -> Batch:
    coarse = np.random.default_rng(6).integers(0, 256, (count, 8, 4, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 71])
def test_throughput_splits_a_batch_over_requests_and_keeps_its_order(
    tiny_bundle: Path, count: int
) -> None:
    bundle = open_bundle(tiny_bundle)
    backend = ov.OvBackend.open(
        bundle, Modality.VISIBLE, threads=2, precision="fp32", hint="throughput"
    )
    assert backend.max_batch == 32 * len(backend._requests)
    while len(backend._requests) < 3:  # as on a machine with more cores than this one may have
        compiled = backend._requests[0].get_compiled_model()
        backend._requests.append(compiled.create_infer_request())
    crops = make_crops(count)
    with open_engine(bundle, modality=Modality.VISIBLE, engine="openvino", threads=1) as latency:
        np.testing.assert_allclose(
            backend.embed({"images": crops}), latency.embed(crops), atol=1e-5
        )
    backend.close()


def test_a_mixed_batch_is_split_with_its_modalities(tiny_unified_bundle: Path) -> None:
    modalities = [Modality.INFRARED, Modality.VISIBLE, Modality.VISIBLE] * 3
    crops = make_crops(9)
    crops[::3] = crops[::3, ..., :1]
    found = []
    for hint in ("latency", "throughput"):
        with open_unified(tiny_unified_bundle, engine="openvino", threads=2, hint=hint) as engine:
            found.append(engine.embed(crops, modalities))
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)


@pytest.mark.skipif(not BF16, reason="this processor does not compute bf16")
def test_bf16_is_near_float32_but_not_the_same(tiny_bundle: Path) -> None:
    crops = make_crops(6)
    found = []
    for dtype in ("f32", "bf16"):
        with open_engine(
            tiny_bundle, modality=Modality.VISIBLE, engine="openvino", threads=1, dtype=dtype
        ) as engine:
            found.append(engine.embed(crops))
    cosines = (found[0] * found[1]).sum(axis=1)
    assert cosines.min() > 0.999
    assert np.abs(found[0] - found[1]).max() > 1e-5  # it was computed in bf16


@pytest.mark.skipif(not BF16, reason="this processor does not compute bf16")
def test_bf16_that_is_wrong_is_refused(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ov, "_MIN_COSINE", 1.01)
    with pytest.raises(EngineError, match=r"wrongly in bf16 here: cosine (0\.99|1\.0).*dtype=f32"):
        open_engine(
            tiny_bundle, modality=Modality.VISIBLE, engine="openvino", threads=1, dtype="bf16",
            cache=False,
        )  # fmt: skip


def test_bf16_where_the_device_lacks_it_is_refused(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OldCore:
        available_devices = ("CPU",)

        def get_property(self, device: str, name: str) -> list[str]:
            return {"OPTIMIZATION_CAPABILITIES": ["FP32", "INT8"]}[name]

    monkeypatch.setattr(openvino, "Core", OldCore)
    with pytest.raises(EngineError, match="CPU here does not compute it, only FP32, INT8.*f32"):
        open_engine(tiny_bundle, modality=Modality.VISIBLE, engine="openvino", dtype="bf16")


def test_a_device_that_is_not_here_lists_those_that_are(tiny_bundle: Path) -> None:
    if "NPU" in openvino.Core().available_devices:
        pytest.skip("this machine has an NPU")
    with pytest.raises(EngineError, match="finds no NPU here; it finds: .*CPU.*device=CPU"):
        open_engine(tiny_bundle, modality=Modality.VISIBLE, engine="openvino", device="NPU")


def test_threads_are_for_the_cpu(tiny_bundle: Path) -> None:
    with pytest.raises(OptionError, match="--threads 2 is for device=CPU, not for device=AUTO"):
        open_engine(
            tiny_bundle, modality=Modality.VISIBLE, engine="openvino", device="AUTO", threads=2
        )


def test_a_batch_that_does_not_run_is_one_line(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    backend = ov.OvBackend.open(bundle, Modality.VISIBLE, threads=1, precision="fp32")
    with pytest.raises(EngineError, match=r"cannot run .*visible\.onnx"):
        backend.embed({"images": np.zeros((1, 2, 2, 3), np.uint8)})


CTRL_C = """
import os, signal, sys
from engines.table import open_engine
from mip_edge.spec import Modality

heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
engines = [open_engine(sys.argv[1], modality=m, engine="openvino") for m in Modality]
os.kill(os.getpid(), signal.SIGINT)
for engine in engines:
    engine.close()
os.kill(os.getpid(), signal.SIGINT)
print(len(heard))
"""


def test_ctrl_c_is_heard_while_engines_are_open_and_after_they_closed(tiny_bundle: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CTRL_C, str(tiny_bundle)], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "2"), ran.stderr
