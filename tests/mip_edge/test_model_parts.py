"""Options, patch order, positions and the promises of the network's parts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mip_edge.errors import OptionError
from mip_edge.model.head import group_mask, jigsaw_order
from mip_edge.model.mip import MIP, TrainOutput
from mip_edge.model.options import MIPOptions
from mip_edge.model.vit import Block, resize_positions

DATA = Path(__file__).parents[1] / "data"
SMALL = {"width": 32, "heads": 2, "depth": 4, "image_size": (64, 32), "prompt_length": 3}


@pytest.fixture(scope="module")
def tokens_reference() -> dict[str, np.ndarray]:
    return dict(np.load(DATA / "tokens_reference.npz"))


def small(**changes: object) -> MIP:
    torch.manual_seed(5)
    return MIP(MIPOptions.from_dict({**SMALL, **changes}))


def crops(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 3, 64, 32, generator=generator), torch.arange(count) % 2


@pytest.mark.parametrize("patches", [210, 128, 10, 9])
def test_patches_are_shuffled_as_published(
    tokens_reference: dict[str, np.ndarray], patches: int
) -> None:
    expected = tokens_reference[f"jpm_order_{patches}"] - 1  # the reference counts from 1
    np.testing.assert_array_equal(jigsaw_order(patches).numpy(), expected)


@pytest.mark.parametrize("patches", [210, 128, 10, 9, 4])
def test_four_groups_are_equal_and_share_no_patch(patches: int) -> None:
    seen = torch.isfinite(group_mask(patches))
    assert seen[:, 0].all()
    assert (seen[:, 1:].sum(dim=1) == patches // 4).all()
    assert (seen[:, 1:].sum(dim=0) <= 1).all()


@pytest.mark.parametrize("grid", [(21, 10), (16, 8)])
def test_positions_are_resized_as_published(
    tokens_reference: dict[str, np.ndarray], grid: tuple[int, int]
) -> None:
    positions = torch.from_numpy(tokens_reference["pe_in"])
    expected = torch.from_numpy(tokens_reference[f"pe_out_{grid[0]}x{grid[1]}"])
    assert float((resize_positions(positions, (14, 14), grid) - expected).abs().max()) <= 1e-6
    assert resize_positions(positions, (14, 14), (14, 14)) is positions


def test_base_has_the_published_parameters_that_a_test_needs() -> None:
    with torch.device("meta"):
        model = MIP(MIPOptions.preset("base", cameras=6, instance_queries="learnable"))
    needed = 0
    for line in (DATA / "mip_base_state_dict_keys.txt").read_text().splitlines():
        name, shape = line.split("\t")[:2]
        block = re.match(r"base\.blocks\.(\d+)\.", name)
        if re.match(
            r"(base\.(norm|fc|prompt_adapters)\b|zero_token|classifier|bottleneck)", name
        ) or (block and int(block[1]) >= 10):
            continue
        sizes = [int(size) for size in re.findall(r"\d+", shape)]
        if name == "base.deep_prompt_embeddings":
            sizes[1] = 9  # of twelve layers nine are used
        needed += int(np.prod(sizes))
    ours = sum(one.numel() for name, one in model.named_parameters() if "necks" not in name)
    assert ours == needed
    assert round(ours / 1e6, 1) == 93.8


def test_presets_are_the_named_sizes() -> None:
    widths = {name: MIPOptions.preset(name).width for name in ("tiny", "small", "base")}
    assert widths == {"tiny": 192, "small": 384, "base": 768}
    assert MIPOptions.preset("base").grid == (21, 10)
    assert MIPOptions.preset("base", stride=16).patches == 128
    assert MIPOptions.preset("base").dimension == 3840
    assert MIPOptions.preset("base").layers == 10
    assert MIPOptions.preset("base", extra_block=True).layers == 11


def test_options_survive_their_dictionary() -> None:
    options = MIPOptions.preset("tiny", stride=16, classes=5, iael=True, cameras=2)
    assert MIPOptions.from_dict(options.to_dict()) == options


def test_options_of_the_first_checkpoints_are_said_as_they_were() -> None:
    said = MIPOptions.preset("tiny").to_dict()
    assert not {"modality_prompts", "instance_prompts", "iael_block"} & set(said)
    assert len(said) == 17
    changed = MIPOptions.preset("tiny", modality_prompts=False)
    assert changed.to_dict() == {**said, "modality_prompts": False}
    assert MIPOptions.from_dict(changed.to_dict()) == changed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"width": 30, "heads": 4}, "width 30 cannot be divided among 4 heads"),
        ({"width": 32.0}, "width must be a whole number, got 32.0"),
        ({"depth": 2}, "depth must be at least 3, got 2"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"image_size": (8, 64)}, "image_size 8x64 is smaller than one patch of 16x16"),
        ({"image_size": (16, 16)}, "gives 1 patches; the head needs at least 4"),
        ({"image_size": 64}, "image_size must be .height, width. in pixels, got 64"),
        ({"image_size": (64, 32.5)}, "image_size must be"),
        ({"patch": 0}, "patch must be at least 1"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"prompt_length": 0}, "prompt_length must be at least 1"),
        ({"instance_queries": "random"}, "instance_queries must be zero or learnable"),
        ({"cameras": -1}, "cameras must be at least 0, got -1"),
        ({"sie_coefficient": -1.0}, "sie_coefficient must be at least 0"),
        ({"extra_block": 1}, "extra_block must be true or false, got 1"),
        ({"classes": -1}, "classes must be at least 0"),
        ({"neck": "none"}, "neck must be before or after, got 'none'"),
        ({"iael": True}, "iael needs classes"),
        ({"iael_block": True}, "iael_block needs iael, got iael=False"),
        (
            {"iael": True, "classes": 2, "instance_prompts": False},
            "iael needs instance prompts, got instance_prompts=False",
        ),
        ({"modality_prompts": 0}, "modality_prompts must be true or false, got 0"),
        ({"drop_path": 1.0}, r"drop_path must be in \[0, 1\), got 1.0"),
        ({"prompt_dropout": -0.1}, "prompt_dropout must be in"),
        ({"prompt_scale": 0.0}, "prompt_scale must be a number above 0"),
        ({"prompt_scale": "1"}, "prompt_scale must be a number, got '1'"),
        ({"colour": 1}, "model option 'colour' does not exist"),
    ],
)
def test_an_option_that_cannot_be_is_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        MIPOptions.from_dict({**SMALL, **changes})


def test_an_unknown_preset_and_missing_width_are_named() -> None:
    with pytest.raises(OptionError, match="one of tiny, small, base, got 'huge'"):
        MIPOptions.preset("huge")
    with pytest.raises(OptionError, match="'width' is missing"):
        MIPOptions.from_dict({"heads": 3})


def test_the_start_is_the_published_one() -> None:
    model = MIP(MIPOptions.preset("tiny", classes=9, prompt_scale=20.0))
    assert not any(neck.bias.requires_grad for neck in model.necks)  # type: ignore[union-attr]
    bound = 20 * (6 / (3 * 16 * 16 + 192)) ** 0.5
    model.requires_grad_(False)
    library = model.modality_prompts.library
    assert library.shape == (2, 10, 16, 192)
    assert float(library.abs().max()) <= bound
    assert float(library.abs().max()) > 0.99 * bound
    assert float(model.modality_prompts.proj.weight.std()) == pytest.approx(
        (2 / 192) ** 0.5, rel=0.05
    )
    block = model.instance_prompts.block
    assert float(block.mlp.fc1.weight.std()) == pytest.approx(0.02, rel=0.05)
    assert float(block.mlp.fc1.bias.abs().max()) == 0
    assert float(model.pos_embed.std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.classifiers[0].weight.std()) == pytest.approx(0.001, rel=0.1)  # type: ignore[arg-type]
    assert model.sie_embed is None


def test_stochastic_depth_grows_to_the_last_block() -> None:
    model = small(depth=5, drop_path=0.4)
    rates = [block.drop_path for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2])
    assert model.head.local_block.drop_path == pytest.approx(0.4)
    assert model.instance_prompts.block.drop_path == 0


def test_stochastic_depth_keeps_the_mean_and_leaves_out_whole_crops() -> None:
    torch.manual_seed(0)
    block = Block(4, 1, drop_path=0.25).train()
    dropped = block.drop(torch.ones(4000, 2, 4))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert float(dropped.mean()) == pytest.approx(1, abs=0.05)
    rows = block.drop_rows(torch.ones(500, 4, 4))
    assert not torch.equal(rows[:, 0], rows[:, 1])
    assert torch.equal(block.eval().drop(dropped), dropped)


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("queries", ["zero", "learnable"])
def test_every_parameter_that_matters_learns(queries: str, block: bool) -> None:
    model = small(
        instance_queries=queries,
        classes=3,
        iael=True,
        iael_block=block,
        cameras=2,
        extra_block=True,
        drop_path=0.0,
    ).train()
    with torch.no_grad():
        # Fresh zero queries ask nothing until the first step has moved the norm's bias.
        model.instance_prompts.block.norm1.bias.add_(0.1)
        if model.instance_row is not None:
            model.instance_row.block.norm1.bias.add_(0.1)
    images, modality = crops(6)
    output = model(images, modality, modality)
    assert isinstance(output, TrainOutput)
    assert [tuple(one.shape) for one in output.scores] == [(6, 3)] * 5
    assert [tuple(one.shape) for one in output.features] == [(6, 32)] * 5
    assert [tuple(one.shape) for one in output.instance_scores] == [(6, 3)] * 3
    terms = [*output.scores, *output.instance_scores]
    torch.stack([(term * torch.arange(3.0)).square().sum() for term in terms]).sum().backward()
    silent = {
        name
        for name, one in model.named_parameters()
        if one.requires_grad and (one.grad is None or not one.grad.abs().any())
    }
    # The softmax takes these out: their gradient is 0 in the published network too.
    folded = {"instance_prompts.block", "head.global_block", "head.local_block"}
    folded |= {"instance_row.block"} if block else set()
    assert silent == {f"{part}.attn.k.bias" for part in folded}


@pytest.mark.parametrize("instance", [True, False])
def test_without_modality_prompts_the_modality_says_nothing(instance: bool) -> None:
    images, modality = crops(2)
    alike = small(modality_prompts=False, instance_prompts=instance).eval()
    with torch.no_grad():
        assert torch.equal(alike(images, modality), alike(images, 1 - modality))
        prompted = small(instance_prompts=instance).eval()
        assert not torch.allclose(prompted(images, modality), prompted(images, 1 - modality))
    assert not [name for name, _ in alike.named_parameters() if name.startswith("modality")]


def test_each_kind_of_prompts_changes_the_embedding() -> None:
    images, modality = crops(2)
    whole = small().eval()
    for kind in ("modality_prompts", "instance_prompts"):
        part = small(**{kind: False}).eval()
        weights = {name: one for name, one in whole.state_dict().items() if kind not in name}
        part.load_state_dict(weights)
        with torch.no_grad():
            assert not torch.allclose(part(images, modality), whole(images, modality))


def test_a_network_without_instance_prompts_has_none_to_give() -> None:
    model = small(instance_prompts=False).eval()
    images, modality = crops(2)
    with torch.no_grad():
        _, instances = model.encode(model.embed_patches(images), modality)
    assert instances == []


def test_without_classes_and_cameras_there_are_features_only() -> None:
    output = small().train()(*crops(4))
    assert isinstance(output, TrainOutput)
    assert output.scores == []
    assert output.instance_scores == []


def test_prompt_dropout_acts_in_training_only() -> None:
    model = small(prompt_dropout=0.5, drop_path=0.0)
    images, modality = crops(4)
    assert torch.equal(model.eval()(images, modality), model(images, modality))
    model.train()
    first, second = (model(images, modality).features[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_training_in_bfloat16_is_near_float32() -> None:
    model = small(drop_path=0.0, prompt_dropout=0.0).train().requires_grad_(False)
    images, modality = crops(4)
    exact = model(images, modality).features
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(images, modality).features
    for one, other in zip(exact, rough, strict=True):
        assert float(nn.functional.cosine_similarity(one, other.float()).min()) > 0.999


def test_images_of_another_size_and_unknown_cameras_are_refused() -> None:
    model = small().eval()
    images, modality = crops(2)
    with pytest.raises(OptionError, match="images are 3x32x64; this model takes 3x64x32"):
        model(images.transpose(2, 3), modality)
    with pytest.raises(OptionError, match="knows no cameras"):
        model(images, modality, modality)
