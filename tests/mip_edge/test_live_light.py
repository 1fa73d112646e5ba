"""Visible or infrared: told by colour, deaf to tint, text and noise, slow to change its mind."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mip_edge.cli import cli
from mip_edge.errors import OptionError
from mip_edge.live.light import LightOptions, LightSwitch, chroma
from mip_edge.spec import Modality

VISIBLE, INFRARED = Modality.VISIBLE, Modality.INFRARED
LOW, HIGH = LightOptions().infrared_below, LightOptions().visible_above


def grey(seed: int = 0, size: tuple[int, int] = (120, 160)) -> NDArray[np.uint8]:
    """A grey picture of large shapes, in three equal channels."""
    rng = np.random.default_rng(seed)
    small = rng.integers(20, 230, (6, 8)).astype(np.uint8)
    large = cv2.resize(small, size[::-1], interpolation=cv2.INTER_NEAREST)
    return np.repeat(np.asarray(large, np.uint8)[:, :, None], 3, axis=2)


def coloured(strength: float = 1.0, seed: int = 0) -> NDArray[np.uint8]:
    """The grey picture, with colours of its own."""
    rng = np.random.default_rng(seed + 1)
    shift = rng.integers(-60, 61, (6, 8, 3)).astype(np.float32) * strength
    large = cv2.resize(shift, (160, 120), interpolation=cv2.INTER_NEAREST)
    return np.clip(grey(seed) + large, 0, 255).astype(np.uint8)


def noisy(image: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(5).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def measured(image: NDArray[np.uint8]) -> float:
    value = chroma(image)
    assert value is not None
    return value


def test_grey_has_no_chroma_and_colour_has_its_own() -> None:
    assert measured(grey()) < 1e-3
    assert measured(coloured()) > 3 * HIGH


def test_half_red_half_cyan_of_one_brightness_has_the_chroma_worked_by_hand() -> None:
    # Same grey level 100, so no line of the brightness explains it; a lit strip beside it is grey.
    image = np.full((180, 240, 3), 100, np.uint8)
    image[:, :120] = (160, 74, 76)
    image[:, 200:] = 200
    red = 0.299 * 160 + 0.587 * 74 + 0.114 * 76
    cr, cb = 0.713 * (160 - red), 0.564 * (76 - red)
    # Half the picture has it: what the fitted tint takes away is at most half.
    assert 0.5 * np.hypot(cr, cb) < measured(image) < np.hypot(cr, cb)


@pytest.mark.parametrize("tint", [(1.0, 0.8, 1.0), (0.9, 1.0, 0.85), (1.0, 0.7, 0.9)])
def test_a_tint_all_over_is_no_colour(tint: tuple[float, float, float]) -> None:
    tinted = (grey().astype(np.float32) * tint + (8, 0, 4)).astype(np.uint8)
    assert measured(tinted) < LOW / 2


def test_coloured_text_and_a_lamp_on_a_grey_picture_do_not_fool_it() -> None:
    image = grey(size=(480, 640))
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, "2026-11-23 05:48:22", (8, 24), font, 0.7, (255, 255, 0), 2)
    cv2.circle(image, (500, 400), 20, (255, 0, 0), -1)
    assert measured(image) < LOW
    assert measured(noisy(image, 8.0)) < LOW


def test_noise_of_every_pixel_is_no_colour_and_hides_none() -> None:
    assert measured(noisy(grey(size=(480, 640)), 20.0)) < LOW
    assert measured(noisy(coloured(), 10.0)) > HIGH


def test_a_picture_that_shows_nothing_says_nothing() -> None:
    blue = np.zeros((90, 120, 3), np.uint8)
    blue[:] = (0, 0, 255)
    for image in (np.zeros((90, 120, 3), np.uint8), blue, np.full((9, 7, 3), 255, np.uint8)):
        assert chroma(image) is None
    switch = LightSwitch()
    assert switch.see(blue, 0.0) is None
    assert (switch.modality, switch.decided) == (VISIBLE, False)
    assert switch.see(grey(), 1.0) is None
    assert (switch.modality, switch.decided) == (INFRARED, True)


@pytest.mark.parametrize(("image", "modality"), [(grey(), INFRARED), (coloured(), VISIBLE)])
def test_the_first_picture_decides_and_is_no_switch(
    image: NDArray[np.uint8], modality: Modality
) -> None:
    switch = LightSwitch()
    assert switch.modality is VISIBLE
    assert switch.see(image, 12.0) is None
    assert switch.modality is modality


def play(switch: LightSwitch, image: NDArray[np.uint8], start: float, end: float) -> list[float]:
    """Ten frames a second; gives the times of the switches."""
    times = np.arange(round(start * 10), round(end * 10)) / 10
    return [float(time) for time in times if switch.see(image, float(time)) is not None]


def test_dusk_switches_once_after_the_hold_and_dawn_back() -> None:
    switch = LightSwitch(LightOptions(hold=2.0))
    assert play(switch, coloured(), 0, 5) == []
    assert not switch.doubtful
    assert (play(switch, grey(), 5, 6), switch.doubtful) == ([], True)
    (dusk,) = play(switch, grey(), 6, 15)
    assert 7.0 <= dusk <= 7.6
    assert not switch.doubtful
    assert switch.modality is INFRARED
    (dawn,) = play(switch, coloured(), 15, 25)
    assert 17.0 <= dawn <= 17.6
    assert switch.modality is VISIBLE


def test_a_flicker_shorter_than_the_hold_changes_nothing() -> None:
    switch = LightSwitch(LightOptions(hold=2.0))
    play(switch, coloured(), 0, 3)
    for start in range(3, 30, 3):
        assert play(switch, grey(), start, start + 1.5) == []
        assert play(switch, coloured(), start + 1.5, start + 3) == []


def test_between_the_thresholds_nothing_changes_from_either_side() -> None:
    strengths = np.linspace(0.02, 0.3, 60)
    between = [s for s in strengths if LOW < measured(coloured(s)) < HIGH]
    dim = coloured(between[len(between) // 2])
    for first, modality in ((grey(), INFRARED), (coloured(), VISIBLE)):
        switch = LightSwitch()
        switch.see(first, 0.0)
        assert play(switch, dim, 1, 20) == []
        assert switch.modality is modality


def test_a_few_frames_far_apart_are_not_enough_however_long_they_take() -> None:
    switch = LightSwitch(LightOptions(hold=2.0, frames=4))
    switch.see(coloured(), 0.0)
    told = [switch.see(grey(), time) for time in (10.0, 20.0, 30.0, 40.0)]
    assert told == [None, None, None, INFRARED]


def test_it_looks_four_times_a_second_and_again_when_time_goes_back() -> None:
    switch = LightSwitch(LightOptions(every=0.25))
    looked = []
    for time in (0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.1, 0.2):
        before = switch.looked
        switch.see(coloured(), time)
        looked.append(switch.looked != before)
    assert looked == [True, False, False, True, False, True, True, False]


@pytest.mark.parametrize("fixed", Modality)
def test_a_fixed_light_never_changes(fixed: Modality) -> None:
    switch = LightSwitch(fixed=fixed)
    assert play(switch, grey(), 0, 10) + play(switch, coloured(), 10, 20) == []
    assert switch.modality is fixed
    assert switch.chroma is None


GREY, COLOURED = grey(), coloured()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.booleans(), min_size=1, max_size=120), st.floats(0.5, 4.0))
def test_switches_are_never_nearer_than_the_hold(shown: list[bool], hold: float) -> None:
    switch = LightSwitch(LightOptions(hold=hold, every=0.0, frames=1))
    times = [
        number / 4
        for number, by_day in enumerate(shown)
        if switch.see(COLOURED if by_day else GREY, number / 4) is not None
    ]
    assert all(later - sooner >= hold for sooner, later in pairwise(times))


@pytest.mark.parametrize(
    "options",
    [{"infrared_below": 5.0}, {"infrared_below": 0.0}, {"hold": -1.0}, {"frames": 0}],
)
def test_options_that_cannot_be_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="must"):
        LightOptions(**options)  # type: ignore[arg-type]


def write_dusk(path: Path) -> None:
    """Four seconds of colour, then six of grey, ten frames a second, in lossy compression."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (160, 120))
    for index in range(100):
        image = noisy(coloured() if index < 40 else grey(), 3.0)
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()


def test_the_command_tells_when_a_video_switched(tmp_path: Path) -> None:
    path = tmp_path / "dusk.mp4"
    write_dusk(path)
    told = CliRunner().invoke(cli, ["light", str(path), "--json"])
    assert told.exit_code == 0, told.output
    (report,) = json.loads(told.stdout)
    assert (report["first"], report["last"], report["frames"]) == ("visible", "infrared", 100)
    (switch,) = report["switches"]
    assert 6.0 <= switch["time"] <= 6.6
    assert switch["to"] == "infrared"
    assert report["infrared"] == pytest.approx(1 - switch["time"] / 10, abs=0.011)
    table = CliRunner().invoke(cli, ["light", str(path), "--hold", "30"]).stdout.splitlines()
    assert table[0].split()[:3] == ["source", "first", "last"]
    assert table[1].split()[1:4] == ["visible", "visible", "0.0%"]
    assert table[1].endswith("none")


def test_a_file_without_pictures_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.write_bytes(b"no video")
    told = CliRunner().invoke(cli, ["light", str(path)])
    assert told.exit_code == 1
    assert f"{path} gives no picture; expected a video file" in told.output
