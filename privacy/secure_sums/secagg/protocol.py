"""Secure aggregation with pairwise masks that cancel. Stages: advertise, share_keys, mask, confirm, unmask.

SecAgg+ (Bell et al. 2020, Algorithms 2 and 3; Bonawitz et al. 2017, Figure 4). A client adds to its vector a mask of
its own and a pairwise mask with each of its neighbours; of each pair, one client adds the mask and the other subtracts
it. So the sum over all clients is the sum of the vectors and of the own masks. The seed of the own mask, and the key
that determines the pairwise masks, are shared among the neighbours (`shamir`). For a client in the sum the neighbours
release their shares of the seed; for a client that dropped out, their shares of the key; never both for one client.

    advertise    clients sign fresh keys (`secagg_keys`); the clients that have answered are on the closed list
    share_keys   each verifies the whole list, refuses one that is too short for its cohort, derives the graph from its
                 digest (`secagg_graph`), and seals its shares
    mask         each opens the shares that its neighbours sealed to it, and sends its masked vector (`secagg_masks`)
    confirm      each signs the list of the clients whose vectors arrived, the survivors, and the model's digest
    unmask       each releases its shares, if at least t of its neighbours signed the same list as itself

A dishonest server can send different lists. But a client that releases shares is a survivor on its own list, and t of
its neighbours have signed the same list. They release shares of its seed, so too few neighbours are left to rebuild its
key. A client's vector is therefore only summed together with those of the clients that released its share. A client
sends each message once per attempt. Its memory of the attempt guards keys and shares; its store, which outlives the
process, guards vector, signature and released shares. It deletes its secrets as soon as it has released its shares.

If a neighbour seals invalid shares to a client, this client cannot take part in the round: the other clients count the
neighbour in, so the client would have to mask with it. If a client releases a wrong share, the round ends with an
error.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

from privacy.addresses import Address
from privacy.checks import positive
from privacy.errors import BadSignature, MalformedContribution, PrivacyRefusal, ProtocolError
from privacy.randomness import KEY_BYTES
from privacy.sealing import framed
from privacy.secure_sums.contract import (
    Contribution,
    Exchange,
    Flow,
    Participant,
    Records,
    SecureSum,
    bytes_of,
    require_contributors,
    unknown_stage,
)
from privacy.secure_sums.declarations import Declarations, Encoding, Numbers, Rehearsal, Uniform
from privacy.secure_sums.fixed_point import FixedPoint
from privacy.secure_sums.one_set_a_round import note_set
from privacy.secure_sums.packing import unpack_words
from privacy.secure_sums.secagg.card import assumption, trust
from privacy.secure_sums.secagg.graph import KEY, MALICIOUS, Bounds, GraphPlan, NeighbourRing
from privacy.secure_sums.secagg.keys import (
    EVERYBODY,
    ClosedList,
    PrivateKeys,
    advertised,
    open_box,
    parts,
    private_key,
    seal,
    signatures_of,
    verified_list,
)
from privacy.secure_sums.secagg.masks import MaskedVectors
from privacy.secure_sums.secagg.server_state import BOX_BYTES, Collected
from privacy.secure_sums.secagg.shamir import SHARE_BYTES, split
from privacy.secure_sums.traits import MALICIOUS_SERVER, Carries, Needs, Withstands
from privacy.secure_sums.trust import Trust
from privacy.secure_sums.vectors import Vector, VectorSpec
from privacy.spans import span

# names in a client's memory of an attempt
_KEYS = "secagg.keys"
_CLIENTS = "secagg.clients"
_PUBLIC = "secagg.public"
_SEED = "secagg.seed"
_OWN = "secagg.own"
_OPENERS = "secagg.openers"
_SHARERS = "secagg.sharers"
_SHARES = "secagg.shares"
_SURVIVORS = "secagg.survivors"
_GIVEN = "secagg.given"
_SECRETS = (_KEYS, _SEED, _OWN, _OPENERS, _SHARES)


class SecAggSum(SecureSum):
    """Exact sums of fixed-point values, or of residues. `bound` is the largest value of an update.

    `clients` and `cohort` are the sizes of a run (a cohort of None is all clients), for `assumption`.
    """

    name = "secagg"
    hides = True
    needs = Needs(roster=True)
    stages = ("advertise", "share_keys", "mask", "confirm", "unmask")

    def __init__(
        self,
        clients: int,
        cohort: int | None = None,
        bound: float = 1.0,
        value_bits: int = 16,
        dropout_rate: float = 0.3,
        collusion_rate: float = 0.05,
        server: str = MALICIOUS,
        security_bits: int = 40,
        correctness_bits: int = 20,
    ) -> None:
        positive(f"{KEY}.bound", bound)
        self.carries = Carries(exact=True, bound=float(bound))
        self._value_bits = value_bits
        self._bounds = Bounds(dropout_rate, collusion_rate, server, security_bits, correctness_bits)
        self.withstands = MALICIOUS_SERVER if server == MALICIOUS else Withstands(several_models=True)
        self.assumption = self.assumed(max(clients if cohort is None else cohort, 1))

    def assumed(self, cohort_size: int) -> str:
        """The clients that must not collude in a cohort of this size."""
        return assumption(self._bounds, cohort_size)

    def trust(self, spec: VectorSpec) -> Trust:
        """The trust assumptions: on no list that clients accept has a smaller coalition enough shares, or the sum."""
        return trust(self._bounds, spec)

    def plan(self, count: int, cohort: int) -> GraphPlan:
        """Neighbours and threshold for a list of `count` clients of a cohort.

        Raises:
            TooFewContributors: more clients of the cohort are missing than may drop out, or all but one may collude.
        """
        return self._bounds.plan(count, cohort)

    def masked(self, spec: VectorSpec) -> MaskedVectors:
        """The encoding and masking of the vectors of a spec.

        Raises:
            ConfigError: their sums do not fit 64 bits, or a segment has no bound.
        """
        return _masked(spec, self._value_bits)

    def tolerance(self, spec: VectorSpec) -> float:
        """Half a step of the fixed point."""
        return self.masked(spec).fixed.tolerance

    def ring(self, closed: ClosedList, spec: VectorSpec) -> NeighbourRing:
        """The graph of the clients on the closed list.

        Raises:
            TooFewContributors: the list is too short for the cohort.
        """
        return NeighbourRing(list(closed.keys), closed.digest, self.plan(len(closed.keys), spec.cohort_size))

    # ---- the server's half

    def server(self, cohort: Sequence[Address], spec: VectorSpec) -> Flow:
        """Pass on keys, boxes and signatures, add the masked vectors, and remove the remaining masks."""
        require_contributors(cohort, spec)
        masked = self.masked(spec)
        has = Collected()
        there = yield Exchange(
            "advertise", {address: {} for address in cohort}, has.take_keys, names=("keys", "signed")
        )
        require_contributors(there, _enough(spec, self.plan(spec.cohort_size, spec.cohort_size)))
        closed, listed = has.close(there)
        ring = self.ring(closed, spec)
        sharers = yield Exchange("share_keys", dict.fromkeys(there, listed), has.take_boxes(ring), names=("boxes",))
        require_contributors(sharers, _enough(spec, ring.plan))
        sum_ = masked.zero()

        def add(_: Address, records: Records) -> None:
            masked.add(sum_, bytes_of(records, "masked"))

        boxes = {address: has.delivery(address, ring) for address in sharers}
        masking = Exchange("mask", boxes, add, collect=True, names=("masked",))
        survivors = yield masking
        require_contributors(survivors, _enough(spec, ring.plan))
        names: Records = {"survivors": ",".join(sorted(survivors))}
        confirmed = yield Exchange("confirm", dict.fromkeys(survivors, names), has.take_signature, names=("signed",))
        require_contributors(confirmed, spec)
        signatures = {address: has.signatures(address, ring) for address in confirmed}
        released = yield Exchange("unmask", signatures, has.take_shares(ring), names=("shares",))
        require_contributors(released, spec)
        added, subtracted = has.masks_left(closed, ring, survivors, masking.given)
        return spec.total(masked.opened(sum_, added, subtracted, len(survivors)), survivors)

    # ---- the clients' half

    def respond(self, stage: str, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        """Advertise, share, mask, confirm or unmask."""
        if stage == "advertise":
            return self._advertise(me)
        if stage == "share_keys":
            return self._share_keys(inbound, me)
        if stage == "mask":
            return self._mask(inbound, me, contribution)
        if stage == "confirm":
            return self._confirm(inbound, me)
        if stage == "unmask":
            return self._unmask(inbound, me)
        raise unknown_stage(stage)

    def _advertise(self, me: Participant) -> Records:
        if _KEYS in me.memory:
            raise PrivacyRefusal(f"{me.address} has advertised its keys before, in this attempt")
        keys = PrivateKeys.draw(me.randomness)
        me.memory[_KEYS] = keys.mask + keys.box
        with span("sign"):
            return advertised(keys, me)

    def _share_keys(self, inbound: Records, me: Participant) -> Records:
        keys = _own_keys(me)
        if _SEED in me.memory:
            raise PrivacyRefusal(f"{me.address} has shared its keys before, in this attempt")
        with span("verify"):
            closed = verified_list(inbound, me)
        if closed.keys[me.address] != keys.public:
            raise ProtocolError(f"the list has other keys of {me.address} than it advertised")
        require_contributors(list(closed.keys), me.spec)
        ring = self.ring(closed, me.spec)
        seed = me.randomness.key()
        shares = _split(seed, keys, ring, me)
        others = ring.neighbours(me.address)
        with span("agree"):
            private = private_key(keys.box)
            box_keys = [closed.box_keys(private, me.address, other) for other in others]
        me.memory.update({_CLIENTS: closed.clients, _PUBLIC: closed.public, _SEED: seed})
        me.memory.update({_OWN: shares.get(me.address, b""), _OPENERS: b"".join(opener for _, opener in box_keys)})
        with span("seal"):
            boxes = [seal(key, shares[other], me.randomness) for other, (key, _) in zip(others, box_keys, strict=True)]
        return {"boxes": b"".join(boxes)}

    def _mask(self, inbound: Records, me: Participant, contribution: Contribution) -> Records:
        keys, closed, ring = self._recalled(me)
        others = ring.neighbours(me.address)
        sharers = _named(inbound, "sharers", others)
        if len(sharers) + ring.plan.complete < ring.plan.threshold:
            held = f"{len(sharers)} neighbours of {me.address} hold its shares"
            raise PrivacyRefusal(f"{held}, too few to remove its mask again")
        with span("open"):
            shares = _opened(inbound, sharers, others, me)
        _once("masked", me)
        vector_D = me.spec.check(contribution())
        added, subtracted = _seeds(keys, closed, sharers, me)
        me.memory.update({_SHARERS: ",".join(sharers), _SHARES: shares, _GIVEN: me.given})
        return {"masked": self.masked(me.spec).protect(vector_D, added, subtracted)}

    def _confirm(self, inbound: Records, me: Participant) -> Records:
        _, closed, ring = self._recalled(me)
        survivors = _named(inbound, "survivors", list(closed.keys))
        if me.address not in survivors:
            raise ProtocolError(f"{me.address} is not among the survivors, and masked its vector")
        known = {me.address, *_names(me, _SHARERS, "masked nothing")}
        silent = next((a for a in ring.neighbours(me.address) if a in survivors and a not in known), None)
        if silent is not None:
            raise ProtocolError(f"{silent} is among the survivors, and {me.address} has no share of it")
        require_contributors(survivors, _enough(me.spec, ring.plan))
        _once("confirmed", me)
        me.memory[_SURVIVORS] = ",".join(survivors)
        header = me.header("secagg survivors", me.address, EVERYBODY)
        return {"signed": me.own.identity.sign(header, _statement(survivors, closed, bytes_of(me.memory, _GIVEN)))}

    def _unmask(self, inbound: Records, me: Participant) -> Records:
        _, closed, ring = self._recalled(me)
        survivors = _names(me, _SURVIVORS, "confirmed no survivors")
        signers = _named(inbound, "signers", ring.holders(me.address))
        with span("verify"):
            statement = _statement(survivors, closed, bytes_of(me.memory, _GIVEN))
            agreeing = _agreeing(inbound, signers, statement, ring.plan.threshold, me)
        if agreeing < ring.plan.threshold:
            signed = f"{agreeing} neighbours of {me.address} signed the same survivors as it did"
            raise PrivacyRefusal(f"{signed}, {ring.plan.threshold} must")
        _once("unmasked", me)
        note_set(survivors, me, me.own)
        own = bytes_of(me.memory, _OWN)
        shares = bytes_of(me.memory, _SHARES)
        owners = [*([me.address] if own else []), *_names(me, _SHARERS, "masked nothing")]
        halves = zip(owners, parts(own + shares, 2 * SHARE_BYTES), strict=True)
        released = [share[:SHARE_BYTES] if owner in survivors else share[SHARE_BYTES:] for owner, share in halves]
        for name in _SECRETS:
            del me.memory[name]
        return {"shares": b"".join(released)}

    # ---- for the witness

    def declare(self, stage: str, records: Records, me: Participant) -> Declarations:  # noqa: ARG002
        """Declare words that are uniform modulo 2^k."""
        masked = self.masked(me.spec)
        words = unpack_words(records.get("masked"), masked.words, masked.bits)
        return {"masked": Uniform((Numbers.of("masked values", words, 1 << masked.bits),))}

    def encodings(self, stage: str, vector_D: Vector, me: Participant) -> Iterable[Encoding]:  # noqa: ARG002
        """The vector in fixed point."""
        masked = self.masked(me.spec)
        return (Encoding(masked.fixed.encode(vector_D), masked.bits),)

    def rehearse(
        self,
        stage: str,
        inbound: Records,
        me: Participant,
        vector_D: Vector,
        sent: Records,  # noqa: ARG002
    ) -> Rehearsal:
        """Protect the vector under another own mask. The pairwise masks follow from the attempt's keys and stay."""
        me.memory[_SEED] = me.randomness.key()
        records = self.respond(stage, inbound, me, lambda: vector_D)
        masked = self.masked(me.spec)
        keys, closed, _ = self._recalled(me)
        added, subtracted = _seeds(keys, closed, _names(me, _SHARERS, "masked nothing"), me)
        sum_ = masked.zero()
        masked.add(sum_, bytes_of(records, "masked"))
        opened_D = masked.opened(sum_, subtracted, added, 1)
        return Rehearsal(self.declare(stage, records, me), vector_D, opened_D, masked.fixed.tolerance)

    def _recalled(self, me: Participant) -> tuple[PrivateKeys, ClosedList, NeighbourRing]:
        """The keys, closed list and graph that a client stored in this attempt when it shared its keys."""
        keys = _own_keys(me)
        if _SEED not in me.memory:
            raise PrivacyRefusal(f"{me.address} has shared no keys in this attempt")
        closed = ClosedList.read(str(me.memory[_CLIENTS]), bytes_of(me.memory, _PUBLIC))
        return keys, closed, self.ring(closed, me.spec)


