"""Checks that the parameters of mechanisms share: each refusal names the key, the value and the remedy."""

import math

from privacy.errors import ConfigError

ACCOUNTANTS = ("prv", "rdp", "pld")
UNITS = ("record", "client")  # from the finer to the coarser


def positive(key: str, value: float) -> None:
    """Refuse what is not a finite number above 0.

    Raises:
        ConfigError: naming the key.
    """
    if not (math.isfinite(value) and value > 0):
        raise ConfigError.of(key, value, "must be a finite number above 0")


def within(key: str, value: float) -> None:
    """Refuse what does not lie between 0 and 1.

    Raises:
        ConfigError: naming the key.
    """
    if not 0 < value < 1:
        raise ConfigError.of(key, value, "must lie between 0 and 1")


def check_noise(prefix: str, noise_multiplier: float | None, target_epsilon: float | None) -> None:
    """Exactly one of sigma and epsilon decides about the noise.

    Raises:
        ConfigError: both, neither, or one that is not positive.
    """
    if (noise_multiplier is None) == (target_epsilon is None):
        both = noise_multiplier is not None
        raise ConfigError.of(
            f"{prefix}.noise_multiplier",
            noise_multiplier,
            f"{'both it and' if both else 'neither it nor'} target_epsilon{f'={target_epsilon}' if both else ''} "
            "is given: give one of them, and set the other to null",
        )
    if noise_multiplier is not None:
        positive(f"{prefix}.noise_multiplier", noise_multiplier)
    if target_epsilon is not None:
        positive(f"{prefix}.target_epsilon", target_epsilon)
