"""Which engine is told what."""

from __future__ import annotations

import pytest

from mip_edge.benchmark_options import BenchmarkOptions
from mip_edge.errors import OptionError

BOTH = ("onnxruntime", "openvino")


def test_an_option_goes_to_every_engine_that_knows_it() -> None:
    options = BenchmarkOptions(engines=BOTH, engine_options=("hint=throughput",))
    options.check_engine_options(BOTH)
    assert options.options_of("openvino") == {"hint": "throughput"}
    assert options.options_of("onnxruntime") == {}


def test_an_option_with_an_engine_goes_to_that_engine_alone() -> None:
    options = BenchmarkOptions(engines=BOTH, engine_options=("openvino.dtype=bf16",))
    options.check_engine_options((*BOTH, "torch"))
    assert options.options_of("openvino") == {"dtype": "bf16"}
    assert options.options_of("torch") == {}


def test_an_option_that_no_engine_of_the_run_knows_is_refused() -> None:
    options = BenchmarkOptions(engines=BOTH, engine_options=("colour=red",))
    with pytest.raises(OptionError, match="'colour'; there are: .*hint"):
        options.check_engine_options(BOTH)
    elsewhere = BenchmarkOptions(engines=("fake",), engine_options=("hint=latency",))
    with pytest.raises(OptionError, match="none of fake has the option 'hint'; there are: none"):
        elsewhere.check_engine_options(("fake",))
    foreign = BenchmarkOptions(engines=("fake",), engine_options=("openvino.hint=latency",))
    with pytest.raises(OptionError, match=r"openvino is not among the engines .* \(fake\)"):
        foreign.check_engine_options(("fake",))


def test_a_value_that_an_engine_does_not_take_is_refused() -> None:
    options = BenchmarkOptions(engines=BOTH, engine_options=("hint=slow",))
    with pytest.raises(OptionError, match="hint=slow: expected latency, throughput"):
        options.check_engine_options(BOTH)


def test_memory_is_measured_of_engines_that_are_named() -> None:
    assert BenchmarkOptions(engines=BOTH, memory=True).memory
    with pytest.raises(OptionError, match="name them instead of auto"):
        BenchmarkOptions(engines=("onnxruntime", "auto"), memory=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ((), (True, True)),
        (("provider=cpu",), (True, True)),
        (("provider=cuda",), (False, True)),
        (("device=GPU",), (True, False)),
        (("openvino.dtype=f32",), (True, True)),
        (("openvino.dtype=bf16",), (True, False)),
    ],
)
def test_only_what_computes_as_the_ceiling_does_is_held_against_it(
    text: tuple[str, ...], expected: tuple[bool, bool]
) -> None:
    options = BenchmarkOptions(engines=BOTH, engine_options=text)
    assert tuple(options.has_ceiling(engine) for engine in BOTH) == expected
    assert not options.has_ceiling("tensorrt")
