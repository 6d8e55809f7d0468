"""The threat card of a configuration: each role's secrets and view, the coalitions that read an update, and the limits.

The limits are risks that no setting removes. Each line is a whole sentence, computed from the configuration; topics put
the lines in order. The secure sum and the mechanisms say their own sentences, which come first in their topic. The
card's epsilon is that of the run as planned; a run's ledger holds its actual epsilon.
"""

import math
from collections.abc import Iterator

from fl.card.outputs import ABSENCE, FIGURES, READ, REPORTED, SCORED, TIMES
from fl.config.ranges import MOST_SHARE
from fl.plan import HIDDEN_AMONG
from fl.workspace import Workspace
from privacy.accounting.ledger import Ledger
from privacy.mechanisms.contract import CLIENT, NOISERS, PARTIES, SERVER, Mechanism
from privacy.secure_sums.trust import EVERYTHING, SERVER_ALONE, TOPICS, Coalition, Trust
from privacy.witness.examine import FALSE_ALARM, allowance, least_piece_bytes
from privacy.witness.plaintext_search import RUN
from results.measurements import TOLD_SHARE

NEIGHBOURS = {
    "add_remove": "differ by one {unit}, there or not",
    "replace": "differ in one {unit}, replaced by another",
    "zero_out": "differ in one {unit}, whose contribution becomes zero",
}


def explained(work: Workspace) -> dict[str, list[str]]:
    """Return the sentences by topic, in reading order; topics without sentences are left out.

    Topics that a backend adds to `TOPICS` come last.
    """
    trust = work.plan.backend.secure_sum.trust(work.spec)
    told = _told(work, trust)
    computed = {
        "trust": list(_measured(work)),
        "keys": [*_holders(trust), *_holders_of_keys(work)],
        "sight": [f"{_capital(party)} sees {what}." for party, what in trust.sees.items()],
        "coalition": list(_coalitions(work, trust)),
        "drop-out": [trust.drop_out, *_least(work)],
        "witness": list(_witness(work)),
        "noise": list(_noise(work)),
        "epsilon": list(_epsilon(work)),
        "in sight": [*_sizes(work), *_data(work), *_reports(work)],
        "beyond": [*_cut(work), *_beyond(work)],
    }
    topics = {topic: [*told.get(topic, ()), *computed.get(topic, ())] for topic in dict.fromkeys((*TOPICS, *told))}
    return {topic: lines for topic, lines in topics.items() if lines}


def threat_card(work: Workspace) -> list[str]:
    """Return the lines of `explained` without their topics, the trust assumption first."""
    return [line for lines in explained(work).values() for line in lines]


def _told(work: Workspace, trust: Trust) -> dict[str, list[str]]:
    """Return the backend's own sentences by topic: the assumption, and those of the secure sum and each mechanism."""
    told = {"trust": [f"{_capital(work.plan.assumption)}."]}
    for sentences in (trust.sentences, *(mechanism.sentences() for mechanism in work.plan.backend.mechanisms)):
        for topic, lines in sentences.items():
            told.setdefault(topic, []).extend(lines)
    return told


def _capital(sentence: str) -> str:
    return f"{sentence[0].upper()}{sentence[1:]}"


def _holders(trust: Trust) -> Iterator[str]:
    for party, what in trust.holds.items():
        yield f"{_capital(party)} holds {what}."


def _read_by(work: Workspace) -> tuple[Coalition, ...]:
    """Return the smallest coalitions that read one client's update with their keys and shares."""
    if work.plan.config.runtime.measure_sum_error:
        return SERVER_ALONE
    trust = work.plan.backend.secure_sum.trust(work.spec)
    if trust.subtracting == SERVER_ALONE[0]:
        return ()
    return (("a server that exchanges keys",), *trust.coalitions) if work.plan.relayed else trust.coalitions


def _subtracting(work: Workspace) -> Coalition:
    """Return the coalition that reads one client's update from an opened sum; empty where that takes none."""
    if work.plan.config.runtime.measure_sum_error:
        return ()
    return work.plan.backend.secure_sum.trust(work.spec).subtracting


def _coalitions(work: Workspace, trust: Trust) -> Iterator[str]:
    # of partly encrypted updates, a test tells the whole
    reads = EVERYTHING.reads if work.plan.config.runtime.measure_sum_error else trust.reads
    for coalition in _read_by(work):
        yield f"{_together(coalition)} {reads}{_as_released(work, CLIENT)}."
    subtracting = _subtracting(work)
    if subtracting:
        yield f"{_together(subtracting)} {EVERYTHING.reads}{_as_released(work, CLIENT, PARTIES)}."
    withstands = work.plan.backend.secure_sum.withstands
    if work.plan.hides_something and withstands.malicious and not withstands.several_models:
        yield (
            "A server that gives one client of a round another model than the others, whose updates it makes zero, "
            "alone reads that client's update from the sum: the noise of a mechanism alone limits that."
        )


def _together(coalition: Coalition) -> str:
    together = f"{' and '.join(coalition)} together read" if len(coalition) > 1 else f"{coalition[0]} alone reads"
    return _capital(together)


