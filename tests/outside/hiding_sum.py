"""A secure sum in one file that hides: one-time masks, with their seeds sealed to a keyholder. Stages: mask, unmask.

Each client adds a mask to its vector, modulo 2^64, and seals the seed of the mask to the keyholder. The server adds the
masked vectors and hands the keyholder the sealed seeds of the same clients. The keyholder answers with the sum of their
masks: once in an attempt, and for one set of clients in a round. Its own view is seeds alone, and that of the server
masked vectors alone. Seeds are sealed for one model only: a server that sends clients different models opens nothing.

Shapes: D is the length of the vector.
"""

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from privacy.addresses import KEYHOLDER, Address
from privacy.errors import PrivacyRefusal, ProtocolError
from privacy.sealing import BOX_BYTES, Header, open_box, seal
from privacy.secure_sums.contract import (
    Contribution,
    Exchange,
    Flow,
    Participant,
    Records,
    SecureSum,
    array_of,
    bytes_of,
    require_contributors,
    unknown_stage,
)
from privacy.secure_sums.declarations import Boxed, Declarations, Encoding, Numbers, Uniform
from privacy.secure_sums.fixed_point import FixedPoint
from privacy.secure_sums.one_set_a_round import note_set
from privacy.secure_sums.traits import MALICIOUS_SERVER, Carries, Needs, Parties
from privacy.secure_sums.trust import LEFT_OUT, Trust
from privacy.secure_sums.vectors import Vector, VectorSpec


class HidingSum(SecureSum):
    """Exact sums of fixed-point values of `value_bits` bits, or of residues. `bound` is the largest value."""

    name = "hiding"
    assumption = "the server and the keyholder do not collude"
    hides = True
    needs = Needs(roster=True)
    parties = Parties(roles=(KEYHOLDER,))
    withstands = MALICIOUS_SERVER
    stages = ("mask",)

    def __init__(self, bound: float = 1.0, value_bits: int = 24) -> None:
        self.carries = Carries(exact=True, bound=bound)
        self._value_bits = value_bits

    def trust(self, spec: VectorSpec) -> Trust:
        return Trust(
            coalitions=(("the server", "the keyholder"),),
            drop_out=f"{LEFT_OUT} Without the keyholder a round fails.",
            holds={"the keyholder": "the seeds of all masks", "each client": "the seed of its own mask"},
            sees={
                "the server": "masked vectors, sealed seeds, and the sum",
                "the keyholder": "the names of the clients",
            },
            sentences={"protocol": ("A server that asks twice in a round learns two sums over the same clients.",)},
        )

    def tolerance(self, spec: VectorSpec) -> float:
        return self._fixed(spec).tolerance

    def _fixed(self, spec: VectorSpec) -> FixedPoint:
        return FixedPoint.of(spec, self._value_bits, "secure_sum")

    def server(self, cohort: list[Address], spec: VectorSpec) -> Flow:
        require_contributors(cohort, spec)
        total_D = np.zeros(spec.length, np.uint64)
        seeds: dict[Address, bytes] = {}
        masks: list[NDArray[np.uint64]] = []

        def receive_masked(address: Address, records: Records) -> None:
            masked_D = array_of(records, "masked", np.uint64, spec.length)
            seeds[address] = bytes_of(records, "seed")
            np.add(total_D, masked_D, out=total_D)

        def receive_masks(_: Address, records: Records) -> None:
            masks.append(array_of(records, "masks", np.uint64, spec.length))

        masking = Exchange("mask", {address: {} for address in cohort}, receive_masked, collect=True)
        there = yield masking
        require_contributors(there, spec)
        request = {
            "contributors": ",".join(there),
            "given": masking.given,
            **{client: seeds[client] for client in there},
        }
        yield Exchange("unmask", {KEYHOLDER: request}, receive_masks)
        if not masks:
            raise PrivacyRefusal("the keyholder did not open the sum")
        return spec.total(self._fixed(spec).decode(total_D - masks[0], len(there)), there)

    def respond(self, stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        if stage == "mask":
            return self._mask(me, contribution)
        if stage == "unmask" and me.address == KEYHOLDER:
            return self._unmask(inbound, me)
        raise unknown_stage(stage)

    def _mask(self, me: Participant, contribution: Contribution) -> Records:
        values_D = self._fixed(me.spec).encode(me.spec.check(contribution()))
        seed = me.randomness.key()
        me.inside["seed"] = seed  # for the witness of this client, which cannot open the box
        box = seal(me.own.identity, me.own.roster, _header(me, me.address, me.given), seed, me.randomness)
        return {"masked": values_D + self.expanded(seed, me.spec.length), "seed": box}

    def _unmask(self, inbound: Records, me: Participant) -> Records:
        contributors = str(inbound.get("contributors")).split(",")
        if len(set(contributors)) < len(contributors):
            raise ProtocolError("a contributor is named twice")
        require_contributors(contributors, me.spec)
        if not me.own.store.claim(f"opened-{me.run}-{me.round}-{me.attempt}"):
            raise PrivacyRefusal(f"round {me.round} was opened before, in this attempt")
        note_set(contributors, me, me.own)
        masks_D = np.zeros(me.spec.length, np.uint64)
        for client in contributors:
            header = _header(me, client, bytes_of(inbound, "given"))
            seed = open_box(me.own.identity, me.own.roster, header, inbound.get(client))
            masks_D += self.expanded(seed, me.spec.length)
        return {"masks": masks_D}

    def expanded(self, seed: bytes, length: int) -> NDArray[np.uint64]:
        """The mask of a seed: uniform modulo 2^64, shape (D,)."""
        stream = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor()
        return np.frombuffer(stream.update(bytes(8 * length)), "<u8").astype(np.uint64, copy=False)

    def declare(self, stage: str, records: Records, me: Participant) -> Declarations:
        masked_D = array_of(records, "masked", np.uint64, me.spec.length)
        seed = me.inside["seed"]
        masked = Uniform([Numbers.of("the masked values", masked_D, 1 << 64)])
        return {"masked": masked, "seed": Boxed(seed, BOX_BYTES, [Numbers.of_bytes("the seed", seed)])}

    def encodings(self, stage: str, vector_D: Vector, me: Participant) -> Iterable[Encoding]:
        fixed = self._fixed(me.spec)
        return [Encoding(fixed.encode(vector_D), fixed.value_bits)]


def _header(me: Participant, client: Address, given: bytes) -> Header:
    return me.header("mask seed", client, KEYHOLDER, given)
