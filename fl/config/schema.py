"""The typed configuration: its schema, its checks and its hash.

Hydra merges the YAML files of `configs/` into these dataclasses, so an unknown key or a wrong type fails
before anything runs. `check` adds the ranges of values and the conditions between keys.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from fl.faults.options import FaultsConfig

FEATURES = ("none", "scattering")
REFUSE = "refuse"
LEAVE_OUT = "leave_out"
UNSEEN_LABELS = (REFUSE, LEAVE_OUT)
PARTITIONS = ("iid", "dirichlet", "shards", "natural")
WEIGHTINGS = ("examples", "uniform")
RUNTIMES = ("inprocess", "ray", "deployment")
ON_INVALID = ("leave_out", "abort")
NOISES = ("os", "seeded")
SAMPLERS = ("uniform", "separated")
FLOAT32 = "float32"
BF16 = "bf16"
PRECISIONS = (FLOAT32, BF16)
NOWHERE = "none"
MLFLOW = "mlflow"
TENSORBOARD = "tensorboard"
PINNED = "pinned"
RELAYED = "relayed"
AUTO = "auto"


@dataclass
class DataConfig:
    """An image set and how it is split over the clients."""

    name: str = MISSING
    path: str | None = None  # folder with parquet or IDX files; searched before FEDVEIL_DATA and the hub
    config: str | None = None  # configuration among several in a folder or repository, as the error lists them
    hub: str | None = None  # repository on the Hugging Face hub
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"
    test_split: str = "test"
    unseen_labels: str = REFUSE  # or leave_out: test examples with labels that training lacks are counted, not scored
    public_share: float = 0.0  # share of the test examples that the server stops early by, and does not score
    features: str = "none"  # none: the models take pixels; scattering: they take frozen features of the pixels
    partition: str = "iid"
    alpha: float = 0.5  # concentration of the Dirichlet partition
    shards: int = 2  # shards per client, in the shards partition
    natural_column: str | None = None  # column with the owner (writer) of each image, for the natural partition
    allow_empty: bool = False


@dataclass
class SamplerConfig:
    """The sampler that draws cohorts, from the seed, among the clients that hold examples."""

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
    accumulate: int = 1  # batches whose gradients make one step: that of a batch as many times as large
    class_weights: list[float] | None = None  # public: factors of the loss, one for each class
    label_smoothing: float = 0.0
    precision: str = FLOAT32  # or bf16: torch's automatic mixed precision; weights and updates stay float32
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
    # the least number of contributions in a sum that is opened; null: 2 where the secure sum hides something, else 1
    min_contributors: int | None = None
    min_share: float = 0.5  # and their least share of the cohort where it hides something: the larger number holds
    deadline_s: float | None = None  # longest wait in a stage; a client without an answer by then has dropped out
    on_invalid: str = "leave_out"  # reaction to a reply that the server refuses; a client that refuses drops out
    patience: int | None = None  # evaluations without a lower loss on the public examples, after which a run ends
    least_gain: float = 0.0  # nats by which that loss has to fall to count as lower
    evaluate_every: int = 1
    evaluate_batch: int = 1000


@dataclass
class RuntimeConfig:
    """The engine that carries the messages."""

    name: str = MISSING
    workers: int = 0  # processes of the in-process runtime; 0: clients run in the driver itself
    # clients of a round that train as one computation; auto: as many as memory holds, 1 where a model does not allow it
    together: Any = AUTO
    compile: bool = False  # torch.compile for the pass of a group of clients
    prepare_ahead: bool = False  # ckks: a process for each worker encrypts zeros while its clients train
    gpus_per_client: float = 1.0  # share of a GPU that a client occupies, for worker processes and for Ray
    client_metrics: bool = True  # clients report times and memory (a time reveals something of a data set's size)
    client_evaluation: bool = False  # clients report the exact scores of each model they get, on their own examples
    client_diagnostics: bool = False  # clients report exact norms and numbers of clipped values, beyond any epsilon
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
    retries: int = 3  # attempts beyond its planned participations that each client answers, where it adds the noise
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
