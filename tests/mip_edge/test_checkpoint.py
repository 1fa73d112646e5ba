"""Checkpoints: round trips, starts from other networks, and every way a file can be wrong."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from mip_edge import __version__, checkpoint
from mip_edge.errors import CheckpointError, MipEdgeError, OptionError, OutputError
from mip_edge.model.mip import MIP
from mip_edge.model.options import MIPOptions

OFFICIAL = Path(__file__).parents[1] / "data" / "mip_tiny_state_dict.pth"
SMALL = {"width": 32, "heads": 2, "depth": 4, "image_size": (64, 32), "prompt_length": 3}


def small(**changes: object) -> MIP:
    torch.manual_seed(5)
    model = MIP(MIPOptions.from_dict({**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    checkpoint.save(small(cameras=2, classes=3), path)
    return path


def embed(model: MIP) -> Tensor:
    height, width = model.options.image_size
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        embeddings = model(images, torch.tensor([0, 1]))
    assert isinstance(embeddings, Tensor)
    return embeddings


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, object]], None]) -> None:
    """Change tensors and record of a checkpoint, as a faulty tool would."""
    with safetensors.safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["mip_edge"])
    tensors = safetensors.torch.load_file(path)
    change(tensors, record)
    safetensors.torch.save_file(tensors, path, {"mip_edge": json.dumps(record)})


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    model = small(
        cameras=2,
        classes=3,
        iael=True,
        iael_block=True,
        instance_queries="learnable",
        neck="after",
    )
    path = tmp_path / "model.safetensors"
    checkpoint.save(model.train(), path)
    before = torch.random.get_rng_state()
    loaded = checkpoint.load(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loaded.options == model.options
    assert not loaded.training
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(embed(model.eval()), embed(loaded))
    assert checkpoint.fingerprint(model) == checkpoint.fingerprint(loaded)
    learning = [one.requires_grad for one in model.parameters()]
    assert [one.requires_grad for one in loaded.parameters()] == learning
    assert [name.name for name in tmp_path.iterdir()] == ["model.safetensors"]


def test_float16_is_half_as_large_and_loads_as_float32(tmp_path: Path) -> None:
    model = small()
    checkpoint.save(model, tmp_path / "whole.safetensors")
    checkpoint.save(model, tmp_path / "half.safetensors", dtype="float16")
    loaded = checkpoint.load(tmp_path / "half.safetensors")
    for name, tensor in loaded.state_dict().items():
        original = model.state_dict()[name]
        if tensor.is_floating_point():
            assert tensor.dtype == torch.float32
            original = original if "running_" in name else original.half().float()
        assert torch.equal(tensor, original), name
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]


def test_equal_tensors_are_stored_once_and_loaded_apart(tmp_path: Path) -> None:
    model = MIP(MIPOptions.from_dict(SMALL))
    path = tmp_path / "fresh.safetensors"
    checkpoint.save(model, path)
    loaded = checkpoint.load(path)
    assert len(safetensors.torch.load_file(path)) < len(model.state_dict()) / 2
    first, second = loaded.necks[0].weight, loaded.necks[1].weight
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    assert first.data_ptr() != second.data_ptr()


def test_metadata_says_what_the_file_is(tmp_path: Path) -> None:
    model = small(cameras=1)
    path = tmp_path / "model.safetensors"
    training = {"data": "synthetic people", "identities": 3000, "seed": 1}
    cameras = [{"name": "gate", "modality": "visible"}]
    checkpoint.save(model, path, training=training, cameras=cameras, min_similarity=0.55)
    assert checkpoint.read_metadata(path) == {
        "format": "mip-edge checkpoint",
        "version": 1,
        "code_version": __version__,
        "options": model.options.to_dict(),
        "preprocessing": {"channels": "RGB", "mean": 0.5, "std": 0.5, "resize": "bilinear"},
        "cameras": cameras,
        "training": training,
        "min_similarity": 0.55,
    }


def test_fingerprint_changes_with_a_weight_and_with_an_option() -> None:
    model = small()
    before = checkpoint.fingerprint(model)
    assert len(before) == 64
    assert before == checkpoint.fingerprint(small())
    assert before != checkpoint.fingerprint(small(neck="after"))
    with torch.no_grad():
        model.cls_token[0, 0, 0] += 1e-3
    assert before != checkpoint.fingerprint(model)


def test_a_start_takes_another_size_stride_and_classes(tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    source = small(classes=3, cameras=2, iael=True)
    checkpoint.save(source, path)
    target = small(image_size=(96, 48), stride=16, classes=5, instance_queries="learnable")
    random = target.classifiers[0].weight.clone()  # type: ignore[operator]
    kept = checkpoint.initialize(target, path)
    assert {name.split(".")[0] for name in kept} == {"necks", "classifiers", "instance_prompts"}
    assert "instance_prompts.queries" in kept
    assert torch.equal(target.classifiers[0].weight, random)  # type: ignore[arg-type]
    assert torch.equal(target.modality_prompts.library, source.modality_prompts.library)
    assert target.pos_embed.shape == (1, 1 + 6 * 3, 32)
    assert torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])


def test_the_shipped_checkpoint_is_the_network_it_always_was() -> None:
    asset = Path(checkpoint.__file__).parent / "assets" / "mip_tiny_synthetic.safetensors"
    assert checkpoint.fingerprint(checkpoint.load(asset)) == (
        "9d01716c6b84334793456cdaa8dd7dea4a516aa89bdc782e8fe9466f799b53ba"
    )


@pytest.mark.parametrize("part", ["modality_prompts", "instance_prompts", "instance_row"])
def test_a_part_that_only_one_of_both_has_keeps_its_start(tmp_path: Path, part: str) -> None:
    path = tmp_path / "start.safetensors"
    whole = {"classes": 3, "iael": part == "instance_row", "iael_block": part == "instance_row"}
    lesser = {**whole, "iael_block": False} if part == "instance_row" else {**whole, part: False}
    source = small(**whole)
    checkpoint.save(source, path)
    assert checkpoint.initialize(target := small(**lesser), path) == []
    assert torch.equal(target.cls_token, source.cls_token)
    assert not [name for name in target.state_dict() if name.startswith(part)]

    checkpoint.save(small(**lesser), path)
    target = small(**whole)
    start = {name: one.clone() for name, one in target.state_dict().items()}
    kept = checkpoint.initialize(target, path)
    assert kept == [name for name in start if name.startswith(f"{part}.")]
    assert kept
    assert all(torch.equal(target.state_dict()[name], start[name]) for name in kept)


def test_a_network_without_prompts_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "baseline.safetensors"
    model = small(modality_prompts=False, instance_prompts=False)
    checkpoint.save(model, path)
    loaded = checkpoint.load(path)
    assert loaded.options == model.options
    assert torch.equal(embed(loaded), embed(model))
    assert checkpoint.fingerprint(loaded) == checkpoint.fingerprint(model)


def test_a_start_of_the_same_network_is_the_network(saved: Path) -> None:
    target = MIP(MIPOptions.from_dict({**SMALL, "cameras": 2, "classes": 3})).eval()
    assert checkpoint.initialize(target, saved) == []
    assert torch.equal(embed(target), embed(checkpoint.load(saved)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 4}, "it has 2 heads, this model 4"),
        ({"width": 64}, r"'cls_token' has the shape \(1, 1, 32\), expected \(1, 1, 64\)"),
        ({"depth": 5}, "'blocks.2.norm1.weight' is missing"),
        ({"prompt_length": 4}, "'modality_prompts.library' has the shape"),
    ],
)
def test_a_start_of_another_network_is_refused(
    saved: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(CheckpointError, match=words):
        checkpoint.initialize(small(**changes), saved)


def write_text(path: Path) -> None:
    path.write_text("these are no weights, though the name says so")


def write_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def write_other_kind(path: Path) -> None:
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, {"format": "pt"})


def write_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def write_empty(path: Path) -> None:
    path.write_bytes(b"")


def write_reshaped(path: Path) -> None:
    def change(tensors: dict[str, Tensor], record: dict[str, object]) -> None:
        tensors["pos_embed"] = tensors["pos_embed"][:, :-1].clone()

    rewrite(path, change)


def write_missing(path: Path) -> None:
    rewrite(path, lambda tensors, record: tensors.__delitem__("cls_token"))


def write_unknown(path: Path) -> None:
    rewrite(path, lambda tensors, record: tensors.__setitem__("extra", torch.zeros(1)))


def write_newer(path: Path) -> None:
    rewrite(path, lambda tensors, record: record.__setitem__("version", 2))


def write_bad_option(path: Path) -> None:
    rewrite(path, lambda tensors, record: record["options"].__setitem__("heads", 5))  # type: ignore[attr-defined]


def write_no_options(path: Path) -> None:
    rewrite(path, lambda tensors, record: record.__delitem__("options"))


def write_bad_alias(path: Path) -> None:
    rewrite(path, lambda tensors, record: record.__setitem__("aliases", {"cls_token": "gone"}))


def write_bad_aliases(path: Path) -> None:
    rewrite(path, lambda tensors, record: record.__setitem__("aliases", ["cls_token"]))


def write_integers(path: Path) -> None:
    def change(tensors: dict[str, Tensor], record: dict[str, object]) -> None:
        tensors["cls_token"] = tensors["cls_token"].to(torch.int32)

    rewrite(path, change)


def write_huge(path: Path) -> None:
    rewrite(path, lambda tensors, record: record["options"].__setitem__("width", 2**22))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "is not a file"),
        (write_folder, "is not a file"),
        (write_text, "is no whole safetensors file"),
        (write_empty, "is no whole safetensors file"),
        (write_truncated, "is no whole safetensors file"),
        (write_other_kind, "safetensors file of another kind"),
        (write_reshaped, r"'pos_embed' has the shape \(1, 10, 32\), expected \(1, 11, 32\)"),
        (write_missing, "'cls_token' is missing"),
        (write_unknown, "'extra' is not of this model"),
        (write_newer, "format version 2, this mip-edge reads 1"),
        (write_bad_option, "width 32 cannot be divided among 5 heads"),
        (write_no_options, "no model options"),
        (write_bad_alias, "'gone' is missing"),
        (write_bad_aliases, "alias table"),
        (write_integers, "'cls_token' has the type torch.int32, expected torch.float32"),
        (write_huge, "has the shape"),
    ],
)
def test_a_spoilt_file_is_refused_in_one_line(
    saved: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(saved)
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoint.load(saved)
    assert "\n" not in str(caught.value)
    assert saved.name in str(caught.value)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken.safetensors").mkdir()
    for path, words in (
        (tmp_path / "nowhere" / "model.safetensors", "cannot be written: .*No such file"),
        (tmp_path / "taken.safetensors", "cannot be written"),
        (tmp_path / "model.pth", "must end in .safetensors"),
    ):
        with pytest.raises(OutputError, match=words):
            checkpoint.save(small(), path)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.safetensors"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        checkpoint.save(small(), tmp_path / "model.safetensors")


def test_a_full_disk_leaves_the_old_file_and_no_part(saved: Path) -> None:
    before = saved.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(OutputError, match=os.strerror(errno.EFBIG)):
            checkpoint.save(small(), saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dtype": "int8"}, "dtype must be one of float32, float16, got 'int8'"),
        ({"training": {"data": object()}}, "training record is no plain JSON"),
        ({"training": {"rank1": float("nan")}}, "training record is no plain JSON"),
        ({"cameras": [{"name": "a", "modality": "visible"}]}, "1 cameras are named, .* knows 2"),
        ({"cameras": [{"name": "a", "modality": "thermal"}] * 2}, "visible or infrared"),
        ({"cameras": [{"name": "a"}] * 2}, "needs a name and a modality"),
    ],
)
def test_a_record_that_cannot_be_is_refused(
    tmp_path: Path, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        checkpoint.save(small(cameras=2), tmp_path / "model.safetensors", **arguments)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_a_weight_beyond_float16_is_named(tmp_path: Path) -> None:
    model = small()
    with torch.no_grad():
        model.cls_token[0, 0, 0] = 1e6
    with pytest.raises(CheckpointError, match="'cls_token' holds values beyond float16"):
        checkpoint.save(model, tmp_path / "model.safetensors", dtype="float16")


# Weights of other programmes


@pytest.fixture
def official_state() -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(OFFICIAL, weights_only=True)
    return state


def import_changed(state: dict[str, Tensor], folder: Path, **arguments: object) -> MIP:
    path = folder / "official.pth"
    torch.save(state, path)
    return checkpoint.import_official(path, (64, 32), 12, **arguments)  # type: ignore[arg-type]


def with_extra_block(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the published code saves it when it trained with IPIL_SIMPLE off."""
    extra = {
        name.replace(theirs, ours): tensor + 0.01
        for theirs, ours in (("b1.0.", "b3.0."), ("b1.1.", "b3.1."))
        for name, tensor in state.items()
        if name.startswith(theirs)
    }
    return {**state, **extra, "zero_token": torch.full((1, 1, 48), 0.5)}


