"""The command `mip-edge embed`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mip_edge.commands.shared import (
    batch_option,
    engine_option,
    engine_options_option,
    precision_option,
    read_engine_options,
    share_weights_option,
)


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path), metavar="WEIGHTS|BUNDLE")
@click.argument("images", type=click.Path(exists=True, path_type=Path), nargs=-1, required=True)
@click.option(
    "--modality",
    type=click.Choice(["visible", "infrared"]),
    required=True,
    help="The light that all of the images were taken in.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("embeddings.npz"),
    show_default=True,
    help="The .npz to write: embeddings, paths, modality, fingerprint of the model.",
)
@engine_option
@precision_option
@engine_options_option
@share_weights_option
@batch_option
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
def embed(
    model: Path,
    images: tuple[Path, ...],
    modality: str,
    output: Path,
    engine: str | None,
    precision: str,
    engine_options: tuple[str, ...],
    share_weights: bool,
    batch: int,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Embed images into unit-length vectors.

    IMAGES are files, or folders that are searched at every depth.
    """
    from mip_edge.embedding import embed_to_file
    from mip_edge.spec import Modality

    chosen = read_engine_options(model, engine, engine_options)
    stored = embed_to_file(
        model,
        images,
        Modality(modality),
        output,
        engine=engine,
        precision=precision,
        engine_options={"share_weights": share_weights, **chosen},
        batch=batch,
        overwrite=overwrite,
    )
    count, dimension = stored.embeddings.shape
    if as_json:
        written = {
            "output": str(output),
            "embeddings": count,
            "dimension": dimension,
            "modality": modality,
            "fingerprint": stored.fingerprint,
        }
        click.echo(json.dumps(written, indent=2))
    else:
        click.echo(
            f"{output}: {count} {modality} embeddings of {dimension} numbers, "
            f"model {stored.fingerprint[:12]}"
        )
