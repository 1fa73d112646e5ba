"""`mip-edge export`: from a checkpoint to a bundle, or to another server's folder."""

from __future__ import annotations

import json
from pathlib import Path

import click
from click.core import ParameterSource

from mip_edge.commands.shared import dataset_option, split_option


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
    "--int8",
    is_flag=True,
    help="Write INT8 graphs too, for CPUs; with --fp16 also those whose rest is float16, for GPUs.",
)
@click.option(
    "--calibrate",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where --int8 finds its scales: the training part of a data set (laid out as --dataset "
    "says), or a folder with `visible` and `infrared` crops.  [default: drawn people, for a model "
    "that learned from drawn people alone]",
)
@click.option(
    "--calibration-crops",
    default=128,
    show_default=True,
    type=click.IntRange(min=2),
    help="Training crops of both lights that scales are found on.",
)
@click.option(
    "--calibration-method",
    default="mse",
    show_default=True,
    type=click.Choice(["min-max", "percentile", "entropy", "mse"]),
    help="How the range of an activation is chosen; percentile is that of 99.99.",
)
@click.option(
    "--smoothing",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="SmoothQuant: how much of an outlier the weights take over; 0 is none.",
)
@click.option(
    "--ranges",
    default="joint",
    show_default=True,
    type=click.Choice(["joint", "each"]),
    help="INT8 scales for both lights together, or for the graph of each light.",
)
@click.option(
    "--int8-report",
    type=click.Path(path_type=Path),
    help="Folder for a page and a picture of what INT8 loses and how fast it is here (needs the "
    "extra plots).",
)
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
@dataset_option("--data")
@split_option
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
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 100),
    help="Percentage points of Rank-1 and mAP on --data that INT8 may lose, of Rank-1 always one "
    "query; without --data the nearest crop must be the same for 99%, and the mean cosine 0.99.",
)
@click.option(
    "--max-drop-float",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 100),
    help="The same for float32 and float16.",
)
@click.option(
    "--surgery",
    default="full",
    show_default=True,
    help="How the network is rewritten: `full`; `rows` (only dead rows left out) and `none` (as "
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
    int8: bool,
    calibrate: Path | None,
    calibration_crops: int,
    calibration_method: str,
    smoothing: float,
    ranges: str,
    int8_report: Path | None,
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
    max_drop_float: float,
    surgery: str,
    purpose: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export the checkpoint WEIGHTS to a bundle for the device.

    Every graph is run and compared with PyTorch before the bundle takes its name.
    """
    from calibration.ranges import method_of
    from calibration.scales import CalibrationOptions
    from export.bundle import export_bundle
    from export.options import ExportOptions
    from export.purpose import export_for
    from mip_edge.int8_report import check_int8_report, write_int8_report

    for flag, given, needed in (
        ("dataset", data or calibrate, "--data"),
        ("split", data or calibrate, "--data"),
        ("max_drop", int8 or None, "--int8"),
        ("max_drop_float", data, "--data"),
        ("min_cosine_fp16", fp16 or None, "--fp16"),
        ("calibration_crops", int8 or None, "--int8"),
        ("calibration_method", int8 or None, "--int8"),
        ("smoothing", int8 or None, "--int8"),
        ("ranges", int8 or None, "--int8"),
    ):
        source = click.get_current_context().get_parameter_source(flag)
        if given is None and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{flag.replace('_', '-')} belongs to {needed}; give both")
    options = ExportOptions(
        layout=layout,
        surgery=surgery,
        camera=camera,
        fp16=fp16,
        int8=int8,
        calibrate=calibrate,
        calibration=CalibrationOptions(
            crops=calibration_crops,
            method=method_of(calibration_method),
            smoothing=smoothing,
            ranges=ranges,
        ),
        time_int8=int8_report is not None,
        dimensions=dimensions,
        whiten=whiten,
        crops=crops,
        data=data,
        dataset=dataset,
        split=split,
        min_cosine=min_cosine,
        min_cosine_fp16=min_cosine_fp16,
        max_drop=max_drop,
        max_drop_float=max_drop_float,
    )
    if int8_report is not None:
        places = int8_report.resolve(), output.resolve()
        if places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0]):
            raise click.UsageError(
                f"--int8-report {int8_report} and --output {output} are one inside the other, or "
                "the same; give two places"
            )
        check_int8_report(int8_report, overwrite=overwrite)
    if purpose is None:
        report = export_bundle(weights, output, options, overwrite=overwrite)
    else:
        report = export_for(purpose, weights, output, options, overwrite=overwrite)
    if int8_report is not None:
        write_int8_report(int8_report, report, overwrite=overwrite)
    click.echo(json.dumps(report.to_dict(), indent=2) if as_json else report.format())
