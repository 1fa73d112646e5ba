"""The fastest of what is here: by a clock of our own, so that every figure is known."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.base import Engine, Inputs
from engines.cache import EngineCache
from engines.choice import BATCH, Candidate, Measured, Question, choose, measure
from engines.fake import FakeBackend
from mip_edge.artifact import Bundle, FileRecord, Graph, Manifest, Precision
from mip_edge.errors import EngineError, OutputError
from mip_edge.spec import EmbedderSpec, Embeddings, Modality
from mip_edge.thresholds_record import LearntThresholds

SPEC = EmbedderSpec(Modality.VISIBLE, 8, 4, 16, "abc")
FAST, SLOW, LAME = (Candidate(name, "fp32") for name in ("fast", "slow", "lame"))
SPEEDS = {FAST: 1.0, SLOW: 1.25, LAME: 4.0}
"""Milliseconds a crop."""


class Bench:
    """A clock that only embedding moves, and a count of what is open."""

    def __init__(self, speeds: dict[Candidate, float]) -> None:
        self.speeds = speeds
        self.now = 0.0
        self.open: list[Candidate] = []
        self.most_open = 0
        self.calls: list[Candidate] = []

    def clock(self) -> float:
        return self.now

    def open_one(self, candidate: Candidate) -> Engine:
        if candidate not in self.speeds:
            raise EngineError(f"no {candidate} here.")
        return Engine(TimedBackend(self, candidate), name=candidate.engine)


class TimedBackend(FakeBackend):
    def __init__(self, bench: Bench, candidate: Candidate) -> None:
        super().__init__({SPEC.modality: SPEC})
        self.bench, self.candidate = bench, candidate
        bench.open.append(candidate)
        bench.most_open = max(bench.most_open, len(bench.open))

    def embed(self, inputs: Inputs) -> Embeddings:
        count = len(inputs["images"])
        self.bench.calls.append(self.candidate)
        self.bench.now += self.bench.speeds[self.candidate] * count / 1000
        return np.zeros((count, SPEC.dimension), np.float32)

    def close(self) -> None:
        self.bench.open.remove(self.candidate)


def make_bundle(folder: Path, *precisions: str) -> Bundle:
    """Graphs that no engine would open, each with a weight file, and two files beside them."""
    folder.mkdir(exist_ok=True)
    records = {name: FileRecord("3" * 64, 5) for name in ("NOTICE", "other.bin")}
    for name in precisions:
        (folder / f"{name}.onnx").write_bytes(f"a graph with weights in {name}.bin".encode())
        records |= {f"{name}.onnx": FileRecord("1" * 64, 7), f"{name}.bin": FileRecord("2" * 64, 9)}
    held = {name: Precision({SPEC.modality: Graph(f"{name}.onnx")}) for name in precisions}
    lights = {SPEC.modality: SPEC}, {SPEC.modality: "none"}
    return Bundle(folder, Manifest("f" * 64, {}, *lights, held, files=records))


def make_question(tmp_path: Path, *candidates: Candidate) -> Question:
    precisions = {candidate.precision for candidate in candidates}
    bundle = make_bundle(tmp_path / "bundle", *sorted(precisions))
    runtimes = {candidate.engine: ("numpy",) for candidate in candidates}
    return Question("engine auto, precision auto", bundle, candidates, runtimes)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the choice said; the cache beside it tells lines of its own."""
    return [one.getMessage() for one in caplog.records if one.name == "engines.choice"]


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


def test_the_near_are_timed_in_turn_and_the_far_only_alone() -> None:
    bench = Bench(SPEEDS)
    found = measure((LAME, SLOW, FAST), bench.open_one, bench.clock)
    assert found.in_turn == pytest.approx({SLOW: 1.25, FAST: 1.0})
    assert found.behind == pytest.approx({LAME: 4.0})
    assert found.fastest == FAST
    assert bench.calls[-6:] == [SLOW, FAST] * 3
    assert bench.most_open == 2  # never all three at the same time
    assert bench.open == []


def test_one_that_nobody_comes_near_is_not_timed_again() -> None:
    bench = Bench({FAST: 1.0, LAME: 4.0})
    found = measure((FAST, LAME), bench.open_one, bench.clock)
    assert (found.fastest, found.behind) == (FAST, pytest.approx({LAME: 4.0}))
    assert bench.calls.count(FAST) == bench.calls.count(LAME)


def test_where_only_one_opens_at_a_time_they_are_compared_one_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(SPEEDS)

    def open_one(candidate: Candidate) -> Engine:
        if bench.open:
            raise EngineError("the GPU is full")
        return bench.open_one(candidate)

    found = measure((SLOW, FAST), open_one, bench.clock)
    assert found.in_turn == pytest.approx({SLOW: 1.25, FAST: 1.0})
    assert found.refused == {}
    assert "compared one by one: the GPU is full" in caplog.text
    assert bench.open == []


