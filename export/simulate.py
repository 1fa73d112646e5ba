"""What float16 costs, by measuring: a graph as a GPU computes it, and what must stay float32."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.ort import open_graph
from engines.parity import cosines
from export.half import KINDS, MOVING, PRODUCTS, convert, kept_names, named, tensor_types, to_half
from export.options import MIN_COSINE_FP16
from mip_edge.errors import OptionError, ParityError
from mip_edge.spec import Batch, Embeddings

logger = logging.getLogger(__name__)

CHUNK = 8
"""Crops a run; the first chunks decide what costs most, and a try ends at the first that fails."""
_KINDS_BY_COST: tuple[tuple[str, ...], ...] = ((), ("norm",), ("norm", "residual"))
"""By launches counted on TensorRT-RTX plans. `softmax` is not among them: between two float16
products it gives the same numbers."""
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


@dataclass(frozen=True, slots=True)
class HalfReport:
    """A float16 graph that passes, and how it was found."""

    graph: onnx.ModelProto
    """The converted graph."""
    keep: tuple[str, ...]
    """Words of `to_half` for what stays float32, the final normalisation aside."""
    smallest_cosine: float
    """Simulated as a GPU computes it, against the reference."""
    tried: tuple[tuple[tuple[str, ...], float], ...]
    """Each `keep` in order with its smallest cosine up to where it failed; NaN: not finite."""


def find_kept(
    graph: onnx.ModelProto,
    batch: Batch,
    reference: Embeddings,
    *,
    rows: NDArray[np.int64] | None = None,
    start: Sequence[str] = (),
    min_cosine: float = MIN_COSINE_FP16,
) -> HalfReport:
    """The cheapest float16 form of a float32 graph whose smallest cosine is at least `min_cosine`.

    `batch` (N, H, W, C) uint8 and its `reference` (N, D); `rows` (N,) is the `modality` input of a
    unified graph; `start` is kept in every try. Tried in turn: nothing, kinds of nodes, then as few
    parts such as `blocks.7/mlp` as pass, those first that cost most when they alone are float16 and
    at most half of all, and last all but the products.
    Raises: ParityError if none passes, or if the float32 graph itself does not.
    """
    search = _Search(graph, batch, reference, rows, min_cosine)
    whole = search.measure(graph)
    if not whole >= min_cosine:
        raise ParityError(
            f"the float32 graph itself has smallest cosine {whole:.6f} with its reference, before "
            f"it is made float16; expected at least {min_cosine} (--min-cosine-fp16)"
        )
    words = search.find(tuple(start))
    if words is not None:
        return HalfReport(search.half, words, dict(search.tried)[words], tuple(search.tried))
    keep, best = max(search.tried, key=lambda one: -1.0 if np.isnan(one[1]) else one[1])
    raise ParityError(
        f"float16 reaches smallest cosine {best:.7f} (1 - {1 - best:.1e}) at best, with "
        f"{', '.join(keep) or 'nothing'} in float32; expected at least {min_cosine} "
        "(--min-cosine-fp16). Lower it, or export without --fp16"
    )


def simulate(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A float16 graph in float32, every float16 tensor rounded to float16 where it is stored.

    Sums inside an operator, and the mean and variance of LayerNormalization (its `stash_type`),
    are in float32, as in a GPU's kernels; its gain and bias apply to the rounded values, as ONNX
    says and TensorRT does. What passes 65504 becomes infinite.
    ONNX Runtime itself is no judge: on a CPU it computes most of a float16 graph in float32, and
    drops the roundings between (at every optimisation level, 1.32 keeps 2049 and 77952).
    """
    types = tensor_types(graph)
    weights = [
        numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        if tensor.data_type == _HALF
        else tensor
        for tensor in graph.graph.initializer
    ]
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        halves = {name for name in node.output if types.get(name) == _HALF}
        if node.op_type == "LayerNormalization" and halves:
            parts, unit = _norm_in_steps(node, weights)
            weights.append(unit)
        else:
            parts = [onnx.NodeProto()]
            parts[0].CopyFrom(node)
        for part in parts:
            nodes.append(part)
            for attribute in part.attribute:
                if part.op_type == "Cast" and attribute.name == "to" and attribute.i == _HALF:
                    attribute.i = _FLOAT
            if part.op_type not in MOVING and (halves or len(parts) > 1):
                nodes.extend(_rounded(part))
    simulated = helper.make_graph(
        nodes, graph.graph.name, graph.graph.input, graph.graph.output, weights
    )
    return helper.make_model(
        simulated, opset_imports=graph.opset_import, ir_version=graph.ir_version
    )


