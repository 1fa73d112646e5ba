"""`mip-edge export`: from a checkpoint to a bundle, or to another server's folder."""

from __future__ import annotations

import json
from pathlib import Path

import click
from click.core import ParameterSource


@click.command()
@click.argument("weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the new bundle.",
)
@click.option(
    "--layout",
    default="per-modality",
    show_default=True,
    type=click.Choice(["per-modality", "unified"]),
    help="A graph for each modality and one weight file, or one graph that takes the modality of "
    "each crop.",
)
@click.option("--fp16", is_flag=True, help="Write float16 graphs too, for GPUs.")
@click.option(
    "--camera",
    default="mean",
    show_default=True,
    metavar="mean|none|NAME",
    help="Camera embedding baked in: the mean of each modality's cameras, none, or one camera by "
    "name (the other modality then gets its mean). A model without camera embedding has none.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Data set whose query and gallery score every graph, and whose training part --dim is "
    "learned from.  [default: no accuracy is measured]",
)
@click.option(
    "--dataset",
    default="folder",
    show_default=True,
    type=click.Choice(["folder", "sysu", "regdb", "llcm"]),
    help="Layout of --data.",
)
@click.option(
    "--split",
    default=1,
    show_default=True,
    type=click.IntRange(1, 10),
    help="Which of the ten splits of RegDB.",
)
@click.option(
    "--dim",
    "dimensions",
    multiple=True,
    type=click.IntRange(min=1),
    help="Length of the embeddings, by a PCA learned on training crops of --data and built in; "
    "given several times, the first is built in and all are compared.  [default: 5 x width]",
)
@click.option("--whiten", is_flag=True, help="Whiten what --dim keeps.")
@click.option(
    "--crops",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Images for the parity check; those below a folder `visible` or `infrared` check that "
    "graph only.  [default: query and gallery of --data, or synthetic people]",
)
@click.option(
    "--min-cosine",
    default=0.99999,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Smallest cosine with PyTorch that a crop may have in float32.",
)
@click.option(
    "--min-cosine-fp16",
    default=0.9995,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="The same in float16; what must stay in float32 for it is found and told.",
)
@click.option(
    "--max-drop",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 100),
    help="Percentage points of Rank-1 and mAP on --data that a graph may lose; of Rank-1 always "
    "one query.",
)
@click.option(
    "--surgery",
    default="full",
    show_default=True,
    help="How the network is rewritten: `full`; `cpu` (about a tenth faster than that on a CPU, "
    "two or three launches a layer more on a GPU); `rows` (only dead rows left out) and `none` (as "
    "published) are there to compare.",
)
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["triton", "deepstream"]),
    help="Write a Triton model repository, or a DeepStream tracker's folders, in place of a "
    "bundle; checked all the same.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace an older bundle; it stays until the new one stands."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    weights: Path,
    output: Path,
    layout: str,
    fp16: bool,
    camera: str,
    data: Path | None,
    dataset: str,
    split: int,
    dimensions: tuple[int, ...],
    whiten: bool,
    crops: Path | None,
    min_cosine: float,
    min_cosine_fp16: float,
    max_drop: float,
    surgery: str,
    purpose: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export the checkpoint WEIGHTS to a bundle for the device.

    Every graph is run and compared with PyTorch before the bundle takes its name.
    """
    from export.bundle import export_bundle
    from export.options import ExportOptions
    from export.purpose import export_for

    for flag, given, needed in (
        ("dataset", data, "--data"),
        ("split", data, "--data"),
        ("max_drop", data, "--data"),
        ("min_cosine_fp16", fp16 or None, "--fp16"),
    ):
        source = click.get_current_context().get_parameter_source(flag)
        if given is None and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{flag.replace('_', '-')} belongs to {needed}; give both")
    options = ExportOptions(
        layout=layout,
        surgery=surgery,
        camera=camera,
        fp16=fp16,
        dimensions=dimensions,
        whiten=whiten,
        crops=crops,
        data=data,
        dataset=dataset,
        split=split,
        min_cosine=min_cosine,
        min_cosine_fp16=min_cosine_fp16,
        max_drop=max_drop,
    )
    if purpose is None:
        report = export_bundle(weights, output, options, overwrite=overwrite)
    else:
        report = export_for(purpose, weights, output, options, overwrite=overwrite)
    click.echo(json.dumps(report.to_dict(), indent=2) if as_json else report.format())
