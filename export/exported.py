"""What an export gives back: the bundle's manifest, and what was measured on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from calibration.sensitivity import Sensitivity
from export.accuracy import GALLERY, DimensionRow
from export.cost import GraphSize
from export.int8_speed import TimedPoint
from mip_edge.artifact import Accuracy, Manifest, Parity
from mip_edge.spec import Modality


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export made and how near it is to the checkpoint."""

    path: Path
    manifest: Manifest
    module: Mapping[Modality, Parity]
    """Parity of the exported module in PyTorch, before it became a file."""
    sizes: Mapping[str, GraphSize]
    """What each graph file is made of."""
    accuracy: Mapping[str, Accuracy] | None
    """Of the checkpoint in PyTorch, projected where the graphs are; None without a data set."""
    dimensions: tuple[DimensionRow, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    """What each map loses alone in INT8, the worst first."""
    timed: tuple[TimedPoint, ...] = ()
    """Speed of INT8 with more and more maps in floating point, where it was asked for."""
    written: Mapping[str, int] | None = None
    """Bytes of each file of a folder for another server; None for a bundle."""

    @property
    def sizes_written(self) -> dict[str, int]:
        """Bytes of each file that was written."""
        if self.written is not None:
            return dict(self.written)
        return {name: file.bytes for name, file in self.manifest.files.items()}

    @property
    def fingerprint(self) -> str:
        """Of the embedding space."""
        return self.manifest.fingerprint

    @property
    def parity(self) -> dict[Modality, Parity]:
        """Of the float32 graphs."""
        return {
            modality: graph.parity
            for modality, graph in self.manifest.precisions["fp32"].graphs.items()
            if graph.parity is not None
        }

    def format(self) -> str:
        """Lines for the console."""
        lines = [f"{self.path}  fingerprint {self.fingerprint[:12]}"]
        for precision, held in self.manifest.precisions.items():
            for modality, graph in held.graphs.items():
                assert graph.parity is not None
                assert graph.cost is not None
                lines.append(
                    f"{modality.value}, {precision}: smallest cosine "
                    f"{graph.parity.smallest_cosine:.6f}, same top-1 "
                    f"{graph.parity.top1_agreement:.1%} on {graph.parity.crops} crops; "
                    f"{graph.cost.macs / 1e9:.3f} GMAC a crop, camera "
                    f"{self.manifest.camera[modality]}"
                )
            if held.kept_float32:
                lines.append(f"{precision}: {', '.join(held.kept_float32)} with more bits")
            if held.int8_share:
                lines.append(f"{precision}: {held.int8_share:.1%} of all operations in INT8")
        lines += self._accuracy_lines()
        lines += [f"{name}: {size:,} bytes" for name, size in self.sizes_written.items()]
        return "\n".join(lines)

    def _accuracy_lines(self) -> list[str]:
        lines = []
        scored = {"PyTorch": self.accuracy or {}}
        for precision, held in self.manifest.precisions.items():
            scored[precision] = held.accuracy or {}
        for name, accuracy in scored.items():
            lines += [
                f"{name}, {direction}: Rank-1 {found.rank1:.1f}%, mAP {found.mean_ap:.1f}%"
                for direction, found in accuracy.items()
            ]
        for row in self.dimensions:
            figures = "; ".join(
                f"{direction} Rank-1 {found.rank1:.1f}%, mAP {found.mean_ap:.1f}%"
                for direction, found in row.accuracy.items()
            )
            lines.append(
                f"{row.dimension} numbers: {figures}; {row.gallery_bytes / 1e6:.0f} MB for "
                f"{GALLERY:,} embeddings"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        manifest = json.loads(self.manifest.to_json())
        return {
            "path": str(self.path),
            "fingerprint": self.manifest.fingerprint,
            "camera": manifest["camera"],
            "layout": self.manifest.layout,
            "surgery": self.manifest.surgery,
            "projection": manifest["projection"],
            "precisions": manifest["precisions"],
            "module": {modality.value: asdict(found) for modality, found in self.module.items()},
            "accuracy": None
            if self.accuracy is None
            else {direction: asdict(found) for direction, found in self.accuracy.items()},
            "sensitivity": [asdict(one) for one in self.sensitivity],
            "timed": [asdict(one) for one in self.timed],
            "dimensions": [row.to_dict() for row in self.dimensions],
            "graphs": {name: asdict(size) for name, size in self.sizes.items()},
            "bytes": self.sizes_written,
        }
