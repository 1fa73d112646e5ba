"""From a checkpoint to a bundle: two graphs, one weight file, and the proof that they agree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engines.base import Engine
from engines.camera import CameraChoice, choose_camera
from engines.eager import EagerBackend, camera_vector
from engines.parity import compare, cosines
from engines.table import open_engine
from export.report import write_report
from export.to_onnx import GraphSize, export_onnx, measure_graph, share_weights, write_files
from export.wrapper import ExportedMIP
from mip_edge import checkpoint
from mip_edge.artifact import Graph, Manifest, Parity, Precision, open_bundle, seal, write_bundle
from mip_edge.card.model_card import CARD_NAME, card_of
from mip_edge.data.image import IMAGE_SUFFIXES, read_image
from mip_edge.errors import OptionError, ParityError
from mip_edge.model.mip import MIP
from mip_edge.preprocess import prepare
from mip_edge.spec import Crop, EmbedderSpec, Modality
from mip_edge.synthetic.world import sample_crops

WEIGHTS_NAME = "weights.bin"
MIN_COSINE = 0.99999
SYNTHETIC_COUNT = 16
SYNTHETIC_SEED = 2406
CROPS_AT_MOST = 64
"""Images of a crops folder that are compared, for each modality."""

_DECIMALS = 6
"""Parity is written to this precision: below it, the order of a sum decides."""


@dataclass(frozen=True, slots=True)
class ParityCrop:
    """One crop of the parity check and what to call it in an error."""

    name: str
    crop: Crop


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export made and how near it is to the checkpoint."""

    path: Path
    fingerprint: str
    camera: Mapping[Modality, str]
    parity: Mapping[Modality, Parity]
    graphs: Mapping[Modality, GraphSize]
    sizes: Mapping[str, int]
    """Bytes of each file."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {
            "bundle": str(self.path),
            "fingerprint": self.fingerprint,
            "camera": {modality.value: policy for modality, policy in self.camera.items()},
            "parity": {modality.value: asdict(found) for modality, found in self.parity.items()},
            "graphs": {modality.value: asdict(size) for modality, size in self.graphs.items()},
            "bytes": dict(self.sizes),
        }


def export_bundle(
    checkpoint_path: str | Path,
    output: str | Path,
    *,
    camera: str = "mean",
    crops: str | Path | None = None,
    min_cosine: float = MIN_COSINE,
    overwrite: bool = False,
) -> ExportReport:
    """Export both graphs of a checkpoint into the folder `output`, checked against PyTorch.

    `crops` is a folder of images for that check (synthetic people without it), `camera` the policy
    of `engines.camera.choose_camera`. The model card beside the checkpoint (<name>.md) travels in
    the bundle as card.md; where there is none, one is made.
    Raises: ParityError if a crop's cosine is below `min_cosine`, OutputError if `output` cannot be
    written; either way nothing stands there that was not there before.
    """
    if not 0 <= min_cosine <= 1:
        raise OptionError(f"--min-cosine must be between 0 and 1, got {min_cosine}")
    model = checkpoint.load(checkpoint_path)
    record = checkpoint.read_metadata(checkpoint_path)
    choices = {
        modality: choose_camera(
            record.get("cameras") or [], model.options.cameras, modality, camera
        )
        for modality in Modality
    }
    tests = {modality: collect_crops(crops, modality) for modality in Modality}
    card = card_of(Path(checkpoint_path), model, record)
    with write_bundle(output, overwrite=overwrite) as draft:
        manifest, graphs = _write_graphs(draft, model, choices, record)
        seal(draft, manifest)
        parity = _measure(draft, model, choices, tests, min_cosine)
        manifest = _with_parity(manifest, parity)
        write_report(draft, manifest, graphs, drawn=crops is None)
        (draft / CARD_NAME).write_bytes(card)
        sealed = seal(draft, manifest)
    return ExportReport(
        path=Path(output),
        fingerprint=manifest.fingerprint,
        camera=manifest.camera,
        parity=parity,
        graphs=graphs,
        sizes={name: file.bytes for name, file in sealed.files.items()},
    )


def collect_crops(folder: str | Path | None, modality: Modality) -> list[ParityCrop]:
    """Crops of one modality for the parity check, at most 64, spread evenly over the folder.

    An image below a folder named after the other modality is left out.
    Raises: OptionError if the folder holds none.
    """
    if folder is None:
        drawn = sample_crops(modality, SYNTHETIC_COUNT, SYNTHETIC_SEED)
        return [ParityCrop(f"synthetic person {index}", crop) for index, crop in enumerate(drawn)]
    root = Path(folder)
    paths = [
        path
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and modality.other.value not in path.relative_to(root).parts
    ]
    if not paths:
        raise OptionError(
            f"--crops {root} holds no .png or .jpg image for the {modality.value} graph"
        )
    step = max(1, -(-len(paths) // CROPS_AT_MOST))
    return [ParityCrop(str(path), read_image(path)) for path in paths[::step]]


def _write_graphs(
    draft: Path, model: MIP, choices: Mapping[Modality, CameraChoice], record: Mapping[str, Any]
) -> tuple[Manifest, dict[Modality, GraphSize]]:
    """Both graphs and their weights into the draft; the manifest that has yet no parity."""
    fingerprint = checkpoint.fingerprint(model)
    height, width = model.options.image_size
    training = dict(record.get("training") or {})
    if isinstance(training.get("data"), dict):
        # the names of the people it learned from do not travel to the device
        training["data"] = {key: one for key, one in training["data"].items() if key != "names"}
    licence = str(training.get("licence", ""))
    specs = {
        modality: EmbedderSpec(modality, height, width, model.options.dimension, fingerprint)
        for modality in Modality
    }
    models = {}
    for modality, choice in choices.items():
        module = ExportedMIP(model, modality, camera_vector(model, choice))
        models[modality] = export_onnx(
            module, specs[modality], metadata=_metadata(specs[modality], choice, licence)
        )
    graphs = {modality: measure_graph(graph) for modality, graph in models.items()}
    named = {f"{modality.value}.onnx": graph for modality, graph in models.items()}
    write_files(draft, share_weights(named, WEIGHTS_NAME))
    manifest = Manifest(
        fingerprint=fingerprint,
        model=model.options.to_dict(),
        specs=specs,
        camera={modality: choice.policy for modality, choice in choices.items()},
        precisions={
            "fp32": Precision({modality: Graph(f"{modality.value}.onnx") for modality in Modality})
        },
        checkpoint=fingerprint,
        min_similarity=record.get("min_similarity"),
        provenance={"code_version": record.get("code_version"), "training": training},
        licence=licence,
    )
    return manifest, graphs


def _metadata(spec: EmbedderSpec, choice: CameraChoice, licence: str) -> dict[str, str]:
    """What the ONNX file says of itself where no manifest lies beside it."""
    promised = {
        "modality": spec.modality.value,
        "height": spec.height,
        "width": spec.width,
        "channels": spec.channels,
        "dimension": spec.dimension,
    }
    return {
        "mip_edge.spec": json.dumps(promised, sort_keys=True),
        "mip_edge.fingerprint": spec.fingerprint,
        "mip_edge.camera": choice.policy,
        "mip_edge.licence": licence,
    }


def _measure(
    draft: Path,
    model: MIP,
    choices: Mapping[Modality, CameraChoice],
    tests: Mapping[Modality, Sequence[ParityCrop]],
    min_cosine: float,
) -> dict[Modality, Parity]:
    """Parity of each graph with PyTorch; the first one below the bar is the end."""
    bundle = open_bundle(draft)
    parity = {}
    for modality, crops in tests.items():
        spec = bundle.manifest.specs[modality]
        batch = prepare([test.crop for test in crops], spec)
        vector = camera_vector(model, choices[modality])
        backend = EagerBackend(model, modality, camera=vector, fingerprint=spec.fingerprint)
        with Engine(backend, name="torch") as torch_engine:
            reference = torch_engine.embed(batch)
        with open_engine(bundle, modality=modality) as engine:
            candidate = engine.embed(batch)
        found = cosines(reference, candidate)
        worst = int(np.argmin(found))
        if not found[worst] >= min_cosine:  # a NaN fails too
            raise ParityError(
                f"{bundle.graph_path(modality).name} differs from the checkpoint: cosine "
                f"{found[worst]:.7f} (1 - {1 - found[worst]:.1e}) on crop {worst} "
                f"({crops[worst].name}), expected at least {min_cosine} (--min-cosine). "
                "Nothing was written"
            )
        parity[modality] = compare(reference, candidate)
    return parity


def _with_parity(manifest: Manifest, parity: Mapping[Modality, Parity]) -> Manifest:
    graphs = {
        modality: replace(graph, parity=_rounded(parity[modality]))
        for modality, graph in manifest.precisions["fp32"].graphs.items()
    }
    return replace(manifest, precisions={"fp32": Precision(graphs)})


def _rounded(parity: Parity) -> Parity:
    return replace(
        parity,
        smallest_cosine=round(parity.smallest_cosine, _DECIMALS),
        mean_cosine=round(parity.mean_cosine, _DECIMALS),
        top1_agreement=round(parity.top1_agreement, _DECIMALS),
    )
