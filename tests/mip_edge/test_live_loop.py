from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from mip_edge.commands import live as command
from mip_edge.errors import GalleryError, MipEdgeError, OptionError, OutputError, SourceError
from mip_edge.gallery.memory import MemoryGallery
from mip_edge.live import loop as loop_module
from mip_edge.live.loop import LiveOptions, LiveReport, run_live
from mip_edge.live.need import NeedOptions
from mip_edge.live.options import FILE
from mip_edge.live.report import STAGES, Stopwatch
from mip_edge.live.source_options import SourceOptions
from mip_edge.spec import Crop, Embeddings, Modality
from mip_edge.thresholds import ModalityPair, Thresholds

FRAMES = 30
SHADES = {"anna": 220, "boris": 120}
WALKS = {
    "gate": {"anna": range(2, 26)},
    "yard": {"boris": range(20), "anna": range(4, 28)},
}
"""Who is seen by which camera in which frames."""


class ShadeEmbedder:
    """Embeds a crop by how bright it is: enough to tell two flat figures apart."""

    fingerprint, dimension = "shades", 2
    min_similarity: float | None = 0.97
    thresholds: Thresholds | None = None

    def __init__(self) -> None:
        self.calls: list[tuple[Modality, int]] = []

    def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
        self.calls.append((modality, len(crops)))
        angles = np.array([float(crop.mean()) / 255 * np.pi / 2 for crop in crops])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def box_of(name: str, index: int) -> list[int]:
    row = list(SHADES).index(name)
    return [10 + 5 * index, 20 + 110 * row, 50 + 5 * index, 120 + 110 * row]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two videos of flat figures that walk from left to right, with their boxes beside them."""
    folder = tmp_path_factory.mktemp("world")
    for camera, walks in WALKS.items():
        video = folder / f"{camera}.mp4"
        writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (240, 240))
        lines = []
        for index in range(FRAMES):
            image: NDArray[np.uint8] = np.full((240, 240, 3), 30, np.uint8)
            boxes = []
            for name, present in walks.items():
                if index in present:
                    x1, y1, x2, y2 = box_of(name, index)
                    image[y1:y2, x1:x2] = SHADES[name]
                    boxes.append([x1, y1, x2, y2])
            writer.write(image)
            lines.append(json.dumps({"frame": index, "boxes": boxes}))
        writer.release()
        (folder / f"{camera}.boxes.jsonl").write_text("\n".join(lines))
    return {camera: folder / f"{camera}.mp4" for camera in WALKS}


@pytest.fixture
def options(world: dict[str, Path]) -> LiveOptions:
    return LiveOptions(
        sources=(
            SourceOptions("gate", str(world["gate"]), Modality.VISIBLE),
            SourceOptions("yard", str(world["yard"]), Modality.INFRARED),
        ),
        detector=FILE,
        realtime=False,
    )


def events_of(path: Path, kind: str | None = None) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [event for event in events if kind in (None, event["event"])]


def test_a_person_is_one_identity_on_both_cameras_and_every_box_tells_so(
    options: LiveOptions, tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    report = run_live(dataclasses.replace(options, events=path, events_boxes=True), ShadeEmbedder())
    assert report.identities == 2
    assert [c.frames for c in report.cameras] == [FRAMES, FRAMES]
    assert [c.tracks for c in report.cameras] == [1, 2]
    assert [c.dropped for c in report.cameras] == [0, 0]
    who: dict[str, set[int]] = {"anna": set(), "boris": set()}
    for event in events_of(path, "box"):
        (name,) = [n for n in SHADES if event["box"] == box_of(n, event["frame"])]
        if event["identity"] is not None:
            who[name].add(event["identity"])
    assert [len(identities) for identities in who.values()] == [1, 1]
    assert who["anna"] != who["boris"]


def test_events_begin_and_end_and_keep_their_schema(options: LiveOptions, tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    report = run_live(dataclasses.replace(options, events=path, margin=0.02), ShadeEmbedder())
    events = events_of(path)
    start, end = events[0], events[-1]
    assert (start["event"], start["schema"], start["fingerprint"]) == ("start", 2, "shades")
    assert [c["modality"] for c in start["cameras"]] == ["visible", "infrared"]
    assert start["thresholds"] == dict.fromkeys(
        ("visible-visible", "infrared-infrared", "visible-infrared"), 0.97
    )
    assert end["event"] == "end"
    assert end["frames"] == report.frames == 2 * FRAMES
    assert all("at" in event for event in events)
    assert len(events_of(path, "appeared")) == len(events_of(path, "left")) == 3
    place = {"event", "at", "camera", "frame", "time", "track"}
    (matched,) = events_of(path, "matched")
    assert set(matched) == place | {
        *("identity", "score", "pair", "threshold", "margin", "previous", "box")
    }
    assert matched["pair"] == "visible-infrared"
    assert matched["score"] >= matched["threshold"] == 0.97
    assert [set(event) for event in events_of(path, "new")] == [
        place | {"identity", "previous", "box"}
    ] * 2
    assert events_of(path, "box") == []
    assert len(events_of(path, "camera_ended")) == 2


def test_one_embedding_call_a_modality_and_step(options: LiveOptions) -> None:
    embedder = ShadeEmbedder()
    report = run_live(options, embedder)
    warm_up, calls = embedder.calls[:2], embedder.calls[2:]
    assert [modality for modality, _ in warm_up] == [Modality.VISIBLE, Modality.INFRARED]
    assert sum(count for _, count in calls) == report.crops
    assert max(count for modality, count in calls if modality is Modality.INFRARED) == 2
    assert len(calls) <= 2 * report.steps


def test_cameras_of_one_modality_share_a_call(options: LiveOptions) -> None:
    sources = tuple(dataclasses.replace(s, modality=Modality.VISIBLE) for s in options.sources)
    embedder = ShadeEmbedder()
    need = NeedOptions(max_age=0.0, per_track_gap=0.0)
    run_live(dataclasses.replace(options, sources=sources, need=need), embedder)
    assert max(count for _, count in embedder.calls) == 3


def test_the_video_shows_both_cameras_and_is_read_back(
    options: LiveOptions, tmp_path: Path
) -> None:
    path = tmp_path / "out.mp4"
    report = run_live(dataclasses.replace(options, save=path), ShadeEmbedder())
    assert report.outputs == (str(path),)
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    assert capture.get(cv2.CAP_PROP_FPS) == 20
    ok, image = capture.read()
    capture.release()
    assert ok
    assert image.shape == (240, 480, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_cameras_of_two_rates_keep_in_step(
    options: LiveOptions, world: dict[str, Path], tmp_path: Path
) -> None:
    slow = tmp_path / "slow.mp4"
    writer = cv2.VideoWriter(str(slow), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (240, 240))
    for _ in range(15):
        writer.write(np.zeros((240, 240, 3), np.uint8))
    writer.release()
    (tmp_path / "slow.boxes.jsonl").write_text("")
    sources = (options.sources[0], SourceOptions("slow", str(slow), Modality.VISIBLE))
    seen: list[tuple[int, ...]] = []
    run_live(
        dataclasses.replace(options, sources=sources),
        ShadeEmbedder(),
        on_step=lambda cameras: seen.append(tuple(camera.frames for camera in cameras)),
    )
    assert seen[9] == (10, 5)
    assert seen[-1] == (30, 15)


def test_max_frames_ends_the_run(options: LiveOptions) -> None:
    report = run_live(dataclasses.replace(options, max_frames=7), ShadeEmbedder())
    assert (report.frames, report.steps) == (14, 7)


def test_in_realtime_what_comes_too_fast_is_dropped_and_counted(options: LiveOptions) -> None:
    report = run_live(dataclasses.replace(options, realtime=True), ShadeEmbedder())
    assert all(c.state == "ended" for c in report.cameras)
    assert all(c.frames + c.dropped == FRAMES for c in report.cameras)
    assert 1.0 < report.seconds < 10.0


def test_a_gallery_brought_along_is_filled_and_one_of_another_model_is_refused(
    options: LiveOptions,
) -> None:
    gallery = MemoryGallery(fingerprint="shades", dimension=2)
    run_live(options, ShadeEmbedder(), gallery=gallery)
    assert len(gallery.identities()) == 2
    again = run_live(options, ShadeEmbedder(), gallery=gallery)
    assert again.identities == 2, "the same two people come back"
    with pytest.raises(GalleryError):
        run_live(options, ShadeEmbedder(), gallery=MemoryGallery(fingerprint="other", dimension=2))


def test_ctrl_c_keeps_what_was_seen(
    options: LiveOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(cameras: Sequence[Any]) -> None:
        if cameras[0].frames == 5:
            raise KeyboardInterrupt

    video, path = tmp_path / "out.mp4", tmp_path / "events.jsonl"
    report = run_live(
        dataclasses.replace(options, save=video, events=path), ShadeEmbedder(), on_step=stop
    )
    assert report.steps == 5
    assert video.is_file()
    assert events_of(path)[-1]["event"] == "end"


def test_thresholds_are_as_asked_else_the_models_else_a_guess_that_is_told(
    options: LiveOptions, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = ShadeEmbedder()
    across = ModalityPair.VISIBLE_INFRARED
    asked = dataclasses.replace(options, thresholds={across: 0.9})
    found = loop_module.choose_thresholds(asked, embedder)
    assert (found.similarities[across], found.of(Modality.VISIBLE, Modality.VISIBLE)) == (0.9, 0.97)
    assert loop_module.choose_thresholds(options, embedder) == Thresholds.uniform(0.97)
    assert caplog.messages == []
    embedder.min_similarity = None
    assert loop_module.choose_thresholds(options, embedder) == Thresholds.uniform(0.6)
    assert "min_similarity=0.60 is a guess" in caplog.text
    embedder.thresholds = Thresholds.uniform(0.4)
    assert loop_module.choose_thresholds(options, embedder) == Thresholds.uniform(0.4)


def test_what_is_there_is_not_written_over_unless_told(
    options: LiveOptions, tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("precious")
    with pytest.raises(OutputError, match="--overwrite"):
        run_live(dataclasses.replace(options, events=path), ShadeEmbedder())
    assert path.read_text() == "precious"
    run_live(dataclasses.replace(options, events=path, overwrite=True), ShadeEmbedder())
    assert events_of(path)[-1]["event"] == "end"


def test_a_source_that_does_not_open_leaves_nothing_behind(
    options: LiveOptions, tmp_path: Path
) -> None:
    missing = SourceOptions("door", str(tmp_path / "none.mp4"), Modality.VISIBLE)
    broken = dataclasses.replace(
        options,
        sources=(*options.sources, missing),
        events=tmp_path / "events.jsonl",
        save=tmp_path / "out.mp4",
    )
    with pytest.raises(SourceError, match="door"):
        run_live(broken, ShadeEmbedder())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sources": ()}, "at least one --source"),
        ({"min_score": 0.0}, "--min-score"),
        ({"max_frames": 0}, "--max-frames"),
        ({"detect_every": 0}, "--detect-every"),
        ({"detector": "yolo"}, "--detector must be"),
        ({"events_boxes": True}, "--events-boxes needs --events"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: LiveOptions, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        dataclasses.replace(options, **change)


def test_percentiles_are_of_the_milliseconds_measured() -> None:
    ticks = iter([0.0, 0.010, 1.0, 1.020, 2.0, 2.030])
    watch = Stopwatch(now=lambda: next(ticks))
    for _ in range(3):
        with watch.measure("detect"):
            pass
    latency = watch.latencies()["detect"]
    assert (latency.count, round(latency.p50_ms, 6)) == (3, 20.0)
    assert latency.p95_ms == pytest.approx(29.0)
    assert watch.latencies()["embed"].count == 0


# The command


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Put the embedder of this test in the place of a bundle's."""
    calls: list[tuple[Any, ...]] = []

    def fake_run(
        options: LiveOptions, bundle: Path, opening: dict[str, Any], **gallery: Any
    ) -> LiveReport:
        calls.append((options, bundle, opening))
        return run_live(options, ShadeEmbedder())

    monkeypatch.setattr(command, "run", fake_run)
    return calls


