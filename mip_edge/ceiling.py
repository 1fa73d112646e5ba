"""Measures how many multiply-accumulates a second this machine's best matrix product reaches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

SIZES = ((256, 768, 768), (512, 1024, 1024), (1024, 1024, 1024), (2048, 768, 3072))
"""Rows, inner length and columns of the products; the fastest is the ceiling. Small ones are there
because a busy machine interrupts long calls."""
_FEWEST, _MOST, _SECONDS = 4, 40, 0.3
"""Calls of one size, at least and at most, and how long they may take together."""
_SEED = 7
_OPSET, _IR_VERSION = 19, 9
_ONNX_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}


@dataclass(frozen=True, slots=True)
class Product:
    """One kind of matrix product, as an ONNX operator computes it with constant weights."""

    operator: str
    left: str
    """Type of the activations."""
    right: str
    """Type of the weights."""
    result: str


PRODUCTS: Mapping[str, Product] = {
    "fp32": Product("MatMul", "float32", "float32", "float32"),
    # Unsigned by signed is what x86-64 multiplies; the runtime is as fast with it on Arm.
    "int8": Product("MatMulInteger", "uint8", "int8", "int32"),
}


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The fastest matrix product of one kind that was seen here."""

    precision: str
    """`fp32` or `int8`."""
    macs_s: float
    """Multiply-accumulates a second."""
    operator: str
    size: tuple[int, int, int]
    """Rows, inner length and columns of the product that was the fastest."""

    def __str__(self) -> str:
        size = "x".join(map(str, self.size))
        return f"{self.precision} {self.macs_s / 1e9:.0f} GMAC/s ({self.operator} {size})"


def measure_ceilings(
    threads: int | None,
    *,
    sizes: Sequence[tuple[int, int, int]] = SIZES,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Ceiling]:
    """The fastest of a few calls of each product and size in ONNX Runtime on the CPU.

    `threads` None leaves the number to the runtime. Weights are constants, packed beforehand as
    those of a network are; threads spin, as nothing else runs.
    """
    found: dict[str, Ceiling] = {}
    rng = np.random.default_rng(_SEED)
    for precision, product in PRODUCTS.items():
        for size in sizes:
            rows, inner, columns = size
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads or 0
            options.log_severity_level = 3
            session = onnxruntime.InferenceSession(
                write_product(product, _draw(rng, (inner, columns), product.right), rows),
                options,
                providers=["CPUExecutionProvider"],
            )
            inputs = {"left": _draw(rng, (rows, inner), product.left)}
            fastest = _fastest_call(session, inputs, clock)
            macs_s = rows * inner * columns / fastest if fastest > 0 else 0.0
            one = Ceiling(precision, macs_s, product.operator, (rows, inner, columns))
            found[precision] = max(found.get(precision, one), one, key=_speed)
    return found


def join_ceilings(
    first: Mapping[str, Ceiling], second: Mapping[str, Ceiling]
) -> dict[str, Ceiling]:
    """The higher of two measurements of the same kinds."""
    return {name: max(one, second[name], key=_speed) for name, one in first.items()}


def write_product(product: Product, weights: NDArray[Any], rows: int) -> bytes:
    """An ONNX file of one product, (rows, inner) by constant (inner, columns).

    Written by hand after onnx.proto, because an edge box has ONNX Runtime and no `onnx`.
    """
    inner, columns = weights.shape
    node = _text(1, "left") + _text(1, "right") + _text(2, "result") + _text(4, product.operator)
    constant = (
        b"".join(_number(1, length) for length in weights.shape)
        + _number(2, _ONNX_TYPES[product.right])
        + _text(8, "right")
        + _bytes(9, np.ascontiguousarray(weights).tobytes())
    )
    graph = (
        _bytes(1, node)
        + _text(2, "product")
        + _bytes(5, constant)
        + _bytes(11, _value("left", product.left, (rows, inner)))
        + _bytes(12, _value("result", product.result, (rows, columns)))
    )
    return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, _number(2, _OPSET))


def _speed(ceiling: Ceiling) -> float:
    return ceiling.macs_s


def _draw(rng: np.random.Generator, shape: tuple[int, int], kind: str) -> NDArray[Any]:
    if kind == "float32":
        return rng.standard_normal(shape, dtype=np.float32)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, dtype=np.dtype(kind), endpoint=True)


def _fastest_call(session: Any, inputs: Mapping[str, Any], clock: Callable[[], float]) -> float:
    """Seconds of the fastest call, after one to warm up."""
    session.run(None, inputs)
    spent: list[float] = []
    while len(spent) < _FEWEST or (len(spent) < _MOST and sum(spent) < _SECONDS):
        start = clock()
        session.run(None, inputs)
        spent.append(clock() - start)
    return min(spent)


def _value(name: str, kind: str, shape: tuple[int, int]) -> bytes:
    """A ValueInfoProto."""
    dimensions = b"".join(_bytes(1, _number(1, length)) for length in shape)
    tensor = _number(1, _ONNX_TYPES[kind]) + _bytes(2, dimensions)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _number(field: int, value: int) -> bytes:
    """A field of protobuf's type 0."""
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    """A field of protobuf's type 2."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, content: str) -> bytes:
    return _bytes(field, content.encode())


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
