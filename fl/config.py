"""The typed configuration: its schema, its checks and its hash.

Hydra merges the YAML files of `configs/` into these dataclasses, so an unknown key or a wrong type fails
before anything runs. `check` adds the ranges of values and the conditions between keys.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from fl import fault_options
from fl.fault_options import FaultsConfig
from privacy.errors import ConfigError
from privacy.parameters import ACCOUNTANTS

FEATURES = ("none", "scattering")
PARTITIONS = ("iid", "dirichlet", "shards", "natural")
WEIGHTINGS = ("examples", "uniform")
RUNTIMES = ("inprocess", "ray", "deployment")
ON_INVALID = ("leave_out", "abort")
NOISES = ("os", "seeded")
SAMPLERS = ("uniform", "separated")
NOWHERE = "none"
MLFLOW = "mlflow"
TENSORBOARD = "tensorboard"
PINNED = "pinned"
RELAYED = "relayed"

# Output folders and console options change no result, so they are not part of a configuration's identity.
# The public keys of a roster are not part of it either: each node that approves a configuration has its own roster.
UNHASHED = ("out", "force", "output", "tracking", "roster")


@dataclass
class DataConfig:
    """An image set and how it is split over the clients."""

    name: str = MISSING
    path: str | None = None  # folder with parquet or IDX files; searched before FEDVEIL_DATA and the hub
    hub: str | None = None  # repository on the Hugging Face hub
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"
    test_split: str = "test"
    features: str = "none"  # none: the models take pixels; scattering: they take frozen features of the pixels
    partition: str = "iid"
    alpha: float = 0.5  # concentration of the Dirichlet partition
    shards: int = 2  # shards per client, in the shards partition
    natural_column: str | None = None  # column with the owner (writer) of each image, for the natural partition
    allow_empty: bool = False


@dataclass
class SamplerConfig:
    """The sampler that draws cohorts, from the seed alone."""

    name: str = "uniform"  # or separated: keeps the two limits below for each client
    min_separation: int | None = None  # least rounds from a participation to the next; null: the largest possible value
    max_participations: int | None = None  # most participations of a client in a run; null: the least possible value


@dataclass
class TrainingConfig:
    """Local training: a client's work on its examples in one round."""

    batch_size: int = 32
    epochs: int | None = 1
    steps: int | None = None
    lr: float = 0.2
    optimizer: dict[str, Any] = field(default_factory=dict)  # a torch.optim class; lr comes from `training.lr`
    schedule: dict[str, Any] = field(default_factory=dict)  # a torch lr_scheduler class over rounds; {} is constant
    proximal_mu: float = 0.0  # FedProx (Li et al. 2020, eq. 2)
    weighting: str = "examples"
    public_weights: bool = False  # declares that the clients' numbers of examples are public
    sample_rate: float | None = None  # public, for Poisson sampling; null: batch_size over a client's own examples
    max_weight: int | None = None  # public bound on a client's examples; null: the largest partition
    threads: int = 1
    deterministic: bool = True
    tf32: bool = False


@dataclass
class ServerConfig:
    """The server's half: optimiser, required answers, evaluation."""

    optimizer: dict[str, Any] = field(default_factory=dict)  # a torch.optim class on the negative mean update
    min_contributors: int | None = None  # null: 2 where the secure sum hides something, else 1
    deadline_s: float | None = None  # longest wait in a stage; a client without an answer by then has dropped out
    on_invalid: str = "leave_out"  # reaction to a reply that the server refuses; a client that refuses drops out
    evaluate_every: int = 1
    evaluate_batch: int = 1000


@dataclass
class RuntimeConfig:
    """The engine that carries the messages."""

    name: str = MISSING
    workers: int = 0  # processes of the in-process runtime; 0: clients run in the driver itself
    gpus_per_client: float = 1.0  # share of a GPU that a client occupies, for worker processes and for Ray
    client_metrics: bool = True  # clients report times and memory (a time reveals something of a data set's size)
    client_diagnostics: bool = False  # clients report exact norms and clipped fractions, which no epsilon covers
    measure_sum_error: bool = False  # a test: clients also send their contributions in the clear; nothing is protected
    cpus_per_client: float = 1.0  # Ray: CPU cores per client
    address: str | None = None  # Ray: address of an existing cluster
    supernodes: int = 3  # deployment: number of clients' SuperNodes that are started on loopback
    federation: str | None = None  # deployment: a SuperLink connection of $FLWR_HOME; null starts one on loopback
    roster: str = PINNED  # deployment: pinned: public keys are exchanged outside the server; relayed: through it


