"""Headers and identities: encodings that tell all fields apart, and private keys that show nowhere."""

import pickle
from dataclasses import asdict, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from privacy.errors import ConfigError
from privacy.randomness import OsRandomness
from privacy.sealing import Identity, open_box, seal
from tests.privacy.sealing.people import ALICE, BOB, HEADER, RANDOMNESS, ROSTER, headers, texts

# ---- headers


@settings(deadline=None)
@given(headers, headers)
@example(replace(HEADER, stage="a", sender="bc"), replace(HEADER, stage="ab", sender="c"))
@example(replace(HEADER, stage="\ud800\udc00"), replace(HEADER, stage="\U00010000"))
@example(replace(HEADER, stage='","'), replace(HEADER, stage='"', sender=',"' + HEADER.sender))
def test_headers_are_told_apart(one, other):
    assert (one.encode() == other.encode()) == (one == other)


@settings(deadline=None)
@given(headers, st.sampled_from(list(asdict(HEADER))), st.data())
def test_every_field_of_a_header_counts(header, name, data):
    value = data.draw({"round": st.integers(0), "given": st.binary(max_size=4)}.get(name, texts))
    changed = replace(header, **{name: value})
    assert (changed.encode() == header.encode()) == (getattr(header, name) == value)


# ---- identities


def test_an_identity_comes_back_from_its_bytes():
    again = Identity.from_bytes(ALICE.to_bytes())
    assert again.public == ALICE.public
    assert open_box(Identity.from_bytes(BOB.to_bytes()), ROSTER, HEADER, seal(again, ROSTER, HEADER, b"x", RANDOMNESS))


@pytest.mark.parametrize("data", [b"", bytes(63), bytes(65), bytes(32)])
def test_other_bytes_are_no_identity(data):
    with pytest.raises(ConfigError, match=f"^key={len(data)} bytes"):
        Identity.from_bytes(data)


def test_identities_are_made_of_fresh_keys():
    made = [Identity.generate(OsRandomness()).public for _ in range(20)]
    assert len({key for public in made for key in (public.signing, public.exchange)}) == 40


def test_private_keys_show_in_no_text():
    with pytest.raises(ConfigError) as short:
        Identity.from_bytes(ALICE.to_bytes()[:-1])
    texts = [repr(ALICE), str(ALICE), f"{[ALICE]} {ROSTER!r}", repr(ALICE.public), str(short.value), repr(short.value)]
    for seed in (ALICE.to_bytes()[:32], ALICE.to_bytes()[32:]):
        shown = (seed.hex(), repr(seed)[2:-1], str(list(seed))[1:-1], str(int.from_bytes(seed, "little")))
        assert not [text for text in texts for form in shown if form in text]
    with pytest.raises(TypeError):
        pickle.dumps(ALICE)
