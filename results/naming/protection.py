"""The keys of a configuration that only protection reads, and whether it has any."""

from collections.abc import Mapping
from typing import Any

# a run shares the other keys with its plain twin
PROTECTION = ("secure_sum", "mechanism", "noise", "delta", "accountant", "epsilon_budget", "witness")
PLAIN_SUM = "privacy.PlainSum"


def is_plain(configuration: Mapping[str, Any]) -> bool:
    """True for a resolved configuration without protection, the baseline of the others."""
    secure_sum = configuration.get("secure_sum") or {}
    return secure_sum.get("_target_") == PLAIN_SUM and not configuration.get("mechanism")
