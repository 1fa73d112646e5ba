"""The command `mip-edge`: its table, its speed, and one line for what the user can mend."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from mip_edge import __version__, cli
from mip_edge.errors import DatasetError, MipEdgeError

HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "cv2", "numpy", "matplotlib", "rich")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.cli, list(arguments))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Put a command `fail` into the table; it raises what the test appends."""
    raised: list[BaseException] = []

    @click.command()
    def fail() -> None:
        raise raised[0]

    get_command = cli.CommandTable.get_command

    def with_fail(self: cli.CommandTable, ctx: click.Context, name: str) -> click.Command | None:
        return fail if name == "fail" else get_command(self, ctx, name)

    monkeypatch.setitem(cli.COMMANDS, "fail", cli.Subcommand("nowhere:fail", "Fail"))
    monkeypatch.setattr(cli.CommandTable, "get_command", with_fail)
    return raised


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_short_help_of_the_table_is_the_commands_own(name: str) -> None:
    with click.Context(cli.cli) as ctx:
        command = cli.cli.get_command(ctx, name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(limit=200).rstrip(".") == cli.COMMANDS[name].help


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_has_help_and_the_command_shows_it(name: str) -> None:
    with click.Context(cli.cli) as ctx:
        command = cli.cli.get_command(ctx, name)
    assert command is not None
    silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
    assert silent == []
    shown = run(name, "--help")
    assert shown.exit_code == 0
    assert cli.COMMANDS[name].help in " ".join(shown.output.split())


def option_of(name: str, flag: str) -> click.Option:
    with click.Context(cli.cli) as ctx:
        command = cli.cli.get_command(ctx, name)
        if isinstance(command, click.Group):  # of `data` the one that looks through a data set
            command = command.get_command(ctx, "check")
    assert command is not None
    (found,) = [one for one in command.params if flag in one.opts]
    assert isinstance(found, click.Option)
    return found


@pytest.mark.parametrize(
    ("flag", "names"),
    [
        ("--max-identities", ["live", "benchmark-live"]),
        ("--threads", ["live", "benchmark-live"]),
        ("--dataset", ["look", "calibrate-thresholds", "data"]),
        ("--split", ["look", "calibrate-thresholds", "export", "train", "ablate"]),
    ],
)
def test_an_option_that_means_one_thing_says_it_in_one_way(flag: str, names: list[str]) -> None:
    first, *others = (option_of(name, flag) for name in names)
    for other in others:
        assert (other.help, other.default, other.show_default) == (
            first.help,
            first.default,
            first.show_default,
        )
        assert other.type.to_info_dict() == first.type.to_info_dict()


@pytest.mark.parametrize("name", ["evaluate", "export", "train", "ablate", "look", "data"])
def test_every_dataset_option_takes_the_same_kinds_of_data(name: str) -> None:
    option, first = option_of(name, "--dataset"), option_of("calibrate-thresholds", "--dataset")
    assert option.type.to_info_dict() == first.type.to_info_dict()
    assert option.default == first.default == "folder"
    assert option.help is not None
    assert ": our own, or SYSU-MM01, RegDB or LLCM as they are handed out" in option.help


def test_both_live_commands_tell_of_their_detectors_alike_but_for_what_differs() -> None:
    live, benchmark = option_of("live", "--detector"), option_of("benchmark-live", "--detector")
    assert (live.default, benchmark.default) == ("nanodet", "motion")
    assert live.metavar == "nanodet|motion|file|FILE.toml"
    assert benchmark.metavar == "nanodet|motion|FILE.toml"
    assert live.help is not None
    assert benchmark.help is not None
    recorded = "boxes from VIDEO.boxes.jsonl beside a recorded video, "
    assert benchmark.help.startswith(live.help.replace(recorded, ""))
    live, benchmark = (option_of(name, "--detect-every") for name in ("live", "benchmark-live"))
    assert live.help == benchmark.help
    assert str(live.show_default).endswith("every frame with --no-realtime")
    assert str(benchmark.show_default).endswith("every frame with --hours")


def test_help_lists_every_command_in_the_order_of_the_table() -> None:
    result = run("--help")
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.output.split("Commands:")[1].splitlines() if line]
    assert [word for word in listed if word in cli.COMMANDS] == list(cli.COMMANDS)


def test_help_imports_nothing_heavy_and_none_of_the_commands() -> None:
    script = (
        "import sys; from mip_edge.cli import main; sys.argv = ['mip-edge', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([m for m in sys.modules if m in {HEAVY!r} or m.startswith('mip_edge.commands')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_takes_under_half_a_second() -> None:
    def measure() -> float:
        begun = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "mip_edge", "--help"], check=True, capture_output=True
        )
        return time.perf_counter() - begun

    assert min(measure() for _ in range(3)) < 0.5


def test_version_is_the_one_of_the_package() -> None:
    assert run("--version").output == f"mip-edge {__version__}\n"


