"""`embed` and `search`: image files to an .npz, and queries to ranked lists."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from engines.fake import FakeEngine
from mip_edge.cli import cli
from mip_edge.data.image import read_image, write_image
from mip_edge.embedder import Embedder
from mip_edge.embedding import StoredEmbeddings, collect_images, embed_files, embed_images
from mip_edge.errors import DatasetError, GalleryError, ImageError, OptionError, OutputError
from mip_edge.search import SearchOptions, search_images
from mip_edge.spec import EmbedderSpec, Modality

OPTIONS = SearchOptions(Modality.VISIBLE, Modality.VISIBLE, top=2)


def fake_embedder(fingerprint: str = "a" * 64) -> Embedder:
    """Equal crops of one modality give equal embeddings, others are at random."""
    specs = {modality: EmbedderSpec(modality, 32, 16, 64, fingerprint) for modality in Modality}
    engines = {modality: FakeEngine(spec) for modality, spec in specs.items()}
    return Embedder(specs, engines=engines)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six images in folders of different depth; `query.png` equals `c/3.png`."""
    rng = np.random.default_rng(0)
    for name in ("0.png", "1.png", "b/2.png", "c/3.png", "c/d/4.png", "c/d/5.png"):
        path = tmp_path / "gallery" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, rng.integers(0, 256, (32, 16, 3), dtype=np.uint8))
    (tmp_path / "query.png").write_bytes((tmp_path / "gallery/c/3.png").read_bytes())
    return tmp_path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """Every model opens as the fake; gives the options that were asked for."""
    calls: list[dict[str, object]] = []

    def open_fake(path: Path, **options: object) -> Embedder:
        calls.append(options)
        return fake_embedder()

    monkeypatch.setattr("mip_edge.embedding.Embedder.open", open_fake)
    return calls


