"""The words of a card, section by section; what is unknown is written as unknown."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mip_edge.card.evidence import Evidence
from mip_edge.card.subject import SYNTHETIC, Subject, table
from mip_edge.hub import PREFIX

UNKNOWN = "unknown"
_MACHINE_ONLY = frozenset({"device", "threads", "workers", "cache", "save_every", "tensorboard"})
"""Options of a training that do not change what is learned."""
_PRETRAIN_FLAGS = ("model", "image_size", "stride", "steps", "lr", "seed")
"""What of a pre-training its command can be told."""
_SELECTION = {
    "test": "on the TEST part of its data set, as the published code does. **Figures on that test "
    "part are optimistic**, and not comparable with those of a checkpoint that never saw it",
    "validation": "on identities kept aside from the training part; the test part was not read",
    "last": "by nothing: it is the last epoch",
}
_INTENDED = """\
- Research on visible-infrared person re-identification, and comparison under stated protocols.
- Systems that match crops of people between visible and infrared cameras where a lawful ground
  exists, the people concerned are informed as the law asks, and a person checks each match."""
_EXCLUDED = """\
- Identifying or tracking people without a legal ground, or in secret.
- Decisions about a person (access, arrest, work, insurance) that rest on a match.
- Mass surveillance; search for people by origin, belief, health, or likeness to a group.
- Proof of identity: it is no biometric identification and was not tested as one."""
_LIMITS = """\
- It ranks by likeness of body and clothes: whoever changes clothes is another one to it, and
  people dressed alike are the same. A high similarity is a hint, never a proof of identity.