def test_an_official_file_gives_the_extra_block_of_iael(
    official_state: dict[str, Tensor], tmp_path: Path
) -> None:
    state = with_extra_block(official_state)
    ours = import_changed(state, tmp_path, iael=True, iael_block=True).state_dict()
    assert torch.equal(ours["instance_row.token"], state["zero_token"])
    value = state["b3.0.attn.qkv.bias"][2 * 48 :]
    assert torch.equal(ours["instance_row.block.attn.v.bias"], value)
    assert torch.equal(ours["instance_row.block.mlp.fc2.weight"], state["b3.0.mlp.fc2.weight"])
    assert torch.equal(ours["instance_row.norm.weight"], state["b3.1.weight"])
    for name in ("b3.1.bias", "b3.0.norm1.weight", "zero_token"):
        with pytest.raises(CheckpointError, match=f"official.pth: '{name}' is missing"):
            import_changed(
                {key: one for key, one in state.items() if key != name},
                tmp_path,
                iael=True,
                iael_block=True,
            )


def test_an_official_file_needs_no_key_that_a_test_does_not(
    official_state: dict[str, Tensor], tmp_path: Path
) -> None:
    unused = (
        "base.blocks.10.",
        "base.blocks.11.",
        "base.norm",
        "base.fc",
        "base.prompt_adapters",
        "classifier",
        "bottlenecks_ins",
        "zero_token",
        "base.prompt_embed.",
        "base.sie_embed",
    )
    bare = {
        name: tensor
        for name, tensor in official_state.items()
        if not name.startswith(unused) and name != "base.prompt_embed"
    }
    model = import_changed(bare, tmp_path)
    assert model.options.classes == 0
    assert model.options.cameras == 0
    whole = checkpoint.import_official(OFFICIAL, (64, 32), 12)
    assert whole.options.classes == 7
    assert whole.options.cameras == 6
    assert torch.equal(embed(model), embed(whole))


