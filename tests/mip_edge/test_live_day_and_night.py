"""The live loop on films made of arrays: what a site does to it in a day."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mip_edge.gallery.base import GalleryBounds
from mip_edge.gallery.memory import MemoryGallery
from mip_edge.gallery.sqlite import SqliteGallery
from mip_edge.live import event as event_module
from mip_edge.live.box import Detections
from mip_edge.live.decision import Candidate
from mip_edge.live.event import EventLog
from mip_edge.live.identity import Identifier
from mip_edge.live.loop import LiveOptions, run_live
from mip_edge.live.outcome import Assignment, Doubt, Merge
from mip_edge.live.source_options import SourceOptions
from mip_edge.spec import Crop, Embeddings, Modality
from mip_edge.thresholds import ModalityPair
from tests.mip_edge.stage import FullDisk

RATE = 20.0
Picture = NDArray[np.uint8]


class ShadeEmbedder:
    """Embeds a crop by how bright it is, alike in both lights."""

    fingerprint, dimension, min_similarity = "shades", 2, 0.97

    def __init__(self) -> None:
        self.calls: list[tuple[Modality, int]] = []

    def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
        self.calls.append((modality, len(crops)))
        angles = np.array([float(crop.mean()) / 255 * np.pi / 2 for crop in crops])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


class Film:
    """A `Capture` of pictures; None in their place is a broken connection."""

    def __init__(self, pictures: Iterable[Picture | None]) -> None:
        self._pictures = iter(pictures)
        self._picture: Picture | None = None

    def isOpened(self) -> bool:
        return True

    def grab(self) -> bool:
        self._picture = next(self._pictures, None)
        return self._picture is not None

    def retrieve(self) -> tuple[bool, Picture]:
        assert self._picture is not None
        return True, self._picture

    def get(self, propId: int) -> float:
        return RATE if propId == cv2.CAP_PROP_FPS else 0.0

    def release(self) -> None:
        pass


class Anna:
    """A detector that finds the bright thing before a dark wall, in every frame."""

    def __init__(self) -> None:
        self.frames = 0

    def detect(self, images: Sequence[Picture], indices: Sequence[int]) -> list[Detections]:
        self.frames += len(images)
        return [self._one(image) for image in images]

    def _one(self, image: Picture) -> Detections:
        rows, columns = np.nonzero(image.max(axis=2) > 120)
        if not len(rows):
            return Detections.empty()
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return Detections(np.array([box], np.float32), np.ones(1, np.float32))


def picture(at: int, *, colour: bool = True, size: tuple[int, int] = (240, 320)) -> Picture:
    """Anna, `at` pixels from the left, before a wall that has colours only by day; BGR."""
    image = np.zeros((*size, 3), np.uint8)
    columns = np.arange(size[1])
    image[:, :, 0] = np.where(columns // 20 % 2, 90, 20) if colour else 40
    image[:, :, 2] = np.where(columns // 20 % 2, 20, 90) if colour else 40
    image[:, :, 1] = 40
    scale = size[0] / 240
    anna = image[int(60 * scale) : int(180 * scale), int(at * scale) : int((at + 45) * scale)]
    anna[:] = np.where(np.arange(anna.shape[0]) // 6 % 2, 240, 200)[:, None, None]
    return image


def walk(count: int, **how: Any) -> list[Picture]:
    return [picture(20 + 3 * step, **how) for step in range(count)]


@pytest.fixture(autouse=True)
def anna(monkeypatch: pytest.MonkeyPatch) -> Anna:
    """One detector for all cameras, in the place of the network."""
    detector = Anna()
    monkeypatch.setattr("mip_edge.live.camera.open_detector", lambda *_, **__: detector)
    return detector


def play(
    films: dict[str, Callable[[], Film]],
    *,
    modality: Modality | None = None,
    embedder: ShadeEmbedder | None = None,
    gallery: Any = None,
    **options: Any,
) -> Any:
    """Run over films that are read frame by frame."""
    sources = tuple(SourceOptions(name, f"{name}.mp4", modality) for name in films)
    return run_live(
        LiveOptions(sources=sources, **{"realtime": False, **options}),
        embedder or ShadeEmbedder(),
        gallery=gallery,
        capture=lambda source: films[source.name](),
    )


def events_of(path: Path, *kinds: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [event for event in events if event["event"] in kinds]


def test_a_camera_that_switches_at_dusk_keeps_track_and_identity(tmp_path: Path) -> None:
    path, embedder = tmp_path / "events.jsonl", ShadeEmbedder()
    gallery = MemoryGallery(fingerprint="shades", dimension=2)
    day = [picture(100) for _ in range(60)]
    night = [picture(100, colour=False) for _ in range(100)]
    report = play(
        {"gate": lambda: Film([*day, *night])}, embedder=embedder, gallery=gallery, events=path
    )
    (changed,) = events_of(path, "modality_changed")
    assert (changed["from"], changed["to"], changed["camera"]) == ("visible", "infrared", "gate")
    assert changed["frame"] >= 60
    assert len(events_of(path, "appeared")) == report.identities == 1
    assert {modality for modality, _ in embedder.calls[2:]} == set(Modality)
    (record,) = gallery.identities()
    _, lights = gallery.embeddings_of(record.identity)
    assert set(lights) == set(Modality), "by night she is known too"
    assert (report.cameras[0].modality, report.cameras[0].modality_changes) == ("infrared", 1)


def test_a_light_that_is_given_is_never_doubted(tmp_path: Path) -> None:
    path, embedder = tmp_path / "events.jsonl", ShadeEmbedder()
    night = walk(40, colour=False)
    play({"gate": lambda: Film(night)}, modality=Modality.VISIBLE, embedder=embedder, events=path)
    assert {modality for modality, _ in embedder.calls} == {Modality.VISIBLE}
    assert events_of(path, "modality_changed") == []


def test_the_detector_runs_in_every_third_frame_and_tracks_move_on_between(
    anna: Anna, tmp_path: Path
) -> None:
    path = tmp_path / "events.jsonl"
    report = play({"gate": lambda: Film(walk(60))}, detect_every=3, events=path, events_boxes=True)
    assert anna.frames == report.cameras[0].looks == 20
    boxes = events_of(path, "box")
    assert len({event["frame"] for event in boxes}) > 50
    errors = [abs(event["box"][0] - (20 + 3 * event["frame"])) for event in boxes[12:]]
    assert float(np.mean(errors)) < 3, "pixels, though nobody looked in two of three frames"
    assert len(events_of(path, "appeared")) == 1


def test_where_most_frames_are_dropped_people_are_tracked_to_the_end(tmp_path: Path) -> None:
    """Of each 7 or so frames one comes, and the detector is to look in every fourth."""

    class Gaps(Film):
        number = -1

        def grab(self) -> bool:
            self.number += 1
            return super().grab()

        def retrieve(self) -> tuple[bool, Picture]:
            return self.number % 20 in (0, 5, 13), super().retrieve()[1]

    path = tmp_path / "events.jsonl"
    passages = [picture(20 + 3 * (step % 80)) for step in range(640)]
    report = play({"gate": lambda: Gaps(passages)}, detect_every=4, events=path, events_boxes=True)
    camera = report.cameras[0]
    assert (camera.frames, camera.looks) == (96, 96)
    assert camera.tracks == 8, "as often as she passes"
    seconds = {int(event["time"]) for event in events_of(path, "box")}
    assert seconds == set(range(32))


def test_frames_that_change_their_size_in_mid_stream_go_on(tmp_path: Path) -> None:
    path, video = tmp_path / "events.jsonl", tmp_path / "out.mp4"
    small = walk(30)
    large = [picture(20 + 3 * step, size=(480, 640)) for step in range(30, 60)]
    report = play({"gate": lambda: Film([*small, *large])}, events=path, save=video)
    assert report.frames == 60
    assert report.identities == 1
    assert video.is_file()


def test_two_hundred_people_in_one_frame_are_survived_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Crowd:
        def detect(self, images: Sequence[Picture], indices: Sequence[int]) -> list[Detections]:
            left, top = np.meshgrid(np.arange(20) * 15, np.arange(10) * 20)
            corner = np.stack([left.ravel(), top.ravel()], axis=1).astype(np.float32)
            boxes = np.hstack([corner, corner + np.float32([25, 60])])
            bad = np.array([[10, 10, 10, 50], [np.nan, 0, 5, 5]], np.float32)
            scores = np.full(len(boxes) + 2, 0.9, np.float32)
            return [Detections(np.concatenate([boxes, bad]), scores) for _ in images]

    monkeypatch.setattr("mip_edge.live.camera.open_detector", lambda *_, **__: Crowd())
    embedder = ShadeEmbedder()
    report = play({"gate": lambda: Film(walk(12))}, embedder=embedder)
    assert report.cameras[0].tracks >= 150
    assert report.cameras[0].refused == 2 * 12
    assert max(count for _, count in embedder.calls) == 16, "the batch is bounded"
    assert report.crops_asked > report.crops


def break_off(path: Path) -> Any:
    """Two streams, of which "gate" breaks off once and comes back; events go to `path`."""
    over = threading.Event()
    opened: list[str] = []

    def stream(source: SourceOptions) -> Film:
        opened.append(source.name)
        times = opened.count(source.name)

        def pictures() -> Iterable[Picture | None]:
            for step in range(4000):
                if source.name == "gate" and step == 30:
                    if times == 1:
                        return
                    over.set()
                over.wait(0.02)
                yield picture(20 + 3 * (step % 60))

        return Film(pictures())

    def stop(_: object) -> None:
        if over.is_set():
            raise KeyboardInterrupt

    sources = (
        SourceOptions("gate", "rtsp://user:secret@host/gate", Modality.VISIBLE),
        SourceOptions("yard", "rtsp://host/yard", Modality.VISIBLE),
    )
    return run_live(
        LiveOptions(sources=sources, events=path), ShadeEmbedder(), capture=stream, on_step=stop
    )


def test_a_lost_stream_is_told_others_go_on_and_who_was_there_has_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "events.jsonl"
    report = break_off(path)
    (lost,) = events_of(path, "camera_lost")
    (back,) = events_of(path, "camera_back")
    assert lost["camera"] == back["camera"] == "gate"
    assert back["seconds"] > 0
    assert report.cameras[0].lost == 1
    assert report.cameras[1].lost == 0
    between = [
        event
        for event in events_of(path, "appeared", "new", "matched", "left", "camera_lost")
        if event["camera"] == "gate"
    ]
    assert between.index(lost) < len(between) - 1
    shown = (path.read_text(), caplog.text, json.dumps(report.as_dict()), report.table())
    assert not any("secret" in text for text in shown)
    assert "camera gate is lost" in caplog.text


def test_a_clock_that_jumps_is_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    calls = 0

    def clock() -> datetime:
        nonlocal calls
        calls += 1
        jump = timedelta(days=20_000 if calls > 40 else 0)
        return datetime(1970, 1, 2, tzinfo=timezone.utc) + jump

    monkeypatch.setattr(
        "mip_edge.live.audience.EventLog",
        lambda sinks, **options: EventLog(sinks, clock=clock, now=lambda: 0.0, **options),
    )
    report = play({"gate": lambda: Film(walk(60))}, events=path)
    (jump,) = events_of(path, "clock_jumped")
    assert jump["seconds"] == 20_000 * 86_400
    assert (report.frames, report.identities) == (60, 1)


def test_a_disk_that_is_full_stops_neither_the_run_nor_the_other_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.jsonl"
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    report = play({"gate": lambda: Film(walk(60))}, events=path, save=tmp_path / "out.mp4")
    assert report.frames == 60
    (failed,) = events_of(path, "output_failed")
    assert "out.mp4" in failed["output"]
    assert report.failures == (failed["reason"],)
    assert events_of(path, "end")


def test_a_gallery_on_a_full_disk_stops_nothing_and_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    gallery = FullDisk(fingerprint="shades", dimension=2)

    def fill(cameras: Sequence[Any]) -> None:
        gallery.full = 5 < cameras[0].frames < 150

    report = run_live(
        LiveOptions(sources=(SourceOptions("gate", "gate.mp4"),), realtime=False, events=path),
        ShadeEmbedder(),
        gallery=gallery,
        capture=lambda _: Film(walk(60) * 4),
        on_step=fill,
    )
    assert report.frames == 240
    (failed,) = events_of(path, "output_failed")
    assert failed["output"] == "--gallery"
    assert "no space left" in failed["reason"]
    assert report.failures == (failed["reason"],)
    assert report.gallery_failures > 1
    assert f"the gallery failed {report.gallery_failures} times" in report.table()
    assert report.identities == 1, "she is known once the disk takes her"
    assert events_of(path, "end")


def test_a_model_that_gives_no_number_is_told_and_everybody_else_is_recognised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Doubtful(ShadeEmbedder):
        def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
            embeddings = super().embed(crops, modality)
            if len(self.calls) % 2:
                embeddings[0] = np.nan
            return embeddings

    report = play({"gate": lambda: Film(walk(60))}, embedder=Doubtful())
    assert report.identities == 1
    assert report.gallery_failures == 0
    assert report.cameras[0].crops_refused > 1
    assert sum("gave an embedding that is no number" in line for line in caplog.messages) == 1


def test_who_was_before_a_film_that_ended_has_left_though_another_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    play(
        {"gate": lambda: Film(walk(20)), "yard": lambda: Film(walk(60))},
        modality=Modality.VISIBLE,
        events=path,
    )
    events = events_of(path, "left", "camera_ended", "appeared", "matched", "new", "end")
    kinds = [(event["event"], event.get("camera")) for event in events]
    assert kinds.count(("appeared", "gate")) == kinds.count(("left", "gate")) == 1
    assert kinds.index(("left", "gate")) < kinds.index(("camera_ended", "yard"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_run_after_the_step_that_it_falls_into(
    tmp_path: Path, number: signal.Signals
) -> None:
    path, video = tmp_path / "events.jsonl", tmp_path / "out.mp4"

    class Slow(ShadeEmbedder):
        def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
            if len(self.calls) == 4:
                os.kill(os.getpid(), number)
            return super().embed(crops, modality)

    before = signal.getsignal(number)
    report = play(
        {"gate": lambda: Film(walk(60))},
        embedder=Slow(),
        events=path,
        events_boxes=True,
        save=video,
    )
    assert 0 < report.frames < 60
    (end,) = events_of(path, "end")
    assert end["frames"] == events_of(path, "box")[-1]["frame"] + 1, "that step is whole"
    assert video.is_file()
    assert signal.getsignal(number) is before


def test_ctrl_c_a_second_time_ends_the_run_at_once(tmp_path: Path) -> None:
    class Hangs(ShadeEmbedder):
        def embed(self, crops: Sequence[Crop], modality: Modality) -> Embeddings:
            if len(self.calls) == 4:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return super().embed(crops, modality)

    video = tmp_path / "out.mp4"
    with pytest.raises(KeyboardInterrupt):
        play({"gate": lambda: Film(walk(60))}, embedder=Hangs(), save=video)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_the_cameras_open_lets_those_go_that_are_open(tmp_path: Path) -> None:
    released: list[str] = []

    class Kept(Film):
        def release(self) -> None:
            released.append("gate")

    def stop() -> Film:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play({"gate": lambda: Kept(walk(9)), "yard": stop}, events=tmp_path / "events.jsonl")
    assert released == ["gate"]
    assert list(tmp_path.iterdir()) == []


def test_frames_of_one_pixel_are_survived(tmp_path: Path) -> None:
    dots = [np.full((1, 1, 3), 200, np.uint8)] * 12
    report = play(
        {"dot": lambda: Film(dots), "gate": lambda: Film(walk(12))}, save=tmp_path / "videos"
    )
    assert report.frames == 24
    assert report.failures == ()


def test_what_a_run_keeps_does_not_grow_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten people come and go every two seconds; what is kept of those who left must not add up."""

    class Crowds:
        def detect(self, images: Sequence[Picture], indices: Sequence[int]) -> list[Detections]:
            left, top = np.meshgrid(np.arange(5) * 60, np.arange(2) * 110)
            corner = np.stack([left.ravel(), top.ravel()], axis=1).astype(np.float32) + 4
            boxes = np.hstack([corner, corner + np.float32([40, 90])])
            here = Detections(boxes, np.full(len(boxes), 0.9, np.float32))
            return [here if index % 40 < 8 else Detections.empty() for index in indices]

    monkeypatch.setattr("mip_edge.live.camera.open_detector", lambda *_, **__: Crowds())
    sizes: list[int] = []
    embedder = ShadeEmbedder()

    def weigh(cameras: Sequence[Any]) -> None:
        if cameras[0].frames % 200 == 39:
            embedder.calls.clear()
            gc.collect()
            # By the type itself: what pretends to be of another class would be asked, and warn.
            kinds = (dict, list, set)
            held = [one for one in gc.get_objects() if issubclass(type(one), kinds) and one]
            # But for the cursors that SQLite's own wrapper clears away now and then.
            sizes.append(sum(len(h) for h in held if not isinstance(next(iter(h)), weakref.ref)))

    report = run_live(
        LiveOptions(sources=(SourceOptions("gate", "gate.mp4"),), realtime=False),
        embedder,
        gallery=MemoryGallery(
            fingerprint="shades", dimension=2, bounds=GalleryBounds(max_identities=20)
        ),
        capture=lambda _: Film([picture(100)] * 840),
        on_step=weigh,
    )
    assert report.cameras[0].tracks == 210
    assert len(sizes) == 5
    assert sizes[4] - sizes[1] < 75, "150 tracks came and went between them"


