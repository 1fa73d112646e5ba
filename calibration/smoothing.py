"""SmoothQuant folded into a graph exactly: outliers move from activations into weights.

A channel of an activation is divided by a number, the matching row of the weight multiplied by it:
the product stays, and what INT8 must cover becomes flat. The division goes where it costs nothing:
into the gain of the norm before the map, or into the value map before the attention's last one.
Source: Xiao et al., SmoothQuant, arXiv 2211.10438, eq. 4.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibration.activations import linear_maps

logger = logging.getLogger(__name__)

STRENGTH = 0.5
"""How much of an outlier the weights take over; the alpha of the paper."""
_SMALLEST = 1e-5
"""A channel that is nearly always zero is left as it is."""
_MOVING = ("Concat", "Expand", "Gather", "Reshape", "Slice", "Transpose")
"""They hand values on, as many channels as came."""

Channels = Mapping[str, NDArray[np.float64]]
"""Largest absolute value of each channel of an activation, by the tensor's name."""


def inputs_of_maps(graph: onnx.ModelProto) -> dict[str, str]:
    """The activation that each linear map reads, by the map's path."""
    return {path: node.input[0] for path, node in linear_maps(graph).items()}


def smooth(
    graph: onnx.ModelProto, channels: Channels, *, strength: float = STRENGTH
) -> dict[str, NDArray[np.float64]]:
    """Fold the smoothing of all maps but fc2 into the graph, in place; it computes the same.

    Gives what each channel of an activation is divided by, (D,), by the activation's name.

    `channels` must hold every activation that a linear map reads; graphs that share weights take
    the same `channels`. fc2 reads a GELU, through which no factor passes. An attention whose
    values another map makes too keeps its last map as it is, and that is logged.
    """
    smoother = _Smoother(graph, channels, strength)
    smoother.run()
    return smoother.factors


