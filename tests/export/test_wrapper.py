"""The rewritten network computes what the published one computes, and it stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the wrapper is a torch module")

from export.form import SURGERIES, TRIED, Form, form_of  # noqa: E402
from export.straight import StraightExport  # noqa: E402
from export.wrapper import ExportedMIP  # noqa: E402
from mip_edge import checkpoint  # noqa: E402
from mip_edge.errors import OptionError  # noqa: E402
from mip_edge.model.mip import MIP  # noqa: E402
from mip_edge.model.options import MIPOptions  # noqa: E402
from mip_edge.model.straight import Straight  # noqa: E402
from mip_edge.spec import Modality  # noqa: E402

DATA = Path(__file__).parents[1] / "data"
EXACT = 1e-12
FORMS = {name: form for name, form in {**SURGERIES, **TRIED}.items() if form is not None}
VARIANTS = [
    {},
    {"instance_queries": "learnable"},
    {"neck": "after"},
    {"extra_block": True, "cameras": 2},
    {"stride": 16},
    {"modality_prompts": False},
    {"instance_prompts": False},
    {"modality_prompts": False, "instance_prompts": False},
    {"classes": 3, "iael": True, "iael_block": True},
    {"image_size": (64, 48)},  # 5 x 3 patches: odd, and 4 x (1 + 15 // 4) tokens in the groups
    {"image_size": (64, 40), "stride": 8},  # 7 x 4 patches: none left over
]


def make_model(**options: object) -> MIP:
    torch.manual_seed(3)
    defaults = {"width": 32, "heads": 2, "depth": 4, "image_size": (64, 32), "prompt_length": 5}
    model = MIP(MIPOptions(**{**defaults, **options})).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        for neck in model.necks:
            neck.running_mean.normal_()
            neck.running_var.uniform_(0.5, 2)
    return model


def draw(model: MIP, modality: Modality, count: int = 3) -> torch.Tensor:
    size = (count, *model.options.image_size, modality.channels)
    return torch.randint(0, 256, size, dtype=torch.uint8)


def published(model: MIP, images: torch.Tensor, modality: Modality, camera: object) -> torch.Tensor:
    """Unit embeddings by the published forward, dead work and all."""
    pixels = (images.permute(0, 3, 1, 2).to(model.pos_embed.dtype) / 255 - 0.5) / 0.5
    rows = torch.full((len(images),), modality.row)
    raw = Straight(model)(pixels.expand(-1, 3, -1, -1), rows, camera_vector=camera)
    return torch.nn.functional.normalize(raw, dim=1)


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference over the largest number."""
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_form_is_the_published_forward_in_float64(
    options: dict[str, object], form: Form
) -> None:
    model = make_model(**options).double()
    cameras = {
        one: torch.randn(32, dtype=torch.float64) if model.options.cameras else None
        for one in Modality
    }
    both = ExportedMIP(model, None, cameras, form=form, dtype=torch.float64)
    for modality in Modality:
        images = draw(model, modality)
        with torch.inference_mode():
            expected = published(model, images, modality, cameras[modality])
            module = ExportedMIP(model, modality, cameras, form=form, dtype=torch.float64)
            rows = torch.full((3,), modality.row)
            assert relative(module(images), expected) <= EXACT
            assert relative(both(images.expand(-1, -1, -1, 3), rows), expected) <= EXACT


@pytest.mark.parametrize("neck", ["before", "after"])
@pytest.mark.parametrize(("variant", "queries"), [("0", "zero"), ("1", "learnable")])
def test_the_published_network_of_the_fixture_is_rewritten_exactly(
    variant: str, queries: str, neck: str
) -> None:
    reference = {
        name: torch.from_numpy(values)
        for name, values in np.load(DATA / "mip_tiny_reference.npz").items()
    }
    model = checkpoint.import_official(DATA / "mip_tiny_state_dict.pth", (64, 32), 12, queries)
    options = MIPOptions.from_dict({**model.options.to_dict(), "neck": neck})
    changed = MIP(options)
    changed.load_state_dict(model.state_dict())
    wide = changed.eval().double()
    images, rows, cam = reference["images"], reference["modality"], reference["cam"]
    # The module takes pixels; those of the fixture are normalised already, and no whole numbers.
    pixels = (images.double() + 1) * 127.5
    official = torch.nn.functional.normalize(reference[f"emb_bugrefine{variant}_{neck}"], dim=1)
    assert wide.sie_embed is not None
    for camera in cam.unique():
        chosen = cam == camera
        vector = options.sie_coefficient * wide.sie_embed[camera, 0]
        cameras = dict.fromkeys(Modality, vector)
        with torch.inference_mode():
            module = ExportedMIP(wide, None, cameras, dtype=torch.float64)
            found = module(pixels[chosen].permute(0, 2, 3, 1), rows[chosen])
            expected = Straight(wide)(images[chosen].double(), rows[chosen], cam[chosen])
        assert relative(found, torch.nn.functional.normalize(expected, dim=1)) <= EXACT
        assert float((found - official[chosen]).abs().max()) <= 2e-6


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_the_straight_graph_is_the_published_forward(options: dict[str, object]) -> None:
    model = make_model(**options).double()
    for modality in Modality:
        images = draw(model, modality)
        with torch.inference_mode():
            expected = published(model, images, modality, None)
            assert relative(StraightExport(model, modality)(images), expected) <= EXACT


@pytest.mark.parametrize("options", [{}, {"instance_queries": "learnable"}], ids=str)
def test_in_float32_unit_embeddings_differ_by_rounding_only(options: dict[str, object]) -> None:
    model = make_model(**options)
    module = ExportedMIP(model, Modality.VISIBLE)
    images = draw(model, Modality.VISIBLE, 8)
    with torch.inference_mode():
        found = module(images)
        expected = published(model.double(), images, Modality.VISIBLE, None)
    assert float((found.double() - expected).abs().max()) <= 2e-6


@pytest.mark.parametrize("centred", [False, True])
def test_a_projection_is_the_product_with_unit_rows(centred: bool) -> None:
    model = make_model().double()
    matrix = torch.randn(160, 7, dtype=torch.float64)
    bias = torch.randn(7, dtype=torch.float64) if centred else torch.zeros(7, dtype=torch.float64)
    images = draw(model, Modality.VISIBLE)
    with torch.inference_mode():
        plain = ExportedMIP(model, Modality.VISIBLE, dtype=torch.float64)(images)
        module = ExportedMIP(
            model, Modality.VISIBLE, projection=(matrix, bias), dtype=torch.float64
        )
        expected = torch.nn.functional.normalize(plain @ matrix + bias, dim=1)
        assert module.dimension == 7
        assert relative(module(images), expected) <= EXACT


def test_a_crop_is_embedded_alike_in_any_batch() -> None:
    model = make_model(instance_queries="learnable").double()
    module = ExportedMIP(model, None, dtype=torch.float64)
    images = draw(model, Modality.VISIBLE, 4)
    rows = torch.tensor([1, 0, 0, 1])
    with torch.inference_mode():
        together = module(images, rows)
        alone = torch.cat([module(images[i : i + 1], rows[i : i + 1]) for i in range(4)])
    assert relative(together, alone) <= EXACT


def test_the_network_itself_is_left_as_it_is() -> None:
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    module = ExportedMIP(model, Modality.VISIBLE)
    module(torch.zeros(1, 64, 32, 3, dtype=torch.uint8))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.blocks.parameters())


def test_an_unknown_surgery_names_those_there_are() -> None:
    with pytest.raises(OptionError, match="must be one of full, rows, none, .*got 'some'"):
        form_of("some")
