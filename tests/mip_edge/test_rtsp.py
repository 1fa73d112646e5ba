"""Streams from real servers that are killed, frozen and restarted: RTSP of GStreamer, MJPEG."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest

from mip_edge.errors import SourceError
from mip_edge.live import link as link_module
from mip_edge.live.source import SourceState, VideoSource
from mip_edge.live.source_options import SourceOptions

HERE = Path(__file__).parent
SYSTEM_PYTHON = "/usr/bin/python3"
CHECK = """import gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
raise SystemExit(0 if Gst.ElementFactory.find("x264enc") else "x264enc is missing")"""
WAITED_FOR = 5.0
"""Seconds within which frames come again when a server is back."""


class Server:
    """A server in a process of its own, on a port that it keeps."""

    def __init__(self, *command: str | Path, after: tuple[str | Path, ...] = ()) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        self.command = [*command, str(self.port), *after]
        self.process: subprocess.Popen[str] | None = None
        self.transports: list[str] = []

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        """As a camera whose cable is cut, or that reboots; what it had said is kept."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            said, _ = process.communicate()
            self.transports += [line for line in said.splitlines() if "transport" in line]


def until(true: Callable[[], object], wait: float) -> float:
    """Seconds until it is true."""
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < wait, f"not within {wait} s"
        time.sleep(0.005)
    return time.monotonic() - begin


def seen(source: VideoSource) -> bool:
    """A frame came, from a stream that is live."""
    return source.read(0.01) is not None and source.state is SourceState.LIVE


def lost(source: VideoSource) -> bool:
    """It is lost, and what was left of it was taken."""
    return source.read(0.01) is None and source.state is SourceState.LOST


def resources() -> tuple[int, int]:
    """Threads (those of FFmpeg too) and open files of this process."""
    process = Path("/proc/self")
    return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))


