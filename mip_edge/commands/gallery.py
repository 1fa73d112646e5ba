"""The command group `mip-edge gallery`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from mip_edge.commands.gallery_benchmark import benchmark
from mip_edge.commands.gallery_images import enroll, gallery_argument, search

json_option = click.option("--json", "as_json", is_flag=True, help="Print it all as JSON.")
_DAY = 86400.0


@click.group()
def gallery() -> None:
    """Look at and change the people that a gallery knows.

    GALLERY is a file such as people.gallery, of the live command or made by enroll. A live run may
    have it open meanwhile: it sees every change at its next look. Times are UTC.
    """


gallery.add_command(enroll)
gallery.add_command(search)
gallery.add_command(benchmark)


@gallery.command(name="list")
@gallery_argument
@json_option
def list_people(path: Path, as_json: bool) -> None:
    """List the identities of GALLERY."""
    from mip_edge.gallery.sqlite import open_gallery

    with open_gallery(path) as opened:
        people = opened.identities()
        model = {"fingerprint": opened.fingerprint, "dimension": opened.dimension}
    if as_json:
        click.echo(json.dumps({**model, "identities": [asdict(one) for one in people]}, indent=2))
        return
    for one in people:
        click.echo(
            f"{one.identity:>6}  {one.label or '-':<16} {one.embeddings:>4} "
            f"{_noun(one.embeddings, 'embedding'):<10}  "
            f"{_utc(one.first_time)} to {_utc(one.last_time)}  {', '.join(one.cameras)}"
        )
    total = sum(one.embeddings for one in people)
    click.echo(
        f"{_count(len(people), 'identity')}, {_count(total, 'embedding')} of "
        f"{opened.dimension} numbers, model {opened.fingerprint[:12]}"
    )


@gallery.command()
@gallery_argument
@click.argument("identity", type=click.IntRange(min=1))
@click.option(
    "--thumbnails",
    type=click.Path(file_okay=False, path_type=Path),
    show_default="none",
    help="Write the kept pictures of this identity into this new folder.",
)
@json_option
def show(path: Path, identity: int, thumbnails: Path | None, as_json: bool) -> None:
    """Show the tracklets of one IDENTITY of GALLERY."""
    from mip_edge.gallery.report import describe_identity, write_thumbnails
    from mip_edge.gallery.sqlite import open_gallery

    with open_gallery(path) as opened:
        known = describe_identity(opened, identity)
        written = 0 if thumbnails is None else write_thumbnails(opened, known.identity, thumbnails)
    if as_json:
        click.echo(json.dumps(asdict(known), indent=2))
        return
    click.echo(f"identity {known.identity} {known.label}".rstrip())
    for one in known.tracklets:
        lights = "+".join(light.value for light in one.modalities)
        click.echo(
            f"  {one.tracklet or '(no tracklet)':<32} {one.camera:<12} {lights:<17} "
            f"{one.embeddings:>3} {_noun(one.embeddings, 'embedding'):<10}  "
            f"{_utc(one.first_time)} to {_utc(one.last_time)}"
        )
    for merged in known.merges:
        click.echo(f"  merge {merged.merge}: identity {merged.identity} came in; undo with split")
    if thumbnails is not None:
        click.echo(f"{thumbnails}: {_count(written, 'picture')}")


@gallery.command()
@gallery_argument
@click.argument("identity", type=click.IntRange(min=1))
@click.argument("into", type=click.IntRange(min=1))
@json_option
def merge(path: Path, identity: int, into: int, as_json: bool) -> None:
    """Merge IDENTITY into another: both are one person."""
    from mip_edge.gallery.sqlite import open_gallery

    with open_gallery(path) as opened:
        number = opened.merge(identity, into)
    _tell(
        as_json,
        {"merge": number, "identity": identity, "into": into},
        f"merge {number}: identity {identity} is {into}; undo it with: mip-edge gallery split "
        f"{path} --merge {number}",
    )


@gallery.command()
@gallery_argument
@click.argument("identity", type=click.IntRange(min=1), required=False)
@click.argument("tracklets", nargs=-1)
@click.option("--merge", "number", type=click.IntRange(min=1), help="Undo this merge instead.")
@json_option
def split(
    path: Path, identity: int | None, tracklets: tuple[str, ...], number: int | None, as_json: bool
) -> None:
    """Split TRACKLETS off IDENTITY as somebody new, or undo a merge."""
    from mip_edge.gallery.sqlite import open_gallery

    if (number is None) == (identity is None):
        raise click.UsageError("Give IDENTITY and TRACKLETS, or --merge N.")
    with open_gallery(path) as opened:
        if number is not None:
            new = opened.undo_merge(number)
            words = f"merge {number} is undone: identity {new} is again"
        else:
            assert identity is not None
            new = opened.split(identity, tracklets)
            words = f"identity {new} has {', '.join(tracklets)} from now on"
    _tell(as_json, {"identity": new}, words)


@gallery.command()
@gallery_argument
@click.argument("identities", nargs=-1, type=click.IntRange(min=1))
@click.option("--label", help="Forget whoever has this label.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def forget(
    path: Path, identities: tuple[int, ...], label: str | None, yes: bool, as_json: bool
) -> None:
    """Forget IDENTITIES for good: embeddings, pictures, names.

    The file and SQLite's log beside it hold no copy afterwards. What an export, a backup or the
    disk's own spare blocks hold is not reached.
    """
    from mip_edge.gallery.report import find_labelled
    from mip_edge.gallery.sqlite import open_gallery

    with open_gallery(path) as opened:
        chosen = sorted({*identities, *(find_labelled(opened, label) if label else ())})
        if not chosen:
            raise click.UsageError("Give IDENTITIES or --label.")
        if not yes:
            if not sys.stdin.isatty():
                raise click.UsageError("Forgetting cannot be undone; add --yes.")
            click.confirm(f"Forget {', '.join(map(str, chosen))} for good?", abort=True)
        for identity in chosen:
            opened.forget(identity)
    _tell(as_json, {"forgotten": chosen}, f"forgotten: {', '.join(map(str, chosen))}")


@gallery.command()
@gallery_argument
@click.option(
    "--max-age",
    type=click.FloatRange(min=0, min_open=True),
    metavar="DAYS",
    show_default="any",
    help="Forget who was not seen for so long.",
)
@click.option(
    "--max-identities",
    type=click.IntRange(min=0),
    show_default="any",
    help="Keep so many, those seen last.",
)
@click.option(
    "--max-embeddings",
    type=click.IntRange(min=0),
    show_default="any",
    help="Forget whole identities, those seen longest ago first, until so many are left.",
)
@json_option
def prune(
    path: Path,
    max_age: float | None,
    max_identities: int | None,
    max_embeddings: int | None,
    as_json: bool,
) -> None:
    """Keep GALLERY to bounds; who has a label stays."""
    from mip_edge.gallery.base import GalleryBounds
    from mip_edge.gallery.sqlite import open_gallery

    bounds = GalleryBounds(
        max_age=None if max_age is None else max_age * _DAY,
        max_identities=max_identities,
        max_embeddings=max_embeddings,
    )
    with open_gallery(path, bounds=bounds) as opened:
        gone = opened.prune(time.time())
        opened.compact()
        left = len(opened)
    _tell(
        as_json,
        {"gone": gone, "embeddings": left},
        f"{_count(len(gone), 'identity')} went, {_count(left, 'embedding')} "
        f"{'is' if left == 1 else 'are'} left",
    )


@gallery.command(name="export")
@gallery_argument
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The .npz to write; without pictures, and readable by numpy alone.",
)
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
@json_option
def export_file(path: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Export GALLERY to one portable file."""
    from mip_edge.embedding import check_output
    from mip_edge.gallery.portable import export_gallery
    from mip_edge.gallery.sqlite import open_gallery

    check_output(output, overwrite=overwrite)
    with open_gallery(path) as opened:
        count = export_gallery(opened, output)
    _tell(
        as_json,
        {"output": str(output), "embeddings": count},
        f"{output}: {_count(count, 'embedding')}",
    )