def open_plain(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session of a graph with its weights inside that runs every node as it stands."""
    # No optimisation: every rounding stays where it is.
    return open_graph(graph.SerializeToString(), optimise=False)


class _Search:
    """Measures one float16 form after the other, and remembers."""

    def __init__(
        self,
        graph: onnx.ModelProto,
        batch: Batch,
        reference: Embeddings,
        rows: NDArray[np.int64] | None,
        min_cosine: float,
    ) -> None:
        if len(batch) == 0 or len(batch) != len(reference):
            raise OptionError(
                f"{len(batch)} crops and {len(reference)} reference embeddings came; "
                "expected as many of one as of the other, at least 1"
            )
        self.graph, self.half = graph, graph
        self.batch, self.reference, self.rows = batch, reference, rows
        self.min_cosine = min_cosine
        self.tried: list[tuple[tuple[str, ...], float]] = []

    def find(self, start: tuple[str, ...]) -> tuple[str, ...] | None:
        """The first words that pass, the cheapest tried first; parts are rated if it comes so far.

        `half` is then the graph made with them.
        """
        present = {word for word in KINDS if named(self.graph, word)}
        kinds = [_joined(start, words) for words in _KINDS_BY_COST if present.issuperset(words)]
        for words in kinds:
            if self.passes(words):
                return words
        for base in dict.fromkeys((start, kinds[-1])):
            found = self._fewest_parts(base)
            if found is not None:
                return found
        last = _joined(start, ("all-but-products",))
        return last if self.passes(last) else None

    def _fewest_parts(self, base: tuple[str, ...]) -> tuple[str, ...] | None:
        """`base` and as few of the costliest parts as pass, at most half of all."""
        parts, lost = self._parts_by_cost(base)
        low, high = max(lost, 1), max(len(parts) // 2, 1)
        if low > high:
            return None
        if self.passes(_joined(base, parts[:low])):
            return _joined(base, parts[:low])
        low += 1
        if low > high or not self.passes(_joined(base, parts[:high])):
            return None
        found = self.half
        while low < high:
            count = (low + high) // 2
            if self.passes(_joined(base, parts[:count])):
                high, found = count, self.half
            else:
                low = count + 1
        self.half = found
        return _joined(base, parts[:high])

    def passes(self, keep: tuple[str, ...]) -> bool:
        """Measure one try; the graph that passed is `half`."""
        self.half = to_half(self.graph, keep)
        smallest = self.measure(simulate(self.half))
        self.tried.append((keep, smallest))
        logger.info(
            "float16, with %s in float32: smallest cosine %.6f",
            ", ".join(keep) or "nothing more",
            smallest,
        )
        return smallest >= self.min_cosine

    def measure(self, graph: onnx.ModelProto, chunks: int | None = None) -> float:
        """Smallest cosine over the crops, up to the first chunk that fails; NaN if not finite."""
        session = open_plain(graph)
        smallest = 1.0
        for first in range(0, len(self.batch), CHUNK)[:chunks]:
            part = slice(first, first + CHUNK)
            given: dict[str, NDArray[np.generic]] = {"images": self.batch[part]}
            if self.rows is not None:
                given["modality"] = self.rows[part]
            (embeddings,) = session.run(["embeddings"], given)
            found = cosines(self.reference[part], embeddings)
            smallest = float(np.minimum(smallest, found.min()))  # a NaN stays one
            if not smallest >= self.min_cosine:
                return smallest
        return smallest

    def _parts_by_cost(self, base: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
        """Parts that hold products, those first that move the first crops most when they alone,
        without what `base` keeps, are float16; and how many of them give no finite embedding."""
        nodes = self.graph.graph.node
        names, kept = {node.name for node in nodes}, kept_names(self.graph, base)
        costs = {}
        for part in sorted({_part(node.name) for node in nodes if node.op_type in PRODUCTS}):
            others = {name for name in names if _part(name) != part}
            alone = self.measure(simulate(convert(self.graph, others | kept)), chunks=1)
            costs[part] = np.inf if np.isnan(alone) else 1.0 - alone
        parts = tuple(sorted(costs, key=lambda part: (-costs[part], part)))
        return parts, sum(np.isinf(cost) for cost in costs.values())


def _part(name: str) -> str:
    """`blocks.7/mlp` of a node inside it; the first name of the path outside the blocks."""
    path = name.split("/")
    return "/".join(path[:2]) if path[0].startswith("blocks.") else path[0]


def _joined(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return (*first, *(word for word in second if word not in first))


def _rounded(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Two casts behind a node, which gives its first output anew under the name it had."""
    name = node.output[0]
    exact, half = f"{name}/exact", f"{name}/half"
    node.output[0] = exact
    return [
        helper.make_node("Cast", [exact], [half], to=_HALF),
        helper.make_node("Cast", [half], [name], to=_FLOAT),
    ]


def _norm_in_steps(
    node: onnx.NodeProto, weights: Sequence[TensorProto]
) -> tuple[list[onnx.NodeProto], TensorProto]:
    """LayerNormalization without gain, then the gain, then the bias; and the gain of ones."""
    shape = next(tuple(one.dims) for one in weights if one.name == node.input[1])
    name = node.output[0]
    unit = numpy_helper.from_array(np.ones(shape, np.float32), f"{name}/ones")
    norm = onnx.NodeProto()
    norm.CopyFrom(node)
    del norm.input[1:], norm.output[1:]
    norm.input.append(unit.name)
    steps = [norm]
    for operator, constant in zip(("Mul", "Add"), node.input[1:], strict=False):
        before = f"{name}/before_{operator.lower()}"
        steps[-1].output[0] = before
        steps.append(helper.make_node(operator, [before, constant], [name]))
    return steps, unit
