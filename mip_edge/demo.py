"""The demo: one crop all the way on synthetic people, from drawing them to finding them again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from export.bundle import export_bundle
from export.exported import ExportReport
from export.options import ExportOptions
from mip_edge.benchmark import BenchmarkOptions, Timing, benchmark
from mip_edge.checkpoint import read_metadata, save
from mip_edge.data.image import write_image
from mip_edge.embedder import Embedder
from mip_edge.errors import OptionError, OutputError
from mip_edge.evaluate.evaluation import EvaluationReport, evaluate_model
from mip_edge.journal import TrainReport
from mip_edge.live.loop import run_live
from mip_edge.live.options import MOTION, LiveOptions
from mip_edge.live.report import LiveReport
from mip_edge.live.source_options import SourceOptions
from mip_edge.live.truth import (
    CrossingResult,
    Sightings,
    read_sightings,
    read_truth,
    score_crossings,
)
from mip_edge.model.mip import MIP
from mip_edge.model.options import MIPOptions
from mip_edge.recipe import TrainOptions
from mip_edge.run import made_by, start_run
from mip_edge.start import STARTER
from mip_edge.synthetic.scene import SceneCamera, SceneOptions, write_scene
from mip_edge.synthetic.world import DatasetOptions, write_dataset
from mip_edge.train import train

CROP_SIZE = (40, 20)
"""Pixels of the demo's crops. The shipped checkpoint learned from sharp ones of 128x64: a site of
its own is what fine-tuning is for."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How long the demo takes, mostly."""

    train_identities: int = 400
    """Synthetic people to fine-tune on; the shipped checkpoint has never seen them."""
    test_identities: int = 100
    """Other synthetic people, to be found again."""
    epochs: int = 4
    """Passes of the fine-tuning."""
    people: int = 10
    """People who cross before both cameras."""
    seed: int = 11
    """World of all these people."""
    threads: int | None = None
    """Threads; None takes all cores."""

    def __post_init__(self) -> None:
        if self.train_identities < 40:
            raise OptionError(
                f"--train-identities must be at least 40, got {self.train_identities}"
            )


@dataclass(slots=True)
class DemoReport:
    """Everything that the demo measured."""

    figures: dict[str, EvaluationReport] = field(default_factory=dict)
    training: TrainReport | None = None
    exported: ExportReport | None = None
    timings: list[Timing] = field(default_factory=list)
    live: LiveReport | None = None
    crossings: list[CrossingResult] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def crossings_line(self) -> str:
        """How many crossings were matched right, and of which kind."""
        again = [crossing.right for crossing in self.crossings if crossing.again]
        first = [crossing.right for crossing in self.crossings if not crossing.again]
        return (
            f"{sum(again) + sum(first)} of {len(self.crossings)} crossings matched right: "
            f"{sum(again)} of {len(again)} people recognised by night who came by day, "
            f"{sum(first)} of {len(first)} first-comers told from all others"
        )


