"""The privacy cost of a mechanism as a value: a `DpEvent` of dp-accounting, its unit, and the sum of several costs.

**Noise is in units of the sensitivity under the named relation**, see `privacy.accounting.epsilon`.
"""

import math
import numbers
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dp_accounting import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    NonPrivateDpEvent,
    NoOpDpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    SelfComposedDpEvent,
    ZCDpEvent,
)

from privacy.checks import UNITS
from privacy.errors import ConfigError

RELATIONS = ("add_remove", "zero_out", "replace")

Leaves = tuple[tuple[DpEvent, int], ...]  # events that are not compositions, each with its multiplicity


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


# Every kind of event that a ledger can hold, with the reader of each of its fields.
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


def kind_of(event: DpEvent) -> str:
    """Return the name of an event's kind in a ledger."""
    return type(event).__name__.removesuffix("DpEvent")


def event_to_json(event: DpEvent) -> dict[str, Any]:
    """Return an event as a JSON object: its kind and its fields.

    Raises:
        ConfigError: the event's kind is not one of `FIELDS`.
    """
    if type(event) not in FIELDS:
        raise ConfigError.of("event", kind_of(event), f"allowed are {', '.join(KINDS)}")
    fields = {name: getattr(event, name) for name in FIELDS[type(event)]}
    return {"kind": kind_of(event), **{name: _field_to_json(value) for name, value in fields.items()}}


def _field_to_json(value: Any) -> Any:
    if isinstance(value, DpEvent):
        return event_to_json(value)
    return [event_to_json(one) for one in value] if isinstance(value, list | tuple) else value


def event_from_json(data: Any) -> DpEvent:
    """Return the event that `event_to_json` wrote, in canonical form: floats, whole counts, tuples, so that it hashes.

    Raises:
        ConfigError: an unknown kind, a missing or unknown field, or a value out of its range.
    """
    kind = KINDS.get(str(data.get("kind"))) if isinstance(data, Mapping) else None
    if kind is None or set(data) != {"kind", *FIELDS[kind]}:
        raise ConfigError.of("event", data, "is not an event in the format of a ledger")
    event = kind(**{name: read(name, data[name]) for name, read in FIELDS[kind].items()})
    if isinstance(event, SampledWithoutReplacementDpEvent) and not event.sample_size <= event.source_dataset_size:
        raise ConfigError.of("sample_size", event.sample_size, f"must be at most {event.source_dataset_size}")
    return event


@dataclass(frozen=True)
class Charge:
    """The cost of one participation of one client. Its event is put into canonical form, so equal charges hash equal.

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
        one_of("unit", self.unit, UNITS)
        one_of("relation", self.relation, RELATIONS)
        object.__setattr__(self, "event", _event("event", self.event))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; equal charges give equal text under sorted keys."""
        return {**vars(self), "event": event_to_json(self.event)}

    @classmethod
    def from_json(cls, data: Any) -> "Charge":
        """Return the charge that `to_json` wrote.

        Raises:
            ConfigError: the data is not a charge as `to_json` writes it.
        """
        if not isinstance(data, Mapping) or set(data) != set(cls.__dataclass_fields__):
            raise ConfigError.of("charge", data, f"must hold {', '.join(cls.__dataclass_fields__)}")
        return cls(**data)


@dataclass(frozen=True)
class Composition:
    """The sum of charges. An empty sum costs nothing in every unit, and carries the first unit and first relation."""

    unit: str
    relation: str
    event: DpEvent


def compose(charges: Iterable[tuple[Charge, int]]) -> Composition:
    """Add charges with their multiplicities, in any order.

    Raises:
        ConfigError: charges of different units or relations, or a negative multiplicity.
    """
    charges = list(charges)
    if not charges:
        return Composition(UNITS[0], RELATIONS[0], NoOpDpEvent())
    unit = _common("unit", (charge.unit for charge, _ in charges))
    relation = _common("relation", (charge.relation for charge, _ in charges))
    leaves = leaves_of(ComposedDpEvent([SelfComposedDpEvent(charge.event, times) for charge, times in charges]))
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


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not allowed.

    Raises:
        ConfigError: the value is not one of `allowed`.
    """
    if value not in allowed:
        raise ConfigError.of(key, value, f"allowed are {', '.join(allowed)}")


def leaves_of(event: DpEvent) -> Leaves:
    """Return the event without its compositions, equal leaves merged, in an order that does not depend on a hash."""
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
    """Return Gaussian noise with a standard deviation of `noise_multiplier` times the sensitivity; 0 protects nothing.

    Raises:
        ConfigError: `noise_multiplier` is not a finite number of at least 0.
    """
    sigma = _number("noise_multiplier", noise_multiplier)
    return GaussianDpEvent(sigma) if sigma > 0 else NonPrivateDpEvent()


def poisson_steps(noise_multiplier: float, sample_rate: float, steps: int) -> DpEvent:
    """Return `steps` steps of DP-SGD, each on a Poisson sample (Abadi et al. 2016); a rate of 1 means no sampling.

    Raises:
        ConfigError: a noise multiplier, rate or number of steps out of range.
    """
    gaussian = gaussian_event(noise_multiplier)
    rate = _rate("sample_rate", sample_rate)
    count = _count("steps", steps)
    if rate == 0 or count == 0:
        return NoOpDpEvent()
    if isinstance(gaussian, NonPrivateDpEvent):
        return gaussian
    return SelfComposedDpEvent(PoissonSampledDpEvent(rate, gaussian) if rate < 1 else gaussian, count)
