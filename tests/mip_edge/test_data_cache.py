"""Crops on disk: made once for these bytes, opened whole or made anew, resized as published."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from mip_edge.data import cache
from mip_edge.data.cache import Resize, load_crops
from mip_edge.data.dataset import Sample
from mip_edge.data.image import read_image, write_image
from mip_edge.errors import ImageError, OptionError, OutputError
from mip_edge.spec import Modality

SIZE = (32, 16)
CHILD = """
import hashlib, sys, time
from pathlib import Path
from mip_edge.data.cache import load_crops
from mip_edge.data.dataset import Sample
from mip_edge.spec import Modality
folder, cache = Path(sys.argv[1]), Path(sys.argv[2])
samples = [Sample(path, "a", Modality.VISIBLE, None) for path in sorted(folder.glob("*.png"))]
print("ready", flush=True)
sys.stdin.readline()
print(hashlib.sha256(load_crops(samples, (64, 32), cache=cache).tobytes()).hexdigest())
"""


def picture(seed: int, height: int = 40, width: int = 21) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    folder = tmp_path / "images"
    folder.mkdir()
    made = []
    for number in range(10):
        path = folder / f"{number}.png"
        write_image(path, picture(number))
        made.append(Sample(path, "a", list(Modality)[number % 2], None))
    return made


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.npy"))


def test_the_second_run_opens_the_entry_without_decoding(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_BLOCK", 4)
    plain = load_crops(samples, SIZE)
    made = load_crops(samples, SIZE, cache=tmp_path / "cache", threads=3)
    monkeypatch.setattr(cache, "read_image", lambda path: pytest.fail("decoded again"))
    opened = load_crops(samples, SIZE, cache=tmp_path / "cache", threads=1)
    for crops in (made, opened):
        assert isinstance(crops, np.memmap)
        assert not crops.flags.writeable
        assert crops.shape == (10, *SIZE, 3)
        assert (crops == plain).all()
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".npy", ".json"}


def test_moved_and_touched_images_are_the_same_images(
    samples: list[Sample], tmp_path: Path
) -> None:
    load_crops(samples, SIZE, cache=tmp_path / "cache")
    moved = tmp_path / "elsewhere"
    shutil.copytree(samples[0].path.parent, moved, copy_function=shutil.copyfile)
    load_crops(
        [replace(one, path=moved / one.path.name) for one in samples],
        SIZE,
        cache=tmp_path / "cache",
    )
    assert len(entries(tmp_path / "cache")) == 1


def change_a_pixel(samples: list[Sample]) -> list[Sample]:
    crop = read_image(samples[3].path)
    crop[0, 0, 0] ^= 1
    write_image(samples[3].path, crop)
    return samples


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (change_a_pixel, {}),
        (lambda samples: samples[::-1], {}),
        (lambda samples: samples[:-1], {}),
        (lambda samples: [replace(one, modality=one.modality.other) for one in samples], {}),
        (lambda samples: samples, {"resize": Resize.BICUBIC}),
        (lambda samples: samples, {"image_size": (16, 32)}),
    ],
)
def test_whatever_the_crops_depend_on_makes_a_new_entry(
    samples: list[Sample],
    tmp_path: Path,
    change: Callable[[list[Sample]], list[Sample]],
    options: dict[str, object],
) -> None:
    folder = tmp_path / "cache"
    load_crops(samples, SIZE, cache=folder)
    samples = change(samples)
    again = load_crops(samples, **{"image_size": SIZE, "cache": folder} | options)  # type: ignore[arg-type]
    assert len(entries(folder)) == 2
    assert (again == load_crops(samples, **{"image_size": SIZE} | options)).all()  # type: ignore[arg-type]


def flip_one_bit(entry: Path) -> None:
    content = bytearray(entry.read_bytes())
    content[len(content) // 2] ^= 1
    entry.write_bytes(content)


def another_header(entry: Path) -> None:
    with entry.open("wb") as stream:
        np.save(stream, np.zeros((10, *SIZE, 3), dtype=np.int16))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one bit flipped": flip_one_bit,
    "truncated": lambda entry: entry.write_bytes(entry.read_bytes()[:-1]),
    "empty": lambda entry: entry.write_bytes(b""),
    "no array": lambda entry: entry.write_bytes(b"PK\x03\x04 something else"),
    "another array": another_header,
    "no digests": lambda entry: entry.with_suffix(".json").unlink(),
    "no json": lambda entry: entry.with_suffix(".json").write_text("{"),
    "other digests": lambda entry: entry.with_suffix(".json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_made_anew_with_one_line(
    samples: list[Sample],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
) -> None:
    folder = tmp_path / "cache"
    expected = np.array(load_crops(samples, SIZE, cache=folder))
    (name,) = entries(folder)
    damage(folder / name)
    with caplog.at_level(logging.INFO):
        assert (load_crops(samples, SIZE, cache=folder) == expected).all()
        (record,) = caplog.records
        assert name in record.getMessage()
        assert record.getMessage().endswith("making them anew")
        assert (load_crops(samples, SIZE, cache=folder) == expected).all()
    assert len(caplog.records) == 1
    assert len(list(folder.iterdir())) == 2


def test_the_folder_may_be_deleted_at_any_time(samples: list[Sample], tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "cache"
    crops = load_crops(samples, SIZE, cache=folder)
    expected = load_crops(samples, SIZE)
    shutil.rmtree(folder)
    assert (crops == expected).all()
    assert (load_crops(samples, SIZE, cache=folder) == expected).all()


@pytest.mark.parametrize("cached", [False, True])
def test_all_unreadable_images_are_counted_and_none_is_skipped(
    samples: list[Sample], tmp_path: Path, cached: bool
) -> None:
    for number in range(6):
        samples[number].path.write_bytes(b"")
    samples[7].path.write_bytes(samples[7].path.read_bytes()[:-20])
    folder = tmp_path / "cache"
    with pytest.raises(ImageError) as caught:
        load_crops(samples, SIZE, cache=folder if cached else None)
    words = str(caught.value)
    assert words.startswith(f"7 of 10 images cannot be read: {samples[0].path} is empty")
    assert all(str(samples[number].path) in words for number in range(5))
    assert str(samples[5].path) not in words
    assert "and 2 more; list them all with: mip-edge data check" in words
    assert not folder.exists() or list(folder.iterdir()) == []


def test_a_missing_image_is_told_with_the_unreadable_ones(
    samples: list[Sample], tmp_path: Path
) -> None:
    samples[2].path.unlink()
    samples[8].path.write_bytes(b"")
    with pytest.raises(ImageError, match=r"2 of 10 .*2\.png.*No such file.*8\.png is empty"):
        load_crops(samples, SIZE, cache=tmp_path / "cache")


def test_no_samples_are_no_crops(tmp_path: Path) -> None:
    assert load_crops([], SIZE, cache=tmp_path).shape == (0, *SIZE, 3)


def test_a_cache_that_cannot_be_a_folder_and_no_threads_are_refused(
    samples: list[Sample], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file cannot be made"):
        load_crops(samples, SIZE, cache=tmp_path / "file")
    with pytest.raises(OptionError, match="threads must be at least 1, got 0"):
        load_crops(samples, SIZE, threads=0)


def test_two_processes_make_one_entry_at_once(tmp_path: Path) -> None:
    images, folder = tmp_path / "images", tmp_path / "cache"
    images.mkdir()
    for number in range(60):
        write_image(images / f"{number:02}.png", picture(number))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(images), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    digests = [child.communicate()[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert digests[0] == digests[1] != ""
    (name,) = entries(folder)
    assert len(list(folder.iterdir())) == 2
    assert len(json.loads((folder / name).with_suffix(".json").read_text())) == 1


def bicubic_weights(source: int, target: int) -> NDArray[np.float64]:
    """(target, source) of a bicubic kernel, a = -0.5, widened when it shrinks: Pillow's."""
    step = source / target
    widened = max(step, 1.0)
    rows = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * step
        x = np.abs(np.arange(source) + 0.5 - centre) / widened
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        weights = np.where(x < 1, near, np.where(x < 2, far, 0))
        rows[row] = weights / weights.sum()
    return rows


