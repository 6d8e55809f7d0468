"""Homomorphic figures: sizes against hand counts of ciphertexts and bytes; times only as far as no clock is needed."""

import pytest

from experiments.published.he import System, ciphertext_words, ckks_operations, he_system, selective_size
from experiments.published.nvidia_flare import flare_round
from tests.experiments.command import Here
from tests.experiments.published.tables import cells

FLARE = {"poly_modulus_degree": 8192, "coeff_modulus_bits": [60, 40, 40], "scale_bits": 40}
CIPHERTEXT = 57.4 * 4096  # bytes, of NVIDIA FLARE's set as SEAL compresses it; 2 x 8,192 x 100 bits are 200 KiB


def test_an_upload_is_whole_ciphertexts() -> None:
    one, two = (System(3, FLARE).aggregate(values).up_bytes for values in (4000, 4100))
    assert one == pytest.approx(CIPHERTEXT, rel=0.01)
    assert two == pytest.approx(2 * CIPHERTEXT, rel=0.01)


def test_what_is_not_encrypted_is_float32() -> None:
    assert System(3).aggregate(1000).up_bytes == 4000
    half = System(3, FLARE, fraction=0.5).aggregate(8000)
    assert half.up_bytes == pytest.approx(CIPHERTEXT + 4 * 4000, rel=0.01)


def test_systems_are_compared_at_one_length() -> None:
    systems = {"all": {"parameters": FLARE}, "a tenth": {"parameters": FLARE, "fraction": 0.1}, "none": {}}
    tenth = he_system("a tenth", "all", systems, 40_000, 2)
    assert tenth["upload / all"] == pytest.approx((CIPHERTEXT + 4 * 36_000) / (10 * CIPHERTEXT), rel=0.01)
    assert 0 < tenth["time / all"] < 1
    assert he_system("none", "all", systems, 40_000, 2)["upload (MiB)"] == 160_000 / 2**20


def test_sizes_by_hand() -> None:
    assert ciphertext_words(8192, 2) == {"ciphertext (KiB)": 256}
    size = selective_size(values=10_000, slots=4096, ciphertext_bytes=1000, fraction=0.5)
    assert size == {"upload (MiB)": (2 * 1000 + 5000 * 4) / 2**20}


def test_operations_are_in_milliseconds_and_ratios() -> None:
    found = ckks_operations(8192, [60, 40, 40, 60], 40, samples=5)
    assert found["encrypt / add"] == pytest.approx(found["encrypt (ms)"] / found["add (ms)"])
    assert found["encrypt / decrypt"] == pytest.approx(found["encrypt (ms)"] / found["decrypt (ms)"])
    assert min(found.values()) > 0


@pytest.mark.slow
def test_a_round_of_flare_is_training_and_protection() -> None:
    few, many = (flare_round(FLARE, 8, epochs, 8, 0.01, values=10_000) for epochs in (1, 100))
    assert few["upload with HE / without"] == pytest.approx(3 * CIPHERTEXT / 40_000, rel=0.01)
    assert 1 < many["round with HE / without"] < few["round with HE / without"]


@pytest.mark.slow
def test_the_micro_benchmark_runs(here: Here) -> None:
    ended = here("reproduce", "he_operations")
    assert ended.status == 0
    assert cells(ended.out, "Paillier, 2,048 bits", "add (ms)")[-1] == "cited"
    published, *_, verdict = cells(ended.out, "CKKS, 8192 [60, 40, 40, 60] 2^40", "encrypt / decrypt, rescaled")
    assert published == "6.541"
    assert verdict in ("reproduced", "not reproduced")
