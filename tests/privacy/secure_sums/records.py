"""Records of all kinds, a party that signs them, and a comparison that tells their types apart."""

import struct

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from privacy.secure_sums.contract import Credentials, Participant
from privacy.secure_sums.in_memory import InMemory
from privacy.secure_sums.plain import PlainSum
from privacy.secure_sums.signed_replies import reply_header
from privacy.testing.harness import MemoryStore, spec_of
from tests.privacy.sealing.people import PEOPLE, ROSTER

RUN = "ab" * 32
ATTEMPT = "0123456789abcdef"
HEADER = reply_header(RUN, 3, ATTEMPT, "collect", "client/0")

names = st.text("ab/é", max_size=3)
numbers = arrays.arrays(
    st.sampled_from(["<f4", ">f4", "<f8", "<u8", "|u1", "<i2", "?", "<c8"]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
scalars = st.one_of(
    st.binary(max_size=4), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text("0ab", max_size=3)
)
records = st.dictionaries(names, scalars | numbers, max_size=3)


def party(address: str = "client/0") -> Participant:
    known = {address: Credentials(PEOPLE[address], ROSTER, MemoryStore())}
    roles = InMemory(PlainSum(), spec_of(3, 2), {}, known=known, run_hash=RUN, number=3, attempt=ATTEMPT)
    return roles.party(address)


def told(value: object) -> object:
    """A value with its type, comparable in plain Python."""
    if isinstance(value, np.ndarray):
        return "array", value.dtype.str, value.shape, value.tobytes()
    return (type(value), struct.pack("<d", value)) if isinstance(value, float) else (type(value), value)


def same(one: dict, other: dict) -> bool:
    return {name: told(value) for name, value in one.items()} == {name: told(value) for name, value in other.items()}
