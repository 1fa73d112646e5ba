"""Prompts that work and prompts that have collapsed are told apart, by numbers worked by hand."""

from __future__ import annotations

import json
from math import sqrt

import pytest

pytest.importorskip("torch", reason="prompts are looked at with torch")

import torch
from torch import Tensor

from mip_edge.errors import OptionError
from mip_edge.look.prompts import (
    PromptReport,
    _identity_shares,
    _set_distances,
    _spread_of,
    _variation,
    prompt_report,
)
from mip_edge.model.mip import MIP
from mip_edge.model.options import MIPOptions

LAYERS = 2


def small(**changes: object) -> MIP:
    """Two layers of width 16 with every weight far from zero, in eval mode."""
    options = {"width": 16, "depth": 4, "heads": 2, "image_size": (64, 32), "stride": 16}
    torch.manual_seed(5)
    model = MIP(MIPOptions(**{**options, "prompt_length": 4, **changes}))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def people(count: int = 4, crops: int = 3, noise: float = 0.1) -> tuple[Tensor, Tensor, Tensor]:
    """Images, lights and names of people who look the same in both lights but for noise."""
    generator = torch.Generator().manual_seed(9)
    looks = torch.randn(count, 3, 64, 32, generator=generator)
    names = torch.arange(count).repeat_interleave(crops).repeat(2)
    images = looks[names]
    images = images + noise * torch.randn(images.shape, generator=generator)
    return images, torch.arange(2).repeat_interleave(count * crops), names


def test_a_network_that_tells_people_and_lights_apart_gives_no_warning() -> None:
    report = prompt_report(small(instance_queries="learnable"), *people())
    assert report.warnings == ()
    assert (report.crops, report.identities, report.queries) == (24, 4, "learnable")
    for layer in range(LAYERS):
        assert report.modality_distance[layer] > 0.1
        assert report.instance_spread[layer] > 0.05
        # noise of a tenth: nearly all that varies is the person
        assert report.identity_share[layer] > 0.9 > report.identity_chance[layer]
    assert report.modality_swap is not None
    assert json.loads(json.dumps(report.figures(), allow_nan=False))["warnings"] == []


def test_equal_libraries_have_distance_0_no_effect_and_a_warning_for_both() -> None:
    model = small()
    assert model.modality_prompts is not None
    with torch.no_grad():
        library = model.modality_prompts.library
        # the same prompts in another order are the same set
        library[1] = library[0].flip(1)
    report = prompt_report(model, *people())
    assert report.modality_distance == (0.0, 0.0)
    assert report.modality_swap == pytest.approx(0.0, abs=1e-5)
    collapsed, idle = report.warnings
    assert "modality prompts have collapsed" in collapsed
    assert "in layers 1-2" in collapsed
    assert "modality prompts have no effect" in idle


def test_zero_queries_give_no_spread_and_that_is_no_warning() -> None:
    report = prompt_report(small(), *people())
    assert report.queries == "zero"
    assert report.instance_spread == (0.0, 0.0)
    assert report.warnings == ()


def test_a_generator_that_looks_at_nothing_is_told() -> None:
    model = small(instance_queries="learnable")
    assert model.instance_prompts is not None
    with torch.no_grad():
        model.instance_prompts.block.attn.proj.weight.zero_()
    report = prompt_report(model, *people())
    assert report.instance_variation == pytest.approx((0.0, 0.0), abs=1e-5)
    (line,) = report.warnings
    assert "instance prompts have collapsed" in line
    assert "layers 1-2" in line


def test_learnable_queries_that_are_all_equal_are_told() -> None:
    model = small(instance_queries="learnable")
    assert model.instance_prompts is not None
    assert model.instance_prompts.queries is not None
    with torch.no_grad():
        queries = model.instance_prompts.queries
        queries.copy_(queries[:, :1].expand_as(queries).clone())
    (line,) = prompt_report(model, *people()).warnings
    assert "all the same in layers 1-2" in line


