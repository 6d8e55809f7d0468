"""What to type after `fedveil run` to have a stored configuration again: the overrides that lead to its hash.

A run keeps what it was composed to, not what was typed; of a sweep's cell, or a plain twin, nobody typed it. So they
are found backwards: the options of the groups that come closest, then a value for each key that still differs. Hydra's
own parser applies them, and they count only if the hash is the same.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.messages import CONFIGS
from fl.config import UNHASHED, register_schema, to_json

Configuration = Mapping[str, Any]
PAIRS, EXPERIMENT = "privacy", "experiment"  # a pair is a mechanism and a secure sum, which are found by themselves
PASSES = 3  # what an interpolation gives is known only when what it refers to has its value
# what Hydra reads as text without quotes, and as nothing else
BARE = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z_/][\w./:@-]*", re.IGNORECASE)


def overrides_of(configuration: Configuration) -> list[str] | None:
    """The overrides that make a resolved configuration (as `fl.config.to_json` writes it), or None if none do.

    None is for a configuration of another version of fedveil, whose keys or defaults were others, and for one that
    was composed from files of the user's own under an experiment's name of theirs.
    """
    wanted = {key: value for key, value in configuration.items() if key not in UNHASHED}
    chosen = _choices(wanted)
    lines: list[str] = []
    try:
        for number in range(PASSES):
            config = _applied(chosen, tuple(lines))
            if to_json(config) == json.dumps(wanted, separators=(",", ":")):
                return [*chosen, *lines]
            lines += _differences(config, wanted, interpolated=number > 0)
    except (HydraException, OmegaConfBaseException):  # a key that a schema of today does not have
        return None
    return None


def _choices(wanted: Configuration) -> tuple[str, ...]:
    """The option of each group that leaves the fewest values to be given, where that is not the default."""
    experiment = str(wanted.get(EXPERIMENT))
    first = (f"{EXPERIMENT}={experiment}",) if experiment in _options().get(EXPERIMENT, ()) else ()
    chosen: dict[str, str] = {}
    for group, options in _options().items():
        if group in (PAIRS, EXPERIMENT):
            continue
        above = (*first, *(choice for other, choice in chosen.items() if group.startswith(f"{other}/")))
        base = _leaves_of(above) or {}
        prefix = group.replace("/", ".")
        if _inside(base, prefix) == _inside(_leaves(wanted), prefix):
            continue
        scores = {"": _distance(base, wanted)}
        scores |= {name: _distance(_leaves_of((*above, f"{group}={name}")), wanted) for name in options}
        best = min(scores, key=lambda name: scores[name])
        if best:
            chosen[group] = f"{group}={best}"
    return (*first, *chosen.values())


@lru_cache
def _options() -> dict[str, list[str]]:
    """The groups of `configs/` and their options, outer groups first."""
    found: dict[str, list[str]] = {}
    for path in sorted(CONFIGS.rglob("*/*.yaml"), key=lambda path: (len(path.parts), path)):
        found.setdefault(path.parent.relative_to(CONFIGS).as_posix(), []).append(path.stem)
    return found


@lru_cache(maxsize=1024)  # a tenth of a second each
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    register_schema()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def _applied(chosen: tuple[str, ...], lines: tuple[str, ...]) -> DictConfig:
    """As Hydra does it: groups first, then values. Composing anew for each configuration would take a minute or so."""
    config = cast(DictConfig, OmegaConf.create(_composed(chosen), flags={"struct": True}))
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(list(lines)), config)
    return config


Leaves = dict[str, str]


@lru_cache(maxsize=1024)
def _leaves_of(overrides: tuple[str, ...]) -> Leaves | None:
    try:
        return _leaves(json.loads(to_json(_composed(overrides))))
    except (HydraException, OmegaConfBaseException):  # an option that needs another one beside it
        return None


def _leaves(values: Configuration, above: str = "") -> Leaves:
    """Dotted keys to JSON."""
    found: Leaves = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _leaves(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = json.dumps(value)
    return found


def _inside(leaves: Leaves, prefix: str) -> Leaves:
    return {key: text for key, text in leaves.items() if key == prefix or key.startswith(f"{prefix}.")}


def _distance(leaves: Leaves | None, wanted: Configuration) -> float:
    """How many values differ."""
    return float("inf") if leaves is None else len(leaves.items() ^ _leaves(wanted).items())


def _differences(config: DictConfig, wanted: Configuration, interpolated: bool) -> Iterator[str]:
    """Overrides from what is composed to what is wanted; those for interpolations only where these came out wrong."""
    there = {key: value for key, value in json.loads(to_json(config)).items() if key not in UNHASHED}
    for key, line in _lines(there, wanted):
        if interpolated or not _is_interpolation(config, key):
            yield line


def _is_interpolation(config: DictConfig, dotted: str) -> bool:
    parent, _, key = dotted.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and key in node and OmegaConf.is_interpolation(node, key)


def _lines(there: Configuration, wanted: Configuration, above: str = "") -> Iterator[tuple[str, str]]:
    """Each key that differs, with the override that mends it."""
    for key in there.keys() - wanted.keys():
        yield f"{above}{key}", f"~{above}{key}"
    for key, value in wanted.items():
        dotted = f"{above}{key}"
        if key not in there:
            yield dotted, f"+{dotted}={_literal(value)}"
        elif isinstance(value, Mapping) and isinstance(there[key], Mapping):
            yield from _lines(there[key], value, f"{dotted}.")
        elif json.dumps(value) != json.dumps(there[key]):
            yield dotted, f"{dotted}={_literal(value)}"


def _literal(value: Any) -> str:
    """In the grammar of Hydra's overrides."""
    if isinstance(value, str):
        return value if BARE.fullmatch(value) else _quoted(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(map(_literal, value)) + "]"
    return json.dumps(value)


def _quoted(text: str) -> str:
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"
