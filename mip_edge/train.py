"""Training of MIP: the published losses, schedule and sampler, in the open."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mip_edge.data.augment import LIGHT, PUBLISHED, augment
from mip_edge.data.dataset import Sample
from mip_edge.data.sampler import IdentitySampler
from mip_edge.errors import OptionError, TrainingError
from mip_edge.journal import Journal, TrainReport
from mip_edge.model.losses import Losses
from mip_edge.model.mip import MIP
from mip_edge.model.optimizer import build_optimizer, set_learning_rates
from mip_edge.objective import Objective, ObjectiveOptions, Teacher
from mip_edge.output import write_text
from mip_edge.processes import Processes, open_processes
from mip_edge.recipe import SELECT_FROM, TrainOptions, first_difference
from mip_edge.run import resume_run, start_run
from mip_edge.start import amp_type, build_model, choose_amp, open_device, open_teacher
from mip_edge.state import Learner, load_state, save_state
from mip_edge.training_set import (
    TrainingSet,
    load_selecting_crops,
    load_training_crops,
    modality_flags,
    read_training_set,
)

logger = logging.getLogger(__name__)

NOT_FINITE = "not_finite.json"
"""Where the batch stands whose loss was not a number."""
_LOSSES = tuple(field.name for field in fields(Losses))


def train(data: Path, options: TrainOptions, folder: Path, *, resume: bool = False) -> TrainReport:
    """Train on the training part of `data`; leave checkpoints, metrics and curves in `folder`.

    best.safetensors holds the epoch with the greatest (Rank-1 + mAP) / 2 of those who select:
    validation identities, taken from the training identities, unless `options.select` says
    otherwise. A start from `init` is validated too, as epoch 0, so that a training that harms it
    is seen. With `resume` a run that was killed goes on from its last state.pt, and ends with the
    weights it would have had; on a CPU bit for bit. state.pt stays when all is done, so that the
    same call gives the report of a finished run and trains nothing: an ablation goes on by it.
    Under torchrun each process takes its share of a batch's identities, and the first one writes.
    Raises: DatasetError, CheckpointError, OptionError; TrainingError when the loss is not finite.
    """
    options = options.resolved()
    device = open_device(options)
    with open_processes(device) as processes:
        if not processes.first:
            logging.getLogger("mip_edge").setLevel(logging.ERROR)
        return _train(data, options, folder, device, processes, resume=resume)


def _train(
    data: Path,
    options: TrainOptions,
    folder: Path,
    device: torch.device,
    processes: Processes,
    *,
    resume: bool,
) -> TrainReport:
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    samples = read_training_set(data, options, rng)
    sampler = IdentitySampler(
        samples.train, identities=options.identities, images=options.images, rng=rng
    )
    shares = processes.own_rows(options.identities, options.images)
    if options.accumulate > len(shares[0]):
        raise OptionError(
            f"--accumulate {options.accumulate} is more than the {len(shares[0])} crops of a batch"
        )
    model, weights = build_model(options, names=samples.names, cameras=len(samples.cameras))
    teacher = open_teacher(options, samples)
    # a teacher of larger crops looks at them before they are made smaller for its pupil
    size = model.options.image_size
    sizes = [size] if teacher is None else [size, teacher.model.options.image_size]
    crops = load_training_crops(samples, options, max(sizes, key=math.prod))
    held_out = load_selecting_crops(samples, options, size) if processes.first else None

    model = model.to(device)
    options, state = _begin(folder, data, options, samples, model, processes, resume=resume)
    objective = _objective(model, options, device, processes, teacher)
    parallel = _parallel(objective, device, processes)
    learner = _learner(model, options, device, processes)
    optimizer, scaler = learner.optimizer, learner.scaler
    targets, modality = torch.from_numpy(samples.labels), modality_flags(samples.train)
    cameras = samples.camera_rows(samples.train)
    augmentation = PUBLISHED if options.augmentation == "published" else LIGHT
    augmentation = replace(augmentation, channels=options.channels)
    record = _record(data, options, samples, weights=weights, teacher=teacher)
    journal = None if held_out is None else Journal(folder, options, samples, record, held_out)
    _tell(options, samples, processes, teacher)

    first, done, sums = 1, 0, dict.fromkeys(_LOSSES, 0.0)
    if state is not None:
        first, done, sums = state["epoch"], state["step"], dict(state["sums"])
        learner.restore(state, state["random"][processes.rank])
        rng.bit_generator.state = state["sampler"]
        if journal is not None:
            journal.restore(state["journal"])
        logger.info("resuming in epoch %d after %d of its steps", first, done)
    elif options.init is not None and samples.query and journal is not None:
        journal.close_epoch(learner.kept, 0, {}, validate=True)

    def keep_state(epoch: int, step: int, sampler_state: Any) -> None:
        """Everything that a killed run needs to go on behind `step` of `epoch`."""
        random = processes.collect(learner.random())
        if journal is not None:
            place = {"epoch": epoch, "step": step, "sums": sums, "sampler": sampler_state}
            told = {"digest": samples.digest(), "random": random, "journal": journal.state()}
            save_state(folder, {**learner.state(), **place, **told})
        processes.wait()

    quiet = not (processes.first and sys.stderr.isatty())
    with Progress(console=Console(stderr=True), disable=quiet) as progress:
        for epoch in range(first, options.epochs + 1):
            objective.train()
            epoch_began = rng.bit_generator.state
            batches = sampler.epoch()
            steps = len(batches)
            title = f"epoch {epoch}/{options.epochs}"
            for step in progress.track(range(done, steps), description=title):
                set_learning_rates(
                    optimizer, options.reached(epoch, step, steps), epochs=options.epochs
                )
                ours = batches[step][shares[processes.rank]]
                everyone = batches[step][np.concatenate(shares)]
                flags = modality[ours].to(device)
                images = augment(
                    torch.from_numpy(crops[ours]).to(device),
                    learner.generator,
                    augmentation,
                    visible=flags == 1,
                )
                values = parallel(
                    images,
                    flags,
                    None if cameras is None else cameras[ours].to(device),
                    targets[everyone].to(device),
                    modality[everyone].to(device),
                    epoch >= options.msel_start,
                )
                parts = Losses(*values)
                if not bool(torch.isfinite(parts.total)):
                    batch = [samples.train[row] for row in batches[step]]
                    raise _not_finite(parts, epoch, step, batch, folder, processes)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(parts.total).backward()  # type: ignore[no-untyped-call]
                scaler.step(optimizer)
                scaler.update()
                if learner.average is not None:
                    learner.average.update_parameters(model)
                for name in sums:
                    sums[name] += getattr(parts, name).item() / steps
                done = step + 1
                if options.save_every and done % options.save_every == 0 and done < steps:
                    keep_state(epoch, done, epoch_began)
            if journal is not None:
                journal.close_epoch(
                    learner.kept,
                    epoch,
                    {
                        "lr": optimizer.param_groups[0]["lr"],
                        **{f"loss_{name}": value for name, value in sums.items()},
                    },
                    validate=_validates(options, epoch),
                )
            done, sums = 0, dict.fromkeys(_LOSSES, 0.0)
            keep_state(epoch + 1, 0, rng.bit_generator.state)
    return processes.share(journal.report() if journal is not None else None)  # type: ignore[return-value]


def _begin(
    folder: Path,
    data: Path,
    options: TrainOptions,
    samples: TrainingSet,
    model: MIP,
    processes: Processes,
    *,
    resume: bool,
) -> tuple[TrainOptions, dict[str, Any] | None]:
    """Open the run's folder: the options with nothing left open, and the state to go on from."""
    record = None
    if resume and processes.first:
        record = resume_run(folder, "train")
    record = processes.share(record)
    if record is None:
        if resume:
            logger.info("there is no run in %s to resume: starting one", folder)
        decided = "on" if processes.share(choose_amp(model, options)) else "off"
        options = replace(options, amp=decided)
        if processes.first:
            start_run(folder, "train", {**asdict(options), "data": str(data)})
        return options, None
    before = record["options"]
    if options.amp == "auto":
        options = replace(options, amp=before.get("amp", "off"))
    changed = first_difference(before, options)
    if changed is not None:
        raise OptionError(f"{folder} cannot be resumed: {changed}; give the same options")
    processes.wait()
    state = load_state(folder)
    if state is not None and state["digest"] != samples.digest():
        raise OptionError(f"{folder} cannot be resumed: the training images of {data} have changed")
    if state is not None and len(state["random"]) != processes.size:
        raise OptionError(
            f"{folder} cannot be resumed by {processes.size} processes: the run had "
            f"{len(state['random'])}"
        )
    return options, state


