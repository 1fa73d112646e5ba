"""The page that shows a look: pictures, figures and warnings, as one HTML file beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

PICTURES = {
    "cmc": "cmc.png",
    "distances": "distances.png",
    "map": "map.png",
    "prompts": "prompts.png",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #23232a; max-width: 1100px;
       margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
img { max-width: 100%; height: auto; border: 1px solid #e5e7eb; }
table { border-collapse: collapse; margin: .6em 0; }
th, td { padding: .2em .9em; text-align: right; border-bottom: 1px solid #e5e7eb; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.warning { background: #fef2f2; border-left: 4px solid #b91c1c; padding: .5em 1em; }
.note { color: #6b7280; max-width: 48em; }
"""


def write_page(figures: Mapping[str, Any]) -> str:
    """HTML of the figures of a look (`LookReport.figures`); pictures are named, not held."""
    parts = [f"<h1>{escape(figures['model'])} on {escape(figures['data'])}</h1>"]
    parts.append(
        f'<p class="note">{figures["queries"]} queries and {figures["gallery"]} gallery images of '
        f"{figures['identities']} people, the {escape(figures['part'])} part"
        f"; model {escape(figures['fingerprint'][:12])}.</p>"
    )
    parts += [f'<p class="warning">Warning: {escape(line)}.</p>' for line in figures["warnings"]]
    parts += _directions(figures)
    parts += _distances(figures)
    if figures["map"]:
        parts += [
            "<h2>Map</h2>",
            _note(
                "Colour is the person, marker the light; people and crops are spread evenly over "
                "the data. No point was moved. A map is an impression: what is near is alike, "
                "the rest is the method's doing."
            ),
            _picture("map"),
        ]
    if figures["prompts"]:
        parts += _prompts(figures["prompts"])
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>mip-edge look: {escape(figures['model'])}</title>\n<style>{_STYLE}</style>\n"
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _directions(figures: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            f"{one['query_modality']} to {one['gallery_modality']}",
            *(f"{100 * one[name]:.1f}" for name in ("rank1", "rank5", "rank10", "rank20")),
            *(f"{100 * one[name]:.1f}" for name in ("mAP", "mINP", "chance_rank1")),
        ]
        for one in figures["directions"]
    ]
    head = ["per cent", "Rank-1", "Rank-5", "Rank-10", "Rank-20", "mAP", "mINP", "chance"]
    note = "Every query against all images of the other light; chance is a random order of them."
    if figures["dataset"] != "folder":
        note += (
            " This is not the data set's protocol, and no figure to compare with a paper's: "
            "for that, mip-edge evaluate."
        )
    return ["<h2>Rank-k</h2>", _note(note), _table(head, rows), _picture("cmc")]


def _distances(figures: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            " - ".join(one["modalities"]),
            f"{one['same_mean']:.3f} &plusmn; {one['same_deviation']:.3f}",
            f"{one['different_mean']:.3f} &plusmn; {one['different_deviation']:.3f}",
            "none" if one["d_prime"] is None else f"{one['d_prime']:.2f}",
            f"{100 * one['equal_error_rate']:.1f}%",
        ]
        for one in figures["distances"]
    ]
    return [
        "<h2>How alike</h2>",
        _note(
            "Cosine similarity of pairs of crops. d' is the distance of the two means in units of "
            "the root of the mean variance; at the equal error threshold as many pairs of one "
            "person are refused as pairs of two are accepted."
        ),
        _table(["pair", "one person", "two people", "d'", "equal error"], rows),
        _picture("distances"),
    ]


def _prompts(prompts: Mapping[str, Any]) -> list[str]:
    columns = [
        ("modality: to the other light", "modality_distance"),
        ("instance: crop to crop", "instance_variation"),
        ("instance: among themselves", "instance_spread"),
        ("instance: between people", "identity_share"),
        ("with names shuffled", "identity_chance"),
    ]
    present = [(head, prompts[name]) for head, name in columns if prompts[name]]
    layers = max((len(values) for _, values in present), default=0)
    rows = [
        [str(layer + 1), *(f"{100 * values[layer]:.1f}" for _, values in present)]
        for layer in range(layers)
    ]
    note = (
        "Lengths are in per cent of a prompt's own, the share between people in per cent of the "
        "variance inside a light, freed of chance."
    )
    if prompts["queries"] == "zero":
        note += (
            " The instance prompts of a crop do not differ among themselves, by construction: "
            "this network asks for them with zero queries, as the published one does."
        )
    return [
        "<h2>Prompts</h2>",
        _note(note),
        _picture("prompts"),
        _table(["layer", *(head for head, _ in present)], rows),
    ]


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _picture(name: str) -> str:
    return f'<p><img src="{PICTURES[name]}" alt="{name}"></p>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells of `rows` are HTML of our own."""
    heads = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{heads}</tr>{lines}</table>"
