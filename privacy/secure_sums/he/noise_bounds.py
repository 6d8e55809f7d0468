"""The noise of a sum of ciphertexts: its size, and the probability that it becomes too large.

The noise that SEAL 4 adds (native/src/seal/util/rlwe.cpp): errors e are centred binomial over 42 bits (variance 10.5,
the default since SEAL 4.0), u and the secret s uniform ternary (variance 2/3). The noise in one coefficient of one
ciphertext is

- symmetric, `encrypt_zero_symmetric`: e;
- public, `encrypt_zero_asymmetric`, one prime: -u e_pk + e1 + e2 s;
- public with a special prime p: the same modulo q p, then divided by p with rounding (`Encryptor::
  encrypt_zero_internal`, `divide_and_round_q_last`), so (-u e_pk + e1 + e2 s)/p + d0 + d1 s with d0 and d1 uniform on
  [-1/2, 1/2].

Each of these is strictly sub-Gaussian: E exp(x X) <= exp(x^2 Var(X) / 2). For e: a sum of 42 centred bits (Hoeffding);
for u and s: (1 + 2 cosh x)/3 <= exp(x^2/3); and for d0 and d1: sinh(x/2)/(x/2) <= exp(x^2/24), term by term. Given the
key, any sum of independent variables of this kind is strictly sub-Gaussian too, and a product of polynomials
contributes variance times |key polynomial|^2. The RLWE assumption on the ciphertexts makes d0 and d1 uniform and
independent of s.
"""

import math

from privacy.errors import ConfigError
from privacy.secure_sums.he.parameters import HeParameters
from privacy.secure_sums.he.ring import ring

FAILURE_LOG2 = -64.0  # log2 of the allowed probability of any wrong decryption in a run

_ERROR_VARIANCE = 42 / 4
_ERROR_BOUND = 21
_TERNARY_VARIANCE = 2 / 3
_ROUNDING_VARIANCE = 1 / 12
_KEY_LOG2 = -128.0  # log2 of the probability that a public key's error is larger than assumed


def noise_variance(parameters: HeParameters, symmetric: bool) -> float:
    """Return the variance of the noise in a coefficient of a fresh ciphertext, with its plaintext's rounding (1/12)."""
    degree = parameters.poly_modulus_degree
    return _variance(parameters, symmetric, degree * _TERNARY_VARIANCE, degree * _ERROR_VARIANCE) + _ROUNDING_VARIANCE


def _variance(parameters: HeParameters, symmetric: bool, secret_norm: float, key_error_norm: float) -> float:
    """Return the variance without the plaintext's rounding, given |s|^2 and |e_pk|^2."""
    if symmetric:
        return _ERROR_VARIANCE
    before = _TERNARY_VARIANCE * key_error_norm + _ERROR_VARIANCE * (1 + secret_norm)
    if not parameters.has_special_prime:
        return before
    return before / ring(parameters).all_moduli[-1] ** 2 + _ROUNDING_VARIANCE * (1 + secret_norm)


def _variance_proxy(parameters: HeParameters, symmetric: bool) -> float:
    """Return an upper bound on `_variance` for every secret key, and for all but 2^-128 of the public keys.

    |s|^2 <= N. The moments of |e_pk|^2 are at most those of 10.5 times a chi-square, so it exceeds
    10.5 (N + 2 sqrt(N x) + 2 x) with probability at most exp(-x) (Laurent and Massart 2000, Lemma 1).
    """
    degree = parameters.poly_modulus_degree
    x = -_KEY_LOG2 * math.log(2)
    key_error_norm = _ERROR_VARIANCE * (degree + 2 * math.sqrt(degree * x) + 2 * x)
    return _variance(parameters, symmetric, degree, key_error_norm)


def bfv_margin(parameters: HeParameters, cohort: int) -> float:
    """Return the noise below which a BFV sum of `cohort` ciphertexts decrypts correctly, in integers modulo q.

    The margin is q/(2t), less 1/2 for each contribution: SEAL encrypts round(q m / t)
    (`multiply_add_plain_with_scaling_variant`), so the error of scaling does not grow with m, and a sum that wraps
    modulo t wraps modulo q. One more is subtracted for the rounding of decryption itself, which in residue form is
    exact up to q/t K/gamma with a gamma of 61 bits (Bajard, Eynard, Hasan and Zucca 2016).
    """
    here = ring(parameters)
    return here.modulus / (2 * here.plain_modulus) - cohort / 2 - 1


def bfv_failure_log2(parameters: HeParameters, cohort: int, ciphertexts: int, symmetric: bool) -> float:
    """Bound log2 of the probability that any of `ciphertexts` BFV sums of `cohort` contributions decrypts wrongly.

    The union bound over all coefficients of 2 exp(-T^2 / (2 cohort v)), with T the margin and v the variance proxy of
    one contribution; with a public key and one prime, plus 2^-128 for each key. `ciphertexts` counts all rounds.
    """
    margin = bfv_margin(parameters, cohort)
    if margin <= 0:
        return 0.0
    exponent = margin**2 / (2 * cohort * _variance_proxy(parameters, symmetric)) / math.log(2)
    tail = math.log2(2 * ciphertexts * parameters.poly_modulus_degree) - exponent
    key = math.log2(ciphertexts) + _KEY_LOG2
    if symmetric or parameters.has_special_prime:
        return min(0.0, tail)
    return min(0.0, max(tail, key) + math.log2(1 + 2 ** -abs(tail - key)))


def check_bfv(parameters: HeParameters, cohort: int, ciphertexts: int, symmetric: bool) -> None:
    """Refuse a BFV set whose sums may decrypt wrongly.

    Raises:
        ConfigError: the bound on a wrong decryption is above 2^-64; the line shows the arithmetic.
    """
    failure = bfv_failure_log2(parameters, cohort, ciphertexts, symmetric)
    if failure > FAILURE_LOG2:
        deviation = math.sqrt(cohort * _variance_proxy(parameters, symmetric))
        margin = bfv_margin(parameters, cohort)
        raise ConfigError.of(
            "plain_modulus_bits",
            parameters.plain_modulus_bits,
            f"{ciphertexts} sums of {cohort} contributions decrypt wrongly with probability up to 2^{failure:.0f}, "
            f"2^{FAILURE_LOG2:.0f} is allowed: noise of deviation {deviation:.1f} in a margin of {margin:.1f} "
            f"(q/2t - {cohort}/2 - 1); take fewer bits, or more bits in coeff_modulus_bits",
        )
