"""The published forward, dead work and all, gives what the network gives, at the published cost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mip_edge.model.losses import losses
from mip_edge.model.mip import MIP, TrainOutput
from mip_edge.model.options import MIPOptions
from mip_edge.model.straight import Straight

SMALL = {
    "width": 24,
    "heads": 2,
    "depth": 4,
    "image_size": (64, 32),
    "prompt_length": 3,
    "classes": 3,
    "cameras": 2,
    "drop_path": 0.0,
    "prompt_dropout": 0.0,
}
VARIANTS = [
    *(
        {"instance_queries": queries, **iael}
        for queries in ("zero", "learnable")
        for iael in ({}, {"iael": True}, {"iael": True, "iael_block": True})
    ),
    {"modality_prompts": False},
    {"modality_prompts": False, "instance_queries": "learnable"},
    {"instance_prompts": False},
    {"modality_prompts": False, "instance_prompts": False},
    {"extra_block": True, "neck": "after"},
    {"image_size": (64, 48)},  # 5 x 3 patches: odd, some left over
]


def make_model(**changes: object) -> MIP:
    torch.manual_seed(11)
    model = MIP(MIPOptions.from_dict({**SMALL, **changes})).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
        for neck in model.necks:
            neck.running_mean.normal_()
    return model


def make_crops(model: MIP) -> tuple[Tensor, Tensor, Tensor]:
    images = torch.randn(8, 3, *model.options.image_size, dtype=torch.float64)
    return images, torch.arange(8) % 2, torch.arange(8) // 3 % 2


def assert_near(one: Tensor, other: Tensor, size: float) -> None:
    assert one.shape == other.shape
    assert float((one - other).detach().abs().max()) <= 1e-12 * size


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_embeddings_are_those_of_the_network(changes: dict[str, object]) -> None:
    model = make_model(**changes).eval()
    images, modality, camera = make_crops(model)
    with torch.no_grad():
        expected = model(images, modality, camera)
        assert_near(Straight(model)(images, modality, camera), expected, float(expected.norm()))


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_scores_and_every_gradient_are_those_of_the_network(changes: dict[str, object]) -> None:
    model = make_model(**changes).train()
    images, modality, camera = make_crops(model)
    outputs: list[TrainOutput] = []
    gradients: list[dict[str, Tensor]] = []
    for network in (model, Straight(model)):
        model.zero_grad()
        output = network(images, modality, camera)
        assert isinstance(output, TrainOutput)
        losses(output, torch.arange(8) // 4, modality, msel=True).total.backward()
        outputs.append(output)
        gradients.append(
            {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        )
    for kind in ("scores", "features", "instance_scores"):
        pairs = list(zip(*(getattr(output, kind) for output in outputs), strict=True))
        assert (len(pairs) > 0) == (kind != "instance_scores" or model.options.iael)
        for expected, came in pairs:
            assert_near(came, expected, float(expected.detach().norm()))
    ours, straight = gradients
    # what ours does not compute at all (key biases that the softmax takes out) has none there
    assert set(ours) <= set(straight)
    size = float(torch.stack([gradient.norm() for gradient in ours.values()]).norm())
    for name, gradient in straight.items():
        assert_near(gradient, ours.get(name, torch.zeros_like(gradient)), size)


def test_weights_and_mode_are_shared() -> None:
    model = make_model().eval()
    straight = Straight(model)
    assert not straight.training
    assert {id(one) for one in straight.parameters()} == {id(one) for one in model.parameters()}
    images, modality, _ = make_crops(model)
    with torch.no_grad():
        before = straight(images, modality)
        model.cls_token.mul_(2)
        assert not torch.allclose(straight(images, modality), before)
    assert isinstance(straight.train()(images, modality), TrainOutput)
    assert model.training


@pytest.mark.parametrize(
    ("stride", "queries", "published"),
    [(12, "zero", 38_184_638_976), (16, "learnable", 24_353_659_392)],
)
def test_base_multiplies_as_often_as_the_published_code(
    stride: int, queries: str, published: int
) -> None:
    def count(network: MIP | Straight) -> int:
        crop = torch.empty(1, 3, 256, 128, device="meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(crop, torch.zeros(1, dtype=torch.int64, device="meta"))
        return counter.get_total_flops() // 2

    with torch.device("meta"):
        model = MIP(MIPOptions.preset("base", stride=stride, instance_queries=queries))
    model = model.requires_grad_(False).to("meta").eval()
    assert count(Straight(model)) == published
    assert count(model) < published / 1.8
