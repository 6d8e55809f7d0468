"""Each model of the zoo under each kind of protection: the sum is that of its clients' own updates, or it is refused.

The oracle trains every client in a workspace of its own and adds the updates in float64. The noise of client_dp has no
seed that it could follow there: it is so small that it moves nothing.
"""

import inspect

import numpy as np
import pytest

from fl.metering import Phases
from fl.participant import contribution
from fl.workspace import Workspace
from privacy.errors import ConfigError
from tests.composed import request_of, run_with_set_up, workspace_of
from tests.fl.models import zoo

KINDS = [name for name, kind in vars(zoo).items() if inspect.isclass(kind) and kind.__module__ == zoo.__name__]
UNSUMMED = dict.fromkeys(("Steps", "LocalSteps", "FrozenSteps"), "training changes steps, which no sum carries")
UNSUMMED |= dict.fromkeys(("AttributeSteps", "ListSteps"), "its outputs depend on, which no sum carries")
ALWAYS = UNSUMMED | {
    "AllFrozen": "it has nothing to train",
    "UnreachedLazy": "no input reaches beside",
    "Tuple": "its outputs are a tuple",
    "TwoInputs": "on random examples: .*'others'",
    "TooWide": "must be logits",
    "TooNarrow": "must be logits",
    "FarTooNarrow": "must be logits|is out of bounds",
}
# buffers that training moves: refused beside noise, and whatever else dp_sgd says of a model with such
MOVING = ("BatchNorm", "CountingBatchNorm", "SpectralNorm", "FloatSteps", "ComplexSteps")
BY_NOISE = dict.fromkeys(MOVING, "training changes |BatchNorm|keeps something")
BY_DP_SGD = {
    "Lstm": "swap_layers=true",
    "Gru": "swap_layers=true",
    "Attention": "swap_layers=true",
    "Transformer": "swap_layers=true",
    "Complex": "turn is complex",
    "Bilinear": "no mode gives the gradients of its single examples",
}
LATE = {"Late": "training changes late"}  # dp_sgd trains a copy, whose integers stay there
SLOTS = {
    "plain": ((), 1e-6, LATE),
    "ckks": (("secure_sum=ckks",), 1e-4, LATE),
    "secagg": (("secure_sum=secagg",), 1e-4, LATE),
    "client_dp": (("mechanism=client_dp", "mechanism.client_dp.clip=100", "accountant=rdp"), 1e-5, BY_NOISE | LATE),
    "dp_sgd": (("mechanism=dp_sgd", "noise=seeded"), 1e-5, BY_NOISE | BY_DP_SGD),
}
QUICK = (
    ("Frozen", "client_dp"),
    ("Complex", "secagg"),
    ("BatchNorm", "dp_sgd"),
    ("Tied", "dp_sgd"),
)
BASE = ("training.weighting=uniform", "rounds=1", "training.batch_size=15")


def marks_of(kind: str, slot: str):
    return () if (kind, slot) in QUICK else (pytest.mark.slow,)


CELLS = [pytest.param(kind, slot, marks=marks_of(kind, slot)) for kind in KINDS for slot in SLOTS]


@pytest.mark.parametrize(("kind", "slot"), CELLS)
def test_a_cell_is_right_or_refused_by_name(tmp_path, kind, slot):
    overrides, tolerance, refused = SLOTS[slot]
    options = (f"model._target_=tests.fl.models.zoo.{kind}", *BASE, *overrides)
    if slot == "client_dp":
        options += ("mechanism.client_dp.noise_multiplier=1e-8",)
    told = {**refused, **ALWAYS}.get(kind)
    if told is not None:
        if slot == "dp_sgd" and kind in UNSUMMED:
            told = f"{told}|keeps something of the examples|training changes steps"
        with pytest.raises(ConfigError, match=rf"^model.*{kind}.*({told})") as refusal:
            run_with_set_up(tmp_path, *options)
        assert "\n" not in str(refusal.value)
        return
    state = run_with_set_up(tmp_path, *options)
    start_D = workspace_of(*options).initial_D.double().numpy()
    own = [alone(workspace_of(*options), client, slot)[:-1] for client in range(4)]
    mean_D = np.mean([one.astype(np.float64) for one in own], axis=0)
    moved_D = state.weights_D.double().numpy() - start_D
    assert len(moved_D) == len(mean_D)
    assert np.abs(mean_D).max() > 1e-4
    assert np.abs(moved_D - mean_D).max() <= tolerance * max(1.0, np.abs(start_D).max())


def alone(work: Workspace, client: int, slot: str) -> np.ndarray:
    """What a client contributes from a process that no other one has used."""
    state = {"client_dp.clip": 100.0} if slot == "client_dp" else {}
    return contribution(work, request_of(work, client, state=state), {}, Phases(work.device))