def test_unknown_command_suggests_the_nearest() -> None:
    result = run("exprot")
    assert result.exit_code == 2
    assert "No such command 'exprot'. Did you mean 'export'?" in result.stderr


def test_unknown_command_far_from_all_lists_them() -> None:
    result = run("xyzzy")
    assert result.exit_code == 2
    assert "There are: demo, train," in " ".join(result.stderr.split())


@pytest.mark.parametrize("kind", [MipEdgeError, DatasetError])
def test_our_errors_become_one_line_and_exit_code_1(
    failing: list[BaseException], kind: type[MipEdgeError]
) -> None:
    failing.append(kind("crops/ holds no infrared images"))
    result = run("fail")
    assert result.exit_code == 1
    assert result.stderr == "Error: crops/ holds no infrared images\n"
    assert result.stdout == ""


def test_a_full_disk_becomes_one_line(failing: list[BaseException]) -> None:
    failing.append(OSError(errno.ENOSPC, "No space left on device", "runs/last.safetensors"))
    result = run("fail")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: No space left on the disk while writing runs/last")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EDQUOT, "Error: Your share of the disk (quota) is used up while writing runs/last."),
        (errno.EFBIG, "Error: A file would be larger than the system allows (ulimit -f) while"),
    ],
)
def test_a_used_up_quota_and_a_limit_of_files_become_one_line(
    failing: list[BaseException], number: int, words: str
) -> None:
    failing.append(OSError(number, "in the system's words", "runs/last"))
    result = run("fail")
    assert result.exit_code == 1
    assert result.stderr.startswith(words)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", ["--help", "--version", "cache --help"])
def test_a_full_stdout_becomes_one_line_for_what_needs_no_command_too(words: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mip_edge", *words.split()],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "Error: No space left on the disk. Free some, or choose another place.\n"
    )


@pytest.mark.parametrize("words", ["--help", "--version"])
def test_a_reader_that_went_is_no_news(words: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mip_edge", words],
            stdout=writing, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeException("Exception during initialization: std::bad_alloc"),
    ],
    ids=["python", "torch", "onnxruntime"],
)
def test_memory_that_ran_out_becomes_one_line(
    failing: list[BaseException], error: BaseException
) -> None:
    failing.append(error)
    result = run("fail")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Not enough memory. Close other programs")
    assert result.stderr.count("\n") == 1


def test_a_missing_extra_names_the_line_to_type(failing: list[BaseException]) -> None:
    failing.append(ModuleNotFoundError("No module named 'torch'", name="torch.nn"))
    result = run("fail")
    assert result.exit_code == 1
    assert result.stderr == 'Error: torch is not installed. pip install "mip-edge[train]"\n'


def test_an_import_fault_of_our_own_is_not_hidden(failing: list[BaseException]) -> None:
    failing.append(ModuleNotFoundError("No module named 'mip_edge.gone'", name="mip_edge.gone"))
    result = run("fail")
    assert isinstance(result.exception, ModuleNotFoundError)


@pytest.mark.parametrize(
    "bug", [ValueError("a bug"), RuntimeError("a bug"), OSError(errno.EACCES, "denied")]
)
def test_other_errors_keep_their_traceback(
    failing: list[BaseException], bug: BaseException
) -> None:
    failing.append(bug)
    assert run("fail").exception is bug


def test_ctrl_c_exits_with_130(failing: list[BaseException]) -> None:
    failing.append(KeyboardInterrupt())
    result = run("fail")
    assert result.exit_code == 130
    assert result.stderr == "Interrupted.\n"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), ["told", "WARNING: warned", "WARNING: a library warned"]),
        (
            ("-v",),
            [
                "DEBUG: engines.ort: detail",
                "engines.ort: told",
                "WARNING: engines.ort: warned",
                "WARNING: library: a library warned",
            ],
        ),
        (
            ("-vv",),
            [
                "DEBUG: engines.ort: detail",
                "engines.ort: told",
                "WARNING: engines.ort: warned",
                "library: a library told",
                "WARNING: library: a library warned",
            ],
        ),
    ],
)
def test_verbose_decides_what_is_logged_to_stderr(
    monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], told: list[str]
) -> None:
    @click.command()
    def speak() -> None:
        logger = logging.getLogger("engines.ort")
        logger.debug("detail")
        logger.info("told")
        logger.warning("warned")
        library = logging.getLogger("library")
        library.info("a library told")
        library.warning("a library warned")
        click.echo("result")

    monkeypatch.setattr(cli.CommandTable, "get_command", lambda *_: speak)
    result = run(*flags, "doctor")
    assert result.stderr.splitlines() == told
    assert result.stdout == "result\n"


def test_logging_is_set_up_once_however_often_it_is_asked_for() -> None:
    cli.set_up_logging(0)
    cli.set_up_logging(1)
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, cli.ConsoleHandler)]
    assert len(handlers) == 1
    cli.set_up_logging(0)
