"""Scales of graphs that share weights: smoothed alike, with one range for both lights or each."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.activations import Inputs, largest_by_channel, linear_maps
from calibration.ranges import BINS, Histogram, MinMax
from calibration.scales import CalibrationOptions, Source, _join, calibrate
from calibration.smoothing import inputs_of_maps
from mip_edge.errors import CalibrationError, OptionError
from tests.calibration.small import ACTIVATION, make_batch, make_graph

GAIN = np.array([1, -2, 0.5], dtype=np.float32)
WEIGHT = np.ones((3, 2), dtype=np.float32)


def copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(graph.SerializeToString())


def sources(graph: onnx.ModelProto, batch: Inputs) -> dict[str, Source]:
    """Two graphs of one network, one of which sees dark crops."""
    dark = {"images": batch["images"] // 4}
    return {"bright": Source(copy(graph), [batch]), "dark": Source(copy(graph), [dark])}


@pytest.mark.parametrize("ranges", ["joint", "each"])
def test_the_range_is_of_both_lights_or_of_each(
    gpu_graph: onnx.ModelProto, batch: Inputs, ranges: str
) -> None:
    given = sources(gpu_graph, batch)
    found = calibrate(given, CalibrationOptions(method=MinMax(), ranges=ranges))
    read = list(inputs_of_maps(gpu_graph).values())
    tops = {  # of the graphs as they are now, smoothed
        name: {
            tensor: float(largest.max())
            for tensor, largest in largest_by_channel(one.graph, read, one.batches).items()
        }
        for name, one in given.items()
    }
    assert tops["bright"] != tops["dark"]
    joint = {tensor: max(one[tensor] for one in tops.values()) for tensor in read}
    if ranges == "joint":
        assert found["bright"] == found["dark"]
        tops = dict.fromkeys(tops, joint)
    for name, expected in tops.items():
        assert set(found[name]) == set(expected)
        for tensor, threshold in found[name].items():
            # Both lights share bins; rounded up to the width of one.
            width = joint[tensor] / BINS
            assert -1e-5 * width <= threshold - expected[tensor] + 1e-6 <= width + 2e-6


def test_smoothing_is_one_for_both_whatever_the_ranges(
    gpu_graph: onnx.ModelProto, batch: Inputs
) -> None:
    given = sources(gpu_graph, batch)
    calibrate(given, CalibrationOptions(method=MinMax(), ranges="each"))
    one, two = (source.graph.SerializeToString() for source in given.values())
    assert one == two
    assert one != gpu_graph.SerializeToString()


def test_without_smoothing_a_graph_stays_as_it_is(
    gpu_graph: onnx.ModelProto, batch: Inputs
) -> None:
    given = sources(gpu_graph, batch)
    calibrate(given, CalibrationOptions(smoothing=0.0, method=MinMax()))
    for source in given.values():
        assert source.graph.SerializeToString() == gpu_graph.SerializeToString()


def test_a_range_never_exceeds_what_was_seen(gpu_graph: onnx.ModelProto, batch: Inputs) -> None:
    given = {"one": Source(copy(gpu_graph), [batch])}
    (found,) = calibrate(given, CalibrationOptions()).values()  # mse
    graph = given["one"].graph
    tops = largest_by_channel(graph, list(found), [batch])
    assert set(found) == set(inputs_of_maps(graph).values())
    for tensor, threshold in found.items():
        assert 0 < threshold <= tops[tensor].max() * (1 + 1e-9)
    assert any(threshold < tops[tensor].max() for tensor, threshold in found.items())


def test_histograms_of_two_graphs_are_added_bin_by_bin() -> None:
    first, second = Histogram(np.array([1, 0, 3]), 2.0), Histogram(np.array([4, 5, 0]), 2.0)
    joined = _join([{"a": second}, {"a": first}])["a"]
    assert (joined.top, joined.counts.tolist()) == (2, [5, 5, 3])


def test_a_source_without_crops_is_refused(gpu_graph: onnx.ModelProto, batch: Inputs) -> None:
    given = {**sources(gpu_graph, batch), "none": Source(copy(gpu_graph), [])}
    with pytest.raises(CalibrationError, match="no crop to calibrate on"):
        calibrate(given, CalibrationOptions())


def test_a_value_that_is_not_finite_names_its_tensor() -> None:
    graph = make_graph(np.array([1, np.nan, 1], dtype=np.float32), WEIGHT)
    with pytest.raises(CalibrationError, match=f"{ACTIVATION} is not finite"):
        calibrate({"one": Source(graph, [make_batch([[1, 2, 3]])])}, CalibrationOptions())


def test_a_weight_that_is_not_finite_is_found_behind_the_map_that_holds_it(
    gpu_graph: onnx.ModelProto, batch: Inputs
) -> None:
    broken = copy(gpu_graph)
    name = linear_maps(broken)["blocks.0/attention/proj"].input[1]
    held = next(one for one in broken.graph.initializer if one.name == name)
    array = numpy_helper.to_array(held).copy()
    array[0, 0] = np.nan
    held.CopyFrom(numpy_helper.from_array(array, name))
    with pytest.raises(CalibrationError, match=r"^blocks\.0/mlp/norm/.* is not finite on"):
        calibrate({"one": Source(broken, [batch])}, CalibrationOptions())


def test_graphs_of_one_map_are_calibrated_by_hand() -> None:
    graph = make_graph(GAIN, WEIGHT)
    given = {"one": Source(graph, [make_batch([[1, 2, 3], [7, 1, 90]])])}
    found = calibrate(given, CalibrationOptions(smoothing=0.0, method=MinMax()))
    assert found == {"one": {ACTIVATION: 45.0}}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"crops": 1}, "--calibration-crops must be at least 2, one of each light, got 1"),
        ({"smoothing": 1.0}, "--smoothing must be at least 0 and below 1, got 1.0"),
        ({"smoothing": -0.1}, "--smoothing must be at least 0"),
        ({"smoothing": float("nan")}, "--smoothing must be at least 0"),
        ({"ranges": "both"}, "--ranges must be joint or each, got 'both'"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_names_its_flag(given: dict[str, float], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        CalibrationOptions(**given)  # type: ignore[arg-type]
