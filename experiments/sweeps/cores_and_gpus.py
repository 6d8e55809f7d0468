"""Sharing of a machine among the cells of a sweep, with any launcher.

It is a Hydra callback, named in `configs/config.yaml`. Before the cells are launched it tells the launcher how many
may run at once, or the resources of each. Each process of joblib then takes a part of the cores, and its own GPU.
"""

import multiprocessing
import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.sweeps.exit_status import OUTCOMES
from experiments.sweeps.plain_twins import COMMON, common
from privacy.errors import ConfigError

SLOTS = "FEDVEIL_SLOTS"  # a folder with a lock for each process of joblib; its name ends in their number
STARTED = "FEDVEIL_SWEEP_STARTED"  # start time, in seconds since 1970
PRINT = "FEDVEIL_PRINT"  # what `experiments.run` prints instead of running
HANDED_ON = (OUTCOMES, PRINT, STARTED, SLOTS, COMMON)  # environment variables passed to the cells on all machines

_held: list[FileLock] = []  # the locked slot of this process


class Share(Callback):
    """The callback that Hydra calls before a sweep."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Set the launcher's resources, and pass environment variables to the processes of the cells."""
        launcher = config.hydra.launcher
        kind = str(launcher.get("_target_")).rpartition(".")[2]
        needs = cores(config)
        os.environ[COMMON] = common(config)
        with open_dict(launcher):
            if kind == "JoblibLauncher":
                _share_by_joblib(config, needs)
            elif kind == "RayLauncher":
                _ask_of_ray(launcher.ray.remote, config, needs)
                _tell_elsewhere(config)
            elif kind in ("SlurmLauncher", "LocalLauncher"):
                _ask_of_submitit(launcher, config, needs)
                _tell_elsewhere(config)
        with open_dict(config.hydra):
            for name in HANDED_ON:
                if name in os.environ:
                    config.hydra.overrides.hydra.append(f"+hydra.job.env_set.{name}='{os.environ[name]}'")


def _tell_elsewhere(config: DictConfig) -> None:
    """Move the outcomes to the sweep's folder, which cells on other machines share, from the local temporary one."""
    folder = Path(str(config.hydra.sweep.dir)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f".outcomes.{os.getpid()}.jsonl"
    file.touch()
    os.environ[OUTCOMES] = str(file)


def cores(config: DictConfig) -> int:
    """Number of cores of the largest cell: threads times worker processes, or all for a local Ray or deployment.

    Args:
        config: the configuration of the whole sweep; its varied keys are in `hydra.overrides.task`.
    """
    whole = any(_local(name, config) for name in given(config, "runtime", "runtime.name"))
    threads = max(int(str(value)) for value in given(config, "training.threads"))
    workers = max(int(str(value)) for value in given(config, "runtime.workers"))
    return available() if whole else threads * max(1, workers)


def _local(runtime: object, config: DictConfig) -> bool:
    """True where a runtime takes the cores of this machine; Ray's cluster and a federation have their own."""
    elsewhere = config.runtime.address if runtime == "ray" else config.runtime.federation
    return runtime in ("ray", "deployment") and elsewhere is None


def available() -> int:
    """The cores that this process may use, by its affinity and its control group."""
    from joblib import cpu_count  # single runs do not need it

    return int(cpu_count())


def given(config: DictConfig, key: str, path: str = "") -> list[object]:
    """All values of a key or group in the cells of a sweep; the single value at `path` where the key is not swept."""
    parser = OverridesParser.create()
    for override in parser.parse_overrides(list(config.hydra.overrides.task)):
        if override.key_or_group == key and override.is_sweep_override():
            return list(override.sweep_iterator(transformer=lambda value: value))
    return [OmegaConf.select(config, path or key)]


def takes_gpu(config: DictConfig) -> bool:
    """Tell whether a cell may use a GPU; torch is asked only where the configuration leaves it open."""
    return asks_for_cuda(config) or ("auto" in given(config, "device") and gpus() > 0)


def asks_for_cuda(config: DictConfig, prefix: str = "cuda") -> bool:
    """Tell whether a cell names CUDA, or with the prefix `cuda:` a certain GPU."""
    return any(str(device).startswith(prefix) for device in given(config, "device"))


def gpus() -> int:
    """Number of GPUs that this process sees."""
    import torch

    return torch.cuda.device_count()


def _share_by_joblib(config: DictConfig, needs: int) -> None:
    """Set the number of processes by the cores or GPUs; a number that the user gave stays, and divides the cores."""
    launcher = config.hydra.launcher
    if launcher.n_jobs == -1:
        launcher.n_jobs = max(1, available() // needs)
        if takes_gpu(config):
            launcher.n_jobs = 1 if asks_for_cuda(config, "cuda:") else max(1, min(launcher.n_jobs, gpus()))
    if launcher.n_jobs > 0:
        os.environ[SLOTS] = str(Path(os.environ[OUTCOMES]).with_name(f"slots-{launcher.n_jobs}"))


def _ask_of_ray(remote: DictConfig, config: DictConfig, needs: int) -> None:
    """Ask Ray for the cores of a cell; also for a GPU, which Ray hides from tasks that do not ask for one."""
    remote.setdefault("num_cpus", needs)
    if asks_for_cuda(config):
        remote.setdefault("num_gpus", 1)


def _ask_of_submitit(launcher: DictConfig, config: DictConfig, needs: int) -> None:
    if launcher.cpus_per_task is None:
        launcher.cpus_per_task = needs
    if launcher.gpus_per_node is None and asks_for_cuda(config):
        launcher.gpus_per_node = 1


def require_fit(config: DictConfig, launcher: str) -> None:
    """Refuse a cell that its launcher could never finish.

    Args:
        config: the configuration of the cell.
        launcher: the class that launches it, by its full name.

    Raises:
        ConfigError: the runtime `ray` inside a Ray task, which would wait for the cores that the task itself holds.
    """
    if launcher.endswith(".RayLauncher") and config.runtime.name == "ray":
        allowed = "under hydra/launcher=ray a cell has its cores from Ray already; leave out one of the two"
        raise ConfigError.of("runtime.name", "ray", allowed)


def settle() -> None:
    """In a process of joblib: take a free slot with its part of the cores and its GPU, until the process ends."""
    folder = os.environ.get(SLOTS)
    if folder is None or _held:
        return
    # processes that a cell starts, of a keyholder or a party, do not know joblib's own start method
    multiprocessing.set_start_method("spawn", force=True)
    slots = int(folder.rpartition("-")[2])
    slot = _free(Path(folder), slots)
    if slot is not None:
        _confine(slot, slots)


def _free(folder: Path, slots: int) -> int | None:
    """Lock the first free slot for the life of this process; None where all are taken."""
    folder.mkdir(exist_ok=True)
    for slot in range(slots):
        lock = FileLock(folder / str(slot), timeout=0, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout:
            continue
        _held.append(lock)
        return slot
    return None


def _confine(slot: int, slots: int) -> None:
    if hasattr(os, "sched_setaffinity"):  # Linux
        mine = sorted(os.sched_getaffinity(0))
        share = len(mine) // slots
        if share:
            os.sched_setaffinity(0, mine[slot * share : (slot + 1) * share])
    if (present := gpus()) > 1:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = shown.split(",") if shown else [str(number) for number in range(present)]
        os.environ["CUDA_VISIBLE_DEVICES"] = names[slot % len(names)]  # CUDA reads it at its start
