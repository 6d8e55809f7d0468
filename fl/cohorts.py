"""The cohort of each round: the whole schedule, made before the first round from the run's seed.

The only fact of the data that the schedule depends on is which clients hold examples. So the schedule is public where
all of them do (`data.allow_empty=false`), and accounting may rely on it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fl.config.schema import SamplerConfig
from privacy.errors import ConfigError
from privacy.randomness import seed_from

Schedule = tuple[tuple[int, ...], ...]  # the cohort of each round, round 1 first, sorted


def schedule(sampler: SamplerConfig, candidates: NDArray[np.int64], size: int, rounds: int, seed: int) -> Schedule:
    """Draw the cohorts of a run.

    `uniform` draws without replacement, independently in each round. `separated` draws among the clients whose last
    participation was at least `min_separation` rounds ago, and takes the clients with the fewest participations first.
    The first rounds of `separated` do not depend on the number of rounds.

    Raises:
        ConfigError: the separation or the number of participations cannot be kept.
    """
    apart = _checked_separation(sampler, len(candidates), size)
    _check_participations(sampler, len(candidates), size, rounds)
    if size == len(candidates):
        return (tuple(candidates.tolist()),) * rounds
    if sampler.name == "separated":
        return _separated(apart, candidates, size, rounds, seed)
    return tuple(_uniform(candidates, size, number, seed) for number in range(1, rounds + 1))


def _generator(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng(seed_from(seed, "cohort", number))


def _uniform(candidates: NDArray[np.int64], size: int, number: int, seed: int) -> tuple[int, ...]:
    return tuple(sorted(_generator(seed, number).choice(candidates, size, replace=False).tolist()))


def _separated(apart: int, candidates: NDArray[np.int64], size: int, rounds: int, seed: int) -> Schedule:
    """Draw cohorts that keep each client's participations `apart` rounds apart.

    The clients' numbers of participations never differ by more than one, so the largest number is the least possible.
    Proof: say that every client has participated m times. In the next `apart` rounds, each client that has m + 1
    participations or is not eligible was in one of the last apart - 1 cohorts, so at least `size` other clients are
    left. After these rounds, every client with m participations is eligible.
    """
    asked = np.zeros(len(candidates), np.int64)
    last = np.full(len(candidates), -apart)
    cohorts = []
    for number in range(1, rounds + 1):
        eligible = np.flatnonzero(number - last >= apart)
        order = np.lexsort((_generator(seed, number).random(len(eligible)), asked[eligible]))
        drawn = eligible[order[:size]]
        asked[drawn] += 1
        last[drawn] = number
        cohorts.append(tuple(sorted(candidates[drawn].tolist())))
    return tuple(cohorts)


def _checked_separation(sampler: SamplerConfig, clients: int, size: int) -> int:
    """Return the number of rounds from one participation of a client to its next."""
    possible = clients // size
    if sampler.min_separation is not None and sampler.min_separation > possible:
        allowed = f"must be at most {possible}: {clients} clients hold data, {size} of them are asked each round"
        raise ConfigError.of("sampler.min_separation", sampler.min_separation, allowed)
    return sampler.min_separation or possible


def _check_participations(sampler: SamplerConfig, clients: int, size: int, rounds: int) -> None:
    most = sampler.max_participations
    needed = -(-rounds * size // clients)
    if most is not None and most < needed:
        allowed = f"must be at least {needed}: {rounds} rounds ask {size} of the {clients} clients that hold data"
        raise ConfigError.of("sampler.max_participations", most, allowed)


def separation(cohorts: Sequence[Sequence[int]]) -> int:
    """Return the least number of rounds from one participation of a client to its next.

    Where no client participates twice, the result is the number of rounds plus 1.
    """
    least = len(cohorts) + 1
    last = dict[int, int]()
    for number, cohort in enumerate(cohorts):
        least = min(least, number - max((last.get(client, -least) for client in cohort), default=-least))
        if least == 1:  # the least possible value, which most schedules reach soon
            break
        last.update(dict.fromkeys(cohort, number))
    return least
