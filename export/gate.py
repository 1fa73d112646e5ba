"""The gate of an export: what each graph gives on real crops, beside what PyTorch gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from engines.base import Engine
from engines.eager import EagerBackend
from engines.parity import compare, cosines
from export.in_memory import inputs_of
from export.projection import Projection
from export.simulate import open_plain
from mip_edge.artifact import Parity
from mip_edge.data.dataset import Dataset
from mip_edge.data.folder import find_images
from mip_edge.data.image import read_image
from mip_edge.errors import OptionError, ParityError
from mip_edge.model.mip import MIP
from mip_edge.preprocess import prepare
from mip_edge.spec import Batch, Crop, EmbedderSpec, Embeddings, Modality
from mip_edge.synthetic.world import sample_crops

SYNTHETIC_COUNT = 16
SYNTHETIC_COUNT_INT8 = 32
"""For INT8, whose gate looks at the order of crops too."""
SYNTHETIC_SEED = 2406
CROPS_AT_MOST = 64
"""Crops that are compared, for each modality."""
_BATCH = 16


@dataclass(frozen=True, slots=True)
class ParityCrop:
    """One crop of the parity check and what to call it in an error."""

    name: str
    crop: Crop


@dataclass(frozen=True, slots=True)
class Examination:
    """The crops of one modality that every graph is examined on."""

    crops: tuple[ParityCrop, ...]
    batch: Batch
    """Prepared, (N, H, W, C)."""
    reference: Embeddings
    """What PyTorch gives, (N, D); projected if the graphs are."""

    def check(self, candidate: Embeddings, what: str, *, at_least: float, flag: str) -> Parity:
        """Parity of a graph's embeddings of these crops.

        Raises: ParityError naming graph, crop and distance if a cosine is below the bar.
        """
        found = cosines(self.reference, candidate)
        worst = int(np.argmin(found))  # the first NaN, if there is one
        if not found[worst] >= at_least:
            raise ParityError(
                f"{what} differs from the checkpoint: cosine {found[worst]:.7f} "
                f"(1 - {1 - found[worst]:.1e}) on crop {worst} ({self.crops[worst].name}), "
                f"expected at least {at_least} ({flag}). Nothing was written"
            )
        return compare(self.reference, candidate)


def examine(
    model: MIP,
    spec: EmbedderSpec,
    crops: Sequence[ParityCrop],
    camera: torch.Tensor | None,
    projection: Projection | None,
) -> Examination:
    """Prepare the crops of one modality and embed them with PyTorch."""
    batch = prepare([one.crop for one in crops], spec)
    backend = EagerBackend(model, spec.modality, camera=camera, fingerprint=spec.fingerprint)
    with Engine(backend, name="torch", modality=spec.modality) as engine:
        reference = engine.embed(batch)
    if projection is not None:
        reference = projection.apply(reference)
    return Examination(tuple(crops), batch, reference)


def run_module(module: nn.Module, examination: Examination, row: int | None) -> Embeddings:
    """What the exported module gives in PyTorch, before it is a file; `row` for a unified one."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(examination.batch), _BATCH):
            images = torch.from_numpy(examination.batch[start : start + _BATCH])
            if row is None:
                parts.append(module(images))
            else:
                rows = torch.full((len(images),), row)
                parts.append(module(images.expand(-1, -1, -1, 3), rows))
    embeddings: Embeddings = torch.cat(parts).numpy()
    return embeddings


def run_graph(
    graph: onnx.ModelProto,
    examination: Examination,
    modality: Modality,
    taken: tuple[Modality, ...],
) -> Embeddings:
    """What a graph of the lights `taken` gives of one of them, node by node; weights inside."""
    session = open_plain(graph)
    batches = (
        inputs_of(examination.batch[start : start + _BATCH], modality, taken)
        for start in range(0, len(examination.batch), _BATCH)
    )
    return np.concatenate([session.run(["embeddings"], dict(one))[0] for one in batches])


def collect_crops(
    folder: Path | None,
    dataset: Dataset | None,
    modality: Modality,
    *,
    drawn: int = SYNTHETIC_COUNT,
) -> list[ParityCrop]:
    """Crops of one modality for the parity check, at most 64, spread evenly over what there is.

    Those of a folder, where an image below a folder named after the other modality is left out;
    else query and gallery of a data set; else `drawn` synthetic people.
    Raises: OptionError if the folder holds none.
    """
    if folder is None and dataset is None:
        people = sample_crops(modality, drawn, SYNTHETIC_SEED)
        return [ParityCrop(f"synthetic person {index}", crop) for index, crop in enumerate(people)]
    if folder is not None:
        paths = _images(folder, modality)
    else:
        assert dataset is not None
        samples = (*dataset.query, *dataset.gallery)
        paths = list(dict.fromkeys(one.path for one in samples if one.modality is modality))
    step = max(1, -(-len(paths) // CROPS_AT_MOST))
    return [ParityCrop(str(path), read_image(path)) for path in paths[::step]]


def _images(folder: Path, modality: Modality) -> list[Path]:
    paths = [
        path
        for path in find_images(folder)
        if modality.other.value not in path.relative_to(folder).parts
    ]
    if not paths:
        raise OptionError(
            f"--crops {folder} holds no .png or .jpg image for the {modality.value} graph"
        )
    return paths
