"""What the prompts of a trained network do: whether they tell lights and people apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mip_edge.errors import OptionError
from mip_edge.model.mip import MIP

SAME = 0.01
"""Below this share of their own length two prompts, or two embeddings, count as the same."""
SHUFFLES = 19
"""Random orders of the names that a layer's identity share must all exceed: 1 in 20 by luck.

Fewer than half of the layers may fail: the first generator sees bare patches, whose light and
background differ more than people do.
"""
_SEED = 0


@dataclass(frozen=True, slots=True)
class PromptReport:
    """The prompts of one network, layer by layer; empty tuples for a kind it does not have.

    Lengths and distances are relative: divided by the root mean square length of the prompts of
    the same layer.
    """

    crops: int
    identities: int
    queries: str
    """What asks the instance prompt generator: "zero", "learnable", or "none" without one."""
    modality_distance: tuple[float, ...] = ()
    """From a projected prompt of one light to the nearest of the other; 0: the sets are equal."""
    modality_swap: float | None = None
    """How far a unit embedding moves on average (0 to 2) with the other light's prompts."""
    instance_variation: tuple[float, ...] = ()
    """From a crop's instance prompts to their mean over the crops of its light; 0: all equal."""
    identity_share: tuple[float, ...] = ()
    """Share of that variation that is between people, freed of chance: 1 all, 0 none."""
    identity_chance: tuple[float, ...] = ()
    """The greatest such share of 19 random orders of the names."""
    instance_spread: tuple[float, ...] = ()
    """From each instance prompt of a crop to their mean; 0 by construction for zero queries."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """The signatures of failed prompt learning that are met, a line each."""
        found = []
        equal = [layer for layer, far in enumerate(self.modality_distance) if far < SAME]
        if equal:
            found.append(
                f"modality prompts have collapsed: those of the two lights differ by less than "
                f"{SAME:.0%} of their length in {_layers(equal)}"
            )
        if self.modality_swap is not None and self.modality_swap < SAME:
            found.append(
                f"modality prompts have no effect: those of the other light move an embedding by "
                f"{self.modality_swap:.2%} of its length, less than {SAME:.0%}"
            )
        still = [layer for layer, far in enumerate(self.instance_variation) if far < SAME]
        if still:
            found.append(
                f"instance prompts have collapsed: from crop to crop they vary by less than "
                f"{SAME:.0%} of their length in {_layers(still)}"
            )
        shares = zip(self.identity_share, self.identity_chance, strict=True)
        blind = [layer for layer, (share, luck) in enumerate(shares) if share <= luck]
        blind = [layer for layer in blind if layer not in still]
        if 2 * len(blind) >= max(1, len(self.identity_share)):
            found.append(
                f"instance prompts do not depend on the person in {_layers(blind)}: they differ "
                f"between people no more than with the names in random order"
            )
        if self.queries == "learnable":  # of zero queries all prompts are the same, and shall be
            alike = [layer for layer, far in enumerate(self.instance_spread) if far < SAME]
            if alike:
                found.append(
                    f"the instance prompts of a crop are all the same in {_layers(alike)}, as if "
                    "the queries were not learned"
                )
        return tuple(found)

    def figures(self) -> dict[str, object]:
        """For `--json`."""
        return {**asdict(self), "warnings": list(self.warnings)}


@torch.inference_mode()
def prompt_report(
    model: MIP,
    images: Tensor,
    modality: Tensor,
    identities: Sequence[int] | Tensor,
    *,
    camera_vectors: Tensor | None = None,
    batch: int = 64,
) -> PromptReport:
    """The prompts that `model` makes and uses for some crops; leaves the model in its mode.

    Normalised images (B, 3, H, W), modality (B,) with 1 visible and 0 infrared, identities (B,)
    as numbers. `camera_vectors` (2, D), infrared first, is what is added for each light's cameras.
    Between people is measured inside each light, so that the light itself does not count as a
    difference: 1 - (mean square within people) / (mean square of all), which is 0 on average
    when names mean nothing. Four crops of each of 32 people in each light are plenty.
    Raises: OptionError if no light has two people, or nobody two crops in a light.
    """
    device = next(model.parameters()).device
    names = torch.as_tensor(identities).cpu()
    flags = modality.cpu()
    if not len(images) == len(flags) == len(names):
        raise OptionError(
            f"{len(images)} images, {len(flags)} modalities and {len(names)} identities; expected "
            "one of each for a crop"
        )
    groups = _groups(names, flags)
    training = model.training
    model.eval()
    try:
        own, swapped, kept = [], [], []
        for start in range(0, len(images), batch):
            rows = slice(start, start + batch)
            here = flags[rows].to(device)
            cameras = None if camera_vectors is None else camera_vectors.to(device)[here][:, None]
            tokens = model.embed_patches(images[rows].to(device), camera_vector=cameras)
            seen, instances = model.encode(tokens, here)
            kept.append([prompts.float().cpu() for prompts in instances])
            own.append(_unit(model, seen))
            if model.modality_prompts is not None:
                swapped.append(_unit(model, model.encode(tokens, 1 - here)[0]))
        library = None if model.modality_prompts is None else model.modality_prompts()
    finally:
        model.train(training)
    layers = [torch.cat(parts) for parts in zip(*kept, strict=True)]
    shares = [_identity_shares(prompts.flatten(1).double(), *groups) for prompts in layers]
    swap = (torch.cat(own) - torch.cat(swapped)).norm(dim=1).mean() if swapped else None
    return PromptReport(
        crops=len(images),
        identities=_count(names),
        queries=model.options.instance_queries if layers else "none",
        modality_distance=() if library is None else _set_distances(library.float().cpu()),
        modality_swap=None if swap is None else float(swap),
        instance_variation=tuple(_variation(prompts.flatten(1), flags) for prompts in layers),
        identity_share=tuple(share[0] for share in shares),
        identity_chance=tuple(share[1] for share in shares),
        instance_spread=tuple(_spread_of(prompts) for prompts in layers),
    )


def _unit(model: MIP, tokens: Tensor) -> Tensor:
    return F.normalize(model.join(model.head(tokens)).float(), dim=1).cpu()


def _set_distances(library: Tensor) -> tuple[float, ...]:
    """Of each layer of (2, layers, T, D): the mean distance to the nearest prompt of the other set.

    Prompts have no positions, so that a set in another order is the same set.
    """
    found = []
    for infrared, visible in zip(*library.double(), strict=True):
        apart = torch.cdist(infrared, visible, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = (apart.min(dim=0).values.mean() + apart.min(dim=1).values.mean()) / 2
        found.append(_relative(nearest, torch.cat([infrared, visible])))
    return tuple(found)


def _variation(prompts: Tensor, flags: Tensor) -> float:
    """RMS distance of prompts (B, ...) to the mean of their light, relative to their length."""
    away = torch.cat(
        [
            prompts[flags == light] - prompts[flags == light].mean(dim=0)
            for light in torch.unique(flags)
        ]
    )
    return _relative(away.double().square().sum(dim=1).mean().sqrt(), prompts)


def _spread_of(prompts: Tensor) -> float:
    """RMS distance of the rows of (B, R, D) to their mean, relative to their length."""
    away = prompts - prompts.mean(dim=1, keepdim=True)
    rows = prompts.flatten(0, 1)
    return _relative(away.double().square().sum(dim=2).mean().sqrt(), rows)


def _relative(distance: Tensor, prompts: Tensor) -> float:
    """`distance` in units of the RMS length of the rows of `prompts`; 0 where all are zero."""
    length = prompts.double().square().sum(dim=1).mean().sqrt()
    return float(distance / length) if length > 0 else 0.0


def _groups(names: Tensor, flags: Tensor) -> tuple[Tensor, Tensor]:
    """For each crop the number of its light, and of its person in that light, (B,) each."""
    _, lights = torch.unique(flags, return_inverse=True)
    _, people = torch.unique(names, return_inverse=True)
    groups = lights * (int(people.max()) + 1) + people if len(people) else people
    counts = torch.stack([(groups == group).sum() for group in torch.unique(groups)])
    persons = [_count(people[lights == light]) for light in torch.unique(lights)]
    if counts.numel() == 0 or int(counts.max()) < 2 or max(persons) < 2:
        raise OptionError(
            f"{len(names)} crops of {_count(names)} people; the prompts' spread needs two "
            "people in one light, and two crops of somebody in one light"
        )
    return lights, groups


def _identity_shares(prompts: Tensor, lights: Tensor, groups: Tensor) -> tuple[float, float]:
    """The share of variance between people, and its greatest value with names shuffled."""
    centred = prompts.clone()
    for light in torch.unique(lights):
        centred[lights == light] -= prompts[lights == light].mean(dim=0)
    products = centred @ centred.T  # crops are few, and a prompt is long
    generator = torch.Generator().manual_seed(_SEED)
    shuffled = []
    for _ in range(SHUFFLES):
        order = torch.arange(len(groups))
        for light in torch.unique(lights):
            rows = (lights == light).nonzero().flatten()
            order[rows] = rows[torch.randperm(len(rows), generator=generator)]
        shuffled.append(_share(products, lights, groups[order]))
    return _share(products, lights, groups), max(shuffled)


def _share(products: Tensor, lights: Tensor, groups: Tensor) -> float:
    """1 - (mean square within groups) / (mean square in all) of centred rows' products (B, B)."""
    _, number, counts = torch.unique(groups, return_inverse=True, return_counts=True)
    member = F.one_hot(number).to(products.dtype)
    total = products.diagonal().sum()
    between = ((member.T @ products) * member.T).sum(dim=1) / counts
    all_degrees = len(groups) - _count(lights)
    within = (total - between.sum()) / (len(groups) - len(counts))
    return float(1 - within / (total / all_degrees)) if total > 0 else 0.0


def _count(numbers: Tensor) -> int:
    return len(torch.unique(numbers))


def _layers(numbers: Sequence[int]) -> str:
    """Counted from 1, with runs shortened: "layers 1-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ", ".join(f"{a + 1}" if a == b else f"{a + 1}-{b + 1}" for a, b in runs)
    return f"layer{'s' if len(numbers) > 1 else ''} {text}"