def _as_released(work: Workspace, *noisers: str) -> str:
    """Return the clause that names the mechanisms whose noise these roles add; empty where there are none."""
    noising = [m.name for m in work.plan.backend.mechanisms if m.noised_by in noisers]
    return f", as {' and '.join(noising)} noised it" if noising else ""


def _least(work: Workspace) -> Iterator[str]:
    plan = work.plan
    if not plan.hides_something:
        return
    least = plan.min_contributors
    if least < HIDDEN_AMONG:
        yield "A sum over one client alone is opened, which is its update (server.min_contributors=1)."
        return
    key = "min_contributors" if least == (plan.config.server.min_contributors or HIDDEN_AMONG) else "min_share"
    yield f"Nothing is opened over fewer than {least} clients (server.{key})."


def _measured(work: Workspace) -> Iterator[str]:
    if work.plan.config.runtime.measure_sum_error:
        yield (
            "Clients send their contributions in the clear, to measure the error of the sum "
            "(runtime.measure_sum_error=true): the secure sum protects nothing."
        )


def _witness(work: Workspace) -> Iterator[str]:
    if not work.plan.hides_something:
        return
    if not work.plan.config.witness:
        yield "Nobody looks at what clients send (witness=false): protection that is not switched on goes unnoticed."
        return
    allowed = allowance(work.plan.config.rounds, work.plan.cohort_size)
    run_bytes = least_piece_bytes(work.spec.length, allowed) + 1  # packed values begin within a byte
    yield (
        f"Each client looks at its upload before it leaves: protection that is absent, even from {RUN} values in a row "
        f"of {run_bytes} bytes or more (zeros aside), or that is the client's last one again, stops the run."
    )
    yield (
        "Shorter runs of values, a mask that several clients share and weak seeds go unnoticed; a false alarm has a "
        f"probability of at most {FALSE_ALARM:g}."
    )
    yield "Any client can end the run by saying that it saw something."


def _holders_of_keys(work: Workspace) -> Iterator[str]:
    if work.plan.config.runtime.name != "deployment":
        yield "This is a simulation: one party plays all roles and holds all keys."
    elif work.plan.config.runtime.federation is None:
        yield "All roles are processes of one user on one machine, who can read all keys (runtime.federation=null)."
    elif not work.plan.relayed:
        yield "Whoever hands out the roster could put keys of their own on it: its SHA-256 is to be compared."
    if work.plan.relayed:
        yield (
            "Public keys came through the server, so this protects against a passive server only: one that exchanges "
            "keys reads every update (runtime.roster=relayed)."
        )


def _noise(work: Workspace) -> Iterator[str]:
    private = work.plan.backend.private
    if not private:
        return
    if work.plan.config.noise == "seeded":
        yield "Noise comes from the seed (noise=seeded): whoever knows it takes the noise off, so nothing is protected."
    else:
        yield "Noise comes from ChaCha20 under keys of the operating system (noise=os)."
    floating = [mechanism.name for mechanism in private if mechanism.floating_noise]
    if floating:
        yield f"The noise of {' and '.join(floating)} is floating-point, whose rounding may leak (Mironov 2012)."
    for mechanism in private:
        yield from _unsaid(mechanism)


def _unsaid(mechanism: Mechanism) -> Iterator[str]:
    """Yield a sentence about a mechanism that does not say enough about its noise."""
    facts = {
        "who adds its noise": mechanism.noised_by in NOISERS,
        "whether its noise is floating-point": mechanism.floating_noise is not None,
    }
    unsaid = [fact for fact, said in facts.items() if not said]
    if unsaid:
        yield f"The mechanism {mechanism.name} does not say {' or '.join(unsaid)}."


def _epsilon(work: Workspace) -> Iterator[str]:
    """Yield the epsilon of the run as planned, and the epsilons against coalitions with a guarantee of their own."""
    backend = work.plan.backend
    config = work.plan.config
    for unit, epsilon in _ledger(work).worst(config.delta, config.accountant).items():
        [relation] = {charge.relation for charge in backend.charges(work.plan.schedule[0][0]) if charge.unit == unit}
        against = " and ".join(backend.holds_against(unit)) or "nobody"
        yield f"Neighbouring data {NEIGHBOURS[relation].format(unit=unit)}."
        yield (
            f"Run as planned, epsilon is {epsilon:.3g} for a {unit} at delta {config.delta:g} "
            f"({config.accountant}), against {against}."
        )
        yield _enforced(work, unit)
    if config.server.patience is not None and work.plan.private:
        yield (
            "The run may end early, by the loss on public examples of the server (server.patience); as that "
            "depends on the models, epsilon is that of all planned rounds."
        )
    for mechanism in backend.mechanisms:
        for who, epsilon in mechanism.epsilons.items():
            yield f"Of {mechanism.name}, run as planned, epsilon is {epsilon:.3g} against {who}."
    told_server = [m.noised_by for m in backend.mechanisms if m.unit == "client" and "server" not in m.holds_against]
    if SERVER in told_server:
        yield "Noise is added at the server, which sees each exact sum before."
    if CLIENT in told_server:
        yield "Clients add the noise in shares: a server that sees single contributions faces one share alone."