def _parallel(objective: Objective, device: torch.device, processes: Processes) -> nn.Module:
    if processes.size == 1:
        return objective
    return DistributedDataParallel(
        objective,
        device_ids=[device] if device.type == "cuda" else None,
        # the key biases of folded attentions have no gradient
        find_unused_parameters=True,
    )


def _objective(
    model: MIP,
    options: TrainOptions,
    device: torch.device,
    processes: Processes,
    teacher: Teacher | None,
) -> Objective:
    chosen = ObjectiveOptions(
        accumulate=options.accumulate,
        label_smoothing=options.label_smoothing,
        relation_weight=options.relation_weight,
        logits_weight=options.logits_weight,
        amp=amp_type(device) if options.amp == "on" else None,
        gather=processes.size > 1,
    )
    return Objective(model, chosen, teacher).to(device)


def _learner(
    model: MIP, options: TrainOptions, device: torch.device, processes: Processes
) -> Learner:
    """The network is the same in every process; dropout and augmentation draw other numbers."""
    seed = options.seed + processes.rank
    torch.manual_seed(seed)
    scaled = options.amp == "on" and device.type == "cuda"
    return Learner(
        model,
        build_optimizer(model, options.optimizer_options()),
        torch.amp.GradScaler(device.type, enabled=scaled),
        _average(model, options),
        torch.Generator(device).manual_seed(seed),
    )


