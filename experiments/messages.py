"""Hydra's composition errors as one line that names key, value and what is allowed."""

import re
from collections.abc import Sequence

from privacy.errors import FedveilError

_FULL_KEY = re.compile(r"full_key: (\S+)")
_NO_OPTION = re.compile(r"Could not find '([^']+)/([^/']+)'")


def one_line(error: BaseException, overrides: Sequence[str] = ()) -> str:
    """The message of an error on one line, with the override that caused it where Hydra says which key it was."""
    text = str(error)
    if isinstance(error, FedveilError):
        return " ".join(text.split())
    option = _NO_OPTION.search(text)
    if option:
        return _no_option(option[1], option[2], text)
    cause = error.__cause__ or error
    key = _FULL_KEY.search(str(cause))
    reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    if key:
        return f"{_given(key[1], overrides)}: {reason}"
    return " ".join(text.split()) or type(error).__name__


def _no_option(group: str, value: str, text: str) -> str:
    available = [line.strip() for line in text.splitlines() if line.startswith("\t")]
    return f"{group}={value}: allowed are {', '.join(available)}" if available else f"{group}={value}: no such option"


def _given(key: str, overrides: Sequence[str]) -> str:
    """The override as the user wrote it, or the key alone."""
    written = [override for override in overrides if override.lstrip("+~").split("=")[0] == key]
    return written[0] if written else key
