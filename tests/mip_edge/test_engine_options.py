"""--engine-option and --precision, on every command that opens an engine."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from engines.table import AUTO, PRECISIONS
from mip_edge.cli import cli
from mip_edge.commands.embed import embed
from mip_edge.commands.evaluate import evaluate
from mip_edge.commands.live import live
from mip_edge.commands.look import look
from mip_edge.commands.search import search
from mip_edge.commands.shared import read_engine_options
from mip_edge.errors import OptionError
from mip_edge.evaluate.evaluation import EvaluateOptions, evaluate_model

COMMANDS = (embed, evaluate, live, look, search)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command.name))
def test_every_command_takes_every_precision_and_engine_options(command: click.Command) -> None:
    options = {name: one for one in command.params for name in one.opts}
    assert isinstance(options["--precision"].type, click.Choice)
    assert tuple(options["--precision"].type.choices) == (*PRECISIONS, AUTO)
    assert options["--engine-option"].multiple


def test_values_are_read_for_the_engine_that_opens_the_model() -> None:
    bundle, weights = Path("bundle"), Path("best.safetensors")
    assert read_engine_options(bundle, None, ["provider=cpu"]) == {"provider": "cpu"}
    assert read_engine_options(weights, None, ["compile=true"]) == {"compile": True}
    assert read_engine_options(bundle, "openvino", ["hint=latency"]) == {"hint": "latency"}
    assert read_engine_options(bundle, "no such engine", []) == {}
    with pytest.raises(OptionError, match="the engine onnxruntime has no option 'hint'; .*provid"):
        read_engine_options(bundle, None, ["hint=latency"])


def test_an_unknown_key_ends_a_command_with_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    call = ["embed", str(tiny_bundle), str(tmp_path), "--modality", "visible"]
    told = CliRunner().invoke(cli, [*call, "--engine-option", "speed=9"])
    assert told.exit_code == 1
    assert told.stderr.startswith("Error: the engine onnxruntime has no option 'speed'; the engine")
    assert told.stderr.count("\n") == 1


def test_the_camera_of_an_evaluation_has_an_option_of_its_own(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import cv2
    import numpy as np

    for part in ("query", "gallery"):
        for light in ("visible", "infrared"):
            folder = tmp_path / part / light / "p1"
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / "a.png"), np.zeros((64, 32, 3), np.uint8))
    with pytest.raises(
        OptionError, match="camera=none: the camera of an evaluation.*--camera none"
    ):
        evaluate_model(
            tiny_checkpoint, tmp_path, EvaluateOptions(), engine_options={"camera": "none"}
        )