def _average(model: MIP, options: TrainOptions) -> AveragedModel | None:
    if not options.ema:
        return None
    average = get_ema_multi_avg_fn(options.ema)  # type: ignore[no-untyped-call]
    # buffers are copied: the necks' statistics are averages already
    return AveragedModel(model, multi_avg_fn=average)


def _validates(options: TrainOptions, epoch: int) -> bool:
    if epoch == options.epochs:
        return True
    if options.select == "test" and epoch < SELECT_FROM:
        return False
    return epoch % options.evaluate_every == 0


def _record(
    data: Path,
    options: TrainOptions,
    samples: TrainingSet,
    *,
    weights: dict[str, Any] | None,
    teacher: Teacher | None,
) -> dict[str, Any]:
    """What a checkpoint says of its training, beside options and figures."""
    record: dict[str, Any] = {
        "data": {
            "dataset": options.dataset,
            "folder": data.resolve().name,
            "split": options.split if options.dataset == "regdb" else None,
            "crops": len(samples.train),
            "identities": len(samples.names),
            "names": samples.names,
        },
        "recipe": options.recipe,
        "selected_by": options.select,
    }
    if options.licence is not None:
        record["licence"] = options.licence
    if weights is not None:
        record["init_weights"] = weights
    if teacher is not None:
        name = Path(str(options.teacher)).name
        record["teacher"] = {"file": name, "compares_scores": teacher.compares}
    return record


def _tell(
    options: TrainOptions, samples: TrainingSet, processes: Processes, teacher: Teacher | None
) -> None:
    selecting = {
        "validation": f"validating on {len(samples.query)} crops",
        "test": f"selecting on {len(samples.query)} crops of the TEST part, as published: "
        "its figures are optimistic",
        "last": "keeping the last epoch",
    }
    among = f" in {processes.size} processes" if processes.size > 1 else ""
    logger.info(
        "training on %d crops of %d identities%s, %s, mixed precision %s",
        *(len(samples.train), len(samples.names), among),
        *(selecting[str(options.select)], options.amp),
    )
    if teacher is not None and not teacher.compares:
        logger.warning(
            "--teacher %s does not know these identities: its similarities are learned, "
            "its scores are not",
            options.teacher,
        )


def _not_finite(
    parts: Losses,
    epoch: int,
    step: int,
    batch: Sequence[Sample],
    folder: Path,
    processes: Processes,
) -> TrainingError:
    """Write down which batch it was, and say what may help."""
    path = folder / NOT_FINITE
    content = {
        "epoch": epoch,
        "step": step + 1,
        "losses": {name: str(getattr(parts, name).item()) for name in _LOSSES},
        "batch": [str(sample.path) for sample in batch],
    }
    if processes.first:
        write_text(path, json.dumps(content, indent=2) + "\n")
    return TrainingError(
        f"the loss is {parts.total.item()} in epoch {epoch}, step {step + 1}; the images of the "
        f"batch (the first: {batch[0].path}) stand in {path}. Start again with a smaller --lr or "
        "--amp off"
    )