@dataclass
class OutputConfig:
    """Console output, checkpoints and sweep options: settings that change no result of a run."""

    progress: bool = True
    keep_checkpoints: int = 2
    twins: bool = True  # a sweep also runs the plain twins that its cells lack
    retry: bool = False  # a sweep runs failed cells again
    # columns that a search optimises, such as Optuna's
    objectives: list[str] = field(default_factory=lambda: ["accuracy", "round_ratio"])


@dataclass
class TrackingConfig:
    """The tracking service that shows a finished run as well; off by default."""

    name: str = NOWHERE
    uri: str | None = None  # MLflow: the server; null: $MLFLOW_TRACKING_URI, or MLflow's own default
    folder: str | None = None  # TensorBoard: parent of the runs' log folders; null: each run's own folder


@dataclass
class FedveilConfig:
    """The whole configuration of a run."""

    clients: int = 10
    cohort: int | None = None  # null: every client, every round
    rounds: int = 10
    seed: int = 1
    device: str = "auto"
    noise: str = "os"  # "seeded" is reproducible and protects nothing
    delta: float = 1e-5
    accountant: str = "prv"
    witness: bool = True  # each client examines its upload before sending, and stops a run that does not protect it
    epsilon_budget: float | None = None  # largest epsilon; the run ends before the round that would exceed it
    out: str | None = None
    force: bool = False
    roster: str | None = None  # file with the public keys of all roles, for a deployment over several machines
    experiment: str = "default"
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: dict[str, Any] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    mechanism: dict[str, Any] = field(default_factory=dict)  # name -> a Mechanism, in order
    secure_sum: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


def register_schema() -> None:
    """Register the schema with Hydra under the name `schema`, from which `configs/config.yaml` starts."""
    ConfigStore.instance().store(name="schema", node=FedveilConfig)
    OmegaConf.register_new_resolver("fedveil.most_of", _most_of, replace=True)


def _most_of(clients: int, cohort: int | None) -> int:
    """Return four fifths of the cohort, rounded up: the default number of clients that must answer."""
    return max(1, math.ceil(0.8 * (clients if cohort is None else cohort)))


Check = tuple[str, Callable[[Any], bool], str]


def _one_of(key: str, values: tuple[str, ...]) -> Check:
    return key, lambda v: v in values, f"allowed are {', '.join(values)}"


def _at_least(key: str, low: int) -> Check:
    return key, lambda v: v is None or v >= low, f"must be at least {low}"


def _positive(key: str) -> Check:
    return key, lambda v: v is None or (math.isfinite(v) and v > 0), "must be a finite number above 0"


CHECKS: tuple[Check, ...] = (
    _at_least("clients", 1),
    _at_least("cohort", 1),
    _at_least("rounds", 1),
    _at_least("seed", 0),
    _one_of("sampler.name", SAMPLERS),
    _at_least("sampler.min_separation", 1),
    _at_least("sampler.max_participations", 1),
    _one_of("data.features", FEATURES),
    _one_of("noise", NOISES),
    ("delta", lambda v: 0 < v < 1, "must lie between 0 and 1"),
    _one_of("accountant", ACCOUNTANTS),
    _positive("epsilon_budget"),
    _one_of("data.partition", PARTITIONS),
    _positive("data.alpha"),
    _at_least("data.shards", 1),
    _at_least("training.batch_size", 1),
    _at_least("training.epochs", 1),
    _at_least("training.steps", 1),
    _positive("training.lr"),
    ("training.proximal_mu", lambda v: math.isfinite(v) and v >= 0, "must be a finite number of at least 0"),
    _one_of("training.weighting", WEIGHTINGS),
    _at_least("training.max_weight", 1),
    ("training.sample_rate", lambda v: v is None or 0 < v <= 1, "must lie above 0 and be at most 1"),
    _at_least("training.threads", 1),
    _at_least("server.min_contributors", 1),
    _positive("server.deadline_s"),
    _one_of("server.on_invalid", ON_INVALID),
    _at_least("server.evaluate_every", 0),
    _at_least("server.evaluate_batch", 1),
    _one_of("runtime.name", RUNTIMES),
    _at_least("runtime.workers", 0),
    _positive("runtime.gpus_per_client"),
    _positive("runtime.cpus_per_client"),
    _at_least("runtime.supernodes", 1),
    *fault_options.CHECKS,
    _one_of("runtime.roster", (PINNED, RELAYED)),
    _one_of("tracking.name", (NOWHERE, MLFLOW, TENSORBOARD)),
    _at_least("output.keep_checkpoints", 1),
)


