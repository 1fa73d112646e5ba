"""How long people need from one camera to another, and whom that rules out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from mip_edge.errors import OptionError


@dataclass(frozen=True, slots=True)
class Travel:
    """A way between two cameras; the way back too, unless that is given by itself."""

    origin: str
    """The camera that somebody leaves."""
    destination: str
    """The camera where he comes next."""
    min_seconds: float = 0.0
    """He cannot be there sooner."""
    max_seconds: float = float("inf")
    """Later it is not he."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_seconds <= self.max_seconds:
            raise OptionError(
                f"travel from {self.origin} to {self.destination}: min and max must be seconds "
                f"with 0 <= min <= max, got {self.min_seconds:g} and {self.max_seconds:g}"
            )


def parse_travels(texts: Sequence[str], cameras: Collection[str]) -> tuple[Travel, ...]:
    """Every `from=A,to=B,min=3,max=60` of a command line; min and max may be left out.

    Raises: OptionError for an unknown key or camera, or what is no number.
    """
    form = "from=CAMERA,to=CAMERA,min=SECONDS,max=SECONDS"
    travels = []
    for text in texts:
        values = dict(part.strip().partition("=")[::2] for part in text.split(","))
        if not {"from", "to"} <= values.keys() <= {"from", "to", "min", "max"}:
            raise OptionError(f"--travel {text}: expected {form}")
        unknown = [values[key] for key in ("from", "to") if values[key] not in cameras]
        if unknown:
            raise OptionError(
                f"--travel {text}: there is no camera {unknown[0]!r}; there is: "
                f"{', '.join(cameras)}"
            )
        try:
            least, most = float(values.get("min", 0)), float(values.get("max", "inf"))
        except ValueError:
            raise OptionError(f"--travel {text}: min and max are seconds; {form}") from None
        travels.append(Travel(values["from"], values["to"], least, most))
    return tuple(travels)


class Whereabouts:
    """Where each identity was seen last, and whether it can be at a camera now."""

    def __init__(self, travels: Iterable[Travel] = ()) -> None:
        given = list(travels)
        self._travels = {(travel.destination, travel.origin): travel for travel in given}
        self._travels |= {(travel.origin, travel.destination): travel for travel in given}
        self._seen: dict[int, tuple[str, float]] = {}

    def see(self, identity: int, camera: str, time: float) -> None:
        """`identity` is before `camera` at `time`, in seconds of one clock."""
        if self._travels:
            self._seen[identity] = (camera, time)

    def possible(self, identity: int, camera: str, time: float) -> bool:
        """No window speaks against it: of the last camera to this one, if one was given."""
        last = self._seen.get(identity)
        travel = self._travels.get((last[0], camera)) if last else None
        if last is None or travel is None:
            return True
        return travel.min_seconds <= time - last[1] <= travel.max_seconds

    def merge(self, identity: int, into: int) -> None:
        """What was known of `identity` is known of `into`, the newer of the two."""
        moved = self._seen.pop(identity, None)
        kept = self._seen.get(into)
        if moved is not None and (kept is None or moved[1] > kept[1]):
            self._seen[into] = moved

    def forget(self, identities: Iterable[int]) -> None:
        """Nothing is kept of them."""
        for identity in identities:
            self._seen.pop(identity, None)
