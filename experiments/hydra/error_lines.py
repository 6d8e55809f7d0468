"""Hydra's composition errors as one line that names key, value and what is allowed."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from privacy.errors import FedveilError

# by path, not as a package: CrypTen also installs a top-level package called `configs`
CONFIGS = Path(__file__).resolve().parents[2] / "configs"

_FULL_KEY = re.compile(r"full_key: (\S+)")
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
        return f"{_given(key[1], overrides)}: {reason}{_alternatives(key[1], cause)}"
    return " ".join(text.split()) or type(error).__name__


def _no_option(group: str, value: str, text: str) -> str:
    listed = re.split(r"\n\s*\n|Config search path", text.partition("Available options in")[2])[0].splitlines()[1:]
    allowed = ", ".join(line.strip() for line in listed)
    return f"{group}={value}: allowed are {allowed}" if allowed else f"{group}={value}: no such option"


def _no_name(text: str, overrides: Sequence[str]) -> str:
    """The message for a group set to null or a number; Hydra's own does not name the group."""
    for override in overrides:
        group, _, value = override.partition("=")
        options = sorted(option.stem for option in (CONFIGS / group).glob("*.yaml")) if group else []
        if options and value not in options:
            return f"{override}: allowed are {', '.join(options)}"
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
    close = get_close_matches(key.rpartition(".")[2], keys, n=1)
    return f"; did you mean {close[0]}?" if close else f"; allowed are {', '.join(keys)}"