class Allocations(ctypes.Structure):
    """What glibc's allocator says of itself, in bytes (struct mallinfo2)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated_kilobytes() -> float:
    """Memory that this process asked for and has not given back.

    Not what is resident: that also grows with the gaps between blocks, by 38 kB a restart in a
    process that holds much else, where nothing stays behind.
    """
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Allocations
    found = mallinfo2()
    return (found.uordblks + found.hblkhd) / 1000


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def wanted() -> None:
    """Skips where real servers are not asked for; where they are, a missing one is a failure."""
    if not os.environ.get("MIP_EDGE_TEST_SERVERS"):
        pytest.skip("real servers take their time: make servers, then MIP_EDGE_TEST_SERVERS=1")


@pytest.fixture
def rtsp(stack: ExitStack, wanted: None) -> Server:
    found = subprocess.run([SYSTEM_PYTHON, "-c", CHECK], capture_output=True, text=True)
    assert found.returncode == 0, f"make servers installs what is missing: {found.stderr}"
    server = Server(SYSTEM_PYTHON, HERE / "rtsp_server.py")
    stack.callback(server.kill)
    server.start()
    return server


@pytest.fixture
def mjpeg(stack: ExitStack, tmp_path: Path) -> Server:
    """Thirty small images, then thirty larger ones, and so on."""
    images = []
    for size in ((64, 48), (128, 96)):
        image = np.zeros((size[1], size[0], 3), np.uint8)
        image[:, : size[0] // 2] = 200
        images.append(tmp_path / f"{size[0]}.jpg")
        cv2.imwrite(str(images[-1]), image)
    order = (*[images[0]] * 30, *[images[1]] * 30)
    server = Server(sys.executable, "-I", "-S", HERE / "mjpeg_server.py", after=order)
    stack.callback(server.kill)
    server.start()
    return server


def rtsp_options(server: Server, password: str = "secret") -> SourceOptions:
    return SourceOptions("gate", f"rtsp://user:{password}@127.0.0.1:{server.port}/gate")


@pytest.mark.servers
def test_rtsp_comes_over_tcp_and_a_wrong_password_is_shown_nowhere(
    rtsp: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SourceError, match="gives no picture") as error:
        VideoSource(rtsp_options(rtsp, password="mistaken"), realtime=True)
    source = VideoSource(rtsp_options(rtsp), realtime=True)
    first = source.read(5.0)
    assert first is not None
    assert first.image.shape == (120, 160, 3)
    assert source.rate == 30.0
    until(lambda: seen(source), 2.0)
    assert source.age < 1.0
    source.close()
    rtsp.kill()
    assert rtsp.transports == ["transport RTP/AVP/TCP;unicast;interleaved=0-1"]
    told = capfd.readouterr()
    assert "mistaken" not in f"{error.value}{told.out}{told.err}"


@pytest.mark.servers
def test_a_real_rtsp_server_that_is_killed_is_back_within_seconds_of_its_return(
    rtsp: Server, stack: ExitStack
) -> None:
    source = VideoSource(rtsp_options(rtsp), realtime=True)
    stack.callback(source.close)
    before = resources()
    for away in (0.0, 4.0, 0.0):
        rtsp.kill()
        until(lambda: lost(source), 5.0)
        # The longest pause is reached, so that the return falls into it.
        time.sleep(away)
        rtsp.start()
        until(lambda: seen(source), WAITED_FOR)
        assert resources() == before
    assert source.reconnects == 3
    assert source.lost_reason == ""


@pytest.mark.servers
def test_a_real_rtsp_server_that_freezes_is_lost_and_comes_back(
    rtsp: Server, stack: ExitStack
) -> None:
    source = VideoSource(rtsp_options(rtsp), realtime=True)
    stack.callback(source.close)
    assert rtsp.process is not None
    rtsp.process.send_signal(signal.SIGSTOP)
    assert until(lambda: lost(source), 7.0) > 2.0, "it is waited for a little"
    rtsp.process.send_signal(signal.SIGCONT)
    until(lambda: seen(source), WAITED_FOR)


@pytest.mark.servers
def test_fifty_restarts_of_a_server_leave_no_thread_no_file_and_no_memory_behind(
    rtsp: Server, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(link_module, "FIRST_PAUSE", 0.01)
    source = VideoSource(rtsp_options(rtsp), realtime=True)
    stack.callback(source.close)
    used, memory = [], []
    for _ in range(50):
        rtsp.kill()
        until(lambda: lost(source), 5.0)
        rtsp.start()
        until(lambda: seen(source), WAITED_FOR)
        used.append(resources())
        memory.append(allocated_kilobytes())
    assert source.reconnects == 50
    assert set(used[5:]) == {used[0]}
    slope = np.polyfit(range(40), memory[10:], 1)[0]
    # A frame of 160x120 that stayed behind would be 58.
    assert slope < 10.0, f"{slope:.1f} kB a restart"


def test_a_real_stream_that_changes_its_size_goes_on(mjpeg: Server, stack: ExitStack) -> None:
    url = f"http://127.0.0.1:{mjpeg.port}/gate"
    source = VideoSource(SourceOptions("gate", url), realtime=True)
    stack.callback(source.close)
    last = 0
    while last < 150:  # two and a half rounds of both sizes
        frame = source.read(5.0)
        assert frame is not None
        last = frame.index
        assert frame.image.shape == (source.height, source.width, 3)
        halves = frame.image[:, : source.width // 2 - 8], frame.image[:, source.width // 2 + 8 :]
        assert [round(float(half.mean()), -1) for half in halves] == [200.0, 0.0]
    assert source.state is SourceState.LIVE


def test_a_process_whose_camera_has_fallen_silent_ends_at_once_and_well(
    mjpeg: Server, tmp_path: Path
) -> None:
    """FFmpeg sits in its read when the interpreter ends; nothing may be pulled from under it."""
    script = f"""
import os, signal, time
from mip_edge.live.source import VideoSource
from mip_edge.live.source_options import SourceOptions
source = VideoSource(SourceOptions("gate", "http://127.0.0.1:{mjpeg.port}/gate"), realtime=True)
os.kill({mjpeg.process.pid if mjpeg.process else 0}, signal.SIGSTOP)
while source.read(0.3) is not None: pass
begin = time.monotonic()
source.close()
print(time.monotonic() - begin)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=HERE.parents[1]
    )
    assert mjpeg.process is not None
    mjpeg.process.send_signal(signal.SIGCONT)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2.0
    assert "left behind" in done.stderr
