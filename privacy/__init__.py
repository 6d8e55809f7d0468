"""Privacy backends: mechanisms, which change what is released, and secure sums, which hide how it is summed.

Configurations name the public classes below (`_target_: privacy.CkksSum`). Each one is imported when it is asked for,
so that TenSEAL, CrypTen and Opacus load only where they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privacy.backend import PrivacyBackend as PrivacyBackend
    from privacy.mechanisms.client_dp import ClientDp as ClientDp
    from privacy.mechanisms.contract import Mechanism as Mechanism
    from privacy.mechanisms.distributed_dp import DistributedDp as DistributedDp
    from privacy.mechanisms.dp_ftrl import DpFtrl as DpFtrl
    from privacy.mechanisms.dp_sgd import DpSgd as DpSgd
    from privacy.mechanisms.local_dp import LocalDp as LocalDp
    from privacy.mechanisms.party_dp import PartyDp as PartyDp
    from privacy.secure_sums.contract import SecureSum as SecureSum
    from privacy.secure_sums.he.sums import BfvSum as BfvSum
    from privacy.secure_sums.he.sums import CkksSum as CkksSum
    from privacy.secure_sums.he.sums import PadSum as PadSum
    from privacy.secure_sums.mpc.protocol import CryptenSum as CryptenSum
    from privacy.secure_sums.plain import PlainSum as PlainSum
    from privacy.secure_sums.secagg.protocol import SecAggSum as SecAggSum

PUBLIC = {
    "BfvSum": "privacy.secure_sums.he.sums",
    "CkksSum": "privacy.secure_sums.he.sums",
    "ClientDp": "privacy.mechanisms.client_dp",
    "CryptenSum": "privacy.secure_sums.mpc.protocol",
    "DistributedDp": "privacy.mechanisms.distributed_dp",
    "DpFtrl": "privacy.mechanisms.dp_ftrl",
    "DpSgd": "privacy.mechanisms.dp_sgd",
    "LocalDp": "privacy.mechanisms.local_dp",
    "Mechanism": "privacy.mechanisms.contract",
    "PadSum": "privacy.secure_sums.he.sums",
    "PartyDp": "privacy.mechanisms.party_dp",
    "PlainSum": "privacy.secure_sums.plain",
    "PrivacyBackend": "privacy.backend",
    "SecAggSum": "privacy.secure_sums.secagg.protocol",
    "SecureSum": "privacy.secure_sums.contract",
}


def __getattr__(name: str) -> object:
    """The public class of this name, imported now."""
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
