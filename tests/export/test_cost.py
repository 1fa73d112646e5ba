"""Costs worked by hand on small graphs, then those of the network at its published size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch", reason="the graphs are exported with torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from export.cost import count_cost, part_of  # noqa: E402
from export.straight import StraightExport  # noqa: E402
from export.wrapper import ExportedMIP  # noqa: E402
from mip_edge.artifact import Cost  # noqa: E402
from mip_edge.errors import BundleError  # noqa: E402
from mip_edge.model.mip import MIP  # noqa: E402
from mip_edge.model.options import MIPOptions  # noqa: E402
from mip_edge.spec import Modality  # noqa: E402

Shape = Sequence[int | str]


def graph_of(
    nodes: list[onnx.NodeProto],
    images: Shape,
    constants: dict[str, np.ndarray],
    output: str,
    *,
    kind: int = TensorProto.FLOAT,
    domains: Sequence[str] = ("",),
) -> onnx.ModelProto:
    """A model of `nodes` from `images` to `output`."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", kind, images)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid(domain, 19 if domain == "" else 1) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def zeros(*shape: int, kind: type = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype=kind)


def test_a_convolution_counts_outputs_times_what_each_looks_at() -> None:
    conv = helper.make_node("Conv", ["images", "w"], ["y"], "patches/Conv", strides=[2, 2], group=2)
    cost = count_cost(graph_of([conv], ["crops", 4, 8, 6], {"w": zeros(10, 2, 2, 2)}, "y"))
    # 10 channels of 4 x 3 outputs, each looks at 2 channels of 2 x 2
    assert cost.macs == 10 * 4 * 3 * 2 * 2 * 2
    assert cost.parts == {"patches": cost.macs, "blocks": 0, "ipg": 0, "head": 0}
    assert cost.weight_bytes == 10 * 2 * 2 * 2 * 4


def test_products_count_rows_times_columns_times_what_is_summed() -> None:
    nodes = [
        helper.make_node("MatMul", ["images", "w"], ["a"], "blocks.0/attention/q/MatMul"),
        helper.make_node("Transpose", ["a"], ["t"], "blocks.0/Transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["a", "t"], ["logits"], "blocks.0/instance/MatMul"),
        helper.make_node("Flatten", ["logits"], ["row"], "head/Flatten"),
        helper.make_node("Gemm", ["row", "g"], ["y"], "head/Gemm", transB=1),
    ]
    weights = {"w": zeros(6, 7), "g": zeros(3, 25)}
    cost = count_cost(graph_of(nodes, ["crops", 5, 6], weights, "y"))
    assert cost.parts == {
        "patches": 0,
        "blocks": 5 * 7 * 6,
        "ipg": 5 * 5 * 7,
        "head": 1 * 3 * 25,
    }
    assert cost.macs == 210 + 175 + 75


def test_a_transposed_gemm_sums_over_rows() -> None:
    gemm = helper.make_node("Gemm", ["w", "images"], ["y"], "head/Gemm", transA=1)
    cost = count_cost(graph_of([gemm], [4, 5], {"w": zeros(4, 3)}, "y"))
    assert cost.macs == 3 * 5 * 4


def test_quantised_products_count_as_their_float_ones() -> None:
    scale, zero = np.array(0.1, np.float32), np.array(0, np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "s", "z"], ["i"], "blocks.0/Quantize"),
        helper.make_node("DequantizeLinear", ["i", "s", "z"], ["f"], "blocks.0/Dequantize"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"], "blocks.0/weight"),
        helper.make_node("MatMul", ["f", "wf"], ["m"], "blocks.0/MatMul"),
        helper.make_node("Cast", ["m"], ["h"], "head/Cast", to=TensorProto.FLOAT16),
        helper.make_node("MatMul", ["h", "v"], ["y"], "head/MatMul"),
    ]
    constants = {
        "s": scale,
        "z": zero,
        "w": zeros(6, 7, kind=np.int8),
        "v": zeros(7, 2, kind=np.float16),
    }
    cost = count_cost(graph_of(nodes, ["crops", 5, 6], constants, "y"))
    assert cost.parts == {"patches": 0, "blocks": 5 * 7 * 6, "ipg": 0, "head": 5 * 2 * 7}
    assert cost.weight_bytes == 4 + 1 + 6 * 7 * 1 + 7 * 2 * 2
    # Alive at the first product are its two sides (5 x 6 and 5 x 7 floats); the weight made float
    # again is a constant. The quantised input is a quarter, and gone by then.
    assert cost.peak_activation_bytes == 4 * 5 * 6 + 4 * 5 * 7


