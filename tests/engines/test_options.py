"""Options of an engine: what is typed becomes a value of the right type, or one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.options import EngineOption, list_options, parse_options
from mip_edge.errors import OptionError

KNOWN = {
    "hint": EngineOption(str, "what to aim at", ("latency", "throughput")),
    "device": EngineOption(str, "what computes"),
    "batch": EngineOption(int, "the largest", smallest=1),
    "fast": EngineOption(bool, "hurry"),
}


def test_texts_become_values_of_their_types() -> None:
    texts = ["hint=latency", "device= cuda:1 ", "batch=8", "fast=Yes"]
    expected = {"hint": "latency", "device": "cuda:1", "batch": 8, "fast": True}
    assert parse_options("any", KNOWN, texts) == expected
    assert parse_options("any", KNOWN, ["device=a=b", "fast=0"]) == {"device": "a=b", "fast": False}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hint=speed", "hint=speed: expected latency, throughput"),
        ("batch=0", "batch=0: expected a whole number from 1"),
        ("batch=-1", "batch=-1: expected a whole number from 1"),
        ("batch=two", "batch=two: expected a whole number from 1"),
        ("fast=maybe", "fast=maybe: expected true, false"),
        ("device=", "device=: expected text"),
        ("hint", "'hint': expected KEY=VALUE; the engine any has: hint"),
        ("=x", "'=x': expected KEY=VALUE"),
        ("speed=9", "has no option 'speed'; the engine any has: hint .*batch .*fast"),
    ],
)
def test_what_cannot_be_names_what_can(text: str, expected: str) -> None:
    with pytest.raises(OptionError, match=expected):
        parse_options("any", KNOWN, [text])


def test_a_key_given_twice_is_refused() -> None:
    with pytest.raises(OptionError, match="batch is given twice"):
        parse_options("any", KNOWN, ["batch=1", "batch=2"])


def test_true_is_no_number_and_one_is_no_truth() -> None:
    with pytest.raises(OptionError, match="batch=True"):
        KNOWN["batch"].check("batch", True)
    with pytest.raises(OptionError, match="fast=1"):
        KNOWN["fast"].check("fast", 1)


def test_an_engine_without_options_says_so() -> None:
    assert list_options("fake", {}) == "the engine fake has none"


@given(st.integers(min_value=1, max_value=10**9))
def test_every_number_from_the_smallest_is_read_back(number: int) -> None:
    assert parse_options("any", KNOWN, [f"batch={number}"]) == {"batch": number}
