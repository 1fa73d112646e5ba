"""Smoothing moves outliers from activations into weights, and the embeddings stay."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

pytest.importorskip("torch", reason="the graphs are exported with torch")

import torch

from calibration.activations import Inputs, largest_by_channel, linear_maps
from calibration.quantize import quantize
from calibration.smoothing import Channels, inputs_of_maps, smooth
from export.form import form_of
from export.to_onnx import export_onnx
from export.wrapper import ExportedMIP
from mip_edge.model.mip import MIP
from mip_edge.model.options import MIPOptions
from mip_edge.spec import EmbedderSpec, Embeddings, Modality

LIMIT = 2e-6
OUTLIERS = [3, 17]


def export(queries: str, surgery: str, *, unified: bool) -> onnx.ModelProto:
    torch.manual_seed(11)
    options = MIPOptions(
        width=48,
        heads=3,
        depth=4,
        image_size=(64, 32),
        prompt_length=4,
        instance_queries=queries,  # type: ignore[arg-type]
    )
    model = MIP(options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    form = form_of(surgery)
    assert form is not None
    module = ExportedMIP(model, None if unified else Modality.VISIBLE, form=form.for_gpu())
    spec = EmbedderSpec(Modality.VISIBLE, 64, 32, options.dimension, "0" * 64)
    return export_onnx(module, spec, metadata={}, unified=unified)


@pytest.fixture(
    scope="module",
    params=[
        ("learnable", "full", True),
        ("zero", "full", False),
        ("zero", "repeated-prompts", False),
        ("learnable", "prompts-apart", False),
    ],
    ids=lambda given: "-".join(map(str, given)),
)
def graph(request: pytest.FixtureRequest) -> onnx.ModelProto:
    """Zero and learnable queries, both layouts, and the forms whose values come by another way."""
    queries, surgery, unified = request.param
    return export(queries, surgery, unified=unified)


def copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(graph.SerializeToString())


def inputs(graph: onnx.ModelProto, batch: Inputs) -> Inputs:
    if len(graph.graph.input) == 1:
        return batch
    return {**batch, "modality": np.arange(6) % 2}


def embed(graph: onnx.ModelProto, batch: Inputs) -> Embeddings:
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: Embeddings = session.run(["embeddings"], dict(inputs(graph, batch)))[0]
    return found


def channels_of(graph: onnx.ModelProto, batch: Inputs) -> Channels:
    read = list(inputs_of_maps(graph).values())
    return largest_by_channel(graph, read, [inputs(graph, batch)])


def thresholds_of(graph: onnx.ModelProto, batch: Inputs) -> dict[str, float]:
    return {name: float(one.max()) for name, one in channels_of(graph, batch).items()}


def constant(graph: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(one) for one in graph.graph.initializer if one.name == name)


def weight(graph: onnx.ModelProto, path: str) -> np.ndarray:
    return constant(graph, linear_maps(graph)[path].input[1])


def check_smoothed(graph: onnx.ModelProto, batch: Inputs) -> None:
    smoothed = copy(graph)
    smooth(smoothed, channels_of(graph, batch))
    onnx.checker.check_model(smoothed, full_check=True)
    assert np.abs(embed(smoothed, batch) - embed(graph, batch)).max() <= LIMIT
    for path in linear_maps(graph):
        changed = np.abs(weight(smoothed, path) - weight(graph, path)).max() > 1e-3
        assert changed or path.endswith(("mlp/fc2", "attention/proj")), path


def test_embeddings_stay_in_every_form_and_layout(graph: onnx.ModelProto, batch: Inputs) -> None:
    check_smoothed(graph, batch)


def test_embeddings_stay_with_cameras_and_prompts_of_one_light(
    gpu_graph: onnx.ModelProto, batch: Inputs
) -> None:
    check_smoothed(gpu_graph, batch)


def test_every_map_but_those_behind_a_gelu_is_flattened(
    gpu_graph: onnx.ModelProto, batch: Inputs
) -> None:
    """At strength 1/2 the largest of a channel and of its row of weights become equal, eq. 4."""
    smoothed = copy(gpu_graph)
    smooth(smoothed, channels_of(gpu_graph, batch), strength=0.5)
    seen = channels_of(smoothed, batch)
    for path, name in inputs_of_maps(smoothed).items():
        rows = np.abs(weight(smoothed, path)).max(axis=1)
        if path.endswith(("mlp/fc1", "attention/proj")):
            np.testing.assert_allclose(seen[name], rows, rtol=1e-4, err_msg=path)
        if path.endswith("mlp/fc2"):
            assert (weight(smoothed, path) == weight(gpu_graph, path)).all()


def plant(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Channels of the norm before fc1 eighty times as large, and their rows of fc1 as much less."""
    planted = copy(graph)
    factors = np.ones(48, dtype=np.float32)
    factors[OUTLIERS] = 80
    maker = {node.output[0]: node for node in planted.graph.node}
    for path, node in linear_maps(planted).items():
        if not path.endswith("mlp/fc1"):
            continue
        norm = maker[node.input[0]]
        for place in (1, 2):
            name = f"{norm.name}/planted_{place}"
            value = constant(planted, norm.input[place]) * factors
            planted.graph.initializer.append(numpy_helper.from_array(value, name))
            norm.input[place] = name
        held = next(one for one in planted.graph.initializer if one.name == node.input[1])
        array = numpy_helper.to_array(held) / factors[:, None]
        held.CopyFrom(numpy_helper.from_array(array, held.name))
    return planted


