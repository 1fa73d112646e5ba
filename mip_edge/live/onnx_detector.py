"""Any ONNX detector that a description tells how to feed and read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import EngineError, OptionError
from mip_edge.live.box import MAX_PEOPLE, Detections, settle
from mip_edge.live.detector import Detector
from mip_edge.live.onnx_description import DetectorDescription, Kind, read_description
from mip_edge.live.onnx_head import BoxesHead, Grid, Head, NanoDetHead, Tensor, YoloxHead
from mip_edge.live.onnx_layout import Axes, Layout

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


def open_detector(choice: str | Path, *, min_score: float, threads: int | None = None) -> Detector:
    """A network that serves all cameras: "nanodet", or a TOML file that describes one.

    Raises: OptionError for a choice or description that cannot be, EngineError for a graph that
    ONNX Runtime refuses or that is not what the description says.
    """
    from mip_edge.live.nanodet import NanoDet

    if str(choice) == "nanodet":
        return NanoDet(min_score=min_score, threads=threads)
    path = Path(choice)
    if path.suffix.lower() != ".toml":
        raise OptionError(
            f"--detector {choice}: expected nanodet, motion, file, or a .toml file that describes "
            "an ONNX detector"
        )
    return OnnxDetector(read_description(path), min_score=min_score, threads=threads)


class OnnxDetector:
    """Finds people with one ONNX graph on the CPU; no memory, so one object may serve all cameras.

    A graph whose batch axis is open gets the frames of all cameras in one call (at most `batch` of
    the description); one whose batch is fixed is called as often as it takes.
    """

    def __init__(
        self,
        description: DetectorDescription,
        *,
        min_score: float,
        threads: int | None = None,
        max_people: int = MAX_PEOPLE,
        graph: bytes | None = None,
    ) -> None:
        """Opens the graph and runs it once; `graph` instead of what `description.model` holds.

        Raises: EngineError, OptionError.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        # It takes turns with the embedder: a spinning pool steals the other's time.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._model = description.model
        try:
            self._session = onnxruntime.InferenceSession(
                graph or str(description.model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime's own share no base class but this
            raise EngineError(
                f"ONNX Runtime {onnxruntime.__version__} refuses the detector {self._model}: "
                f"{_first_line(error)}"
            ) from error
        self._input, self._type, declared = self._find_input(description)
        self.layout = self._lay_out(description, declared)
        self._outputs = self._find_outputs(description)
        self.description = description
        self._heads: dict[tuple[int, int], Head] = {}
        self._max_overlap = description.max_overlap
        self._min_score = max(min_score, description.min_score)
        self._max_people = max_people
        batch = declared[0] if declared else None
        self._fixed = batch if isinstance(batch, int) and batch > 0 else None
        self.batch = self._fixed or description.batch
        self._warm_up()

    def detect(
        self, images: Sequence[NDArray[np.uint8]], indices: Sequence[int]
    ) -> list[Detections]:
        """People in each RGB frame (H, W, 3), boxes in its pixels."""
        found: list[Detections] = []
        for start in range(0, len(images), self.batch):
            found.extend(self._detect_batch(images[start : start + self.batch]))
        return found

    def _detect_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        batch, places = self.layout.prepare(images)
        if self._fixed is not None and len(images) < self._fixed:
            spare = np.zeros((self._fixed - len(images), *batch.shape[1:]), np.float32)
            batch = np.concatenate([batch, spare])
        decoded = self._head(batch).decode(self._run(batch), len(batch), self._min_score)
        settled = []
        # The frames that only filled a fixed batch are left out here.
        for image, place, one in zip(images, places, decoded, strict=False):
            height, width = image.shape[:2]
            in_frame = Detections(place.to_frame(one.boxes), one.scores)
            settled.append(settle(in_frame, width, height, self._max_overlap, self._max_people))
        return settled

    def _run(self, batch: NDArray[np.float32]) -> list[Tensor]:
        try:
            outputs = self._session.run(self._outputs, {self._input: batch.astype(self._type)})
        except Exception as error:  # the runtime's own share no base class but this
            raise EngineError(
                f"the detector {self._model} cannot run on an input of shape {batch.shape}: "
                f"{_first_line(error)}"
            ) from error
        return [np.asarray(one, np.float32) for one in outputs]

    def _warm_up(self) -> None:
        blank = np.zeros((self.layout.height, self.layout.width, 3), np.uint8)
        if self._fixed is None and self._one_frame_a_call(blank):
            self.batch = 1
        # Two frames: a graph that opens its batch axis only in name is told now, not in the field.
        self._detect_batch([blank] * min(self.batch, 2))

    def _one_frame_a_call(self, blank: NDArray[np.uint8]) -> bool:
        """Whether plain boxes come without an axis of frames."""
        if self.description.kind is not Kind.BOXES:
            return False
        return self._run(self.layout.prepare([blank])[0])[0].ndim == 2

    def _find_input(
        self, description: DetectorDescription
    ) -> tuple[str, type[Any], list[int | str | None]]:
        inputs = {one.name: one for one in self._session.get_inputs()}
        wanted = description.input.name
        if wanted is None and len(inputs) == 1:
            wanted = next(iter(inputs))
        if wanted is None or wanted not in inputs or len(inputs) != 1:
            said = f"[input] name is {wanted!r}" if wanted else "it has several"
            raise OptionError(
                f"the detector {self._model} has the inputs {', '.join(inputs)}; {said}, and "
                "expected is a graph of one input, the picture"
            )
        found = inputs[wanted]
        if found.type not in TYPES:
            raise OptionError(
                f"the detector {self._model} reads {found.type}; expected {', '.join(TYPES)}"
            )
        shape = list(found.shape or [])
        if shape and len(shape) != 4:
            raise OptionError(
                f"the detector {self._model} reads a tensor of shape {shape}; expected four axes"
            )
        return wanted, TYPES[found.type], shape

    def _lay_out(
        self, description: DetectorDescription, declared: Sequence[int | str | None]
    ) -> Layout:
        told = description.input
        nchw = told.layout is Axes.NCHW
        channels, height, width = (1, 2, 3) if nchw else (3, 1, 2)
        if declared and isinstance(declared[channels], int) and declared[channels] != 3:
            raise OptionError(
                f"the detector {self._model} reads a tensor of shape {list(declared)}: with layout "
                f"{told.layout.value} of {declared[channels]} channels; expected 3, so change "
                "[input] layout"
            )
        if self._type is np.uint8 and (told.scale, *told.mean, *told.std) != (1, 0, 0, 0, 1, 1, 1):
            raise OptionError(
                f"the detector {self._model} reads whole grey levels (uint8); expected [input] "
                "scale = 1, mean = [0, 0, 0] and std = [1, 1, 1]"
            )
        open_size = not declared or not isinstance(declared[height], int)
        if told.multiple and not open_size:
            raise OptionError(
                f"the detector {self._model} reads an input of shape {list(declared)}; [input] "
                "multiple is for one whose width and height are open"
            )
        return Layout(
            width=self._side("width", told.width, declared[width] if declared else None),
            height=self._side("height", told.height, declared[height] if declared else None),
            fit=told.fit,
            multiple=told.multiple,
            pad=told.pad,
            colour=told.colour,
            axes=told.layout,
            scale=told.scale,
            mean=told.mean,
            std=told.std,
        )

    def _side(self, key: str, told: int | None, declared: int | str | None) -> int:
        own = declared if isinstance(declared, int) and declared > 0 else None
        if told is None and own is None:
            raise OptionError(
                f"the detector {self._model} leaves the {key} of its input open; set [input] {key}"
            )
        if told is not None and own is not None and told != own:
            raise OptionError(
                f"the detector {self._model} reads an input of {key} {own}, [input] {key} is "
                f"{told}; leave it out, or set the same"
            )
        return told or own or 0

    def _find_outputs(self, description: DetectorDescription) -> list[str]:
        names = [one.name for one in self._session.get_outputs()]
        told = description.output
        if description.kind is Kind.BOXES:
            wanted = [name for name in (told.boxes, told.scores, told.labels) if name]
        elif told.predictions:
            wanted = [told.predictions]
        else:
            wanted = names
        missing = [name for name in wanted if name not in names]
        if missing or (description.kind is Kind.YOLOX and len(wanted) != 1):
            what = f"no output {missing[0]!r}" if missing else f"{len(wanted)} outputs, a yolox one"
            raise OptionError(
                f"the detector {self._model} has {what}; it gives {', '.join(names)}: name them in "
                "[output]"
            )
        return wanted

    def _head(self, batch: NDArray[np.float32]) -> Head:
        """What reads the outputs of an input of this size."""
        axes = (3, 2) if self.layout.axes is Axes.NCHW else (2, 1)
        size = batch.shape[axes[0]], batch.shape[axes[1]]
        if size not in self._heads:
            self._heads[size] = make_head(self.description, size)
        return self._heads[size]


def make_head(description: DetectorDescription, size: tuple[int, int]) -> Head:
    """What reads the outputs of an input of `size`, width and height."""
    told, name = description.output, f"the detector {description.model}"
    person, classes = description.person, description.classes
    grid = Grid(*size, told.strides)
    if description.kind is Kind.NANODET:
        known = classes or person + 1
        return NanoDetHead(grid, person=person, classes=known, cell=told.cell, name=name)
    if description.kind is Kind.YOLOX:
        return YoloxHead(grid, person=person, classes=classes, decoded=told.decoded, name=name)
    return BoxesHead(
        size=size,
        person=person,
        classes=classes,
        form=told.form,
        unit=told.unit,
        logits=told.scores_are == "logit",
        name=name,
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
