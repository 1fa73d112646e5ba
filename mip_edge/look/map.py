"""A map of embeddings in the plane: the points as the method puts them, and none of them moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mip_edge.data.dataset import Sample
from mip_edge.errors import DatasetError, OptionError
from mip_edge.look.canvas import open_figure, write_figure
from mip_edge.spec import Embeddings, Modality

METHODS = ("tsne", "umap")
TITLES = {"tsne": "t-SNE", "umap": "UMAP"}
IDENTITIES = 20
CROPS = 8
"""Crops of a person in one light that the map shows at most."""
_LEAST_POINTS = 5
_SEED = 0
_MARKERS = {Modality.VISIBLE: "o", Modality.INFRARED: "^"}
_PLACES = {"tsne": ("sklearn", "plots"), "umap": ("umap", "umap")}


def choose_points(
    samples: Sequence[Sample], *, identities: int = IDENTITIES, crops: int = CROPS
) -> list[int]:
    """Rows of at most `crops` images in each light of `identities` people who are in both lights.

    People and images are spread evenly over the sorted names and the order of `samples`, never
    chosen by how well they lie.
    Raises: DatasetError if nobody is in both lights.
    """
    seen: dict[str, dict[Modality, list[int]]] = {}
    for row, sample in enumerate(samples):
        seen.setdefault(sample.identity, {}).setdefault(sample.modality, []).append(row)
    names = sorted(name for name, lights in seen.items() if len(lights) == len(Modality))
    if not names:
        raise DatasetError("nobody is in both lights; a look at the model needs such people")
    chosen = [names[place] for place in _spread(len(names), identities)]
    return [
        seen[name][modality][place]
        for name in chosen
        for modality in Modality
        for place in _spread(len(seen[name][modality]), crops)
    ]


def check_method(method: str) -> None:
    """Raises: OptionError for a method that there is not, or whose library is not installed."""
    from importlib.util import find_spec

    if method not in METHODS:
        raise OptionError(f"--map must be tsne, umap or none, got {method}")
    module, extra = _PLACES[method]
    if find_spec(module) is None:
        raise OptionError(
            f"--map {method} needs {module}, which is not installed. "
            f'pip install "mip-edge[{extra}]", or --map none'
        )


def place_points(embeddings: Embeddings, method: str) -> NDArray[np.float64]:
    """Where `method` puts unit embeddings (N, D) in the plane by their cosines, (N, 2); seeded.

    Raises: OptionError for an unknown or missing method; DatasetError for fewer than 5 points.
    """
    check_method(method)
    points = len(embeddings)
    if points < _LEAST_POINTS:
        raise DatasetError(f"a map needs at least {_LEAST_POINTS} crops, got {points}; --map none")
    placer = _tsne(points) if method == "tsne" else _umap(points)
    return np.asarray(placer.fit_transform(embeddings), dtype=np.float64)  # type: ignore[attr-defined]


def draw_map(
    places: NDArray[np.float64], samples: Sequence[Sample], path: Path, *, title: str
) -> None:
    """`places` (N, 2) as PNG: the colour is the person, the marker the light.

    The name of a person stands once, beside that crop of theirs that is nearest to their others.
    """
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    figure = open_figure(8.4, 7.2)
    axes = figure.subplots()
    names = sorted({sample.identity for sample in samples})
    # dark and light of one hue lie side by side in the palette; apart they are less mistaken
    palette = [*colormaps["tab20"].colors[::2], *colormaps["tab20"].colors[1::2]]  # type: ignore[attr-defined]
    colour = {name: palette[place % len(palette)] for place, name in enumerate(names)}
    for modality, marker in _MARKERS.items():
        rows = [row for row, sample in enumerate(samples) if sample.modality is modality]
        axes.scatter(
            places[rows, 0],
            places[rows, 1],
            c=[colour[samples[row].identity] for row in rows],
            marker=marker,
            s=46,
            edgecolors="black",
            linewidths=0.4,
        )
    for name in names:
        own = places[[row for row, sample in enumerate(samples) if sample.identity == name]]
        nearest = np.linalg.norm(own[:, None] - own[None, :], axis=2).sum(axis=1).argmin()
        axes.annotate(
            name,
            own[nearest],
            xytext=(14, 7),
            textcoords="offset points",
            fontsize=8,
            zorder=0.5,  # behind the points: a name hides none
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": colour[name], "alpha": 0.75},
        )
    handles = [
        Line2D([], [], linestyle="", marker=marker, color="0.5", label=modality.value)
        for modality, marker in _MARKERS.items()
    ]
    axes.legend(handles=handles, fontsize=9)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(
        "Every point is one crop where the method put it. Near means alike; far distances, sizes\n"
        "and gaps mean little, and another seed turns the map.",
        fontsize=8,
    )
    axes.set_title(title)
    write_figure(figure, path)


def _tsne(points: int) -> object:
    from sklearn.manifold import TSNE

    return TSNE(
        n_components=2,
        perplexity=min(30.0, (points - 1) / 3),
        metric="cosine",
        init="pca",
        learning_rate="auto",
        random_state=_SEED,
    )


def _umap(points: int) -> object:
    from umap import UMAP

    # one thread: with a seed umap takes no more, and says so in a warning unless it is told
    return UMAP(
        n_components=2,
        n_neighbors=min(15, points - 1),
        metric="cosine",
        random_state=_SEED,
        n_jobs=1,
    )


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the places 0..count-1, evenly, each once."""
    places = np.linspace(0, count - 1, min(count, wanted)).round().astype(int)
    return [int(place) for place in np.unique(places)]
