"""Which identities can never be one person, and which by now look as if they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence


def _pair(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)


class Twins:
    """Evidence that two identities are one person, counted until it is enough.

    Two who were seen in one frame of one camera are two people for ever. What is kept grows with
    who met whom, and goes with `forget`.
    """

    def __init__(self, patience: int) -> None:
        """`patience`: looks in a row that must say so."""
        self._patience = patience
        self._met: dict[int, set[int]] = {}
        self._looks: Counter[tuple[int, int]] = Counter()
        self._merged: dict[int, set[int]] = {}

    def see_together(self, identities: Sequence[int]) -> None:
        """All of these are in one frame."""
        for place, one in enumerate(identities):
            self.part(one, identities[place + 1 :])

    def part(self, identity: int, others: Iterable[int]) -> None:
        """`identity` is none of the others."""
        for other in others:
            if other != identity:
                self._met.setdefault(identity, set()).add(other)
                self._met.setdefault(other, set()).add(identity)

    def apart(self, one: int, other: int) -> bool:
        """They were seen together, or were one until a hand took them apart."""
        return (
            other in self._met.get(one, ())
            # Two that still come as two, though this run made them one: that was undone.
            or other in self._merged.get(one, ())
            or one in self._merged.get(other, ())
        )

    def agree(self, one: int, other: int) -> bool:
        """One more look says that they are one; True when that is enough."""
        if self.apart(one, other):
            return False
        self._looks[_pair(one, other)] += 1
        return self._looks[_pair(one, other)] >= self._patience

    def differ(self, one: int, other: int) -> None:
        """A look says that they are not."""
        self._looks.pop(_pair(one, other), None)

    def merge(self, identity: int, into: int) -> None:
        """Who was seen with `identity` was seen with `into`; both stay so if it is undone."""
        self.part(into, list(self._met.get(identity, ())))
        self._merged.setdefault(into, set()).update({identity}, self._merged.pop(identity, ()))
        self._drop_looks({identity})

    def take_apart(self, one: int, other: int) -> None:
        """A hand says that they are two, whatever was merged before."""
        self.part(one, [other])
        self._merged.get(one, set()).discard(other)
        self._merged.get(other, set()).discard(one)
        self.differ(one, other)

    def forget(self, identities: Collection[int]) -> set[int]:
        """Nothing is kept of them, nor of whom was merged into them; gives all of these."""
        gone = set(identities).union(*(self._merged.pop(one, ()) for one in identities))
        for one in gone:
            for other in self._met.pop(one, ()):
                if other in self._met:
                    self._met[other].discard(one)
                    if not self._met[other]:
                        del self._met[other]
        for merged in self._merged.values():
            merged -= gone
        self._drop_looks(gone)
        return gone

    def __len__(self) -> int:
        """Identities that something is kept of."""
        return len({*self._met, *self._merged, *(one for pair in self._looks for one in pair)})

    def _drop_looks(self, gone: Collection[int]) -> None:
        if gone:
            for pair in [pair for pair in self._looks if pair[0] in gone or pair[1] in gone]:
                del self._looks[pair]
