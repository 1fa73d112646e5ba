"""Weights by name: which commit it is, is always known, and every refusal is one line."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the weights go into a network")
pytest.importorskip("huggingface_hub", reason="the extra train brings it")

import huggingface_hub
import torch
from huggingface_hub import errors
from safetensors.torch import save_file
from torch import Tensor

from mip_edge import hub
from mip_edge.checkpoint import load_vit_weights
from mip_edge.errors import CheckpointError, MipEdgeError, OptionError
from mip_edge.hub import PINNED, Pin, fetch_weights, is_hub_name
from mip_edge.model.mip import MIP
from mip_edge.model.options import MIPOptions

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONTENT = b"weights of a test"
WIDTH, DEPTH = 24, 4


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's own cache with one repository of each state that a test needs; no network."""
    for repository in ("org/plain", *PINNED):
        folder = tmp_path / f"models--{repository.replace('/', '--')}"
        commit = PINNED[repository].commit if repository in PINNED else COMMIT
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").write_bytes(CONTENT)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)
    real = functools.partial(
        huggingface_hub.hf_hub_download, cache_dir=tmp_path, local_files_only=True
    )
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", real)
    return tmp_path


def refusing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)


def answered(kind: type[errors.HfHubHTTPError], status: int) -> errors.HfHubHTTPError:
    """The hub's own exception, with the response of the HTTP library that it is built on."""
    bases = [base.__module__.partition(".")[0] for base in kind.__mro__]
    library = import_module(next(name for name in bases if name.startswith(("httpx", "requests"))))
    if library.__name__ == "requests":
        response = library.Response()
        response.status_code = status
    else:
        request = library.Request("GET", "https://huggingface.co/org/plain")
        response = library.Response(status, request=request)
    return kind(f"{status} from the server\nRequest ID: x", response=response)


def test_a_branch_is_resolved_to_the_commit_that_it_stands_for(cache: Path) -> None:
    fetched = fetch_weights("hf:org/plain@main")
    assert fetched.commit == COMMIT
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.record() == {
        "repository": "org/plain",
        "commit": COMMIT,
        "file": "model.safetensors",
        "licence": None,
    }


def test_a_commit_is_taken_as_it_is(cache: Path) -> None:
    assert fetch_weights(f"hf:org/plain@{COMMIT}").commit == COMMIT


