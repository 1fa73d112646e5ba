"""Figures of a training for TensorBoard: a thin layer over torch's writer, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mip_edge.errors import OptionError, OutputError

if TYPE_CHECKING:
    pass


class ScalarLog:
    """Writes figures to an event file that `tensorboard --logdir FOLDER` shows."""

    def __init__(self, folder: Path, *, first_step: int | None = None) -> None:
        """`first_step`: a resumed run hides what an earlier one wrote from that step on.

        Raises: OptionError if TensorBoard is not installed; OutputError if the folder cannot be
        written.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "tensorboard":
                raise
            raise OptionError(
                "--tensorboard needs tensorboard, which is not installed. "
                'pip install "mip-edge[tensorboard]", or leave --tensorboard out'
            ) from error
        try:
            self._writer = SummaryWriter(str(folder), purge_step=first_step)
        except OSError as error:
            raise OutputError(f"{folder} cannot be written: {error.strerror}") from error

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """One point of every figure at `step`, on the disk before this returns."""
        for name, value in figures.items():
            self._writer.add_scalar(name, float(value), step)
        self._writer.flush()

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        self._writer.close()
