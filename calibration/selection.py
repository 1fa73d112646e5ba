"""Which training crops a PCA or an INT8 calibration sees: few, balanced, never the examination."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from mip_edge.data.dataset import Sample
from mip_edge.data.listing import few
from mip_edge.errors import DatasetError, OptionError
from mip_edge.spec import Modality


def select_crops(
    samples: Sequence[Sample], count: int, *, seed: int, examined: Collection[str] = ()
) -> list[Sample]:
    """At most `count` training samples, balanced over lights, identities and cameras.

    Each light gives half; where one has fewer, the other fills up. In a light every identity gives
    its k-th image before any gives one more, from the camera that has given the least, of this
    identity first and of all then. The lights go through the identities from opposite ends, so that
    few crops show many people. The order of `samples` does not matter; the choice comes sorted by
    light (infrared first), identity, camera and path.
    Raises: OptionError for a count below 1, or an identity of `examined` (query and gallery: they
    are the examination); DatasetError without samples.
    """
    if count < 1:
        raise OptionError(f"the number of training crops to select must be at least 1, got {count}")
    if not samples:
        raise DatasetError("no training crop to select from; expected a data set with a train part")
    seen = sorted({sample.identity for sample in samples} & set(examined))
    if seen:
        raise OptionError(
            f"query or gallery shows training people too: {few(seen)}; expected other people, for "
            "figures of those one has learned from are worthless: remove them from one part"
        )
    rng = random.Random(seed)
    identities = sorted({sample.identity for sample in samples})
    rng.shuffle(identities)
    ordered = sorted(samples, key=_order)
    infrared, visible = (
        list(_rounds([one for one in ordered if one.modality is modality], turn, rng))
        for modality, turn in (
            (Modality.INFRARED, identities),
            (Modality.VISIBLE, identities[::-1]),
        )
    )
    half = min(len(visible), count - min(len(infrared), count // 2))
    return sorted([*infrared[: count - half], *visible[:half]], key=_order)


def _order(sample: Sample) -> tuple[int, str, str, str]:
    return (sample.modality.row, sample.identity, sample.camera or "", sample.path.as_posix())


def _rounds(
    samples: Sequence[Sample], identities: Sequence[str], rng: random.Random
) -> Iterator[Sample]:
    """All samples of a light, round after round of one for each identity that has any left."""
    left: dict[str, dict[str, list[Sample]]] = {identity: {} for identity in identities}
    for sample in samples:
        left[sample.identity].setdefault(sample.camera or "", []).append(sample)
    for cameras in left.values():
        for images in cameras.values():
            rng.shuffle(images)
    given: Counter[str] = Counter()
    given_by: Counter[tuple[str, str]] = Counter()
    while any(left.values()):
        for identity, cameras in left.items():
            if not cameras:
                continue
            _, _, camera = min((given_by[identity, name], given[name], name) for name in cameras)
            given[camera] += 1
            given_by[identity, camera] += 1
            yield cameras[camera].pop()
            if not cameras[camera]:
                del cameras[camera]
