"""The exception tree: all exceptions that fedveil raises on purpose.

FedveilError
├── ConfigError (ValueError)          a user's value is refused: names the key, the value and the allowed values
├── PrivacyRefusal (ValueError)       the run cannot keep its promise, so it stops
│   ├── TooFewContributors
│   └── WitnessAlarm                  a client was about to send a record that is not protected as declared
├── ProtocolError (ValueError)        a peer's message breaks the protocol; the sender is left out
│   ├── UnknownSender
│   ├── DuplicateSender
│   ├── BadSignature                  forged, altered, or of another round
│   ├── MalformedContribution         wrong length, type or a value outside its declared bound
│   └── NonFiniteContribution         NaN or infinity
├── RunRefused (ValueError)           a run directory is locked, damaged or holds another configuration
└── RuntimeFailure                    an engine (worker, Ray, SuperLink) under the run failed
    └── PeerLost                      a peer in a joint computation is lost; which one may be unknown

Errors cross process boundaries, so each keeps its whole message as its only positional argument.
"""

from collections.abc import Sequence
from difflib import get_close_matches

# what libraries raise on a model, or on an optimizer, that they cannot take
FAULTS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError)


def one_line(error: Exception) -> str:
    """Return the message of a library's error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def shown(text: object, most: int = 60) -> str:
    """Return a peer's text for use in one line: at most `most` characters, unprintable ones replaced."""
    line = "".join(character if character.isprintable() else "?" for character in str(text)[: most + 1])
    return line if len(line) <= most else f"{line[:most]}..."


def nearest(text: str, allowed: Sequence[str]) -> str:
    """Return the end of a line about a name that is not allowed: the likely one as a question, or nothing."""
    plain = {name.replace("_", "").lower(): name for name in allowed}
    close = get_close_matches(text.replace("_", "").lower(), list(plain), n=1)
    return f"; did you mean {plain[close[0]]}?" if close else ""


class FedveilError(Exception):
    """Root of the tree. The message is one line and names the remedy."""


class ConfigError(FedveilError, ValueError):
    """A configuration value is not allowed."""

    @classmethod
    def of(cls, key: str, value: object, allowed: str) -> "ConfigError":
        """Return the error with the standard line: the key, the value, and the allowed values."""
        return cls(f"{key}={value}: {allowed}")


def refusal(model: object, reason: str) -> ConfigError:
    """Return the line about a model that cannot be trained, or not under a mechanism."""
    return ConfigError.of("model", type(model).__name__, reason)


class PrivacyRefusal(FedveilError, ValueError):
    """The run would break the promise that its configuration makes."""


class TooFewContributors(PrivacyRefusal):
    """Fewer contributions than `min_contributors`: the sum would expose them."""


class WitnessAlarm(PrivacyRefusal):
    """A record that a client was about to send does not match its protocol's declaration: nothing was sent."""


class ProtocolError(FedveilError, ValueError):
    """A peer's message breaks the protocol."""


class UnknownSender(ProtocolError):
    """A message from an address that was not addressed in this exchange."""


class DuplicateSender(ProtocolError):
    """A second message from an address that has already answered this stage."""


class BadSignature(ProtocolError):
    """A signature, box or tag that its sender did not make for this message."""


class MalformedContribution(ProtocolError):
    """Wrong length, wrong type, or a value outside the declared bound."""


class NonFiniteContribution(ProtocolError):
    """A contribution that holds NaN or infinity."""


class RunRefused(FedveilError, ValueError):
    """A run directory that cannot be used as asked."""


class RuntimeFailure(FedveilError):
    """The engine under the run failed (a worker died, Ray or the SuperLink stopped)."""


class PeerLost(RuntimeFailure):
    """A peer in a joint computation is lost. The survivor may not know which; a caller that asked both can tell."""
