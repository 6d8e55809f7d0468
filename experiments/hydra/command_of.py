"""The command that reproduces a configuration, from the resolved text that a run keeps."""

import copy
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.hydra.compose import composed
from experiments.hydra.error_lines import CONFIGS
from fl.config.identity import identified, to_json

# groups whose option is found by their values; `privacy` names those of mechanism and secure_sum together
GROUPS = (
    *("data", "model", "training", "training/optimizer", "training/schedule", "server", "mechanism", "secure_sum"),
    *("runtime", "faults"),
)
ROUNDS = 4  # rounds of changes, since an override changes other values through interpolation
BARE = re.compile(r"[A-Za-z_./][\w./:-]*", re.ASCII)  # a text that Hydra takes without quotes
WORDS = ("null", "true", "false", "nan", "inf")  # and parses as something other than text
DEFAULTS = "defaults"
GLOBAL = "# @package _global_"
NAMING = ("_target_", "name")
MANY = 100
ABSENT = object()

Values = Mapping[str, Any]


class Composed(NamedTuple):
    """The result of composing overrides: the unresolved configuration, and the option of each group."""

    config: DictConfig
    choices: Mapping[str, str]


def command_of(configuration: Values) -> str | None:
    """`fedveil run ...` of a resolved configuration, as `config.json` holds it; None where no overrides give it.

    A command is returned only after a check that it gives the same canonical text, and so the same hash.
    """
    others = json.dumps({key: value for key, value in configuration.items() if key != "seed"})
    words = _less_seed(others)
    return None if words is None else shlex.join(["fedveil", "run", *words, f"seed={configuration['seed']}"])


@lru_cache(maxsize=4096)  # runs that differ only in their seed share a command
def _less_seed(others: str) -> list[str] | None:
    configuration = dict(sorted({**json.loads(others), "seed": 1}.items()))
    try:
        words = overrides_of(configuration)
    except OmegaConfBaseException:  # a value that a key no longer takes
        return None
    return None if words is None else [word for word in words if not word.startswith("seed=")]


def overrides_of(configuration: Values) -> list[str] | None:
    """The overrides of the command, hardly any of them superfluous; None as in `command_of`."""
    chosen = _choices(configuration)
    config = copy.deepcopy(_composed(tuple(chosen)).config)
    values: dict[str, str] = {}
    for attempt in range(ROUNDS):
        for key, value in _differences(_identity(config), configuration):
            if attempt or not _follows(config, key):  # a dependent value may become right with the values it depends on
                values[key] = _override(config, key, value)
    if values.keys() & {"experiment", *GROUPS}:  # Hydra would read it as an option that does not exist
        return None
    same = to_json(config) == json.dumps(configuration, separators=(",", ":"))
    return [*chosen, *values.values()] if same else None


def _identity(config: DictConfig) -> dict[str, Any]:
    return identified(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)))


