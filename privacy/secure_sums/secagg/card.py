"""The card of secure aggregation: who must not collude, who holds and sees what, and how many must be left.

All numbers are of `graph.Bounds`, whose plans clients enforce on the lists that a server sends them.
"""

from dataclasses import replace

from privacy.secure_sums.secagg.graph import CURIOUS, MALICIOUS, Bounds
from privacy.secure_sums.trust import EVERYTHING, LEFT_OUT, Trust
from privacy.secure_sums.vectors import VectorSpec


def assumption(bounds: Bounds, cohort: int) -> str:
    """The sentence that names the clients that must not collude, for a cohort of this size."""
    if cohort == 1:
        return "the server is trusted: a cohort of one client has nobody to hide among"
    return f"the server does not collude with {_colluding(bounds, cohort, 1)}"


def trust(bounds: Bounds, spec: VectorSpec) -> Trust:
    """The trust assumptions for a cohort of the spec's size, over all lists and sums that clients accept."""
    cohort = spec.cohort_size
    sentences = {"protocol": (*_limits(bounds, spec), "Any client can end a round with a wrong share.")}
    if cohort == 1:
        return replace(EVERYTHING, sentences=sentences)
    holds = {"each client": "the keys of its own masks, and a share of each neighbour's keys"}
    sees = {"the server": "masked vectors, the keys of clients that dropped out, and the sum"}
    threshold = bounds.plan(cohort, cohort).threshold
    drop_out = f"{LEFT_OUT} Its masks are removed with the shares of {threshold} neighbours."
    coalition = ("the server", _colluding(bounds, cohort, spec.min_contributors))
    return Trust((coalition,), drop_out, holds, sees, sentences=sentences)


def _colluding(bounds: Bounds, cohort: int, minimum: int) -> str:
    """The smallest coalition beside the server, in words."""
    degree = bounds.plan(cohort, cohort).degree
    return f"{bounds.coalition(cohort, minimum)} of a client's {_neighbours(degree)}"


def _neighbours(number: int) -> str:
    return f"{number} neighbour{'' if number == 1 else 's'}"


def _limits(bounds: Bounds, spec: VectorSpec) -> list[str]:
    """Whole sentences about the limits of a cohort of the spec's size."""
    cohort = spec.cohort_size
    plan = bounds.plan(cohort, cohort)
    honest = replace(bounds, server=CURIOUS).reading(plan, spec.min_contributors)
    told = f"It takes {_neighbours(honest)} where the server follows the protocol."
    again = (
        "A round that is interrupted while its sum is opened, and tried again without some of its clients, may tell "
        "the server the difference of two sums."
    )
    least = max(plan.least, spec.least)
    left = f"Of a cohort of {cohort}, {least} must be left, or the round is refused."
    chosen = (
        "A server that colludes with clients can try keys until a graph suits it: a try succeeds with probability "
        f"2^-{bounds.security_bits} at most (secure_sum.collusion_rate={bounds.collusion_rate:g})."
    )
    lies = told if bounds.server == MALICIOUS else again
    return [*([lies] if cohort > 1 else []), left, *([] if plan.complete else [chosen])]
