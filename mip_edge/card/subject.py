"""What a card is about: a checkpoint, and what its own record tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mip_edge import checkpoint
from mip_edge.model.mip import MIP

DATASETS: Mapping[str, tuple[str, str]] = {
    "sysu": (
        "SYSU-MM01",
        "real people at six cameras (1, 2, 4, 5 visible; 3, 6 infrared)",
    ),
    "regdb": (
        "RegDB",
        "412 real people, ten visible and ten thermal pictures each, of one pair of cameras",
    ),
    "llcm": ("LLCM", "real people at nine cameras"),
}
"""Public data sets: their name, and whom and what they show."""
SYNTHETIC = "synthetic"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a card is about, taken from the checkpoint itself."""

    name: str
    """File name of the checkpoint."""
    file_bytes: int
    fingerprint: str
    parameters: int
    record: Mapping[str, Any]
    """As `checkpoint.read_metadata` gives it."""

    @classmethod
    def of(cls, path: Path, model: MIP, record: Mapping[str, Any]) -> Subject:
        """The checkpoint at `path`, of which `model` and `record` were read."""
        return cls(
            path.name,
            path.stat().st_size,
            checkpoint.fingerprint(model),
            sum(parameter.numel() for parameter in model.parameters()),
            record,
        )

    @property
    def training(self) -> Mapping[str, Any]:
        """Its training record; empty if it has none."""
        return table(self.record.get("training"))

    @property
    def dataset(self) -> str | None:
        """sysu, regdb, llcm, folder, "synthetic", or None: unknown."""
        data = self.training.get("data")
        if isinstance(data, str):
            return SYNTHETIC if "synthetic" in data.lower() else None
        kind = table(data).get("dataset")
        return str(kind) if kind else ("folder" if table(data).get("folder") else None)

    @property
    def public(self) -> tuple[str, str] | None:
        """Name, and whom and what it shows, of a public data set that it was trained on."""
        return DATASETS.get(self.dataset or "")

    @property
    def selected_by(self) -> str | None:
        """validation, test, last, or None: unknown."""
        options = table(self.training.get("options"))
        known = self.training.get("selected_by") or options.get("select")
        recipe = self.training.get("recipe") or options.get("recipe")
        return str(known) if known else ("test" if recipe == "official" else None)


def table(value: object) -> Mapping[str, Any]:
    """`value` if it is a table of names, else an empty one: a record may lack any part."""
    return value if isinstance(value, Mapping) else {}
