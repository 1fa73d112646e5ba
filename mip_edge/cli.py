"""The command `mip-edge`: joins the subcommands, sets up logging, makes one line of an error."""

from __future__ import annotations

import difflib
import errno
import logging
from importlib import import_module
from typing import Any, NamedTuple, cast

import click

from mip_edge import __version__
from mip_edge.doctor import DEPENDENCIES, PACKAGES
from mip_edge.errors import MipEdgeError

INTERRUPTED = 130
"""Exit code of a command that was stopped by Ctrl-C: 128 + SIGINT, as shells count."""


class Subcommand(NamedTuple):
    """Where a subcommand lives, and the line `--help` shows without importing it."""

    target: str
    help: str


COMMANDS: dict[str, Subcommand] = {
    "demo": Subcommand(
        "mip_edge.commands.demo:demo",
        "Walk one crop all the way on synthetic people, from training to a match across cameras",
    ),
    "train": Subcommand("mip_edge.commands.train:train", "Train a model on a data set"),
    "ablate": Subcommand(
        "mip_edge.commands.ablate:ablate",
        "Train without each part of MIP, and draw one table of what each gives",
    ),
    "evaluate": Subcommand(
        "mip_edge.commands.evaluate:evaluate",
        "Measure Rank-k, mAP and mINP of a model in both directions",
    ),
    "card": Subcommand(
        "mip_edge.commands.card:card",
        "Write the model card of CHECKPOINT: data, figures, uses and limits",
    ),
    "look": Subcommand(
        "mip_edge.commands.look:look",
        "Draw what a model does with a data set: CMC, similarities, a map, and its prompts",
    ),
    "export": Subcommand(
        "mip_edge.commands.export:export",
        "Export the checkpoint WEIGHTS to a bundle for the device",
    ),
    "bundle": Subcommand(
        "mip_edge.commands.bundle:bundle",
        "Verify a bundle, show what it promises, or pack it into one file for transport",
    ),
    "inspect": Subcommand(
        "mip_edge.commands.inspection:inspect",
        "Count what each graph of BUNDLE costs a crop: operations by part, weights, live memory",
    ),
    "calibrate-thresholds": Subcommand(
        "mip_edge.commands.calibrate_thresholds:calibrate_thresholds",
        "Learn from which similarity two are one person, for each pair of lights, at a stated FAR",
    ),
    "build": Subcommand(
        "mip_edge.commands.build:build",
        "Build TensorRT plans of every graph of BUNDLE ahead of time, into the engine cache",
    ),
    "cache": Subcommand(
        "mip_edge.commands.cache:cache",
        "List or clear what engines compiled from bundles on this machine",
    ),
    "benchmark": Subcommand(
        "mip_edge.commands.benchmark:benchmark",
        "Time engines and precisions of BUNDLE in turn, beside accuracy, memory and machine's peak",
    ),
    "benchmark-train": Subcommand(
        "mip_edge.commands.benchmark_train:benchmark_train",
        "Time a whole training step beside the published forward with its dead work, in turn",
    ),
    "benchmark-live": Subcommand(
        "mip_edge.commands.benchmark_live:benchmark_live",
        "Play a synthetic film through the live loop: latency, drops, memory and their growth",
    ),
    "benchmark-export": Subcommand(
        "mip_edge.commands.benchmark_export:benchmark_export",
        "Time the exported graph beside the published one and the steps between, in turn",
    ),
    "embed": Subcommand("mip_edge.commands.embed:embed", "Embed images into unit-length vectors"),
    "search": Subcommand(
        "mip_edge.commands.search:search", "Search query images in a folder of gallery images"
    ),
    "gallery": Subcommand(
        "mip_edge.commands.gallery:gallery", "Look at and change the people that a gallery knows"
    ),
    "live": Subcommand(
        "mip_edge.commands.live:live",
        "Recognise people across many cameras with the model of BUNDLE",
    ),
    "light": Subcommand(
        "mip_edge.commands.light:light",
        "Tell visible from infrared in VIDEOS as a camera with modality=auto does",
    ),
    "data": Subcommand(
        "mip_edge.commands.data:data", "Look through a data set before training on it"
    ),
    "synthetic": Subcommand(
        "mip_edge.commands.synthetic:synthetic", "Draw a data set of synthetic people"
    ),
    "world": Subcommand(
        "mip_edge.commands.world:world",
        "Film a synthetic site with several cameras, day and night, whose truth is known",
    ),
    "pretrain": Subcommand(
        "mip_edge.commands.pretrain:pretrain", "Make the starting checkpoint from synthetic people"
    ),
    "doctor": Subcommand(
        "mip_edge.commands.doctor:doctor",
        "Show versions, devices, and which engines open on this machine",
    ),
}


OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "out of memory",
)
"""How torch and ONNX Runtime say that memory has run out."""


DISK_IS_FULL = {
    errno.ENOSPC: "No space left on the disk",
    errno.EDQUOT: "Your share of the disk (quota) is used up",
    errno.EFBIG: "A file would be larger than the system allows (ulimit -f)",
}
"""Errors of a place that takes no more, and how they are told."""


class CommandTable(click.Group):
    """A click group whose commands are imported only when they run or show their own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the table: the order in which a newcomer meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand, or None if the table has no such name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].target.partition(":")
        return cast(click.Command, getattr(import_module(module), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest name suggested for one that is unknown."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(COMMANDS)}."
            ctx.fail(f"No such command '{name}'. {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table alone, so that `--help` imports none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """As click does it; `--help` and `--version` write in here, and stdout may be full."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except OSError as error:
            advice = full_disk(error)
            if advice is None:
                raise
            raise advice from error

    def invoke(self, ctx: click.Context) -> object:
        """Run a subcommand; what the user can mend becomes one line, our own bugs a traceback."""
        try:
            return super().invoke(ctx)
        except MipEdgeError as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            advice = missing_extra(error)
            if advice is None:
                raise
            raise advice from error
        except OSError as error:
            advice = full_disk(error)
            if advice is None:
                raise
            raise advice from error
        except Exception as error:  # the runtimes' own share no base class but this
            if not is_out_of_memory(error):
                raise
            raise click.ClickException(
                "Not enough memory. Close other programs, take smaller batches, or a machine with "
                "more; nothing half-written is left."
            ) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is how Python, torch or ONNX Runtime say that memory has run out."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in OUT_OF_MEMORY)


def full_disk(error: OSError) -> click.ClickException | None:
    """The line for a place that takes no more, or None if it is another error."""
    full = DISK_IS_FULL.get(error.errno or 0)
    if full is None:
        return None
    where = f" while writing {error.filename}" if error.filename else ""
    return click.ClickException(f"{full}{where}. Free some, or choose another place.")


def missing_extra(error: ModuleNotFoundError) -> click.ClickException | None:
    """The line that names the extra to install, or None if the module is none of our extras'."""
    missing = (error.name or "").partition(".")[0]
    for dependency in DEPENDENCIES:
        if dependency.module.partition(".")[0] == missing:
            return click.ClickException(f"{missing} is not installed. {dependency.remedy}")
    return None


class ConsoleHandler(logging.Handler):
    """Log lines to whatever stderr is now, so that progress bars and tests can capture it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        click.echo(self.format(record), err=True)


class ConsoleFormatter(logging.Formatter):
    """The bare message for what we tell by default; its level in front from a warning upwards."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, with the traceback below it if the record carries one."""
        text = super().format(record)
        return text if record.levelno == logging.INFO else f"{record.levelname}: {text}"


def set_up_logging(verbose: int) -> None:
    """Tell what we do; with 1 also every detail and by whom, with 2 also what libraries tell."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, ConsoleHandler)]:
        root.removeHandler(handler)
    handler = ConsoleHandler()
    handler.setFormatter(ConsoleFormatter("%(name)s: %(message)s" if verbose else None))
    root.addHandler(handler)
    root.setLevel(logging.INFO if verbose > 1 else logging.WARNING)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)


@click.group(cls=CommandTable, context_settings={"max_content_width": 100})
@click.version_option(__version__, prog_name="mip-edge", message="%(prog)s %(version)s")
@click.option(
    "-v",
    "--verbose",
    count=True,
    help="Tell every detail on stderr; -vv also what the libraries tell.  [default: the steps]",
)
def cli(verbose: int) -> None:
    """Recognise people across visible and infrared cameras, from training to the edge device.

    Begin with `mip-edge demo`: it needs no data.
    """
    set_up_logging(verbose)


def main() -> None:
    """Entry of the console script."""
    cli(prog_name="mip-edge")