def test_what_does_not_open_is_left_out_and_told(
    tmp_path: Path, cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench({FAST: 1.0, SLOW: 1.25})
    question = make_question(tmp_path, LAME, FAST, SLOW)
    with caplog.at_level(logging.INFO, logger="engines.choice"):
        assert choose(question, bench.open_one, cache=cache, clock=bench.clock) == FAST
    assert told(caplog)[0] == (
        f"engine auto, precision auto: took fast fp32, the fastest at batch {BATCH} (fast fp32 "
        "1.00, slow fp32 1.25 ms a crop; without lame fp32: no lame fp32 here; measured now)"
    )


def test_nothing_that_opens_is_an_error_with_every_reason(
    tmp_path: Path, cache: EngineCache
) -> None:
    bench = Bench({})
    with pytest.raises(EngineError, match="no fast fp32 here.*no slow fp32 here"):
        choose(make_question(tmp_path, FAST, SLOW), bench.open_one, cache=cache)
    assert cache.list() == []  # and the next time it is tried again


def test_it_is_measured_once(
    tmp_path: Path, cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(SPEEDS)
    question = make_question(tmp_path, FAST, LAME)
    choose(question, bench.open_one, cache=cache, clock=bench.clock)
    spent = bench.now
    with caplog.at_level(logging.INFO, logger="engines.choice"):
        assert choose(question, bench.open_one, cache=cache, clock=bench.clock) == FAST
    assert bench.now == spent
    assert "out in the first round: lame fp32 4.00" in told(caplog)[-1]
    assert told(caplog)[-1].endswith("measured before, delete with: mip-edge cache clear)")
    cache.clear()
    choose(question, bench.open_one, cache=cache, clock=bench.clock)
    assert bench.now > spent


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is to last has no room any more."""

    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("mip_edge.output.os.fsync", refuse)


def test_a_cache_that_cannot_be_written_is_told_and_the_fastest_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    bench = Bench(SPEEDS)
    question = make_question(tmp_path, SLOW, FAST)
    with caplog.at_level(logging.INFO, logger="engines.choice"):
        found = choose(
            question, bench.open_one, cache=EngineCache(tmp_path / "file"), clock=bench.clock
        )
    assert found == FAST
    (line,) = warned(caplog)
    assert line == (
        "engine auto, precision auto: the answer could not be kept and is measured at every "
        f"start: the engine cache {tmp_path / 'file'} cannot be written: File exists. Choose "
        "another folder with MIP_EDGE_CACHE"
    )
    assert told(caplog)[-1].endswith("measured now)")


def test_a_disk_that_is_full_does_not_have_it_measured_twice(
    tmp_path: Path,
    cache: EngineCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fill_the_disk(monkeypatch)
    once, bench = Bench(SPEEDS), Bench(SPEEDS)
    measure((SLOW, FAST), once.open_one, once.clock)
    question = make_question(tmp_path, SLOW, FAST)
    assert choose(question, bench.open_one, cache=cache, clock=bench.clock) == FAST
    assert bench.calls == once.calls
    (line,) = warned(caplog)
    assert "No space left on device" in line
    assert line.count("MIP_EDGE_CACHE") == 1
    assert cache.list() == []


def test_an_answer_that_cannot_be_read_is_measured_anew(
    tmp_path: Path, cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(SPEEDS)
    question = make_question(tmp_path, SLOW, FAST)
    (cache.root / f"{question.key().digest()}.json").mkdir(parents=True)
    assert choose(question, bench.open_one, cache=cache, clock=bench.clock) == FAST
    (line,) = warned(caplog)
    assert "could not be kept" in line


def test_one_whose_plan_has_no_room_is_left_out_and_asked_again_the_next_time(
    tmp_path: Path, cache: EngineCache, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(SPEEDS)
    full = True

    def open_one(candidate: Candidate) -> Engine:
        if full and candidate == FAST:
            raise OutputError("plan.bin cannot be written: No space left on device")
        return bench.open_one(candidate)

    question = make_question(tmp_path, SLOW, FAST)
    with caplog.at_level(logging.INFO, logger="engines.choice"):
        assert choose(question, open_one, cache=cache, clock=bench.clock) == SLOW
    assert "without fast fp32: plan.bin cannot be written" in told(caplog)[-1]
    (line,) = warned(caplog)
    assert "plan.bin cannot be written" in line
    full = False
    assert choose(question, open_one, cache=cache, clock=bench.clock) == FAST


def test_nothing_that_opens_is_the_error_where_the_cache_cannot_be_written_either(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    cache = EngineCache(tmp_path / "file" / "cache")
    with pytest.raises(EngineError, match="no fast fp32 here.*no slow fp32 here"):
        choose(make_question(tmp_path, FAST, SLOW), Bench({}).open_one, cache=cache)


def with_manifest(question: Question, **changed: Any) -> Question:
    bundle = question.bundle
    return replace(question, bundle=replace(bundle, manifest=replace(bundle.manifest, **changed)))


def with_files(question: Question, *names: str) -> Question:
    """The same, where these files are others."""
    files = question.bundle.manifest.files
    return with_manifest(
        question, files={**files, **{name: FileRecord("4" * 64, 11) for name in names}}
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda question: with_manifest(
            question, learnt=LearntThresholds(0.01, {}, {}, {}, "somebody")
        ),
        lambda question: with_manifest(question, min_similarity=0.5),
        lambda question: with_files(question, "NOTICE", "thresholds.json", "other.bin"),
        lambda question: with_manifest(
            question, created_by="another version", licence="another", provenance={"note": "x"}
        ),
        lambda question: with_manifest(
            question, specs={SPEC.modality: replace(SPEC, fingerprint="another")}
        ),
        lambda question: replace(
            question, bundle=make_bundle(question.bundle.path, "fp32", "int8")
        ),
    ],
    ids=["thresholds", "threshold", "files", "notes", "name", "precision nobody asked for"],
)
def test_what_no_engine_computes_is_not_measured_anew(
    tmp_path: Path, cache: EngineCache, change: Callable[[Question], Question]
) -> None:
    bench = Bench(SPEEDS)
    question = make_question(tmp_path, FAST, SLOW)
    choose(question, bench.open_one, cache=cache, clock=bench.clock)
    calls = len(bench.calls)
    assert choose(change(question), bench.open_one, cache=cache, clock=bench.clock) == FAST
    assert len(bench.calls) == calls


def test_a_precision_that_came_to_the_bundle_is_measured_anew(
    tmp_path: Path, cache: EngineCache
) -> None:
    bench = Bench({FAST: 1.0, SLOW: 1.25, Candidate("slow", "int8"): 0.5})
    before = make_question(tmp_path, FAST, SLOW)
    assert choose(before, bench.open_one, cache=cache, clock=bench.clock) == FAST
    after = make_question(tmp_path, FAST, SLOW, Candidate("slow", "int8"))
    found = choose(after, bench.open_one, cache=cache, clock=bench.clock)
    assert found == Candidate("slow", "int8")


@pytest.mark.parametrize(
    "change",
    [
        lambda question: replace(question, threads=2),
        lambda question: replace(question, options={"hint": "throughput"}),
        lambda question: replace(question, candidates=(FAST, LAME)),
        lambda question: replace(question, runtimes={"fast": ("numpy", "onnxruntime")}),
        lambda question: with_files(question, "fp32.onnx"),
        lambda question: with_files(question, "fp32.bin"),
        lambda question: with_manifest(
            question, specs={SPEC.modality: replace(SPEC, height=SPEC.height + 1)}
        ),
        lambda question: with_manifest(question, layout="unified"),
    ],
    ids=[
        "threads", "options", "candidates", "runtimes", "graph", "weights", "crops", "layout",
    ],
)  # fmt: skip
def test_another_question_is_measured_anew(
    tmp_path: Path, change: Callable[[Question], Question]
) -> None:
    question = make_question(tmp_path, FAST, SLOW)
    assert make_question(tmp_path, FAST, SLOW).key() == question.key()
    assert change(question).key() != question.key()


def test_another_machine_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    question = make_question(tmp_path, FAST, SLOW)
    before = question.key()
    monkeypatch.setattr("engines.choice.describe_machine", lambda: "another processor, 4 cores")
    assert question.key() != before


candidates = st.builds(
    Candidate, st.sampled_from(["a", "b", "c"]), st.sampled_from(["fp32", "int8-fp16"])
)


@settings(max_examples=30)
@given(
    st.dictionaries(candidates, st.floats(0, 1e6), max_size=3),
    st.dictionaries(candidates, st.floats(0, 1e6), max_size=3),
    st.dictionaries(candidates, st.text(max_size=20), max_size=3),
)
def test_what_was_measured_is_read_back(
    in_turn: dict[Candidate, float], behind: dict[Candidate, float], refused: dict[Candidate, str]
) -> None:
    found = Measured(in_turn, behind, refused)
    assert Measured.from_bytes(found.to_bytes()) == found
