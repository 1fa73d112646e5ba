"""The rewritten network computes what the trained one computes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the wrapper is a torch module")

from export.wrapper import ExportedMIP  # noqa: E402
from mip_edge.model.mip import MIP  # noqa: E402
from mip_edge.model.options import MIPOptions  # noqa: E402
from mip_edge.spec import Modality  # noqa: E402

FLAGS = {Modality.VISIBLE: 1, Modality.INFRARED: 0}


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


@pytest.mark.parametrize("modality", list(Modality), ids=lambda modality: modality.value)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"instance_queries": "learnable"},
        {"neck": "after"},
        {"extra_block": True, "cameras": 2},
        {"stride": 16},
        {"modality_prompts": False},
        {"instance_prompts": False},
        {"modality_prompts": False, "instance_prompts": False},
        {"classes": 3, "iael": True, "iael_block": True},
        {"image_size": (64, 48), "stride": 12},  # 5 x 3 patches: odd, some left over
    ],
    ids=str,
)
def test_the_rewritten_network_gives_the_same_unit_embeddings(
    options: dict[str, object], modality: Modality
) -> None:
    model = make_model(**options)
    height, width = model.options.image_size
    camera = torch.randn(32) if model.options.cameras else None
    images = torch.randint(0, 256, (3, height, width, modality.channels), dtype=torch.uint8)
    with torch.inference_mode():
        normalised = (images.permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.5
        expected = model.double()(
            normalised.expand(-1, 3, -1, -1),
            torch.full((3,), FLAGS[modality]),
            camera_vector=None if camera is None else camera.double(),
        )
        expected = torch.nn.functional.normalize(expected, dim=1)
        embeddings = ExportedMIP(model.float(), modality, camera)(images)
    torch.testing.assert_close(embeddings.double(), expected, atol=2e-6, rtol=0)


def test_the_network_itself_is_left_as_it_is() -> None:
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    module = ExportedMIP(model, Modality.VISIBLE)
    module(torch.zeros(1, 64, 32, 3, dtype=torch.uint8))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.blocks.parameters())
