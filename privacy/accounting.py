"""What a mechanism costs, as a value, and the epsilon that follows.

A cost is a `DpEvent` of dp-accounting; three accountants turn events into epsilon:

- `prv`, Opacus (Gopi et al. 2021): Gaussians, alone or Poisson sampled. Its errors of epsilon (0.01) and delta (a
  thousandth) are added, so it is an upper bound.
- `pld`, dp-accounting (Doroshenko et al. 2022): Gaussian and Laplace, alone or Poisson sampled. Tight, rounded up.
- `rdp`, dp-accounting (Mironov 2017, Canonne et al. 2020): the most events. Looser, but never expensive. `ZCDp` events
  are composed at integer orders, because the theorem about Skellam noise is stated for those.

**Noise is in units of the sensitivity under the relation that is named.** With vectors clipped to C that sensitivity
is C under `add_remove` and `zero_out`, and 2 C under `replace`. So an unsampled mechanism costs the same under each.

- `zero_out` (Kairouz et al. 2021, Definition 1.1): a record that becomes zero gives a Gaussian, sampled or not, the
  same two distributions as one that is removed; dp-accounting treats it so (`pld.from_gaussian_mechanism`), and we too.
- `replace` with `pld`: dp-accounting takes noise in units of C there, so it is doubled before it is handed over.
- `replace` with `rdp`: a Gaussian of the full sensitivity, or sampled without replacement (Wang et al. 2019, Theorem
  27, whose noise is in units of the sensitivity too); dp-accounting refuses Poisson sampling.
- `replace` with `prv`: a Gaussian of the full sensitivity; sampled ones are refused, Opacus accounts for adding and
  removing only.
- Both directions: `pld` takes the worse one. `prv` and `rdp` take removal, the worse one of a single sampled Gaussian
  (Mironov et al. 2019, Theorem 5); a test holds `prv` against `pld` under composition.
"""

import logging
import math
import numbers
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NeighboringRelation,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    SelfComposedDpEvent,
    ZCDpEvent,
    get_sigma_gaussian,
)
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant, RDPAccountant

from privacy.errors import ConfigError
from privacy.parameters import ACCOUNTANTS, UNITS, positive

RELATIONS = ("add_remove", "zero_out", "replace")

NEIGHBORS = {
    "add_remove": NeighboringRelation.ADD_OR_REMOVE_ONE,
    "zero_out": NeighboringRelation.REPLACE_SPECIAL,
    "replace": NeighboringRelation.REPLACE_ONE,
}

PRV_EPSILON_ERROR = 0.01
PRV_DELTA_ERROR = 1e-3  # times delta
PRV_LEAST_DELTA = 1e-10  # below it the rounding of its FFT passes its error: measured, 1e-11 gave less than pld
PLD_INTERVAL = 1e-4  # dp-accounting's default
PLD_TAIL = 1e-15  # dp-accounting's default
MOST_POINTS = 2**23  # of a discretised privacy loss: some 1.5 GB and 10 s

# Where a bound is stated for integer orders alone: close where epsilon is large, up to what 1e-3 asks for.
INTEGER_ORDERS = (*range(2, 129), *(round(2 ** (k / 8)) for k in range(57, 129)))

LEAST_SIGMA, MOST_SIGMA = 1e-3, 1e6
SIGMA_TOLERANCE = 1e-3

# Where Renyi DP of a low order does not converge, dp-accounting leaves it out (still a bound) and warns each time.
logging.getLogger("absl").addFilter(lambda record: not str(record.msg).startswith("_compute_log_a_frac"))

Leaves = tuple[tuple[DpEvent, int], ...]  # events that are no composition, each with its multiplicity


def _number(key: str, value: Any, most: float = math.inf) -> float:
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not (math.isfinite(number) and 0 <= number <= most):
        raise ConfigError.of(key, value, "must be a finite number of at least 0" if most > 1 else "must be in [0, 1]")
    return number + 0.0  # -0.0 becomes 0.0


