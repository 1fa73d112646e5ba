"""Opening: what is unknown, what is missing, and what is of the other kind."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from engines.table import AUTO, ENGINES, find_missing, open_engine, open_unified
from mip_edge.errors import BundleError, CheckpointError, EngineError, OptionError
from mip_edge.spec import Modality
from tests.engines.layouts import write_negated, write_unified

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")


def test_an_unknown_engine_lists_the_known(tiny_bundle: Path) -> None:
    with pytest.raises(EngineError, match="'onxruntime'; there are: onnxruntime, .*torch.*auto"):
        open_engine(tiny_bundle, modality=Modality.VISIBLE, engine="onxruntime")


def test_a_missing_runtime_is_told_with_the_way_out(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "engines.ov", raising=False)
    monkeypatch.setattr("engines.table.find_spec", lambda name: None)
    expected = (
        'OpenVINO is not installed. pip install "mip-edge[openvino]", '
        "or choose --engine onnxruntime."
    )
    assert find_missing("openvino") == expected
    with pytest.raises(EngineError) as caught:
        open_engine(tiny_bundle, modality=Modality.VISIBLE, engine="openvino")
    assert str(caught.value) == expected


def test_a_runtime_that_vanishes_at_import_is_told_too(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_nothing(name: str) -> None:
        raise ModuleNotFoundError(
            "No module named 'openvino.properties'", name="openvino.properties"
        )

    monkeypatch.setattr("engines.table.find_missing", lambda engine: None)
    monkeypatch.setattr("engines.table.import_module", import_nothing)
    with pytest.raises(EngineError, match="OpenVINO is not installed"):
        open_engine(tiny_bundle, modality=Modality.VISIBLE, engine="openvino")


def test_an_import_fault_of_our_own_is_not_hidden(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_nothing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'mip_edge.artefact'", name="mip_edge.artefact")

    monkeypatch.setattr("engines.table.import_module", import_nothing)
    with pytest.raises(ModuleNotFoundError, match="artefact"):
        open_engine(tiny_bundle, modality=Modality.VISIBLE)


def test_torch_on_a_bundle_names_the_engine_for_it(tiny_bundle: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder.*choose --engine onnxruntime"):
        open_engine(tiny_bundle, modality=Modality.VISIBLE, engine="torch")


def test_onnxruntime_on_a_checkpoint_says_how_to_export_it(tiny_checkpoint: Path) -> None:
    with pytest.raises(EngineError, match="mip-edge export .*tiny.safetensors.*--engine torch"):
        open_engine(tiny_checkpoint, modality=Modality.VISIBLE)


def test_a_path_that_is_not_there_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        open_engine(tmp_path / "nothing", modality=Modality.VISIBLE)


def test_an_option_of_another_engine_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(OptionError, match="engine onnxruntime has no option 'device'"):
        open_engine(tiny_bundle, modality=Modality.VISIBLE, device="cuda")
    with pytest.raises(OptionError, match="--threads must be at least 1, got 0"):
        open_engine(tiny_bundle, modality=Modality.VISIBLE, threads=0)


def test_a_device_that_torch_does_not_have_is_one_line(tiny_checkpoint: Path) -> None:
    with pytest.raises(EngineError, match="torch cannot use the device 'tpu9'.*--device cpu"):
        open_engine(tiny_checkpoint, modality=Modality.VISIBLE, engine="torch", device="tpu9")


def test_auto_says_in_one_line_what_it_took_and_why(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, logger="engines.table"),
        open_engine(tiny_bundle, modality=Modality.INFRARED, engine="auto", threads=1) as engine,
    ):
        assert ENGINES[engine.name].automatic
        assert len(caplog.records) == 1
        line = caplog.records[0].getMessage()
        assert f"took {engine.name} for infrared crops" in line
        assert "onnxruntime" in line
        assert " ms" in line


@pytest.fixture(scope="module")
def two_precisions(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_negated(tiny_bundle, tmp_path_factory.mktemp("precisions") / "bundle")


@pytest.mark.parametrize(
    "engine", [name for name, kind in ENGINES.items() if kind.runs_graph] + [AUTO]
)
def test_the_graphs_of_the_precision_are_those_that_run(two_precisions: Path, engine: str) -> None:
    if engine != AUTO and (missing := find_missing(engine)):
        pytest.skip(missing)
    embeddings = {}
    for precision in ("fp32", "fp16"):
        with open_engine(
            two_precisions, modality=Modality.INFRARED, engine=engine, precision=precision
        ) as opened:
            batch = np.full((2, *opened.spec.batch_shape), 90, np.uint8)
            embeddings[precision] = opened.embed(batch)
    np.testing.assert_allclose(embeddings["fp16"], -embeddings["fp32"], atol=1e-6)


def test_a_precision_that_the_bundle_lacks_is_told_with_the_way_to_it(tiny_bundle: Path) -> None:
    expected = "holds no fp16 graphs; it holds: fp32.*mip-edge export WEIGHTS -o BUNDLE --fp16"
    for engine in ("onnxruntime", "fake", AUTO):
        with pytest.raises(BundleError, match=expected):
            open_engine(tiny_bundle, modality=Modality.VISIBLE, engine=engine, precision="fp16")


def test_a_checkpoint_runs_in_float32_only(tiny_checkpoint: Path) -> None:
    with pytest.raises(OptionError, match="--precision fp16: the engine torch.*knows fp32 only"):
        open_engine(tiny_checkpoint, modality=Modality.VISIBLE, engine="torch", precision="fp16")


def test_an_engine_that_cannot_share_weights_names_the_one_that_can(tiny_bundle: Path) -> None:
    for engine in ("fake", AUTO):
        with pytest.raises(OptionError, match="'share_weights'; choose --engine onnxruntime"):
            open_engine(tiny_bundle, modality=Modality.VISIBLE, engine=engine, share_weights=True)


def test_one_session_for_both_needs_a_unified_bundle(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="no graph of both modalities.*--layout unified"):
        open_unified(tiny_bundle)
    with pytest.raises(BundleError, match="no graph of both modalities"):
        open_unified(tiny_checkpoint, engine="torch")
    with open_unified(write_unified(tiny_bundle, tmp_path / "one"), engine=AUTO) as engine:
        assert ENGINES[engine.name].automatic
        assert set(engine.specs) == set(Modality)
