"""What INT8 costs, one linear map at a time: each is quantized alone, and its loss is told."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calibration.activations import Inputs, linear_maps
from calibration.ranges import LEVELS
from engines.ort import open_graph
from mip_edge.spec import Embeddings

Choice = TypeVar("Choice", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What one linear map loses when it alone runs in INT8."""

    path: str
    """Such as `blocks.3/mlp/fc2`."""
    loss: float
    """1 minus the mean cosine with float32 over the crops."""


class Switchboard:
    """A graph whose linear maps are quantized or not, call by call, without a new session.

    Activations pass Q and DQ behind a switch; a weight is an input of the graph that is given
    rounded to INT8 where it is wanted so. INT8 products are exact sums of integers, so what comes
    is what an INT8 engine gives, but for the rounding of float32 sums.
    """

    def __init__(self, graph: onnx.ModelProto, thresholds: Mapping[str, float]) -> None:
        maps = linear_maps(graph)
        constants = {tensor.name: tensor for tensor in graph.graph.initializer}
        self.paths = list(maps)
        self._weights = {path: node.input[1] for path, node in maps.items()}
        self._rounded = {
            path: round_weight(numpy_helper.to_array(constants[node.input[1]]))
            for path, node in maps.items()
        }
        self._session = open_graph(_switched(graph, thresholds).SerializeToString())

    def embed(self, batch: Inputs, quantized: Collection[str] = ()) -> Embeddings:
        """(N, D) with the maps of `quantized` in INT8 and all others in float32."""
        given = dict(batch)
        for path in self.paths:
            given[f"{path}/switch"] = np.array(path in quantized)
        for path in quantized:
            given[self._weights[path]] = self._rounded[path]
        embeddings: Embeddings = self._session.run(["embeddings"], given)[0]
        return embeddings


def rate_maps(
    boards: Iterable[tuple[Switchboard, Sequence[Inputs]]], paths: Sequence[str]
) -> list[Sensitivity]:
    """Every linear map alone in INT8, over the batches of all boards; the worst comes first."""
    losses = measure_losses(boards, {path: {path} for path in paths})
    rated = [Sensitivity(path, loss) for path, loss in losses.items()]
    return sorted(rated, key=lambda one: (-one.loss, one.path))


def measure_losses(
    boards: Iterable[tuple[Switchboard, Sequence[Inputs]]],
    choices: Mapping[Choice, Collection[str]],
) -> dict[Choice, float]:
    """What each choice of maps in INT8 loses, over the batches of all boards.

    The boards are those of graphs with the same maps, taken one after the other: where they come
    from a generator, one is in memory at a time.
    """
    pairs: dict[Choice, list[tuple[Embeddings, Embeddings]]] = {one: [] for one in choices}
    for board, batches in boards:
        for batch in batches:
            plain = board.embed(batch)
            for choice, paths in choices.items():
                pairs[choice].append((plain, board.embed(batch, paths)))
    return {choice: loss_of(found) for choice, found in pairs.items()}


def loss_of(pairs: Sequence[tuple[Embeddings, Embeddings]]) -> float:
    """1 minus the mean cosine of unit embeddings, batches of (reference, found); 0 to 2.

    What is not finite is as far as can be.
    """
    alike = np.concatenate([np.sum(first * second, axis=1) for first, second in pairs])
    alike = np.where(np.isfinite(alike), alike, -1.0)
    # In float64, and never below nothing: float32 rounds a cosine of one to either side.
    return max(0.0, 1.0 - float(alike.mean(dtype=np.float64)))


def round_weight(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """A weight (in, out) as INT8 holds it: symmetric, one scale for each output channel."""
    step = np.abs(weight).max(axis=0, keepdims=True) / np.float32(LEVELS)
    step = np.where(step > 0, step, np.float32(1))
    rounded: NDArray[np.float32] = (np.round(weight / step) * step).astype(np.float32)
    return rounded


def _switched(graph: onnx.ModelProto, thresholds: Mapping[str, float]) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    names = {node.name: path for path, node in linear_maps(graph).items()}
    shapes = {tensor.name: tensor.dims for tensor in graph.graph.initializer}
    zero = numpy_helper.from_array(np.array(0, dtype=np.int8), "switch/zero_point")
    copied.graph.initializer.append(zero)
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        path = names.get(node.name)
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        if path is not None:
            threshold = thresholds[node.input[0]]
            step = np.array(threshold / LEVELS if threshold > 0 else 1.0, dtype=np.float32)
            copied.graph.initializer.append(numpy_helper.from_array(step, f"{path}/switch/scale"))
            scale = [f"{path}/switch/scale", zero.name]
            stored, back, chosen = (f"{path}/switch/{name}" for name in ("q", "dq", "chosen"))
            nodes += [
                helper.make_node("QuantizeLinear", [node.input[0], *scale], [stored], name=stored),
                helper.make_node("DequantizeLinear", [stored, *scale], [back], name=back),
                helper.make_node(
                    "Where", [f"{path}/switch", back, node.input[0]], [chosen], name=chosen
                ),
            ]
            changed.input[0] = chosen
            switch = helper.make_tensor_value_info(f"{path}/switch", TensorProto.BOOL, [])
            # An initializer that is an input too can be given another value in a call.
            weight = node.input[1]
            held = helper.make_tensor_value_info(weight, TensorProto.FLOAT, list(shapes[weight]))
            copied.graph.input.extend([switch, held])
        nodes.append(changed)
    del copied.graph.node[:]
    copied.graph.node.extend(nodes)
    return copied
