"""A threshold for each pair of lights at a false-accept rate, with what is known of its error."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mip_edge.errors import DatasetError, OptionError
from mip_edge.open_set import accepted_share, resolvable_far, resolves, threshold_at_far
from mip_edge.spec import Embeddings, Modality
from mip_edge.thresholding.tracklet import WITHIN, Comparisons, compare_tracklets
from mip_edge.thresholds import ModalityPair
from mip_edge.thresholds_record import PairThreshold

DECIMALS = 6
"""Of what is written; a threshold is rounded up, so that its rate holds."""
BINS = 100
"""Of a histogram over [-1, 1]."""
_POINTS = 41
"""Of a ROC curve."""
_WHOLE = 1 + 1e-12
"""0.001 of 1,000 is one, whatever binary fractions say."""
_TAIL = 20
"""Times the allowed accepts: so many of the highest impostors every resample needs."""


@dataclass(frozen=True, slots=True)
class LearningOptions:
    """How thresholds are learnt."""

    far: float = 0.001
    """Share of comparisons of a tracklet with an enrolled other person that may be accepted."""
    crops_per_query: int = 3
    """Crops whose mean is a query or a prototype, as a live track gathers before it is matched."""
    prototypes: int = 8
    """Of a person in one light at most, as a gallery keeps them; the nearest counts."""
    rounds: int = 5
    """How often tracklets are drawn."""
    bootstrap: int = 200
    """Resamples of the people for the intervals."""
    seed: int = 0
    """Of all draws."""

    def __post_init__(self) -> None:
        if not 0 < self.far < 1:
            raise OptionError(f"--far must lie between 0 and 1, got {self.far}")
        for name in ("crops_per_query", "prototypes", "rounds", "bootstrap"):
            if getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise OptionError(f"{flag} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise OptionError(f"--seed must be at least 0, got {self.seed}")


@dataclass(frozen=True, slots=True)
class Curve:
    """What a pair's comparisons look like."""

    genuine: tuple[int, ...]
    """(BINS,) counts by similarity from -1 to 1."""
    impostor: tuple[int, ...]
    far: tuple[float, ...]
    """Rates of the ROC curve, rising, from the least that the comparisons can tell to 1."""
    threshold: tuple[float, ...]
    tar: tuple[float, ...]
    """Empty where there is no genuine comparison."""


@dataclass(frozen=True, slots=True)
class Single:
    """What one threshold for all pairs would do."""

    threshold: float
    far: Mapping[ModalityPair, float]


@dataclass(frozen=True, slots=True)
class Learning:
    """The thresholds of all pairs, and all that is worth telling of them."""

    pairs: Mapping[ModalityPair, PairThreshold]
    curves: Mapping[ModalityPair, Curve]
    single: Single
    """The threshold that has the rate over all comparisons together."""
    enrolled: int
    """People that a stranger met."""
    strangers: float
    """Share of tracklets taken for at least one of the others, by any pair of lights."""
    warnings: tuple[str, ...]


def check_far(identities: Sequence[str], modalities: Sequence[Modality], far: float) -> None:
    """Refuse a rate that so few people cannot have; an identity and a light for each crop.

    Each person meets each other once: who passes ten times is no ten people. If not even one of
    these comparisons may be accepted, the threshold stands above their highest, whatever the rate.
    Raises: DatasetError for that, or if a light shows fewer than two people.
    """
    crops = list(zip(identities, modalities, strict=True))
    seen = {light: {name for name, one in crops if one is light} for light in Modality}
    for light, names in seen.items():
        if len(names) < 2:
            raise DatasetError(
                f"{len(names)} people are seen in {light.value} light; thresholds need at least 2"
            )
    met = {
        ModalityPair.of(one, other): len(seen[one]) * len(seen[other])
        - len(seen[one] & seen[other])
        for one, other in itertools.combinations_with_replacement(Modality, 2)
    }
    few = [pair.value for pair in ModalityPair if met[pair] * far * _WHOLE < 1]
    if few:
        least = min(met.values())
        people = math.ceil((1 + math.sqrt(1 + 4 / far)) / 2)  # the least whose n (n - 1) is 1 / far
        raise DatasetError(
            f"--far {far:g} cannot be learnt for {', '.join(few)}: there are {least:,} comparisons "
            f"of one person with another, of which a single false accept is a share of "
            f"{1 / least:.2g}. Give at least {people:,} people, seen in both lights, or take "
            f"--far {_rate_up(1 / least):g} or more"
        )


