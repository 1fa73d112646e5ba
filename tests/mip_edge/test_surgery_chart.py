"""The chart shows every graph, and what stands is not drawn over."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="what is drawn was exported with torch")
pytest.importorskip("matplotlib", reason="the chart is drawn with matplotlib")

from mip_edge.benchmark_export import ExportBenchmark, GraphTiming
from mip_edge.data.image import read_image
from mip_edge.errors import OutputError
from mip_edge.surgery_chart import check_chart, draw_chart

GRAPHS = {"straight": 8.0, "rows": 5.0, "full": 4.0}
MEASURED = ExportBenchmark(
    network={"width": 48, "image_size": (64, 32), "stride": 12, "instance_queries": "zero"},
    weights="tiny.safetensors",
    machine="a machine, 1 thread",
    repeats=2,
    timings=[
        GraphTiming(graph, 10**9, 1.0, "onnxruntime", modality, batch, time / batch, time, 8 / time)
        for modality in ("visible", "infrared")
        for batch in (1, 8)
        for graph, time in GRAPHS.items()
    ],
)


def test_the_chart_is_drawn_whole_and_an_older_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "chart.png"
    check_chart(path, overwrite=False)
    draw_chart(MEASURED, path)
    picture = read_image(path)
    assert min(picture.shape[:2]) > 200
    for colour in ((0x64, 0x74, 0x8B), (0xD9, 0x77, 0x06), (0x15, 0x80, 0x3D)):
        assert (picture == colour).all(axis=2).sum() > 100  # a bar of each graph
    with pytest.raises(OutputError, match="chart.png exists already.*--overwrite"):
        check_chart(path, overwrite=False)
    check_chart(path, overwrite=True)


@pytest.mark.parametrize(
    ("name", "words"),
    [("chart.jpg", "must end in .png"), ("nowhere/chart.png", "is not a folder")],
)
def test_a_chart_that_cannot_be_written_is_refused_before_anything_is_timed(
    tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(OutputError, match=words):
        check_chart(tmp_path / name, overwrite=False)
