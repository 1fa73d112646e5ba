"""From a bundle to a model repository of the Triton Inference Server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from export.to_onnx import share_weights, write_files
from export.triton_config import Model, Serving, Tensor, ensemble_config, model_config
from mip_edge.artifact import Bundle
from mip_edge.folder import write_folder
from mip_edge.spec import Modality

ENSEMBLE = "mip"
"""The model that a client asks for crops of both lights, whatever the layout."""
KIND = "a model repository"
CONFIG_NAME = "config.pbtxt"
MODEL_NAME = "model.onnx"
"""Triton's name for the file, and for the folder around it where a model has several files."""
WEIGHTS_NAME = "weights.bin"
VERSION = "1"
_EMPTY = "An ensemble has no file of its own, but Triton wants its version folder.\n"
_TYPES = {
    int(onnx.TensorProto.UINT8): "TYPE_UINT8",
    int(onnx.TensorProto.INT64): "TYPE_INT64",
    int(onnx.TensorProto.FLOAT): "TYPE_FP32",
}


def write_triton(
    bundle: Bundle,
    target: str | Path,
    *,
    precision: str = "fp32",
    max_batch: int = 32,
    queue_delay_us: int = 2000,
    overwrite: bool = False,
) -> Path:
    """Write the graphs of one precision as a Triton model repository; equal input, equal bytes.

    Layout per-modality: models `mip_visible` and `mip_infrared`, and the ensemble `mip` that runs
    both on one request of as many visible as infrared crops. Layout unified: one model `mip` with
    inputs `images` and `modality`. Every model holds the weights that it needs in its own folder:
    ONNX Runtime opens none from outside.
    Raises: OptionError for a batch or delay that cannot be, BundleError if the bundle lacks the
    precision, OutputError if `target` exists or cannot be written.
    """
    serving = Serving(max_batch, queue_delay_us)
    paths = {
        one: bundle.graph_path(one, precision) for one in (Modality.VISIBLE, Modality.INFRARED)
    }
    target = Path(target)
    with write_folder(target, KIND, is_triton, overwrite=overwrite) as draft:
        told = _parameters(bundle, precision, paths)
        if bundle.manifest.layout == "unified":
            model = _write_model(draft, ENSEMBLE, paths[Modality.VISIBLE])
            _write_config(draft, ENSEMBLE, model_config(model, serving, told))
            models = {}
        else:
            models = {
                modality: _write_model(draft, f"{ENSEMBLE}_{modality.value}", path)
                for modality, path in paths.items()
            }
        for modality, model in models.items():
            own = _parameters(bundle, precision, [modality])
            _write_config(draft, model.name, model_config(model, serving, own))
        if models:
            (draft / ENSEMBLE / VERSION).mkdir(parents=True)
            # A store of objects or a version control loses a folder that holds nothing.
            (draft / ENSEMBLE / VERSION / "README").write_text(_EMPTY, encoding="utf-8")
            _write_config(draft, ENSEMBLE, ensemble_config(ENSEMBLE, models, serving, told))
    return target


def _write_model(draft: Path, name: str, graph_path: Path) -> Model:
    """The graph, with the weights of no other, into the folder `name`."""
    graph = onnx.load(graph_path)
    inputs, outputs = (
        [_describe(value) for value in values] for values in (graph.graph.input, graph.graph.output)
    )
    # Several files of one model lie in a folder called as the model's file would be.
    folder = draft / name / VERSION / MODEL_NAME
    folder.mkdir(parents=True)
    write_files(folder, share_weights({MODEL_NAME: graph}, WEIGHTS_NAME))
    return Model(name, inputs, outputs)


def _write_config(draft: Path, name: str, text: str) -> None:
    (draft / name / CONFIG_NAME).write_text(text, encoding="utf-8")


def _describe(value: onnx.ValueInfoProto) -> Tensor:
    tensor = value.type.tensor_type
    _batch, *dims = (entry.dim_value for entry in tensor.shape.dim)
    return Tensor(value.name, _TYPES[int(tensor.elem_type)], tuple(dims))


def _parameters(bundle: Bundle, precision: str, modalities: Iterable[Modality]) -> dict[str, str]:
    """What a client may ask the server about the model behind it."""
    manifest = bundle.manifest
    cameras = {f"mip_edge.camera.{one.value}": manifest.camera[one] for one in modalities}
    return {
        "mip_edge.fingerprint": manifest.fingerprint,
        "mip_edge.licence": manifest.licence,
        "mip_edge.precision": precision,
        **cameras,
    }


def is_triton(folder: Path) -> bool:
    """Whether a folder holds our models and nobody else's."""
    known = {ENSEMBLE, *(f"{ENSEMBLE}_{modality.value}" for modality in Modality)}
    if not {entry.name for entry in folder.iterdir()} <= known:
        return False
    config = folder / ENSEMBLE / CONFIG_NAME
    return config.is_file() and "mip_edge.fingerprint" in config.read_text(encoding="utf-8")
