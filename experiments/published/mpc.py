"""Measurements for published tables of multi-party computation: sums of shares, and CrypTen's own models.

Sources: SCITEPRESS 2022/113227, Table 4 (secure aggregation of model updates by MP-SPDZ); CrypTen,
benchmarks/{benchmark,models,data}.py and its results of 2020-06-26. A party is a process on one thread, all of them on
this machine over gloo. A time is the fastest of several, the one least disturbed by other work on the machine; MB are
10^6 bytes.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

REPEATS = 7
PLAIN_REPEATS = 50  # repeats of steps that take about a millisecond
# of which scikit-learn leaves three quarters to train with
EXAMPLES = 5000
FEATURES = 20
MODELS = {"feed-forward": (20, 10, 5, 1), "logistic regression": (20, 1)}


def share_aggregation(parties: int, contributions: int, updates: int) -> dict[str, float]:
    """Cost of `secure_sum=crypten`: seconds until the slowest party has the sum, and MB received by one party."""
    seconds, handed_bytes, peers_bytes = _shares(parties, contributions, updates)
    return {"seconds": seconds, "received (MB a party)": (handed_bytes + peers_bytes) / 1e6}


def share_parties(left: int, right: int, contributions: int, updates: int) -> dict[str, float]:
    """The cost with one number of parties over the cost with another."""
    mine, others = (share_aggregation(parties, contributions, updates) for parties in (left, right))
    names = {"seconds": "seconds", "received (MB a party)": "bytes a party"}
    return {f"{name}, {left} parties / {right}": mine[key] / others[key] for key, name in names.items()}


@lru_cache(maxsize=4)  # several rows share one measurement
def _shares(parties: int, contributions: int, updates: int) -> tuple[float, float, float]:
    from experiments.benchmarks.mpc import Clients, MpcSetting, seated, stage_cost

    with seated(Clients(MpcSetting(parties, contributions, updates))) as pools:
        rounds = []
        for _ in range(1 + REPEATS):
            told = [future.result() for future in [pool.submit(stage_cost) for pool in pools]]
            rounds.append([max(costs) for costs in zip(*told, strict=True)])
    seconds, handed_bytes, peers_bytes = map(min, zip(*rounds[1:], strict=True))
    return seconds, handed_bytes, peers_bytes


def crypten_model(model: str, parties: int) -> dict[str, float]:
    """Seconds of an epoch (one step over all examples) and of an inference, plain and encrypted."""
    times = _model_times(model, parties)
    return {
        "epoch, plain (s)": times["epoch", False],
        "epoch, encrypted (s)": times["epoch", True],
        "epoch, encrypted / plain": times["epoch", True] / times["epoch", False],
        "inference, plain (s)": times["inference", False],
        "inference, encrypted (s)": times["inference", True],
        "inference, encrypted / plain": times["inference", True] / times["inference", False],
    }


def crypten_processes(model: str) -> dict[str, float]:
    """Encrypted times of two processes over those of one."""
    one = _model_times(model, 1)
    two = _model_times(model, 2)
    return {f"{step}, 2 processes / 1": two[step, True] / one[step, True] for step in ("epoch", "inference")}


Times = dict[tuple[str, bool], float]  # seconds by step and whether it is encrypted


@lru_cache(maxsize=8)
def _model_times(model: str, parties: int) -> Times:
    """Times of the slowest party."""
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        meeting = Path(stack.enter_context(tempfile.TemporaryDirectory()), "meeting")
        pools = [stack.enter_context(ProcessPoolExecutor(1, spawn)) for _ in range(parties)]
        futures = [pool.submit(_be_party, model, rank, parties, meeting) for rank, pool in enumerate(pools)]
        told = [future.result() for future in futures]
    return {step: max(times[step] for times in told) for step in told[0]}


def _be_party(model: str, rank: int, parties: int, meeting: Path) -> Times:
    """Run one party in a separate process, since CrypTen keeps its communicator in global variables."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(parties),
        "RENDEZVOUS": f"file://{meeting}",
        "DISTRIBUTED_BACKEND": "gloo",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    import torch

    from privacy.secure_sums.mpc.crypten.compat import crypten

    torch.set_num_threads(1)
    crypten.init()
    x, y = _examples()
    secret_x = crypten.cryptensor(x)
    secret_y = crypten.cryptensor(y)
    plain = _model(torch.nn, MODELS[model])
    encrypted = _model(crypten.nn, MODELS[model]).encrypt()
    steps: dict[tuple[str, bool], Callable[[], object]] = {
        ("epoch", False): lambda: _plain_epoch(plain, x, y),
        ("epoch", True): lambda: _encrypted_epoch(crypten, encrypted, secret_x, secret_y),
        ("inference", False): lambda: plain(x),
        ("inference", True): lambda: encrypted(secret_x),
    }
    times = {step: _fastest_s(work, REPEATS if step[1] else PLAIN_REPEATS) for step, work in steps.items()}
    crypten.uninit()
    return times


def _fastest_s(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest call, after a first one."""
    times_s = []
    for _ in range(1 + repeats):
        start_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - start_s)
    return min(times_s[1:])


def _examples() -> tuple[Any, Any]:
    """The clusters of the benchmark, the same at all parties."""
    import torch
    from sklearn.datasets import make_classification

    x, y = make_classification(
        3 * EXAMPLES // 4, FEATURES, n_informative=FEATURES - 2, n_redundant=2, n_classes=2, random_state=1
    )
    return torch.tensor(x).float(), torch.tensor(y).float().unsqueeze(-1)


def _model(nn: Any, sizes: tuple[int, ...]) -> Any:
    """The model in layers of `torch.nn`, or of `crypten.nn`, which has the same layers."""
    layers: list[Any] = []
    for left, right in pairwise(sizes):
        layers += [nn.Linear(left, right), nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Sigmoid())


def _plain_epoch(model: Any, x: Any, y: Any) -> None:
    import torch

    model.zero_grad()
    torch.nn.BCELoss()(model(x), y).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def _encrypted_epoch(crypten: Any, model: Any, x: Any, y: Any) -> None:
    model.zero_grad()
    crypten.nn.BCELoss()(model(x), y).backward()
    model.update_parameters(0.1)
