"""The one contract, on every engine of the table and every layout of a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engines.base import Engine
from engines.parity import compare
from engines.table import ENGINES, find_missing, open_engine, open_unified
from mip_edge.errors import EngineError
from mip_edge.spec import Batch, Modality
from tests.engines.layouts import write_unified

pytest.importorskip("torch", reason="the tiny bundle is exported with torch")


LAYOUTS = ("per-modality", "unified", "exported-unified", "int8")
"""The second is written by hand from the graphs of the first: it must equal them exactly."""
HELD = {"exported-unified": ("fp16",), "int8": ("int8", "int8-fp16")}
"""Precisions that a bundle holds beside float32."""
CASES = [
    (name, layout, precision)
    for name, kind in ENGINES.items()
    for layout in (LAYOUTS if kind.opens == "bundle" else ("checkpoint",))
    for precision in ("fp32", *(HELD.get(layout, ()) if kind.runs_graph else ()))
]
TOLERANCES = {"fp32": 1e-5, "fp16": 2e-3, "int8": 2e-2, "int8-fp16": 2e-2}
"""How much an embedding may differ with the crops beside it: kernels depend on the batch."""
COSINES = {"fp32": 0.99999, "fp16": 0.9999, "int8": 0.99, "int8-fp16": 0.99}
"""At least, with PyTorch in float32."""


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    chosen: tuple[str, str, str] = request.param
    return chosen


@pytest.fixture(scope="module")
def precision(case: tuple[str, str, str]) -> str:
    return case[2]


@pytest.fixture(scope="module")
def tolerance(precision: str) -> float:
    return TOLERANCES[precision]


@pytest.fixture(scope="module")
def engine_name(case: tuple[str, str, str]) -> str:
    name = case[0]
    missing = find_missing(name)
    if missing is not None:
        pytest.skip(missing)
    return name


@pytest.fixture(scope="module", params=list(Modality), ids=lambda modality: modality.value)
def modality(request: pytest.FixtureRequest) -> Modality:
    chosen: Modality = request.param
    return chosen


@pytest.fixture(scope="module")
def unified_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_unified(tiny_bundle, tmp_path_factory.mktemp("unified") / "bundle")


@pytest.fixture(scope="module")
def source(
    case: tuple[str, str, str],
    tiny_bundle: Path,
    unified_bundle: Path,
    tiny_unified_bundle: Path,
    tiny_int8_bundle: Path,
    tiny_checkpoint: Path,
) -> Path:
    places = {
        "per-modality": tiny_bundle,
        "unified": unified_bundle,
        "exported-unified": tiny_unified_bundle,
        "int8": tiny_int8_bundle,
        "checkpoint": tiny_checkpoint,
    }
    return places[case[1]]


@pytest.fixture(scope="module")
def engine(engine_name: str, source: Path, modality: Modality, precision: str) -> Iterator[Engine]:
    with open_engine(
        source, modality=modality, engine=engine_name, threads=1, precision=precision
    ) as opened:
        yield opened


def make_batch(engine: Engine, count: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 4, engine.spec.channels), dtype=np.uint8)
    return coarse.repeat(engine.spec.height // 8, axis=1).repeat(engine.spec.width // 4, axis=2)


def test_the_spec_is_that_of_the_checkpoint(engine: Engine, modality: Modality) -> None:
    assert engine.spec.modality is modality
    assert engine.spec.batch_shape == (64, 32, modality.channels)
    assert engine.spec.dimension == 5 * 48
    assert len(engine.spec.fingerprint) == 64


def test_embeddings_are_float32_rows_of_unit_length(engine: Engine) -> None:
    embeddings = engine.embed(make_batch(engine, 3))
    assert embeddings.shape == (3, engine.spec.dimension)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_zero_crops_give_zero_rows(engine: Engine) -> None:
    embeddings = engine.embed(make_batch(engine, 0))
    assert embeddings.shape == (0, engine.spec.dimension)
    assert embeddings.dtype == np.float32


def test_a_batch_beyond_the_maximum_is_split_and_keeps_its_order(
    engine: Engine, tolerance: float
) -> None:
    batch = make_batch(engine, 37)
    whole = engine.embed(batch)
    assert whole.shape == (37, engine.spec.dimension)
    for row in (0, 31, 32, 36):
        np.testing.assert_allclose(
            engine.embed(batch[row : row + 1])[0], whole[row], atol=tolerance
        )


def test_different_crops_differ_and_equal_crops_agree(engine: Engine, tolerance: float) -> None:
    batch = make_batch(engine, 2)
    embeddings = engine.embed(np.concatenate([batch, batch[:1]]))
    np.testing.assert_allclose(embeddings[0], embeddings[2], atol=tolerance)
    assert np.abs(embeddings[0] - embeddings[1]).max() > 1e-3


def test_what_embed_returns_belongs_to_the_caller(engine: Engine) -> None:
    first = engine.embed(make_batch(engine, 2, seed=1))
    kept = first.copy()
    engine.embed(make_batch(engine, 2, seed=2))
    np.testing.assert_array_equal(first, kept)
    first[:] = 0  # it can be written, and the engine does not see it
    np.testing.assert_allclose(engine.embed(make_batch(engine, 2, seed=1)), kept, atol=1e-6)


def test_a_batch_that_is_not_contiguous_is_read_right(engine: Engine, tolerance: float) -> None:
    batch = make_batch(engine, 4)
    backwards = engine.embed(batch[::-1])
    np.testing.assert_allclose(backwards, engine.embed(batch)[::-1], atol=tolerance)


def test_wrong_shape_type_and_channels_are_named(engine: Engine) -> None:
    height, width, channels = engine.spec.batch_shape
    expected = rf"takes uint8 of shape \(N, {height}, {width}, {channels}\)"
    wrong = {
        r"float32 of shape \(1, 64, 32": np.zeros((1, height, width, channels), np.float32),
        r"uint8 of shape \(1, 32, 64": np.zeros((1, width, height, channels), np.uint8),
        r"uint8 of shape \(1, 64, 32, 4": np.zeros((1, height, width, 4), np.uint8),
        r"uint8 of shape \(64, 32": np.zeros((height, width, channels), np.uint8),
        "list": [np.zeros((height, width, channels), np.uint8)],
    }
    for came, batch in wrong.items():
        with pytest.raises(EngineError, match=f"^images: {came}.*{expected}.*prepare"):
            engine.embed(batch)  # type: ignore[arg-type]


def test_parity_with_torch(
    engine: Engine, modality: Modality, precision: str, tiny_checkpoint: Path
) -> None:
    if engine.name == "fake":
        pytest.skip("the fake runs no network")
    batch = make_batch(engine, 12)
    with open_engine(tiny_checkpoint, modality=modality, engine="torch", threads=1) as reference:
        assert reference.spec == engine.spec
        parity = compare(reference.embed(batch), engine.embed(batch))
    assert parity.smallest_cosine >= COSINES[precision]
    # INT8 may swap two neighbours that are nearly as near.
    assert parity.top1_agreement >= (1 if precision.startswith("fp") else 0.75)
    assert parity.crops == 12


def test_use_after_close_is_an_error(engine_name: str, source: Path, modality: Modality) -> None:
    engine = open_engine(source, modality=modality, engine=engine_name, threads=1)
    batch = make_batch(engine, 1)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match=f"{engine_name} engine is closed"):
        engine.embed(batch)


@pytest.fixture(params=[name for name, kind in ENGINES.items() if kind.opens == "bundle"])
def bundle_engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    missing = find_missing(name)
    if missing is not None:
        pytest.skip(missing)
    return name


def test_a_mixed_batch_is_what_each_modality_is_alone(
    bundle_engine: str, unified_bundle: Path
) -> None:
    modalities = [Modality.VISIBLE if row % 3 else Modality.INFRARED for row in range(37)]
    infrared = np.array([modality is Modality.INFRARED for modality in modalities])
    with open_unified(unified_bundle, engine=bundle_engine, threads=1) as engine:
        visible = engine.specs[Modality.VISIBLE]
        rng = np.random.default_rng(4)
        batch = rng.integers(0, 256, (37, *visible.batch_shape), np.uint8)
        batch[infrared] = batch[infrared][..., :1]
        mixed = engine.embed(batch, modalities)
        assert engine.embed(batch[:0], []).shape == (0, visible.dimension)
    for modality, rows in ((Modality.VISIBLE, ~infrared), (Modality.INFRARED, infrared)):
        with open_engine(
            unified_bundle, modality=modality, engine=bundle_engine, threads=1
        ) as alone:
            own = batch[rows][..., : modality.channels]
            np.testing.assert_allclose(mixed[rows], alone.embed(own), atol=1e-5)


def test_a_mixed_batch_that_does_not_fit_is_told(bundle_engine: str, unified_bundle: Path) -> None:
    light = [Modality.INFRARED, Modality.VISIBLE]
    engine = open_unified(unified_bundle, engine=bundle_engine, threads=1)
    batch = np.zeros((2, *engine.specs[Modality.VISIBLE].batch_shape), np.uint8)
    with pytest.raises(EngineError, match=r"uint8 of shape \(2, 64, 32, 1\) came.*prepare_mixed"):
        engine.embed(batch[..., :1], light)
    with pytest.raises(EngineError, match="1 modalities came for 2 crops"):
        engine.embed(batch, light[:1])
    batch[1, 0, 0, 2] = 9  # a visible crop may be coloured
    engine.embed(batch, light)
    batch[0, 5, 5, 2] = 9
    with pytest.raises(EngineError, match="infrared crop came whose three channels differ"):
        engine.embed(batch, light)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.embed(batch, light)


@pytest.mark.parametrize("layout", ["per-modality", "unified"])
def test_sharing_weights_changes_no_embedding(
    layout: str, modality: Modality, tiny_bundle: Path, unified_bundle: Path
) -> None:
    bundle = tiny_bundle if layout == "per-modality" else unified_bundle
    with (
        open_engine(bundle, modality=modality, threads=1) as plain,
        open_engine(bundle, modality=modality, threads=1, share_weights=True) as sharing,
    ):
        batch = make_batch(plain, 3)
        np.testing.assert_allclose(sharing.embed(batch), plain.embed(batch), atol=2e-6)