PLACE = {"camera", "frame", "time"}
NO_CAMERA = {"start", "merged", "unmerged", "output_failed", "output_back", "clock_jumped", "end"}


def described_keys() -> dict[str, set[str]]:
    """What the documentation of the events says that each has."""
    described: dict[str, str] = {}
    for line in (event_module.__doc__ or "").splitlines():
        begin = re.match(r" {4}(\w+)(.*)", line)
        if begin:
            described[begin[1]] = begin[2]
        elif line.startswith(" " * 20):
            described[next(reversed(described))] += " " + line.strip()
    keys = {}
    for kind, text in described.items():
        plain = text
        for _ in range(3):
            plain = re.sub(r"\([^()]*\)|\[[^][]*\]|\{[^{}]*\}", "", plain)
        own = {word.strip() for word in re.split(r"[:;]", plain)[0].split(",") if word.strip()}
        keys[kind] = own | ({"event", "at"} if kind in NO_CAMERA else {"event", "at", *PLACE})
    return keys


def test_every_event_has_the_keys_that_are_documented_and_each_is_really_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, steps = 0, 0
    real_step = Identifier.step

    def clock() -> datetime:
        nonlocal calls
        calls += 1
        return datetime(2026, 3, 1, tzinfo=timezone.utc) + timedelta(days=calls > 40)

    def step(self: Identifier, *given: Any) -> list[Any]:
        nonlocal steps
        steps += 1
        outcomes = real_step(self, *given)
        if steps == 30:
            pair = ModalityPair.VISIBLE_VISIBLE
            close = Candidate(1, 0.95, pair, 0.97)
            outcomes = [
                *outcomes,
                Assignment(("gate", 1), 1, Candidate(1, 0.98, pair, 0.97), 0.2, None),
                Doubt(("gate", 1), (close,), "close to the threshold"),
                Merge(1, 2, 1, 0.99),
            ]
        return outcomes

    monkeypatch.setattr(
        "mip_edge.live.audience.EventLog",
        lambda sinks, **options: EventLog(sinks, clock=clock, now=lambda: 0.0, **options),
    )
    monkeypatch.setattr("mip_edge.live.keeper.QUIET", 0.0)
    monkeypatch.setattr(Identifier, "step", step)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    gallery = FullDisk(fingerprint="shades", dimension=2)

    def fill(cameras: Sequence[Any]) -> None:
        gallery.full = cameras[0].frames < 20

    run_live(
        LiveOptions(
            sources=(SourceOptions("gate", "gate.mp4"), SourceOptions("yard", "yard.mp4")),
            realtime=False,
            events=first,
            events_boxes=True,
        ),
        ShadeEmbedder(),
        gallery=gallery,
        capture=lambda _: Film([*walk(60), *walk(60, colour=False)]),
        on_step=fill,
    )
    break_off(second)
    documented = described_keys()
    told = {
        event["event"]: set(event)
        for path in (first, second)
        for event in events_of(path, *documented)
    }
    assert set(told) == set(documented) - {"unmerged"}, "that one is for who undoes a merge"
    report = {"event", "at", *told["end"]}
    expected = {**documented, "end": report}
    assert told == {kind: expected[kind] for kind in told}
    (start,) = events_of(first, "start")
    (cameras,) = re.findall(r"cameras \[\{(.*?)\}\]", event_module.__doc__ or "", re.DOTALL)
    listed = {word.split()[0] for word in re.sub(r"\(.*?\)", "", cameras).split(",")}
    assert all(set(camera) == listed for camera in start["cameras"])


