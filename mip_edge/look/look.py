"""A look at a model on a data set: all pictures and figures of it in one folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engines.table import DEFAULT_PRECISION
from mip_edge.data.dataset import Sample
from mip_edge.data.readers import read_dataset
from mip_edge.embedder import Embedder
from mip_edge.embedding import default_engine
from mip_edge.errors import OptionError, OutputError
from mip_edge.evaluate.evaluation import embed_samples
from mip_edge.look.cmc import Direction, draw_cmc, rank_directions
from mip_edge.look.distances import PairSeparation, draw_distances, separate_pairs
from mip_edge.look.map import TITLES, check_method, choose_points, draw_map, place_points
from mip_edge.look.page import PICTURES, write_page
from mip_edge.output import write_text
from mip_edge.spec import Modality

if TYPE_CHECKING:
    from mip_edge.look.prompts import PromptReport

logger = logging.getLogger(__name__)

PARTS = ("test", "train")
PAGE, FIGURES = "index.html", "look.json"
_PROMPT_IDENTITIES, _PROMPT_CROPS = 32, 4


@dataclass(frozen=True, slots=True)
class LookOptions:
    """What is looked at, and how."""

    dataset: str = "folder"
    """Kind of the data set."""
    split: int = 1
    """Of RegDB."""
    part: str = "test"
    """"test" is query and gallery; in "train" every image is both, to see what was learned."""
    map: str | None = "tsne"
    """"tsne", "umap", or None for no map."""
    engine: str | None = None
    """None is torch for a checkpoint, the default engine for a bundle."""
    precision: str = DEFAULT_PRECISION
    """Of the bundle's graphs."""
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    """What `Embedder.open` takes beside engine and precision."""
    batch: int = 32

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise OptionError(f"--part must be {' or '.join(PARTS)}, got {self.part}")
        if self.map is not None:
            check_method(self.map)


