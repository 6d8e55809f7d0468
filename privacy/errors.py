"""The exception tree: everything fedveil raises on purpose.

FedveilError
├── ConfigError (ValueError)          a value that a user gave: names the key, the value and what is allowed
├── PrivacyRefusal (ValueError)       the run cannot keep its promise, so it does not go on
│   ├── TooFewContributors
│   └── WitnessAlarm                  what a client was about to send is not protected as declared
├── ProtocolError (ValueError)        a peer sent what the protocol does not allow; its sender is left out
│   ├── UnknownSender
│   ├── DuplicateSender
│   ├── BadSignature                  forged, altered, or of another round
│   ├── MalformedContribution         wrong length, type or a value outside its declared bound
│   └── NonFiniteContribution         NaN or infinity
├── RunRefused (ValueError)           a run directory that is locked, damaged or holds another configuration
└── RuntimeFailure                    an engine (worker, Ray, SuperLink) failed under us
    └── PeerLost                      another one that this process computes with is gone; it can say no more

Errors cross process boundaries, so each keeps its whole message as its only positional argument.
"""


def shown(text: object, most: int = 60) -> str:
    """What a peer wrote, as it may stand in a line: so many characters at most, and none that would break it."""
    line = "".join(character if character.isprintable() else "?" for character in str(text)[: most + 1])
    return line if len(line) <= most else f"{line[:most]}..."


class FedveilError(Exception):
    """Root of the tree. The message is one line and names the remedy."""


class ConfigError(FedveilError, ValueError):
    """A configuration value is not allowed."""

    @classmethod
    def of(cls, key: str, value: object, allowed: str) -> "ConfigError":
        """The standard line: which key, which value, and what is allowed instead."""
        return cls(f"{key}={value}: {allowed}")


class PrivacyRefusal(FedveilError, ValueError):
    """The run would break the promise that its configuration makes."""


class TooFewContributors(PrivacyRefusal):
    """Fewer contributions than `min_contributors`: the sum would expose them."""


class WitnessAlarm(PrivacyRefusal):
    """What a client was about to send is not as its protocol declares it: nothing was sent."""


class ProtocolError(FedveilError, ValueError):
    """A peer's message breaks the protocol."""


class UnknownSender(ProtocolError):
    """A message from an address that was not asked."""


class DuplicateSender(ProtocolError):
    """A second message from an address that has already answered this stage."""


class BadSignature(ProtocolError):
    """A signature, box or tag that its sender did not make for this very message."""


class MalformedContribution(ProtocolError):
    """Wrong length, wrong type, or a value outside the declared bound."""


class NonFiniteContribution(ProtocolError):
    """A contribution that holds NaN or infinity."""


class RunRefused(FedveilError, ValueError):
    """A run directory that cannot be used as asked."""


class RuntimeFailure(FedveilError):
    """The engine under the run failed (a worker died, Ray or the SuperLink stopped)."""


class PeerLost(RuntimeFailure):
    """A process lost another that it computes with, and may not know which: whoever asked both can tell."""
