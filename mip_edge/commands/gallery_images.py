"""The commands `mip-edge gallery enroll` and `mip-edge gallery search`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

gallery_argument = click.argument(
    "path", metavar="GALLERY", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
modality_option = click.option(
    "--modality",
    type=click.Choice(["visible", "infrared"]),
    required=True,
    help="The light that all of the images were taken in.",
)


@click.command()
@click.argument("path", metavar="GALLERY", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.argument(
    "images",
    metavar="IMAGE...",
    type=click.Path(exists=True, path_type=Path),
    nargs=-1,
    required=True,
)
@modality_option
@click.option("--label", default="", show_default="none", help="The name of this person.")
@click.option(
    "--identity",
    type=click.IntRange(min=1),
    show_default="who has the label, or somebody new",
    help="The number of this person.",
)
@click.option(
    "--thumbnails",
    is_flag=True,
    help="Keep a small picture too; a gallery is made with pictures or without.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what came of it as JSON.")
def enroll(
    path: Path,
    bundle: Path,
    images: tuple[Path, ...],
    modality: str,
    label: str,
    identity: int | None,
    thumbnails: bool,
    as_json: bool,
) -> None:
    """Add images of ONE person to GALLERY, with the model of BUNDLE.

    IMAGE is a crop of that person, or a folder of such. GALLERY is made if it does not exist. Of
    each light the eight most different views are kept.
    """
    from mip_edge.enrolment import enrol
    from mip_edge.spec import Modality

    done = enrol(
        path,
        bundle,
        images,
        Modality(modality),
        label=label,
        identity=identity,
        thumbnails=thumbnails,
    )
    if as_json:
        click.echo(json.dumps(asdict(done), indent=2))
        return
    who = f"identity {done.identity}" + (f" ({done.label})" if done.label else "")
    click.echo(
        f"{path}: {'new ' if done.new else ''}{who}, {done.images} {modality} images came, "
        f"embeddings kept: {done.embeddings}"
    )


@click.command()
@gallery_argument
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.argument(
    "images",
    metavar="IMAGE...",
    type=click.Path(exists=True, path_type=Path),
    nargs=-1,
    required=True,
)
@modality_option
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Identities named for each image.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the answers as JSON.")
def search(
    path: Path, bundle: Path, images: tuple[Path, ...], modality: str, top_k: int, as_json: bool
) -> None:
    """Search GALLERY for the people of images, with the model of BUNDLE.

    Each answer names the pair of lights and its threshold; "same" stands where it is reached. An
    identity known in both lights answers twice.
    """
    from mip_edge.enrolment import look_up
    from mip_edge.gallery.sqlite import open_gallery
    from mip_edge.spec import Modality

    with open_gallery(path) as opened:
        answers = look_up(opened, bundle, images, Modality(modality), top_k=top_k)
    if as_json:
        click.echo(json.dumps([asdict(answer) for answer in answers], indent=2))
        return
    for answer in answers:
        click.echo(answer.image)
        for hit in answer.hits:
            click.echo(
                f"  identity {hit.identity:>5} {hit.label or '-':<16} {hit.similarity:.3f}  "
                f"{hit.pair} from {hit.threshold:.3f}  {'same' if hit.same else 'no'}"
            )
        if not answer.hits:
            click.echo("  nobody: the gallery is empty")
