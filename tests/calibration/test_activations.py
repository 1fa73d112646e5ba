"""What a calibration sees of the activations, by hand, and that all of it is finite."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from calibration.activations import histograms, largest_by_channel, linear_maps
from calibration.ranges import BINS
from mip_edge.errors import CalibrationError
from tests.calibration.small import ACTIVATION, MAP, make_batch, make_graph

GAIN = np.array([1, -2, 0.5], dtype=np.float32)
WEIGHT = np.ones((3, 2), dtype=np.float32)
BATCHES = [make_batch([[1, 2, 200], [3, 4, 100]]), make_batch([[9, 1, 6]])]


def test_the_maps_of_the_blocks_are_found_and_nothing_else(gpu_graph: onnx.ModelProto) -> None:
    names = ("attention/q", "attention/k", "attention/v", "attention/proj", "mlp/fc1", "mlp/fc2")
    maps = linear_maps(gpu_graph)
    assert set(maps) == {f"blocks.{block}/{name}" for block in (0, 1) for name in names}
    assert all(node.name == f"{path}/MatMul" for path, node in maps.items())


def test_a_product_of_two_activations_is_no_linear_map() -> None:
    graph = make_graph(GAIN, WEIGHT)
    assert list(linear_maps(graph)) == [MAP]
    graph.graph.node[-1].input[1] = "rows"
    assert linear_maps(graph) == {}


def test_the_largest_value_of_each_channel_is_taken_over_all_batches() -> None:
    found = largest_by_channel(make_graph(GAIN, WEIGHT), [ACTIVATION, ACTIVATION], BATCHES)
    assert list(found) == [ACTIVATION]
    assert found[ACTIVATION].tolist() == [9, 8, 100]


def test_a_histogram_counts_every_value_once() -> None:
    graph = make_graph(GAIN, WEIGHT)
    found = histograms(graph, {ACTIVATION: 100.0}, BATCHES)[ACTIVATION]
    seen = [1, 4, 100, 3, 8, 50, 9, 2, 3]
    expected = np.bincount([min(value * BINS // 100, BINS - 1) for value in seen], minlength=BINS)
    assert found.top == 100
    assert found.counts.tolist() == expected.tolist()


def test_a_graph_is_not_changed_by_looking_into_it() -> None:
    graph = make_graph(GAIN, WEIGHT)
    before = graph.SerializeToString()
    largest_by_channel(graph, [ACTIVATION], BATCHES)
    histograms(graph, {ACTIVATION: 100.0}, BATCHES)
    assert graph.SerializeToString() == before


def test_an_activation_that_is_always_zero_lies_in_the_first_bin() -> None:
    graph = make_graph(0 * GAIN, WEIGHT)
    found = histograms(graph, {ACTIVATION: 0.0}, BATCHES)[ACTIVATION]
    assert (found.counts[0], found.counts.sum()) == (9, 9)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_names_its_tensor(value: float) -> None:
    graph = make_graph(np.array([1, value, 1], dtype=np.float32), WEIGHT)
    with pytest.raises(CalibrationError, match=f"^{ACTIVATION} is not finite on"):
        largest_by_channel(graph, [ACTIVATION], BATCHES)


def test_no_crop_at_all_is_an_error() -> None:
    with pytest.raises(CalibrationError, match=r"no crop to calibrate on.*--calibrate"):
        largest_by_channel(make_graph(GAIN, WEIGHT), [ACTIVATION], [])
