"""Common checks of the parameters of mechanisms. Each refusal names the key, the value and the remedy."""

import math

from privacy.errors import ConfigError

ACCOUNTANTS = ("prv", "rdp", "pld")
UNITS = ("record", "client")  # from the finer to the coarser
# the limits lie just within the normal range of float32
LEAST_CLIP = 1.2e-38
MOST_CLIP = 3.4e38


def positive(key: str, value: float) -> None:
    """Refuse a value that is not a finite number above 0.

    Raises:
        ConfigError: the value is refused; the message names the key.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError.of(key, value, "must be a finite number above 0")


def clip_norm(key: str, value: float) -> None:
    """Refuse a clipping norm that is not a normal float32, the type in which updates and gradients are clipped.

    Raises:
        ConfigError: the value is refused; the message names the key.
    """
    positive(key, value)
    if not LEAST_CLIP <= value <= MOST_CLIP:
        raise ConfigError.of(key, value, f"must be from {LEAST_CLIP} to {MOST_CLIP}, which float32 can hold")


def within(key: str, value: float) -> None:
    """Refuse a value that does not lie between 0 and 1.

    Raises:
        ConfigError: the value is refused; the message names the key.
    """
    if not 0 < value < 1:
        raise ConfigError.of(key, value, "must lie between 0 and 1")


def check_noise(prefix: str, noise_multiplier: float | None, target_epsilon: float | None) -> None:
    """Check that exactly one of `noise_multiplier` and `target_epsilon` is given, and is positive.

    Raises:
        ConfigError: both or neither are given, or the given one is not positive.
    """
    key = f"{prefix}.noise_multiplier"
    if noise_multiplier is None and target_epsilon is None:
        raise ConfigError.of(key, None, "give it or target_epsilon")
    if noise_multiplier is not None and target_epsilon is not None:
        also = f"target_epsilon={target_epsilon} is given as well"
        raise ConfigError.of(key, noise_multiplier, f"{also}: keep one, and set the other to null")
    if noise_multiplier is not None:
        positive(key, noise_multiplier)
    if target_epsilon is not None:
        positive(f"{prefix}.target_epsilon", target_epsilon)