def _rate(key: str, value: Any) -> float:
    return _number(key, value, most=1.0)


def _count(key: str, value: Any) -> int:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or int(value) < 0:
        raise ConfigError.of(key, value, "must be a whole number of at least 0")
    return int(value)


def _event(key: str, value: Any) -> DpEvent:  # noqa: ARG001
    return event_from_json(event_to_json(value) if isinstance(value, DpEvent) else value)


def _events(key: str, value: Any) -> tuple[DpEvent, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError.of(key, value, "must be a list of events")
    return tuple(_event(key, one) for one in value)


# Every event that we account, with the reader of each of its fields: what a ledger can hold.
FIELDS: dict[type[DpEvent], dict[str, Callable[[str, Any], Any]]] = {
    NoOpDpEvent: {},
    NonPrivateDpEvent: {},
    GaussianDpEvent: {"noise_multiplier": _number},
    LaplaceDpEvent: {"noise_multiplier": _number},
    ZCDpEvent: {"rho": _number, "xi": _number},
    PoissonSampledDpEvent: {"sampling_probability": _rate, "event": _event},
    SampledWithoutReplacementDpEvent: {"source_dataset_size": _count, "sample_size": _count, "event": _event},
    SelfComposedDpEvent: {"event": _event, "count": _count},
    ComposedDpEvent: {"events": _events},
}
KINDS = {kind.__name__.removesuffix("DpEvent"): kind for kind in FIELDS}


def _kind(event: DpEvent) -> str:
    return type(event).__name__.removesuffix("DpEvent")


def event_to_json(event: DpEvent) -> dict[str, Any]:
    """An event as a JSON object: its kind and its fields.

    Raises:
        ConfigError: an event of a kind that we do not account.
    """
    if type(event) not in FIELDS:
        raise ConfigError.of("event", _kind(event), f"allowed are {', '.join(KINDS)}")
    fields = {name: getattr(event, name) for name in FIELDS[type(event)]}
    return {"kind": _kind(event), **{name: _field_to_json(value) for name, value in fields.items()}}


def _field_to_json(value: Any) -> Any:
    if isinstance(value, DpEvent):
        return event_to_json(value)
    return [event_to_json(one) for one in value] if isinstance(value, list | tuple) else value


def event_from_json(data: Any) -> DpEvent:
    """The event that `event_to_json` wrote, in canonical form: floats, whole counts, tuples, so that it hashes.

    Raises:
        ConfigError: an unknown kind, a field too many or too few, or a value out of its range.
    """
    kind = KINDS.get(str(data.get("kind"))) if isinstance(data, Mapping) else None
    if kind is None or set(data) != {"kind", *FIELDS[kind]}:
        raise ConfigError.of("event", data, "is no event that was written here")
    event = kind(**{name: read(name, data[name]) for name, read in FIELDS[kind].items()})
    if isinstance(event, SampledWithoutReplacementDpEvent) and not event.sample_size <= event.source_dataset_size:
        raise ConfigError.of("sample_size", event.sample_size, f"must be at most {event.source_dataset_size}")
    return event


@dataclass(frozen=True)
class Charge:
    """What one participation of one client costs. Its event is put into canonical form, so equal charges hash equal.

    Raises:
        ConfigError: an unknown unit, relation or kind of event, or a value out of its range.
    """

    mechanism: str
    unit: str
    relation: str
    event: DpEvent

    def __post_init__(self) -> None:
        if not isinstance(self.mechanism, str):
            raise ConfigError.of("mechanism", self.mechanism, "must be a name")
        _one_of("unit", self.unit, UNITS)
        _one_of("relation", self.relation, RELATIONS)
        object.__setattr__(self, "event", _event("event", self.event))

    def to_json(self) -> dict[str, Any]:
        """A JSON object; equal charges give equal text under sorted keys."""
        return {**vars(self), "event": event_to_json(self.event)}

    @classmethod
    def from_json(cls, data: Any) -> "Charge":
        """The charge that `to_json` wrote.

        Raises:
            ConfigError: anything else.
        """
        if not isinstance(data, Mapping) or set(data) != set(cls.__dataclass_fields__):
            raise ConfigError.of("charge", data, f"must hold {', '.join(cls.__dataclass_fields__)}")
        return cls(**data)


@dataclass(frozen=True)
class Composition:
    """Charges added up. No charge at all costs nothing in every unit, and carries the first of each."""

    unit: str
    relation: str
    event: DpEvent


def compose(charges: Iterable[tuple[Charge, int]]) -> Composition:
    """Add charges with their multiplicities, in whatever order they come.

    Raises:
        ConfigError: charges of different units or relations, or a negative multiplicity.
    """
    charges = list(charges)
    if not charges:
        return Composition(UNITS[0], RELATIONS[0], NoOpDpEvent())
    unit = _common("unit", (charge.unit for charge, _ in charges))
    relation = _common("relation", (charge.relation for charge, _ in charges))
    leaves = _leaves(ComposedDpEvent([SelfComposedDpEvent(charge.event, times) for charge, times in charges]))
    return Composition(unit, relation, _composed(leaves))


def _composed(leaves: Leaves) -> DpEvent:
    parts = tuple(SelfComposedDpEvent(leaf, times) for leaf, times in leaves)
    if not parts:
        return NoOpDpEvent()
    return parts[0] if len(parts) == 1 else ComposedDpEvent(parts)


def _common(key: str, values: Iterable[str]) -> str:
    found = sorted(set(values))
    if len(found) > 1:
        raise ConfigError.of(key, " and ".join(found), f"costs under more than one {key} cannot be added")
    return found[0]


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError.of(key, value, f"allowed are {', '.join(allowed)}")


def _leaves(event: DpEvent) -> Leaves:
    """The event without its compositions, equal leaves together, in an order that no hash decides."""
    return tuple(sorted(_tally(_event("event", event), 1).items(), key=repr))


def _tally(event: DpEvent, times: int) -> Counter[DpEvent]:
    match event:
        case SelfComposedDpEvent():
            return _tally(event.event, times * event.count)
        case ComposedDpEvent():
            return sum((_tally(one, times) for one in event.events), Counter())
        case PoissonSampledDpEvent(sampling_probability=1):
            return _tally(event.event, times)
        case PoissonSampledDpEvent() if event.sampling_probability == 0 or not _tally(event.event, 1):
            return Counter()
        case NoOpDpEvent():
            return Counter()
    return Counter({event: times} if times else {})


def gaussian_event(noise_multiplier: float) -> DpEvent:
    """Gaussian noise whose standard deviation is `noise_multiplier` times the sensitivity; 0 protects nothing.

    Raises:
        ConfigError: not a finite number of at least 0.
    """
    sigma = _number("noise_multiplier", noise_multiplier)
    return GaussianDpEvent(sigma) if sigma > 0 else NonPrivateDpEvent()


def poisson_steps(noise_multiplier: float, sample_rate: float, steps: int) -> DpEvent:
    """`steps` steps of DP-SGD, each on a Poisson sample (Abadi et al. 2016); at a rate of 1 nothing is sampled.

    Raises:
        ConfigError: a noise multiplier, rate or number of steps out of range.
    """
    gaussian = gaussian_event(noise_multiplier)
    rate, count = _rate("sample_rate", sample_rate), _count("steps", steps)
    if rate == 0 or count == 0:
        return NoOpDpEvent()
    if isinstance(gaussian, NonPrivateDpEvent):
        return gaussian
    return SelfComposedDpEvent(PoissonSampledDpEvent(rate, gaussian) if rate < 1 else gaussian, count)


def analytic_gaussian_sigma(epsilon: float, delta: float) -> float:
    """The least standard deviation at which a Gaussian of sensitivity 1 is (epsilon, delta)-DP.

    dp-accounting solves Theorem 8 of Balle and Wang (2018), as their Algorithm 1 does, up to 1e-12 on either side.

    Raises:
        ConfigError: epsilon is not above 0, or delta is not between 0 and 1.
    """
    positive("epsilon", epsilon)
    _check_delta(delta)
    return float(get_sigma_gaussian(epsilon, delta)) * (1 + 1e-9)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError.of("delta", delta, "must be between 0 and 1")


def epsilon(event: DpEvent, delta: float, accountant: str, relation: str = "add_remove") -> float:
    """The epsilon of an event at `delta`; 0 where nothing is released, infinity where something is without noise.

    Never NaN. Results are cached.

    Raises:
        ConfigError: the accountant cannot account the event under this relation, or it would cost too much memory or
            precision: the message names an accountant that can.
    """
    _check_delta(delta)
    _one_of("accountant", accountant, ACCOUNTANTS)
    _one_of("relation", relation, RELATIONS)
    return _epsilon(_leaves(event), delta, accountant, relation)


@lru_cache(maxsize=4096)
def _epsilon(leaves: Leaves, delta: float, accountant: str, relation: str) -> float:
    if not leaves:
        return 0.0
    if any(_is_bare(leaf) for leaf, _ in leaves):
        return math.inf
    _refuse_unsupported(leaves, accountant, relation)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            # Opacus looks for a domain that is large enough; that its last order is the best one only makes it larger
            warnings.filterwarnings("ignore", "Optimal order is the")
            value = float(ACCOUNT[accountant](leaves, delta, relation))
    except ConfigError:
        raise
    except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
        raise _too_much(accountant, str(error)) from error
    if math.isnan(value):
        raise _too_much(accountant, "epsilon is not a number")
    return max(0.0, value)


def _is_bare(leaf: DpEvent) -> bool:
    """Whether something is released without noise."""
    if isinstance(leaf, PoissonSampledDpEvent | SampledWithoutReplacementDpEvent):
        return any(_is_bare(inner) for inner, _ in _leaves(leaf.event))
    return isinstance(leaf, NonPrivateDpEvent) or getattr(leaf, "noise_multiplier", None) == 0


def _too_much(accountant: str, why: str) -> ConfigError:
    remedy = "raise the noise" if accountant == "rdp" else "use accountant=rdp"
    return ConfigError.of("accountant", accountant, f"cannot compute this epsilon ({why}); {remedy}")


def _supports(accountant: str, leaf: DpEvent, relation: str) -> bool:
    gaussian = isinstance(_released(leaf), GaussianDpEvent)
    if accountant == "prv":
        return gaussian and (relation != "replace" or isinstance(leaf, GaussianDpEvent))  # in units of its sensitivity
    if accountant == "pld":
        return bool(PLDAccountant(NEIGHBORS[relation]).supports(leaf)) and (gaussian or relation != "replace")
    return bool(RdpAccountant(neighboring_relation=NEIGHBORS[relation]).supports(leaf))


def _released(leaf: DpEvent) -> DpEvent:
    return leaf.event if isinstance(leaf, PoissonSampledDpEvent) else leaf


def _refuse_unsupported(leaves: Leaves, accountant: str, relation: str) -> None:
    able = [name for name in ACCOUNTANTS if all(_supports(name, leaf, relation) for leaf, _ in leaves)]
    if accountant in able:
        return
    kinds = ", ".join(sorted({_kind(leaf) for leaf, _ in leaves if not _supports(accountant, leaf, relation)}))
    remedy = f"{' or '.join(reversed(able))} can do it" if able else "no accountant can do it"
    raise ConfigError.of("accountant", accountant, f"cannot account {kinds} under relation={relation}; {remedy}")


class _BoundedPrv(PRVAccountant):  # type: ignore[misc]
    """Opacus's accountant, which says so before it takes too much memory."""

    def _get_domain(self, prvs: list[Any], **settings: Any) -> Any:
        domain = super()._get_domain(prvs=prvs, **settings)
        if domain.size * len(prvs) > MOST_POINTS:
            raise _too_much("prv", f"{domain.size * len(prvs):.1g} points")
        return domain


def _prv(leaves: Leaves, delta: float, relation: str) -> float:  # noqa: ARG001
    if delta < PRV_LEAST_DELTA:
        raise _too_much("prv", f"delta={delta} is below its precision of {PRV_LEAST_DELTA}")
    accountant = _BoundedPrv()
    accountant.history = [
        (_released(leaf).noise_multiplier, getattr(leaf, "sampling_probability", 1.0), times) for leaf, times in leaves
    ]
    return float(accountant.get_epsilon(delta, eps_error=PRV_EPSILON_ERROR, delta_error=PRV_DELTA_ERROR * delta))


def _rdp(leaves: Leaves, delta: float, relation: str) -> float:
    orders = INTEGER_ORDERS if any(isinstance(leaf, ZCDpEvent) for leaf, _ in leaves) else None
    return float(_renyi(leaves, relation, orders).get_epsilon(delta))


def _renyi(leaves: Leaves, relation: str, orders: Sequence[float] | None) -> RdpAccountant:
    accountant = RdpAccountant(orders, NEIGHBORS[relation])
    for leaf, times in leaves:
        accountant.compose(leaf, times)
    return accountant


def _pld(leaves: Leaves, delta: float, relation: str) -> float:
    _bound_pld(leaves)
    accountant = PLDAccountant(NEIGHBORS[relation], PLD_INTERVAL)
    for leaf, times in leaves:
        accountant.compose(_in_clips(leaf) if relation == "replace" else leaf, times)
    return float(accountant.get_epsilon(delta))


def _in_clips(leaf: DpEvent) -> DpEvent:
    """A Gaussian with noise in units of the sensitivity 2 C, in units of C."""
    if isinstance(leaf, PoissonSampledDpEvent):
        return PoissonSampledDpEvent(leaf.sampling_probability, _in_clips(leaf.event))
    return GaussianDpEvent(2 * leaf.noise_multiplier)


def _bound_pld(leaves: Leaves) -> None:
    """Refuse a privacy loss that reaches too far; what Renyi DP bounds it by, up to the tail that is cut."""
    known = tuple((leaf, times) for leaf, times in leaves if _supports("rdp", leaf, "add_remove"))
    points = 2 * _rdp(known, PLD_TAIL, "add_remove") / PLD_INTERVAL
    if points > MOST_POINTS:
        raise _too_much("pld", f"{points:.1g} points")


ACCOUNT: dict[str, Callable[[Leaves, float, str], float]] = {"prv": _prv, "rdp": _rdp, "pld": _pld}


def epsilon_pre_2020(event: DpEvent, delta: float) -> float:
    """Epsilon as libraries printed it before 2020: min over alpha of RDP(alpha) - ln(delta) / (alpha - 1).

    Mironov (2017), Proposition 3, at Opacus's orders, under add/remove. For comparison with what was published.

    Raises:
        ConfigError: an event that Renyi DP does not account under add/remove.
    """
    _check_delta(delta)
    leaves, orders = _leaves(event), np.array(RDPAccountant.DEFAULT_ALPHAS)
    if not leaves:
        return 0.0
    if any(_is_bare(leaf) for leaf, _ in leaves):
        return math.inf
    _refuse_unsupported(leaves, "rdp", "add_remove")
    rdp = _renyi(leaves, "add_remove", RDPAccountant.DEFAULT_ALPHAS).rdp
    return float(np.min(rdp - math.log(delta) / (orders - 1)))


def solve_noise_multiplier(
    event_of: Callable[[float], DpEvent],
    target_epsilon: float,
    delta: float,
    accountant: str,
    relation: str = "add_remove",
) -> float:
    """The smallest noise multiplier at which `event_of` costs at most the target, within a thousandth above it.

    Raises:
        ConfigError: target_epsilon is out of reach (the smallest that is not is named), or met by hardly any noise;
            or what `epsilon` raises.
    """
    positive("target_epsilon", target_epsilon)

    def gap(name: str, under: str) -> Callable[[float], float]:
        return lambda sigma: _gap(epsilon(event_of(sigma), delta, name, under), target_epsilon)

    start = 1.0
    if accountant != "rdp":  # cheap, and close: it spares the expensive accountant the search, and its worst sizes
        with suppress(ConfigError):
            start = _root(gap("rdp", "add_remove"), 1.0, 10 * SIGMA_TOLERANCE)
    sigma = _root(gap(accountant, relation), start if LEAST_SIGMA < start < MOST_SIGMA else 1.0, SIGMA_TOLERANCE)
    if sigma < LEAST_SIGMA:
        allowed = f"a noise multiplier of {LEAST_SIGMA} costs less; give noise_multiplier itself"
        raise ConfigError.of("target_epsilon", target_epsilon, allowed)
    if sigma > MOST_SIGMA:
        least = epsilon(event_of(MOST_SIGMA), delta, accountant, relation)
        allowed = f"the smallest that accountant={accountant} gives at delta={delta} is {least:.4g}, whatever the noise"
        raise ConfigError.of("target_epsilon", target_epsilon, allowed)
    return sigma


def _gap(cost: float, target: float) -> float:
    """Logarithm of cost over target: above 0 exactly if the cost is."""
    if cost == 0:
        return -math.inf
    ratio = math.log(cost / target)
    return max(ratio, 1e-300) if cost > target else min(ratio, 0.0)


def _root(gap: Callable[[float], float], start: float, tolerance: float) -> float:
    """The least sigma without a positive gap, within a factor of 1 + tolerance above.

    0 or infinity where it lies outside of what we search. Regula falsi with halving (the Illinois rule) in logarithms,
    where epsilon over sigma is nearly a line: some six evaluations.
    """
    low, high, gap_low, gap_high = _bracket(gap, start)
    while low > 0 and high < math.inf and high > low * (1 + tolerance):
        sigma = _between(low, high, gap_low, gap_high, tolerance)
        found = gap(sigma)
        if found > 0:
            low, gap_low, gap_high = sigma, found, gap_high / 2
        else:
            high, gap_high, gap_low = sigma, found, gap_low / 2
    return high if low > 0 else 0.0


def _bracket(gap: Callable[[float], float], start: float) -> tuple[float, float, float, float]:
    """A sigma with a positive gap, one without, and the two gaps."""
    sigma, found = start, gap(start)
    while True:
        step = 1.02 * math.exp(min(abs(found), 2.0))  # epsilon falls about as 1 / sigma
        limit = MOST_SIGMA if found > 0 else LEAST_SIGMA
        if sigma == limit:
            return (sigma, math.inf, found, 0.0) if found > 0 else (0.0, sigma, 0.0, found)
        other = min(sigma * step, limit) if found > 0 else max(sigma / step, limit)
        there = gap(other)
        if (there > 0) != (found > 0):
            return (sigma, other, found, there) if found > 0 else (other, sigma, there, found)
        sigma, found = other, there


def _between(low: float, high: float, gap_low: float, gap_high: float, tolerance: float) -> float:
    """Where a line through both ends meets 0, a little above it so that the next step closes in from below."""
    share = gap_low / (gap_low - gap_high) if math.isfinite(gap_low - gap_high) else 0.5
    sigma = low * math.pow(high / low, share) * (1 + tolerance / 4)
    edge = 1 + 0.9 * tolerance
    return min(max(sigma, low * edge), high / edge)
