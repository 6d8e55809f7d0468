"""Short names for configurations: only the keys that differ between those shown."""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

# The keys that stand for a whole configuration when there is no other one to compare with.
MAIN = ("data", "model", "clients", "rounds", "mechanism", "secure_sum")
FIRST = ("data", "model")
SCALARS = (str, int, float, type(None))
LAST = ("mechanism", "secure_sum")
# What papers call the mechanisms and secure sums of this project; others keep their own names.
SHORT = {
    "dp_sgd": "DP-SGD",
    "client_dp": "DP-FedAvg",
    "dp_ftrl": "DP-FTRL",
    "local_dp": "local DP",
    "distributed_dp": "distributed DP",
    "party_dp": "party DP",
    "ckks": "CKKS",
    "bfv": "BFV",
    "pad": "one-time pad",
    "secagg": "SecAgg+",
    "crypten": "CrypTen",
    "crypten_norm_bounded": "CrypTen norm-bounded",
    "crypten_trimmed_mean": "CrypTen trimmed mean",
    "crypten_median": "CrypTen median",
}
PLAIN = "plain"
BEFORE_A_KEY = re.compile(r" (?=[\w./+~@-]+=)")

Parts = dict[str, str]


def flatten(configuration: Mapping[str, Any]) -> Parts:
    """Dotted keys to values as text.

    A group chosen by name also appears under its own key: `{"data": {"name": "digits", "alpha": 0.5}}` gives
    `data=digits`, `data.name=digits` and `data.alpha=0.5`.
    """
    flat: Parts = {}
    for key, value in configuration.items():
        if isinstance(value, SCALARS) or not isinstance(value, Mapping):
            flat[key] = _text(value)
            continue
        name = "+".join(value) if key == "mechanism" else _chosen(value)
        if name is not None or not value:
            flat[key] = name or "none"
        flat |= {f"{key}.{inner}": text for inner, text in flatten(value).items()}
    return flat


def label_parts(configurations: Sequence[Mapping[str, Any]]) -> list[Parts]:
    """For each configuration, the keys that distinguish it from the others, in reading order.

    Keys that follow from a group's name are left out: `data=digits` and `data=mnist` also differ in the columns of the
    sets, which is no news. A single configuration gets its main keys.
    """
    if len(configurations) == 1:
        flat = flatten(configurations[0])
        return [{key: flat[key] for key in MAIN if key in flat}]
    flats = [flatten(configuration) for configuration in _differing(configurations)]
    keys = sorted({key for flat in flats for key in flat}, key=_reading_order)
    varied = [key for key in keys if len({flat.get(key) for flat in flats}) > 1]
    groups = {key: _groups(key, keys) for key in varied}
    values: dict[tuple[str, ...], set[str | None]] = defaultdict(set)
    for flat in flats:
        for key in varied:
            values[_cell(key, groups[key], flat)].add(flat.get(key))

    def tells(key: str, flat: Parts) -> bool:
        return key in flat and len(values[_cell(key, groups[key], flat)]) > 1

    return [{key: flat[key] for key in varied if tells(key, flat)} for flat in flats]


def _differing(configurations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Remove the groups that are equal in all configurations; they distinguish nothing, and take long to flatten."""
    if not configurations:
        return []
    first = {key: repr(value) for key, value in configurations[0].items()}  # 1 and 1.0 are equal, but differ as text
    same = [key for key in first if all(key in c and repr(c[key]) == first[key] for c in configurations)]
    return [{key: value for key, value in c.items() if key not in same} for c in configurations]


def text_of(parts: Parts) -> str:
    """The label on one line: `data=digits secure_sum=plain`."""
    return " ".join(f"{key}={value}" for key, value in parts.items())


def short_name(backend: str) -> str:
    """The short name of a backend: `DP-SGD + SecAgg+` of `dp_sgd+secagg`, `DP-SGD` of `dp_sgd+plain`."""
    *mechanisms, secure_sum = backend.split("+")
    shown = mechanisms if mechanisms and secure_sum == PLAIN else [*mechanisms, secure_sum]
    return " + ".join(SHORT.get(part, part) for part in shown)


def backend_of(configuration: Mapping[str, Any]) -> str:
    """The name of a configuration's backend, `dp_sgd+ckks`."""
    chosen = _chosen(configuration.get("secure_sum") or {}) or PLAIN
    return "+".join([*(configuration.get("mechanism") or {}), chosen])


def label_of(parts: Parts, name: str) -> str:
    """The label on one line, with the short name in place of mechanism and secure sum: `CKKS data=digits`."""
    others = {key: value for key, value in parts.items() if key not in LAST}
    return text_of(parts) or name if others == parts else f"{name} {text_of(others)}".rstrip()


def pieces(label: str) -> list[str]:
    """A label broken before each of its keys."""
    return BEFORE_A_KEY.split(label)


def _groups(key: str, keys: Sequence[str]) -> list[str]:
    """The chosen groups that contain a key."""
    return [other for other in keys if key.startswith(f"{other}.")]


def _cell(key: str, groups: Sequence[str], flat: Parts) -> tuple[str, ...]:
    return key, *(flat.get(group, "") for group in groups)


def _reading_order(key: str) -> tuple[int, str]:
    group = key.partition(".")[0]
    if group in FIRST:
        return FIRST.index(group), key
    return len(FIRST) + (1 + LAST.index(group) if group in LAST else 0), key


def _chosen(group: Mapping[str, Any]) -> str | None:
    """The name of an option: its `name`, or the last part of its `_target_` (`privacy.CkksSum` is `ckks`)."""
    if "name" in group:
        return _text(group["name"])
    if "_target_" not in group:
        return None
    return str(group["_target_"]).rpartition(".")[2].removesuffix("Sum").lower()


def _text(value: Any) -> str:
    # cached, since thousands of configurations hold the same few values; True, 1 and 1.0 differ only in type
    return _scalar(type(value).__name__, value) if isinstance(value, SCALARS) else json.dumps(value)


@lru_cache(maxsize=4096)
def _scalar(_: str, value: str | float | bool | None) -> str:
    return value if isinstance(value, str) and value and not set(value) & set(' "=') else json.dumps(value)