def learn_thresholds(
    embeddings: Embeddings,
    identities: Sequence[str],
    modalities: Sequence[Modality],
    sessions: Sequence[str],
    options: LearningOptions,
) -> Learning:
    """The thresholds on embeddings (N, D) of unit length of people the model has never seen.

    `sessions` names where each crop was taken, empty where nobody knows.
    Raises: DatasetError as `check_far`.
    """
    check_far(identities, modalities, options.far)
    names, people = np.unique(np.asarray(identities), return_inverse=True)
    rng = np.random.default_rng([options.seed, 0])
    compared, tracklets = compare_tracklets(
        embeddings,
        people,
        modalities,
        sessions,
        crops=options.crops_per_query,
        prototypes=options.prototypes,
        rounds=options.rounds,
        rng=rng,
    )
    found = {
        pair: _learn(one, len(names), options, np.random.default_rng([options.seed, 1]))
        for pair, one in compared.items()
    }
    fooled = [
        one.impostor_tracklet[one.impostor >= np.float64(found[pair].threshold)]
        for pair, one in compared.items()
    ]
    return Learning(
        pairs=found,
        curves={pair: _curve(one) for pair, one in compared.items()},
        single=_single(compared, options.far),
        enrolled=len(names) - 1,
        strangers=len(np.unique(np.concatenate(fooled))) / tracklets,
        warnings=_warnings(compared, options),
    )


def _learn(
    one: Comparisons, people: int, options: LearningOptions, rng: np.random.Generator
) -> PairThreshold:
    threshold = rounded_up(threshold_at_far(one.impostor, options.far))
    thresholds, rates = _bootstrap(one, people, options, rng)
    # the percentiles of a skewed few need not hold the value itself
    low, high = np.percentile([threshold] if len(thresholds) == 0 else thresholds, (2.5, 97.5))
    tar_low, tar_high = np.percentile(rates, (2.5, 97.5)) if len(rates) else (None, None)
    return PairThreshold(
        threshold=threshold,
        threshold_low=_short(min(low, threshold)),
        threshold_high=_short(min(1.0, max(high, threshold))),
        far=_short(accepted_share(one.impostor, threshold)),
        tar=_short(accepted_share(one.genuine, threshold)) if len(one.genuine) else None,
        tar_low=None if tar_low is None else _short(tar_low),
        tar_high=None if tar_high is None else _short(tar_high),
        genuine=len(one.genuine),
        impostor=one.impostors_a_round,
        genuine_from=one.genuine_from,
        crops=one.crops,
        prototypes=one.prototypes,
    )


