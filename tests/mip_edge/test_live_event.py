"""Events: stamped, given to every sink, never half a line; a sink that fails stops nothing."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mip_edge.errors import OutputError
from mip_edge.live.event import KEPT_FAILURES, RETRY, EventLog, FileSink, rounded, to_json

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)


class Clocks:
    """A wall clock and a monotonic one that the test moves."""

    def __init__(self) -> None:
        self.wall, self.steady = NOON, 100.0

    def pass_by(self, seconds: float, *, jump: float = 0.0) -> None:
        self.steady += seconds
        self.wall += timedelta(seconds=seconds + jump)


class ListSink:
    """Keeps what it is given; fails while `broken`."""

    def __init__(self, name: str = "list") -> None:
        self.name, self.events, self.closed = name, list[dict[str, Any]](), False
        self.broken: Exception | None = None

    def __str__(self) -> str:
        return self.name

    def write(self, event: Mapping[str, Any]) -> None:
        if self.broken is not None:
            raise self.broken
        self.events.append(dict(event))

    def close(self) -> None:
        self.closed = True
        if self.broken is not None:
            raise self.broken

    @property
    def kinds(self) -> list[str]:
        return [event["event"] for event in self.events]


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def log_of(clocks: Clocks, *sinks: ListSink) -> EventLog:
    return EventLog(sinks, clock=lambda: clocks.wall, now=lambda: clocks.steady)


@pytest.fixture
def small_disk() -> Iterator[int]:
    """A process that may write 300 bytes a file: the rest of a write fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    yield 300
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_every_event_is_stamped_with_the_wall_clock_and_given_to_every_sink(
    clocks: Clocks,
) -> None:
    one, other = ListSink(), ListSink()
    log = log_of(clocks, one, other)
    clocks.pass_by(0.25)
    log.write("left", camera="gate", frame=7, time=0.28, track=3, identity=None, crops=2)
    assert one.events == other.events
    assert one.events == [
        {
            "event": "left",
            "at": "2026-03-01T12:00:00.250+00:00",
            "camera": "gate",
            "frame": 7,
            "time": 0.28,
            "track": 3,
            "identity": None,
            "crops": 2,
        }
    ]


def test_a_clock_of_another_zone_is_told_in_utc() -> None:
    sink = ListSink()
    local = datetime(2026, 3, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    EventLog([sink], clock=lambda: local, now=lambda: 0.0).write("end")
    assert sink.events[0]["at"] == "2026-03-01T12:00:00.000+00:00"


def test_boxes_are_tenths_of_a_pixel() -> None:
    assert rounded(np.array([1.04, 2.06, 3, 4.25], np.float32)) == [1.0, 2.1, 3.0, 4.2]


def test_a_file_is_json_lines_that_can_be_read_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog([FileSink(path)])
    log.write("appeared", camera="Tür <1>", track=1)
    assert json.loads(path.read_text())["camera"] == "Tür <1>"
    log.write("end")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["appeared", "end"]
    log.close()


def test_what_is_no_json_is_refused_rather_than_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        to_json({"event": "matched", "score": float("nan")})


def test_a_file_that_cannot_be_opened_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--events .*none/e.jsonl cannot be written"):
        FileSink(tmp_path / "none" / "e.jsonl")


def test_a_disk_that_fills_up_leaves_whole_lines_and_is_tried_again(
    tmp_path: Path, small_disk: int, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = tmp_path / "events.jsonl", ListSink()
    log = EventLog([FileSink(path), other], clock=lambda: clocks.wall, now=lambda: clocks.steady)
    for track in range(6):
        log.write("appeared", camera="gate", track=track)
    lines = path.read_text().splitlines(keepends=True)
    assert 0 < len(lines) < 6
    assert path.stat().st_size <= small_disk
    assert [json.loads(line)["track"] for line in lines] == list(range(len(lines)))
    assert lines[-1].endswith("\n")
    assert other.kinds.count("appeared") == 6, "the other sink has all of them"
    assert other.kinds.count("output_failed") == 1
    (failure,) = log.failures
    assert failure.output == f"--events {path}"
    assert "the run goes on without it" in caplog.text

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    log.write("left", track=0)
    clocks.pass_by(RETRY)
    log.write("left", track=1)
    kinds = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert kinds[len(lines) :] == ["left", "output_back"]
    # Lost: the appearances beyond the first lines, the failure itself, and the first "left".
    back = other.events[-1]
    assert (back["event"], back["lost"]) == ("output_back", 6 - len(lines) + 1 + 1)
    assert len(log.failures) == 1
    log.close()


def test_a_full_disk_is_told_by_its_reason() -> None:
    log = EventLog([FileSink(Path("/dev/full"))])
    log.write("start")
    log.close()
    assert [f.reason for f in log.failures] == ["--events /dev/full: No space left on device"]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), OutputError("list: gone")])
