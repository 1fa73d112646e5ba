"""What the GPU benchmark measures, and how long."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.precision import PRECISIONS
from benchmarks.subject import VARIANTS
from mip_edge.errors import OptionError
from mip_edge.spec import Modality


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and how long."""

    device: torch.device
    modality: Modality = Modality.VISIBLE
    precisions: tuple[str, ...] = tuple(PRECISIONS)
    """In the order they run."""
    batches: tuple[int, ...] = (1, 8, 256)
    variants: tuple[str, ...] = ("straight", "plain", "lean")
    graphs: tuple[bool, ...] = (False, True)
    """Without CUDA graphs, with them; a CPU has none."""
    compiled: tuple[int, ...] = ()
    """Batches at which torch.compile is timed too."""
    compile_mode: str = "default"
    repeats: int = 20
    seconds: float = 3.0
    """Of the timed rounds of one precision and batch; at least three rounds are timed."""

    def __post_init__(self) -> None:
        for flag, given, known in (
            ("precision", self.precisions, PRECISIONS),
            ("variant", self.variants, VARIANTS),
        ):
            for name in given:
                if name not in known:
                    raise OptionError(f"--{flag} must be one of {', '.join(known)}, got {name!r}")
        if not self.batches or min(self.batches) < 1:
            raise OptionError(f"--batch must be at least 1, got {self.batches}")
        if self.repeats < 1:
            raise OptionError(f"--repeats must be at least 1, got {self.repeats}")
        for batch in self.compiled:
            if batch not in self.batches:
                raise OptionError(f"--compile {batch} must be one of --batch, got {self.batches}")
