"""Images from disk and back: RGB uint8, whole or not at all."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from mip_edge.errors import ImageError, OutputError
from mip_edge.output import write_beside
from mip_edge.spec import Crop

WRITTEN_SUFFIXES = (".png", ".jpg", ".jpeg")
"""The files that are written as images."""
IMAGE_SUFFIXES = (*WRITTEN_SUFFIXES, ".bmp")
"""The files taken for images, in any case of letters."""

_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_JPEG_HEAD = b"\xff\xd8"
_BMP_HEAD = b"BM"


def read_image(path: str | os.PathLike[str]) -> Crop:
    """The image as (H, W, 3) RGB uint8; a grey one has three equal channels.

    Raises: ImageError naming the file if it is missing, empty, truncated, damaged or no image.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}") from error
    if not content:
        raise ImageError(f"{path} is empty; expected a PNG, JPEG or BMP image")
    # the decoders fill what is missing with grey and only mutter on stderr
    if content.startswith(_PNG_HEAD) and not _png_is_whole(content):
        raise ImageError(f"{path} is a truncated or damaged PNG; copy it again or remove it")
    if content.startswith(_JPEG_HEAD) and not _jpeg_is_whole(content):
        raise ImageError(f"{path} is a truncated JPEG; copy it again or remove it")
    if content.startswith(_BMP_HEAD) and not _bmp_is_whole(content):
        raise ImageError(f"{path} is a truncated or damaged BMP; copy it again or remove it")
    try:
        image = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"{path} cannot be decoded: {error.err}") from error
    if image is None:
        raise ImageError(f"{path} is no image that can be decoded; expected PNG, JPEG or BMP")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def write_image(path: str | os.PathLike[str], image: Crop) -> None:
    """Writes (H, W, 3) RGB uint8 as PNG or JPEG, as the suffix says, whole or not at all.

    Raises: OutputError if the suffix is neither, or the place cannot be written.
    """
    target = Path(path)
    check_image_suffix(target)
    done, content = cv2.imencode(target.suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise OutputError(f"{target}: an image of shape {image.shape} could not be encoded")
    with write_beside(target, lasting=False) as stream:
        stream.write(content.tobytes())


def check_image_suffix(path: Path) -> None:
    """Raises: OutputError if `path` does not end as an image that can be written."""
    if path.suffix.lower() not in WRITTEN_SUFFIXES:
        raise OutputError(f"{path} ends in no image suffix; expected .png, .jpg or .jpeg")


def _png_is_whole(content: bytes) -> bool:
    """Every chunk is there with its right checksum, up to the closing one."""
    position = len(_PNG_HEAD)
    while position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        end = position + 12 + length
        if end > len(content):
            return False
        (checksum,) = struct.unpack_from(">I", content, end - 4)
        if zlib.crc32(memoryview(content)[position + 4 : end - 4]) != checksum:
            return False
        if content[position + 4 : position + 8] == b"IEND":
            return True
        position = end
    return False


def _jpeg_is_whole(content: bytes) -> bool:
    """The scan is closed by its end marker.

    The segments before the scan are stepped over: a thumbnail in one has an end marker of its own.
    """
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0xDA:
            return content.find(b"\xff\xd9", position) >= 0
        (length,) = struct.unpack_from(">H", content, position + 2)
        position += 2 + length
    return False


def _bmp_is_whole(content: bytes) -> bool:
    """The header makes sense and its rows are all there: a BMP has no checksum."""
    if len(content) < 54:
        return False
    size, _, pixels, header = struct.unpack_from("<IIII", content, 2)
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", content, 18)
    if header < 40:  # sixteen-bit sizes, before Windows 3
        width, height, _, bits = struct.unpack_from("<HHHH", content, 18)
        compression = 0
    if width < 1 or height == 0 or bits not in (1, 4, 8, 16, 24, 32):
        return False
    if compression not in (0, 3):  # packed rows: their length is not told, that of the file is
        return len(content) >= int(size)
    row = (width * bits + 31) // 32 * 4
    return len(content) >= int(pixels) + int(row) * abs(int(height))