class _Smoother:
    """Rewrites constants of one graph."""

    def __init__(self, graph: onnx.ModelProto, channels: Channels, strength: float) -> None:
        self.graph = graph.graph
        self.maps = linear_maps(graph)
        self.channels, self.strength = channels, strength
        self.factors: dict[str, NDArray[np.float64]] = {}
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.maker = {name: node for node in self.graph.node for name in node.output}

    def run(self) -> None:
        layers = sorted({path.split("/")[0] for path in self.maps})
        for layer in layers:
            self._smooth_norm(layer, ["attention/q", "attention/k", "attention/v"])
            self._smooth_norm(layer, ["mlp/fc1"])
            self._smooth_values(layer)

    def _smooth_norm(self, layer: str, names: list[str]) -> None:
        """Divide what the norm gives, multiply the rows of the maps that read it."""
        paths = [f"{layer}/{name}" for name in names if f"{layer}/{name}" in self.maps]
        if not paths:
            return
        read = {self.maps[path].input[0] for path in paths}
        seen = np.max([self.channels[name] for name in read], axis=0)
        weights = np.max([np.abs(self._weight(path)).max(axis=1) for path in paths], axis=0)
        factors = self._choose(seen, weights)
        self.factors.update(dict.fromkeys(read, factors))
        for path in paths:
            self._replace(self.maps[path], 1, self._weight(path) * factors[:, None])
        for norm in self._norms(read):
            others = self._other_readers(norm, paths)
            if others:
                # The generator reads the norm too, and its maps are one for all layers.
                self._keep_plain(norm, others)
            for place in (1, 2):
                if len(norm.input) > place:
                    value = numpy_helper.to_array(self.constants[norm.input[place]])
                    self._replace(norm, place, value / factors)

    def _smooth_values(self, layer: str) -> None:
        """Divide the columns of the value map and the constant values, multiply proj's rows."""
        value, proj = f"{layer}/attention/v", f"{layer}/attention/proj"
        if value not in self.maps or proj not in self.maps:
            return
        constants = self._constant_values(self.maps[proj].input[0], self.maps[value].name)
        if constants is None:
            logger.info("%s is not smoothed: %s does not make all its values", proj, value)
            return
        weight = self._weight(proj)
        read = self.maps[proj].input[0]
        factors = self._choose(self.channels[read], np.abs(weight).max(axis=1))
        self.factors[read] = factors
        self._replace(self.maps[proj], 1, weight * factors[:, None])
        self._replace(self.maps[value], 1, self._weight(value) / factors)
        for node, place in constants:
            array = numpy_helper.to_array(self.constants[node.input[place]])
            self._replace(node, place, array / factors)

    def _choose(
        self, seen: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """What each channel is divided by, (D,)."""
        usable = (seen > _SMALLEST) & (weights > _SMALLEST)
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = seen**self.strength / weights ** (1 - self.strength)
        return np.where(usable, factors, 1.0)

    def _weight(self, path: str) -> NDArray[np.float64]:
        """Of a linear map, (in, out)."""
        array = numpy_helper.to_array(self.constants[self.maps[path].input[1]])
        return array.astype(np.float64)

    def _norms(self, read: set[str]) -> list[onnx.NodeProto]:
        """The norms whose rows these activations are, directly or joined."""
        found: dict[str, onnx.NodeProto] = {}
        for name in read:
            maker = self.maker[name]
            parts = list(maker.input) if maker.op_type == "Concat" else [name]
            for part in parts:
                norm = self.maker[part]
                assert norm.op_type == "LayerNormalization", norm.name
                found[norm.name] = norm
        return list(found.values())

    def _other_readers(self, norm: onnx.NodeProto, paths: list[str]) -> list[onnx.NodeProto]:
        """Nodes that read the norm and lead to none of the maps."""
        read = {self.maps[path].input[0] for path in paths}
        names = {self.maps[path].name for path in paths}
        return [
            node
            for node in self.graph.node
            if norm.output[0] in node.input
            and node.name not in names
            and not read.intersection(node.output)
        ]

    def _keep_plain(self, norm: onnx.NodeProto, readers: list[onnx.NodeProto]) -> None:
        """Give readers a norm of their own, as it was."""
        plain = onnx.NodeProto()
        plain.CopyFrom(norm)
        plain.name = f"{norm.name.rsplit('/', 1)[0]}/plain/{norm.op_type}"
        plain.output[0] = plain.name
        for node in readers:
            inputs = [plain.name if name == norm.output[0] else name for name in node.input]
            node.input[:] = inputs
        place = next(i for i, node in enumerate(self.graph.node) if node.name == norm.name)
        self.graph.node.insert(place, plain)

    def _constant_values(
        self, attended: str, value: str
    ) -> list[tuple[onnx.NodeProto, int]] | None:
        """Nodes that bring constant rows to the values of an attention, and which of their inputs
        is constant; None if the rest does not come from the node `value` alone."""
        product = self.maker[attended]
        while product.op_type in _MOVING:
            product = self.maker[product.input[0]]
        found = []
        passed = {product.name}
        ahead = [product.input[1]]
        while ahead:
            node = self.maker[ahead.pop()]
            if node.name in passed:
                continue
            passed.add(node.name)
            if node.name == value:
                continue
            if node.op_type not in _MOVING:
                return None
            for place, name in enumerate(node.input[: None if node.op_type == "Concat" else 1]):
                if name in self.constants:
                    found.append((node, place))
                else:
                    ahead.append(name)
        # Whoever else reads these rows would get them divided.
        made = {name for node in self.graph.node if node.name in passed for name in node.output}
        made.discard(product.output[0])
        readers = {node.name for node in self.graph.node if made.intersection(node.input)}
        return found if value in passed and readers <= passed else None

    def _replace(self, node: onnx.NodeProto, place: int, array: NDArray[np.floating]) -> None:
        """Give a node a constant of its own, named by the node."""
        before = self.constants[node.input[place]]
        stem = node.name.rsplit("/", 1)[0]
        kind = "weight" if place == 1 and node.op_type == "MatMul" else f"constant_{place}"
        if node.op_type == "LayerNormalization":
            kind = ("gain", "shift")[place - 1]
        name = f"{stem}/smoothed_{kind}" if node.op_type != "Expand" else f"{node.name}/smoothed"
        made = numpy_helper.from_array(np.ascontiguousarray(array, dtype=np.float32), name)
        if name in self.constants:
            self.constants[name].CopyFrom(made)
            return
        self.graph.initializer.append(made)
        self.constants[name] = self.graph.initializer[-1]
        node.input[place] = name
        if not any(before.name in other.input for other in self.graph.node):
            self.graph.initializer.remove(before)
            del self.constants[before.name]
