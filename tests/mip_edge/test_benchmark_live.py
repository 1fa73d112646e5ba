"""The benchmark of the live loop: what it plays, what it computes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mip_edge import benchmark_live as module
from mip_edge.benchmark_live import (
    LiveBenchmarkOptions,
    LoopedFilm,
    _growth,
    _Ledger,
    benchmark_live,
    count_people,
)
from mip_edge.benchmark_live_result import Line, LiveBenchmark, People, Sample, Setting, slope
from mip_edge.cli import cli
from mip_edge.errors import OptionError
from mip_edge.gallery.memory import MemoryGallery
from mip_edge.live.loop import LiveOptions
from mip_edge.live.options import MOTION
from mip_edge.live.report import IDENTIFY, CameraReport, Stopwatch
from mip_edge.live.source import VideoSource
from mip_edge.live.source_options import SourceOptions
from mip_edge.spec import Crop, Embeddings, Modality
from mip_edge.synthetic.footage import FilmOptions, write_film

FRAMES = 40
SETTING = Setting("onnxruntime", "fp32", "a machine")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras, 20 seconds of 2 frames each."""
    folder = tmp_path_factory.mktemp("film") / "world"
    write_film(folder, FilmOptions(cameras=2, people=4, at_once=3, seconds=20, rate=2,
                                   size=(240, 320)))  # fmt: skip
    return folder


def source_of(film: Path, name: str = "gate") -> SourceOptions:
    return SourceOptions(name, str(film / f"{name}.mp4"))


class Shades:
    fingerprint, dimension = "shades", 2
    min_similarity: float | None = 0.97

    def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
        angles = np.array([float(crop.mean()) / 255 * np.pi / 2 for crop in crops])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def play(options: LiveBenchmarkOptions, **keywords: Any) -> LiveBenchmark:
    def live(**asked: Any) -> LiveOptions:
        return LiveOptions(**asked, detector=MOTION, detect_every=1, threads=1)

    gallery = MemoryGallery(fingerprint="shades", dimension=2)
    return benchmark_live(options, live, Shades(), gallery, setting=SETTING, **keywords)


def test_a_looped_film_begins_again_and_ends_after_its_frames(film: Path) -> None:
    looped = LoopedFilm(source_of(film), frames=2 * FRAMES + 5)
    assert looped.isOpened()
    pictures = []
    while looped.grab():
        good, picture = looped.retrieve()
        assert good
        pictures.append(picture.copy())
    assert len(pictures) == 2 * FRAMES + 5
    for index in range(FRAMES + 5):
        np.testing.assert_array_equal(pictures[index], pictures[index + FRAMES])
    assert not looped.grab()
    looped.release()


def test_a_film_that_is_played_once_ends_where_it_ends(film: Path) -> None:
    looped = LoopedFilm(source_of(film), frames=None)
    assert sum(iter(looped.grab, False)) == FRAMES
    looped.release()


def test_the_time_of_a_looped_film_goes_on(film: Path) -> None:
    source = VideoSource(
        source_of(film), realtime=False, capture=lambda options: LoopedFilm(options, FRAMES + 10)
    )
    times = []
    while (frame := source.read()) is not None:
        times.append(frame.time)
    source.stop()
    source.close()
    np.testing.assert_allclose(times, np.arange(FRAMES + 10) / 2)


def test_the_slope_of_four_points_is_that_of_paper() -> None:
    # means 3/2 and 7/4: (sum of dx dy) / (sum of dx dx) = (-3/2)(-3/4) + (-1/2)(-3/4)
    # + (1/2)(1/4) + (3/2)(5/4) = 7/2, over 5
    expected = float(Fraction(7, 2) / 5)
    assert slope(np.array([1.0, 1.0, 2.0, 3.0]), np.arange(4.0)) == pytest.approx(expected)


@pytest.mark.parametrize("places", [[], [3.0], [3.0, 3.0]])
def test_what_has_no_slope_has_slope_0(places: list[float]) -> None:
    assert slope(np.array([float(i) for i in range(len(places))]), np.array(places)) == 0.0


