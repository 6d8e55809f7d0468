"""Class names that configurations held before they named public classes, and what they are called now.

Runs on disk hold the former names: a table reads them as the present ones. A configuration that is to run is refused
with the present name (`fl.config.build`), because its hash would be another one.
"""

from collections.abc import Mapping
from typing import Any

FORMER = {
    "fl.private_models.CnnTanh": "fl.models.CnnTanh",
    "fl.private_models.CnnTanhCifar": "fl.models.CnnTanhCifar",
    "fl.private_models.CnnTanhGn": "fl.models.CnnTanhGn",
    "fl.private_models.ScatterCnn": "fl.models.ScatterCnn",
    "fl.private_models.ScatterLinear": "fl.models.ScatterLinear",
    "privacy.client_dp.ClientDp": "privacy.ClientDp",
    "privacy.client_dp.LocalDp": "privacy.LocalDp",
    "privacy.crypten_mpc.CryptenSum": "privacy.CryptenSum",
    "privacy.distributed_dp.DistributedDp": "privacy.DistributedDp",
    "privacy.dp_ftrl.DpFtrl": "privacy.DpFtrl",
    "privacy.dp_sgd.DpSgd": "privacy.DpSgd",
    "privacy.he.BfvSum": "privacy.BfvSum",
    "privacy.he.CkksSum": "privacy.CkksSum",
    "privacy.he.PadSum": "privacy.PadSum",
    "privacy.party_dp.PartyDp": "privacy.PartyDp",
    "privacy.secagg.SecAggSum": "privacy.SecAggSum",
    "privacy.secure_sum.PlainSum": "privacy.PlainSum",
}
NAMED = ("model", "secure_sum")  # groups that name one class; `mechanism` names one for each of its keys


def renamed(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run on disk, with the present names of its classes."""
    found = dict(configuration)
    for group in NAMED:
        if isinstance(found.get(group), Mapping):
            found[group] = _present(found[group])
    if isinstance(found.get("mechanism"), Mapping):
        found["mechanism"] = {
            name: _present(node) if isinstance(node, Mapping) else node for name, node in found["mechanism"].items()
        }
    return found


def _present(node: Mapping[str, Any]) -> Mapping[str, Any]:
    present = FORMER.get(str(node.get("_target_")))
    return node if present is None else {**node, "_target_": present}
