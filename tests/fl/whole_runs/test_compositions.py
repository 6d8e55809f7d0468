"""Every mechanism under every secure sum: two rounds with the same result as under the plain sum, or a refusal.

Noise is seeded, so that both runs draw the same. Every file in `configs/mechanism` and `configs/secure_sum` is in the
matrix; each pair must run or be refused with a reason.
"""

from pathlib import Path

import pytest
import torch

from fl.checkpoint import State
from privacy.errors import ConfigError
from tests.composed import run_with_set_up, workspace_of
from tests.test_configs import of

MECHANISMS = {name: (f"mechanism={name}",) for name in of("mechanism")} | {
    "client_dp adaptive": (
        "mechanism=client_dp",
        "mechanism.client_dp.adaptive=true",
        "mechanism.client_dp.noise_multiplier=0.1",
    ),
}
OPENED = ["ckks", "bfv", "pad"]
AGGREGATES = [name for name in of("secure_sum/aggregate") if name != "sum"]
SUMS = {
    **{name: (f"secure_sum={name}",) for name in of("secure_sum")},
    **{f"{name} clients": (f"secure_sum={name}", "secure_sum.keys=clients") for name in OPENED},
    **{
        name: ("secure_sum=crypten", f"secure_sum/aggregate={name}", "training.weighting=uniform")
        for name in AGGREGATES
    },
}
# configurations with separate processes take seconds to start
SLOW = {*OPENED, "crypten", *AGGREGATES}
COMMON = ("noise=seeded", "delta=5e-4", "server.min_contributors=3", "training.batch_size=64")

INVALID = {
    **{("distributed_dp", name): "does not sum integers exactly" for name in ("ckks", "ckks clients", *AGGREGATES)},
    **{("party_dp", name): "needs parties that add noise" for name in SUMS if name != "noised_sum"},
    **{(name, "noised_sum"): "noise protects updates that are clipped" for name in MECHANISMS if name != "party_dp"},
    **{
        ("client_dp adaptive", name): "an adaptive clip adds values"
        for name in ("norm_bounded", "trimmed_mean", "median")
    },
}


def run(folder: Path, *overrides: str) -> State:
    return run_with_set_up(folder, *COMMON, *overrides)


def marked(mechanism: str, secure_sum: str) -> object:
    slow = secure_sum in SLOW and (mechanism, secure_sum) not in INVALID
    return pytest.param(mechanism, secure_sum, marks=pytest.mark.slow if slow else ())


MATRIX = [marked(mechanism, secure_sum) for mechanism in MECHANISMS for secure_sum in SUMS]


@pytest.mark.parametrize(("mechanism", "secure_sum"), MATRIX)
def test_a_mechanism_under_a_sum_ends_as_under_the_plain_one_or_is_refused(
    tmp_path: Path, mechanism: str, secure_sum: str
) -> None:
    overrides = *MECHANISMS[mechanism], *SUMS[secure_sum]
    if reason := INVALID.get((mechanism, secure_sum)):
        with pytest.raises(ConfigError) as refusal:
            workspace_of(*COMMON, *overrides)
        assert reason in str(refusal.value)
        return
    room = () if secure_sum == "plain" else ("secure_sum.bound=16",)  # for the noise of local_dp, which is cut else
    if secure_sum == "norm_bounded":
        room += ("secure_sum.aggregate.norm=1000",)  # else all that local_dp noises is left out
    found = run(tmp_path / "found", *overrides, *room)
    assert found.round == 2
    assert torch.isfinite(found.weights_D).all()
    if secure_sum not in AGGREGATES:
        weighting = [one for one in overrides if one.startswith("training.weighting")]
        plain = run(tmp_path / "plain", *MECHANISMS[mechanism], *weighting)
        assert (found.weights_D - plain.weights_D).abs().max() < 1e-2 * plain.weights_D.abs().max()
