"""Pictures of a benchmark: what is drawn where, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mip_edge.benchmark_result import Benchmark, Timing
from mip_edge.errors import OutputError
from tests.mip_edge.timings import FP32

pytest.importorskip("matplotlib", reason="pictures need [train]")

from mip_edge import benchmark_chart as module
from mip_edge.benchmark_chart import check_plots, draw_plots

INT8 = replace(FP32, precision="int8", median_ms=2, crops_s=500, smallest_cosine=0.9985)
TORCH = replace(FP32, engine="torch", median_ms=16, crops_s=62, smallest_cosine=None)


def measured(*timings: Timing) -> Benchmark:
    return Benchmark("a network", "a machine", {}, list(timings), [])


def draw(result: Benchmark, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Axes of both pictures, as they were drawn."""
    figures = []
    keep = module.open_figure

    def open_figure(width: float, height: float) -> object:
        figures.append(keep(width, height))
        return figures[-1]

    monkeypatch.setattr(module, "open_figure", open_figure)
    monkeypatch.setattr(module, "write_figure", lambda figure, path: None)
    draw_plots(result, folder)
    return [figure.axes for figure in figures]


def test_points_stand_at_their_latency_and_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (axes,), _ = draw(measured(TORCH, FP32, INT8), tmp_path / "new", monkeypatch)
    points = {
        line.get_label(): (line.get_xdata()[0], line.get_ydata()[0])
        for line in axes.get_lines()
        if line.get_label() != "torch fp32"
    }
    assert points == {"onnxruntime fp32": (8, 1.0), "onnxruntime int8": (2, 0.9985)}
    # nobody measured torch against itself: a line at its latency
    [torch] = [line for line in axes.get_lines() if line.get_label() == "torch fp32"]
    assert set(torch.get_xdata()) == {16}


def test_both_pictures_are_written_to_a_folder_that_is_made(tmp_path: Path) -> None:
    draw_plots(measured(TORCH, FP32, INT8), tmp_path / "a" / "b")
    for name in (module.ACCURACY, module.THROUGHPUT):
        assert (tmp_path / "a" / "b" / name).read_bytes().startswith(b"\x89PNG")


def test_rank1_is_drawn_where_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = [replace(FP32, rank1=91.0), replace(INT8, rank1=90.5)]
    (axes,), _ = draw(measured(*labelled), tmp_path, monkeypatch)
    assert [line.get_ydata()[0] for line in axes.get_lines()] == [91.0, 90.5]
    assert "Rank-1" in axes.get_ylabel()


def test_a_difference_that_does_not_matter_does_not_fill_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = replace(INT8, smallest_cosine=0.9999995)
    (axes,), _ = draw(measured(FP32, near), tmp_path, monkeypatch)
    low, high = axes.get_ylim()
    assert high - low > 0.003


def test_throughput_has_a_line_for_each_engine_and_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [FP32, INT8, replace(FP32, batch=8, crops_s=200), replace(INT8, batch=8, crops_s=800)]
    infrared = replace(FP32, modality="infrared")
    _, (visible, other) = draw(measured(*rows[::-1], infrared), tmp_path, monkeypatch)
    lines = {line.get_label(): [*zip(*line.get_data(), strict=True)] for line in visible.lines}
    assert lines == {
        "onnxruntime fp32": [(1, 125), (8, 200)],
        "onnxruntime int8": [(1, 500), (8, 800)],
    }
    assert other.get_title() == "infrared crops"


def test_no_point_of_any_modality_falls_outside_the_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [FP32, replace(INT8, modality="infrared", crops_s=900, smallest_cosine=0.9)]
    for panels in draw(measured(*rows), tmp_path, monkeypatch):
        for axes in panels:  # type: ignore[attr-defined]
            low, high = axes.get_ylim()
            assert all(low < y < high for line in axes.lines for y in line.get_ydata())
            assert axes.lines


def test_plots_replace_nothing_unasked(tmp_path: Path) -> None:
    (tmp_path / "throughput.png").write_text("mine")
    with pytest.raises(OutputError, match=r"throughput\.png exists already.*--overwrite"):
        check_plots(tmp_path, overwrite=False)
    check_plots(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="is a file; choose a folder"):
        check_plots(tmp_path / "throughput.png", overwrite=True)