def _differences(have: Values, want: Values, above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their wanted values; ABSENT for keys that should not exist."""
    for key, value in want.items():
        held = have.get(key, ABSENT)
        if isinstance(held, dict) and isinstance(value, dict):
            yield from _differences(held, value, f"{above}{key}.")
        elif held is ABSENT or json.dumps(held) != json.dumps(value):  # 1 is not 1.0
            yield f"{above}{key}", value
    yield from ((f"{above}{key}", ABSENT) for key in have if key not in want)


def _follows(config: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = cast(DictConfig, OmegaConf.select(config, parent) if parent else config)
    return name in node.keys() and OmegaConf.is_interpolation(node, name)  # noqa: SIM118  (`in` leaves out `???`)


def _override(config: DictConfig, key: str, value: Any) -> str:
    """Set a value in the configuration as Hydra would; returns the override for it."""
    parent, _, name = key.rpartition(".")
    node = cast(DictConfig, OmegaConf.select(config, parent) if parent else config)
    there = name in node.keys()  # noqa: SIM118
    if value is ABSENT:
        OmegaConf.set_struct(node, False)
        del node[name]
        return f"~{key}"
    OmegaConf.update(config, key, value, force_add=True)
    return f"{'' if there else '+'}{key}={_text(value)}"


def _text(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_text(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if not isinstance(value, str):
        return json.dumps(value).replace("Infinity", "inf").replace("NaN", "nan")
    if BARE.fullmatch(value) and value.lower() not in WORDS:
        return value
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    closed = re.sub(r"(\\+)$", r"\1\1", escaped)  # otherwise the last backslash would escape the closing quote
    return f"'{closed}'"


def _choices(configuration: Values) -> list[str]:
    """The options of groups that come nearest to a configuration, without the default ones."""
    experiment = str(configuration.get("experiment"))
    first = [f"experiment={experiment}"] if experiment in _options("experiment") else []
    usual = _composed(tuple(first)).choices
    found = {group: _nearest(group, configuration, str(usual.get(group))) for group in GROUPS}
    found["mechanism"] = _mechanisms(configuration)
    changed = {group: option for group, option in found.items() if option != str(usual.get(group))}
    protection: dict[str, str] = {
        group: changed.pop(group) for group in ("mechanism", "secure_sum") if group in changed
    }
    if protection and (named := _named(found["mechanism"], found["secure_sum"], configuration)):
        protection = {"privacy": named}
    return [*first, *(f"{group}={option}" for group, option in (changed | protection).items())]


def _mechanisms(configuration: Values) -> str:
    names = [name for name in configuration.get("mechanism", {}) if name in _options("mechanism")]
    return {0: "none", 1: "".join(names)}.get(len(names), f"[{','.join(names)}]")


def _named(mechanism: str, secure_sum: str, configuration: Values) -> str | None:
    """The option of `privacy` that names both, and contradicts no value of the configuration."""
    fitting = [
        (_likeness(values, configuration), name)
        for name, (values, defaults) in _options("privacy").items()
        if defaults == {"mechanism": mechanism, "secure_sum": secure_sum} and not _contradicted(values, configuration)
    ]
    return max(fitting)[1] if fitting else None


def _nearest(group: str, configuration: Values, usual: str) -> str:
    likeness = {name: _likeness(values, configuration) for name, (values, _) in _options(group).items()}
    return max(likeness, key=lambda name: (likeness[name], name == usual))


def _likeness(option: Values, configuration: Values) -> int:
    """Number of an option's values that the configuration has, less those it has not; a name counts for many."""
    compared = _compared(option, configuration)
    return sum((MANY if key in NAMING else 1) * (1 if fits else -1) for key, fits in compared)


def _contradicted(option: Values, configuration: Values) -> bool:
    return not all(fits for _, fits in _compared(option, configuration))


def _compared(option: Values, configuration: Any) -> Iterator[tuple[str, bool]]:
    for key, value in option.items():
        held = configuration.get(key, ABSENT) if isinstance(configuration, Mapping) else ABSENT
        if isinstance(value, dict):
            yield from _compared(value, held)
        elif not (isinstance(value, str) and "${" in value):  # an interpolated value fits
            yield key, held == value


@lru_cache(maxsize=64)
def _options(group: str) -> dict[str, tuple[Values, Values]]:
    """Each option of a group: its values, from the root of the configuration, and the groups that it overrides."""
    return {path.stem: _read(path.read_text(), group) for path in sorted((CONFIGS / group).glob("*.yaml"))}


def _read(text: str, group: str) -> tuple[Values, Values]:
    values: dict[str, Any] = yaml.safe_load(text) or {}
    listed = [entry for entry in values.pop(DEFAULTS, []) if isinstance(entry, dict)]
    overridden = {key.removeprefix("override /"): value for entry in listed for key, value in entry.items()}
    if not text.startswith(GLOBAL):
        for part in reversed(group.split("/")):
            values = {part: values}
    return values, overridden


@lru_cache(maxsize=256)  # Hydra takes 0.2 s
def _composed(overrides: tuple[str, ...]) -> Composed:
    config = composed(overrides, with_hydra=True)
    choices = dict(config.hydra.runtime.choices)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    OmegaConf.set_struct(config, True)
    return Composed(config, choices)