@lru_cache(maxsize=4)
def _masked(spec: VectorSpec, value_bits: int) -> MaskedVectors:
    return MaskedVectors(FixedPoint.of(spec, value_bits, KEY))


def _enough(spec: VectorSpec, plan: GraphPlan) -> VectorSpec:
    """The spec with `min_contributors` raised to the number of clients that the graph needs."""
    return replace(spec, min_contributors=max(spec.min_contributors, plan.least))


def _own_keys(me: Participant) -> PrivateKeys:
    if _KEYS not in me.memory:
        raise PrivacyRefusal(f"{me.address} has no keys of this attempt, or has used them up")
    keys = bytes_of(me.memory, _KEYS)
    return PrivateKeys(keys[:KEY_BYTES], keys[KEY_BYTES:])


def _seeds(
    keys: PrivateKeys, closed: ClosedList, sharers: Sequence[Address], me: Participant
) -> tuple[list[bytes], list[bytes]]:
    """The seeds of the masks that a client adds, its own first, and the seeds of those that it subtracts."""
    with span("agree"):
        private = private_key(keys.mask)
        seeds = {other: closed.mask_seed(private, me.address, other, me.given) for other in sharers}
    added = [bytes_of(me.memory, _SEED), *(seed for other, seed in seeds.items() if me.address < other)]
    return added, [seed for other, seed in seeds.items() if other < me.address]