def test_without_a_revision_a_pinned_repository_means_its_pinned_commit(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    digest = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setattr(hub, "PINNED", {name: Pin(PINNED[name].commit, digest)})
    fetched = fetch_weights(f"hf:{name}")
    assert (fetched.commit, fetched.licence) == (PINNED[name].commit, "Apache-2.0")


def test_a_pinned_file_with_other_bytes_is_refused(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="differs from the file of its pinned commit"):
        fetch_weights("hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")


def test_a_repository_that_is_not_pinned_wants_a_revision(cache: Path) -> None:
    with pytest.raises(OptionError, match=r"hf:org/plain@COMMIT, or @main.*pinned are: timm/"):
        fetch_weights("hf:org/plain")


@pytest.mark.parametrize("repository", PINNED)
def test_every_pin_is_a_whole_commit_and_digest(repository: str) -> None:
    pin = PINNED[repository]
    assert len(pin.commit) == 40
    assert set(pin.commit) <= set("0123456789abcdef")
    assert pin.sha256 is None or len(bytes.fromhex(pin.sha256)) == 32


@pytest.mark.parametrize("name", ["hf:", "hf:plain", "hf:a/b/c", "hf:a/b@", "hf:../b", "a/b"])
def test_a_name_that_is_none_is_told(name: str) -> None:
    with pytest.raises(OptionError, match=r"must be hf:ORG/NAME"):
        fetch_weights(name)


def test_a_file_is_not_taken_for_a_name() -> None:
    assert is_hub_name("hf:google/vit-base-patch16-224")
    assert not is_hub_name("weights/hf.safetensors")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (answered(errors.GatedRepoError, 403), "is gated: accept its terms"),
        (answered(errors.RepositoryNotFoundError, 401), "there is no https://huggingface.co/org"),
        (answered(errors.RevisionNotFoundError, 404), "has no revision v1"),
        (errors.LocalEntryNotFoundError("no network"), "cannot be reached from here"),
        (errors.OfflineModeIsEnabled("offline"), "cannot be reached from here"),
        (errors.EntryNotFoundError("404"), "in several parts or as .bin"),
        (answered(errors.HfHubHTTPError, 503), r"was refused \(503 from the server\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_refusal_is_one_line_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    refusing(monkeypatch, error)
    with pytest.raises(CheckpointError, match=expected) as told:
        fetch_weights("hf:org/plain@v1")
    message = str(told.value)
    assert "\n" not in message
    assert message.startswith("--init hf:org/plain@v1: ")
    assert "pass the file's path to --init" in message


def test_offline_says_so_at_once(tmp_path: Path) -> None:
    code = (
        "from mip_edge.hub import fetch_weights\n"
        "from mip_edge.errors import CheckpointError\n"
        "try:\n    fetch_weights('hf:google/vit-base-patch16-224')\n"
        "except CheckpointError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "the hub cannot be reached from here (or HF_HUB_OFFLINE is set)" in done.stdout
    assert done.stdout.count("\n") == 1


def test_the_hub_is_imported_only_when_it_is_asked() -> None:
    code = "import sys, mip_edge.hub; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def timm_state() -> dict[str, Tensor]:
    """Names and shapes of timm's vit_*_patch16_224, of another width."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 197, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 16, 16),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
        "head.weight": (1000, WIDTH),
        "head.bias": (1000,),
    }
    for layer in range(DEPTH):
        for name, rows, columns in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 4 * WIDTH, WIDTH),
            ("mlp.fc2", WIDTH, 4 * WIDTH),
        ):
            shapes[f"blocks.{layer}.{name}.weight"] = (rows, columns)
            shapes[f"blocks.{layer}.{name}.bias"] = (rows,)
        for name in ("norm1", "norm2"):
            shapes[f"blocks.{layer}.{name}.weight"] = (WIDTH,)
            shapes[f"blocks.{layer}.{name}.bias"] = (WIDTH,)
    generator = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def hugging_face_state(timm: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same weights as ViTModel (no prefix) or ViTForImageClassification ("vit.") names them."""
    renamed = {
        "embeddings.cls_token": timm["cls_token"],
        "embeddings.position_embeddings": timm["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": timm["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": timm["patch_embed.proj.bias"],
        "layernorm.weight": timm["norm.weight"],
        "layernorm.bias": timm["norm.bias"],
    }
    for layer in range(DEPTH):
        for kind in ("weight", "bias"):
            for theirs, ours in (
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                ("attn.proj", "attention.output.dense"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ):
                source = timm[f"blocks.{layer}.{theirs}.{kind}"]
                renamed[f"encoder.layer.{layer}.{ours}.{kind}"] = source
            fused = timm[f"blocks.{layer}.attn.qkv.{kind}"]
            for place, name in enumerate(("query", "key", "value")):
                part = fused[place * WIDTH : (place + 1) * WIDTH]
                renamed[f"encoder.layer.{layer}.attention.attention.{name}.{kind}"] = part
    state = {prefix + name: tensor for name, tensor in renamed.items()}
    if prefix:
        extra = {"classifier.weight": timm["head.weight"], "classifier.bias": timm["head.bias"]}
    else:
        square = torch.zeros(WIDTH, WIDTH)
        extra = {"pooler.dense.weight": square, "pooler.dense.bias": torch.zeros(WIDTH)}
    return state | extra


def started_from(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    torch.manual_seed(0)
    options = MIPOptions(width=WIDTH, heads=2, depth=DEPTH, image_size=(64, 32), prompt_length=2)
    model = MIP(options)
    load_vit_weights(model, path)
    return model.state_dict()


@pytest.mark.parametrize("prefix", ["", "vit."])
def test_timm_and_hugging_face_names_start_the_same_network(tmp_path: Path, prefix: str) -> None:
    timm = timm_state()
    ours = started_from(timm, tmp_path / "timm.safetensors")
    theirs = started_from(hugging_face_state(timm, prefix), tmp_path / "hf.safetensors")
    assert torch.equal(ours["cls_token"], timm["cls_token"])
    assert torch.equal(ours["blocks.0.attn.k.weight"], timm["blocks.0.attn.qkv.weight"][24:48])
    assert torch.equal(ours["head.local_norm.bias"], timm["norm.bias"])
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_a_name_that_the_weights_lack_is_told(tmp_path: Path) -> None:
    state = timm_state()
    del state["blocks.0.attn.proj.bias"]
    with pytest.raises(MipEdgeError, match=r"'blocks.0.attn.proj.bias' is missing"):
        started_from(state, tmp_path / "timm.safetensors")