def _bootstrap(
    one: Comparisons, people: int, options: LearningOptions, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Threshold and TAR of each resample of the PEOPLE, (B,) and (B,) (empty without genuine).

    Comparisons of one person are alike, so drawing comparisons would make intervals too narrow.
    A comparison of two people counts as often as both were drawn together.
    """
    tail = min(len(one.impostor), int(_TAIL * options.far * len(one.impostor)) + 1000)
    highest = np.argpartition(one.impostor, len(one.impostor) - tail)[-tail:]
    highest = highest[np.argsort(-one.impostor[highest], kind="stable")]
    value = one.impostor[highest]
    query, enrolled = one.impostor_query[highest], one.impostor_enrolled[highest]
    counts = np.bincount(
        one.impostor_query.astype(np.int64) * people + one.impostor_enrolled,
        minlength=people * people,
    ).reshape(people, people)
    thresholds, rates = [], []
    for _ in range(options.bootstrap):
        drawn = np.bincount(rng.integers(people, size=people), minlength=people)
        total = float(drawn @ counts @ drawn)
        if total == 0:  # one person alone was drawn
            continue
        accepted = np.cumsum((drawn[query] * drawn[enrolled]).astype(np.int64))
        refused = int(np.searchsorted(accepted, options.far * total, side="right"))
        # just above the first comparison that must be refused, as `threshold_at_far`
        threshold = float(np.nextafter(value[min(refused, tail - 1)], np.float32(np.inf)))
        thresholds.append(threshold)
        weight = drawn[one.genuine_person]
        if weight.sum():
            right = weight[one.genuine >= np.float64(threshold)].sum()
            rates.append(float(right / weight.sum()))
    return np.array(thresholds), np.array(rates)


def _curve(one: Comparisons) -> Curve:
    edges = np.linspace(-1, 1, BINS + 1)
    rates = np.geomspace(resolvable_far(one.impostors_a_round), 1, _POINTS)
    highest = np.sort(one.impostor)
    allowed = np.minimum((rates * len(highest) * (1 + 1e-12)).astype(np.int64), len(highest) - 1)
    thresholds = np.nextafter(highest[len(highest) - allowed - 1], np.float32(np.inf))
    genuine = np.sort(one.genuine)
    passed = len(genuine) - np.searchsorted(genuine, thresholds)
    return Curve(
        tuple(np.histogram(one.genuine, edges)[0].tolist()),
        tuple(np.histogram(one.impostor, edges)[0].tolist()),
        tuple(_short(rate) for rate in rates),
        tuple(_short(min(1.0, threshold)) for threshold in thresholds),
        tuple(_short(rate / len(genuine)) for rate in passed) if len(genuine) else (),
    )


def _single(compared: Mapping[ModalityPair, Comparisons], far: float) -> Single:
    together = np.concatenate([one.impostor for one in compared.values()])
    threshold = rounded_up(threshold_at_far(together, far))
    rates = {pair: accepted_share(one.impostor, threshold) for pair, one in compared.items()}
    return Single(threshold, {pair: _short(rate) for pair, rate in rates.items()})


def _warnings(
    compared: Mapping[ModalityPair, Comparisons], options: LearningOptions
) -> tuple[str, ...]:
    lines = []
    few = {
        pair.value: one.impostors_a_round
        for pair, one in compared.items()
        if not resolves(one.impostors_a_round, options.far)
    }
    if few:
        least = min(few.values())
        lines.append(
            f"FAR {options.far:g} cannot be told for {', '.join(few)}: {least:,} comparisons of "
            f"two people, {round(10 / options.far):,} are needed. They tell FAR "
            f"{resolvable_far(least):.2g}; give more people, or a larger --far"
        )
    short = [
        f"{pair.value} {one.crops:.1f} and {one.prototypes:.1f}"
        for pair, one in compared.items()
        if one.crops < options.crops_per_query or one.prototypes < options.prototypes
    ]
    if short:
        lines.append(
            f"fewer crops than a live run would have: asked for {options.crops_per_query} a query "
            f"and {options.prototypes} prototypes, there were {'; '.join(short)}. With fewer "
            "prototypes the threshold is too low for a full gallery"
        )
    within = [pair.value for pair, one in compared.items() if one.genuine_from == WITHIN]
    if within:
        lines.append(
            f"the data do not say which crops of {' and '.join(within)} are of different cameras: "
            "near-duplicates make TAR look better than it is (not the thresholds, which come of "
            "different people)"
        )
    return tuple(lines)


def rounded_up(threshold: float) -> float:
    """To six decimals, never below: what had to be refused is refused.

    Raises: DatasetError if two people reach a cosine of 1, where no threshold parts them.
    """
    scale = float(10**DECIMALS)
    up = round(math.ceil(threshold * scale) / scale, DECIMALS)
    if up > 1.0:
        raise DatasetError(
            "two people have embeddings of cosine 1: no threshold refuses them. Are crops of one "
            "person filed under two identities, or is the network untrained?"
        )
    return up


def _rate_up(rate: float) -> float:
    """With two digits, never below."""
    decimals = 1 - math.floor(math.log10(rate))
    scale = 10.0**decimals
    return round(math.ceil(rate * scale / _WHOLE) / scale, decimals)


def _short(value: float) -> float:
    return round(float(value), DECIMALS)