@pytest.mark.parametrize(
    "name",
    [
        "base.cls_token",
        "base.prompt_embeddings",
        "base.deep_prompt_embeddings",
        "base.blocks.9.attn.qkv.bias",
        "base.instance_prompt_generator.mlp.fc2.weight",
        "b2.1.weight",
        "bottleneck_3.running_mean",
        "classifier_4.weight",
    ],
)
def test_a_key_that_an_official_file_lacks_is_named(
    official_state: dict[str, Tensor], tmp_path: Path, name: str
) -> None:
    del official_state[name]
    with pytest.raises(CheckpointError, match=f"official.pth: '{name}' is missing"):
        import_changed(official_state, tmp_path)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("base.pos_embed", (1, 12, 48), r"'pos_embed' has the shape \(1, 12, 48\), expected"),
        ("base.blocks.3.mlp.fc1.bias", (3,), r"'blocks.3.mlp.fc1.bias' has the shape \(3,\)"),
        ("base.blocks.3.attn.qkv.weight", (143, 48), "'base.blocks.3.attn.qkv.weight' has the"),
        ("base.prompt_embeddings", (16, 48), "expected 3 dimensions"),
        ("base.sie_embed", (6, 48), "'sie_embed' has the shape"),
    ],
)
def test_a_wrong_shape_in_an_official_file_is_named(
    official_state: dict[str, Tensor],
    tmp_path: Path,
    name: str,
    shape: tuple[int, ...],
    words: str,
) -> None:
    official_state[name] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=words):
        import_changed(official_state, tmp_path)


