"""What an export is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from calibration.scales import CalibrationOptions
from export.form import form_of
from mip_edge.errors import OptionError

LAYOUTS = ("per-modality", "unified")
MIN_COSINE = 0.99999
MIN_COSINE_FP16 = 0.9995
MAX_DROP = 0.5
MAX_DROP_FLOAT = 0.1


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """The options of one export; each names its flag where it cannot be."""

    layout: str = "per-modality"
    """A graph for each modality, or one for both (`unified`)."""
    surgery: str = "full"
    """A name of `export.form.SURGERIES`, or one of `TRIED` to measure it."""
    camera: str = "mean"
    """Camera policy of `engines.camera.choose_camera`."""
    fp16: bool = False
    """Write float16 graphs beside the float32 ones."""
    int8: bool = False
    """Write INT8 graphs beside them; with `fp16` also those whose rest is float16."""
    calibrate: Path | None = None
    """Data set (its training part) or folder of crops that INT8 scales are found on; None where
    the model learned from synthetic people alone."""
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    """How INT8 scales are found."""
    time_int8: bool = False
    """Time INT8 graphs with more and more maps in floating point, for a report."""
    dimensions: tuple[int, ...] = ()
    """Lengths to reduce embeddings to: the first is built in, all are compared in the report."""
    whiten: bool = False
    """Whiten what the projection keeps."""
    crops: Path | None = None
    """Folder of images for the parity check; without it query and gallery of `data`, or synthetic
    people."""
    data: Path | None = None
    """Data set to learn the projection from (training part) and to score graphs on (the others)."""
    dataset: str = "folder"
    """Layout of `data`."""
    split: int = 1
    """Trial of a data set that has several."""
    min_cosine: float = MIN_COSINE
    """Smallest cosine with PyTorch that a crop may have in float32."""
    min_cosine_fp16: float = MIN_COSINE_FP16
    """The same in float16."""
    max_drop: float = MAX_DROP
    """Percentage points of Rank-1 and of mAP that an INT8 graph may lose."""
    max_drop_float: float = MAX_DROP_FLOAT
    """The same of a float32 or float16 graph."""

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise OptionError(f"--layout must be {' or '.join(LAYOUTS)}, got {self.layout!r}")
        straight = form_of(self.surgery) is None
        for flag, given in (
            ("--layout unified", self.layout == "unified"),
            ("--fp16", self.fp16),
            ("--int8", self.int8),
            ("--dim", bool(self.dimensions)),
        ):
            if straight and given:
                raise OptionError(
                    f"--surgery none is the published graph for comparison, without {flag}; "
                    f"leave one of the two out"
                )
        for flag, cosine in (
            ("--min-cosine", self.min_cosine),
            ("--min-cosine-fp16", self.min_cosine_fp16),
        ):
            if not 0 <= cosine <= 1:
                raise OptionError(f"{flag} must be between 0 and 1, got {cosine}")
        for flag, drop in (
            ("--max-drop", self.max_drop),
            ("--max-drop-float", self.max_drop_float),
        ):
            if not 0 <= drop <= 100:
                raise OptionError(f"{flag} must be between 0 and 100, got {drop}")
        for flag, asked in (("--calibrate", self.calibrate), ("--int8-report", self.time_int8)):
            if asked and not self.int8:
                raise OptionError(f"{flag} belongs to --int8; give both")
        for dimension in self.dimensions:
            if dimension < 1:
                raise OptionError(f"--dim must be at least 1, got {dimension}")
        if len(set(self.dimensions)) < len(self.dimensions):
            raise OptionError(f"--dim is asked for twice in {self.dimensions}; give each once")
        if self.dimensions and self.data is None:
            raise OptionError(
                "--dim is learned from training crops; give a data set with --data DATA "
                "(and its layout with --dataset)"
            )
        if self.whiten and not self.dimensions:
            raise OptionError("--whiten belongs to --dim; give a length such as --dim 512")