- It answers for any crop, also for one without a person; what is a person, the detector decides.
- Figures hold for the cameras, crops and galleries they were measured on, not elsewhere."""


def sections(
    subject: Subject, evidence: Sequence[Evidence], data_licence: str | None
) -> list[tuple[str, str]]:
    """Title and Markdown of each section, in their order."""
    return [
        ("What it is", _identity(subject)),
        ("Data and licence", _data(subject, data_licence)),
        ("Training", _training(subject)),
        ("Evaluation", _evaluation(subject, evidence)),
        ("Intended uses", _INTENDED),
        ("Excluded uses", _excluded(subject)),
        ("Limits", _LIMITS),
        ("Biases", _biases(subject)),
        ("Never measured", _never_measured(evidence)),
        ("How to reproduce", _reproduce(subject, evidence)),
    ]


def _identity(subject: Subject) -> str:
    options, record = table(subject.record.get("options")), subject.record
    height, width = options["image_size"]
    similarity = record.get("min_similarity")
    cameras = record.get("cameras") or []
    rows = {
        "parameters": f"{subject.parameters:,}",
        "file": f"{subject.name}, {subject.file_bytes:,} bytes",
        "network": f"width {options['width']}, {options['heads']} heads, "
        f"depth {options.get('depth', UNKNOWN)}, stride {options.get('stride', UNKNOWN)}",
        "instance queries": options.get("instance_queries", UNKNOWN),
        "embedded cameras": ", ".join(f"{one['name']} ({one['modality']})" for one in cameras)
        or "none",
        "smallest similarity of one person": UNKNOWN if similarity is None else f"{similarity:.4f}",
        "written by": f"mip-edge {record.get('code_version', UNKNOWN)}",
    }
    told = (
        "A MIP network (ICMR 2024, arXiv 2406.12316) for visible-infrared person\n"
        f"re-identification: it turns a crop of {height}x{width} pixels into an embedding; the "
        "cosine of two\nembeddings says how alike two people look."
    )
    lines = [told, "", f"Fingerprint: `{subject.fingerprint}`", "", "| | |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())])


def _data(subject: Subject, data_licence: str | None) -> str:
    data = table(subject.training.get("data"))
    lines = [
        f"- Licence of these weights: {subject.training.get('licence') or UNKNOWN}.",
        f"- Terms of the training data: {_terms(subject, data_licence)}.",
        f"- Trained on: {_shown(subject)}.",
    ]
    counts = [f"{data[key]:,} {key}" for key in ("identities", "crops") if key in data]
    lines += [f"- Learned from: {', '.join(counts)}."] if counts else []
    lines += [f"- Split: {data['split']}."] if data.get("split") else []
    return "\n".join([*lines, f"- Started from: {_start(subject)}."])


def _terms(subject: Subject, data_licence: str | None) -> str:
    if data_licence is not None:
        return data_licence
    if subject.public is not None:
        return f"{UNKNOWN} here; {subject.public[0]} has terms of its own, ask its authors"
    return "none, mip-edge draws it" if subject.dataset == SYNTHETIC else UNKNOWN


def _shown(subject: Subject) -> str:
    data, dataset = subject.training.get("data"), subject.dataset
    if subject.public is not None:
        return ", ".join(subject.public)
    if isinstance(data, str):
        return data
    if dataset is None:
        return UNKNOWN
    return (
        f"crops of the folder `{table(data).get('folder', UNKNOWN)}`; whom they show is {UNKNOWN}"
    )


def _start(subject: Subject) -> str:
    weights = subject.training.get("init_weights")
    if isinstance(weights, Mapping):
        name = f"{weights.get('repository', UNKNOWN)}@{weights.get('commit', UNKNOWN)}"
        return f"the weights {name} (licence: {weights.get('licence') or UNKNOWN})"
    options = subject.training.get("options")
    if not isinstance(options, Mapping):
        return "random weights" if "pretrain" in subject.training else UNKNOWN
    start = options.get("init")
    if start is None:
        return "random weights"
    if start == "synthetic":
        return "the checkpoint that comes with mip-edge, of synthetic people (licence: Apache-2.0)"
    return f"`{_portable('init', start)}` (licence: {UNKNOWN})"


def _training(subject: Subject) -> str:
    training, options = subject.training, table(subject.training.get("options"))
    validation = table(training.get("validation"))
    lines = [
        f"- Recipe: {training.get('recipe') or options.get('recipe') or UNKNOWN}.",
        f"- Epochs: {options.get('epochs', UNKNOWN)}; this is {validation.get('epoch', UNKNOWN)}.",
        f"- Chosen {_SELECTION.get(subject.selected_by or '', f'by: {UNKNOWN}')}.",
    ]
    if "rank1" in validation and "mAP" in validation:
        rank1, precision = (f"{100 * validation[key]:.1f}%" for key in ("rank1", "mAP"))
        lines.append(
            f"- On what it was chosen by: Rank-1 {rank1}, mAP {precision}, mean of both directions "
            "(a reason to choose, no result)."
        )
    teacher = table(training.get("teacher")).get("path")
    return "\n".join([*lines, *([f"- Taught by `{teacher}` too."] if teacher else [])])


def _evaluation(subject: Subject, evidence: Sequence[Evidence]) -> str:
    if not evidence:
        return f"None was given to this card: the accuracy is {UNKNOWN}."
    cameras = bool(subject.record.get("cameras"))
    parts = [one.format(cameras=cameras) for one in evidence]
    parts.append("Rates in per cent; ± is the deviation over the runs where there are several.")
    if subject.selected_by == "test":
        parts.append(
            "**This checkpoint was chosen on the TEST part of its data set: see Training.**"
        )
    return "\n\n".join(parts)


def _excluded(subject: Subject) -> str:
    if subject.dataset != SYNTHETIC:
        return _EXCLUDED
    return f"{_EXCLUDED}\n- **Real people at all**: it was trained on synthetic people only."


def _biases(subject: Subject) -> str:
    if subject.dataset == SYNTHETIC:
        return (
            "It knows drawn figures alone. What real people, cameras and places look like is "
            "nowhere in\nits data."
        )
    where = f"Which people, places and cameras its data show is {UNKNOWN} here"
    if subject.public is not None:
        where = f"It has seen {subject.public[1]}"
    return (
        f"{where}.\nIt is tuned to their light, seasons and clothes. How much worse it matches "
        "other people at other\nplaces is unknown, and so are differences between ages, genders, "
        "skin tones and disabilities."
    )


def _never_measured(evidence: Sequence[Evidence]) -> str:
    lines = [] if evidence else ["- Any accuracy, as far as this card knows."]
    lines += [
        "- Accuracy on any data and protocol that is not under Evaluation.",
        "- Accuracy at a precision below that of the evaluated file (FP16, INT8).",
        "- Differences between groups of people.",
        "- False alarms for people who are not in the gallery.",
        "- Change of clothes, weeks between two pictures, attempts to mislead it.",
    ]
    return "\n".join(lines)


def _reproduce(subject: Subject, evidence: Sequence[Evidence]) -> str:
    options = subject.training.get("options")
    pretrain = subject.training.get("pretrain")
    lines = [f"The command of its training is {UNKNOWN}."]
    if isinstance(options, Mapping):
        lines = [f"    mip-edge train DATA {_flags(options)} -o RUN"]
    elif isinstance(pretrain, Mapping):
        told = {name: pretrain[name] for name in _PRETRAIN_FLAGS if name in pretrain}
        lines = [f"    mip-edge pretrain {_flags(told)} -o RUN"]
    lines += [f"    mip-edge evaluate {subject.name} DATA --json"] if evidence else []
    version = subject.record.get("code_version", UNKNOWN)
    return "\n".join([*lines, "", f"With mip-edge {version}, on the data named above."])


def _flags(options: Mapping[str, Any]) -> str:
    words: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is None or name in _MACHINE_ONLY:
            continue
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, (list, tuple)):
            words += [flag, *map(str, value)]
        else:
            words += [flag, shlex.quote(_portable(name, value))]
    return " ".join(words)


def _portable(name: str, value: object) -> str:
    """A path without the folders of the machine it was on."""
    text = str(value)
    is_path = name in ("init", "teacher") and not text.startswith(PREFIX)
    return Path(text).name if is_path else text