@gallery.command(name="import")
@click.argument("path", metavar="GALLERY", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("exported", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def import_file(path: Path, exported: Path, as_json: bool) -> None:
    """Import an EXPORTED gallery of the same model into GALLERY.

    GALLERY is made if it does not exist. A tracklet that is there already is left out: one file
    imported twice doubles nobody. Somebody of whom a part is there keeps number and label, and gets
    the rest; everybody else gets a new number. All numbers are told.
    """
    from mip_edge.gallery.portable import import_gallery, read_model
    from mip_edge.gallery.sqlite import SqliteGallery

    fingerprint, dimension = read_model(exported)
    with SqliteGallery.open(path, fingerprint=fingerprint, dimension=dimension) as opened:
        done = import_gallery(opened, exported)
        total = len(opened)
    words = [
        f"{old} is {new} here{' already' if old in done.known else ''}"
        for old, new in done.numbers.items()
    ]
    new = len(done.numbers) - len(done.known)
    left_out = f", {done.left_out} were there already" if done.left_out else ""
    words.append(
        f"{path}: {_count(new, 'identity')} and {_count(done.added, 'embedding')} "
        f"came{left_out}, {total} in all"
    )
    _tell(
        as_json,
        {
            "numbers": [{"was": old, "is": new} for old, new in done.numbers.items()],
            "added": done.added,
            "left_out": done.left_out,
        },
        "\n".join(words),
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {_noun(number, noun)}"


def _noun(number: int, noun: str) -> str:
    if number == 1:
        return noun
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def _tell(as_json: bool, values: dict[str, Any], words: str) -> None:
    click.echo(json.dumps(values, indent=2) if as_json else words)


def _utc(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"
