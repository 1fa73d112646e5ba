"""A synthetic site filmed by several cameras: its frames, its truth, and what it promises."""

from __future__ import annotations

import json
from dataclasses import replace
from math import hypot, pi
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mip_edge.cli import cli
from mip_edge.errors import OptionError, OutputError
from mip_edge.live.camera_file import read_camera_file
from mip_edge.live.score_truth import TrueFrame, read_frames
from mip_edge.live.truth import read_truth
from mip_edge.spec import Modality
from mip_edge.synthetic.daylight import Daylight, Hours
from mip_edge.synthetic.film import CameraFilm
from mip_edge.synthetic.footage import FilmOptions, write_film
from mip_edge.synthetic.identity import draw_identity
from mip_edge.synthetic.plan import FASTEST, PlanCamera, Sensor, make_plan, travels
from mip_edge.synthetic.walk import Stance, Walker
from mip_edge.synthetic.wardrobe import Wardrobe

OPTIONS = FilmOptions(people=8, at_once=8.0, seconds=24.0, rate=5.0, size=(120, 160))
"""120 frames of four cameras."""
FORWARD = PlanCamera("gate", Sensor.VISIBLE, 0.0, 0.0, heading=0.0, late=0.0)
"""Stands at the origin and looks along the x axis."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "world"
    write_film(folder, OPTIONS)
    return folder


def frames_of(video: Path) -> list[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(video))
    frames: list[NDArray[np.uint8]] = []
    while True:
        read, frame = capture.read()
        if not read:
            return frames
        frames.append(np.asarray(frame, np.uint8))


def truths_of(world: Path) -> dict[str, list[TrueFrame]]:
    names = [camera.name for camera in make_plan(OPTIONS.cameras).cameras]
    return {name: list(read_frames(world / f"{name}.truth.jsonl")) for name in names}


def test_the_same_seed_gives_the_same_truth_and_the_same_frames(
    world: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    write_film(again, OPTIONS)
    names = sorted(path.name for path in world.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    for name in names:
        if not name.endswith(".mp4"):
            assert (world / name).read_bytes() == (again / name).read_bytes()
    for one, other in zip(
        frames_of(world / "yard.mp4"), frames_of(again / "yard.mp4"), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_another_seed_gives_other_ways(world: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_film(other, replace(OPTIONS, seed=8, cameras=1))
    assert (other / "gate.truth.jsonl").read_bytes() != (world / "gate.truth.jsonl").read_bytes()


def test_every_frame_has_its_truth_with_boxes_inside_it(world: Path) -> None:
    seen = 0
    for name, truth in truths_of(world).items():
        images = frames_of(world / f"{name}.mp4")
        assert [frame.index for frame in truth] == list(range(len(images))) == list(range(120))
        assert images[0].shape == (120, 160, 3)
        for frame in truth:
            for person in frame.people:
                x1, y1, x2, y2 = person.box
                assert 0 <= x1 < x2 <= 160
                assert 0 <= y1 < y2 <= 120
                assert person.full[0] <= x1 < x2 <= person.full[2]
                assert person.full[1] <= y1 < y2 <= person.full[3]
                assert 0 < person.visible <= 1
                seen += 1
    assert seen > 200


def test_the_demo_reads_the_same_truth(world: Path) -> None:
    old = read_truth(world / "gate.truth.jsonl")
    assert [set(people) for people in old.values()] == [
        {person.identity for person in frame.people} for frame in truths_of(world)["gate"]
    ]


def test_switching_cameras_see_colour_by_day_and_grey_by_night(world: Path) -> None:
    lights = {name: [frame.modality for frame in truth] for name, truth in truths_of(world).items()}
    assert set(lights["gate"]) == {Modality.VISIBLE}
    assert set(lights["court"]) == {Modality.INFRARED}
    for name, late in (("yard", 1.2), ("dock", 1.8)):
        switch = round((12 + late) * 5)
        assert lights[name] == [Modality.VISIBLE] * switch + [Modality.INFRARED] * (120 - switch)
        images = frames_of(world / f"{name}.mp4")
        spread = [float(np.ptp(image.astype(int), axis=2).mean()) for image in images]
        assert min(spread[:switch]) > 10
        assert max(spread[switch:]) < 4
    record = json.loads((world / "world.json").read_text())
    assert [camera["switches"] for camera in record["cameras"]] == [
        [],
        [],
        [[66, "infrared"]],
        [[69, "infrared"]],
    ]


def test_it_grows_dark_before_the_switch(world: Path) -> None:
    images = frames_of(world / "yard.mp4")
    assert images[64].mean() < 0.6 * images[10].mean()


def test_some_people_come_only_by_day_some_only_by_night_and_most_both(world: Path) -> None:
    hours = json.loads((world / "world.json").read_text())["hours"]
    assert hours == {"day": [0, 6], "night": [1, 7], "both": [2, 3, 4, 5]}
    dusk = 60
    for truth in truths_of(world).values():
        for frame in truth:
            there = {person.identity for person in frame.people}
            assert not there & set(hours["night" if frame.index < dusk else "day"])


def test_two_cameras_see_one_person_at_one_time_and_separate_ones_never(world: Path) -> None:
    truths = truths_of(world)
    together = set()
    for frames in zip(*truths.values(), strict=True):
        who = [{person.identity for person in frame.people} for frame in frames]
        names = list(truths)
        together |= {
            (names[i], names[j]) for i in range(4) for j in range(i + 1, 4) if who[i] & who[j]
        }
    assert together == {("gate", "court")}


def test_nobody_travels_faster_than_the_written_minimum(world: Path) -> None:
    file = read_camera_file(world / "cameras.toml")
    assert [source.modality for source in file.sources] == [None] * 4
    assert [Path(source.url) for source in file.sources] == [
        world / f"{name}.mp4" for name in ("gate", "court", "yard", "dock")
    ]
    least = {(t.origin, t.destination): t.min_seconds for t in file.travels}
    assert len(least) == 12
    assert least["gate", "court"] == 0.0
    assert least["gate", "yard"] > 2.0
    last: dict[int, dict[str, float]] = {}
    checked = 0
    for frames in zip(*truths_of(world).values(), strict=True):
        for name, frame in zip(("gate", "court", "yard", "dock"), frames, strict=True):
            time = frame.index / OPTIONS.rate
            for person in frame.people:
                before = last.setdefault(person.identity, {})
                for origin, seconds in before.items():
                    if origin != name:
                        assert time - seconds >= least[origin, name]
                        checked += least[origin, name] > 0
                before[name] = time
    assert checked > 20


def test_boxes_for_a_perfect_detector_lie_beside_the_video(world: Path) -> None:
    lines = (world / "gate.boxes.jsonl").read_text().splitlines()
    for line, frame in zip(lines, truths_of(world)["gate"], strict=True):
        sure = [[*person.box, 1.0] for person in frame.people if person.visible >= 0.3]
        assert json.loads(line) == {"frame": frame.index, "boxes": sure}


def test_who_stands_nearer_hides_who_stands_behind() -> None:
    film = CameraFilm(FORWARD, (240, 320), seed=1, number=0)
    near = (draw_identity(1, 0), 1.75, Stance(4.5, 0.0, pi, 0.0))
    far = (draw_identity(1, 1), 1.75, Stance(7.5, 0.0, pi, 0.0))
    beside = (draw_identity(1, 2), 1.75, Stance(7.5, 2.0, pi, 0.0))
    for people in ((near, far, beside), (beside, far, near)):
        frame = film.shoot(people, Wardrobe(), by_day=True, brightness=1.0)
        shares = {person.identity: person.visible for person in frame.people}
        assert shares[1] < 0.5
        alone = film.shoot((far,), Wardrobe(), by_day=True, brightness=1.0).people[0]
        assert shares[1] < alone.visible


def test_height_falls_with_distance_and_feet_rise() -> None:
    film = CameraFilm(FORWARD, (480, 640), seed=1, number=0)
    full = {}
    for distance in (4.0, 8.0):
        person = (draw_identity(1, 0), 1.75, Stance(distance, 0.0, pi, 0.0))
        seen = film.shoot((person,), Wardrobe(), by_day=True, brightness=1.0).people
        full[distance] = seen[0].full
    tall = {distance: box[3] - box[1] for distance, box in full.items()}
    # 1.15 heights of 480 pixels times 1.75 m over 4 m; hats and shoes come to it.
    assert tall[4.0] == pytest.approx(241.5, rel=0.1)
    assert tall[4.0] == pytest.approx(2 * tall[8.0], rel=0.03)
    assert full[4.0][3] > full[8.0][3]


@pytest.mark.parametrize(
    ("facing", "yaw"), [(pi, 0.0), (-pi / 2, pi / 2), (0.0, pi), (pi / 2, 3 * pi / 2)]
)
def test_who_walks_to_the_camera_faces_it_and_who_walks_right_is_seen_from_the_side(
    facing: float, yaw: float
) -> None:
    assert np.cos(FORWARD.yaw(facing) - yaw) == pytest.approx(1.0)


def test_a_point_to_the_right_of_the_view_lies_right() -> None:
    assert FORWARD.locate(5.0, -1.0) == (5.0, 1.0)


@given(cameras=st.integers(1, 16))
def test_every_plan_names_its_cameras_apart_and_ends_with_one_that_switches_or_infrared(
    cameras: int,
) -> None:
    plan = make_plan(cameras)
    assert len({camera.name for camera in plan.cameras}) == cameras
    assert any(camera.sensor is not Sensor.VISIBLE for camera in plan.cameras)


def test_eight_cameras_have_two_pairs_that_overlap() -> None:
    least = travels(make_plan(8), (480, 640))
    pairs = {
        (t.origin, t.destination) for t in least if t.seconds == 0 and t.origin < t.destination
    }
    assert pairs == {("court", "gate"), ("hall", "lane")}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), hours=st.sampled_from(Hours))
def test_people_walk_without_leaps_and_never_too_fast(seed: int, hours: Hours) -> None:
    plan, daylight = make_plan(4), Daylight(120.0, 2)
    rng = np.random.default_rng(seed)
    walker = Walker(draw_identity(1, 0), hours, plan, daylight, rng, absence=5.0)
    before: Stance | None = None
    appeared = 0
    for index in range(1200):
        stance = walker.at(index / 10)
        if before is not None and stance is not None:
            assert hypot(stance.x - before.x, stance.y - before.y) <= FASTEST / 10 + 1e-6
        appeared += stance is not None
        before = stance
    assert appeared > 0


def test_day_and_night_alternate() -> None:
    daylight = Daylight(80.0, 2)
    assert [daylight.by_day(time) for time in (-1, 0, 19, 20, 39, 40, 59, 60)] == (
        [True, True, True, False, False, True, True, False]
    )
    assert [daylight.brightness(time) for time in (0, 10, 25)] == [1.0, 1.0, pytest.approx(10 / 24)]
    assert daylight.brightness(17) < 1
    assert daylight.brightness(40) < daylight.brightness(43) < daylight.brightness(50)


def test_an_existing_world_is_replaced_only_when_told_and_other_folders_never(
    tmp_path: Path,
) -> None:
    options = FilmOptions(cameras=1, people=1, seconds=20.0, rate=1.0, size=(120, 120))
    folder = tmp_path / "world"
    write_film(folder, options)
    with pytest.raises(OutputError, match="--overwrite"):
        write_film(folder, options)
    write_film(folder, options, overwrite=True)
    mine = tmp_path / "photos"
    mine.mkdir()
    (mine / "me.jpg").write_text("x")
    with pytest.raises(OutputError, match="not a world of mip-edge"):
        write_film(mine, options, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "world"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"cameras": 0}, "--cameras must be at least 1"),
        ({"cameras": 65}, "--cameras must be at most 64"),
        ({"size": (121, 160)}, "--size must be two even numbers"),
        ({"seconds": 30.0, "nights": 2}, "at least 10 seconds each"),
    ],
)
def test_a_film_that_cannot_be_is_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        FilmOptions(**wrong)  # type: ignore[arg-type]


def test_the_command_makes_a_small_world_with_what_is_asked_otherwise(tmp_path: Path) -> None:
    asked = [
        "--small",
        "--cameras",
        "2",
        "--people",
        "3",
        "--rate",
        "2",
        "--seconds",
        "20",
        "--size",
        "120",
        "160",
        "--json",
    ]
    done = CliRunner().invoke(cli, ["world", "make", str(tmp_path / "world"), *asked])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["options"]["people"] == 3
    assert told["options"]["at_once"] == 10.0
    assert told["frames"] == 40
    assert [camera["name"] for camera in told["cameras"]] == ["gate", "court"]
    again = CliRunner().invoke(cli, ["world", "make", str(tmp_path / "world"), *asked])
    assert again.exit_code == 1
    assert "--overwrite" in again.output


def test_the_contact_sheet_has_a_row_for_each_camera(world: Path) -> None:
    sheet = cv2.imread(str(world / "world.png"))
    assert sheet is not None
    cells = 4 * (240 + 24 + 6) + 24
    assert sheet.shape == (cells + 560, 6 * 326 + 6, 3)
    for row in range(4):
        cell = sheet[24 + row * 270 + 24 :][:240, 6:326]
        assert cell.std() > 3