def test_an_official_file_at_another_stride_is_refused() -> None:
    with pytest.raises(
        CheckpointError, match=r"'pos_embed' .*\(1, 11, 48\), expected \(1, 9, 48\)"
    ):
        checkpoint.import_official(OFFICIAL, (64, 32), 16)


class Danger:
    """What a pickle could run."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("false",))


@pytest.mark.parametrize("content", ["pickle", "text", "empty", "truncated", "list", "absent"])
def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "weights.pth"
    match content:
        case "pickle":
            torch.save({"state_dict": Danger()}, path)
        case "text":
            path.write_text("no weights")
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(OFFICIAL.read_bytes()[:5000])
        case "list":
            torch.save([torch.zeros(1)], path)
    for attempt in (
        lambda: checkpoint.import_official(path),
        lambda: checkpoint.load_vit_weights(small(), path),
    ):
        with pytest.raises(CheckpointError, match="weights.pth") as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert "weights_only" not in str(caught.value)  # torch's advice is to unpickle it all


@pytest.mark.parametrize("name", ["state.pt", "mip_sysu.pth"])
def test_a_pickled_checkpoint_is_told_what_it_becomes_one_by(tmp_path: Path, name: str) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"best.safetensors .*import_official and save$"):
        checkpoint.load(tmp_path / name)


def timm_state(width: int = 32, depth: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(9)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    state = {
        "cls_token": random(1, 1, width),
        "pos_embed": random(1, 1 + 14 * 14, width),
        "patch_embed.proj.weight": random(width, 3, 16, 16),
        "patch_embed.proj.bias": random(width),
        "norm.weight": random(width),
        "norm.bias": random(width),
        "head.weight": random(1000, width),
        "head.bias": random(1000),
    }
    sizes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    sizes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for layer in range(depth):
        for name, (rows, columns) in sizes.items():
            state[f"blocks.{layer}.{name}.weight"] = random(rows, columns)
            state[f"blocks.{layer}.{name}.bias"] = random(rows)
        for name in ("norm1", "norm2"):
            state[f"blocks.{layer}.{name}.weight"] = random(width)
            state[f"blocks.{layer}.{name}.bias"] = random(width)
    return state


HUGGING_FACE = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def hugging_face_state(timm: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    state = {
        f"{prefix}embeddings.cls_token": timm["cls_token"],
        f"{prefix}embeddings.position_embeddings": timm["pos_embed"],
        f"{prefix}pooler.dense.weight": torch.zeros(3, 3),
    }
    for parameter in ("weight", "bias"):
        patch = f"{prefix}embeddings.patch_embeddings.projection.{parameter}"
        state[patch] = timm[f"patch_embed.proj.{parameter}"]
        state[f"{prefix}layernorm.{parameter}"] = timm[f"norm.{parameter}"]
        for layer in range(4):
            theirs, ours = f"{prefix}encoder.layer.{layer}", f"blocks.{layer}"
            for name, there in HUGGING_FACE.items():
                state[f"{theirs}.{there}.{parameter}"] = timm[f"{ours}.{name}.{parameter}"]
            maps = timm[f"{ours}.attn.qkv.{parameter}"].chunk(3)
            for name, one in zip(("query", "key", "value"), maps, strict=True):
                state[f"{theirs}.attention.attention.{name}.{parameter}"] = one.clone()
    return state


def test_a_timm_vit_starts_blocks_and_both_parts_of_the_head(tmp_path: Path) -> None:
    state, model = timm_state(), small()
    generator = model.instance_prompts.block.mlp.fc1.weight.clone()
    torch.save({"state_dict": state}, tmp_path / "vit.pth")
    checkpoint.load_vit_weights(model, tmp_path / "vit.pth")
    ours = model.state_dict()
    for layer, names in ((1, ["blocks.1"]), (3, ["head.global_block", "head.local_block"])):
        query = state[f"blocks.{layer}.attn.qkv.weight"][:32]
        value = state[f"blocks.{layer}.attn.qkv.bias"][64:]
        for name in names:
            assert torch.equal(ours[f"{name}.attn.q.weight"], query)
            assert torch.equal(ours[f"{name}.attn.v.bias"], value)
    assert torch.equal(ours["head.local_norm.weight"], state["norm.weight"])
    assert torch.equal(ours["pos_embed"][:, 0], state["pos_embed"][:, 0])
    grid = state["pos_embed"][:, 1:].reshape(1, 14, 14, 32).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(grid, (5, 2), mode="bilinear")
    assert torch.equal(ours["pos_embed"][0, 1:], resized.flatten(2)[0].T)
    assert torch.equal(model.instance_prompts.block.mlp.fc1.weight, generator)
    checkpoint.load_vit_weights(model, tmp_path / "vit.pth", instance_prompts_from_block0=True)
    weight = model.instance_prompts.block.mlp.fc1.weight
    assert torch.equal(weight, state["blocks.0.mlp.fc1.weight"])


def test_a_vit_starts_the_extra_block_of_iael_too(tmp_path: Path) -> None:
    state, model = timm_state(), small(classes=2, iael=True, iael_block=True)
    torch.save(state, tmp_path / "vit.pth")
    checkpoint.load_vit_weights(model, tmp_path / "vit.pth")
    ours = model.state_dict()
    last = state["blocks.3.attn.qkv.weight"].chunk(3)
    assert all(
        torch.equal(ours[f"instance_row.block.attn.{name}.weight"], one)
        for name, one in zip("qkv", last, strict=True)
    )
    assert torch.equal(ours["instance_row.norm.bias"], state["norm.bias"])


def test_a_vit_starts_a_network_without_prompts(tmp_path: Path) -> None:
    state, model = timm_state(), small(modality_prompts=False, instance_prompts=False)
    torch.save(state, tmp_path / "vit.pth")
    checkpoint.load_vit_weights(model, tmp_path / "vit.pth")
    assert torch.equal(model.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])
    with pytest.raises(CheckpointError, match="vit.pth.*from block 0: this model has none"):
        checkpoint.load_vit_weights(model, tmp_path / "vit.pth", instance_prompts_from_block0=True)


@pytest.mark.parametrize("prefix", ["", "vit."])
def test_a_hugging_face_vit_gives_the_same_network(tmp_path: Path, prefix: str) -> None:
    timm = timm_state()
    safetensors.torch.save_file(timm, tmp_path / "timm.safetensors")
    safetensors.torch.save_file(hugging_face_state(timm, prefix), tmp_path / "hf.safetensors")
    models = []
    for name in ("timm", "hf"):
        models.append(small())
        checkpoint.load_vit_weights(models[-1], tmp_path / f"{name}.safetensors")
    assert torch.equal(embed(models[0]), embed(models[1]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cls_token": None}, "no 'cls_token' is in it"),
        ({"blocks.1.norm2.bias": None}, "'blocks.1.norm2.bias' is missing"),
        ({"blocks.3.mlp.fc1.bias": None}, "'blocks.3.mlp.fc1.bias' is missing"),
        ({"norm.weight": None}, "'norm.weight' is missing"),
        ({"pos_embed": (1, 12, 32)}, "11 patches, which are no square"),
        ({"patch_embed.proj.weight": (32, 3, 8, 8)}, r"\(32, 3, 8, 8\), expected \(32, 3, 16, 16"),
        ({"blocks.0.attn.qkv.weight": (95, 32)}, "is not three maps in one"),
        ({"cls_token": (1, 1, 48)}, r"'cls_token' has the shape \(1, 1, 48\)"),
    ],
)
def test_what_a_vit_lacks_is_named(
    tmp_path: Path, change: dict[str, tuple[int, ...] | None], words: str
) -> None:
    state = timm_state()
    for name, shape in change.items():
        del state[name]
        if shape is not None:
            state[name] = torch.zeros(shape)
    torch.save(state, tmp_path / "vit.pth")
    model = small()
    before = checkpoint.fingerprint(model)
    with pytest.raises(MipEdgeError, match=words):
        checkpoint.load_vit_weights(model, tmp_path / "vit.pth")
    assert checkpoint.fingerprint(model) == before