def run_demo(
    folder: Path, options: DemoOptions, tell: Callable[[str], None], *, overwrite: bool = False
) -> DemoReport:
    """Do every step, telling each result as it comes; all files go to `folder`.

    With `overwrite` an earlier demo there is removed first.
    Raises: OutputError if `folder` is not empty and holds no demo that may be removed.
    """
    if overwrite and made_by(folder) == "demo":
        shutil.rmtree(folder)
    start_run(folder, "demo", asdict(options))
    report = DemoReport()
    data, bundle = folder / "data", folder / "bundle"
    clock = _Clock(report, tell)

    clock.start("Drawing synthetic people (no real person is in this demo)")
    world = DatasetOptions(
        options.train_identities,
        options.test_identities,
        crops=4,
        image_size=CROP_SIZE,
        seed=options.seed,
    )
    written = write_dataset(data, world)
    size = "x".join(map(str, CROP_SIZE))
    tell(f"{written} crops, visible and infrared, in {data}: far cameras, {size} pixels a crop")

    clock.start("Before: an untrained network, and the checkpoint that comes with mip-edge")
    fine_tuning = _fine_tuning(options)
    untrained = folder / "untrained.safetensors"
    torch.manual_seed(options.seed)
    known = MIPOptions.from_dict(read_metadata(STARTER)["options"])
    save(MIP(known), untrained)
    for name, weights in (("untrained", untrained), ("shipped", STARTER)):
        report.figures[name] = evaluate_model(weights, data)
        tell(_rates(name, report.figures[name]))

    clock.start(
        f"Fine-tuning on {options.train_identities} others, in crops smaller than it has seen"
    )
    report.training = train(data, fine_tuning, folder / "train")
    best = report.training.best
    report.figures["fine-tuned"] = evaluate_model(best, data)
    tell(f"best epoch {report.training.epoch} of {options.epochs}, by validation identities")
    tell(_rates("fine-tuned", report.figures["fine-tuned"]))

    clock.start("Exporting to ONNX, and comparing every graph with PyTorch on test crops")
    report.exported = export_bundle(best, bundle, ExportOptions(crops=data / "query"))
    for modality, parity in report.exported.parity.items():
        cosine = f"{parity.smallest_cosine:.6f}"
        tell(f"{modality.value}: smallest cosine {cosine} on {parity.crops} crops")
    report.figures["bundle"] = evaluate_model(bundle, data, picture=folder / "ranked.png")
    tell(_rates("bundle, ONNX Runtime", report.figures["bundle"]))

    clock.start("Timing the published forward in PyTorch and ours in ONNX Runtime, in turn")
    report.timings = benchmark(bundle, BenchmarkOptions(threads=options.threads), checkpoint=best)
    for timing in report.timings:
        tell(
            f"{timing.engine}, {timing.modality}, batch {timing.batch}: "
            f"{timing.median_ms:.1f} ms a crop, {timing.speedup:.2f}x"
        )

    clock.start("Two live cameras, gate (visible) and yard (infrared), with known truth")
    cameras = write_scene(
        folder / "scene", SceneOptions(people=options.people, seed=options.seed + 1)
    )
    report.live = _watch(folder, bundle, cameras, options)
    truths = {camera.name: read_truth(camera.truth) for camera in cameras}
    sightings = read_sightings(folder / "events.jsonl")
    report.crossings = score_crossings(truths, sightings)
    tell(
        f"{report.live.frames_per_second:.0f} frames/s, {report.live.crops_per_second:.0f} crops/s"
    )
    tell(report.crossings_line())
    _write_still(folder, report.crossings, sightings, cameras)
    clock.stop()
    _write_report(folder, options, report)
    return report


def _fine_tuning(options: DemoOptions) -> TrainOptions:
    return TrainOptions(
        model="tiny",
        init="synthetic",
        epochs=options.epochs,
        # Few crops and a start that knows such people: small steps, all of one size, and crops
        # that stay as they are. The published recipe is made for 80 epochs of a whole data set.
        optimizer="adamw",
        lr=1e-4,
        lr_per="step",
        lr_groups="equal",
        schedule="cosine",
        augmentation="light",
        iael=False,
        validation_share=0.1,
        seed=options.seed,
        threads=options.threads,
    )


def _watch(
    folder: Path, bundle: Path, cameras: Sequence[SceneCamera], options: DemoOptions
) -> LiveReport:
    live = LiveOptions(
        sources=tuple(
            SourceOptions(camera.name, str(camera.video), camera.modality) for camera in cameras
        ),
        # The person detector knows real people and finds under half of the drawn ones.
        detector=MOTION,
        realtime=False,
        save=folder / "live.mp4",
        events=folder / "events.jsonl",
        events_boxes=True,
        threads=options.threads,
    )
    with Embedder.open(bundle, threads=options.threads) as embedder:
        return run_live(live, embedder)


class _Clock:
    """Tells each step's title and keeps what it took."""

    def __init__(self, report: DemoReport, tell: Callable[[str], None]) -> None:
        self._report = report
        self._tell = tell
        self._title = ""
        self._begun = 0.0

    def start(self, title: str) -> None:
        self.stop()
        self._title, self._begun = title, time.monotonic()
        self._tell(f"\n{len(self._report.seconds) + 1}. {title}")

    def stop(self) -> None:
        if self._title:
            self._report.seconds[self._title] = round(time.monotonic() - self._begun, 1)
            self._title = ""


