"""Evidence a model card may cite: the figures that `mip-edge evaluate --json` printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mip_edge.errors import OptionError

_RATES = (
    ("Rank-1", "rank1"),
    ("Rank-5", "rank5"),
    ("Rank-10", "rank10"),
    ("Rank-20", "rank20"),
    ("mAP", "mAP"),
    ("mINP", "mINP"),
)
_COUNTS = ("queries", "gallery")
_LISTS = ("results", "protocols", "directions")
"""Where the figures stand; "directions" in the first versions."""
_MISSING = "–"
_ANEW = "make it with: mip-edge evaluate WEIGHTS DATA --json > FILE"


@dataclass(frozen=True, slots=True)
class Result:
    """One line of an evaluation: a protocol, or a direction."""

    title: str
    mean: Mapping[str, float]
    """Rates as fractions, and counts."""
    deviation: Mapping[str, float]
    """Of the rates over the runs; empty with a single run."""
    runs: int
    reranked: str
    """yes, no or not stated."""

    def cells(self) -> list[str]:
        """A row of the table."""
        rates = [self._rate(key) for _, key in _RATES]
        counts = [f"{self.mean[key]:g}" if key in self.mean else _MISSING for key in _COUNTS]
        return [self.title.replace("|", "\\|"), *rates, str(self.runs), *counts, self.reranked]

    def _rate(self, key: str) -> str:
        if key not in self.mean:
            return _MISSING
        spread = f" ± {100 * self.deviation[key]:.1f}" if key in self.deviation else ""
        return f"{100 * self.mean[key]:.1f}{spread}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one evaluation found."""

    fingerprints: tuple[str, ...]
    """Of each model: one, or that of each split."""
    data: str
    """Name of the data; never a path."""
    kind: str | None
    """sysu, regdb, ...; None if it is not stated."""
    camera: str | None
    """Which camera embedding each crop got; None if it is not stated."""
    results: tuple[Result, ...]

    def format(self, *, cameras: bool = True) -> str:
        """The table of the card, rates in per cent; `cameras` tells whether the model knows any."""
        heads = ["protocol", *(head for head, _ in _RATES), "runs", *_COUNTS, "re-ranked"]
        rows = [heads, ["---"] * len(heads), *(result.cells() for result in self.results)]
        told = f"On `{self.data}`"
        told += f" ({self.kind})" if self.kind else ""
        told += f", camera embedding: {self.camera}" if self.camera and cameras else ""
        if len(self.fingerprints) > 1:
            told += f"; of {len(self.fingerprints)} models, one for each split, this among them"
        return "\n".join([f"{told}.", "", *(f"| {' | '.join(row)} |" for row in rows)])

    def model_index(self) -> list[str]:
        """Results of a Hugging Face model-index, as lines of YAML; rates in per cent."""
        lines: list[str] = []
        for result in self.results:
            lines += [
                "  - task:",
                "      type: image-feature-extraction",
                "      name: Visible-infrared person re-identification",
                "    dataset:",
                f"      type: {json.dumps(self.kind or self.data)}",
                f"      name: {json.dumps(self.data)}",
                f"      config: {json.dumps(result.title)}",
                "    metrics:",
            ]
            for head, key in _RATES:
                if key in result.mean:
                    lines += [
                        f"    - type: {json.dumps(head.lower())}",
                        f"      value: {round(100 * result.mean[key], 4)}",
                        f"      name: {json.dumps(f'{head}{self._of(result)}')}",
                    ]
        return lines

    def _of(self, result: Result) -> str:
        """What a single number in the head does not tell."""
        told = ", re-ranked" if result.reranked == "yes" else ""
        told += f", mean of {result.runs} runs" if result.runs > 1 else ""
        return told + (f" of {len(self.fingerprints)} models" if len(self.fingerprints) > 1 else "")


def read_evidence(path: str | Path) -> Evidence:
    """The figures in a file of `mip-edge evaluate --json`; its keys that are not known are passed
    over.

    Raises: OptionError if it is no such file.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(
            f"--evaluation {path} cannot be read as JSON ({error}); {_ANEW}"
        ) from error
    if not isinstance(document, dict):
        raise OptionError(f"--evaluation {path} holds no evaluation; {_ANEW}")
    fingerprints = document.get("fingerprints") or [document.get("fingerprint")]
    if not isinstance(fingerprints, list) or not all(isinstance(one, str) for one in fingerprints):
        raise OptionError(f"--evaluation {path} names the fingerprint of no model; {_ANEW}")
    entries = next((document[key] for key in _LISTS if key in document), ())
    try:
        results = tuple(_result(entry) for entry in entries)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise OptionError(f"--evaluation {path} holds figures of another kind; {_ANEW}") from error
    if not results:
        raise OptionError(f"--evaluation {path} holds no figures; {_ANEW}")
    kind, camera = document.get("dataset"), document.get("camera")
    return Evidence(
        tuple(fingerprints),
        Path(str(document.get("data") or "")).name or "unknown",
        kind if isinstance(kind, str) else None,
        str(camera["policy"]) if isinstance(camera, dict) and "policy" in camera else None,
        results,
    )


def _result(entry: Mapping[str, Any]) -> Result:
    """Of a protocol (mean and deviation over its runs), or of a direction (one run)."""
    mean, deviation = entry.get("mean", entry), entry.get("deviation") or {}
    names = [key for _, key in _RATES]
    if not all(key in mean for key in ("rank1", "mAP")):
        raise KeyError("rank1")
    return Result(
        title=str(entry.get("title") or _direction(entry)),
        mean={key: float(mean[key]) for key in (*names, *_COUNTS) if key in mean},
        deviation={key: float(deviation[key]) for key in names if key in deviation},
        runs=len(entry["runs"]) if "runs" in entry else 1,
        reranked=("yes" if entry["reranked"] else "no") if "reranked" in entry else "not stated",
    )


def _direction(entry: Mapping[str, Any]) -> str:
    return f"{entry['query_modality']} to {entry['gallery_modality']}"
