"""Crops decoded and resized once: in memory, or in a folder that later runs open in a moment.

An entry of the folder is two files named by a digest of all that it depends on: NAME.npy holds the
crops, NAME.json the digests of its bytes. Both may be deleted at any time, as may the folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from mip_edge.data.dataset import Sample
from mip_edge.data.image import read_image
from mip_edge.errors import ImageError, OptionError, OutputError
from mip_edge.output import write_beside
from mip_edge.preprocess import prepare
from mip_edge.spec import Crop, EmbedderSpec, Modality

logger = logging.getLogger(__name__)

_FORMAT = 1
_BLOCK = 256  # crops that are decoded, written and digested at a time
_TASK = 16  # crops of a block that a thread takes at a time
_NAMED = 5  # unreadable images that a message names

Item = TypeVar("Item")
Made = TypeVar("Made")


class Resize(str, Enum):
    """How a crop comes to size."""

    BILINEAR = "bilinear"
    """By `mip_edge.preprocess.prepare`, as for inference: for validation and test."""
    BICUBIC = "bicubic"
    """As the published training does: bicubic in whole levels, antialiased when it shrinks,
    across and then down (torchvision on Pillow before 13)."""


def load_crops(
    samples: Sequence[Sample],
    image_size: tuple[int, int],
    *,
    threads: int = 2,
    cache: Path | None = None,
    resize: Resize = Resize.BILINEAR,
) -> NDArray[np.uint8]:
    """All crops as (N, H, W, 3) RGB uint8 for `image_size` (H, W), in the order of `samples`.

    The one channel of an infrared crop stands three times, as the network in training takes it.
    With `cache`, a folder, the crops are read-only and mapped from a file there, which is made if
    there is none for exactly these image bytes, in this order, at this size; an altered one is
    made anew. Two processes may make the same one at once.
    Raises: ImageError counting all images that cannot be read; OutputError if the folder cannot
    be written.
    """
    if threads < 1:
        raise OptionError(f"threads must be at least 1, got {threads}")
    shape = (len(samples), *image_size, 3)
    with ThreadPoolExecutor(threads) as pool:
        blocks = _Blocks(samples, image_size, Resize(resize), pool)
        # with a file that cannot be opened there is no key: decoding will name it
        key = _key(samples, shape, blocks.resize, pool) if cache and samples else None
        if cache is None or key is None:
            crops = np.empty(shape, dtype=np.uint8)
            for first, block in blocks:
                crops[first : first + len(block)] = block
            return crops
        entry = cache / f"crops-{key}.npy"
        opened = _open(entry, shape, pool)
        if opened is None:
            _write(entry, shape, blocks, pool)
            opened = np.lib.format.open_memmap(entry, mode="r")
        return opened


class _Blocks:
    """The crops, a block at a time; at their end an ImageError if any could not be read."""

    def __init__(
        self,
        samples: Sequence[Sample],
        image_size: tuple[int, int],
        resize: Resize,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.samples = samples
        self.resize = resize
        self._size = image_size
        self._pool = pool
        height, width = image_size
        # `prepare` reads the modality and the size alone: there is no model yet
        self._specs = {
            modality: EmbedderSpec(modality, height, width, dimension=1, fingerprint="")
            for modality in Modality
        }

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """First row and crops (n, H, W, 3) of each block."""
        faults: list[str] = []
        with _progress() as progress:
            task = progress.add_task("decoding", total=len(self.samples))
            coming = self._begin(0)
            for first in range(0, len(self.samples), _BLOCK):
                # the next block is decoded while this one is written
                (block, filling), coming = coming, self._begin(first + _BLOCK)
                for filled in filling:
                    faults += filled.result()
                progress.advance(task, len(block))
                yield first, block
        if faults:
            raise _unreadable(faults, len(self.samples))

    def _begin(self, first: int) -> tuple[NDArray[np.uint8], list[Future[list[str]]]]:
        """A block, and what fills it in the pool: a few crops each, for a task costs time."""
        samples = self.samples[first : first + _BLOCK]
        block = np.zeros((len(samples), *self._size, 3), dtype=np.uint8)
        return block, [
            self._pool.submit(self._fill, samples[row : row + _TASK], block[row : row + _TASK])
            for row in range(0, len(samples), _TASK)
        ]

    def _fill(self, samples: Sequence[Sample], crops: NDArray[np.uint8]) -> list[str]:
        """Writes the crops of `samples`; what cannot be read is told."""
        faults = []
        for sample, crop in zip(samples, crops, strict=True):
            try:
                crop[:] = self._load(sample)
            except ImageError as error:
                faults.append(str(error))
        return faults

    def _load(self, sample: Sample) -> Crop:
        crop = read_image(sample.path)
        if self.resize is Resize.BILINEAR:
            return np.asarray(prepare([crop], self._specs[sample.modality])[0], dtype=np.uint8)
        if sample.modality is Modality.INFRARED:
            crop = np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], dtype=np.uint8)
        return _bicubic(crop, self._size)


def _bicubic(crop: Crop, size: tuple[int, int]) -> Crop:
    """(h, w, C) uint8 to (*size, C); torch's kernel is Pillow's, to one level of rounding."""
    planes = torch.from_numpy(crop).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(planes, size=size, mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def _unreadable(faults: Sequence[str], total: int) -> ImageError:
    if total == 1:
        return ImageError(faults[0])
    more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    return ImageError(
        f"{len(faults)} of {total} images cannot be read: {'; '.join(faults[:_NAMED])}{more}; "
        "list them all with: mip-edge data check DATA"
    )


def _key(
    samples: Sequence[Sample], shape: tuple[int, ...], resize: Resize, pool: ThreadPoolExecutor
) -> str | None:
    """Digest of all that the crops depend on; None if a file cannot be opened."""
    versions = f"{cv2.__version__} {torch.__version__}"  # what decodes and what resizes
    whole = hashlib.sha256(f"{_FORMAT} {shape} {resize.value} {versions}".encode())
    paths = [sample.path for sample in samples]
    groups = [paths[first : first + _BLOCK] for first in range(0, len(paths), _BLOCK)]
    try:
        contents = [one for many in _each(_digest_files, groups, pool, "hashing") for one in many]
    except OSError:
        return None
    for sample, content in zip(samples, contents, strict=True):
        whole.update(sample.modality.value.encode() + content)
    return whole.hexdigest()[:32]


def _digest_files(paths: Sequence[Path]) -> list[bytes]:
    return [hashlib.sha256(path.read_bytes()).digest() for path in paths]


def _open(
    entry: Path, shape: tuple[int, ...], pool: ThreadPoolExecutor
) -> NDArray[np.uint8] | None:
    """The entry if it is there and every byte of it is as it was written."""
    if not entry.is_file():
        return None
    try:
        written = json.loads(entry.with_suffix(".json").read_text())
        crops: NDArray[np.uint8] = np.lib.format.open_memmap(entry, mode="r")
        if crops.shape == shape and crops.dtype == np.uint8 and crops.flags.c_contiguous:
            blocks = [crops[first : first + _BLOCK] for first in range(0, len(crops), _BLOCK)]
            if written == list(_each(_digest, blocks, pool, "verifying")):
                return crops
        reason = "not as it was written"
    except (OSError, ValueError) as error:
        reason = f"incomplete or damaged ({error})"
    logger.warning("cached crops %s are %s; making them anew", entry, reason)
    return None


def _write(entry: Path, shape: tuple[int, ...], blocks: _Blocks, pool: ThreadPoolExecutor) -> None:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{entry.parent} cannot be made: {error.strerror}") from error
    digests = []
    # written, not mapped: on a full disk a write fails, a mapped page ends the process
    with write_beside(entry) as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for _, block in blocks:
            stream.write(block.data)
            digests.append(pool.submit(_digest, block))
    with write_beside(entry.with_suffix(".json")) as stream:
        stream.write(json.dumps([digest.result() for digest in digests]).encode())


def _digest(block: NDArray[np.uint8]) -> str:
    return hashlib.sha256(block.data).hexdigest()


def _each(
    make: Callable[[Item], Made], items: Sequence[Item], pool: ThreadPoolExecutor, title: str
) -> Iterator[Made]:
    """`make` of each item in order, by the pool, under a progress bar if there is a terminal."""
    with _progress() as progress:
        yield from progress.track(pool.map(make, items), total=len(items), description=title)


def _progress() -> Progress:
    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
