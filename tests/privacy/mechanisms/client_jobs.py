"""Jobs of clients and of the server under client-level mechanisms, and updates of all magnitudes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from hypothesis import strategies as st

from privacy.mechanisms.contract import ClientJob, ServerJob
from privacy.randomness import SeededRandomness
from tests.privacy.mechanisms import plans

SILENT = 1e-300  # a noise multiplier whose noise vanishes beside any sum
PLAN = replace(
    plans.PLAN,
    clients=200,
    cohort_size=100,
    min_contributors=1,
    hidden=False,
    dimension=2,
    examples=(20,) * 200,
    participations=(5,) * 200,
    delta=1e-5,
)

ODD = (0.0, -0.0, 1e-45, -1e-45, 1e-40, 1.17549435e-38, 1e-20, 1.0, 1e20, 1e38, -3.4028234e38)
ELEMENTS = st.one_of(
    st.sampled_from(np.array(ODD, np.float32).tolist()), st.floats(width=32, allow_nan=False, allow_infinity=False)
)


@st.composite
def updates(draw: Callable[..., object], longest: int = 2000) -> torch.Tensor:
    """Float32 vectors of all magnitudes; a long one repeats a short one."""
    few = draw(st.lists(ELEMENTS, min_size=1, max_size=20))
    length = draw(st.one_of(st.integers(1, 20), st.integers(1, longest)))
    return torch.from_numpy(np.resize(np.array(few, np.float32), length))  # type: ignore[arg-type]


BOUNDS = st.floats(1e-6, 1e6)


def exact_norm(update_D: torch.Tensor) -> float:
    """The norm of a float32 vector: squares are exact in float64, and `fsum` rounds once."""
    return math.sqrt(math.fsum(value * value for value in update_D.tolist()))


def client_job(client: int = 0, round_: int = 1, clip: float = 1.0) -> ClientJob:
    """A client with 20 examples in a round, its own noise, and the clip that the server told."""
    model = PLAN.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    source = SeededRandomness("noise", client, round_)
    state = {"client_dp.clip": clip}
    return ClientJob(f"client/{client}", round_, {}, source, 20, model, optimizer, (), state=state)


def server_job(clip: float, round_: int = 1, extra: Sequence[float] = (), cohort_size: int = 100) -> ServerJob:
    source = SeededRandomness("server", round_)
    return ServerJob(round_, source, cohort_size, (), 100.0, {"client_dp.clip": clip}, extra=list(extra))
