"""What `mip-edge benchmark` is asked to time, checked before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engines.table import AUTO, DEFAULT_PRECISION, ENGINES, read_options
from mip_edge.artifact import Bundle
from mip_edge.benchmark_turns import check_counts, check_given
from mip_edge.errors import OptionError
from mip_edge.spec import Modality

ALL = "all"
"""As a precision: every one of the bundle."""
_LADDER = ("fp32", "fp16", "int8", "int8-fp16")
_UNDER_CEILING = {
    "onnxruntime": {"provider": "cpu"},
    "openvino": {"device": "CPU", "dtype": "f32"},
}
"""Engines whose products are those of the ceiling, where these options have these values or none:
on the CPU, of float32 and 8-bit integers."""


@dataclass(frozen=True, slots=True)
class BenchmarkOptions:
    """What is timed, and how often."""

    engines: tuple[str, ...] = ("onnxruntime",)
    """Engines for the bundle, in the order of the table."""
    batches: tuple[int, ...] = (1, 8)
    """Crops of one call."""
    repeats: int = 20
    """Timed calls of each engine, precision, modality and batch."""
    threads: int | None = None
    """Threads of each engine; None leaves it to the runtime."""
    precisions: tuple[str, ...] = (DEFAULT_PRECISION,)
    """Which graphs of the bundle; "all" leaves out, and tells, what an engine refuses."""
    share_weights: bool = False
    """Time an engine that can share weights a second time, sharing."""
    modalities: tuple[Modality, ...] = ()
    """Whose graphs; none for all of the bundle."""
    engine_options: tuple[str, ...] = ()
    """KEY=VALUE for every engine that knows KEY, or ENGINE.KEY=VALUE for one."""
    ceiling: bool = False
    """Measure what matrix products reach here at best, before and after."""
    memory: bool = False
    """Measure memory too, each engine and precision in a process of its own."""

    def __post_init__(self) -> None:
        for engine in self.engines:
            if engine != AUTO and engine in ENGINES and ENGINES[engine].opens != "bundle":
                raise OptionError(
                    f"--engine {engine} does not open a bundle; give its weights with --checkpoint"
                )
        check_given(engine=self.engines, precision=self.precisions)
        if self.memory and AUTO in self.engines:
            raise OptionError("--memory measures engines by their names; name them instead of auto")
        check_counts(self.batches, self.repeats)

    def choose_precisions(self, bundle: Bundle) -> tuple[str, ...]:
        """Those to be timed, without "all", each once; float32 first if all are."""
        held = bundle.manifest.precisions
        rest = sorted(set(held) - set(_LADDER))
        everything = [name for name in (*_LADDER, *rest) if name in held]
        named = [one for name in self.precisions for one in (everything if name == ALL else [name])]
        return tuple(dict.fromkeys(named))

    def options_of(self, engine: str) -> dict[str, Any]:
        """Options that go to one engine. Raises: OptionError for a value that it does not take."""
        known = ENGINES[engine].options if engine in ENGINES else {}
        texts = []
        for text in self.engine_options:
            owner, key = _split(text)
            if owner == engine:
                texts.append(text[len(engine) + 1 :])
            elif owner is None and key in known:
                texts.append(text)
        return read_options(engine, texts)

    def check_engine_options(self, engines: tuple[str, ...]) -> None:
        """Refuse an engine option that none of `engines` takes. Raises: OptionError."""
        for text in self.engine_options:
            owner, key = _split(text)
            if owner is not None and owner not in engines:
                raise OptionError(
                    f"--engine-option {text}: {owner} is not among the engines that are timed "
                    f"({', '.join(engines)})"
                )
            takers = [one for one in engines if one in ENGINES and key in ENGINES[one].options]
            if not takers:
                known = sorted(
                    {key for one in engines for key in getattr(ENGINES.get(one), "options", ())}
                )
                raise OptionError(
                    f"--engine-option {text}: none of {', '.join(engines)} has the option {key!r}; "
                    f"there are: {', '.join(known) or 'none'}"
                )
        for engine in engines:
            self.options_of(engine)

    def insists_on(self, precision: str) -> bool:
        """Whether an engine that refuses a precision is an error: it was named, or is fp32."""
        return precision in self.precisions or precision == DEFAULT_PRECISION

    def has_ceiling(self, engine: str) -> bool:
        """Whether an engine runs the bundle's graph on this processor, in types that the ceiling
        is measured for."""
        if engine not in _UNDER_CEILING:
            return False
        given = self.options_of(engine)
        return all(given.get(key, value) == value for key, value in _UNDER_CEILING[engine].items())


def _split(text: str) -> tuple[str | None, str]:
    """Engine (None for all) and key of an engine option."""
    key = text.partition("=")[0]
    owner, dot, rest = key.partition(".")
    return (owner, rest) if dot and owner in ENGINES else (None, key)
