"""`mip-edge export`: from a checkpoint to a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import click


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
    "--camera",
    default="mean",
    show_default=True,
    metavar="mean|none|NAME",
    help="Camera embedding baked in: the mean of each modality's cameras, none, or one camera by "
    "name (the other modality then gets its mean). A model without camera embedding has none.",
)
@click.option(
    "--crops",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Images for the parity check; those below a folder `visible` or `infrared` check that "
    "graph only.  [default: synthetic people]",
)
@click.option(
    "--min-cosine",
    default=0.99999,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Smallest cosine with PyTorch that a crop may have.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace an older bundle; it stays until the new one stands."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    weights: Path,
    output: Path,
    camera: str,
    crops: Path | None,
    min_cosine: float,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export the checkpoint WEIGHTS to a bundle for the device.

    Both graphs are run and compared with PyTorch before the bundle takes its name.
    """
    from export.bundle import export_bundle

    report = export_bundle(
        weights, output, camera=camera, crops=crops, min_cosine=min_cosine, overwrite=overwrite
    )
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
        return
    click.echo(f"{report.path}  fingerprint {report.fingerprint[:12]}")
    for modality, parity in report.parity.items():
        click.echo(
            f"{modality.value}: smallest cosine {parity.smallest_cosine:.7f}, same top-1 "
            f"{parity.top1_agreement:.1%} on {parity.crops} crops; "
            f"{report.graphs[modality].nodes} nodes, camera {report.camera[modality]}"
        )
    for name, size in report.sizes.items():
        click.echo(f"{name}: {size:,} bytes")
