"""The published network's numbers, in every variant: eval embeddings, training, gradients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mip_edge import checkpoint
from mip_edge.model.losses import losses
from mip_edge.model.mip import MIP, TrainOutput

DATA = Path(__file__).parents[1] / "data"
OFFICIAL = DATA / "mip_tiny_state_dict.pth"
QUERIES = {"bugrefine0": "zero", "bugrefine1": "learnable"}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(values)
        for name, values in np.load(DATA / "mip_tiny_reference.npz").items()
    }


def official(queries: str, *, iael: bool = False, **changes: object) -> MIP:
    model = checkpoint.import_official(OFFICIAL, (64, 32), 12, queries, iael=iael)
    if not changes:
        return model
    options = type(model.options).from_dict({**model.options.to_dict(), **changes})
    changed = MIP(options)
    changed.load_state_dict(model.state_dict())
    return changed.eval()


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("neck", ["before", "after"])
@pytest.mark.parametrize("variant", QUERIES)
def test_embeddings_are_the_published_ones(
    reference: dict[str, Tensor], variant: str, neck: str
) -> None:
    model = official(QUERIES[variant], neck=neck)
    with torch.no_grad():
        embeddings = model(reference["images"], reference["modality"], reference["cam"])
    assert embeddings.shape == (8, 5 * 48)
    assert difference(embeddings, reference[f"emb_{variant}_{neck}"]) <= TOLERANCE


@pytest.mark.parametrize("variant", QUERIES)
def test_tokens_that_enter_the_head_are_the_published_ones(
    reference: dict[str, Tensor], variant: str
) -> None:
    model = official(QUERIES[variant])
    with torch.no_grad():
        tokens = model.embed_patches(reference["images"], reference["cam"])
        tokens, _ = model.encode(tokens, reference["modality"])
    assert difference(tokens, reference[f"tokens_{variant}"]) <= TOLERANCE


def test_swapped_modality_gives_the_published_embeddings(reference: dict[str, Tensor]) -> None:
    with torch.no_grad():
        embeddings = official("zero")(
            reference["images"], 1 - reference["modality"], reference["cam"]
        )
    assert difference(embeddings, reference["emb_bugrefine0_before_swappedmod"]) <= TOLERANCE
    assert difference(embeddings, reference["emb_bugrefine0_before"]) > 100 * TOLERANCE


def test_camera_0_gives_the_published_embeddings(reference: dict[str, Tensor]) -> None:
    model, images, modality = official("zero"), reference["images"], reference["modality"]
    expected = reference["emb_bugrefine0_before_cam0"]
    with torch.no_grad():
        embeddings = model(images, modality, torch.zeros(8, dtype=torch.int64))
        assert model.sie_embed is not None
        by_vector = model(images, modality, camera_vector=3.0 * model.sie_embed[0, 0])
        without = model(images, modality)
    assert difference(embeddings, expected) <= TOLERANCE
    assert difference(by_vector, expected) <= TOLERANCE
    assert difference(without, expected) > 100 * TOLERANCE


def test_one_crop_gives_what_it_gives_in_a_mixed_batch(reference: dict[str, Tensor]) -> None:
    model, images, modality = official("learnable"), reference["images"], reference["modality"]
    with torch.no_grad():
        together = model(images, modality)
        alone = torch.cat([model(images[i : i + 1], modality[i : i + 1]) for i in range(8)])
        nobody = model(images[:0], modality[:0])
    assert difference(together, alone) <= TOLERANCE
    assert nobody.shape == (0, 5 * 48)


def published_name(name: str) -> str:
    """The published parameter whose gradient norm takes in that of our `name`."""
    *module, parameter = name.split(".")
    module = [*module[:-1], "qkv"] if module and module[-1] in "qkv" else module
    match module:
        case ["necks" | "classifiers" as kind, index]:
            suffix = "" if index == "0" else f"_{index}"
            theirs = {"necks": "bottleneck", "classifiers": "classifier"}[kind] + suffix
        case ["instance_necks", index]:
            theirs = f"bottlenecks_ins_prompts.{index}"
        case ["instance_classifiers", index]:
            theirs = f"classifiers_ins_prompts.{index}"
        case ["head", part, *rest]:
            where = "b1" if part.startswith("global") else "b2"
            theirs = ".".join([where, "0" if part.endswith("block") else "1", *rest])
        case ["instance_prompts", "block", *rest]:
            theirs = ".".join(["base", "instance_prompt_generator", *rest])
        case ["instance_prompts"]:
            return "base.prompt_embed"
        case ["instance_row"]:
            return "zero_token"
        case ["instance_row", "block", *rest]:
            theirs = ".".join(["b3.0", *rest])
        case ["instance_row", "norm"]:
            theirs = "b3.1"
        case ["modality_prompts", "proj"]:
            theirs = "base.prompt_proj"
        case _:
            theirs = ".".join(["base", *module])
    return f"{theirs}.{parameter}"


def squared_gradients(model: MIP) -> dict[str, float]:
    squares: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        if name == "modality_prompts.library":
            parts = {
                "base.prompt_embeddings": parameter.grad[:, 0],
                "base.deep_prompt_embeddings": parameter.grad[:, 1:],
            }
        else:
            parts = {published_name(name): parameter.grad}
        for theirs, gradient in parts.items():
            squares[theirs] = squares.get(theirs, 0.0) + float(gradient.square().sum())
    return squares


def official_in_training(
    queries: str, form: str, expected: Mapping[str, NDArray[np.generic]], folder: Path
) -> MIP:
    """Without anything random; the extra block of IAEL's second form comes from `expected`."""
    still = {"drop_path": 0.0, "prompt_dropout": 0.0}
    if form != "b3":
        return official(queries, iael=form == "simple", **still)
    state = torch.load(OFFICIAL, weights_only=True)
    state |= {name: torch.from_numpy(expected[name]) for name in expected if name[:3] == "b3."}
    torch.save(state, folder / "with_b3.pth")
    model = checkpoint.import_official(
        folder / "with_b3.pth", (64, 32), 12, queries, iael=True, iael_block=True
    )
    changed = MIP(type(model.options).from_dict({**model.options.to_dict(), **still}))
    changed.load_state_dict(model.state_dict())
    return changed