def _split(seed: bytes, keys: PrivateKeys, ring: NeighbourRing, me: Participant) -> dict[Address, bytes]:
    """For each holder a share of the own mask's seed, then a share of the mask key."""
    holders = ring.holders(me.address)
    threshold = ring.plan.threshold
    with span("share"):
        pairs = (split(secret, threshold, len(holders), me.randomness) for secret in (seed, keys.mask))
        return dict(zip(holders, map(b"".join, zip(*pairs, strict=True)), strict=True))


def _opened(inbound: Records, sharers: Sequence[Address], others: Sequence[Address], me: Participant) -> bytes:
    """The shares that the sharers, some of all neighbours, sealed to this client, one after the other."""
    boxes = bytes_of(inbound, "boxes")
    if len(boxes) != BOX_BYTES * len(sharers):
        raise MalformedContribution(f"{len(sharers)} boxes take {BOX_BYTES} bytes each")
    keys = dict(zip(others, parts(bytes_of(me.memory, _OPENERS), KEY_BYTES), strict=True))
    sealed = zip(sharers, parts(boxes, BOX_BYTES), strict=True)
    return b"".join(open_box(keys[sender], box, sender) for sender, box in sealed)


def _named(inbound: Records, name: str, allowed: Sequence[Address]) -> list[Address]:
    """The addresses in a record of a message: a subset of the allowed ones, in the same order.

    Raises:
        MalformedContribution: an address is not allowed, or the order is another.
    """
    text = str(inbound.get(name))
    names = text.split(",") if text else []
    given = set(names)
    if [address for address in allowed if address in given] != names:
        raise MalformedContribution(f"the {name} are not a subset of the allowed clients, in their order")
    return names


