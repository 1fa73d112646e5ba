"""An evaluation as a table for a person; programs take its `figures`."""

from __future__ import annotations

from collections.abc import Sequence

from mip_edge.evaluate.scoring import COUNTS, ProtocolResult
from mip_edge.open_set import FARS, SPLITS

_COLUMNS = (
    ("Rank-1", "rank1"),
    ("Rank-5", "rank5"),
    ("Rank-10", "rank10"),
    ("Rank-20", "rank20"),
    ("mAP", "mAP"),
    ("mINP", "mINP"),
    ("chance", "chance_rank1"),
)


def format_results(results: Sequence[ProtocolResult]) -> list[str]:
    """Lines of the table, rates in per cent, and the notes that its figures need.

    With several runs a rate is the mean, ± the sample standard deviation.
    """
    heads = ["", *(head for head, _ in _COLUMNS), *COUNTS]
    several = any(len(result.rankings) > 1 for result in results)
    if several:
        heads.append("runs")
    lines = [heads]
    for result in results:
        mean, deviation = result.mean(), result.deviation()
        cells = [result.title]
        for _, name in _COLUMNS:
            cell = f"{100 * mean[name]:.1f}"
            # what chance gives hardly moves, and its deviation tells nothing
            if deviation and name != "chance_rank1":
                cell += f" ±{100 * deviation[name]:.1f}"
            cells.append(cell)
        cells += [f"{mean[name]:g}" for name in COUNTS]
        lines.append([*cells, str(len(result.rankings))] if several else cells)
    return [*_aligned(lines), "", *_notes(results), *_open_set(results)]


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    ]


def _open_set(results: Sequence[ProtocolResult]) -> list[str]:
    """What happens where not everybody is enrolled; nothing if it was not scored."""
    shown = [(result.title, means) for result in results if (means := result.open_set())]
    if not shown:
        return []
    heads = ["not all enrolled", *(f"{name}@{far:g}" for name in ("TAR", "DIR") for far in FARS)]
    lines = [heads]
    for title, means in shown:
        rates = [means[name][far] for name in ("tar", "dir") for far in FARS]
        lines.append([title, *("few" if rate is None else f"{100 * rate:.1f}" for rate in rates)])
    return [
        "",
        *_aligned(lines),
        "",
        "TAR@FAR: pairs of one person above the similarity that a share of FAR of pairs of two",
        "exceeds. DIR@FAR: queries of enrolled people right at rank 1 and above the similarity",
        "that a share of FAR of strangers' queries exceeds; half of the people are enrolled, mean",
        f"of {SPLITS} draws. few: fewer than ten false accepts would decide it.",
        "",
    ]


def _notes(results: Sequence[ProtocolResult]) -> list[str]:
    notes = ["Rates in per cent; chance is the Rank-1 of a random order of the same gallery."]
    varied = [result for result in results if len(result.rankings) > 1]
    if varied:
        runs = varied[0].runs
        notes.append(f"± is the sample standard deviation over the runs: {runs[0]} to {runs[-1]}.")
    if any(ranking.skipped for result in results for ranking in result.rankings):
        notes.append("Skipped queries have nobody of theirs in the gallery: they are in no rate.")
    if any(result.reranking for result in results):
        reranking = next(result.reranking for result in results if result.reranking)
        notes.append(
            f"re-ranked: by k-reciprocal neighbours (k1={reranking.k1}, k2={reranking.k2}, "
            f"lambda={reranking.weight}), which look at all queries at once."
        )
    return notes
