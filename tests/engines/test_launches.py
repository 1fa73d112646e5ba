"""The launch list of a plan: kernels told apart, and each lost fusion named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.launches import (
    BLOCK_MAPS,
    Launches,
    count_blocks,
    lint_launches,
    quantized_maps,
    read_launches,
)

WHOLE = Launches(
    attentions=3, gelus=2, residuals=3, int8_products=0, products=9, other=7,
    attended=("blocks.0/attention/Softmax", "blocks.1/attention/Softmax", "head/global/Softmax"),
    activated=("blocks.0/mlp/fc1/MatMul", "blocks.1/mlp/fc1/MatMul"),
    summed=("blocks.0/mlp/fc2/MatMul", "blocks.1/attention/proj/MatMul", "blocks.1/mlp/fc2/MatMul"),
)  # fmt: skip
"""A float16 plan of two blocks that has all it should have."""
QUANTIZED = replace(
    WHOLE, gelus=0, residuals=0, int8_products=12, activated=(), summed=(),
    quantized=tuple(f"blocks.{index}/{path}/MatMul" for index in (0, 1) for path in BLOCK_MAPS),
)  # fmt: skip
"""The same network with every map in INT8."""


def test_launches_are_told_apart_by_the_steps_in_their_names() -> None:
    plan = b"\x00header {\n" + b"\x07".join(
        b"\n  " + entry
        for entry in (
            (
                b'function={ name=_gemm_mha_v2 layers="[ONNX Layer: blocks.0/attention/MatMul]'
                b'\x1f[ONNX Layer: blocks.0/attention/Softmax]" }'
            ),
            b"runtime_fusion={ name=__myl_FcAddDivErfAddMulMul input_args={ } }",
            b"runtime_fusion={ name=__myl_FcAddDivCastErfCastAddMulMul input_args={ } }",
            b"runtime_fusion={ name=__myl_FcAddMulMulMulAddMulTanhAddMulMul input_args={ } }",
            (
                b'runtime_fusion={ name=__myl_FcAddAdd input_args={ "half" "half2" } '
                b'layers="[ONNX Layer: blocks.0/mlp/fc2/MatMul]\x1f'
                b'[ONNX Layer: blocks.0/mlp/Add_1]" }'
            ),
            b"runtime_fusion={ name=__myl_FcAdd input_args={ } }",
            b'fully_connected={ name="blocks.0/attention/q/MatMul" output={ } }',
            b'corrltn={ name="patches/Conv" output={ } }',
            b"function={ name=__myl_AddAddMeanSubMulMean fqn=__myl_AddAddMeanSubMulMean_0x1 }",
            b"mul={ name=shape }",
            b"signal={ name=event }",
        )
    )
    launches = read_launches(plan)
    assert launches == Launches(
        attentions=1,
        gelus=3,
        residuals=1,
        int8_products=0,
        products=3,
        other=1,
        attended=("blocks.0/attention/Softmax",),
        summed=("blocks.0/mlp/fc2/MatMul",),
    )
    assert launches.total == 9
    assert read_launches(memoryview(plan)) == launches


def test_a_product_is_int8_when_both_its_operands_are() -> None:
    plan = b"".join(
        b"\n  " + entry
        for entry in (
            b'tensor={ alignment=128 dims={ 48 48 } name="weight" offset=48 type=int8 }',
            b'sub_tensor={ base="rows.1" dims={ "n" 48 } name="rows^deref" type=int8 }',
            b'tensor={ dims={ "n" 48 } name="halves" offset=0 type=half }',
            (
                b'fully_connected={ name="blocks.0/attention/v/MatMul_U9+blocks.0/attention/k/'
                b'MatMul_U7" output={"out" } input={"rows^deref" "weight" "alpha" "beta" } layers="'
                b"[ONNX Layer: blocks.0/attention/v/MatMul]\x1f"
                b"[ONNX Layer: blocks.0/attention/Concat/DequantizeLinear]\x1f"
                b'[ONNX Layer: blocks.0/attention/k/MatMul]" }'
            ),
            (
                b'fully_connected={ name="blocks.0/attention/q/MatMul_U3" output={"out" } '
                b'input={"halves" "weight" "alpha" } '
                b'layers="[ONNX Layer: blocks.0/attention/q/MatMul]" }'
            ),
            b'function={ name=__myl_Mul input_args={ "rows^deref" "weight" } }',
        )
    )
    launches = read_launches(plan)
    assert launches == Launches(
        attentions=0, gelus=0, residuals=0, int8_products=1, products=1, other=1,
        quantized=("blocks.0/attention/k/MatMul", "blocks.0/attention/v/MatMul"),
    )  # fmt: skip


def test_a_plan_that_fused_all_has_lost_nothing() -> None:
    assert lint_launches(WHOLE, layers=2, precision="fp16") == []
    assert lint_launches(QUANTIZED, layers=2, precision="int8-fp16") == []
    assert lint_launches(QUANTIZED, layers=2, precision="int8") == []


@pytest.mark.parametrize(
    ("field", "node", "line"),
    [
        ("attended", "blocks.1/attention/Softmax", "blocks.1/attention: more than one kernel"),
        ("activated", "blocks.0/mlp/fc1/MatMul", "blocks.0/mlp/fc1: GELU is a kernel of its own"),
        (
            "summed",
            "blocks.1/attention/proj/MatMul",
            "blocks.1/attention/proj: the sum behind it is a kernel of its own",
        ),
    ],
)
def test_each_lost_fusion_of_float16_is_named(field: str, node: str, line: str) -> None:
    left = tuple(name for name in getattr(WHOLE, field) if name != node)
    assert lint_launches(replace(WHOLE, **{field: left}), layers=2, precision="fp16") == [line]


@pytest.mark.parametrize("path", BLOCK_MAPS)
def test_each_map_that_left_int8_is_named(path: str) -> None:
    left = tuple(name for name in QUANTIZED.quantized if name != f"blocks.1/{path}/MatMul")
    assert lint_launches(replace(QUANTIZED, quantized=left), layers=2, precision="int8") == [
        f"blocks.1/{path}: computed in floating point instead of INT8"
    ]


def test_a_map_that_was_turned_back_to_float16_should_fuse_like_one() -> None:
    asked = {name.removesuffix("/MatMul") for name in QUANTIZED.quantized}
    asked -= {"blocks.0/mlp/fc1", "blocks.1/mlp/fc2"}
    lost = lint_launches(QUANTIZED, layers=2, precision="int8-fp16", quantized=asked)
    assert lost == [
        "blocks.0/mlp/fc1: GELU is a kernel of its own",
        "blocks.1/mlp/fc2: the sum behind it is a kernel of its own",
    ]


def test_turing_is_not_asked_for_the_sum_behind_attention() -> None:
    left = replace(WHOLE, summed=("blocks.0/mlp/fc2/MatMul", "blocks.1/mlp/fc2/MatMul"))
    assert lint_launches(left, layers=2, precision="fp16", turing=True) == []
    assert len(lint_launches(left, layers=2, precision="fp16")) == 1


def test_float32_is_asked_for_nothing() -> None:
    bare = Launches(attentions=0, gelus=0, residuals=0, int8_products=0, products=30, other=30)
    assert lint_launches(bare, layers=2, precision="fp32") == []


def test_a_graph_tells_its_blocks_and_int8_maps_by_its_names() -> None:
    # the byte before a name is its length, and may look like a letter
    graph = (
        b"\x08\x12blocks.0/attention/Softmax\x1a\x07blocks.11/attention/Softmax"
        b"0blocks.11/attention/q/weight/DequantizeLinear blocks.0/mlp/fc1/weight/DequantizeLinear"
        b"blocks.0/norm1/LayerNormalization/DequantizeLinear head/global/Softmax"
    )
    assert count_blocks(graph) == 2
    assert quantized_maps(graph) == {"blocks.11/attention/q", "blocks.0/mlp/fc1"}


@given(st.binary())
def test_a_plan_without_a_list_has_no_launches(plan: bytes) -> None:
    assert read_launches(plan) is None
