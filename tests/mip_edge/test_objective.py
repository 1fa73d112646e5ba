"""The objective: one gradient, however the batch is divided; and what a teacher adds."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mip_edge.data.augment import normalize
from mip_edge.model.distill import logits_loss, relation_loss
from mip_edge.model.losses import Losses, losses
from mip_edge.model.mip import MIP, TrainOutput
from mip_edge.model.options import MIPOptions
from mip_edge.objective import Objective, ObjectiveOptions, Teacher, fit
from mip_edge.preprocess import prepare
from mip_edge.spec import EmbedderSpec, Modality

IDENTITIES, IMAGES = 4, 2


def network(seed: int = 3, **changes: object) -> MIP:
    torch.manual_seed(seed)
    options = {
        "width": 12,
        "heads": 3,
        "depth": 4,
        "image_size": (32, 32),
        "stride": 16,
        "prompt_length": 2,
        "cameras": 2,
        "classes": 5,
        "iael": True,
        "instance_queries": "learnable",
        "drop_path": 0.0,
        "prompt_dropout": 0.0,
        **changes,
    }
    model = MIP(MIPOptions(**options))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def lesson() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Images, modality, camera, labels, modality: 4 identities x (2 infrared + 2 visible)."""
    generator = torch.Generator().manual_seed(5)
    count = 2 * IDENTITIES * IMAGES
    images = torch.randn(count, 3, 32, 32, generator=generator)
    labels = torch.arange(IDENTITIES).repeat_interleave(IMAGES).repeat(2)
    modality = torch.arange(2).repeat_interleave(count // 2)
    return images, modality, modality, labels, modality


def gradients(objective: Objective, batch: tuple[Tensor, ...]) -> tuple[Losses, dict[str, Tensor]]:
    objective.zero_grad()
    found = Losses(*objective.train()(*batch, True))
    found.total.backward()  # type: ignore[no-untyped-call]
    named = objective.model.named_parameters()
    return found, {name: one.grad for name, one in named if one.grad is not None}


def assert_equal_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    largest = max(float(one.abs().max()) for one in wanted.values())
    for name, gradient in wanted.items():
        assert float((found[name] - gradient).abs().max()) <= 2e-6 * max(1.0, largest), name


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_a_batch_in_parts_has_the_loss_and_gradient_of_the_whole(parts: int) -> None:
    whole, wanted = gradients(Objective(network(), ObjectiveOptions()), lesson())
    in_parts, found = gradients(Objective(network(), ObjectiveOptions(accumulate=parts)), lesson())
    torch.testing.assert_close(in_parts.total, whole.total)
    assert_equal_gradients(found, wanted)


def test_parts_draw_the_same_random_numbers_forwards_and_backwards() -> None:
    model = network(prompt_dropout=0.5, drop_path=0.5)
    objective = Objective(model, ObjectiveOptions(accumulate=4))
    results = []
    for _ in range(2):
        torch.manual_seed(8)
        results.append(gradients(objective, lesson())[1])
    for name, gradient in results[0].items():
        assert torch.equal(gradient, results[1][name]), name


SCRIPT = """
import sys
import torch
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, sys.argv[1])
from test_objective import IDENTITIES, IMAGES, lesson, network
from mip_edge.model.losses import Losses
from mip_edge.objective import Objective, ObjectiveOptions
from mip_edge.processes import open_processes
torch.set_num_threads(1)
with open_processes(torch.device("cpu")) as processes:
    shares = processes.own_rows(IDENTITIES, IMAGES)
    own = shares[processes.rank]
    everyone = [row for share in shares for row in share]
    images, modality, camera, labels, _ = lesson()
    objective = Objective(network(), ObjectiveOptions(gather=True, accumulate=int(sys.argv[3])))
    parallel = DistributedDataParallel(objective, find_unused_parameters=True).train()
    batch = (images[own], modality[own], camera[own], labels[everyone], modality[everyone])
    found = Losses(*parallel(*batch, True))
    found.total.backward()
    named = {name: one.grad for name, one in objective.model.named_parameters()
             if one.grad is not None}
    necks = {name: one for name, one in objective.model.named_buffers() if "running" in name}
    torch.save((float(found.total), named, necks), f"{sys.argv[2]}/{processes.rank}.pt")
"""


@pytest.mark.parametrize("parts", [1, 2])
def test_two_processes_have_the_gradients_of_one_on_the_same_batch(
    tmp_path: Path, parts: int
) -> None:
    whole_model = Objective(network(), ObjectiveOptions())
    whole, wanted = gradients(whole_model, lesson())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "run.py").write_text(SCRIPT)
    here = str(Path(__file__).parent)
    running = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "run.py"), here, str(tmp_path), str(parts)],
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    for rank in range(2):
        total, found, necks = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert total == pytest.approx(float(whole.total.detach()), rel=1e-5)
        assert_equal_gradients(found, wanted)
        for name, statistic in whole_model.model.named_buffers():
            if "running" in name:
                torch.testing.assert_close(necks[name], statistic, msg=name)


