"""List files and folders of the published data sets: read whole, with the line that is wrong."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mip_edge.data.dataset import Camera, Sample
from mip_edge.data.image import IMAGE_SUFFIXES
from mip_edge.errors import DatasetError
from mip_edge.spec import Modality

logger = logging.getLogger(__name__)

_NAMED = 5
"""How many a message names before it only counts them."""


class Line(NamedTuple):
    """One line of a list file: an image and the label of its person."""

    where: str
    """FILE:LINE, for messages."""
    path: Path
    label: int


class CameraFolder(NamedTuple):
    """A folder that holds one folder for each identity seen by one camera."""

    path: Path
    camera: Camera


def check_root(root: Path, folders: Sequence[str], name: str) -> None:
    """Raises: DatasetError unless `root` has all `folders`; tells the folder meant if it is near.

    Near is one level below, or one or two above.
    """
    expected = ", ".join(folders)
    if not root.is_dir():
        raise DatasetError(f"{root} is no folder; expected that of {name}, which holds {expected}")

    def fits(folder: Path) -> bool:
        try:
            return all((folder / one).is_dir() for one in folders)
        except PermissionError:  # a neighbour that is not ours to look into
            return False

    if fits(root):
        return
    for folder in root.absolute().parents[:2]:
        if fits(folder):
            raise DatasetError(f"{root} is a folder inside of {name}; give {folder} instead")
    for folder in sorted(root.iterdir()):
        if fits(folder):
            raise DatasetError(f"{root} is a folder above {name}; give {folder} instead")
    missing = ", ".join(one for one in folders if not (root / one).is_dir())
    raise DatasetError(f"{root} is no {name}: {missing} missing there; expected {expected}")


def read_identities(path: Path) -> list[str]:
    """The identities of a list such as "1,2,5", as four digits each, in the order of the list.

    Raises: DatasetError if the file is missing, holds none, holds one twice, or with FILE:LINE what
    is no identity.
    """
    identities: dict[str, str] = {}
    for where, text in _lines(path):
        for one in text.split(","):
            if not one.strip().isdecimal():
                raise DatasetError(
                    f"{where}: {one.strip()!r} is no identity; expected numbers parted by commas"
                )
            name = f"{int(one):04d}"
            if name in identities:
                raise DatasetError(f"{where}: identity {name} is listed twice; remove one")
            identities[name] = where
    if not identities:
        raise DatasetError(f"{path} names no identity; expected numbers parted by commas")
    return list(identities)


def read_list(root: Path, path: Path) -> list[Line]:
    """The lines "relative/path label" of a list file, paths under `root`, not looked up yet.

    Raises: DatasetError if the file is missing or empty, or with FILE:LINE what is no such line.
    """
    lines: list[Line] = []
    for where, text in _lines(path):
        name, *rest = text.rsplit(maxsplit=1)
        if not rest or not rest[0].isdecimal():
            raise DatasetError(f"{where}: {_short(text)!r}; expected RELATIVE/PATH LABEL")
        relative = Path(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise DatasetError(f"{where}: {name} leads out of {root}; expected a path inside it")
        lines.append(Line(where, root / relative, int(rest[0])))
    if not lines:
        raise DatasetError(f"{path} is empty; expected lines RELATIVE/PATH LABEL")
    return lines


def check_images(lines: Iterable[Line]) -> None:
    """Raises: DatasetError naming the first images of a list that are not there."""
    # one look into each folder: asking for each file takes long on a network disk
    present: dict[Path, set[str]] = {}
    missing: list[Line] = []
    for line in lines:
        folder = line.path.parent
        if folder not in present:
            present[folder] = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
        if line.path.name not in present[folder]:
            missing.append(line)
    if missing:
        more = f" (and {len(missing) - 1} more images of lists)" if len(missing) > 1 else ""
        raise DatasetError(
            f"{missing[0].where}: {missing[0].path} does not exist{more}; copy the data again"
        )


def name_labels(lines: Sequence[Line], names: Sequence[str]) -> None:
    """Raises: DatasetError with FILE:LINE where a label and the name in the path disagree.

    Labels are counted anew in each part of a data set, so that people are known by their names;
    a label that goes with two names would train two people as one.
    """
    name_of: dict[int, str] = {}
    label_of: dict[str, int] = {}
    for line, name in zip(lines, names, strict=True):
        if name_of.setdefault(line.label, name) != name:
            raise DatasetError(
                f"{line.where}: label {line.label} is given to identity {name}, and above to "
                f"{name_of[line.label]}; take the list as it was published"
            )
        if label_of.setdefault(name, line.label) != line.label:
            raise DatasetError(
                f"{line.where}: identity {name} has label {line.label}, and above "
                f"{label_of[name]}; take the list as it was published"
            )


def read_camera_folders(
    folders: Sequence[CameraFolder], identities: Sequence[str], where: str
) -> list[Sample]:
    """All images of `identities`, sorted; `where` is the list that names them.

    Raises: DatasetError for a camera without any of them, and an identity without an image.
    """
    samples: list[Sample] = []
    other: list[str] = []
    for folder, camera in folders:
        if not folder.is_dir():
            raise DatasetError(f"{folder} is missing; expected {folder}/<identity>/*.jpg")
        before = len(samples)
        with os.scandir(folder) as entries:
            present = {entry.name for entry in entries if entry.is_dir()}
        for identity in identities:
            if identity not in present:  # not every person was seen by every camera
                continue
            inside = folder / identity
            for path in inside.iterdir():
                if is_image_name(path.name):
                    samples.append(Sample(path, identity, camera.modality, camera.name))
                else:
                    other.append(str(path))
        if len(samples) == before:
            raise DatasetError(
                f"{folder} has no image of the {len(identities)} identities in {where}; copy the "
                "camera's folder again"
            )
    if other:
        logger.warning(
            "%d other files left aside (the first: %s); images end in %s",
            len(other),
            min(other),
            ", ".join(IMAGE_SUFFIXES),
        )
    seen = {sample.identity for sample in samples}
    unseen = [identity for identity in identities if identity not in seen]
    if unseen:
        raise DatasetError(
            f"{where}: no image of {few(unseen)} in {folders[0].path.parent}; copy the data again"
        )
    return sort_samples(samples)


def sort_samples(samples: Iterable[Sample]) -> list[Sample]:
    """By modality (infrared first), identity, camera and file name: no matter how a disk lists."""
    return sorted(
        samples,
        key=lambda one: (one.modality.value, one.identity, one.camera or "", one.path.name),
    )


def check_disjoint(
    train: Iterable[str], test: Iterable[str], train_list: str, test_list: str
) -> None:
    """Raises: DatasetError naming identities that are in both parts."""
    both = sorted(set(train) & set(test))
    if both:
        raise DatasetError(
            f"{few(both)} in both {train_list} and {test_list}: a network would be tested on "
            "people it was trained on; take the lists as they were published"
        )


def check_modalities(samples: Sequence[Sample], where: str) -> None:
    """Raises: DatasetError naming training identities without any image of one modality.

    Few images are fine: the sampler draws them again.
    """
    everyone = {sample.identity for sample in samples}
    for modality in Modality:
        lacking = sorted(everyone - {one.identity for one in samples if one.modality is modality})
        if lacking:
            raise DatasetError(
                f"{where}: no {modality.value} image of training {few(lacking)}; every batch shows "
                "a person in both lights. Copy the data again, or take them off the list"
            )


def is_image_name(name: str) -> bool:
    """Whether a file is taken for an image; hidden ones are what file managers leave behind."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    kind = "identity" if len(names) == 1 else "identities"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{kind} {', '.join(names[:_NAMED])}{more}"


def _lines(path: Path) -> Iterable[tuple[str, str]]:
    """FILE:LINE and text of each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark in front
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing; it is part of the data set, copy it too") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as a list: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", line.strip()


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