@pytest.mark.parametrize("form", ["none", "simple", "b3"])
@pytest.mark.parametrize("queries", ["zero", "learnable"])
def test_training_gives_the_published_scores_losses_and_gradients(
    reference: dict[str, Tensor], queries: str, form: str, tmp_path: Path
) -> None:
    expected = np.load(DATA / "mip_tiny_training.npz")
    model = official_in_training(queries, form, expected, tmp_path).double().train()
    variant = f"{'br0' if queries == 'zero' else 'br1'}_{form}"
    labels = torch.from_numpy(expected["pid"])

    output = model(reference["images"].double(), reference["modality"], reference["cam"])
    assert isinstance(output, TrainOutput)
    given = losses(output, labels, reference["modality"], msel=True)
    given.total.backward()

    np.testing.assert_allclose(
        torch.stack(output.scores).detach(), expected[f"{variant[:3]}_none_score"], atol=1e-9
    )
    np.testing.assert_allclose(
        torch.stack(output.features).detach(), expected[f"{variant[:3]}_none_feat"], atol=1e-9
    )
    if form != "none":
        np.testing.assert_allclose(
            torch.stack(output.instance_scores).detach(),
            expected[f"{variant}_ipscore"],
            atol=1e-9,
        )
    parts = [given.identity, given.triplet, given.msel, given.iael]
    np.testing.assert_allclose(
        [float(part.detach()) for part in parts], expected[f"{variant}_losses"], atol=1e-9
    )
    names = bytes(expected["grad_names"]).decode().split("\n")
    norms = dict(zip(names, expected[f"{variant}_grad_norm"], strict=True))
    ours = squared_gradients(model)
    assert set(ours) == {name for name, norm in norms.items() if not np.isnan(norm)}
    for name in ours:
        norm = norms[name]
        assert ours[name] ** 0.5 == pytest.approx(norm, rel=1e-6, abs=1e-9), name