@dataclass(frozen=True, slots=True)
class LookReport:
    """What there was to see."""

    model: str
    data: str
    fingerprint: str
    options: LookOptions
    queries: int
    gallery: int
    identities: int
    directions: tuple[Direction, ...]
    separations: tuple[PairSeparation, ...]
    map_points: int | None
    """Crops in the map; None without one."""
    prompts: PromptReport | None
    """None for a bundle, whose prompts are baked in."""
    page: Path

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the prompts give rise to."""
        return self.prompts.warnings if self.prompts else ()

    def figures(self) -> dict[str, object]:
        """For `--json` and the page."""
        return {
            "model": self.model,
            "data": self.data,
            "dataset": self.options.dataset,
            "part": self.options.part,
            "fingerprint": self.fingerprint,
            "queries": self.queries,
            "gallery": self.gallery,
            "identities": self.identities,
            "directions": [direction.figures() for direction in self.directions],
            "distances": [separation.figures() for separation in self.separations],
            "map": None
            if self.map_points is None
            else {"method": self.options.map, "points": self.map_points},
            "prompts": self.prompts.figures() if self.prompts else None,
            "warnings": list(self.warnings),
            "page": str(self.page),
        }


def look(
    model: Path, data: Path, folder: Path, options: LookOptions, *, overwrite: bool = False
) -> LookReport:
    """Embed the chosen part of `data` with a checkpoint or bundle; leave pictures and a page.

    The folder gets cmc.png, distances.png, map.png, prompts.png (checkpoints only), look.json with
    all figures, and index.html that shows everything.
    Raises: OutputError if an earlier look is there and may not be replaced; DatasetError or
    OptionError for data that cannot be looked at.
    """
    _check_folder(folder, overwrite=overwrite)
    parts = ("query", "gallery") if options.part == "test" else ("train",)
    dataset = read_dataset(options.dataset, data, split=options.split, parts=parts)
    query, gallery = dataset.query, dataset.gallery
    if options.part == "train":
        query = gallery = dataset.train
    engine = options.engine or default_engine(model)
    with Embedder.open(
        model, engine, precision=options.precision, **options.engine_options
    ) as embedder:
        found = embed_samples(embedder, query, batch=options.batch)
        known = found if gallery is query else embed_samples(embedder, gallery, batch=options.batch)
        fingerprint = embedder.fingerprint
    # where one list is both sides, its images count once
    samples = query if gallery is query else [*query, *gallery]
    embeddings = found if gallery is query else np.concatenate([found, known])
    directions = rank_directions(found, query, known, gallery)
    separations = separate_pairs(embeddings, samples)
    points = choose_points(samples) if options.map else []
    places = place_points(embeddings[points], options.map) if options.map else None
    prompts = look_at_prompts(model, samples) if model.suffix == ".safetensors" else None
    report = LookReport(
        model=str(model),
        data=str(data),
        fingerprint=fingerprint,
        options=options,
        queries=len(query),
        gallery=len(gallery),
        identities=len({sample.identity for sample in samples}),
        directions=directions,
        separations=separations,
        map_points=len(points) if options.map else None,
        prompts=prompts,
        page=folder / PAGE,
    )
    _prepare_folder(folder)
    title = f"{model.name} on {data.name}, {options.part} part"
    draw_cmc(directions, folder / PICTURES["cmc"], title=title)
    if separations:
        draw_distances(separations, folder / PICTURES["distances"], title=title)
    if options.map and places is not None:
        mapped = [samples[row] for row in points]
        people = len({sample.identity for sample in mapped})
        shown = f"{TITLES[options.map]} of {len(mapped)} crops of {people} people, {title}"
        draw_map(places, mapped, folder / PICTURES["map"], title=shown)
    if prompts is not None:
        from mip_edge.look.prompt_picture import draw_prompts
        from mip_edge.look.prompts import SAME

        draw_prompts(prompts, folder / PICTURES["prompts"], same=SAME, title=title)
    write_text(folder / FIGURES, json.dumps(report.figures(), indent=2) + "\n", lasting=False)
    write_text(folder / PAGE, write_page(report.figures()), lasting=False)
    for line in report.warnings:
        logger.warning("%s", line)
    return report


def format_look(report: LookReport) -> str:
    """The figures in a few lines for a person; the page says the rest."""
    lines = []
    for one in report.directions:
        ranking = one.ranking
        lines.append(
            f"{one.name}: Rank-1 {100 * ranking.rank1:.1f}%, mAP {100 * ranking.mAP:.1f}% "
            f"(chance {100 * ranking.chance_rank1:.1f}%)"
        )
    for pair in report.separations:
        d_prime = "none" if pair.d_prime is None else f"{pair.d_prime:.2f}"
        lines.append(
            f"{pair.name}: one person {pair.same.mean:.2f}, two people {pair.different.mean:.2f}, "
            f"d' {d_prime}, equal error {100 * pair.equal_error:.1f}%"
        )
    if report.prompts is not None:
        lines += _prompt_lines(report.prompts)
    return "\n".join([*lines, f"Look at: {report.page}"])


def _prompt_lines(prompts: PromptReport) -> list[str]:
    """What the two kinds of prompts do, each as the range over the layers."""
    lines = []
    if prompts.modality_swap is not None:
        lines.append(
            f"modality prompts: {_range(prompts.modality_distance)} of their length apart; "
            f"exchanging them moves an embedding by {prompts.modality_swap:.0%}"
        )
    if prompts.instance_variation:
        lines.append(
            f"instance prompts: vary by {_range(prompts.instance_variation)} of their length, "
            f"of which {_range(prompts.identity_share)} between people "
            f"(names shuffled: at most {max(prompts.identity_chance):.0%})"
        )
        lines.append(
            "instance prompts among themselves: all the same, as zero queries make them"
            if prompts.queries == "zero"
            else f"instance prompts among themselves: {_range(prompts.instance_spread)}"
        )
    return lines


def _range(values: Sequence[float]) -> str:
    return f"{100 * min(values):.0f} to {100 * max(values):.0f}%"


def look_at_prompts(path: Path, samples: Sequence[Sample]) -> PromptReport | None:
    """Of crops spread evenly over the samples; None, with a line, if they are too few."""
    import torch

    from engines.camera import choose_camera
    from engines.eager import camera_vector
    from mip_edge import checkpoint
    from mip_edge.data.augment import normalize
    from mip_edge.data.cache import load_crops
    from mip_edge.look.prompts import prompt_report

    model = checkpoint.load(path)
    chosen = [
        samples[row]
        for row in choose_points(samples, identities=_PROMPT_IDENTITIES, crops=_PROMPT_CROPS)
    ]
    lights = [[sample.identity for sample in chosen if sample.modality is one] for one in Modality]
    if all(len(set(names)) in (1, len(names)) for names in lights):
        logger.warning(
            "no look at the prompts: it needs two people in one light, one of them with two crops"
        )
        return None
    crops = load_crops(chosen, model.options.image_size)
    names = {name: number for number, name in enumerate(sorted({one.identity for one in chosen}))}
    table = checkpoint.read_metadata(path).get("cameras") or []
    vectors = [
        camera_vector(model, choose_camera(table, model.options.cameras, modality, "mean"))
        for modality in (Modality.INFRARED, Modality.VISIBLE)
    ]
    known = [vector for vector in vectors if vector is not None]
    return prompt_report(
        model,
        normalize(torch.from_numpy(crops)),
        torch.tensor([sample.modality.row for sample in chosen]),
        [names[sample.identity] for sample in chosen],
        camera_vectors=torch.stack(known) if len(known) == len(vectors) else None,
    )


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; expected the name of a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{folder} is not empty; choose another folder, or --overwrite")
    if not (folder / FIGURES).is_file():
        raise OutputError(f"{folder} holds no earlier look; --overwrite replaces nothing else")


def _prepare_folder(folder: Path) -> None:
    """Make it, without the files of an earlier look: a picture not drawn anew would be wrong."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (PAGE, *PICTURES.values()):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error
