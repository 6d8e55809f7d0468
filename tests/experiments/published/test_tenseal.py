import pytest

from experiments.published.tenseal import tenseal_context, tenseal_precision
from tests.experiments.command import Here
from tests.experiments.published.tables import cells

CIPHERTEXTS = {
    "8192 [60, 40, 60] 2^40": "229.9",
    "8192 [40, 20, 40] 2^40": "153.3",
    "8192 [60, 60] 2^38": "128.1",
    "4096 [40, 20, 40] 2^40": "78.97",
    "4096 [30, 20, 30] 2^40": "66.31",
    "2048 [20, 20] 2^18": "13.12",
}


def test_the_tutorials_ciphertexts_are_reproduced(here: Here) -> None:
    ended = here("reproduce", "tenseal_sizes", "--only", "2^")
    assert ended.status == 0
    for row, published in CIPHERTEXTS.items():
        line = cells(ended.out, row, "ciphertext (KiB)")
        assert (line[0], line[-4], line[-2], line[-1]) == (published, "measured", "within 1 %", "reproduced"), row
    assert cells(ended.out, "precision, 8192 [40, 20, 40] 2^40", "right bits of a sum")[-1] == "reproduced"


def test_a_context_holds_one_kind_of_key() -> None:
    sizes = tenseal_context(4096, [40, 20, 40])
    limbs = 4096 * 100 / 8 / 1024  # KiB of a polynomial modulo all three primes, packed
    assert limbs < sizes["secret key (KiB)"] < 1.3 * limbs
    assert 2 * limbs < sizes["public key (KiB)"] < 2.6 * limbs
    assert 4 * limbs < sizes["relinearisation keys (KiB)"] < 5.2 * limbs  # two primes to decompose by, two polynomials
    rotations = 1024 * sizes["Galois keys (MiB)"] / sizes["relinearisation keys (KiB)"]
    assert rotations == pytest.approx(2 * 11, rel=0.02)  # 2^k to the left and right in 2,048 slots


def test_precision_follows_the_scale() -> None:
    fine, coarse = (tenseal_precision(8192, [40, 20, 40], bits)["right bits of a sum"] for bits in (38, 30))
    assert fine - coarse == pytest.approx(8, abs=1)
