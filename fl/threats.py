"""The threat card of a configuration: each role's secrets and view, the coalitions that read an update, and the limits.

The limits are risks that no setting removes. Each line is a whole sentence, computed from the configuration; topics put
the lines in order. The card's epsilon is that of the run as planned; a run's ledger holds its actual epsilon.
"""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeGuard

from fl.plan import HIDDEN_AMONG, RunPlan
from fl.workspace import Workspace
from privacy.accounting.ledger import Ledger
from privacy.secure_sums.contract import SecureSum
from privacy.secure_sums.trust import SERVER_ALONE, Trust
from privacy.witness.examine import FALSE_ALARM

if TYPE_CHECKING:  # they take TenSEAL, which other sums can do without
    from privacy.secure_sums.he.protocol import OpenedSum
    from privacy.secure_sums.he.selective_protocol import SelectiveSum
    from privacy.secure_sums.he.sums import CkksSum

FLOATING = ("dp_sgd", "client_dp", "dp_ftrl", "local_dp")  # mechanisms whose noise is no integer
NOISED_BY_CLIENTS = ("dp_sgd", "local_dp", "distributed_dp")
NEIGHBOURS = {
    "add_remove": "differ by one {unit}, there or not",
    "replace": "differ in one {unit}, replaced by another",
    "zero_out": "differ in one {unit}, whose contribution becomes zero",
}


def explained(work: Workspace) -> dict[str, list[str]]:
    """Return the sentences by topic, in reading order; topics without sentences are left out."""
    plan = work.plan
    trust = plan.backend.secure_sum.trust(work.spec)
    topics = {
        "trust": [f"{_capital(plan.assumption)}.", *_measured(plan)],
        "keys": [*_holders(trust), *_holders_of_keys(plan)],
        "sight": [f"{_capital(party)} sees {what}." for party, what in trust.sees.items()],
        "coalition": list(_coalitions(plan, trust)),
        "drop-out": [trust.drop_out, *_least(plan)],
        "protocol": [*plan.backend.secure_sum.caveats, *_protocol(plan)],
        "witness": list(_witness(plan)),
        "noise": list(_noise(plan)),
        "epsilon": list(_epsilon(plan)),
        "in sight": [*_sizes(plan), *_data(plan), *_reports(plan)],
        "beyond": list(_beyond(plan)),
    }
    return {topic: lines for topic, lines in topics.items() if lines}


def threat_card(work: Workspace) -> list[str]:
    """Return the lines of `explained` without their topics, the trust assumption first."""
    return [line for lines in explained(work).values() for line in lines]


def _capital(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}"


def _holders(trust: Trust) -> Iterator[str]:
    for party, what in trust.holds.items():
        yield f"{_capital(party)} holds {what}."


def _is_opened(secure_sum: SecureSum) -> "TypeGuard[OpenedSum]":
    return _is(secure_sum, "privacy.secure_sums.he.protocol", "OpenedSum")


def _is_selective(secure_sum: SecureSum) -> "TypeGuard[SelectiveSum]":
    return _is(secure_sum, "privacy.secure_sums.he.selective_protocol", "SelectiveSum")


def _is_ckks(secure_sum: SecureSum) -> "TypeGuard[CkksSum]":
    return _is(secure_sum, "privacy.secure_sums.he.sums", "CkksSum")


def _is(secure_sum: SecureSum, module: str, name: str) -> bool:
    """True where a sum is of a named class; without importing its module, as no sum has the class before an import."""
    return module in sys.modules and isinstance(secure_sum, getattr(sys.modules[module], name))


def _coalitions(plan: RunPlan, trust: Trust) -> Iterator[str]:
    secure_sum = plan.backend.secure_sum
    read = "a part of one" if _is_selective(secure_sum) and not secure_sum.hides else "one"
    coalitions = trust.coalitions
    if plan.relayed:
        coalitions = (("a server that exchanges keys",), *coalitions)
    if plan.config.runtime.measure_sum_error:
        coalitions = SERVER_ALONE
    for coalition in coalitions:
        together = f"{' and '.join(coalition)} together read" if len(coalition) > 1 else f"{coalition[0]} alone reads"
        yield f"{_capital(together)} {read} client's update{_as_released(plan)}."


def _as_released(plan: RunPlan) -> str:
    """Return the clause that names the mechanisms that noise an update at the client; empty where there are none."""
    local = [m.name for m in plan.backend.mechanisms if m.name in NOISED_BY_CLIENTS]
    return f", as {' and '.join(local)} noised it" if local else ""


def _least(plan: RunPlan) -> Iterator[str]:
    if not plan.hides_something:
        return
    if plan.min_contributors < HIDDEN_AMONG:
        yield "A sum over one client alone is opened, which is its update (server.min_contributors=1)."
    else:
        yield f"Nothing is opened over fewer than {plan.min_contributors} clients (server.min_contributors)."


def _measured(plan: RunPlan) -> Iterator[str]:
    if plan.config.runtime.measure_sum_error:
        yield (
            "Clients send their contributions in the clear, to measure the error of the sum "
            "(runtime.measure_sum_error=true): the secure sum protects nothing."
        )


def _protocol(plan: RunPlan) -> Iterator[str]:
    secure_sum = plan.backend.secure_sum
    if not _is_opened(secure_sum):
        return
    opener = "the keyholder" if secure_sum.roles else "the client that opens a sum"
    if not secure_sum.masks:
        yield f"Nothing is masked (secure_sum.masks=false): {opener} decrypts whatever the server sends it."
        yield from _openings(secure_sum)
    if _is_selective(secure_sum) and not secure_sum.hides:
        chosen = "by the clients' sensitivities" if secure_sum.surveys else "at random, the same ones in every round"
        yield (
            f"The server sees {1 - secure_sum.fraction:.4g} of the values of each client's update, and which they are; "
            f"the others were chosen {chosen} (secure_sum.encrypt_fraction={secure_sum.fraction:g})."
        )
    if secure_sum.surveys:
        yield f"Of the sum of the clients' sensitivities {opener} learns all, and the server which are the largest."


