"""Each map alone: what it loses is found, and the switches give what the quantized graph gives."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibration.activations import Inputs, linear_maps
from calibration.quantize import quantize
from calibration.sensitivity import (
    Switchboard,
    loss_of,
    measure_losses,
    rate_maps,
    round_weight,
)
from mip_edge.spec import Embeddings
from tests.calibration.test_quantize import embed

FLIPS = 0.25
"""Share of what INT8 moves an embedding that numbers on the edge between two steps may move it."""


@pytest.fixture(scope="module")
def board(gpu_graph: onnx.ModelProto, thresholds: Mapping[str, float]) -> Switchboard:
    return Switchboard(gpu_graph, thresholds)


def test_no_map_on_is_the_float32_graph(
    board: Switchboard, gpu_graph: onnx.ModelProto, batch: Inputs
) -> None:
    assert np.abs(board.embed(batch) - embed(gpu_graph, batch)).max() <= 2e-6


def check_near(found: Embeddings, quantized: Embeddings, plain: Embeddings) -> None:
    moved = np.linalg.norm(quantized - plain)
    assert moved > 1e-4
    assert np.linalg.norm(found - quantized) <= FLIPS * moved


def test_all_maps_on_is_the_quantized_graph(
    board: Switchboard, gpu_graph: onnx.ModelProto, thresholds: Mapping[str, float], batch: Inputs
) -> None:
    quantized = embed(quantize(gpu_graph, thresholds), batch)
    check_near(board.embed(batch, board.paths), quantized, board.embed(batch))


def test_one_map_on_is_the_graph_with_all_others_kept(
    board: Switchboard, gpu_graph: onnx.ModelProto, thresholds: Mapping[str, float], batch: Inputs
) -> None:
    path = "blocks.0/mlp/fc2"
    others = [one for one in linear_maps(gpu_graph) if one != path]
    quantized = embed(quantize(gpu_graph, thresholds, keep=others), batch)
    check_near(board.embed(batch, [path]), quantized, board.embed(batch))


def test_a_call_forgets_the_switches_of_the_last(board: Switchboard, batch: Inputs) -> None:
    before = board.embed(batch)
    board.embed(batch, board.paths)
    assert (board.embed(batch) == before).all()


def test_the_map_whose_weights_are_ruined_is_rated_worst(
    gpu_graph: onnx.ModelProto, thresholds: Mapping[str, float], batch: Inputs
) -> None:
    """A hidden number that is always zero gets a weight of a thousand: nothing changes, but the
    scale of every output channel is now that of a weight that never counts."""
    path, before = "blocks.1/mlp/fc2", "blocks.1/mlp/fc1"
    ruined = onnx.ModelProto.FromString(gpu_graph.SerializeToString())
    held = {one.name: one for one in ruined.graph.initializer}
    maps = linear_maps(ruined)

    def change(name: str, place: tuple[object, ...], value: float) -> None:
        array = numpy_helper.to_array(held[name]).copy()
        array[place] = value
        held[name].CopyFrom(numpy_helper.from_array(array, name))

    change(maps[before].input[1], (slice(None), 5), 0)
    change(f"{before}/bias", (5,), 0)
    change(maps[path].input[1], (5, slice(None)), 0)
    whole = embed(ruined, batch)
    change(maps[path].input[1], (5, slice(None)), 1000)
    assert np.abs(embed(ruined, batch) - whole).max() <= 2e-6
    rated = rate_maps([(Switchboard(ruined, thresholds), [batch])], list(maps))
    assert rated[0].path == path
    assert rated[0].loss > 10 * rated[1].loss
    assert {one.path for one in rated} == set(maps)
    assert [one.loss for one in rated] == sorted((one.loss for one in rated), reverse=True)


def test_a_loss_is_taken_over_the_crops_of_all_boards(
    board: Switchboard, gpu_graph: onnx.ModelProto, thresholds: Mapping[str, float], batch: Inputs
) -> None:
    """The second board's ranges are useless: half of the crops lose nothing more, half all."""
    wide = {name: 100 * value for name, value in thresholds.items()}
    parts = [
        {one.path: one.loss for one in rate_maps([(each, [batch])], board.paths)}
        for each in (board, Switchboard(gpu_graph, wide))
    ]
    two = [(board, [batch]), (Switchboard(gpu_graph, wide), [batch])]
    both = rate_maps(two, board.paths)
    assert len(both) == len(board.paths)
    for one in both:
        expected = (parts[0][one.path] + parts[1][one.path]) / 2
        assert one.loss == pytest.approx(expected, abs=1e-6)


def test_boards_of_a_generator_are_taken_one_after_the_other(batch: Inputs) -> None:
    """Each is asked for all choices before the next is made: two would not fit into memory."""
    alive: list[str] = []

    class Board:
        def __init__(self, name: str, moved: Embeddings) -> None:
            self.name, self.moved = name, moved

        def embed(self, batch: Inputs, quantized: Collection[str] = ()) -> Embeddings:
            alive.append(self.name)
            return self.moved if quantized else np.array([[1, 0]], dtype=np.float32)

    def make() -> Iterator[tuple[Board, list[Inputs]]]:
        for name, moved in (("one", [[0.6, 0.8]]), ("two", [[0.0, 1.0]])):
            alive.append(f"make {name}")
            yield Board(name, np.array(moved, dtype=np.float32)), [batch]

    losses = measure_losses(make(), {0: {"a", "b"}, 1: {"b"}, 2: set()})  # type: ignore[arg-type]
    assert losses == pytest.approx({0: (0.4 + 1) / 2, 1: (0.4 + 1) / 2, 2: 0})
    assert alive == ["make one", *["one"] * 4, "make two", *["two"] * 4]


def test_the_loss_of_embeddings_by_hand() -> None:
    reference = np.array([[1, 0], [0, 1]], dtype=np.float32)
    found = np.array([[0.6, 0.8], [0, 1]], dtype=np.float32)
    assert loss_of([(reference, found)]) == pytest.approx(1 - (0.6 + 1) / 2)
    assert loss_of([(reference, reference)]) == 0
    assert loss_of([(reference[:1], found[:1]), (reference[1:], found[1:])]) == pytest.approx(0.2)


def test_an_embedding_that_is_not_finite_is_as_far_as_can_be() -> None:
    reference = np.array([[1, 0], [0, 1]], dtype=np.float32)
    assert loss_of([(reference, np.full((2, 2), np.nan, dtype=np.float32))]) == 2


def test_a_weight_is_rounded_to_127_steps_of_its_output_channel() -> None:
    weight = np.array([[127, 0, 0.5], [-63.4, 0, 0.1]], dtype=np.float32)
    step = 0.5 / 127
    expected = [[127, 0, 0.5], [-63, 0, round(0.1 / step) * step]]
    np.testing.assert_allclose(round_weight(weight), expected, rtol=1e-6)
