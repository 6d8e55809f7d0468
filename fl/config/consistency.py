"""Checks of a configuration against its privacy backend: no option may be without effect, or promise too much."""

from fl.config.schema import RELAYED, FedveilConfig
from fl.faults.options import MESSAGES, VECTORS, WEIGHTS, ZERO
from privacy.addresses import SERVER, client_address
from privacy.backend import PrivacyBackend
from privacy.errors import ConfigError


def check(config: FedveilConfig, backend: PrivacyBackend, some_client: int) -> None:
    """Refuse options that the backend cannot keep, once the mechanisms have settled.

    `some_client` is the index of a client that holds data.

    Raises:
        ConfigError: an option that this backend cannot keep.
    """
    _check_budget(config, backend, some_client)
    _check_retries(config, backend)
    _check_measured(config, backend)
    _check_faults(config, backend)
    _check_evaluation(config, backend)
    _check_sampling(config, backend)
    _check_ahead(config, backend)


def check_roster(config: FedveilConfig, backend: PrivacyBackend) -> None:
    """Refuse a relayed roster where there are no keys, or where parties need keys before the server's first message.

    Raises:
        ConfigError: `runtime.roster=relayed` under such a secure sum.
    """
    if config.runtime.roster != RELAYED:
        return
    secure_sum = backend.secure_sum
    if not secure_sum.needs.roster:
        allowed = f"secure_sum={secure_sum.name} needs no keys, so there are none to relay"
        raise ConfigError.of("runtime.roster", config.runtime.roster, allowed)
    if secure_sum.parties.meeting is not None:
        allowed = f"the parties of secure_sum={secure_sum.name} meet before the server's first message: use pinned"
        raise ConfigError.of("runtime.roster", config.runtime.roster, allowed)


def _check_budget(config: FedveilConfig, backend: PrivacyBackend, some_client: int) -> None:
    """Refuse a budget that no mechanism spends: it would look like a promise."""
    if config.epsilon_budget is not None and not backend.charges(some_client):
        allowed = "no mechanism accounts for what it releases; choose one, or leave the budget out"
        raise ConfigError.of("epsilon_budget", config.epsilon_budget, allowed)


def _check_ahead(config: FedveilConfig, backend: PrivacyBackend) -> None:
    """Refuse to prepare where a secure sum has nothing that takes longer than carrying it between processes."""
    if config.runtime.prepare_ahead and not backend.secure_sum.prepares:
        allowed = f"{backend.secure_sum.label} prepares nothing: it belongs to secure_sum=ckks with dense parameters"
        raise ConfigError.of("runtime.prepare_ahead", True, allowed)


def _check_retries(config: FedveilConfig, backend: PrivacyBackend) -> None:
    """Refuse a number of retries where no client counts them."""
    if config.retries != FedveilConfig.retries and not backend.keeps_account(client_address(0)):
        allowed = "no client keeps account of its noise under this mechanism: leave it out"
        raise ConfigError.of("retries", config.retries, allowed)


def _check_measured(config: FedveilConfig, backend: PrivacyBackend) -> None:
    """Refuse to measure the error of a sum where the backend opens another aggregate."""
    if config.runtime.measure_sum_error and not backend.secure_sum.carries.additive:
        allowed = f"{backend.secure_sum.label} opens another aggregate than the sum: leave it out"
        raise ConfigError.of("runtime.measure_sum_error", "true", allowed)


def _check_evaluation(config: FedveilConfig, backend: PrivacyBackend) -> None:
    """Refuse exact scores of clients beside an epsilon, unless exact figures are wanted."""
    runtime = config.runtime
    if runtime.client_evaluation and backend.private and not runtime.client_diagnostics:
        allowed = "exact scores are beyond any epsilon: allow exact figures by runtime.client_diagnostics=true too"
        raise ConfigError.of("runtime.client_evaluation", "true", allowed)


def _check_sampling(config: FedveilConfig, backend: PrivacyBackend) -> None:
    """Refuse a sampling rate that nobody samples at."""
    rate = config.training.sample_rate
    if rate is not None and not any(mechanism.samples for mechanism in backend.mechanisms):
        allowed = "no mechanism here samples examples: choose mechanism=dp_sgd, or leave the rate out"
        raise ConfigError.of("training.sample_rate", rate, allowed)


def _check_faults(config: FedveilConfig, backend: PrivacyBackend) -> None:
    """Refuse faults at a stage that the secure sum does not have, and faults of floats where residues are summed."""
    faults = config.faults
    stages = backend.secure_sum.stages
    for key, stage in (("dropout_stage", faults.dropout_stage), ("stage", faults.stage)):
        if stage is not None and stages and stage not in stages:
            allowed = f"secure_sum={backend.secure_sum.name} asks clients at {', '.join(stages)}"
            raise ConfigError.of(f"faults.{key}", stage, allowed)
    there = (SERVER, *backend.secure_sum.parties.roles)
    if faults.killed is not None and faults.killed not in there:
        allowed = f"allowed under secure_sum={backend.secure_sum.name} are {', '.join(there)}"
        raise ConfigError.of("faults.killed", faults.killed, allowed)
    if backend.modulus_bits is None:
        return
    if faults.scaled_clients:
        allowed = f"{backend.name} sums residues, which are not scaled: leave it out"
        raise ConfigError.of("faults.scaled_clients", faults.scaled_clients, allowed)
    if faults.kind in VECTORS + WEIGHTS:
        allowed = f"{backend.name} sums residues, where this fault cannot occur: choose {', '.join((*MESSAGES, ZERO))}"
        raise ConfigError.of("faults.kind", faults.kind, allowed)
