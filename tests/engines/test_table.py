"""Opening: what is unknown, what is missing, and what is of the other kind."""

from __future__ import annotations

import inspect
import logging
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from engines.cache import EngineCache
from engines.table import (
    AUTO,
    ENGINES,
    PRECISIONS,
    find_missing,
    open_engine,
    open_unified,
    read_options,
    settle,
)
from mip_edge.artifact import open_bundle
from mip_edge.errors import BundleError, CheckpointError, EngineError, OptionError
from mip_edge.spec import Modality
from tests.engines.layouts import write_negated, write_unified

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIP_EDGE_CACHE", str(tmp_path / "cache"))


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


def test_an_option_of_another_value_is_refused_before_anything_opens(tiny_bundle: Path) -> None:
    expected = "--engine-option provider=gpu: expected cpu, cuda, tensorrt"
    with pytest.raises(OptionError, match=expected):
        open_engine(tiny_bundle, modality=Modality.VISIBLE, provider="gpu")
    with pytest.raises(OptionError, match="has no option 'colour'; the engine fake has none"):
        open_engine(tiny_bundle, modality=Modality.VISIBLE, engine="fake", colour="red")


def test_texts_of_the_command_line_become_values_of_the_engine() -> None:
    texts = ["share_weights=true", "device_id=1"]
    assert read_options("onnxruntime", texts) == {"share_weights": True, "device_id": 1}
    assert read_options(AUTO, []) == {}
    with pytest.raises(OptionError, match="one engine, not to --engine auto"):
        read_options(AUTO, texts)
    with pytest.raises(EngineError, match="unknown engine 'ort'"):
        read_options("ort", texts)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_every_option_of_the_table_is_a_keyword_of_its_backend(engine: str) -> None:
    if missing := find_missing(engine):
        pytest.skip(missing)
    kind = ENGINES[engine]
    opener = getattr(import_module(kind.module), kind.backend).open
    keywords = {
        name for name, parameter in inspect.signature(opener).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }  # fmt: skip
    assert keywords - {"threads", "precision"} == set(kind.options)


def test_a_device_that_torch_does_not_have_is_one_line(tiny_checkpoint: Path) -> None:
    with pytest.raises(EngineError, match="torch cannot use the device 'tpu9'.*device=cpu"):
        open_engine(tiny_checkpoint, modality=Modality.VISIBLE, engine="torch", device="tpu9")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the choice said; the cache beside it tells lines of its own."""
    return [one.getMessage() for one in caplog.records if one.name == "engines.choice"]


def test_auto_says_in_one_line_what_it_took_and_why(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = []
    for _ in range(2):
        caplog.clear()
        with (
            caplog.at_level(logging.INFO, logger="engines.choice"),
            open_engine(tiny_bundle, modality=Modality.INFRARED, engine=AUTO, threads=1) as engine,
        ):
            assert ENGINES[engine.name].automatic
            assert len(told(caplog)) == 1
            lines += told(caplog)
            assert f"took {engine.name} fp32, the fastest at batch 8 (" in lines[-1]
            assert "onnxruntime fp32 " in lines[-1]
            assert " ms a crop" in lines[-1]
    assert lines[0].endswith("; measured now)")
    assert lines[1].endswith("; measured before, delete with: mip-edge cache clear)")


def test_the_only_pair_is_taken_unmeasured(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.INFO, logger="engines.choice"),
        open_engine(tiny_bundle, modality=Modality.VISIBLE, precision=AUTO) as engine,
    ):
        assert engine.name == "onnxruntime"
    assert told(caplog) == [
        "engine onnxruntime, precision auto: took onnxruntime fp32, there is nothing else here"
    ]


def test_auto_measures_every_precision_on_every_engine(tiny_unified_bundle: Path) -> None:
    bundle = open_bundle(tiny_unified_bundle)
    engine, precision = settle(bundle, AUTO, AUTO, threads=1)
    assert ENGINES[engine].automatic
    assert precision in bundle.manifest.precisions
    (entry,) = EngineCache().list()
    for name in ("onnxruntime", "openvino"):
        if find_missing(name) is None:
            for one in ("fp32", "fp16"):
                assert f"{name} {one}" in entry.key.options
    assert settle(bundle, AUTO, AUTO, threads=1) == (engine, precision)
    with open_unified(bundle, engine=AUTO, precision=AUTO, threads=1) as opened:
        assert opened.name == engine


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
    flags = {
        "fp16": "--fp16",
        "int8": "--int8 --calibrate DATA",
        "int8-fp16": "--int8 --fp16 --calibrate DATA",
    }
    assert set(flags) == set(PRECISIONS) - {"fp32"}
    for precision, flag in flags.items():
        way = f"holds no {precision} graphs; it holds: fp32.*export WEIGHTS -o BUNDLE {flag}$"
        for engine in ("onnxruntime", "fake", AUTO):
            with pytest.raises(BundleError, match=way):
                open_engine(
                    tiny_bundle, modality=Modality.VISIBLE, engine=engine, precision=precision
                )


def test_a_checkpoint_runs_in_float32_only(tiny_checkpoint: Path) -> None:
    for precision, flags in (("fp16", "--fp16"), ("int8", "--int8 --calibrate DATA"), (AUTO, "")):
        expected = f"--precision {precision}: the engine torch.*knows fp32 only.*BUNDLE {flags}"
        with pytest.raises(OptionError, match=expected):
            open_engine(
                tiny_checkpoint, modality=Modality.VISIBLE, engine="torch", precision=precision
            )


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
