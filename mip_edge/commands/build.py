"""`mip-edge build`: plans of TensorRT or TensorRT-RTX ahead of time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mip_edge.errors import EngineError

if TYPE_CHECKING:
    from mip_edge.plans import BuiltPlan


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--engine",
    type=click.Choice(["tensorrt-rtx", "tensorrt"]),
    default="tensorrt-rtx",
    show_default=True,
    help="tensorrt-rtx builds anywhere, without a GPU; tensorrt for the GPU it runs on.",
)
@click.option(
    "--compute-capability",
    "capabilities",
    multiple=True,
    metavar="N.N",
    show_default="8.0, 8.6, 8.9, 12.0 and 12.1",
    help="GPUs that tensorrt-rtx builds for, all in one plan; may be given several times. 7.5 "
    "(Turing) has a plan of its own, and takes fp16 and int8-fp16 alone.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    show_default="all that BUNDLE has",
    help="Precision of the graphs to build, such as fp16; may be given several times.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Most crops of one call.",
)
@click.option(
    "--workspace",
    type=click.IntRange(min=1),
    metavar="MIB",
    show_default="as the library chooses",
    help="Most GPU memory that one layer may take for itself.",
)
@click.option(
    "--hardware-compatible",
    is_flag=True,
    help="tensorrt: a plan for every GPU from Ampere on, somewhat slower.",
)
@click.option(
    "--version-compatible",
    is_flag=True,
    help="tensorrt: a plan for later minor versions of the library too, somewhat slower.",
)
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="the engine cache",
    help="Put the plans here instead; copied to the device, MIP_EDGE_CACHE=FOLDER finds them.",
)
@click.option("--overwrite", is_flag=True, help="Build anew what is there already.")
@click.option(
    "--strict", is_flag=True, help="Exit code 1 if a plan has lost a fusion that it should have."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build(
    bundle: Path,
    engine: str,
    capabilities: tuple[str, ...],
    precisions: tuple[str, ...],
    max_batch: int,
    workspace: int | None,
    hardware_compatible: bool,
    version_compatible: bool,
    output: Path | None,
    overwrite: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Build TensorRT plans of every graph of BUNDLE ahead of time, into the engine cache.

    The table counts the kernels of one run by what is fused into them: attention as one kernel,
    products with GELU, with the sum behind them, in INT8, other products, and the rest. A plan
    that lost a fusion is told in a line of its own.

    An engine finds a plan only if it is opened with the same --engine-option max_batch, workspace,
    hardware_compatible and version_compatible.
    """
    from engines.build_trt import BuildOptions
    from mip_edge.plans import BUILDERS, PORTABLE, build_plans, format_plans

    module = BUILDERS[engine]
    if engine == "tensorrt-rtx" and not capabilities:
        capabilities = PORTABLE
    options = BuildOptions(
        module=module,
        capabilities=capabilities,
        max_batch=max_batch,
        workspace_bytes=None if workspace is None else workspace << 20,
        hardware_compatible=hardware_compatible,
        version_compatible=version_compatible,
    )
    with _progress() as begin:
        plans = build_plans(
            bundle, options, precisions=precisions, folder=output, overwrite=overwrite, begin=begin
        )
    if as_json:
        click.echo(json.dumps([plan.to_dict() for plan in plans], indent=2))
    else:
        click.echo(format_plans(plans))
    _tell_lost(plans, strict)


def _tell_lost(plans: list[BuiltPlan], strict: bool) -> None:
    lost = [f"{plan.graph}, {plan.device}: {what}" for plan in plans for what in plan.lost]
    for line in lost:
        click.echo(f"lost: {line}", err=True)
    if lost and strict:
        raise EngineError(
            f"{len(lost)} fusions are lost (--strict); look for the change of the graph or of the "
            "library that lost them, or leave --strict out"
        )


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """A bar of builds on stderr, on a terminal alone."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("building", total=None)
        begun = -1

        def begin(graph: str, total: int) -> None:
            nonlocal begun
            begun += 1
            bar.update(task, description=f"building {graph}", total=total, completed=begun)

        yield begin
