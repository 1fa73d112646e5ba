"""What flows into the linear maps of a graph on calibration crops: largest values, histograms."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from calibration.ranges import BINS, Histogram
from engines.ort import open_graph
from mip_edge.errors import CalibrationError

Inputs = Mapping[str, NDArray[Any]]
"""One batch by the names of the graph's inputs: `images`, in a unified graph `modality` too."""

_LINEAR = re.compile(r"^(blocks\.\d+/(?:attention/[qkv]|attention/proj|mlp/fc[12]))/MatMul$")


def linear_maps(graph: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The maps of the blocks that INT8 may compute, by their paths (`blocks.3/attention/q`).

    Patches, instance prompt generator, head and projection are left out: their constants are
    folded, and a few percent of all operations are not worth their error.
    """
    constants = {tensor.name for tensor in graph.graph.initializer}
    found = {}
    for node in graph.graph.node:
        match = _LINEAR.match(node.name)
        if match and node.op_type == "MatMul" and node.input[1] in constants:
            found[match[1]] = node
    return found


def largest_by_channel(
    graph: onnx.ModelProto, tensors: Sequence[str], batches: Iterable[Inputs]
) -> dict[str, NDArray[np.float64]]:
    """Largest absolute value of each last-axis channel of each tensor over all batches, (D,).

    Raises: CalibrationError for a value that is not finite, or without batches.
    """
    found: dict[str, NDArray[np.float64]] = {}

    def take(name: str, values: NDArray[np.float32]) -> None:
        largest = np.abs(values).max(axis=tuple(range(values.ndim - 1))).astype(np.float64)
        if not np.isfinite(largest).all():
            raise CalibrationError(
                f"{name} is not finite on a calibration crop; no INT8 scale can come of it. "
                "Is the checkpoint whole? Check it with: mip-edge evaluate WEIGHTS DATA"
            )
        found[name] = np.maximum(found[name], largest) if name in found else largest

    _run(graph, tensors, batches, take)
    return found


def histograms(
    graph: onnx.ModelProto, tops: Mapping[str, float], batches: Iterable[Inputs]
) -> dict[str, Histogram]:
    """Histograms of absolute values; `tops` are each tensor's largest, as measured before.

    Raises: CalibrationError without batches.
    """
    counts = {name: np.zeros(BINS, dtype=np.int64) for name in tops}

    def take(name: str, values: NDArray[np.float32]) -> None:
        if tops[name] == 0:
            counts[name][0] += values.size
            return
        bins = (np.abs(values).ravel() * np.float32(BINS / tops[name])).astype(np.int32)
        counts[name] += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)

    _run(graph, list(tops), batches, take)
    return {name: Histogram(counts[name], top) for name, top in tops.items()}


def _run(
    graph: onnx.ModelProto,
    tensors: Sequence[str],
    batches: Iterable[Inputs],
    take: Callable[[str, NDArray[np.float32]], None],
) -> None:
    """Hand every tensor of every batch to `take`."""
    told = onnx.ModelProto()
    told.CopyFrom(graph)
    # Without a shape: it is the runtime's to infer.
    told.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(tensors)
    )
    session = open_graph(told.SerializeToString())
    names = list(dict.fromkeys(tensors))
    empty = True
    for batch in batches:
        empty = False
        for name, values in zip(names, session.run(names, dict(batch)), strict=True):
            take(name, values)
    if empty:
        raise CalibrationError(
            "no crop to calibrate on; expected training crops of both lights (--calibrate)"
        )