def test_a_batch_counts_as_one_crop_however_shapes_are_computed() -> None:
    """The class row is repeated for each crop as torch writes it: Shape, Where, Expand."""
    nodes = [
        helper.make_node("Shape", ["images"], ["shape"], "Shape"),
        helper.make_node("Gather", ["shape", "zero"], ["crops"], "Gather"),
        helper.make_node("Unsqueeze", ["crops", "first"], ["n"], "Unsqueeze"),
        helper.make_node("Concat", ["n", "rest"], ["wanted"], "Concat", axis=0),
        helper.make_node("Equal", ["wanted", "minus"], ["open"], "Equal"),
        helper.make_node("Where", ["open", "ones", "wanted"], ["whole"], "Where"),
        helper.make_node("Expand", ["row", "whole"], ["rows"], "patches/Expand"),
        helper.make_node("Concat", ["rows", "images"], ["tokens"], "patches/Concat", axis=1),
        helper.make_node("MatMul", ["tokens", "w"], ["y"], "blocks.0/MatMul"),
    ]
    constants = {
        "zero": np.array(0),
        "first": np.array([0]),
        "rest": np.array([1, 6]),
        "minus": np.array([-1, -1, -1]),
        "ones": np.array([1, 1, 1]),
        "row": zeros(1, 6),
        "w": zeros(6, 7),
    }
    cost = count_cost(graph_of(nodes, ["crops", 5, 6], constants, "y"))
    assert cost.macs == (1 + 5) * 7 * 6


def test_the_peak_is_what_lives_at_once() -> None:
    """images (5 x 4) - a (5 x 8) - view of a - relu (40) - y = a + relu; 4 bytes each."""
    nodes = [
        helper.make_node("MatMul", ["images", "w"], ["a"], "blocks.0/MatMul"),
        helper.make_node("Reshape", ["a", "flat"], ["view"], "blocks.0/Reshape"),
        helper.make_node("Relu", ["view"], ["relu"], "blocks.0/Relu"),
        helper.make_node("ReduceSum", ["relu"], ["sum"], "blocks.0/Sum", keepdims=0),
        helper.make_node("Add", ["a", "sum"], ["y"], "head/Add"),
    ]
    constants = {"w": zeros(4, 8), "flat": np.array([40])}
    cost = count_cost(graph_of(nodes, [5, 4], constants, "y"))
    # MatMul: images 20 + a 40; Relu: a 40 + relu 40 (the view is a itself);
    # ReduceSum: a 40 + relu 40 + sum 1, the most; Add: a 40 + sum 1 + y 40, as much.
    assert cost.peak_activation_bytes == 4 * (40 + 40 + 1)


def test_a_view_keeps_alive_what_it_looks_at() -> None:
    """`a` is read last through its view, three nodes after its own last reader."""
    nodes = [
        helper.make_node("Relu", ["images"], ["a"], "Relu"),
        helper.make_node("Reshape", ["a", "flat"], ["view"], "Reshape"),
        helper.make_node("ReduceSum", ["a"], ["sum"], "Sum", keepdims=0),
        helper.make_node("Expand", ["sum", "large"], ["b"], "Expand"),
        helper.make_node("ReduceMax", ["b"], ["most"], "Max", keepdims=0),
        helper.make_node("Add", ["view", "most"], ["y"], "Add"),
    ]
    constants = {"flat": np.array([20]), "large": np.array([100])}
    cost = count_cost(graph_of(nodes, [5, 4], constants, "y"))
    # ReduceMax: a 20 through its view, b 100, most 1
    assert cost.peak_activation_bytes == 4 * (20 + 100 + 1)


def test_what_is_made_of_constants_alone_is_no_activation() -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["turned"], "Transpose"),
        helper.make_node("MatMul", ["images", "turned"], ["y"], "blocks.0/MatMul"),
    ]
    cost = count_cost(graph_of(nodes, [1, 4], {"w": zeros(1000, 4)}, "y"))
    assert cost.peak_activation_bytes == 4 * (4 + 1000)
    assert cost.weight_bytes == 4 * 4000


def test_weights_outside_the_file_are_counted_without_them() -> None:
    matmul = helper.make_node("MatMul", ["images", "w"], ["y"], "blocks.0/MatMul")
    inside = graph_of([matmul], ["crops", 5, 60], {"w": zeros(60, 70)}, "y")
    outside = onnx.ModelProto.FromString(inside.SerializeToString())
    tensor = outside.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "absent.bin"), ("offset", "0"), ("length", str(4 * 60 * 70))):
        tensor.external_data.add(key=key, value=value)
    assert count_cost(outside) == count_cost(inside)
    assert count_cost(inside).weight_bytes == 4 * 60 * 70


def test_counting_leaves_the_graph_alone() -> None:
    matmul = helper.make_node("MatMul", ["images", "w"], ["y"], "blocks.0/MatMul")
    graph = graph_of([matmul], ["crops", 5, 60], {"w": zeros(60, 70)}, "y")
    before = graph.SerializeToString(deterministic=True)
    count_cost(graph)
    assert graph.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("patches/Conv", "patches"),
        ("/patches/Conv", "patches"),
        ("blocks.3/mlp/fc1/MatMul", "blocks"),
        ("blocks.3/prompts/prompts/proj/MatMul", "blocks"),
        ("blocks.11/instance/means/MatMul", "ipg"),
        ("blocks.3/instances/MatMul", "blocks"),
        ("head/global/q/MatMul", "head"),
        ("output/projection/MatMul", "head"),
        ("outputs/MatMul", "other"),
        ("blocksmith/MatMul", "other"),
        ("", "other"),
    ],
)
def test_a_part_is_the_beginning_of_the_name(name: str, part: str) -> None:
    assert part_of(name) == part


