"""The command `mip-edge calibrate-thresholds`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mip_edge.commands.shared import (
    batch_option,
    dataset_option,
    engine_options_option,
    precision_option,
    read_engine_options,
    split_option,
)


@click.command("calibrate-thresholds")
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--far",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.001,
    show_default=True,
    help="False-accept rate: of all comparisons of a tracklet with an enrolled other person, the "
    "share that may be accepted. N people are N x (N - 1) comparisons: a share of less than one of "
    "them is refused, of less than ten warned of.",
)
@dataset_option()
@split_option
@click.option(
    "--part",
    type=click.Choice(["validation", "test"]),
    default="validation",
    show_default=True,
    help="validation: people of the training part that the model has not learned from. test: query "
    "and gallery, which then are no examination any more.",
)
@click.option(
    "--never-seen",
    is_flag=True,
    help="You state that the model knows nobody in DATA, for a bundle that does not say from whom "
    "it learned.",
)
@click.option(
    "--crops-per-query",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Crops whose mean is a query or a prototype, as a live track gathers before it is "
    "matched.",
)
@click.option(
    "--prototypes",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Prototypes of a person in one light, as a gallery keeps them; the nearest counts.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How often tracklets are drawn from the crops.",
)
@click.option(
    "--bootstrap",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Resamples of the people, for the 95% intervals.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all draws."
)
@click.option(
    "--engine",
    type=str,
    default="onnxruntime",
    show_default=True,
    help="What runs the bundle: onnxruntime, openvino, tensorrt, tensorrt-rtx, or auto.",
)
@precision_option
@engine_options_option
@batch_option
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="BUNDLE itself, replaced when the new one is whole",
    help="Write another bundle here, and leave BUNDLE as it is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print thresholds and curves as JSON.")
@click.option(
    "--overwrite", is_flag=True, help="Replace thresholds learnt before, or an output that exists."
)
def calibrate_thresholds(
    bundle: Path,
    data: Path,
    far: float,
    dataset: str,
    split: int,
    part: str,
    never_seen: bool,
    crops_per_query: int,
    prototypes: int,
    rounds: int,
    bootstrap: int,
    seed: int,
    engine: str,
    precision: str,
    engine_options: tuple[str, ...],
    batch: int,
    output: Path | None,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Learn from which similarity two are one person, for each pair of lights, at a stated FAR.

    BUNDLE gets the thresholds, which `mip-edge live` then takes, and their curves
    (thresholds.json, thresholds.png); everything else in it stays as it is. They are learnt on
    people in DATA whom the model has never seen, compared as a live run compares: the mean of
    some crops with the nearest of several prototypes.
    """
    from mip_edge.thresholding.calibrate import (
        PeopleOptions,
        calibrate_thresholds,
        format_calibration,
    )
    from mip_edge.thresholding.learning import LearningOptions

    report = calibrate_thresholds(
        bundle,
        data,
        LearningOptions(far, crops_per_query, prototypes, rounds, bootstrap, seed),
        PeopleOptions(dataset, split, part, never_seen),
        output=output,
        engine=engine,
        precision=precision,
        engine_options=read_engine_options(bundle, engine, engine_options),
        batch=batch,
        overwrite=overwrite,
    )
    click.echo(json.dumps(report.figures(), indent=2) if as_json else format_calibration(report))
