"""Sabotage of each secure sum, with monkeypatches of its own code, that a witness must see."""

from collections.abc import Callable

import numpy as np

from privacy.randomness import OsRandomness
from privacy.sealing import BOX_BYTES, uniform
from privacy.secure_sums.he import bfv as he_bfv
from privacy.secure_sums.he import codecs as masked_sums
from privacy.secure_sums.he.bfv import Bfv
from privacy.secure_sums.he.ckks import Ckks
from privacy.secure_sums.he.ring import SealRing
from privacy.secure_sums.mpc import protocol as crypten_mpc
from privacy.secure_sums.mpc.shares import ShareRing
from privacy.secure_sums.secagg import masks as secagg_masks
from privacy.secure_sums.secagg import protocol as secagg

KEY = b"\x07" * 32


def forged(monkeypatch, change: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Replace the polynomials of every ciphertext: `change` gets both polynomials of all of them, shape (C, K, N)."""
    honest = SealRing.message

    def message(self, raws):
        raws = list(raws)
        whole = [raw for raw in raws if raw.seed is None]
        if whole and self.parameters.dense:
            polynomials = np.stack([raw.residues_PKN for raw in raws])
            change(polynomials[:, 0], polynomials[:, 1])
            raws = [raw._replace(residues_PKN=residues) for raw, residues in zip(raws, polynomials, strict=True)]
        return honest(self, raws)

    monkeypatch.setattr(SealRing, "message", message)


def unencrypted(monkeypatch) -> None:
    """Remove SEAL's encryption of zero, with noise as c1: the upload is the encoded plaintext."""
    from privacy.secure_sums.he import ciphers as he_cipher

    def encrypt(self, plaintext):
        zeros = type(self)._honest(self, plaintext)
        raw = self._ring.raw(zeros)
        here = self._ring
        if here.parameters.scheme == "ckks":
            from privacy.secure_sums.he.seal_files import save

            residues = here.plaintext.parse(save(plaintext)).residues_PKN[0]
        else:
            step = np.uint64(here.modulus // here.plain_modulus)
            values = [int(text, 16) for text in _coefficients(plaintext, here.degree)]
            residues = (np.array(values, np.uint64) * step)[None]
        noise = np.random.default_rng().integers(0, min(here.moduli), (len(here.moduli), here.degree), np.uint64)
        second = [] if raw.seed is not None else [noise]
        return here.cipher(raw._replace(residues_PKN=np.stack([residues, *second])))

    monkeypatch.setattr(he_cipher.EncryptionKey, "_honest", he_cipher.EncryptionKey._encrypt, raising=False)
    monkeypatch.setattr(he_cipher.EncryptionKey, "_encrypt", encrypt)


def _coefficients(plaintext, degree):
    """The coefficients of a BFV plaintext, lowest first, parsed from hexadecimal."""
    terms = dict.fromkeys(range(degree), "0")
    for term in plaintext.to_string().split(" + "):
        value, _, power = term.partition("x^")
        terms[int(power or 0)] = value
    return terms.values()


def fixed_mask(monkeypatch) -> None:
    monkeypatch.setattr(
        Ckks, "draw_mask", lambda self, key, length: self._ring.draw_mask(KEY, self.ciphertexts(length))
    )
    monkeypatch.setattr(Bfv, "draw_mask", _with_key(Bfv.draw_mask))
    pad = masked_sums._PadScheme
    monkeypatch.setattr(pad, "draw_mask", lambda self, key: uniform(KEY, self._count, 1 << self.bits))


def _with_key(honest):
    return lambda self, key, length: honest(self, KEY, length)


def masks_of_nothing(monkeypatch) -> None:
    for kind in (Ckks, Bfv):
        honest = kind.draw_mask
        monkeypatch.setattr(kind, "draw_mask", _zeros(honest))
    honest = masked_sums._PadScheme.draw_mask
    monkeypatch.setattr(masked_sums._PadScheme, "draw_mask", lambda self, key: np.zeros_like(honest(self, key)))


def _zeros(honest):
    return lambda self, key, length: np.zeros_like(honest(self, key, length))


def masks_left_out(monkeypatch) -> None:
    """Draw the masks, but never add them."""
    monkeypatch.setattr(
        SealRing, "masked", lambda self, raw, mask, sign=1: raw if sign > 0 else _masked(self, raw, mask, sign)
    )
    monkeypatch.setattr(he_bfv, "add_mod", lambda left, right, modulus: left)
    monkeypatch.setattr(masked_sums._PadScheme, "encrypt", _unmasked)


_masked = SealRing.masked


def _unmasked(self, vector_D, key, mask):
    return masked_sums.pack_words(np.append(self.fixed.encode(vector_D), np.uint64(1)), self.bits)


def zero_second(first, second):
    second[:] = 0


def same_second(first, second):
    second[:] = second[0]


def plaintext_shares(monkeypatch) -> None:
    """Draw the keys, but do not subtract their streams from the vector."""
    honest = ShareRing.split

    def split(self, values_D, parties, whole, randomness):
        payloads = honest(self, values_D, parties, whole, randomness)
        payloads[whole] = values_D.tobytes()
        return payloads

    monkeypatch.setattr(ShareRing, "split", split)


def fixed_keys(monkeypatch) -> None:
    class Fixed(OsRandomness):
        def key(self):
            return KEY

    honest = ShareRing.split
    monkeypatch.setattr(ShareRing, "split", lambda self, v, parties, whole, _: honest(self, v, parties, whole, Fixed()))


def open_boxes(monkeypatch) -> None:
    monkeypatch.setattr(crypten_mpc, "_sealed", lambda me, role, share: bytes(BOX_BYTES) + share)


def no_masks(monkeypatch) -> None:
    monkeypatch.setattr(secagg_masks, "shift", lambda words, added, subtracted: None)


def one_mask(monkeypatch) -> None:
    honest = secagg_masks.shift
    monkeypatch.setattr(secagg_masks, "shift", lambda words, added, subtracted: honest(words, [KEY], []))


def no_mask_of_its_own(monkeypatch) -> None:
    honest = secagg._seeds

    def seeds(*arguments):
        added, subtracted = honest(*arguments)
        return added[1:], subtracted

    monkeypatch.setattr(secagg, "_seeds", seeds)


def noised_a_little(monkeypatch) -> None:
    """Use masks that are far too small."""
    honest = secagg_masks.shift

    def shift(words, added, subtracted):
        before = words.copy()
        honest(words, added, subtracted)
        words[:] = before + (words - before) % words.dtype.type(1000)

    monkeypatch.setattr(secagg_masks, "shift", shift)


SABOTAGE = {
    "a mask of nothing": (masks_of_nothing, ["ckks", "ckks-clients", "bfv", "bfv-clients", "pad"]),
    "one mask for all": (fixed_mask, ["ckks", "ckks-clients", "bfv", "bfv-clients", "pad"]),
    "masks that are not added": (masks_left_out, ["ckks", "ckks-clients", "bfv", "bfv-clients", "pad"]),
    "no encryption": (unencrypted, ["ckks", "ckks-clients", "ckks-nvflare", "ckks-flooded", "bfv", "bfv-unmasked"]),
    "a public coefficient of zero": (lambda m: forged(m, zero_second), ["bfv-unmasked-keyholder"]),
    "one generator for all ciphertexts": (lambda m: forged(m, same_second), ["ckks", "bfv-two-primes"]),
    "shares of the plaintext": (plaintext_shares, ["crypten", "crypten-median"]),
    "the same keys again": (fixed_keys, ["crypten"]),
    "boxes that are not sealed": (open_boxes, ["crypten"]),
    "no masks": (no_masks, ["secagg"]),
    "one mask for everybody": (one_mask, ["secagg"]),
    "no mask of one's own": (no_mask_of_its_own, ["secagg"]),
    "masks that are too short": (noised_a_little, ["secagg"]),
}
