"""Ciphertexts as the witness sees them: residues that are uniform modulo each prime, and encodings of plaintexts.

A compressed ciphertext's bytes are not uniform, so its residues are extracted first. In BFV, a ciphertext whose
encryption does nothing is q/t times its plaintext: its residues look uniform, but their remainders below q/t do not.

Shapes: C ciphertexts of a message, P polynomials of a ciphertext (2, or 1 with a seed), K primes, N coefficients;
R = K * N.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from privacy.secure_sums.declarations import Encoding, Numbers, Uniform
from privacy.secure_sums.he.parameters import HeParameters
from privacy.secure_sums.he.ring import SealRing, ring
from privacy.secure_sums.he.seal_files import RawPolynomials, Residues, packed_bits, save
from privacy.secure_sums.packing import pack

_REMAINDERS = 1 << 12  # number of coefficients that are reconstructed from their residues, if there are several primes


def declared(parameters: HeParameters, message: bytes, ciphertexts: int) -> Uniform:
    """Return a message's residues by polynomial and prime, and its seeds if it has any.

    Raises:
        MalformedContribution: the bytes are not a message of `ciphertexts` ciphertexts under these parameters.
    """
    raws = list(ring(parameters).parse(message, ciphertexts))
    numbers = list(_residues(parameters, raws))
    unzipped = () if parameters.dense else [pack(n.values_RN.reshape(-1), packed_bits(n.modulus)) for n in numbers]
    seeds = [raw.seed for raw in raws if raw.seed is not None]
    if seeds:
        numbers.append(Numbers.of("seeds", np.stack([np.frombuffer(seed, np.uint8) for seed in seeds]), 256))
    if parameters.scheme == "bfv":
        numbers.append(_below_plain(parameters, raws))
    return Uniform(numbers, unzipped)


def _residues(parameters: HeParameters, raws: Sequence[RawPolynomials]) -> Iterator[Numbers]:
    residues_CPKN = np.stack([raw.residues_PKN for raw in raws])
    for index, modulus in enumerate(ring(parameters).moduli):
        for polynomial in range(residues_CPKN.shape[1]):
            name = f"residues of polynomial {polynomial} modulo prime {index}"
            yield Numbers(name, residues_CPKN[:, polynomial, index], modulus)


def _below_plain(parameters: HeParameters, raws: Sequence[RawPolynomials]) -> Numbers:
    """Return c0 modulo floor(q/t), which holds only noise if c1 does not hide the plaintext."""
    here = ring(parameters)
    step = here.modulus // here.plain_modulus
    if len(here.moduli) == 1:
        return Numbers("remainders below q/t", np.stack([r.residues_PKN[0, 0] for r in raws]) % np.uint64(step), step)
    residues_KN = raws[0].residues_PKN[0, :, :_REMAINDERS].astype(object)
    whole_N = sum(residues_KN[index] * weight for index, weight in enumerate(_weights(here))) % here.modulus
    high = max(0, step.bit_length() - 62)  # of a remainder longer than a word, only the highest bits are kept
    remainders = ((whole_N % step) >> high).astype(np.uint64)
    return Numbers.of("remainders below q/t", remainders, (step >> high) + 1)


def _weights(here: SealRing) -> Iterator[int]:
    """Return the weights of the residues in the number they represent (Chinese remainder theorem)."""
    return ((here.modulus // q) * pow(here.modulus // q, -1, q) for q in here.moduli)


def mask_numbers(parameters: HeParameters, mask_CR: Residues) -> list[Numbers]:
    """Return a mask modulo q as uniform numbers, by prime."""
    here = ring(parameters)
    mask_CKN = mask_CR.reshape(len(mask_CR), len(here.moduli), here.degree)
    return [Numbers(f"mask modulo prime {index}", mask_CKN[:, index], q) for index, q in enumerate(here.moduli)]


def plaintext_encodings(parameters: HeParameters, plaintexts: Iterable[Any]) -> list[Encoding]:
    """Return SEAL plaintexts of CKKS by prime: the records that an encryption that does nothing would send."""
    here = ring(parameters)
    residues_CKN = np.stack([here.plaintext.parse(save(plaintext)).residues_PKN[0] for plaintext in plaintexts])
    return [Encoding(residues_CKN[:, index].reshape(-1), packed_bits(q)) for index, q in enumerate(here.moduli)]
