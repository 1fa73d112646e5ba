from __future__ import annotations

from pathlib import Path

import pytest

from mip_edge.errors import OptionError
from mip_edge.live.camera_file import read_camera_file
from mip_edge.live.travel import Travel
from mip_edge.spec import Modality

GATE = '[[camera]]\nname = "gate"\nurl = "gate.mp4"\n'
YARD = '[[camera]]\nname = "yard"\nurl = 0\n'
WALK = '[[travel]]\nfrom = "gate"\nto = "yard"\nmin = 3\nmax = 60.5\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "cameras.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_cameras_and_travels_are_read_and_files_lie_beside_the_file(tmp_path: Path) -> None:
    text = f"""{GATE}modality = "infrared"
{YARD}
[[camera]]
name = "hall"
url = "rtsp://user:secret@host/path"
modality = "auto"
[[camera]]
name = "old"
url = "frames/*.png"
rate = 2
{WALK}"""
    found = read_camera_file(written(tmp_path, text))
    assert [source.name for source in found.sources] == ["gate", "yard", "hall", "old"]
    assert [source.url for source in found.sources] == [
        str(tmp_path / "gate.mp4"),
        "0",
        "rtsp://user:secret@host/path",
        str(tmp_path / "frames/*.png"),
    ]
    assert [source.modality for source in found.sources] == [Modality.INFRARED, None, None, None]
    assert found.sources[3].rate == 2.0
    assert found.travels == (Travel("gate", "yard", 3.0, 60.5),)


def test_an_absolute_path_stays(tmp_path: Path) -> None:
    path = written(tmp_path, '[[camera]]\nname = "gate"\nurl = "/videos/gate.mp4"\n')
    assert read_camera_file(path).sources[0].url == "/videos/gate.mp4"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no [[camera]]"),
        ("[[camera]\n", "cameras.toml is no TOML"),
        (GATE + "[[camra]]\n", "unknown key 'camra'; expected camera, travel"),
        ('[camera]\nname = "gate"\n', "camera must be a list of tables; write [[camera]]"),
        (GATE + 'modalty = "auto"\n', "[[camera]] 1: unknown key 'modalty'; expected name, url"),
        (GATE + 'modality = "thermal"\n', "[[camera]] 1: modality must be visible, infrared or"),
        (GATE + "rate = 0\n", "rate must be above 0"),
        (GATE + 'rate = "fast"\n', "[[camera]] 1: rate must be a number, got 'fast'"),
        ('[[camera]]\nname = "gate"\n', "[[camera]] 1 has no url"),
        ('[[camera]]\nurl = "a.mp4"\n', "[[camera]] 1 has no name"),
        ('[[camera]]\nname = 3\nurl = "a.mp4"\n', "name must be a text in quotes, got int"),
        (GATE + YARD + GATE, "name 'gate' is given twice"),
        (GATE + WALK, "[[travel]] 1: to names the camera 'yard'; expected one of gate"),
        (GATE + YARD + WALK + "mix = 1\n", "[[travel]] 1: unknown key 'mix'"),
        (GATE + YARD + WALK + WALK, "[[travel]] 2: from 'gate' to 'yard' is given twice"),
        (GATE + YARD + WALK.replace('"yard"', '"gate"'), "from and to are both 'gate'"),
        (GATE + YARD + WALK.replace("min = 3", ""), "[[travel]] 1 has no min"),
        (GATE + YARD + WALK.replace("3", "70"), "0 <= min <= max, got 70 and 60.5"),
        (GATE + YARD + WALK.replace("60.5", "nan"), "max must be a number, got nan"),
    ],
)
def test_a_file_that_cannot_be_is_one_line_with_its_name(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(OptionError, match="^[^\n]*$") as error:
        read_camera_file(written(tmp_path, text))
    assert words in str(error.value)
    assert "cameras.toml" in str(error.value)


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.toml cannot be read: No such file"):
        read_camera_file(tmp_path / "none.toml")
    (tmp_path / "video.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match=r"video\.toml is no TOML"):
        read_camera_file(tmp_path / "video.toml")


def test_an_error_never_holds_the_password_of_a_url(tmp_path: Path) -> None:
    text = '[[camera]]\nname = "gate"\nurl = "rtsp://u:secret@h/p"\nrate = 2\n'
    with pytest.raises(OptionError, match="rate is for") as error:
        read_camera_file(written(tmp_path, text))
    assert "secret" not in str(error.value)
