"""The demo, small: every step runs, and leaves what it says it leaves."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from mip_edge.cli import cli


def test_the_demo_goes_from_drawing_to_matches_and_reports_them(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    arguments = (
        f"demo -o {folder} --train-identities 40 --test-identities 10 --epochs 1 --people 1"
    ).split()
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    for name in ("report.md", "ranked.png", "match.png", "live.mp4", "events.jsonl", "bundle"):
        assert (folder / name).exists(), name
        assert name in result.output
    report = json.loads((folder / "report.json").read_text())
    assert set(report["figures"]) == {"untrained", "shipped", "fine-tuned", "bundle"}
    assert f"{report['crossings_right']} of {len(report['crossings'])} crossings" in result.output
    for name in ("fine-tuned", "bundle"):
        results = report["figures"][name]["results"]
        assert all(0 <= result["mean"]["rank1"] <= 1 for result in results)

    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 1
    assert "not empty" in again.output