def _names(me: Participant, name: str, otherwise: str) -> list[Address]:
    """The addresses that a client stored in its memory of the attempt."""
    if name not in me.memory:
        raise PrivacyRefusal(f"{me.address} has {otherwise} in this attempt")
    return [address for address in str(me.memory[name]).split(",") if address]


def _statement(survivors: Sequence[Address], closed: ClosedList, given: bytes) -> bytes:
    """The statement that clients sign: the survivors, bound to this closed list and to what the signer was given."""
    return framed(closed.digest, given, ",".join(survivors).encode())


def _agreeing(inbound: Records, signers: Sequence[Address], statement: bytes, enough: int, me: Participant) -> int:
    """The number of signers that signed the statement, counted up to `enough`. Other signatures do not count."""
    valid = 0
    for signer, signature in signatures_of(inbound, signers).items():
        if valid == enough:
            break
        try:
            me.own.roster.verify(me.header("secagg survivors", signer, EVERYBODY), statement, signature)
        except BadSignature:
            continue
        valid += 1
    return valid


def _once(what: str, me: Participant) -> None:
    """Refuse an action that this client has done before in this attempt, even if its memory was lost since."""
    if not me.own.store.claim(f"{what}-{me.run}-{me.round}-{me.attempt}"):
        raise PrivacyRefusal(f"{me.address} has {what} before, in this attempt at round {me.round}")
