"""The primitives against the test vectors of the RFCs, and boxes, signatures and tags taken apart by hand."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privacy.sealing import Identity, mac, seal, uniform
from tests.privacy.sealing.people import ALICE, BOB, HEADER, RANDOMNESS, ROSTER, framed, hkdf


@pytest.mark.parametrize(
    ("seed", "public"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        ),
    ],
)
def test_signing_keys_are_those_of_rfc_8032(seed, public):
    """Section 7.1, tests 1 and 2."""
    assert Identity(bytes.fromhex(seed), bytes(32)).public.signing.hex() == public


def test_shared_keys_are_those_of_rfc_7748():
    """Section 6.1, and HKDF of its secret."""
    alice = Identity(bytes(32), bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
    bob = Identity(bytes(32), bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    secret = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    pair = sorted((alice.public.exchange, bob.public.exchange))
    assert bob.public.exchange.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    expected = hkdf(secret, framed(b"fedveil shared key 1", HEADER.encode(), b"salt", *pair))
    assert alice.shared(bob.public, HEADER, b"salt") == bob.shared(alice.public, HEADER, b"salt") == expected


def test_the_oracle_of_hkdf_is_rfc_5869():
    """Appendix A.1."""
    info = bytes(range(0xF0, 0xFA))
    salt = bytes(range(13))
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert hkdf(b"\x0b" * 22, info, salt, 42).hex() == expected


def test_masks_are_the_stream_of_rfc_8439():
    """Appendix A.1, test vectors 1 and 2: two blocks of the zero key."""
    expected = (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )
    for bits in (8, 16, 32, 64):
        words = uniform(bytes(32), 1024 // bits, 1 << bits)
        assert words.astype(f"<u{bits // 8}").tobytes().hex() == expected


def test_a_box_is_what_it_says():
    """Taken apart with the library's own pieces and a header that is encoded by hand."""
    box = seal(ALICE, ROSTER, HEADER, b"secret", RANDOMNESS)
    exchange = X25519PrivateKey.from_private_bytes(BOB.to_bytes()[32:]).exchange
    secrets = b"".join(exchange(X25519PublicKey.from_public_bytes(k)) for k in (box[:32], ALICE.public.exchange))
    fields = (b"update", b"ab" * 32, b"3", b"0123456789abcdef", b"collect", b"client/0", b"client/1", b"model")
    header = framed(*fields)
    key = hkdf(secrets, framed(b"fedveil box 1", header, box[:32], ALICE.public.exchange, BOB.public.exchange))
    assert ChaCha20Poly1305(key).decrypt(bytes(12), box[32:], header) == b"secret"


def test_a_signature_is_what_it_says():
    signed = framed(b"fedveil signature 1", HEADER.encode(), hashlib.sha256(b"payload").digest())
    Ed25519PublicKey.from_public_bytes(ALICE.public.signing).verify(ALICE.sign(HEADER, b"payload"), signed)


def test_a_tag_is_the_hmac_of_its_parts():
    """RFC 2104 by its definition."""
    key = bytes(range(32))
    message = framed(b"one", b"", b"two")
    inner, outer = (bytes(byte ^ pad for byte in key + bytes(32)) for pad in (0x36, 0x5C))
    expected = hashlib.sha256(outer + hashlib.sha256(inner + message).digest()).digest()
    assert mac(key, [b"one", b"", b"two"]) == expected
