"""The command line of `benchmarks/gpu.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import torch

from benchmarks.bundle import measure_bundle
from benchmarks.kernels import PROFILED_BATCH, profile_fastest
from benchmarks.measure import measure
from benchmarks.options import Options
from benchmarks.precision import PRECISIONS
from benchmarks.results import Results
from benchmarks.subject import VARIANTS, draw_network
from mip_edge.errors import MipEdgeError, OptionError
from mip_edge.model.mip import MIP
from mip_edge.model.options import PRESETS, MIPOptions
from mip_edge.output import write_text
from mip_edge.spec import Modality

_BATCHES = tuple(2**power for power in range(10))
_CPU_PRECISIONS = ("bf16", "fp32")
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(context_settings={"max_content_width": 100})
@click.option("--device", default="cuda", show_default=True, help="Device of torch: cuda or cpu.")
@click.option("--model", type=click.Choice(list(PRESETS)), default="base", show_default=True)
@click.option("--stride", default=12, show_default=True, help="Pixels from patch to patch.")
@click.option(
    "--instance-queries",
    type=click.Choice(["zero", "learnable"]),
    default="zero",
    show_default=True,
    help="What asks the instance prompt generator.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    show_default="random weights",
    help="A checkpoint instead of --model; without any camera.",
)
@click.option(
    "--modality",
    type=click.Choice([one.value for one in Modality]),
    default="visible",
    show_default=True,
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(list(PRECISIONS)),
    show_default="all that the device has; fp32 and bf16 on a CPU",
)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(min=1),
    show_default="1, 2, 4, ... 512",
    help="Crops of one call; repeatable.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Choice(list(VARIANTS)),
    default=("straight", "plain", "lean"),
    show_default=True,
    help="; ".join(f"{name}: {words}" for name, words in VARIANTS.items()),
)
@click.option(
    "--graphs",
    type=click.Choice(["both", "on", "off"]),
    default="both",
    show_default=True,
    help="CUDA graphs.",
)
@click.option(
    "--compile",
    "compiled",
    multiple=True,
    type=click.IntRange(min=1),
    show_default="none",
    help="Time torch.compile too at this batch; repeatable. The first call of each takes long.",
)
@click.option(
    "--compile-mode",
    type=click.Choice(["default", "max-autotune-no-cudagraphs"]),
    default="default",
    show_default=True,
)
@click.option("--repeats", default=20, show_default=True, help="Rounds in which all are timed.")
@click.option(
    "--seconds",
    default=3.0,
    show_default=True,
    help="Most seconds of these rounds for one precision and batch; three rounds there always are.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    show_default="none",
    help="Time TensorRT on this bundle too.",
)
@click.option("--json", "json_path", type=_FILE, help="Write the numbers there, batch by batch.")
@click.option("--markdown", "markdown_path", type=_FILE, help="Write the table there.")
@click.option(
    "--profile",
    "profile_path",
    type=_FILE,
    help=f"Write torch's profile of the fastest row at batch {PROFILED_BATCH} (or the largest).",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
def main(
    device: str,
    model: str,
    stride: int,
    instance_queries: str,
    weights: Path | None,
    modality: str,
    precisions: tuple[str, ...],
    batches: tuple[int, ...],
    variants: tuple[str, ...],
    graphs: str,
    compiled: tuple[int, ...],
    compile_mode: str,
    repeats: int,
    seconds: float,
    bundle: Path | None,
    json_path: Path | None,
    markdown_path: Path | None,
    profile_path: Path | None,
    overwrite: bool,
) -> None:
    """Check parity and measure speed on a GPU: the published network against the rewritten one."""
    try:
        _check_files((json_path, markdown_path, profile_path), overwrite)
        place = _device(device)
        options = Options(
            device=place,
            modality=Modality(modality),
            precisions=precisions
            or (_CPU_PRECISIONS if place.type == "cpu" else tuple(PRECISIONS)),
            batches=tuple(dict.fromkeys(batches or _BATCHES)),
            variants=tuple(dict.fromkeys(variants)),
            graphs={"both": (False, True), "on": (True,), "off": (False,)}[graphs],
            compiled=compiled,
            compile_mode=compile_mode,
            repeats=repeats,
            seconds=seconds,
        )
        network, named = _network(weights, model, stride, instance_queries)

        def keep(results: Results) -> None:
            if json_path is not None:
                write_text(json_path, json.dumps(results.to_dict(), indent=2) + "\n", lasting=False)

        results = measure(network, options, named, tell=_tell, keep=keep)
        if bundle is not None:
            measure_bundle(
                bundle, options.modality, options.batches, results, repeats=repeats, tell=_tell
            )
            keep(results)
        click.echo(results.format())
        if markdown_path is not None:
            write_text(markdown_path, results.format(markdown=True) + "\n")
        if profile_path is not None:
            write_text(profile_path, profile_fastest(network, options, results))
    except MipEdgeError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    if results.failed:
        sys.exit(1)


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _check_files(paths: tuple[Path | None, ...], overwrite: bool) -> None:
    for path in paths:
        if path is None:
            continue
        if not path.parent.is_dir():
            raise OptionError(f"{path} cannot be written: {path.parent} is not a folder")
        if path.exists() and not overwrite:
            raise OptionError(f"{path} is there already; give --overwrite to replace it")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise OptionError(f"--device must be cuda or cpu, got {name!r}") from error
    if device.type not in ("cuda", "cpu"):
        raise OptionError(f"--device must be cuda or cpu, got {name!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise OptionError("torch finds no CUDA device; choose --device cpu to try the script")
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _network(
    weights: Path | None, model: str, stride: int, instance_queries: str
) -> tuple[MIP, dict[str, object]]:
    """The network on the CPU, and what it is in words."""
    if weights is None:
        chosen = MIPOptions.preset(model, stride=stride, instance_queries=instance_queries)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            network = draw_network(MIP(chosen))
        name = "random"
    else:
        from mip_edge import checkpoint

        network, name = checkpoint.load(weights).eval(), weights.name
    shape = network.options
    return network, {
        "width": shape.width,
        "crop": "x".join(map(str, shape.image_size)),
        "stride": shape.stride,
        "queries": shape.instance_queries,
        "weights": name,
    }
