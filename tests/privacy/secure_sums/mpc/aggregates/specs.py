"""Vectors whose aggregates are opened."""

from privacy.secure_sums.vectors import Segment, VectorSpec


def spec_of(
    dimension: int, cohort: int = 10, least: int = 1, bound: float = 1.0, modulus_bits: int | None = None
) -> VectorSpec:
    """An update of `dimension` values within the bound, and a weight, from a cohort of at least `least`."""
    return VectorSpec((Segment("update", dimension, bound), Segment("weight", 1, 1.0)), cohort, least, modulus_bits)
