"""The TOML file that tells how an ONNX detector is to be fed and read (--detector FILE.toml)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mip_edge.errors import OptionError
from mip_edge.live.description_table import DescriptionTable
from mip_edge.live.onnx_head import Form, Unit
from mip_edge.live.onnx_layout import Axes, Colour, Fit

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NANODET_MEAN = (103.53, 116.28, 123.675)
NANODET_STD = (57.375, 57.12, 58.395)
DEFAULT_BATCH = 8


class Kind(str, Enum):
    """The families of outputs that are understood."""

    NANODET = "nanodet"
    YOLOX = "yolox"
    BOXES = "boxes"


@dataclass(frozen=True, slots=True)
class InputDescription:
    """[input]: what the network wants a frame to be."""

    name: str | None = None
    """Input of the graph; None is its only one."""
    width: int | None = None
    """Pixels; None takes the graph's own."""
    height: int | None = None
    """Pixels; None takes the graph's own."""
    layout: Axes = Axes.NCHW
    """Order of the axes."""
    colour: Colour = Colour.RGB
    """Order of the channels."""
    fit: Fit = Fit.CENTRE
    """How a frame of another shape comes in."""
    multiple: int | None = None
    """Borders are cut to a multiple of this, for a graph that leaves its size open."""
    pad: int = 0
    """Grey level of the borders."""
    scale: float = 1.0
    """Grey levels are multiplied by it."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Taken away then."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Divided by at last."""


@dataclass(frozen=True, slots=True)
class OutputDescription:
    """[output]: what its outputs mean."""

    strides: tuple[int, ...] = (8, 16, 32)
    """Input pixels per cell (nanodet, yolox)."""
    cell: float = 0.5
    """Where the centre of a cell is (nanodet): 0.5, or 0.0 for NanoDet-Plus."""
    decoded: bool = False
    """Boxes come in pixels, exported with --decode_in_inference (yolox)."""
    predictions: str | None = None
    """The output to read (yolox, nanodet of one output); None is the only one."""
    boxes: str = "boxes"
    """Output of boxes (boxes)."""
    scores: str = "scores"
    """Output of scores (boxes)."""
    labels: str | None = None
    """Output of labels, where scores have no axis of classes (boxes)."""
    form: Form = Form.XYXY
    """What the four numbers are (boxes)."""
    unit: Unit = Unit.PIXEL
    """What they are measured in (boxes)."""
    scores_are: str = "probability"
    """probability, or logit: before the sigmoid (boxes)."""


@dataclass(frozen=True, slots=True)
class DetectorDescription:
    """A detector as a TOML file describes it."""

    kind: Kind
    """How its outputs are read."""
    model: Path
    """The ONNX file; in the TOML relative to it."""
    person: int = 0
    """Number of the class person."""
    classes: int | None = None
    """How many classes; None takes what comes (nanodet: 80, those of COCO)."""
    max_overlap: float = 0.6
    """Greatest IoU of two that stay; 1 leaves out suppression, for graphs that have their own."""
    min_score: float = 0.0
    """A box below is nobody, whatever --min-score says."""
    batch: int = DEFAULT_BATCH
    """The most frames of one call, where the graph leaves it open."""
    input: InputDescription = InputDescription()
    """What it reads."""
    output: OutputDescription = OutputDescription()
    """What it gives."""


DEFAULT_INPUTS = {
    Kind.NANODET: InputDescription(colour=Colour.BGR, mean=NANODET_MEAN, std=NANODET_STD),
    Kind.YOLOX: InputDescription(colour=Colour.BGR, fit=Fit.CORNER, pad=114),
    Kind.BOXES: InputDescription(),
}
"""As the networks of each kind are published."""
DEFAULT_OVERLAPS = {Kind.NANODET: 0.6, Kind.YOLOX: 0.45, Kind.BOXES: 0.6}
OUTPUT_KEYS = {
    Kind.NANODET: ("strides", "cell", "predictions"),
    Kind.YOLOX: ("strides", "decoded", "predictions"),
    Kind.BOXES: ("boxes", "scores", "labels", "form", "unit", "scores_are"),
}


def read_description(path: Path) -> DetectorDescription:
    """Read a TOML file. Raises: OptionError naming the file and the key that is at fault."""
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise OptionError(f"--detector {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"--detector {path} is no TOML file: {error}") from error
    top = DescriptionTable(path, "", table)
    kind = top.choice("kind", Kind, None)
    model = path.parent / top.text("model", None)
    if not model.is_file():
        raise OptionError(f"--detector {path}: model {model} does not exist")
    read_input = _read_input(top.table("input"), DEFAULT_INPUTS[kind])
    read_output = _read_output(top.table("output"), kind)
    classes = top.whole("classes", 0, least=1)
    person = top.whole("person", 0, least=0)
    if classes and person >= classes:
        raise top.fault("person", person, f"below classes = {classes}")
    description = DetectorDescription(
        kind=kind,
        model=model,
        person=person,
        classes=classes or (80 if kind is Kind.NANODET else None),
        max_overlap=top.number("max_overlap", DEFAULT_OVERLAPS[kind], 0.0, 1.0),
        min_score=top.number("min_score", 0.0, 0.0, 1.0),
        batch=top.whole("batch", DEFAULT_BATCH, least=1),
        input=read_input,
        output=read_output,
    )
    if kind is Kind.NANODET and person >= 80 and not classes:
        raise top.fault("person", person, "below 80, or classes = as many as the network has")
    top.finish()
    return description


def _read_input(table: DescriptionTable, default: InputDescription) -> InputDescription:
    read = InputDescription(
        name=table.text("name", "") or None,
        width=table.whole("width", 0, least=1) or None,
        height=table.whole("height", 0, least=1) or None,
        layout=table.choice("layout", Axes, default.layout),
        colour=table.choice("colour", Colour, default.colour),
        fit=table.choice("fit", Fit, default.fit),
        multiple=table.whole("multiple", 0, least=1) or None,
        pad=table.whole("pad", default.pad, least=0, most=255),
        scale=table.number("scale", default.scale),
        mean=table.three("mean", default.mean),
        std=table.three("std", default.std),
    )
    if read.multiple and read.fit is Fit.STRETCH:
        raise table.fault("multiple", read.multiple, "none with fit = stretch: it has no borders")
    if min(read.std) <= 0:
        raise table.fault("std", list(read.std), "three numbers above 0")
    if read.scale <= 0:
        raise table.fault("scale", read.scale, "a number above 0, such as 0.00392157 for 1/255")
    table.finish()
    return read


def _read_output(table: DescriptionTable, kind: Kind) -> OutputDescription:
    default = OutputDescription()
    others = {other.value: keys for other, keys in OUTPUT_KEYS.items() if other is not kind}
    table.only(OUTPUT_KEYS[kind], kind.value, others)
    read = OutputDescription(
        strides=table.wholes("strides", default.strides),
        cell=table.number("cell", default.cell, 0.0, 1.0),
        decoded=table.truth("decoded", default.decoded),
        predictions=table.text("predictions", "") or None,
        boxes=table.text("boxes", default.boxes),
        scores=table.text("scores", default.scores),
        labels=table.text("labels", "") or None,
        form=table.choice("form", Form, default.form),
        unit=table.choice("unit", Unit, default.unit),
        scores_are=table.word("scores_are", ("probability", "logit")),
    )
    table.finish()
    return read
