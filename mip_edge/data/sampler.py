"""The published P x K sampler: each batch shows P identities in both modalities, K images each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mip_edge.data.dataset import Sample
from mip_edge.errors import DatasetError, OptionError
from mip_edge.spec import Modality

Indices = NDArray[np.int64]


class IdentitySampler:
    """Draws epochs of batches: `identities` people, each with `images` of either modality."""

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        identities: int = 8,
        images: int = 4,
        rng: np.random.Generator,
    ) -> None:
        """Raises: OptionError if there are fewer people than a batch shows; DatasetError if one
        of them has no image of a modality.
        """
        if identities < 1 or images < 1:
            raise OptionError(
                f"--batch must show at least 1 identity with 1 image of each modality, got "
                f"{identities} identities with {images}"
            )
        self._members = _members(samples)
        if len(self._members) < identities:
            raise OptionError(
                f"--batch shows {identities} identities at once, the training set has "
                f"{len(self._members)}; take a smaller --batch or add identities"
            )
        self._identities = identities
        self._images = images
        self._rng = rng

    @property
    def batch_size(self) -> int:
        """Crops of one batch, both modalities together."""
        return 2 * self._identities * self._images

    def epoch(self) -> list[Indices]:
        """The batches of a new epoch, sample indices (2 * P * K,) each.

        First the infrared images of all P people, then the visible ones of the same people in the
        same order. How many batches there are depends on the draw: it is the length of the list.
        """
        chunks = [self._chunks(infrared, visible) for infrared, visible in self._members]
        left = list(range(len(chunks)))
        batches: list[Indices] = []
        while len(left) >= self._identities:
            people = self._rng.choice(left, size=self._identities, replace=False)
            drawn = [chunks[person].pop() for person in people]
            batches.append(np.concatenate([chunk[side] for side in (0, 1) for chunk in drawn]))
            left = [person for person in left if chunks[person]]
        return batches

    def _chunks(self, infrared: Indices, visible: Indices) -> list[tuple[Indices, Indices]]:
        """One person's images in shuffled pairs of (K infrared, K visible)."""
        longest = max(len(infrared), len(visible), self._images)
        infrared, visible = self._extend(infrared, longest), self._extend(visible, longest)
        ends = range(self._images, longest + 1, self._images)
        return [
            (infrared[end - self._images : end], visible[end - self._images : end]) for end in ends
        ]

    def _extend(self, images: Indices, length: int) -> Indices:
        """All images at least once, drawn again up to `length`, shuffled."""
        again = self._rng.choice(images, size=length - len(images), replace=True)
        return self._rng.permutation(np.concatenate([images, again]))


def _members(samples: Sequence[Sample]) -> list[tuple[Indices, Indices]]:
    """(infrared, visible) sample indices of each identity, identities sorted by name."""
    found: dict[str, dict[Modality, list[int]]] = {}
    for index, sample in enumerate(samples):
        sides = found.setdefault(sample.identity, {modality: [] for modality in Modality})
        sides[sample.modality].append(index)
    for identity, sides in found.items():
        for modality, indices in sides.items():
            if not indices:
                raise DatasetError(f"training identity {identity} has no {modality.value} image")
    return [
        (
            np.array(found[identity][Modality.INFRARED], dtype=np.int64),
            np.array(found[identity][Modality.VISIBLE], dtype=np.int64),
        )
        for identity in sorted(found)
    ]
