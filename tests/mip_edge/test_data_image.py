"""Images from disk and back: whole, or an error that names the file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mip_edge.data.image import read_image, write_image
from mip_edge.errors import ImageError, OutputError


def picture(height: int = 40, width: int = 20) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_png_comes_back_as_it_was_in_rgb(tmp_path: Path) -> None:
    crop = picture()
    write_image(tmp_path / "crop.png", crop)
    np.testing.assert_array_equal(read_image(tmp_path / "crop.png"), crop)


def test_jpeg_keeps_red_red(tmp_path: Path) -> None:
    crop = np.zeros((16, 16, 3), dtype=np.uint8)
    crop[:, :, 0] = 200
    write_image(tmp_path / "crop.JPG", crop)
    read = read_image(tmp_path / "crop.JPG")
    assert np.abs(read.astype(int) - crop).max() <= 3


def test_a_single_pixel_is_legal(tmp_path: Path) -> None:
    for name in ("one.png", "one.jpg"):
        write_image(tmp_path / name, picture(1, 1))
        assert read_image(tmp_path / name).shape == (1, 1, 3)


def test_a_grey_file_has_three_equal_channels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), picture()[:, :, 0])
    read = read_image(tmp_path / "grey.png")
    assert read.shape == (40, 20, 3)
    assert (read[:, :, 0] == read[:, :, 2]).all()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"cut.{suffix}"
    write_image(path, picture())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ImageError, match=rf"cut\.{suffix} is a truncated"):
        read_image(path)


def test_a_truncated_jpeg_with_a_whole_thumbnail_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    write_image(path, picture())
    content = path.read_bytes()
    thumbnail = b"\xff\xd8\xff\xd9"
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path.write_bytes(content[:2] + segment + content[2:])
    assert read_image(path).shape == (40, 20, 3)
    path.write_bytes(content[:2] + segment + content[2:-20])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path)


def write_bmp(path: Path, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    content = cv2.imencode(".bmp", image)[1].tobytes()
    path.write_bytes(content)
    return content


def test_a_bmp_comes_back_as_it_was_in_rgb(tmp_path: Path) -> None:
    crop = picture(7, 5)  # rows of 15 bytes, padded to 16
    write_bmp(tmp_path / "crop.bmp", crop[:, :, ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / "crop.bmp"), crop)
    write_bmp(tmp_path / "grey.bmp", crop[:, :, 0])
    np.testing.assert_array_equal(read_image(tmp_path / "grey.bmp")[:, :, 2], crop[:, :, 0])


@pytest.mark.parametrize("missing", [1, 100, 2000, -53, -20, -3])
def test_a_bmp_without_its_last_bytes_is_refused(tmp_path: Path, missing: int) -> None:
    content = write_bmp(tmp_path / "cut.bmp", picture())
    (tmp_path / "cut.bmp").write_bytes(content[:-missing])
    with pytest.raises(ImageError, match=r"cut\.bmp is a truncated or damaged BMP"):
        read_image(tmp_path / "cut.bmp")


@pytest.mark.parametrize("place", [18, 22, 28])
def test_a_bmp_with_a_damaged_header_is_refused(tmp_path: Path, place: int) -> None:
    content = bytearray(write_bmp(tmp_path / "odd.bmp", picture()))
    content[place] = 0  # the low byte of width, height or depth
    (tmp_path / "odd.bmp").write_bytes(bytes(content))
    with pytest.raises(ImageError, match="damaged BMP"):
        read_image(tmp_path / "odd.bmp")


def test_bmp_is_read_but_not_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"expected \.png, \.jpg or \.jpeg"):
        write_image(tmp_path / "crop.bmp", picture())


def test_a_damaged_png_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.png"
    write_image(path, picture())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ImageError, match="damaged"):
        read_image(path)


@pytest.mark.parametrize(("content", "said"), [(b"", "is empty"), (b"hello, world", "is no image")])
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "notes.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=f"notes.jpg {said}"):
        read_image(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_image(tmp_path / "no folder" / "crop.png", picture())
    with pytest.raises(OutputError, match="no image suffix"):
        write_image(tmp_path / "crop.gif", picture())
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_image(tmp_path / "taken.png", picture())
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]
