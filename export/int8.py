"""INT8 graphs of an export: scales, what each map costs, and as many maps in INT8 as pass the gate.

Everything in a bundle is the same from one export to the next; times are measured for
`--int8-report` alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from calibration.activations import Inputs, linear_maps
from calibration.crops import CalibrationCrop, list_crops
from calibration.quantize import quantize
from calibration.scales import Source, calibrate
from calibration.sensitivity import Sensitivity, Switchboard, measure_losses, rate_maps
from export.cost import count_products
from export.in_memory import inputs_of
from export.int8_crops import calibration_batches
from export.int8_gate import examine_graphs
from export.work import INT8, Examined, Work, modalities_of
from mip_edge.errors import ParityError
from mip_edge.spec import Modality

logger = logging.getLogger(__name__)

RECORD_NAME = "calibration.json"
_RATED_CROPS = 6
"""Crops of each light that sensitivity is measured on."""
_DIGITS = 6
_WORST_TOLD = 5


@dataclass(frozen=True, slots=True)
class Point:
    """What it costs and brings to keep the worst `kept` maps out of INT8."""

    kept: int
    share: float
    """Of all multiply-accumulates that run in INT8."""
    loss: float
    """1 minus the mean cosine with float32."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """INT8 graphs that passed, and all that was found on the way."""

    graphs: dict[str, onnx.ModelProto]
    """By the names of the float32 graphs."""
    smooth: Mapping[str, onnx.ModelProto]
    """The float32 graphs that they were made of, smoothed."""
    thresholds: dict[str, dict[str, float]]
    kept: tuple[str, ...]
    """Maps that stay in floating point."""
    sensitivity: tuple[Sensitivity, ...]
    """Every map alone, the worst first."""
    points: tuple[Point, ...]
    """The line from all maps in INT8 to none."""
    crops: tuple[CalibrationCrop, ...]
    examined: Examined
    """What they are worth."""


def make_int8(
    work: Work,
    graphs: Mapping[str, onnx.ModelProto],
    crops: Sequence[CalibrationCrop],
) -> Quantized:
    """Quantize the graphs of an export, which are smoothed in place, until they pass the gate.

    `crops` are those of `calibration_crops`.
    Raises: CalibrationError for crops that give no scales; ParityError if the gate does not hold
    with half of all maps in floating point, naming the worst.
    """
    batches = {name: calibration_batches(work, crops, modalities_of(work, name)) for name in graphs}
    thresholds = calibrate(
        {name: Source(graph, batches[name]) for name, graph in graphs.items()},
        work.options.calibration,
    )
    thresholds = {
        name: {tensor: _round(value) for tensor, value in found.items()}
        for name, found in thresholds.items()
    }
    rated = _settle(rate_maps(_boards(work, graphs, thresholds), _paths(graphs)))
    order = [one.path for one in rated]
    kept, quantized, examined = _search(work, graphs, thresholds, order)
    counts = sorted({len(kept), *_steps(len(order))})
    losses = measure_losses(
        _boards(work, graphs, thresholds), {count: set(order[count:]) for count in counts}
    )
    shares = _shares(graphs)
    points = tuple(
        Point(count, round(sum(shares[path] for path in order[count:]), 4), round(loss, _DIGITS))
        for count, loss in losses.items()
    )
    return Quantized(
        graphs=quantized,
        smooth=graphs,
        thresholds=thresholds,
        kept=kept,
        sensitivity=rated,
        points=points,
        crops=tuple(crops),
        examined=examined,
    )


def quantize_all(
    graphs: Mapping[str, onnx.ModelProto],
    thresholds: Mapping[str, Mapping[str, float]],
    kept: Sequence[str],
) -> dict[str, onnx.ModelProto]:
    """Q/DQ in every graph, the same maps kept in all."""
    return {name: quantize(graph, thresholds[name], keep=kept) for name, graph in graphs.items()}


def format_record(work: Work, quantized: Quantized) -> str:
    """The text of calibration.json."""
    options = work.options.calibration
    document = {
        "format": "mip-edge calibration",
        "seed": options.seed,
        "method": options.method.name,
        "smoothing": options.smoothing,
        "ranges": options.ranges,
        "kept": list(quantized.kept),
        "sensitivity": [{"map": one.path, "loss": one.loss} for one in quantized.sensitivity],
        "line": [
            {"kept": one.kept, "int8_share": one.share, "loss": one.loss}
            for one in quantized.points
        ],
        "thresholds": quantized.thresholds,
        "crops": list_crops(quantized.crops),
    }
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _rated(work: Work, taken: tuple[Modality, ...]) -> list[Inputs]:
    """The first crops of the examination of each light that a graph takes."""
    return [
        inputs_of(work.examinations[modality].batch[:_RATED_CROPS], modality, taken)
        for modality in taken
    ]


def _boards(
    work: Work,
    graphs: Mapping[str, onnx.ModelProto],
    thresholds: Mapping[str, Mapping[str, float]],
) -> Iterator[tuple[Switchboard, list[Inputs]]]:
    """One after the other: each holds the weights of its graph twice."""
    for name, graph in graphs.items():
        yield Switchboard(graph, thresholds[name]), _rated(work, modalities_of(work, name))


def _settle(rated: Sequence[Sensitivity]) -> tuple[Sensitivity, ...]:
    """Losses as they are written down, and in that order: maps that are equal in it go by name."""
    settled = [Sensitivity(one.path, round(one.loss, _DIGITS)) for one in rated]
    return tuple(sorted(settled, key=lambda one: (-one.loss, one.path)))


def _paths(graphs: Mapping[str, onnx.ModelProto]) -> list[str]:
    """The maps, which are the same in all graphs."""
    return list(linear_maps(next(iter(graphs.values()))))


def _shares(graphs: Mapping[str, onnx.ModelProto]) -> dict[str, float]:
    """Of all multiply-accumulates of the graphs, those of each map."""
    counted = 0
    macs = dict.fromkeys(_paths(graphs), 0)
    for graph in graphs.values():
        products = count_products(graph)
        counted += sum(products.values())
        for path, node in linear_maps(graph).items():
            macs[path] += products[node.name]
    return {path: one / counted for path, one in macs.items()}


def _steps(maps: int) -> set[int]:
    """How many maps are kept at each point of the line."""
    return {round(maps * part / 8) for part in (0, 1, 2, 3, 4, 6, 8)}


def _search(
    work: Work,
    graphs: Mapping[str, onnx.ModelProto],
    thresholds: Mapping[str, Mapping[str, float]],
    order: Sequence[str],
) -> tuple[tuple[str, ...], dict[str, onnx.ModelProto], Examined]:
    """As few of the worst maps in floating point as pass the gate, at most half of all.

    Doubled until it passes, then halved between: every try embeds the labelled crops.
    """
    failed, count, most = -1, 0, len(order) // 2
    passed = None
    while passed is None or count - failed > 1:
        tried = count if passed is None else (count + failed) // 2
        made = quantize_all(graphs, thresholds, order[:tried])
        try:
            passed = made, examine_graphs(work, made, INT8)
            count = tried
        except ParityError as error:
            failed = tried
            logger.info("INT8 with %d maps in floating point: %s", tried, error)
            if passed is None:
                if tried >= most:
                    raise ParityError(_refusal(str(error), order, most)) from error
                count = min(most, max(1, 2 * tried))
    return tuple(order[:count]), *passed


def _refusal(reason: str, order: Sequence[str], most: int) -> str:
    worst = ", ".join(order[:_WORST_TOLD])
    return (
        f"{reason}, with the {most} worst maps in floating point. The worst are {worst}. Try more "
        "crops (--calibration-crops), another --calibration-method, or export without --int8; "
        "nothing was written"
    )


def _round(value: float) -> float:
    """To six digits: below them the order of a sum decides."""
    return float(f"{value:.6g}")
