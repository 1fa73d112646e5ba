"""The model card as a file: Markdown with the YAML head of the Hugging Face hub.

Sections follow Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mip_edge import checkpoint
from mip_edge.card import text
from mip_edge.card.evidence import Evidence, read_evidence
from mip_edge.card.subject import SYNTHETIC, Subject
from mip_edge.errors import CheckpointError, OptionError, OutputError
from mip_edge.model.mip import MIP
from mip_edge.output import write_text

CARD_NAME = "card.md"
"""Of the card in a bundle."""
_LICENCES = frozenset(
    {
        "apache-2.0",
        "mit",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
    }
)
"""Licences by the names of the hub."""
_FINGERPRINT = re.compile(r"^Fingerprint: `([0-9a-f]{64})`", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CardReport:
    """What was written, and how much the card could tell."""

    path: Path
    fingerprint: str
    parameters: int
    evaluations: int
    unknown: tuple[str, ...]
    """What the card had to call unknown."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {**asdict(self), "path": str(self.path), "unknown": list(self.unknown)}


def write_card(
    path: str | Path,
    output: str | Path | None = None,
    *,
    evaluations: Sequence[str | Path] = (),
    data_licence: str | None = None,
    overwrite: bool = False,
) -> CardReport:
    """Write the card of the checkpoint at `path`, by default beside it as <name>.md.

    `evaluations` are outputs of `mip-edge evaluate --json`.
    Raises: OptionError for an evaluation of another model, or a file that is none; OutputError if
    the card exists (without `overwrite`) or cannot be written; CheckpointError.
    """
    path = Path(path)
    target = path.with_suffix(".md") if output is None else Path(output)
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists already; choose another place or add --overwrite")
    subject = Subject.of(path, checkpoint.load(path), checkpoint.read_metadata(path))
    evidence: list[Evidence] = []
    for evaluation in evaluations:
        found = read_evidence(evaluation)
        if subject.fingerprint not in found.fingerprints:
            raise OptionError(
                f"--evaluation {evaluation} is of the model {found.fingerprints[0][:12]}, "
                f"{path} is {subject.fingerprint[:12]}; evaluate this checkpoint: "
                f"mip-edge evaluate {path} DATA --json"
            )
        evidence.append(found)
    content = format_card(subject, evidence, data_licence=data_licence)
    write_text(target, content)
    return CardReport(
        target,
        subject.fingerprint,
        subject.parameters,
        len(evidence),
        _unknown(subject, evidence, data_licence),
    )


def card_of(path: Path, model: MIP, record: Mapping[str, Any]) -> bytes:
    """The card that travels with a checkpoint: <name>.md beside it, or else one made now.

    Raises: CheckpointError if the card beside it cannot be read, or names the fingerprint of
    another model.
    """
    subject = Subject.of(path, model, record)
    beside = path.with_suffix(".md")
    if not beside.is_file():
        return format_card(subject).encode()
    try:
        content = beside.read_bytes()
    except OSError as error:
        raise CheckpointError(f"the card {beside} cannot be read: {error.strerror}") from error
    named = _FINGERPRINT.search(content.decode(errors="replace"))
    if named is not None and named[1] != subject.fingerprint:
        raise CheckpointError(
            f"{beside} is the card of another model ({named[1][:12]}), {path} is "
            f"{subject.fingerprint[:12]}; write it anew: mip-edge card {path} --overwrite"
        )
    return content


def format_card(
    subject: Subject, evidence: Sequence[Evidence] = (), *, data_licence: str | None = None
) -> str:
    """The whole card as Markdown; without clock or path, so equal input gives an equal card."""
    parts = [_head(subject, evidence), f"# Model card: {subject.name}"]
    parts += [
        f"## {title}\n\n{body}" for title, body in text.sections(subject, evidence, data_licence)
    ]
    return "\n\n".join(parts) + "\n"


def _unknown(
    subject: Subject, evidence: Sequence[Evidence], data_licence: str | None
) -> tuple[str, ...]:
    missing = {
        "licence of the weights": subject.training.get("licence"),
        "terms of the training data": data_licence or subject.dataset == SYNTHETIC,
        "training data": subject.dataset or subject.training.get("data"),
        "how the checkpoint was chosen": subject.selected_by,
        "evaluation": evidence,
    }
    return tuple(name for name, value in missing.items() if not value)


def _head(subject: Subject, evidence: Sequence[Evidence]) -> str:
    """The YAML head; every text is quoted as JSON, which YAML reads alike."""
    licence = str(subject.training.get("licence") or "").lower()
    lines = [
        "---",
        f"license: {licence if licence in _LICENCES else 'other' if licence else text.UNKNOWN}",
    ]
    if licence and licence not in _LICENCES:
        lines.append(f"license_name: {json.dumps(licence)}")
    lines += ["library_name: mip-edge", "tags:", "- person-re-identification"]
    lines += ["- visible-infrared", "- mip", "- vision-transformer"]
    lines += ["- synthetic"] if subject.dataset == SYNTHETIC else []
    if subject.public is not None:
        lines += ["datasets:", f"- {subject.public[0]}"]
    if evidence:
        lines += ["model-index:", f"- name: {json.dumps(Path(subject.name).stem)}", "  results:"]
        for one in evidence:
            lines += one.model_index()
    return "\n".join([*lines, "---"])
