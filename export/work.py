"""One export under way: what was asked for, and the graphs that come of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from engines.camera import CameraChoice, choose_camera
from engines.eager import camera_vector
from export.accuracy import DimensionRow, read_labelled
from export.cost import GraphSize
from export.form import form_of
from export.gate import Examination, run_graph, run_module
from export.in_memory import inputs_of
from export.options import ExportOptions
from export.projection import Projection, fold
from export.room import check_room
from export.simulate import find_kept, simulate
from export.straight import StraightExport
from export.to_onnx import export_onnx
from export.wrapper import ExportedMIP
from mip_edge import checkpoint
from mip_edge.artifact import Accuracy, Manifest, Parity, Precision
from mip_edge.data.dataset import Dataset
from mip_edge.errors import OptionError, ParityError
from mip_edge.model.mip import MIP
from mip_edge.spec import EmbedderSpec, Modality

FP32, FP16, INT8, INT8_FP16 = "fp32", "fp16", "int8", "int8-fp16"
UNIFIED = "unified"
_SAME_SPACE = 0.99
"""Share of the variance that a projection must keep for cosines to stay what they were: at 0.99
and more they moved by at most 0.01 on synthetic people."""
DECIMALS = 6
"""Parity is written to this precision: below it, the order of a sum decides."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What graphs in memory are worth."""

    parity: Mapping[Modality, Parity]
    accuracy: Mapping[str, Accuracy] | None
    """None where nobody labelled the crops."""


@dataclass(slots=True)
class Work:
    """One export under way."""

    path: Path
    model: MIP
    record: Mapping[str, Any]
    options: ExportOptions
    dataset: Dataset | None
    choices: Mapping[Modality, CameraChoice]
    cameras: Mapping[Modality, torch.Tensor | None]
    specs: dict[Modality, EmbedderSpec]
    projection: Projection | None = None
    accuracy: dict[str, Accuracy] | None = None
    """Of PyTorch, projected where the graphs are; None without a data set."""
    dimensions: tuple[DimensionRow, ...] = ()
    examinations: dict[Modality, Examination] = field(default_factory=dict)
    module: dict[Modality, Parity] = field(default_factory=dict)
    sizes: dict[str, GraphSize] = field(default_factory=dict)
    examined: dict[str, Examined] = field(default_factory=dict)
    """By precision, what was found before it was written."""
    simulated: dict[Modality, Parity] = field(default_factory=dict)
    """Parity of the float16 graphs as a GPU computes them."""

    @property
    def files(self) -> dict[str, tuple[Modality, ...]]:
        """Name of each float32 graph and the modalities it takes."""
        if self.options.layout == UNIFIED:
            return {"unified.onnx": tuple(Modality)}
        return {f"{modality.value}.onnx": (modality,) for modality in Modality}


def begin(path: Path, output: Path, options: ExportOptions) -> Work:
    """Read what is asked for, and refuse what cannot be, before anything is computed."""
    model = checkpoint.load(path)
    check_room(model, output, fp16=options.fp16, int8=options.int8)
    for dimension in options.dimensions:
        if dimension > model.options.dimension:
            raise OptionError(
                f"--dim {dimension} is above the width of the embeddings, "
                f"{model.options.dimension}; give less"
            )
    record = checkpoint.read_metadata(path)
    choices = {
        modality: choose_camera(
            record.get("cameras") or [], model.options.cameras, modality, options.camera
        )
        for modality in Modality
    }
    dataset = None
    if options.data is not None:
        dataset = read_labelled(
            options.data,
            options.dataset,
            split=options.split,
            training=bool(options.dimensions),
            checkpoint=path,
        )
    height, width = model.options.image_size
    fingerprint = checkpoint.fingerprint(model)
    specs = {
        modality: EmbedderSpec(modality, height, width, model.options.dimension, fingerprint)
        for modality in Modality
    }
    cameras = {modality: camera_vector(model, choice) for modality, choice in choices.items()}
    return Work(path, model, record, options, dataset, choices, cameras, specs)


def make_graphs(work: Work, precision: str) -> dict[str, onnx.ModelProto]:
    """Float32 graphs by file name, weights inside, in the form that suits a precision; each module
    is compared with PyTorch first."""
    graphs = {}
    for name, taken in work.files.items():
        module = _make_module(work, taken, precision)
        unified = len(taken) > 1
        for modality in taken:
            examination = work.examinations[modality]
            candidate = run_module(module, examination, modality.row if unified else None)
            found = examination.check(
                candidate,
                f"the exported module of {name}",
                at_least=work.options.min_cosine,
                flag="--min-cosine",
            )
            if precision == FP32:
                work.module[modality] = rounded(found)
        graphs[name] = export_onnx(
            module, work.specs[taken[0]], metadata=_metadata(work, taken), unified=unified
        )
    return graphs


