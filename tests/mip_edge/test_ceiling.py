"""The ceiling of matrix products, by a clock of our own and by ONNX's own checker."""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime
import pytest

from mip_edge import ceiling as module
from mip_edge.ceiling import PRODUCTS, Ceiling, join_ceilings, measure_ceilings, write_product


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_file_written_by_hand_is_an_onnx_file_that_multiplies(precision: str) -> None:
    product = PRODUCTS[precision]
    rng = np.random.default_rng(3)
    left = rng.integers(0, 200, (2, 300)).astype(product.left)  # 300: a length of two bytes
    right = rng.integers(-100, 100, (300, 5)).astype(product.right)
    content = write_product(product, right, 2)
    onnx = pytest.importorskip("onnx", reason="its checker comes with [train]")
    onnx.checker.check_model(onnx.load_model_from_string(content), full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    [result] = session.run(None, {"left": left})
    assert result.dtype == product.result
    assert (result == left.astype(np.int64) @ right.astype(np.int64)).all()


def test_the_fastest_call_of_the_best_size_is_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.0)  # four calls of each
    durations = {"small": [4, 2, 8, 8], "large": [12, 16, 30, 12]}
    of_each = [*durations["small"], *durations["large"]]
    steps = [step for one in (*of_each, *(2 * one for one in of_each)) for step in (0, one)]
    readings = itertools.accumulate(steps)
    found = measure_ceilings(1, sizes=((1, 2, 3), (3, 4, 5)), clock=lambda: next(readings))
    # 6 products in 2 seconds against 60 in 12
    assert found["fp32"] == Ceiling("fp32", 5.0, "MatMul", (3, 4, 5))
    assert found["int8"] == Ceiling("int8", 2.5, "MatMulInteger", (3, 4, 5))


def test_of_two_measurements_the_higher_counts_for_each_kind() -> None:
    first = {name: Ceiling(name, speed, "x", (1, 1, 1)) for name, speed in (("a", 1), ("b", 4))}
    second = {name: Ceiling(name, speed, "x", (1, 1, 1)) for name, speed in (("a", 2), ("b", 3))}
    joined = join_ceilings(first, second)
    assert {name: one.macs_s for name, one in joined.items()} == {"a": 2, "b": 4}


def test_a_machine_has_a_ceiling_of_both_kinds() -> None:
    found = measure_ceilings(1, sizes=((32, 64, 32),))
    assert set(found) == {"fp32", "int8"}
    assert all(one.macs_s > 0 for one in found.values())