def test_work_of_no_part_is_told_as_other() -> None:
    matmul = helper.make_node("MatMul", ["images", "w"], ["y"], "neck/MatMul")
    cost = count_cost(graph_of([matmul], [1, 3], {"w": zeros(3, 2)}, "y"))
    assert cost.parts["other"] == cost.macs == 6


@pytest.mark.parametrize(
    ("node", "images", "words"),
    [
        (
            helper.make_node("MatMul", ["images", "w"], ["y"], "blocks.0/MatMul"),
            ["crops", "tokens", 3],
            r"'blocks.0/MatMul' \(MatMul\): the shape of 'images' cannot be inferred",
        ),
        (
            helper.make_node("Einsum", ["images", "w"], ["y"], "head/Einsum", equation="ij,jk->ik"),
            ["crops", 3],
            "'head/Einsum' is Einsum, whose multiplications cannot be counted",
        ),
        (
            helper.make_node("FusedMatMul", ["images", "w"], ["y"], "q", domain="com.microsoft"),
            ["crops", 3],
            "'q' is com.microsoft:FusedMatMul, whose multiplications cannot be counted",
        ),
    ],
)
def test_a_product_that_cannot_be_counted_is_named(
    node: onnx.NodeProto, images: Shape, words: str
) -> None:
    graph = graph_of([node], images, {"w": zeros(3, 2)}, "y", domains=("", "com.microsoft"))
    with pytest.raises(BundleError, match=words):
        count_cost(graph)


def trace(module: torch.nn.Module, images: torch.Tensor) -> onnx.ModelProto:
    """The graph as torch writes it, its weights as inputs."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (images,),
            stream,  # type: ignore[arg-type]
            export_params=False,
            do_constant_folding=False,
            input_names=["images"],
            output_names=["embeddings"],
            dynamic_axes={"images": {0: "crops"}, "embeddings": {0: "crops"}},
            opset_version=19,
            dynamo=False,
        )
    return onnx.load_from_string(stream.getvalue())


class Small(torch.nn.Module):
    """Patches, attention in plain products, and a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 4, stride=3)
        self.maps = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
        self.last = torch.nn.Linear(8, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.conv(images).flatten(2).transpose(1, 2)
        q, k, v = (each(tokens).unflatten(-1, (2, 4)).transpose(1, 2) for each in self.maps)
        rows = torch.softmax(q @ k.transpose(2, 3), dim=-1) @ v
        found: torch.Tensor = self.last(rows.transpose(1, 2).flatten(2).mean(dim=1))
        return found


def test_torch_counts_twice_our_macs() -> None:
    module = Small().eval()
    images = torch.zeros(1, 3, 13, 10)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(images)
    cost = count_cost(trace(module, images))
    assert 2 * cost.macs == counter.get_total_flops()
    tokens = 4 * 3
    conv, maps, products = tokens * 8 * 3 * 4 * 4, 3 * tokens * 8 * 8, 2 * tokens * tokens * 8
    assert cost.macs == conv + maps + products + 8 * 5


def cost_of(stride: int, queries: str, *, straight: bool = False) -> Cost:
    """The base network, traced without its 375 MB: folded on tensors that are shapes alone."""
    options = MIPOptions.preset("base", stride=stride, instance_queries=queries)
    with torch.device("meta"):
        model = MIP(options).eval()
    with FakeTensorMode():
        blank(model)
        module = (
            StraightExport(model, Modality.VISIBLE)
            if straight
            else ExportedMIP(model, Modality.VISIBLE)
        )
    blank(module)
    return count_cost(trace(module, torch.zeros((1, 256, 128, 3), dtype=torch.uint8)))


def blank(module: torch.nn.Module) -> None:
    """Put zeros for every weight; under a fake mode, and outside of it until read, they take
    no memory."""
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            zero = torch.zeros(weight.shape, dtype=weight.dtype)
            setattr(part, name, torch.nn.Parameter(zero, requires_grad=False))
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.zeros(buffer.shape, dtype=buffer.dtype))


@pytest.mark.parametrize(
    ("stride", "queries", "most"),
    [
        (12, "zero", 16.0e9),
        (16, "learnable", 11.1e9),
    ],
)  # the two others are counted where their files are run: test_presets.py
def test_the_base_network_costs_less_than_half_of_its_published_macs(
    stride: int, queries: str, most: float
) -> None:
    cost = cost_of(stride, queries)
    assert 0.97 * most < cost.macs <= most
    assert sum(cost.parts.values()) == cost.macs
    assert set(cost.parts) == {"patches", "blocks", "ipg", "head"}


def test_the_straight_graph_costs_what_the_published_code_does() -> None:
    cost = cost_of(12, "zero", straight=True)
    assert cost.parts == {
        "patches": 123_863_040,
        "blocks": 18_200_632_320,  # the ten, and the projection of their modality prompts
        "ipg": 16_780_554_240,
        "head": 3_079_589_376,
    }
    assert cost.macs == 38_184_638_976