def test_a_sink_that_fails_is_switched_off_once_and_the_others_hear_of_it(
    error: Exception, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = ListSink("bad"), ListSink("good")
    bad.broken = error
    log = log_of(clocks, bad, good)
    for _ in range(3):
        log.write("camera_ended", camera="gate")
        clocks.pass_by(1)
    assert good.kinds == ["camera_ended", "output_failed", "camera_ended", "camera_ended"]
    told = good.events[1]
    assert told["output"] == "bad"
    assert told["reason"] in ("bad: Input/output error", "list: gone")
    assert len(log.failures) == len(caplog.messages) == 1
    clocks.pass_by(RETRY)
    log.write("end")
    assert len(log.failures) == 1, "still the same outage"


def test_two_sinks_that_fail_at_one_event_are_both_told(clocks: Clocks) -> None:
    sinks = [ListSink("one"), ListSink("two"), ListSink("three")]
    sinks[0].broken = sinks[1].broken = OSError(28, "No space left on device")
    log = log_of(clocks, *sinks)
    log.write("start")
    assert sinks[2].kinds == ["start", "output_failed", "output_failed"]
    assert [f.output for f in log.failures] == ["one", "two"]


def test_a_fault_of_ours_is_not_taken_for_a_failed_output(clocks: Clocks) -> None:
    sink = ListSink()
    sink.broken = TypeError("a bug")
    with pytest.raises(TypeError, match="a bug"):
        log_of(clocks, sink).write("start")


def test_a_failed_video_is_an_event_like_a_failed_sink(clocks: Clocks) -> None:
    sink = ListSink()
    log = log_of(clocks, sink)
    log.output_failed("--save out.mp4", "the disk is full")
    assert sink.events[0] == {
        "event": "output_failed",
        "at": "2026-03-01T12:00:00.000+00:00",
        "output": "--save out.mp4",
        "reason": "the disk is full",
    }
    assert log.failures[0].output == "--save out.mp4"


@pytest.mark.parametrize(("jump", "told"), [(3600.0, 3600.0), (-2.5, -2.5)])
def test_a_jump_of_the_wall_clock_is_one_event(clocks: Clocks, jump: float, told: float) -> None:
    sink = ListSink()
    log = log_of(clocks, sink)
    clocks.pass_by(10)
    log.write("appeared")
    clocks.pass_by(1, jump=jump)
    log.write("left")
    log.write("end")
    assert sink.kinds == ["appeared", "clock_jumped", "left", "end"]
    assert sink.events[1]["seconds"] == told
    assert sink.events[1]["at"] == sink.events[2]["at"]


def test_a_quiet_run_hears_of_a_jump_too(clocks: Clocks) -> None:
    sink = ListSink()
    log = log_of(clocks, sink)
    clocks.pass_by(0.1, jump=86_400)
    log.check_clock()
    log.check_clock()
    assert sink.kinds == ["clock_jumped"]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-1.9, 1.9)), max_size=30))
def test_small_corrections_of_the_clock_are_no_jumps(steps: list[tuple[float, float]]) -> None:
    clocks, sink = Clocks(), ListSink()
    log = log_of(clocks, sink)
    for seconds, correction in steps:
        clocks.pass_by(seconds, jump=correction)
        log.write("appeared")
    assert "clock_jumped" not in sink.kinds


def test_an_output_that_fails_for_months_fills_no_memory_and_is_off_until_it_is_back(
    clocks: Clocks,
) -> None:
    log = log_of(clocks)
    for number in range(KEPT_FAILURES + 10):
        log.output_failed("--gallery", f"failure {number}")
    assert len(log.failures) == KEPT_FAILURES
    (off,) = log.off
    assert off.reason == log.failures[-1].reason == f"failure {KEPT_FAILURES + 9}"
    log.output_back("--gallery", 7)
    assert log.off == ()


def test_closing_closes_all_even_where_one_fails(clocks: Clocks) -> None:
    bad, good = ListSink("bad"), ListSink("good")
    log = log_of(clocks, bad, good)
    bad.broken = OSError(5, "Input/output error")
    log.close()
    assert (bad.closed, good.closed) == (True, True)
    assert [f.reason for f in log.failures] == ["bad: Input/output error"]
