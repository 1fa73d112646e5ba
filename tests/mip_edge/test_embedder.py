"""Crops in, embeddings out, in their order, whatever opens the model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from engines.base import Inputs
from engines.fake import FakeBackend, FakeEngine
from mip_edge.embedder import Embedder
from mip_edge.errors import BundleError, EngineError, ImageError, OptionError
from mip_edge.spec import Crop, EmbedderSpec, Embeddings, Modality
from tests.engines.layouts import write_negated, write_unified

LogCapture = pytest.LogCaptureFixture
SPECS = {modality: EmbedderSpec(modality, 8, 4, 16, "abc") for modality in Modality}


def make_crops(count: int) -> list[Crop]:
    rng = np.random.default_rng(5)
    sizes = rng.integers(5, 40, (count, 2))
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture
def fake() -> Embedder:
    engines = {modality: FakeEngine(spec) for modality, spec in SPECS.items()}
    return Embedder(SPECS, engines=engines)


def test_mixed_modalities_keep_the_order_of_the_crops(fake: Embedder) -> None:
    crops = make_crops(5)
    modalities = [Modality.VISIBLE if index % 2 else Modality.INFRARED for index in range(5)]
    mixed = fake.embed(crops, modalities)
    for row, (crop, modality) in enumerate(zip(crops, modalities, strict=True)):
        np.testing.assert_array_equal(mixed[row], fake.embed([crop], modality)[0])


def test_a_long_list_is_embedded_piece_by_piece_alike(fake: Embedder) -> None:
    crops = make_crops(150)
    whole = fake.embed(crops, Modality.VISIBLE)
    assert whole.shape == (150, 16)
    for row in (0, 63, 64, 149):
        np.testing.assert_array_equal(whole[row], fake.embed([crops[row]], Modality.VISIBLE)[0])


def test_zero_crops_give_zero_rows(fake: Embedder) -> None:
    assert fake.embed([], Modality.VISIBLE).shape == (0, 16)
    assert fake.embed([], []).shape == (0, 16)


def test_modalities_that_do_not_fit_the_crops_are_told(fake: Embedder) -> None:
    with pytest.raises(OptionError, match="modality 1 for 2 crops"):
        fake.embed(make_crops(2), [Modality.VISIBLE])
    with pytest.raises(OptionError, match="expected a Modality"):
        fake.embed(make_crops(2), "visible")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="modality 'visible' for 1 crops; expected a Modality"):
        fake.embed(make_crops(1), ["visible"])  # type: ignore[list-item]


def test_an_empty_crop_is_told(fake: Embedder) -> None:
    with pytest.raises(ImageError, match="not empty"):
        fake.embed([np.zeros((0, 4, 3), np.uint8)], Modality.VISIBLE)


def test_one_picture_in_place_of_a_list_is_told_and_not_cut_into_its_rows(fake: Embedder) -> None:
    picture = np.zeros((40, 20, 3), np.uint8)
    with pytest.raises(ImageError, match=r"one picture of shape .* expected a list of crops"):
        fake.embed(picture, Modality.VISIBLE)  # type: ignore[arg-type]
    assert len(fake.embed(picture[None], Modality.VISIBLE)) == 1  # type: ignore[arg-type]


def test_what_opencv_gives_for_an_unreadable_file_is_told(fake: Embedder) -> None:
    with pytest.raises(ImageError, match=r"NoneType came for a crop; expected an array"):
        fake.embed([None], Modality.VISIBLE)  # type: ignore[list-item]


def test_a_modality_without_engine_is_told() -> None:
    spec = SPECS[Modality.VISIBLE]
    embedder = Embedder({Modality.VISIBLE: spec}, engines={Modality.VISIBLE: FakeEngine(spec)})
    with pytest.raises(BundleError, match="no engine for infrared crops here; there is: visible"):
        embedder.embed(make_crops(1), Modality.INFRARED)


def test_a_bundle_and_its_checkpoint_agree(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    crops = make_crops(4)
    modalities = [Modality.VISIBLE, Modality.INFRARED] * 2
    with (
        Embedder.open(tiny_bundle, threads=1) as from_bundle,
        Embedder.open(tiny_checkpoint, engine="torch") as from_checkpoint,
    ):
        assert from_bundle.specs == from_checkpoint.specs
        assert from_bundle.dimension == from_checkpoint.dimension == 240
        assert from_bundle.fingerprint == from_checkpoint.fingerprint
        assert from_bundle.min_similarity == from_checkpoint.min_similarity == 0.5
        np.testing.assert_allclose(
            from_bundle.embed(crops, modalities),
            from_checkpoint.embed(crops, modalities),
            atol=1e-5,
        )


def test_only_the_engine_that_is_needed_is_opened(tiny_bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, copy)
    with Embedder.open(copy, threads=1) as embedder:
        (copy / "infrared.onnx").unlink()
        assert embedder.embed(make_crops(1), Modality.VISIBLE).shape == (1, 240)
        with pytest.raises(EngineError, match=r"infrared\.onnx"):
            embedder.embed(make_crops(1), Modality.INFRARED)


def test_use_after_close_is_an_error(tiny_bundle: Path) -> None:
    embedder = Embedder.open(tiny_bundle, threads=1)
    embedder.embed(make_crops(1), Modality.VISIBLE)
    embedder.close()
    for modality in Modality:
        with pytest.raises(EngineError, match="closed"):
            embedder.embed(make_crops(1), modality)


def test_an_unknown_engine_is_told_when_it_is_opened(tiny_bundle: Path) -> None:
    with pytest.raises(EngineError, match="unknown engine 'tensort'"):
        Embedder.open(tiny_bundle, engine="tensort")


@pytest.fixture(scope="module")
def unified_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_unified(tiny_bundle, tmp_path_factory.mktemp("unified") / "bundle")


def test_both_layouts_embed_alike(tiny_bundle: Path, unified_bundle: Path) -> None:
    crops = make_crops(70)  # more than are prepared at once
    modalities = [Modality.VISIBLE if index % 3 else Modality.INFRARED for index in range(70)]
    with (
        Embedder.open(tiny_bundle, threads=1) as apart,
        Embedder.open(unified_bundle, threads=1) as unified,
    ):
        assert unified.specs == apart.specs
        np.testing.assert_allclose(
            unified.embed(crops, modalities), apart.embed(crops, modalities), atol=1e-5
        )
        for modality in Modality:
            np.testing.assert_allclose(
                unified.embed(crops[:3], modality), apart.embed(crops[:3], modality), atol=1e-5
            )
        assert unified.embed([], []).shape == (0, 240)
        assert unified.embed([], Modality.INFRARED).shape == (0, 240)


def test_a_unified_bundle_is_one_session_and_one_call_of_a_mixed_batch(
    unified_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions, calls = [], []

    class CountingBackend(FakeBackend):
        def __init__(self, specs: Mapping[Modality, EmbedderSpec]) -> None:
            super().__init__(specs)
            sessions.append(self)

        def embed(self, inputs: Inputs) -> Embeddings:
            calls.append(inputs["modality"].tolist())
            return super().embed(inputs)

    monkeypatch.setattr("engines.fake.FakeBackend", CountingBackend)
    visible, infrared = Modality.VISIBLE, Modality.INFRARED
    with Embedder.open(unified_bundle, engine="fake") as embedder:
        embedder.embed(make_crops(3), [infrared, visible, infrared])
        embedder.embed(make_crops(2), infrared)
        embedder.embed(make_crops(2), visible)
    assert len(sessions) == 1
    assert calls[1:] == [[0, 1, 0], [0, 0], [1, 1]]  # the first one warmed it up


def test_use_of_a_unified_bundle_after_close_is_an_error(unified_bundle: Path) -> None:
    embedder = Embedder.open(unified_bundle, engine="fake")
    embedder.embed(make_crops(1), Modality.VISIBLE)
    embedder.close()
    embedder.close()
    with pytest.raises(EngineError, match="closed"):
        embedder.embed(make_crops(1), Modality.VISIBLE)


def test_the_precision_goes_through_to_the_graphs(tiny_bundle: Path, tmp_path: Path) -> None:
    negated = write_negated(tiny_bundle, tmp_path / "bundle")
    crops, modalities = make_crops(2), [Modality.VISIBLE, Modality.INFRARED]
    with (
        Embedder.open(negated, threads=1) as single,
        Embedder.open(negated, threads=1, precision="fp16") as half,
    ):
        np.testing.assert_allclose(
            half.embed(crops, modalities), -single.embed(crops, modalities), atol=1e-6
        )
    with pytest.raises(BundleError, match="holds no fp16 graphs"):
        Embedder.open(tiny_bundle, precision="fp16")


def test_weights_are_shared_by_those_that_can(tiny_bundle: Path, tiny_checkpoint: Path) -> None:
    crops = make_crops(2)
    with (
        Embedder.open(tiny_bundle, threads=1) as plain,
        Embedder.open(tiny_bundle, threads=1, share_weights=True) as sharing,
    ):
        for modality in Modality:
            np.testing.assert_allclose(
                sharing.embed(crops, modality), plain.embed(crops, modality), atol=2e-6
            )
    for path, engine in ((tiny_bundle, "fake"), (tiny_checkpoint, "torch")):
        with pytest.raises(OptionError, match="'share_weights'; choose --engine onnxruntime"):
            Embedder.open(path, engine, share_weights=True)


def test_options_reach_the_engines_of_a_bundle(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def open_nothing(source: object, **opening: object) -> FakeEngine:
        asked.append(opening)
        return FakeEngine(SPECS[Modality.VISIBLE])

    monkeypatch.setattr("mip_edge.embedder.open_engine", open_nothing)
    with Embedder.open(tiny_bundle, "openvino", threads=1, hint="throughput") as embedder:
        embedder.embed(make_crops(1), Modality.VISIBLE)
    plain = {"engine": "openvino", "threads": 1, "precision": "fp32"}
    assert asked == [{**plain, "modality": Modality.VISIBLE, "hint": "throughput"}]
    with pytest.raises(OptionError, match="hint=speed: expected latency, throughput"):
        Embedder.open(tiny_bundle, "openvino", hint="speed")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the choice said; the cache beside it tells lines of its own."""
    return [one.getMessage() for one in caplog.records if one.name == "engines.choice"]


def test_auto_is_settled_once_for_both_modalities(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: LogCapture
) -> None:
    monkeypatch.setenv("MIP_EDGE_CACHE", str(tmp_path / "cache"))
    two_precisions = write_negated(tiny_bundle, tmp_path / "bundle")
    with (
        caplog.at_level(logging.INFO, logger="engines.choice"),
        Embedder.open(two_precisions, precision="auto", threads=1) as embedder,
    ):
        assert len(told(caplog)) == 1
        assert "engine onnxruntime, precision auto: took onnxruntime fp" in told(caplog)[0]
        found = embedder.embed(make_crops(2), [Modality.VISIBLE, Modality.INFRARED])
        assert len(told(caplog)) == 1
    taken = "fp16" if "took onnxruntime fp16" in told(caplog)[0] else "fp32"
    with Embedder.open(two_precisions, precision=taken, threads=1) as plain:
        same = plain.embed(make_crops(2), [Modality.VISIBLE, Modality.INFRARED])
    np.testing.assert_allclose(found, same, atol=1e-6)
