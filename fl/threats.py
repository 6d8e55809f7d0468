"""What a run does not protect, computed from its configuration: the beginning of its threat card.

Each line is a whole sentence. What epsilon says stands in the ledger; here is what it leaves out.
"""

from collections.abc import Iterator

from fl.workspace import Workspace

FLOATING = ("dp_sgd", "client_dp", "dp_ftrl", "local_dp")  # mechanisms whose noise is no integer


def threat_card(work: Workspace) -> list[str]:
    """The lines for a configuration, the trust assumption first."""
    secure_sum = work.backend.secure_sum
    assumption = secure_sum.assumption
    return [f"{assumption[0].upper()}{assumption[1:]}.", *_sum(work), *_noise(work), *_sizes(work), *_data(work)]


def _sum(work: Workspace) -> Iterator[str]:
    secure_sum = work.backend.secure_sum
    yield from secure_sum.caveats
    if secure_sum.pinned:
        yield "This is a simulation: one party plays all roles and holds all keys."
    if secure_sum.hides and work.config.runtime.client_metrics:
        yield "Clients report the times of their phases, and how many values were cut (runtime.client_metrics=true)."


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