def _ledger(work: Workspace, retries: int = 0) -> Ledger:
    """Return the ledger of the run as planned, or of one in which each client contributes `retries` times more."""
    plan = work.plan
    times = {client: planned + retries for client, planned in enumerate(plan.participations) if planned}
    ledger = Ledger()
    ledger.add({client: owed * times[client] for client in times if (owed := plan.backend.charges(client))})
    return ledger


def _enforced(work: Workspace, unit: str) -> str:
    """Return the sentence about whoever keeps epsilon from growing: the clients by their own ledgers, or the server."""
    config = work.plan.config
    mechanisms = [mechanism for mechanism in work.plan.backend.mechanisms if mechanism.unit == unit]
    if not all(_withstands(work, mechanism) for mechanism in mechanisms):
        return "That holds for a server that follows the protocol: no client can enforce it."
    most = _ledger(work, config.retries).worst(config.delta, config.accountant)[unit]
    budget = config.epsilon_budget
    shared = any(mechanism.noised_by == PARTIES for mechanism in mechanisms)
    who = "the client and by each honest party: their own ledgers" if shared else "the client: its own ledger"
    if budget is not None and budget < most:
        most = budget
        rule = "refuse what would exceed it" if shared else "refuses what would exceed it"
        rule = f"{rule} (epsilon_budget)"
    else:
        rule = f"{'allow' if shared else 'allows'} {config.retries} contributions beyond the planned ones (retries)"
    return f"Whatever the server asks, epsilon is at most {most:.3g} for a {unit}, enforced by {who} {rule}."


def _withstands(work: Workspace, mechanism: Mechanism) -> bool:
    """True where a mechanism's promise holds against a server that breaks the protocol.

    It does by itself, where each client adds all of its noise; else where the secure sum hides contributions from such
    a server.
    """
    if SERVER in type(mechanism).holds_against:
        return True
    return SERVER in mechanism.holds_against and not _trusting(work)


def _trusting(work: Workspace) -> bool:
    """True where the secure sum hides contributions at most from a server that follows the protocol."""
    coalitions = (*_read_by(work), _subtracting(work))
    alone = any(len(coalition) == 1 and SERVER in coalition[0] for coalition in coalitions)
    return alone or work.plan.relayed or not work.plan.backend.secure_sum.withstands.malicious


def _reports(work: Workspace) -> Iterator[str]:
    """Yield what the server and the results tell beside the updates."""
    runtime = work.plan.config.runtime
    yield "Who takes part in which round, and when each answers, is in sight of the server."
    if work.plan.config.data.allow_empty:
        yield "Clients without examples are never asked, so the cohorts tell which these are (data.allow_empty=true)."
    if work.plan.private:
        yield from (TIMES, ABSENCE, READ)
        yield from (REPORTED,) if runtime.client_metrics else ()
    elif work.plan.backend.secure_sum.hides and runtime.client_metrics:
        yield "Clients report the times of their phases, and how many values were cut (runtime.client_metrics=true)."
    if runtime.client_diagnostics:
        yield FIGURES
    if runtime.client_evaluation:
        yield SCORED


def _cut(work: Workspace) -> Iterator[str]:
    """Yield the sentence about values beyond the range of the sum."""
    update = work.spec.segments[0]
    if work.spec.modulus_bits is not None or math.isinf(update.bound):
        return
    cut = f"Values of an update beyond {update.bound:g} are cut (secure_sum.bound)"
    if work.plan.cut_metric is None:
        yield f"{cut}, and nobody counts them, as no epsilon would cover that."
    else:
        told = f"from {TOLD_SHARE:.1%} of a round's on it is said"
        ends = "" if work.plan.enlarges_updates else f", and from {MOST_SHARE:.0%} of most clients' on the run ends"
        yield f"{cut}: {told}{ends}."


def _beyond(work: Workspace) -> Iterator[str]:
    """Yield the risks that no protocol of this project removes."""
    if work.plan.hides_something:
        yield "A client that lies about a hidden update or weight is not found out by the sum."
        if not work.plan.backend.secure_sum.needs.roster or work.plan.relayed:
            yield "Nothing keeps one party from posing as many clients."
        else:
            yield "A roster keeps strangers out, not several of its clients who subtract their updates from a sum."
        yield (
            "A server that gives two rounds the same model and other clients reads the difference of their sums: "
            "the noise of a mechanism alone limits that."
        )
        yield (
            "A server that breaks the protocol chooses the models: a sum over weights that few examples move tells of "
            "these examples, and the noise of a mechanism alone limits that."
        )
    yield "The models themselves tell of the data whatever epsilon, or its absence, allows."


def _sizes(work: Workspace) -> Iterator[str]:
    training = work.plan.config.training
    if training.weighting == "examples":
        declared = "declared public" if training.public_weights else "not declared public"
        yield f"Weights tell how many examples a client holds, {declared} (training.weighting=examples)."


def _data(work: Workspace) -> Iterator[str]:
    if work.plan.private and work.plan.config.data.features == "none":
        yield "Pixels are normalised with the mean and deviation of all training images, which no epsilon covers."
