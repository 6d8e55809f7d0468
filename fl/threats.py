"""What a run does not protect, computed from its configuration: the beginning of its threat card.

Each line is a whole sentence. What epsilon says stands in the ledger; here is what it leaves out.
"""

from collections.abc import Iterator

from fl.workspace import HIDDEN_AMONG, Workspace
from privacy.he import CkksSum
from privacy.opened_sum import OpenedSum
from privacy.selective_sum import SelectiveSum

FLOATING = ("dp_sgd", "client_dp", "dp_ftrl", "local_dp")  # mechanisms whose noise is no integer


def threat_card(work: Workspace) -> list[str]:
    """The lines for a configuration, the trust assumption first."""
    assumption = work.assumption
    return [f"{assumption[0].upper()}{assumption[1:]}.", *_sum(work), *_noise(work), *_sizes(work), *_data(work)]


def _sum(work: Workspace) -> Iterator[str]:
    secure_sum = work.backend.secure_sum
    if work.config.runtime.measure_sum_error:
        yield (
            "Clients send their contributions in the clear, to measure the error of the sum "
            "(runtime.measure_sum_error=true): the secure sum protects nothing."
        )
    yield from secure_sum.caveats
    if secure_sum.pinned:
        yield from _holders_of_keys(work)
    if work.hides_something and work.min_contributors < HIDDEN_AMONG:
        yield "A sum over one client alone is opened, which is its update (server.min_contributors=1)."
    if isinstance(secure_sum, OpenedSum):
        yield from _opened_sum(secure_sum)
    if secure_sum.hides and work.config.runtime.client_metrics:
        yield "Clients report the times of their phases, and how many values were cut (runtime.client_metrics=true)."


def _opened_sum(secure_sum: OpenedSum) -> Iterator[str]:
    opener = "the keyholder" if secure_sum.roles else "the client that opens a sum"
    if not secure_sum.masks:
        yield f"Nothing is masked (secure_sum.masks=false): {opener} decrypts whatever the server sends it."
        yield from _openings(secure_sum)
    if isinstance(secure_sum, SelectiveSum) and not secure_sum.hides:
        chosen = "by the clients' sensitivities" if secure_sum.surveys else "at random, the same ones in every round"
        yield (
            f"The server sees {1 - secure_sum.fraction:.4g} of the values of each client's update, and which they are; "
            f"the others were chosen {chosen} (secure_sum.encrypt_fraction={secure_sum.fraction:g})."
        )
    if secure_sum.surveys:
        yield f"Of the sum of the clients' sensitivities {opener} learns all, and the server which are the largest."


def _openings(secure_sum: OpenedSum) -> Iterator[str]:
    """What a decryption tells of the key (Li and Micciancio 2021)."""
    if isinstance(secure_sum, CkksSum):
        rule = secure_sum.flooding
        if rule is None:
            yield "An opened sum tells the server the secret key of its round (secure_sum.flooding_bits=0)."
        else:
            yield f"Noise hides the key of a round in its opened sum, to 2^-{rule.bits} (secure_sum.flooding_bits)."
    if secure_sum.broadcast:
        yield "Every client opens the sum (secure_sum.broadcast=true)."


def _holders_of_keys(work: Workspace) -> Iterator[str]:
    if work.config.runtime.name != "deployment":
        yield "This is a simulation: one party plays all roles and holds all keys."
    elif work.config.runtime.federation is None:
        yield "All roles are processes of one user on one machine, who can read all keys (runtime.federation=null)."
    elif not work.relayed:
        yield "Whoever hands out the roster could put keys of their own on it: its SHA-256 is to be compared."
    if work.relayed:
        yield (
            "Public keys came through the server, so this protects against a passive server only: one that exchanges "
            "keys reads every update (runtime.roster=relayed)."
        )


def _noise(work: Workspace) -> Iterator[str]:
    private = [mechanism.name for mechanism in work.backend.mechanisms if mechanism.unit is not None]
    if not private:
        return
    if work.config.noise == "seeded":
        yield "Noise comes from the seed (noise=seeded): whoever knows it takes the noise off, so nothing is protected."
    else:
        yield "Noise comes from ChaCha20 under keys of the operating system (noise=os)."
    floating = [name for name in private if name in FLOATING]
    if floating:
        yield f"The noise of {' and '.join(floating)} is floating-point, whose rounding may leak (Mironov 2012)."
    if work.config.runtime.client_diagnostics:
        yield "Clients report exact norms and clipped fractions (runtime.client_diagnostics=true), beyond any epsilon."


def _sizes(work: Workspace) -> Iterator[str]:
    training = work.config.training
    if training.weighting == "examples":
        declared = "declared public" if training.public_weights else "not declared public"
        yield f"Weights tell how many examples a client holds, {declared} (training.weighting=examples)."
    elif any(m.name == "dp_sgd" for m in work.backend.mechanisms) and training.sample_rate is None:
        yield "The sampling rate is batch_size over a client's examples, so it tells them (training.sample_rate=null)."


def _data(work: Workspace) -> Iterator[str]:
    private = any(mechanism.unit is not None for mechanism in work.backend.mechanisms)
    if private and work.config.data.features == "none":
        yield "Pixels are normalised with the mean and deviation of all training images, which no epsilon covers."