number = st.floats(-1e3, 1e3)


@given(
    points=st.lists(st.tuples(number, number), min_size=3, max_size=40),
    far=st.sampled_from([0.0, 1e6]),
)
def test_a_line_is_that_of_least_squares(points: list[tuple[float, float]], far: float) -> None:
    places = np.array([x for x, _ in points])
    if np.ptp(places) < 1:
        return
    line = Line()
    for x, y in points:
        line.add(x + far, y)
    fit = np.polyfit(places - places.mean(), [y for _, y in points], 1)[0]
    assert line.count == len(points)
    assert line.slope == pytest.approx(fit, rel=1e-4, abs=1e-4)


def ledger_of(
    monkeypatch: pytest.MonkeyPatch, watch: Stopwatch, rates: dict[str, float], period: float = 1.0
) -> tuple[_Ledger, list[float]]:
    clock = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module.time, "process_time", lambda: clock[0] / 4)
    return _Ledger(rates, watch, period), clock


def test_lag_is_told_by_the_clock_and_not_by_the_film(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch()
    ledger, clock = ledger_of(monkeypatch, watch, {"gate": 10.0, "yard": 10.0})
    gate, yard = CameraReport("gate", "visible"), CameraReport("yard", "visible")
    for step in range(50):  # a step each 2 s, though the film is of 10 frames a second
        for camera, more in ((gate, -5.0), (yard, 5.0)):
            camera.frames += 1
            watch.add(IDENTIFY, 30.0 + 3.0 * step + more)
        ledger.note([gate, yard])
        clock[0] += 2.0
    assert ledger.lag.slope == pytest.approx(1.5)  # 3 ms in 2 s
    assert ledger.cores() == pytest.approx(0.25)


def test_samples_are_taken_evenly_over_the_film(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch()
    ledger, clock = ledger_of(monkeypatch, watch, {"gate": 8.0, "yard": 4.0}, period=2.0)
    gate, yard = CameraReport("gate", "visible"), CameraReport("yard", "visible")
    for step in range(100):
        gate.frames, gate.dropped = gate.frames + 1, gate.dropped + 1
        yard.frames += step % 2
        for _ in range(1 + step % 2):
            watch.add(IDENTIFY, 1.0)
        ledger.note([gate, yard])
        clock[0] += 0.03
    # 8 of gate's frames, played or dropped, are a second
    times = [one.film_seconds for one in ledger.samples]
    np.testing.assert_allclose(times, 0.25 + 2.0 * np.arange(13))
    # 8 steps of 30 ms with 8 frames of gate and 4 of yard
    np.testing.assert_allclose([one.frame_ms for one in ledger.samples[1:]], 240 / 12)


def test_growth_is_by_the_hour_and_nothing_where_memory_is_not_told() -> None:
    samples = [Sample(600.0 + 60 * i, 300.0 + 0.5 * i, 1.0) for i in range(12)]
    assert _growth(samples) == pytest.approx(30.0)  # half a MB a minute
    assert _growth([Sample(600.0, None, 1.0)] * 3) is None


def test_people_in_view_are_those_of_the_truth(tmp_path: Path) -> None:
    person = '{"identity": 1, "box": [0, 0, 9, 9]}'
    lines = [f'{{"frame": {i}, "people": [{", ".join([person] * n)}]}}'
             for i, n in enumerate((0, 3, 1, 1))]  # fmt: skip
    (tmp_path / "gate.truth.jsonl").write_text("\n".join(lines))
    assert count_people(tmp_path, ["gate", "yard"]) == {"gate": People(3, 5 / 4)}


def test_a_short_run_in_real_time_is_measured(film: Path) -> None:
    steps: list[int] = []
    found = play(
        LiveBenchmarkOptions(film, seconds=2.0),
        on_step=lambda cameras: steps.append(sum(one.frames for one in cameras)),
    )
    offered = found.report.frames + sum(one.dropped for one in found.report.cameras)
    assert offered == 2 * 4
    assert found.report.frames == steps[-1]
    assert 1.0 < found.report.seconds < 5.0
    assert set(found.latency_ms) == {"p50", "p95", "p99"}
    assert 0 < found.latency_ms["p50"] <= found.latency_ms["p99"]
    assert found.growth_mb_per_hour is None
    assert found.first_frame_ms is None
    assert found.people == count_people(film, ["gate", "court"])
    assert all(0 < one.mean <= one.most <= 4 for one in found.people.values())


def test_hours_are_played_as_fast_as_it_goes_and_growth_is_told(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WARM_UP", 4.0)
    found = play(LiveBenchmarkOptions(film, hours=30 / 3600))
    assert found.report.frames == 2 * 60
    assert found.report.seconds < 30
    assert found.growth_mb_per_hour is not None
    assert found.first_frame_ms is not None
    assert found.last_frame_ms is not None
    told = found.table()
    assert "MB an hour of film" in told
    assert f"{found.first_frame_ms:.2f} ms at first" in told
    assert json.loads(json.dumps(found.as_dict()))["report"]["frames"] == 120


def test_a_system_without_proc_is_told_in_one_line(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> float:
        raise FileNotFoundError("/proc/self/status")

    monkeypatch.setattr(module, "read_resident", refuse)
    monkeypatch.setattr(module, "WARM_UP", 4.0)
    found = play(LiveBenchmarkOptions(film, hours=20 / 3600))
    assert found.resident_mb is None
    assert found.growth_mb_per_hour is None
    lines = [line for line in found.table().splitlines() if "memory" in line]
    assert lines == ["memory: not measured: this system has no /proc/self/status"]


def call(*words: object) -> Any:
    return CliRunner().invoke(cli, ["benchmark-live", *map(str, words)])


def test_the_command_prints_json_and_writes_markdown(
    tiny_bundle: Path, film: Path, tmp_path: Path
) -> None:
    markdown = tmp_path / "live.md"
    words = (tiny_bundle, "--film", film, "--hours", 4 / 3600, "--threads", 1,
             "--markdown", markdown)  # fmt: skip
    done = call(*words, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["report"]["frames"] == 16
    assert found["setting"]["engine"] == "onnxruntime"
    assert found["setting"]["precision"] == "fp32"
    assert found["setting"]["machine"].endswith("1 thread")
    assert {"most", "mean"} == set(next(iter(found["people"].values())))
    text = markdown.read_text()
    assert "| embedder | onnxruntime, fp32 |" in text
    assert "| frames | 16 in " in text
    done = call(*words)
    assert done.exit_code == 1
    assert "choose another --markdown or add --overwrite" in done.output


def test_the_command_prints_a_table(tiny_bundle: Path, film: Path) -> None:
    done = call(tiny_bundle, "--film", film, "--seconds", 1, "--threads", 1)
    assert done.exit_code == 0, done.output
    for word in ("camera ", "embedder: onnxruntime, fp32", "machine: ", "people in view: gate",
                 "frame to identity: p50", "processor: "):  # fmt: skip
        assert word in done.stdout


def test_a_folder_without_a_film_is_refused_with_the_way_out(tmp_path: Path) -> None:
    done = call(tmp_path, "--film", tmp_path)
    assert done.exit_code == 1
    assert f"--film {tmp_path} has no cameras.toml; make a film with: mip-edge world" in done.output


def test_seconds_and_hours_together_are_refused(tmp_path: Path) -> None:
    done = call(tmp_path, "--film", tmp_path, "--seconds", 3, "--hours", 1)
    assert done.exit_code == 1
    assert "--seconds plays in real time and --hours does not; give one of them" in done.output
    with pytest.raises(OptionError, match="--hours must be above 0, got nan"):
        LiveBenchmarkOptions(tmp_path, hours=float("nan"))