def test_prompts_that_vary_but_not_with_the_person_are_told() -> None:
    images, lights, names = people(count=6, crops=4)
    mixed = names.view(2, 6, 4).transpose(1, 2).reshape(-1)  # each name gets crops of others
    share = prompt_report(small(), images, lights, mixed)
    for value, chance in zip(share.identity_share, share.identity_chance, strict=True):
        assert value <= chance
    assert any("do not depend on the person in layers 1-2" in line for line in share.warnings)


def test_a_layer_below_half_may_fail_to_know_people() -> None:
    figures = {"crops": 9, "identities": 3, "queries": "zero", "instance_variation": (0.1,) * 4}
    chance = (0.1,) * 4
    first = PromptReport(**figures, identity_share=(0, 0.5, 0.5, 0.5), identity_chance=chance)  # type: ignore[arg-type]
    assert first.warnings == ()
    half = PromptReport(**figures, identity_share=(0, 0.5, 0, 0.5), identity_chance=chance)  # type: ignore[arg-type]
    assert "in layers 1, 3" in half.warnings[0]


def test_the_share_between_people_is_that_of_the_textbook() -> None:
    # people at 0 and 4, each crop 1 beside: all squares 20 / 3, within 4 / 2
    prompts = torch.tensor([[-1.0], [1.0], [3.0], [5.0]]).double()
    groups, light = torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.int64)
    share, _ = _identity_shares(prompts, light, groups)
    assert share == pytest.approx(1 - (4 / 2) / (20 / 3))
    # the same people in another light, far away: the light is no difference between people
    both = torch.cat([prompts, prompts + 1000])
    lights = torch.tensor([0] * 4 + [1] * 4)
    share, _ = _identity_shares(both, lights, torch.cat([groups, groups + 2]))
    assert share == pytest.approx(1 - (8 / 4) / (40 / 6))


def test_lengths_are_relative_to_the_prompts_own() -> None:
    # sets {3, 5} and {4, 5}: to the nearest other 1, 0 and 1, 0; RMS length sqrt(75 / 4)
    library = torch.tensor([[[[3.0], [5.0]]], [[[4.0], [5.0]]]])
    (distance,) = _set_distances(library)
    assert distance == pytest.approx(0.5 / sqrt(75 / 4))
    # crops at 3 and 5 in one light, 10 and 10 in the other: squares 1 1 0 0 over 9 25 100 100
    prompts, flags = torch.tensor([[3.0], [5.0], [10.0], [10.0]]), torch.tensor([0, 0, 1, 1])
    assert _variation(prompts, flags) == pytest.approx(sqrt(2 / 234))
    assert _spread_of(torch.tensor([[[3.0], [5.0]]])) == pytest.approx(sqrt(2 / 34))
    assert _spread_of(torch.zeros(2, 3, 4)) == 0.0


def test_a_network_without_prompts_has_nothing_to_warn_of() -> None:
    report = prompt_report(small(modality_prompts=False, instance_prompts=False), *people())
    assert (report.queries, report.modality_swap, report.warnings) == ("none", None, ())
    assert report.modality_distance == report.identity_share == ()


def test_the_report_depends_on_no_batch_and_leaves_the_mode() -> None:
    model = small().train()
    whole = prompt_report(model, *people())
    parts = prompt_report(model, *people(), batch=5)
    assert model.training
    assert parts.identity_share == pytest.approx(whole.identity_share, abs=1e-5)
    assert parts.modality_swap == pytest.approx(whole.modality_swap, abs=1e-5)


def test_crops_without_two_of_anybody_are_refused() -> None:
    images, lights, _ = people(count=4, crops=1)
    with pytest.raises(OptionError, match="8 crops of 4 people"):
        prompt_report(small(), images, lights, [0, 1, 2, 3, 0, 1, 2, 3])
    with pytest.raises(OptionError, match="8 images, 8 modalities and 3 identities"):
        prompt_report(small(), images, lights, [0, 1, 2])