def test_label_smoothing_gives_its_share_to_all_identities() -> None:
    scores = [torch.tensor([[2.0, 0.0, -1.0]])] * 5
    output = TrainOutput(scores, [torch.zeros(1, 2)] * 5)
    label, modality = torch.tensor([0]), torch.tensor([0])
    plain, smooth = (
        losses(output, label, modality, msel=False, label_smoothing=share).identity
        for share in (0.0, 0.3)
    )
    logs = scores[0].log_softmax(dim=1)
    torch.testing.assert_close(plain, -logs[0, 0])
    torch.testing.assert_close(smooth, -(0.7 * logs[0, 0] + 0.3 * logs.mean()))


def test_similarities_like_the_teachers_cost_nothing_and_others_do() -> None:
    wide = torch.nn.functional.normalize(torch.randn(6, 9), dim=1)
    turned = wide @ torch.linalg.qr(torch.randn(9, 9)).Q
    assert float(relation_loss(turned, wide)) == pytest.approx(0, abs=1e-4)
    assert float(relation_loss(wide.flip(0), wide)) > 0.01


def test_scores_like_the_teachers_cost_nothing_and_a_shift_of_all_is_no_difference() -> None:
    scores = [torch.randn(4, 3) for _ in range(5)]
    assert float(logits_loss(scores, [one + 7 for one in scores])) == pytest.approx(0, abs=1e-5)
    assert float(logits_loss(scores, [-one for one in scores])) > 0.01


def test_a_teacher_adds_its_losses_and_stays_as_it_is() -> None:
    teacher = network(seed=4, width=24, classes=7)
    before = {name: one.clone() for name, one in teacher.state_dict().items()}
    columns = torch.tensor([6, 0, 2, 4, 1])
    objective = Objective(network(), ObjectiveOptions(), Teacher(teacher, columns))
    found, named = gradients(objective, lesson())
    assert float(found.relation.detach()) > 0
    assert float(found.logits.detach()) > 0
    assert not any(name.startswith("teacher") for name in named)
    assert all(torch.equal(one, before[name]) for name, one in teacher.state_dict().items())


def test_a_teacher_of_other_identities_adds_its_similarities_alone() -> None:
    objective = Objective(network(), ObjectiveOptions(), Teacher(network(seed=4), None))
    found, _ = gradients(objective, lesson())
    assert float(found.relation.detach()) > 0
    assert float(found.logits) == 0


def test_a_teacher_of_another_size_sees_the_crops_at_its_own() -> None:
    teacher = network(seed=4, image_size=(64, 32))
    objective = Objective(network(), ObjectiveOptions(), Teacher(teacher, None))
    images, *rest = lesson()
    found, _ = gradients(objective, (fit(images, (64, 32)), *rest))
    assert float(found.relation.detach()) > 0


def test_crops_come_to_a_smaller_size_as_in_use() -> None:
    crop = np.random.default_rng(2).integers(0, 256, (64, 32, 3), dtype=np.uint8)
    spec = EmbedderSpec(Modality.VISIBLE, 40, 20, dimension=1, fingerprint="")
    ours = fit(normalize(torch.from_numpy(crop[None])), (40, 20))
    theirs = normalize(torch.from_numpy(prepare([crop], spec)))
    assert float((ours - theirs).abs().max()) <= 1 / 127.5  # OpenCV rounds to whole levels
