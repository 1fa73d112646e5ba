"""TensorBoard's event files hold what was added, and a missing TensorBoard is told in one line."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the writer is torch's")

from mip_edge.errors import OptionError, OutputError
from mip_edge.scalars import ScalarLog


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs mip-edge[tensorboard]",
    )
    events = loader.EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_every_figure_is_on_the_disk_at_its_step_before_the_log_is_closed(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs mip-edge[tensorboard]")
    with closing(ScalarLog(tmp_path / "scalars")) as log:
        log.add(1, {"loss/identity": 2.5, "rank1": 0.25})
        log.add(2, {"loss/identity": 1.5})
        assert read(tmp_path / "scalars") == {
            "loss/identity": [(1, 2.5), (2, 1.5)],
            "rank1": [(1, 0.25)],
        }
    log.close()


def test_a_resumed_run_hides_what_it_does_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs mip-edge[tensorboard]")
    with closing(ScalarLog(tmp_path)) as log:
        for step, value in ((1, 4.0), (2, 3.0), (3, 9.0)):
            log.add(step, {"loss": value})
    with closing(ScalarLog(tmp_path, first_step=3)) as log:
        log.add(3, {"loss": 2.0})
    assert read(tmp_path)["loss"] == [(1, 4.0), (2, 3.0), (3, 2.0)]


def test_a_missing_tensorboard_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without("tensorboard"), *sys.meta_path])
    with pytest.raises(OptionError, match=r'pip install "mip-edge\[tensorboard\]"'):
        ScalarLog(tmp_path)


def test_a_place_that_is_a_file_is_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs mip-edge[tensorboard]")
    (tmp_path / "taken").touch()
    with pytest.raises(OutputError, match="taken cannot be written"):
        ScalarLog(tmp_path / "taken")


class _Without:
    """An import system that lacks one library."""

    def __init__(self, absent: str) -> None:
        self._absent = absent

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self._absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
