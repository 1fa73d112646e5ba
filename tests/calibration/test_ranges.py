"""The range of an activation, on histograms that can be worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration import ranges
from calibration.ranges import (
    LEVELS,
    METHODS,
    Entropy,
    Histogram,
    Method,
    MinMax,
    Mse,
    Percentile,
    method_of,
)
from mip_edge.errors import CalibrationError, OptionError


def histogram(*counts: int, top: float | None = None) -> Histogram:
    """Bins of width one, if nothing else is said."""
    return Histogram(np.array(counts, dtype=np.int64), len(counts) if top is None else top)


def bell(bins: int = 2048, width: float = 130.0) -> np.ndarray:
    """The absolute values of a normal distribution, a million in its first bin."""
    return (1e6 * np.exp(-((np.arange(bins) / width) ** 2) / 2)).astype(np.int64)


def lost(found: Histogram, threshold: float) -> float:
    """Squared error of all values when INT8 covers `threshold`."""
    step = threshold / LEVELS
    kept = np.minimum(np.round(found.centres / step), LEVELS) * step
    return float(np.sum(found.counts * (found.centres - kept) ** 2))


def test_min_max_covers_all_that_was_seen() -> None:
    assert MinMax().threshold(histogram(90, 9, 0, 1, top=2.5)) == 2.5


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_bins_that_only_the_other_light_fills_change_nothing(method: Method) -> None:
    """Both lights share their bins; of each alone, what lies above its largest value is empty."""
    alone = Histogram(bell(1024), 8.0)
    beside = Histogram(np.concatenate([alone.counts, np.zeros(1024, dtype=np.int64)]), 16.0)
    alone.counts[-1] = beside.counts[1023] = 1
    assert (alone.largest, beside.largest) == (8, 8)
    assert method.threshold(beside) == pytest.approx(method.threshold(alone))


@pytest.mark.parametrize(
    ("percent", "threshold"), [(50, 1), (90, 1), (90.5, 2), (99, 2), (99.5, 4), (100, 4)]
)
def test_a_percentile_ends_with_the_bin_that_completes_it(percent: float, threshold: float) -> None:
    assert Percentile(percent).threshold(histogram(90, 9, 0, 1)) == threshold


def test_mse_weighs_rounding_against_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels 0 and t; three values at 3/2, one at 7/2. Squared errors, by the threshold t:

    4: 3 (3/2)^2 + (1/2)^2 = 7;  3: 3 (3/2)^2 + (1/2)^2 = 7;  2: 3 (1/2)^2 + (3/2)^2 = 3;
    1: 3 (1/2)^2 + (5/2)^2 = 7.
    """
    monkeypatch.setattr(ranges, "LEVELS", 1)
    monkeypatch.setattr(ranges, "_CANDIDATES", 4)
    assert Mse().threshold(histogram(0, 3, 0, 1)) == 2
    assert Mse().threshold(histogram(0, 0, 0, 1)) == 4  # 1/4 at 4 and at 3: the larger


def test_mse_loses_no_more_than_any_threshold_that_it_tries() -> None:
    found = Histogram(bell(width=60.0), 7.0)
    chosen = Mse().threshold(found)
    tried = [lost(found, found.largest * part / 128) for part in range(1, 129)]
    assert lost(found, chosen) == min(tried)
    assert chosen < 7.0  # there is nothing above six widths


def test_entropy_counts_what_its_steps_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps. With 4 bins of 4, 0, 8, 1 the steps hold 4 and 9: P = (4, 0, 8, 1) / 13 against
    Q = (4, 0, 9/2, 9/2) / 13. With 3, what is clipped joins the last: P = (4, 0, 9) / 13 against
    Q = (4, 0, 8) / 12, a hundred times less."""
    monkeypatch.setattr(ranges, "LEVELS", 2)
    monkeypatch.setattr(ranges, "_CANDIDATES", 4)
    found = histogram(4, 0, 8, 1)
    four = 8 / 13 * math.log(8 / 4.5) + 1 / 13 * math.log(1 / 4.5)
    three = 4 / 13 * math.log(4 / 13 * 12 / 4) + 9 / 13 * math.log(9 / 13 * 12 / 8)
    assert ranges._divergence(found.counts, 4) == pytest.approx(four)
    assert ranges._divergence(found.counts, 3) == pytest.approx(three)
    assert Entropy().threshold(found) == 3
    assert Entropy().threshold(histogram(1, 1, 1, 1)) == 4  # nothing is hidden: all is kept


def test_entropy_clips_a_single_far_outlier_and_min_max_does_not() -> None:
    counts = bell()
    counts[-1] = 1
    found = Histogram(counts, 2048.0)
    assert 2 * 130 < Entropy().threshold(found) < 6 * 130
    assert Percentile(99.99).threshold(found) < 6 * 130
    assert MinMax().threshold(found) == 2048


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=300).filter(any),
    st.floats(1e-3, 1e4),
    st.sampled_from(METHODS),
)
def test_a_range_is_above_zero_and_no_larger_than_what_was_seen(
    counts: list[int], top: float, method: Method
) -> None:
    assert 0 < method.threshold(histogram(*counts, top=top)) <= top * (1 + 1e-12)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_an_activation_that_is_always_zero_has_no_range(method: Method) -> None:
    assert method.threshold(histogram(5, 0, 0, top=0.0)) == 0
    assert method.threshold(histogram(0, 0, 0, top=2.0)) in (0, 2)


@pytest.mark.parametrize("top", [float("nan"), float("inf"), -1.0])
def test_a_largest_value_that_cannot_be_is_refused(top: float) -> None:
    with pytest.raises(CalibrationError, match="must be finite, got"):
        histogram(1, top=top)


def test_methods_are_found_by_the_names_of_the_command_line() -> None:
    names = ["min-max", "percentile", "entropy", "mse"]
    assert [method_of(name) for name in names] == list(METHODS)
    assert method_of("percentile").name == "percentile 99.99"
    with pytest.raises(OptionError, match="one of min-max, percentile, entropy, mse, got 'best'"):
        method_of("best")


@pytest.mark.parametrize("percent", [0, -1, 100.1, float("nan")])
def test_a_percentile_that_cannot_be_is_refused(percent: float) -> None:
    with pytest.raises(OptionError, match="above 0 and at most 100"):
        Percentile(percent)
