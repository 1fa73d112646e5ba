"""Learning rates of every group and epoch, as the published training has them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mip_edge.errors import OptionError
from mip_edge.model.mip import MIP
from mip_edge.model.optimizer import (
    OptimizerOptions,
    build_optimizer,
    cosine_refine,
    set_learning_rates,
)
from mip_edge.model.options import MIPOptions

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "learning_rates.json").read_text())
# Their name in the reference: ours.
NAMES = {
    "base.w": "blocks.0.attn.q.weight",
    "base.pbias": "blocks.0.attn.q.bias",
    "base.prompt_embeddings": "modality_prompts.library",
    "base.deep_prompt_embeddings": "modality_prompts.library",
    "base.prompt_embed": "instance_prompts.queries",
    "base.prompt_proj.weight": "modality_prompts.proj.weight",
    "base.prompt_proj.bias": "modality_prompts.proj.bias",
    "base.instance_prompt_generator.weight": "instance_prompts.block.attn.q.weight",
    "base.instance_prompt_generator.bias": "instance_prompts.block.attn.q.bias",
}


@pytest.fixture(scope="module")
def model() -> MIP:
    return MIP(
        MIPOptions(
            width=8,
            heads=2,
            depth=3,
            image_size=(64, 32),
            instance_queries="learnable",
            classes=3,
            iael=True,
        )
    )


def rate_of(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> float:
    for group in optimizer.param_groups:
        if any(parameter is member for member in group["params"]):
            return float(group["lr"])
    raise AssertionError("the parameter is in no group")


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_every_group_has_its_published_rate_at_every_epoch(model: MIP, kind: str) -> None:
    assert set(NAMES) == set(REFERENCE["names"])
    optimizer = build_optimizer(model, OptimizerOptions(kind=kind))
    parameters = dict(model.named_parameters())
    for epoch in range(1, 81):
        set_learning_rates(optimizer, epoch, epochs=80)
        for theirs, ours in NAMES.items():
            expected = REFERENCE["table"][str(epoch)][theirs]
            assert rate_of(optimizer, parameters[ours]) == pytest.approx(expected, rel=1e-12)


def test_groups_start_as_published_with_weight_decay_and_momentum(model: MIP) -> None:
    optimizer = build_optimizer(model, OptimizerOptions())
    parameters = dict(model.named_parameters())
    for theirs, (rate, decay) in REFERENCE["initial"].items():
        assert rate_of(optimizer, parameters[NAMES[theirs]]) == pytest.approx(rate)
        assert all(group["weight_decay"] == decay for group in optimizer.param_groups)
    assert all(group["momentum"] == 0.9 for group in optimizer.param_groups)


def test_all_that_learns_is_in_one_group_and_frozen_biases_in_none(model: MIP) -> None:
    optimizer = build_optimizer(model, OptimizerOptions())
    members = [id(one) for group in optimizer.param_groups for one in group["params"]]
    learning = [id(one) for one in model.parameters() if one.requires_grad]
    assert sorted(members) == sorted(learning)
    frozen = [name for name, one in model.named_parameters() if not one.requires_grad]
    assert frozen == [f"necks.{index}.bias" for index in range(5)]


def test_another_length_is_the_same_curve_stretched() -> None:
    def rate(epoch: float, epochs: int) -> float:
        return cosine_refine(epoch, peak=0.01, base=0.01, epochs=epochs)

    for epoch in range(1, 41):
        assert rate(epoch, 40) == pytest.approx(rate(2 * epoch, 80), rel=1e-12)
    assert rate(0, 40) == pytest.approx(1e-4)
    assert rate(2.5, 40) == pytest.approx(rate(5, 80))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "adam"}, "--optimizer must be sgd or adamw"),
        ({"lr": 0.0}, "--lr must be above 0"),
        ({"lr": float("nan")}, "--lr must be above 0"),
        ({"weight_decay": -1.0}, "--weight-decay"),
        ({"momentum": 1.0}, "--momentum"),
        ({"instance_multiplier": -1.0}, "instance_multiplier"),
    ],
)
def test_an_option_that_cannot_be_is_named(changes: dict[str, float], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        OptimizerOptions(**changes)  # type: ignore[arg-type]