def arguments(world: dict[str, Path], folder: Path) -> list[str]:
    return [
        str(folder),
        "--source",
        f"name=gate,url={world['gate']},modality=visible",
        "--source",
        f"name=yard,url={world['yard']},modality=infrared",
        "--detector",
        "file",
        "--no-realtime",
    ]


def test_the_command_prints_a_table_or_json(
    world: dict[str, Path], tmp_path: Path, opened: list[tuple[Any, ...]]
) -> None:
    table = CliRunner().invoke(command.live, arguments(world, tmp_path))
    assert table.exit_code == 0, table.output
    assert "60 frames" in table.output
    assert "p95 ms" in table.output
    plain = CliRunner().invoke(
        command.live, [*arguments(world, tmp_path), "--json", "--engine", "openvino"]
    )
    figures = json.loads(plain.stdout)
    assert figures["identities"] == 2
    assert figures["frames_per_second"] > 0
    assert set(figures["latencies"]) == set(STAGES)
    assert opened[1][1:] == (
        tmp_path,
        {"engine": "openvino", "precision": "fp32", "share_weights": False},
    )


def test_the_command_opens_the_embedder_as_its_options_say(
    world: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def open_shades(path: Path, **options: Any) -> nullcontext[ShadeEmbedder]:
        asked.append(options)
        return nullcontext(ShadeEmbedder())

    monkeypatch.setattr("mip_edge.embedder.Embedder.open", open_shades)
    result = CliRunner().invoke(
        command.live,
        [
            *arguments(world, tmp_path),
            *("--max-frames", "2", "--precision", "fp16", "--share-weights", "--threads", "1"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert asked == [
        {"engine": "onnxruntime", "precision": "fp16", "share_weights": True, "threads": 1}
    ]


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--source", "name=door,url=0,modality=x-ray"], "modality must be"),
        (["--source", "name=gate,url=0,modality=visible"], "given twice"),
        (["--events-boxes"], "--events"),
    ],
)
def test_a_command_line_that_cannot_be_is_a_clear_error(
    world: dict[str, Path],
    tmp_path: Path,
    opened: list[tuple[Any, ...]],
    extra: list[str],
    words: str,
) -> None:
    result = CliRunner().invoke(command.live, [*arguments(world, tmp_path), *extra])
    assert isinstance(result.exception, MipEdgeError)
    assert words in str(result.exception)
    assert opened == []


def test_the_command_is_light_to_import() -> None:
    heavy = "{'cv2', 'numpy', 'torch', 'onnxruntime'}"
    code = f"import sys, mip_edge.commands.live; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_live_and_gallery_run_without_torch() -> None:
    code = "import sys, mip_edge.gallery, mip_edge.live.loop; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