def int8_cosine(graph: onnx.ModelProto, reference: Embeddings, batch: Inputs) -> float:
    found = embed(quantize(graph, thresholds_of(graph, batch)), batch)
    return float(np.einsum("nd,nd->n", found, reference).mean())


def test_smoothing_brings_back_what_outlier_channels_cost(
    gpu_graph: onnx.ModelProto, batch: Inputs
) -> None:
    reference = embed(gpu_graph, batch)
    planted = plant(gpu_graph)
    assert np.abs(embed(planted, batch) - reference).max() <= LIMIT
    smoothed = copy(planted)
    smooth(smoothed, channels_of(planted, batch))
    without, with_it = (int8_cosine(one, reference, batch) for one in (planted, smoothed))
    assert without < 0.998
    assert with_it > 0.9995


def test_two_graphs_smoothed_by_the_same_channels_share_their_weights(
    gpu_graph: onnx.ModelProto, batch: Inputs
) -> None:
    channels = channels_of(gpu_graph, batch)
    one, two = copy(gpu_graph), copy(gpu_graph)
    for graph in (one, two):
        smooth(graph, channels)
    assert one.SerializeToString() == two.SerializeToString()


def test_no_constant_is_left_that_nobody_reads(gpu_graph: onnx.ModelProto, batch: Inputs) -> None:
    smoothed = copy(gpu_graph)
    smooth(smoothed, channels_of(gpu_graph, batch))
    read = {name for node in smoothed.graph.node for name in node.input}
    names = [one.name for one in smoothed.graph.initializer]
    assert set(names) <= read
    assert len(names) == len(set(names))


def test_a_channel_that_is_never_seen_is_left_as_it_is(
    gpu_graph: onnx.ModelProto, batch: Inputs
) -> None:
    channels = {name: one.copy() for name, one in channels_of(gpu_graph, batch).items()}
    name = inputs_of_maps(gpu_graph)["blocks.0/mlp/fc1"]
    channels[name][7] = 0
    smoothed = copy(gpu_graph)
    smooth(smoothed, channels)
    path = "blocks.0/mlp/fc1"
    assert (weight(smoothed, path)[7] == weight(gpu_graph, path)[7]).all()
    assert np.abs(embed(smoothed, batch) - embed(gpu_graph, batch)).max() <= LIMIT
