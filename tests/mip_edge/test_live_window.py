"""A window on a stand-in of OpenCV; a real one was looked at under a virtual display."""

from __future__ import annotations

import sys
from typing import Any

import cv2
import numpy as np
import pytest

from mip_edge.errors import OutputError
from mip_edge.live.window import Window


class Screen:
    """What OpenCV would show: a window that comes back with each picture, until it is destroyed."""

    def __init__(self) -> None:
        self.open = self.key = 0
        self.toolkit = "GTK"
        self.size: tuple[int, int] | None = None
        self.shown: list[Any] = []

    def named(self, title: str, flags: int) -> None:
        assert flags & cv2.WINDOW_GUI_NORMAL, "no toolbar"
        self.open = 1

    def resize(self, title: str, width: int, height: int) -> None:
        self.size = (width, height)

    def show(self, title: str, picture: Any) -> None:
        self.shown.append(picture)

    def wait(self, milliseconds: int) -> int:
        return self.key or -1

    def property(self, title: str, what: int) -> float:
        assert what == cv2.WND_PROP_VISIBLE
        if not self.open and self.toolkit == "Qt":
            raise cv2.error("NULL guiReceiver")
        return float(self.open)

    def destroy(self, title: str) -> None:
        if not self.open:
            raise cv2.error("NULL window")
        self.open = 0


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setenv("DISPLAY", ":0")
    for name, done in (
        ("namedWindow", screen.named),
        ("resizeWindow", screen.resize),
        ("imshow", screen.show),
        ("waitKey", screen.wait),
        ("getWindowProperty", screen.property),
        ("destroyWindow", screen.destroy),
    ):
        monkeypatch.setattr(cv2, name, done)
    return screen


def picture(height: int, width: int) -> Any:
    return np.full((height, width, 3), (10, 20, 30), np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(480, 640, (640, 480)), (1440, 1920, (960, 720)), (500, 2560, (1280, 250))],
)
def test_a_window_is_as_large_as_its_first_picture_or_fits_a_screen(
    screen: Screen, height: int, width: int, size: tuple[int, int]
) -> None:
    window = Window()
    assert window.show(picture(height, width))
    assert screen.size == size
    screen.size = None
    assert window.show(picture(height, width))
    assert screen.size is None, "what the user drew larger stays"
    assert screen.shown[0][0, 0].tolist() == [30, 20, 10], "BGR"


@pytest.mark.parametrize("key", ["q", "\x1b"])
def test_q_and_escape_end_it(screen: Screen, key: str) -> None:
    window = Window()
    assert window.show(picture(4, 4))
    screen.key = ord(key)
    assert not window.show(picture(4, 4))


@pytest.mark.parametrize("toolkit", ["GTK", "Qt"])
def test_its_own_button_ends_it_and_closing_it_again_is_no_error(
    screen: Screen, toolkit: str
) -> None:
    screen.toolkit = toolkit
    window = Window()
    assert window.show(picture(4, 4))
    screen.open = 0
    assert not window.show(picture(4, 4))
    window.close()


def test_no_display_is_told_before_the_toolkit_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OutputError, match="--save"):
        Window()