def test_who_was_kept_in_a_gallery_file_is_known_again_in_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "site.gallery"
    for run in range(2):
        with_events = tmp_path / f"{run}.jsonl"
        gallery = SqliteGallery.open(path, fingerprint="shades", dimension=2)
        play({"gate": lambda: Film(walk(60))}, gallery=gallery, events=with_events)
        gallery.close()
    assert [len(events_of(tmp_path / f"{run}.jsonl", "new")) for run in range(2)] == [1, 0]
    (matched,) = events_of(tmp_path / "1.jsonl", "matched")
    assert matched["identity"] == 1


def test_the_gallery_of_a_run_keeps_to_its_bounds() -> None:
    gallery = MemoryGallery(
        fingerprint="shades", dimension=2, bounds=GalleryBounds(max_identities=1)
    )
    films = {
        "gate": lambda: Film(walk(60)),
        "yard": lambda: Film([np.asarray(p // 3 * 2, np.uint8) for p in walk(400)]),
    }
    play(films, gallery=gallery)
    assert len(gallery.identities()) == 1


def test_the_page_shows_cameras_people_and_counts() -> None:
    found: list[dict[str, Any]] = []

    def look(cameras: Sequence[Any]) -> None:
        if cameras[0].frames == 50:
            with urlopen(f"http://127.0.0.1:{port}/state", timeout=5) as reply:
                found.append(json.load(reply))

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_live(
        LiveOptions(sources=(SourceOptions("gate", "gate.mp4"),), realtime=False, serve=str(port)),
        ShadeEmbedder(),
        capture=lambda source: Film(walk(60)),
        on_step=look,
    )
    (state,) = found
    assert [camera["name"] for camera in state["cameras"]] == ["gate"]
    assert state["counts"]["crops saved"].endswith("%")
    assert [person["identity"] for person in state["people"]] == [1]


def test_a_run_scores_itself_where_the_truth_is_known(tmp_path: Path) -> None:
    lines = [
        {
            "frame": step,
            "modality": "visible",
            "people": [{"identity": 5, "box": [20 + 3 * step, 60, 65 + 3 * step, 180]}],
        }
        for step in range(60)
    ]
    (tmp_path / "gate.truth.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    report = play({"gate": lambda: Film(walk(60))}, truth=tmp_path)
    score = report.as_dict()["truth"]
    assert score["tracking"]["idf1"] > 0.9
    assert "hand-overs" in report.table()
