"""The report on INT8: every point in the table, every point in the picture, nothing drawn over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="what is told was exported with torch")
pytest.importorskip("matplotlib", reason="the picture is drawn with matplotlib")

from calibration.sensitivity import Sensitivity
from export.int8 import Point
from export.int8_speed import TimedPoint
from mip_edge.data.image import read_image
from mip_edge.errors import OutputError
from mip_edge.int8_report import check_int8_report, write_int8_report

TIMED = (
    TimedPoint(Point(0, 0.96, 0.002), chosen=False, float32_ms=10.0, milliseconds=4.0),
    TimedPoint(Point(2, 0.9, 0.001), chosen=True, float32_ms=12.0, milliseconds=6.0),
    TimedPoint(Point(12, 0.0, 0.0), chosen=False, float32_ms=10.0, milliseconds=10.0),
)
RATED = tuple(Sensitivity(f"blocks.{index}/mlp/fc2", 0.01 / (index + 1)) for index in range(14))
REPORT = SimpleNamespace(timed=TIMED, sensitivity=RATED)
"""What the page reads of an ExportReport."""


def write(folder: Path, *, overwrite: bool = False) -> None:
    write_int8_report(folder, REPORT, overwrite=overwrite)  # type: ignore[arg-type]


def test_the_page_tells_every_point_and_every_map(tmp_path: Path) -> None:
    write(tmp_path / "report")
    page = (tmp_path / "report" / "int8.md").read_text(encoding="utf-8")
    assert "| 0 | 96.0% | 0.002000 | 4.00 | 2.50 |" in page
    assert "| 2 (in the bundle) | 90.0% | 0.001000 | 6.00 | 2.00 |" in page
    assert "| 12 | 0.0% | 0.000000 | 10.00 | 1.00 |" in page
    for one in RATED:
        assert f"| {one.path} | {one.loss:.6f} |" in page
    assert "(int8.png)" in page


def test_the_picture_shows_line_bars_and_the_point_of_the_bundle(tmp_path: Path) -> None:
    write(tmp_path / "report")
    picture = read_image(tmp_path / "report" / "int8.png")
    assert min(picture.shape[:2]) > 300
    for colour in ((0x7C, 0x3A, 0xED), (0x03, 0x69, 0xA1), (0xD9, 0x77, 0x06)):
        assert (picture == colour).all(axis=2).sum() > 50


def test_an_older_report_is_replaced_when_asked(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    write(folder)
    with pytest.raises(OutputError, match="report exists already.*--overwrite"):
        check_int8_report(folder, overwrite=False)
    with pytest.raises(OutputError, match="exists already"):
        write(folder)
    check_int8_report(folder, overwrite=True)
    (folder / "int8.md").write_text("old", encoding="utf-8")
    write(folder, overwrite=True)
    assert (folder / "int8.md").read_text(encoding="utf-8") != "old"
    assert {path.name for path in folder.iterdir()} == {"int8.md", "int8.png"}
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("foreign", ["file", "folder"])
def test_what_is_no_report_stays(tmp_path: Path, foreign: str) -> None:
    target = tmp_path / "report"
    if foreign == "file":
        target.write_text("mine", encoding="utf-8")
    else:
        target.mkdir()
        (target / "int8.md").write_text("mine", encoding="utf-8")
        (target / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(OutputError, match="is not a report on INT8 of mip-edge alone"):
        check_int8_report(target, overwrite=True)
    with pytest.raises(OutputError, match="is not a report on INT8"):
        write(target, overwrite=True)
    assert target.exists()