# Keys of one runtime only. In another runtime they would have no effect, so they are refused there.
OWNED = (
    ("runtime.workers", 0, "inprocess"),
    ("runtime.address", None, "ray"),
    ("runtime.federation", None, "deployment"),
)


def check(config: DictConfig) -> None:
    """Refuse values out of range and keys that contradict one another.

    Raises:
        ConfigError: naming the key, its value and what is allowed.
    """
    for key, allowed, message in CHECKS:
        value = OmegaConf.select(config, key)
        if not allowed(value):
            raise ConfigError.of(key, value, message)
    if config.cohort is not None and config.cohort > config.clients:
        raise ConfigError.of("cohort", config.cohort, f"must be at most clients={config.clients}")
    fault_options.check(config)
    minimum = config.server.min_contributors
    if minimum is not None and minimum > cohort_size(config):
        raise ConfigError.of(
            "server.min_contributors",
            minimum,
            f"must be at most the cohort, {cohort_size(config)}",
        )
    for key in ("min_separation", "max_participations"):
        if config.sampler[key] is not None and config.sampler.name != "separated":
            raise ConfigError.of(f"sampler.{key}", config.sampler[key], "belongs to sampler.name=separated")
    if (config.training.epochs is None) == (config.training.steps is None):
        raise ConfigError.of(
            "training.steps", config.training.steps, "give training.epochs or training.steps, and set the other to null"
        )
    if config.runtime.measure_sum_error and config.runtime.name == "deployment":
        why = "sends contributions in the clear, to test a sum: it belongs to runtime=inprocess or ray"
        raise ConfigError.of("runtime.measure_sum_error", config.runtime.measure_sum_error, why)
    for key, default, owner in OWNED:
        if OmegaConf.select(config, key) != default and config.runtime.name != owner:
            raise ConfigError.of(key, OmegaConf.select(config, key), f"belongs to runtime={owner}")
    _check_roster(config)
    for key, owner in (("uri", MLFLOW), ("folder", TENSORBOARD)):
        if config.tracking[key] is not None and config.tracking.name != owner:
            raise ConfigError.of(f"tracking.{key}", config.tracking[key], f"belongs to tracking={owner}")
    starts_nodes = config.runtime.name == "deployment" and config.runtime.federation is None
    if starts_nodes and config.runtime.supernodes < config.clients:
        raise ConfigError.of(
            "runtime.supernodes",
            config.runtime.supernodes,
            f"must be at least clients={config.clients}, one SuperNode a client",
        )


def _check_roster(config: DictConfig) -> None:
    if config.runtime.roster == RELAYED and config.runtime.name != "deployment":
        allowed = "belongs to runtime=deployment: a simulation has its keys from set-up"
        raise ConfigError.of("runtime.roster", RELAYED, allowed)
    if config.roster is not None and config.runtime.federation is None:
        raise ConfigError.of("roster", config.roster, "belongs to runtime.federation; elsewhere a run makes its own")
    if config.roster is not None and config.runtime.roster == RELAYED:
        raise ConfigError.of("roster", config.roster, "belongs to runtime.roster=pinned; relayed takes no file")


def cohort_size(config: DictConfig) -> int:
    """Return the number of clients that a round asks."""
    return int(config.clients if config.cohort is None else config.cohort)


def to_json(config: DictConfig) -> str:
    """Return the resolved configuration without the keys of `UNHASHED`, as canonical JSON.

    Keys are sorted, except for the mechanisms, which are applied in the given order.
    """
    values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    identity = {key: _sorted(value) for key, value in sorted(values.items()) if key not in UNHASHED}
    identity["mechanism"] = {name: _sorted(value) for name, value in values["mechanism"].items()}
    return json.dumps(identity, separators=(",", ":"))


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


@lru_cache(maxsize=8)  # every message brings its configuration
def hash_of(canonical: str) -> str:
    """Return the SHA-256 of a canonical configuration, in hexadecimal: its identity everywhere."""
    return hashlib.sha256(canonical.encode()).hexdigest()


def from_json(canonical: str) -> FedveilConfig:
    """Parse and check the output of `to_json`; keys of `UNHASHED` take their defaults.

    Raises:
        ConfigError: as `check`.
    """
    config = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(FedveilConfig), json.loads(canonical)))
    check(config)
    return cast(FedveilConfig, OmegaConf.to_object(config))