def _rates(name: str, report: EvaluationReport) -> str:
    parts = [
        f"{direction.name} Rank-1 {100 * direction.ranking.rank1:.1f}%, "
        f"mAP {100 * direction.ranking.mAP:.1f}%"
        for direction in report.directions
    ]
    chance = 100 * report.directions[0].ranking.chance_rank1
    return f"{name}: {'; '.join(parts)} (chance {chance:.1f}%)"


def _write_still(
    folder: Path,
    crossings: Sequence[CrossingResult],
    sightings: Sightings,
    cameras: Sequence[SceneCamera],
) -> None:
    """One person who was recognised, on each camera at the middle of the crossing.

    Nobody recognised: the middle of the video. Raises: OutputError if the video cannot be read.
    """
    known = [crossing.identity for crossing in crossings if crossing.again and crossing.right]
    video = cv2.VideoCapture(str(folder / "live.mp4"))
    halves = []
    for place, camera in enumerate(cameras):
        frames = sorted(
            frame
            for frame, seen in sightings.get(camera.name, {}).items()
            if known and known[0] in {identity for identity, _ in seen}
        )
        video.set(
            cv2.CAP_PROP_POS_FRAMES, frames[len(frames) // 2] if frames else camera.frames // 2
        )
        read, image = video.read()
        if not read:
            raise OutputError(f"{folder / 'live.mp4'} cannot be read back")
        halves.append(np.array_split(image, len(cameras), axis=1)[place])
    video.release()
    still = cv2.cvtColor(np.hstack(halves), cv2.COLOR_BGR2RGB)
    write_image(folder / "match.png", np.asarray(still, dtype=np.uint8))


def _write_report(folder: Path, options: DemoOptions, report: DemoReport) -> None:
    """`report.md` for people and `report.json` for programs."""
    assert report.live is not None  # the step before has made it
    lines = [
        "# mip-edge demo",
        "",
        "All people here are synthetic, drawn by mip-edge. The figures tell that the pipeline",
        "works; they tell nothing of real people, for whom a model must be trained on real crops.",
        "",
        f"{options.train_identities} people to fine-tune on, {options.test_identities} to find.",
        "",
        "| model | direction | Rank-1 | Rank-5 | mAP | mINP | chance |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, evaluation in report.figures.items():
        for direction in evaluation.directions:
            ranking = direction.ranking
            rates = (ranking.rank1, ranking.rank5, ranking.mAP, ranking.mINP, ranking.chance_rank1)
            cells = " | ".join(f"{100 * rate:.1f}%" for rate in rates)
            lines.append(f"| {name} | {direction.name} | {cells} |")
    lines += ["", "| engine | modality | batch | ms a crop | times torch |", "| --- " * 5 + "|"]
    lines += [
        f"| {one.engine} | {one.modality} | {one.batch} | {one.median_ms:.2f} | {one.speedup:.2f} |"
        for one in report.timings
    ]
    lines += ["", report.crossings_line(), ""]
    lines += ["| camera | person | came before | identity given | right |", "| --- " * 5 + "|"]
    for one in report.crossings:
        columns = (
            *(one.camera, one.person, "yes" if one.again else "no"),
            *("none" if one.identity is None else one.identity, "yes" if one.right else "no"),
        )
        lines.append("| " + " | ".join(map(str, columns)) + " |")
    lines += ["", "```", report.live.table(), "```", "", "| step | seconds |", "| --- | --- |"]
    lines += [f"| {step} | {seconds:.1f} |" for step, seconds in report.seconds.items()]
    (folder / "report.md").write_text("\n".join(lines) + "\n")
    (folder / "report.json").write_text(json.dumps(_plain(report), indent=2, default=str) + "\n")


def _plain(report: DemoReport) -> dict[str, Any]:
    assert report.training is not None
    assert report.exported is not None
    assert report.live is not None
    return {
        "figures": {name: one.figures() for name, one in report.figures.items()},
        "training": asdict(report.training),
        "export": report.exported.to_dict(),
        "timings": [one.to_dict() for one in report.timings],
        "live": report.live.as_dict(),
        "crossings": [asdict(one) for one in report.crossings],
        "crossings_right": sum(one.right for one in report.crossings),
        "seconds": report.seconds,
    }
