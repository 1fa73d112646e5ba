"""Training steps timed with a clock of our own, so that the numbers are known."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="a training step is torch's")

from mip_edge import benchmark_train as module  # noqa: E402
from mip_edge.benchmark_train import (  # noqa: E402
    OURS,
    STRAIGHT,
    TrainBenchmark,
    TrainBenchmarkOptions,
    benchmark_train,
    build_steps,
    format_train_benchmark,
)
from mip_edge.cli import cli  # noqa: E402
from mip_edge.errors import OptionError, TrainingError  # noqa: E402
from mip_edge.model.mip import MIP  # noqa: E402

LITTLE = TrainBenchmarkOptions(model="tiny", image_size=(32, 32), stride=16, threads=1)


def clock_of(durations: list[float]) -> Callable[[], float]:
    """A clock by which step after step takes the next of `durations`."""
    stops = [0.0, *itertools.accumulate(durations)]
    readings = iter([time for pair in itertools.pairwise(stops) for time in pair])
    return lambda: next(readings)


@pytest.fixture(scope="module")
def timed() -> TrainBenchmark:
    durations = [100, 900, 2, 5, 1, 8, 4, 6]  # in turn; the first of each is to warm up
    peaks = {OURS: 3 * 2**20, STRAIGHT: 5 * 2**20}
    return benchmark_train(
        LITTLE, clock=clock_of(durations), memory=lambda options, name: peaks[name]
    )


def test_the_median_step_gives_crops_a_second_and_the_ratio(timed: TrainBenchmark) -> None:
    ours, straight = timed.timings
    assert (ours.forward, ours.median_s, ours.fastest_s) == ("mip-edge", 2, 1)
    assert (straight.forward, straight.median_s, straight.fastest_s) == ("straight", 6, 5)
    assert (ours.crops_s, straight.crops_s) == pytest.approx((8 / 2, 8 / 6))
    assert (ours.speedup, straight.speedup) == pytest.approx((6 / 2, 1))
    assert (ours.peak_mib, straight.peak_mib) == (3, 5)
    assert timed.device == "cpu with 1 thread"


def test_the_table_says_what_was_trained_where(timed: TrainBenchmark) -> None:
    head, ours, straight, where = format_train_benchmark(timed).splitlines()
    assert head.split() == ["forward", "s/step", "crops/s", "x", "straight", "peak", "MiB"]
    assert ours.split() == ["mip-edge", "2.000", "4.00", "3.00", "3"]
    assert straight.split() == ["straight", "6.000", "1.33", "1.00", "5"]
    assert where.startswith("tiny at 32x32, stride 16, batch 8, zero queries, IAEL off, mixed")


@pytest.mark.parametrize("amp", [False, True])
def test_a_step_trains_the_one_network_of_both(monkeypatch: pytest.MonkeyPatch, amp: bool) -> None:
    built: list[MIP] = []

    class Watched(MIP):
        def __init__(self, options: object) -> None:
            super().__init__(options)  # type: ignore[arg-type]
            built.append(self)

    monkeypatch.setattr(module, "MIP", Watched)
    options = TrainBenchmarkOptions(
        **{name: getattr(LITTLE, name) for name in ("model", "image_size", "stride")},
        amp=amp,
        accumulate=2,
    )
    steps = build_steps(options, torch.device("cpu"))
    [model] = built
    for name in (OURS, STRAIGHT):
        before = model.classifiers[0].weight.clone()  # type: ignore[operator]
        steps[name]()
        assert not torch.equal(model.classifiers[0].weight, before)  # type: ignore[arg-type]


def test_memory_counts_weights_gradients_and_momentum() -> None:
    weights = 4 * sum(one.numel() for one in MIP(LITTLE.network()).parameters())
    assert module._peak_of_fresh_process(LITTLE, OURS) >= 3 * weights


def die(options: TrainBenchmarkOptions, name: str) -> float:
    """What the kernel does to a process that takes too much."""
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def test_a_killed_measurement_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cpu_peak", die)
    with pytest.raises(TrainingError, match="memory of 'straight' was killed.*smaller --batch"):
        module._peak_of_fresh_process(LITTLE, STRAIGHT)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 6}, r"--batch must be a multiple of 4 .*, got 6"),
        ({"steps": 0}, "--steps must be at least 1, got 0"),
        ({"accumulate": 0}, "--accumulate must be at least 1, got 0"),
        ({"accumulate": 9}, "--accumulate must be at most --batch 8, got 9"),
        ({"model": "huge"}, "model must be one of"),
        ({"image_size": (16, 16)}, "the head needs at least 4"),
    ],
)
def test_an_option_that_cannot_be_is_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        TrainBenchmarkOptions(**changes)  # type: ignore[arg-type]


def test_command_prints_a_table_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_peak_of_fresh_process", lambda options, name: 2.0**20)
    size = ["--image-size", "32", "32", "--stride", "16", "--threads", "1"]
    arguments = ["benchmark-train", "--model", "tiny", *size, "--steps", "1", "--amp", "on"]
    table = CliRunner().invoke(cli, arguments)
    assert table.exit_code == 0, table.output
    assert [line.split()[0] for line in table.stdout.splitlines()[1:3]] == [OURS, STRAIGHT]
    assert "mixed precision on" in table.stdout
    document = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert document["options"]["amp"] is True
    assert [timing["forward"] for timing in document["timings"]] == [OURS, STRAIGHT]
    assert all(timing["peak_mib"] == 1 for timing in document["timings"])


def test_command_refuses_a_device_that_is_not_there() -> None:
    result = CliRunner().invoke(cli, ["benchmark-train", "--device", "cuda:99"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: --device cuda:99 cannot be used")
