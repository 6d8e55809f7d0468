"""Hydra's composition errors as one line that names key, value and what is allowed."""

import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from privacy.errors import FedveilError, nearest

# by path, not as a package: CrypTen also installs a top-level package called `configs`
CONFIGS = Path(__file__).resolve().parents[2] / "configs"

_FULL_KEY = re.compile(r"full_key: (\S+)")
_NO_KEYS = ("Cannot convert 'dict'", "Value '{}' of type 'dict'")  # how OmegaConf says that a value is no group
_NO_OPTION = re.compile(r"Could not find '([^']+)/([^/']+)'")


def one_line(error: BaseException, overrides: Sequence[str] = ()) -> str:
    """The message of an error on one line, with the override that caused it where Hydra names the key."""
    text = str(error)
    if isinstance(error, FedveilError):
        return " ".join(text.split())
    option = _NO_OPTION.search(text)
    if option:
        return _no_option(option[1], option[2], text)
    if text.startswith("Config group override must be"):
        return _no_name(text, overrides)
    cause = error.__cause__ or error
    key = _FULL_KEY.search(str(cause))
    reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    if key:
        given = _given(key[1], overrides)
        if reason.startswith(_NO_KEYS) and given.partition("=")[0].lstrip("+~") != key[1]:
            return f"{given}: {key[1]} is a single value, without keys below it"
        return f"{given}: {reason}{_alternatives(key[1], cause)}"
    return " ".join(text.split()) or type(error).__name__


def _no_option(group: str, value: str, text: str) -> str:
    listed = re.split(r"\n\s*\n|Config search path", text.partition("Available options in")[2])[0].splitlines()[1:]
    names = [line.strip() for line in listed]
    return f"{group}={value}: {_allowed(names, value)}" if names else f"{group}={value}: no such option"


def _allowed(names: Sequence[str], value: str) -> str:
    return f"allowed are {', '.join(names)}{nearest(value, names)}"


def _no_name(text: str, overrides: Sequence[str]) -> str:
    """The message for a group set to null or a number; Hydra's own does not name the group."""
    for override in overrides:
        group, _, value = override.partition("=")
        options = sorted(option.stem for option in (CONFIGS / group).glob("*.yaml")) if group else []
        if options and value not in options:
            return f"{override}: {_allowed(options, value)}"
    return text


def _given(key: str, overrides: Sequence[str]) -> str:
    """The override as the user typed it, or only the key."""
    names = {override.lstrip("+~").split("=")[0]: override for override in overrides}
    return next((names[name] for name in names if name == key or name.startswith(f"{key}.")), key)


def _alternatives(key: str, cause: BaseException) -> str:
    """The keys that exist, for the message about one that does not."""
    if not isinstance(cause, ConfigKeyError | ConfigAttributeError) or not isinstance(cause.parent_node, DictConfig):
        return ""
    keys = [str(name) for name in cause.parent_node]
    parent, _, name = key.rpartition(".")
    within = [one for one in keys if name in _keys_of(cause.parent_node, one)]
    if within:
        return f"; did you mean {parent}.{within[0]}.{name}?"
    if not keys:
        return f"; {parent} has no keys here: {_options_with(parent, name)}, or add one as +{key}="
    return nearest(name, keys) or f"; allowed are {', '.join(keys)}"


def _keys_of(node: DictConfig, name: str) -> Sequence[str]:
    """The keys of a node's part; none where that is a value."""
    part = node._get_node(name)
    return [str(key) for key in part] if isinstance(part, DictConfig) and not part._is_none() else []


def _options_with(group: str, name: str) -> str:
    """The options of a group of configurations whose files hold a key of this name, or all of them."""
    files = sorted((CONFIGS / group.replace(".", "/")).glob("*.yaml"))
    holding = [file.stem for file in files if re.search(rf"^\s*{re.escape(name)}:", file.read_text(), re.MULTILINE)]
    return f"choose {group}={' or '.join(holding or [file.stem for file in files])}" if files else "it is empty"
