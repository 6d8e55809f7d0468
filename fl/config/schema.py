"""The typed configuration: its schema, its checks and its hash.

Hydra merges the YAML files of `configs/` into these dataclasses, so an unknown key or a wrong type fails
before anything runs; `check` adds the ranges and the conditions that hold between keys.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from fl.faults.options import FaultsConfig

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


@dataclass
class DataConfig:
    """An image set and how it is split over the clients."""

    name: str = MISSING
    path: str | None = None  # folder with parquet or IDX files; before FEDVEIL_DATA and the hub
    hub: str | None = None  # repository on the Hugging Face hub
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"
    test_split: str = "test"
    features: str = "none"  # what stands for an image: its pixels, or frozen features of them
    partition: str = "iid"
    alpha: float = 0.5  # of the Dirichlet partition
    shards: int = 2  # a client, for the shards partition
    natural_column: str | None = None  # of the natural partition: who wrote the image
    allow_empty: bool = False


@dataclass
class SamplerConfig:
    """How cohorts are drawn, from the seed alone."""

    name: str = "uniform"  # or separated: nobody again within so many rounds, nor more often than so many times
    min_separation: int | None = None  # rounds from one participation to the next; null: as many as can be kept
    max_participations: int | None = None  # of a client in the whole run; null: as few as can be kept


@dataclass
class TrainingConfig:
    """What a client does with its examples in one round."""

    batch_size: int = 32
    epochs: int | None = 1
    steps: int | None = None
    lr: float = 0.2
    optimizer: dict[str, Any] = field(default_factory=dict)  # a torch.optim class; lr comes from `training.lr`
    schedule: dict[str, Any] = field(default_factory=dict)  # a torch lr_scheduler class over rounds; {} is constant
    proximal_mu: float = 0.0  # FedProx (Li et al. 2020, eq. 2)
    weighting: str = "examples"
    public_weights: bool = False  # declares that the clients' numbers of examples are no secret
    sample_rate: float | None = None  # public, for Poisson sampling; null: batch_size over a client's own examples
    max_weight: int | None = None  # public bound on a client's examples; null: the largest partition
    threads: int = 1
    deterministic: bool = True
    tf32: bool = False


@dataclass
class ServerConfig:
    """The server's half: optimiser, who must answer, evaluation."""

    optimizer: dict[str, Any] = field(default_factory=dict)  # a torch.optim class on the negative mean update
    min_contributors: int | None = None  # null: 2 where the secure sum hides something, else 1
    deadline_s: float | None = None  # a stage ends then, and who is missing has dropped out
    on_invalid: str = "leave_out"  # what the server refuses of a client; what a client itself refuses drops it out
    evaluate_every: int = 1
    evaluate_batch: int = 1000


@dataclass
class RuntimeConfig:
    """The engine that carries the messages."""

    name: str = MISSING
    workers: int = 0  # processes of the in-process runtime; 0: clients run in the driver itself
    gpus_per_client: float = 1.0  # share of a GPU that a client occupies, for worker processes and for Ray
    client_metrics: bool = True  # clients report times and memory (a time tells something of a data set's size)
    client_diagnostics: bool = False  # clients report what was clipped: exact figures, which no epsilon covers
    measure_sum_error: bool = False  # a test: clients send their contributions in the clear, too; protects nothing
    cpus_per_client: float = 1.0  # Ray
    address: str | None = None  # Ray: an existing cluster
    supernodes: int = 3  # deployment: for how many clients the demonstration starts one
    federation: str | None = None  # deployment: a SuperLink connection of $FLWR_HOME; null starts one on loopback
    roster: str = PINNED  # deployment: public keys were exchanged outside the server; "relayed": they come through it


@dataclass
class OutputConfig:
    """How a run talks and what it keeps; never what it computes."""

    progress: bool = True
    keep_checkpoints: int = 2
    twins: bool = True  # a sweep runs the plain twins that its cells lack, too
    retry: bool = False  # a sweep tries failed cells again
    # columns that a search optimises, such as Optuna's
    objectives: list[str] = field(default_factory=lambda: ["accuracy", "round_ratio"])


@dataclass
class TrackingConfig:
    """Where a finished run is shown besides; off by default."""

    name: str = NOWHERE
    uri: str | None = None  # MLflow: the server; null: $MLFLOW_TRACKING_URI, or MLflow's own default
    folder: str | None = None  # TensorBoard: above those of the runs; null: in each run's own


@dataclass
class FedveilConfig:
    """Everything that a run is."""

    clients: int = 10
    cohort: int | None = None  # null: every client, every round
    rounds: int = 10
    seed: int = 1
    device: str = "auto"
    noise: str = "os"  # "seeded" is reproducible, and protects nothing
    delta: float = 1e-5
    accountant: str = "prv"
    witness: bool = True  # clients look once more at what they are about to send, and stop a run that protects nothing
    epsilon_budget: float | None = None  # the run ends before the round that would pass it
    out: str | None = None
    force: bool = False
    roster: str | None = None  # file of everybody's public keys, for a deployment over several machines
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
    """Make the schema known to Hydra under the name `schema`, for `configs/config.yaml` to start from."""
    ConfigStore.instance().store(name="schema", node=FedveilConfig)
    OmegaConf.register_new_resolver("fedveil.most_of", _most_of, replace=True)


def _most_of(clients: int, cohort: int | None) -> int:
    """Four fifths of the cohort: who is counted on to answer, where the configuration does not say."""
    return max(1, math.ceil(0.8 * (clients if cohort is None else cohort)))