def _witness(plan: RunPlan) -> Iterator[str]:
    if not plan.hides_something:
        return
    if not plan.config.witness:
        yield "Nobody looks at what clients send (witness=false): protection that is not switched on goes unnoticed."
        return
    yield (
        "Each client looks at its upload before it leaves: absence and reuse of protection stop the run, weak seeds go "
        f"unnoticed; a false alarm has a probability of at most {FALSE_ALARM:g}."
    )
    yield "Any client can end the run by saying that it saw something."


def _openings(secure_sum: "OpenedSum") -> Iterator[str]:
    """Yield the leakage of a decryption about the key (Li and Micciancio 2021), and the clients that open the sum."""
    if _is_ckks(secure_sum):
        rule = secure_sum.flooding
        if rule is None:
            yield "An opened sum tells the server the secret key of its round (secure_sum.flooding_bits=0)."
        else:
            yield f"Noise hides the key of a round in its opened sum, to 2^-{rule.bits} (secure_sum.flooding_bits)."
    if secure_sum.broadcast:
        yield "Every client opens the sum (secure_sum.broadcast=true)."


def _holders_of_keys(plan: RunPlan) -> Iterator[str]:
    if plan.config.runtime.name != "deployment":
        yield "This is a simulation: one party plays all roles and holds all keys."
    elif plan.config.runtime.federation is None:
        yield "All roles are processes of one user on one machine, who can read all keys (runtime.federation=null)."
    elif not plan.relayed:
        yield "Whoever hands out the roster could put keys of their own on it: its SHA-256 is to be compared."
    if plan.relayed:
        yield (
            "Public keys came through the server, so this protects against a passive server only: one that exchanges "
            "keys reads every update (runtime.roster=relayed)."
        )


def _noise(plan: RunPlan) -> Iterator[str]:
    private = [mechanism.name for mechanism in plan.backend.mechanisms if mechanism.unit is not None]
    if not private:
        return
    if plan.config.noise == "seeded":
        yield "Noise comes from the seed (noise=seeded): whoever knows it takes the noise off, so nothing is protected."
    else:
        yield "Noise comes from ChaCha20 under keys of the operating system (noise=os)."
    floating = [name for name in private if name in FLOATING]
    if floating:
        yield f"The noise of {' and '.join(floating)} is floating-point, whose rounding may leak (Mironov 2012)."


def _epsilon(plan: RunPlan) -> Iterator[str]:
    """Yield the epsilon of the run as planned, and the epsilons against coalitions with a guarantee of their own."""
    backend = plan.backend
    config = plan.config
    ledger = Ledger()
    for cohort in plan.schedule:
        ledger.add({client: charges for client in cohort if (charges := backend.charges(client))})
    for unit, epsilon in ledger.worst(config.delta, config.accountant).items():
        [relation] = {charge.relation for charge in backend.charges(plan.schedule[0][0]) if charge.unit == unit}
        against = " and ".join(backend.holds_against(unit)) or "nobody"
        yield f"Neighbouring data {NEIGHBOURS[relation].format(unit=unit)}."
        yield (
            f"Run as planned, epsilon is {epsilon:.3g} for a {unit} at delta {config.delta:g} "
            f"({config.accountant}), against {against}."
        )
    for mechanism in backend.mechanisms:
        for who, epsilon in mechanism.epsilons.items():
            yield f"Of {mechanism.name}, epsilon is {epsilon:.3g} against {who}."
    if any(m.unit == "client" and "server" not in m.holds_against for m in backend.mechanisms):
        yield "Noise is added at the server, which sees each exact sum before."


def _reports(plan: RunPlan) -> Iterator[str]:
    yield "Who takes part in which round, and when each answers, is in sight of the server."
    if plan.config.runtime.client_diagnostics:
        yield "Clients report exact norms and clipped fractions (runtime.client_diagnostics=true), beyond any epsilon."
    if plan.backend.secure_sum.hides and plan.config.runtime.client_metrics:
        yield "Clients report the times of their phases, and how many values were cut (runtime.client_metrics=true)."


def _beyond(plan: RunPlan) -> Iterator[str]:
    """Yield the risks that no protocol of this project removes."""
    if plan.hides_something:
        yield "A client that lies about a hidden update or weight is not found out by the sum."
        if not plan.backend.secure_sum.pinned or plan.relayed:
            yield "Nothing keeps one party from posing as many clients."
        else:
            yield "A roster keeps strangers out, not several of its clients who subtract their updates from a sum."
    yield "The models themselves tell of the data whatever epsilon, or its absence, allows."


def _sizes(plan: RunPlan) -> Iterator[str]:
    training = plan.config.training
    if training.weighting == "examples":
        declared = "declared public" if training.public_weights else "not declared public"
        yield f"Weights tell how many examples a client holds, {declared} (training.weighting=examples)."
    elif any(m.name == "dp_sgd" for m in plan.backend.mechanisms) and training.sample_rate is None:
        yield "The sampling rate is batch_size over a client's examples, so it tells them (training.sample_rate=null)."


def _data(plan: RunPlan) -> Iterator[str]:
    private = any(mechanism.unit is not None for mechanism in plan.backend.mechanisms)
    if private and plan.config.data.features == "none":
        yield "Pixels are normalised with the mean and deviation of all training images, which no epsilon covers."
