"""What a TensorRT-RTX plan launches, read from its text, and which fusions it should have but lost.

The text is NVIDIA's own and documented nowhere: this is a lint that shows when a change of the
graph loses a fusion, no contract. Another version may write it otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

KINDS = ("attentions", "gelus", "residuals", "int8_products", "products", "other")
"""Fields of `Launches` that count kernels; a kernel is in one of them."""
BLOCK_MAPS = ("attention/q", "attention/k", "attention/v", "attention/proj", "mlp/fc1", "mlp/fc2")
"""Linear maps of a block that INT8 may compute."""

_LAUNCH = re.compile(
    rb'\n  (function|runtime_fusion|fully_connected|corrltn)=\{ name="?([^\s"]+)([^\n]*)'
)
_OPERANDS = re.compile(r" (?:input|input_args)=\{([^}]*)\}")
_NAME = re.compile(r'"([^"]+)"')
_LAYERS = re.compile(r'layers="([^"]*)"')
_LAYER = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_INT8 = re.compile(rb'\n  (?:sub_)?tensor=\{[^\n]*? name="([^"]+)"[^\n]* type=int8 \}')
_SOFTMAX = re.compile(rb"blocks\.(\d+)/attention/Softmax")
_QUANTIZED = re.compile(
    rb"(blocks\.\d+/(?:attention/(?:[qkv]|proj)|mlp/fc[12]))/(?:smoothed_)?weight/Dequant"
)


@dataclass(frozen=True, slots=True)
class Launches:
    """Kernels that a plan of TensorRT-RTX launches, by what was fused into them."""

    attentions: int
    """Attention as one kernel: both products and the softmax between them."""
    gelus: int
    """Linear map, bias and GELU as one kernel."""
    residuals: int
    """Linear map, bias and the sum with the rows before it as one kernel."""
    int8_products: int
    """Other matrix products whose two operands are INT8."""
    products: int
    """Other matrix products and convolutions, with a bias or none."""
    other: int
    """What is no product: norms, softmax, transposition, copies of constants."""
    attended: tuple[str, ...] = ()
    """The graph's Softmax nodes that lie inside `attentions`, sorted."""
    activated: tuple[str, ...] = ()
    """The graph's MatMul nodes inside `gelus`, sorted."""
    summed: tuple[str, ...] = ()
    """The graph's MatMul nodes inside `residuals`, sorted."""
    quantized: tuple[str, ...] = ()
    """The graph's MatMul nodes of INT8 operands, whatever is fused behind them, sorted."""

    @property
    def total(self) -> int:
        """All kernels of one run."""
        return sum(self.counts().values())

    def counts(self) -> dict[str, int]:
        """Kernels by kind."""
        return {kind: getattr(self, kind) for kind in KINDS}


def read_launches(plan: bytes | memoryview) -> Launches | None:
    """Count the kernels in a plan of TensorRT-RTX; None if it holds no list of them.

    A plan for several compute capabilities holds one list.
    """
    int8 = set(_INT8.findall(plan))
    counts: dict[str, int] = dict.fromkeys(KINDS, 0)
    nodes: dict[str, set[str]] = {
        field: set() for field in ("attended", "activated", "summed", "quantized")
    }
    for launch in _LAUNCH.finditer(plan):
        entry, name, rest = (part.decode("utf-8", "replace") for part in launch.groups())
        kind = _fused(entry, name)
        layers = _LAYERS.search(rest)
        within = _LAYER.findall(layers[1]) if layers else []
        maps = {node for node in within if node.endswith("/MatMul")}
        operands = _OPERANDS.search(rest)
        if entry != "function" and operands and _count_int8(operands[1], int8) == 2:
            nodes["quantized"] |= maps
            kind = "int8_products" if kind == "products" else kind
        counts[kind] += 1
        if kind == "attentions":
            nodes["attended"] |= {node for node in within if node.endswith("Softmax")}
        elif kind == "gelus":
            nodes["activated"] |= maps
        elif kind == "residuals":
            nodes["summed"] |= maps
    if not any(counts.values()):
        return None
    found: dict[str, Any] = {field: tuple(sorted(names)) for field, names in nodes.items()}
    return Launches(**{**found, **counts})


def lint_launches(
    launches: Launches,
    *,
    layers: int,
    precision: str,
    quantized: Collection[str] | None = None,
    turing: bool = False,
) -> list[str]:
    """What a plan of an exported graph should have fused and did not, in words.

    `layers` are the blocks of the graph; `quantized` the linear maps that INT8 should compute
    (`blocks.0/attention/q`), None for all of `BLOCK_MAPS` where the precision is INT8.
    In float32, and beside Q/DQ in float32, attention stays three kernels and the MLP may be written
    in halves: there only the INT8 products are asked for. No epilogue fuses into INT8 products, and
    for `turing` (compute capability 7.5) no sum into the map behind attention.
    """
    blocks = [f"blocks.{index}" for index in range(layers)]
    expected = set() if quantized is None else set(quantized)
    if quantized is None and "int8" in precision:
        expected = {f"{block}/{path}" for block in blocks for path in BLOCK_MAPS}
    lost = [
        f"{path}: computed in floating point instead of INT8"
        for path in sorted(expected)
        if f"{path}/MatMul" not in launches.quantized
    ]
    if "fp16" not in precision:
        return lost
    lost += [
        f"{block}/attention: more than one kernel"
        for block in blocks
        if f"{block}/attention/Softmax" not in launches.attended
    ]
    lost += [
        f"{block}/mlp/fc1: GELU is a kernel of its own"
        for block in blocks
        if f"{block}/mlp/fc1" not in expected
        and f"{block}/mlp/fc1/MatMul" not in launches.activated
    ]
    # In front of the first block's sum stands what joins the tokens, and that sum goes with it.
    sums = [] if turing else [f"{block}/attention/proj" for block in blocks[1:]]
    sums += [f"{block}/mlp/fc2" for block in blocks]
    lost += [
        f"{path}: the sum behind it is a kernel of its own"
        for path in sums
        if path not in expected and f"{path}/MatMul" not in launches.summed
    ]
    return lost


def count_blocks(graph: bytes) -> int:
    """Blocks of an exported graph, by the names in its file; no parser is needed for that."""
    return len(set(_SOFTMAX.findall(graph)))


def quantized_maps(graph: bytes) -> set[str]:
    """Linear maps of the blocks whose weights are INT8, by the names in the graph's file."""
    return {path.decode() for path in _QUANTIZED.findall(graph)}


def _fused(entry: str, name: str) -> str:
    """The field of `Launches` for one entry, such as runtime_fusion `__myl_FcAddDivErfAddMulMul`:
    the steps of a fused kernel stand in its name, in their order."""
    if "_mha_" in name:
        return "attentions"
    if entry == "function":
        return "other"
    steps = re.findall("[A-Z][a-z]+", name) if entry == "runtime_fusion" else []
    if "Erf" in steps or "Tanh" in steps:
        return "gelus"
    return "residuals" if steps.count("Add") > 1 else "products"


def _count_int8(operands: str, int8: Collection[bytes]) -> int:
    return sum(name.encode() in int8 for name in _NAME.findall(operands))