def run(*arguments: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    return done.exit_code, done.stdout, done.stderr


def test_batches_change_nothing(images: Path) -> None:
    paths = collect_images([images / "gallery"])
    one, all_at_once = (
        embed_files(fake_embedder(), paths, Modality.VISIBLE, batch=batch) for batch in (1, 99)
    )
    np.testing.assert_array_equal(one, all_at_once)
    assert embed_files(fake_embedder(), [], Modality.VISIBLE).shape == (0, 64)
    with pytest.raises(OptionError, match="--batch must be at least 1, got 0"):
        embed_files(fake_embedder(), paths, Modality.VISIBLE, batch=0)


def test_files_and_folders_are_collected_once_each(images: Path) -> None:
    single = images / "gallery/b/2.png"
    paths = collect_images([single, images / "gallery", images / "query.png"])
    assert paths[0] == single
    assert [path.stem for path in paths] == ["2", "0", "1", "3", "4", "5", "query"]


def test_what_holds_no_image_is_refused(images: Path) -> None:
    (images / "empty").mkdir()
    (images / "notes.txt").touch()
    with pytest.raises(DatasetError, match="empty holds no images"):
        collect_images([images / "empty"])
    with pytest.raises(ImageError, match="notes.txt is no image by its name"):
        collect_images([images / "notes.txt"])
    with pytest.raises(ImageError, match="does not exist"):
        collect_images([images / "nowhere.png"])


def test_the_same_image_is_found_first_with_similarity_one(images: Path) -> None:
    (ranked,) = search_images(fake_embedder(), [images / "query.png"], images / "gallery", OPTIONS)
    assert ranked.answers[0].path == str(images / "gallery/c/3.png")
    assert ranked.answers[0].similarity == pytest.approx(1.0, abs=1e-6)
    assert len(ranked.answers) == 2
    assert ranked.answers[0].similarity > ranked.answers[1].similarity


def test_a_stored_gallery_answers_as_its_folder(images: Path) -> None:
    stored = embed_images(fake_embedder(), [images / "gallery"], Modality.VISIBLE)
    stored.save(images / "gallery.npz")
    asked = [images / "query.png"]
    from_folder = search_images(fake_embedder(), asked, images / "gallery", OPTIONS)
    modality_of_file = SearchOptions(Modality.VISIBLE, top=2)
    assert from_folder == search_images(
        fake_embedder(), asked, images / "gallery.npz", modality_of_file
    )


def test_the_gallery_is_of_the_other_light_unless_said(images: Path) -> None:
    options = SearchOptions(Modality.VISIBLE, top=6)
    (ranked,) = search_images(fake_embedder(), [images / "query.png"], images / "gallery", options)
    assert ranked.answers[0].similarity < 0.9


def test_a_gallery_of_another_model_or_light_is_refused(images: Path) -> None:
    path = images / "gallery.npz"
    embed_images(fake_embedder("b" * 64), [images / "gallery"], Modality.INFRARED).save(path)
    with pytest.raises(GalleryError, match=r"made by model bbbbbbbbbbbb.*embedded by aaaaaaaaaaaa"):
        search_images(fake_embedder(), [images / "query.png"], path, OPTIONS)
    with pytest.raises(OptionError, match="holds infrared embeddings, --gallery-modality says"):
        search_images(fake_embedder("b" * 64), [images / "query.png"], path, OPTIONS)


def test_a_file_of_another_kind_or_a_truncated_one_is_refused(images: Path) -> None:
    path = images / "gallery.npz"
    embed_images(fake_embedder(), [images / "gallery"], Modality.VISIBLE).save(path)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(GalleryError, match="make it anew"):
            StoredEmbeddings.load(path)
    np.savez(path, something=np.zeros(3))
    with pytest.raises(GalleryError, match="make it anew"):
        StoredEmbeddings.load(path)


def test_pickles_are_never_opened(images: Path) -> None:
    path = images / "gallery.npz"
    evil = np.array([{"an": "object"}], dtype=object)
    np.savez(path, embeddings=evil, paths=evil, modality="visible", fingerprint="x")
    with pytest.raises(GalleryError, match="allow_pickle=False"):
        StoredEmbeddings.load(path)


def test_a_failed_save_leaves_nothing(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = embed_images(fake_embedder(), [images / "query.png"], Modality.VISIBLE)

    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", no_space)
    with pytest.raises(OutputError, match="No space left"):
        stored.save(images / "out.npz")
    assert not list(images.glob("*out.npz*"))


def test_the_embed_command_writes_what_it_says(
    images: Path, opened: list[dict[str, object]]
) -> None:
    output = images / "out.npz"
    call = ("embed", images, images / "gallery", "--modality", "infrared", "-o", output)
    code, text, errors = run(*call)
    assert code == 0, errors
    assert text == f"{output}: 6 infrared embeddings of 64 numbers, model aaaaaaaaaaaa\n"
    with np.load(output, allow_pickle=False) as stored:
        assert sorted(stored.files) == ["embeddings", "fingerprint", "modality", "paths"]
        assert stored["embeddings"].shape == (6, 64)
        assert str(stored["modality"]) == "infrared"
        assert str(stored["paths"][0]) == str(images / "gallery/0.png")

    code, _, errors = run(*call)
    assert code == 1
    assert "--overwrite" in errors
    code, text, _ = run(*call, "--overwrite", "--json", "--precision", "fp16", "--share-weights")
    assert code == 0
    assert json.loads(text)["embeddings"] == 6
    plain = {"engine": "onnxruntime", "precision": "fp32", "share_weights": False}
    assert opened == [plain, {**plain, "precision": "fp16", "share_weights": True}]


def test_the_search_command_prints_the_ranked_list_and_draws_it(
    images: Path, opened: list[dict[str, object]]
) -> None:
    picture = images / "ranked.png"
    call: Sequence[str | Path] = (
        "search", images, images / "query.png", images / "gallery/0.png", images / "gallery",
        "--query-modality", "visible", "--gallery-modality", "visible", "--top", "3",
    )  # fmt: skip
    code, text, errors = run(*call, "--picture", picture)
    assert code == 0, errors
    assert f"    1  +1.000  {images / 'gallery/c/3.png'}" in text
    assert read_image(picture).shape[2] == 3

    code, text, _ = run(*call, "--json", "--precision", "fp16")
    assert [options["precision"] for options in opened] == ["fp32", "fp16"]
    ranked = json.loads(text)
    assert code == 0
    assert [len(one["answers"]) for one in ranked] == [3, 3]
    assert ranked[1]["query"] == ranked[1]["answers"][0]["path"]


def test_one_broken_image_ends_the_command_without_output(
    images: Path, opened: list[dict[str, object]]
) -> None:
    (images / "gallery/b/2.png").write_bytes(b"")
    output = images / "out.npz"
    code, _, errors = run(
        "embed", images, images / "gallery", "--modality", "visible", "-o", output
    )
    assert code == 1
    assert "2.png is empty" in errors
    assert not list(images.glob("*out.npz*"))
