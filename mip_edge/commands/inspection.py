"""`mip-edge inspect`: what the graphs of a bundle cost."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mip_edge.errors import BundleError


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def inspect(bundle: Path, as_json: bool) -> None:
    """Count what each graph of BUNDLE costs a crop: operations by part, weights, live memory.

    Multiply-accumulates of convolutions and matrix products, bytes of all constants, and the most
    bytes of activations alive at once, counted from the graph files. Where the manifest tells
    another figure, it ends with an error.
    """
    from export.inspection import format_inspection, inspect_bundle

    inspection = inspect_bundle(bundle)
    if as_json:
        click.echo(json.dumps(inspection.to_dict(), indent=2))
    else:
        click.echo(format_inspection(inspection))
    if inspection.differences:
        raise BundleError(
            f"{inspection.path} tells of itself what its graphs do not hold: "
            f"{'; '.join(inspection.differences)}. "
            "Export it anew with: mip-edge export WEIGHTS -o BUNDLE"
        )