def _make_module(
    work: Work, taken: tuple[Modality, ...], precision: str
) -> ExportedMIP | StraightExport:
    """The network as asked for, for the modalities that one graph takes."""
    form = form_of(work.options.surgery)
    if form is None:
        (modality,) = taken  # ExportOptions refuses the straight graph for both
        return StraightExport(work.model, modality, work.cameras)
    if precision != FP32:
        form = form.for_gpu()
    folded = None
    if work.projection is not None:
        matrix, bias = fold(work.projection)
        folded = (torch.from_numpy(matrix), torch.from_numpy(bias))
    one = taken[0] if len(taken) == 1 else None
    return ExportedMIP(work.model, one, work.cameras, form=form, projection=folded)


def make_half(
    work: Work, graphs: Mapping[str, onnx.ModelProto]
) -> tuple[dict[str, onnx.ModelProto], tuple[str, ...]]:
    """Float16 graphs; what one must keep in float32 all keep, so that they differ in nothing."""
    keep: tuple[str, ...] = ()
    half: dict[str, onnx.ModelProto] = {}
    settled = False
    while not settled:
        before = keep
        for name, graph in graphs.items():
            batch, rows, reference = _joined(work, modalities_of(work, name))
            try:
                report = find_kept(
                    graph,
                    batch,
                    reference,
                    rows=rows,
                    start=keep,
                    min_cosine=work.options.min_cosine_fp16,
                )
            except ParityError as error:
                raise ParityError(f"{name}: {error}. Nothing was written") from error
            half[name] = report.graph
            keep = report.keep
        settled = keep == before or len(graphs) == 1
    for name, graph in half.items():
        taken, simulated = modalities_of(work, name), simulate(graph)
        for modality in taken:
            examination = work.examinations[modality]
            candidate = run_graph(simulated, examination, modality, taken)
            work.simulated[modality] = rounded(
                examination.check(
                    candidate,
                    f"{file_name(name, FP16)}, as a GPU rounds it,",
                    at_least=work.options.min_cosine_fp16,
                    flag="--min-cosine-fp16",
                )
            )
    return half, keep


def _joined(
    work: Work, taken: tuple[Modality, ...]
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Crops, modality rows and references of the graph's modalities in one batch."""
    examined = [work.examinations[modality] for modality in taken]
    if len(taken) == 1:
        return examined[0].batch, None, examined[0].reference
    inputs = [inputs_of(work.examinations[one].batch, one, taken) for one in taken]
    batch, rows = (np.concatenate([one[name] for one in inputs]) for name in ("images", "modality"))
    return batch, rows, np.concatenate([one.reference for one in examined])


def modalities_of(work: Work, name: str) -> tuple[Modality, ...]:
    """What the graph of a file takes, whatever its precision."""
    return work.files[f"{name.partition('.')[0]}.onnx"]


def file_name(name: str, precision: str) -> str:
    """The file of a precision beside that of float32."""
    return name if precision == FP32 else name.replace(".onnx", f".{precision}.onnx")


def draft_manifest(work: Work, precisions: Mapping[str, Precision]) -> Manifest:
    """The manifest of a draft, which does not know its files yet."""
    training = dict(work.record.get("training") or {})
    if isinstance(training.get("data"), dict):
        # the names of the people it learned from do not travel to the device
        training["data"] = {key: one for key, one in training["data"].items() if key != "names"}
    return Manifest(
        fingerprint=work.specs[Modality.VISIBLE].fingerprint,
        model=work.model.options.to_dict(),
        specs=work.specs,
        camera={modality: choice.policy for modality, choice in work.choices.items()},
        precisions=precisions,
        layout=work.options.layout,
        surgery=work.options.surgery,
        checkpoint=checkpoint.fingerprint(work.model),
        projection=None if work.projection is None else work.projection.to_dict(),
        min_similarity=work.record.get("min_similarity") if _keeps_cosines(work) else None,
        provenance={"code_version": work.record.get("code_version"), "training": training},
        licence=_licence(work),
    )


def _keeps_cosines(work: Work) -> bool:
    """Whether a similarity threshold of the checkpoint still means the same."""
    projection = work.projection
    return projection is None or (not projection.whiten and projection.explained >= _SAME_SPACE)


def _metadata(work: Work, taken: tuple[Modality, ...]) -> dict[str, str]:
    """What the ONNX file says of itself where no manifest lies beside it."""
    spec = work.specs[taken[0]]
    unified = len(taken) > 1
    policies = {modality.value: work.choices[modality].policy for modality in taken}
    camera = json.dumps(policies, sort_keys=True) if unified else next(iter(policies.values()))
    return {
        "mip_edge.spec": json.dumps(spec.promise(unified=unified), sort_keys=True),
        "mip_edge.fingerprint": spec.fingerprint,
        "mip_edge.camera": camera,
        "mip_edge.licence": _licence(work),
    }


def _licence(work: Work) -> str:
    return str((work.record.get("training") or {}).get("licence", ""))


def rounded(parity: Parity) -> Parity:
    """Parity as it is written down, so that two exports are equal."""
    return replace(
        parity,
        smallest_cosine=round(parity.smallest_cosine, DECIMALS),
        mean_cosine=round(parity.mean_cosine, DECIMALS),
        top1_agreement=round(parity.top1_agreement, DECIMALS),
    )
