"""How far the network is rewritten: forms that compute the same at different cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mip_edge.errors import OptionError


@dataclass(frozen=True, slots=True)
class Form:
    """One way to write the rewritten network down; what it computes is always the same."""

    instance: Literal["folded", "projected"] = "folded"
    """Instance prompts by `folded` maps (one product for the logits, means before values), or by
    `projected` keys and values of every patch."""
    head: Literal["folded", "projected"] = "folded"
    """The class rows of the head, likewise."""
    equal: Literal["weighted", "repeated"] = "weighted"
    """Equal instance prompts (zero queries) as one key `weighted` by their number, or `repeated`
    after the key map."""
    seen: Literal["joined", "apart"] = "joined"
    """Keys and values of instance prompts and tokens by `joined` products, or `apart`."""
    mlp: Literal["halves", "whole"] = "halves"
    """The MLP of the blocks as two `halves` of its hidden rows that are summed, or `whole`."""

    def for_gpu(self) -> Form:
        """The same with the fewest kernel launches: the form of every precision but float32.

        Float32 graphs are for CPUs, whose cache holds two short rows better than a long one.
        """
        return replace(self, mlp="whole")


SURGERIES: Mapping[str, Form | None] = {
    "full": Form(),
    "rows": Form(instance="projected", head="projected", equal="repeated", mlp="whole"),
    "none": None,
}
"""What `--surgery` takes: all of it; only the rows left out that nobody reads; the published
forward."""

TRIED: Mapping[str, Form] = {
    "projected-instance": Form(instance="projected"),
    "projected-head": Form(head="projected"),
    "repeated-prompts": Form(equal="repeated"),
    "prompts-apart": Form(seen="apart"),
    "whole-mlp": Form(mlp="whole"),
}
"""Forms that lost, or win on some runtime only; `mip-edge benchmark-export --form` times them."""


def form_of(surgery: str) -> Form | None:
    """The form of a name in `SURGERIES` or `TRIED`; None is the published forward.

    Raises: OptionError for another name.
    """
    if surgery in SURGERIES:
        return SURGERIES[surgery]
    if surgery in TRIED:
        return TRIED[surgery]
    known = ", ".join([*SURGERIES, *TRIED])
    raise OptionError(f"--surgery must be one of {known}, got {surgery!r}")