def whole_levels(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.floor(values + 0.5), 0, 255)


def load_one(path: Path, modality: Modality = Modality.VISIBLE) -> NDArray[np.int64]:
    crops = load_crops([Sample(path, "a", modality, None)], (256, 128), resize=Resize.BICUBIC)
    return crops[0].astype(np.int64)


@pytest.mark.parametrize("size", [(300, 120), (500, 210), (90, 40), (200, 300), (256, 128)])
def test_training_crops_are_bicubic_across_then_down(tmp_path: Path, size: tuple[int, int]) -> None:
    crop = picture(1, *size)
    write_image(tmp_path / "crop.png", crop)
    across, down = bicubic_weights(size[1], 128), bicubic_weights(size[0], 256)
    expected = np.stack(
        [
            whole_levels(down @ whole_levels(crop[..., channel].astype(np.float64) @ across.T))
            for channel in range(3)
        ],
        axis=2,
    )
    difference = np.abs(load_one(tmp_path / "crop.png") - expected)
    # the kernel's weights are rounded to fixed point: one level, seldom
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("size", [(300, 128), (100, 128), (256, 300), (256, 50)])
def test_along_one_axis_training_crops_are_pillows(tmp_path: Path, size: tuple[int, int]) -> None:
    # along two, Pillow 13 chooses which comes first; the published training's did not
    crop = picture(2, *size)
    write_image(tmp_path / "crop.png", crop)
    pillows = np.asarray(Image.fromarray(crop).resize((128, 256), Image.Resampling.BICUBIC))
    difference = np.abs(load_one(tmp_path / "crop.png") - pillows.astype(np.int64))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_an_infrared_training_crop_is_its_one_channel_three_times(tmp_path: Path) -> None:
    crop = picture(3, 300, 128)
    write_image(tmp_path / "crop.png", crop)
    loaded = load_one(tmp_path / "crop.png", Modality.INFRARED)
    grey = Image.fromarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY))
    pillows = np.asarray(grey.resize((128, 256), Image.Resampling.BICUBIC)).astype(np.int64)
    assert (loaded == loaded[..., :1]).all()
    assert np.abs(loaded[..., 0] - pillows).max() <= 1
