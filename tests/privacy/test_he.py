"""The sums that one opener opens: the contract for each, what the opener refuses, and what the server never sees."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from privacy.errors import (
    BadSignature,
    ConfigError,
    MalformedContribution,
    PrivacyRefusal,
    ProtocolError,
    TooFewContributors,
    UnknownSender,
)
from privacy.fixed_point import FixedPoint
from privacy.he import BfvSum, CkksSum, PadSum
from privacy.he_keys import PUBLIC, SECRET
from privacy.he_seal import ring
from privacy.masked_sums import unpack_words
from privacy.opened_sum import _mask_key, _mask_seed
from privacy.secure_sum import Address, Exchange, Party, PlainSum, Records, SecureSum, Segment, Vector, VectorSpec
from tests.privacy.contract import SecureSumContract, assert_sum, vectors
from tests.privacy.harness import MemoryStore, Round, identity_of, spec_of
from tests.privacy.he_setups import chi_square_ratio, generator

HOLDERS = ["keyholder", "clients"]
SUMS = [PadSum, BfvSum, CkksSum]
BOUND = 4.0
COUNT, LENGTH = 4, 30


class TestPad(SecureSumContract):
    @pytest.fixture(params=HOLDERS)
    def secure_sum(self, request):
        return PadSum(request.param, BOUND)


class TestBfv(SecureSumContract):
    @pytest.fixture(params=HOLDERS)
    def secure_sum(self, request):
        return BfvSum(request.param, BOUND)


class TestCkks(SecureSumContract):
    @pytest.fixture(params=HOLDERS)
    def secure_sum(self, request):
        return CkksSum(request.param, BOUND)


# ---- rounds that remember what passed


@dataclass
class Recorded(Round):
    """A round whose every message is kept, and whose refusals are answers like any other."""

    passed: list[tuple[str, Address, Records, Records]] = field(default_factory=list)
    refusals: dict[Address, Exception] = field(default_factory=dict)

    def respond(self, exchange: Exchange, address: Address) -> Records:
        try:
            records = super().respond(exchange, address)
        except PrivacyRefusal as error:
            self.refusals[address] = error
            raise ProtocolError("a reply that holds an error") from error
        self.passed.append((exchange.stage, address, exchange.outbox[address], records))
        return records

    def at(self, stage: str) -> Iterator[tuple[Address, Records, Records]]:
        return ((address, sent, reply) for passed, address, sent, reply in self.passed if passed == stage)

    @property
    def opener(self) -> Address:
        return next(self.at("open"))[0]

    @property
    def request(self) -> Records:
        """What the opener was sent."""
        return next(self.at("open"))[1]


def recorded(secure_sum: SecureSum, count: int = COUNT, length: int = LENGTH, minimum: int = 2) -> Recorded:
    round_ = Recorded(secure_sum, spec_of(length, count, minimum), vectors(count, length))
    round_.run()
    return round_


def at_opener(round_: Recorded, **changes: object) -> Party:
    """The opener, who has answered nothing yet."""
    me = round_.party(round_.opener)
    store = MemoryStore()
    store.values = {
        name: value
        for name, value in round_.stores[me.address].values.items()
        if not name.startswith(("opened-", "set-"))
    }
    return replace(me, credentials=replace(me.credentials, store=store), **changes)


def opened(round_: Recorded, request: Records, me: Party | None = None) -> Vector:
    answer = round_.secure_sum.respond("open", request, me or at_opener(round_), lambda: pytest.fail("trained"))
    return answer["opened"]


@pytest.fixture(params=[(made, keys) for made in SUMS for keys in HOLDERS], ids=lambda p: f"{p[0].name}-{p[1]}")
def secure_sum(request):
    made, keys = request.param
    return made(keys, BOUND)


@pytest.fixture
def round_(secure_sum):
    return recorded(secure_sum)


# ---- the opener


def test_an_attempt_is_opened_once(round_):
    me = at_opener(round_)
    assert np.array_equal(opened(round_, round_.request, me), next(round_.at("open"))[2]["opened"])
    for again in (me, replace(me, memory={})):
        with pytest.raises(PrivacyRefusal, match="opened before"):
            opened(round_, round_.request, again)
    with pytest.raises(BadSignature):  # another attempt is not the same, and its tags are others
        opened(round_, round_.request, replace(me, attempt="another"))


@pytest.mark.parametrize("spoil", [{"sum": b""}, {"tags": b""}, {"contributors": "client/1"}, {"sum": 7}])
def test_an_opening_that_failed_is_not_tried_again(round_, spoil):
    me = at_opener(round_)
    with pytest.raises((ProtocolError, PrivacyRefusal)):
        opened(round_, {**round_.request, **spoil}, me)
    with pytest.raises(PrivacyRefusal, match="opened before"):
        opened(round_, round_.request, me)


def in_another_attempt(round_: Recorded, gone: set[Address]) -> Recorded:
    """The same round once more, with what everybody kept; `gone` do not contribute."""
    again = Recorded(round_.secure_sum, round_.spec, round_.vectors, stores=round_.stores, attempt="another")
    again.gone = {"collect": gone}
    again.drive(again.secure_sum.server(list(again.vectors), again.spec))
    return again


def test_a_round_that_is_tried_again_is_opened_for_the_same_clients_alone(round_):
    again = in_another_attempt(round_, set())
    assert np.allclose(opened_by(again), opened_by(round_), atol=1e-6)
    with pytest.raises(PrivacyRefusal, match="did not open the sum"):
        in_another_attempt(round_, {"client/3"})


def opened_by(round_: Recorded) -> Vector:
    return next(round_.at("open"))[2]["opened"]


def restricted(round_: Recorded, contributors: list[Address]) -> Records:
    """The request for other contributors, each with its own tag or, where it has none, somebody's."""
    names = list(round_.vectors)
    size = len(round_.request["tags"]) // len(names)
    places = [names.index(name) if name in names else 0 for name in contributors]
    tags = b"".join(round_.request["tags"][size * place : size * (place + 1)] for place in places)
    return {**round_.request, "contributors": ",".join(contributors), "tags": tags}


@pytest.mark.parametrize(
    ("contributors", "error", "match"),
    [
        (["client/0"], TooFewContributors, "1 contributors .* 2 are needed"),
        (["client/0", "client/0", "client/1"], ProtocolError, "named twice"),
        (["client/0", "client/1", "server"], ProtocolError, "server contributes nothing"),
        (["client/0", "client/1", "keyholder"], ProtocolError, "keyholder contributes nothing"),
        (["client/0", "client/1", ""], ProtocolError, "contributes nothing"),
        (["client/0", "client/1", "client/99"], UnknownSender, "client/99 is not on the roster"),
        (["client/0", "client/1", "client/2", "client/3", "client/4"], ProtocolError, "5 contributors .* cohort of 4"),
        (["client/1", "client/0", "client/2", "client/3"], BadSignature, "client/1"),
    ],
)
def test_who_cannot_be_in_a_sum(round_, contributors, error, match):
    request = restricted(round_, contributors)
    if error is BadSignature:  # everybody's own name, under another's tag
        request = {**request, "tags": round_.request["tags"]}
    with pytest.raises(error, match=match):
        opened(round_, request)


@pytest.mark.parametrize("missing", ["sum", "tags", "contributors"])
def test_half_a_request_opens_nothing(round_, missing):
    request = {name: value for name, value in round_.request.items() if name != missing}
    with pytest.raises((ProtocolError, PrivacyRefusal)):
        opened(round_, request)


@pytest.mark.parametrize("other", [{"round": 2}, {"attempt": "fedcba9876543210"}, {"run": "cd" * 32}], ids=str)
def test_tags_of_another_time_open_nothing(round_, other):
    with pytest.raises(BadSignature, match="client/0 did not authenticate"):
        opened(round_, round_.request, at_opener(round_, **other))


def test_nobody_else_opens(round_):
    for address in round_.vectors:
        if address != round_.opener:
            with pytest.raises((ProtocolError, PrivacyRefusal)):
                opened(round_, round_.request, replace(round_.party(address), memory={}))


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def flips(data: bytes, count: int = 300) -> Iterator[bytes]:
    draw = generator("flips")
    return (flipped(data, int(bit)) for bit in draw.integers(0, 8 * len(data), count))


def test_a_flipped_bit_in_hashes_tags_or_salts_opens_nothing(round_):
    for tags in flips(round_.request["tags"]):
        with pytest.raises(BadSignature, match="did not authenticate"):
            opened(round_, {**round_.request, "tags": tags})


def test_a_flipped_bit_in_the_sum(round_):
    """CKKS refuses each; in BFV some are noise that decryption takes away; under masks alone one coordinate is off."""
    honest, seen = opened(round_, round_.request), {"refused": 0, "harmless": 0, "one off": 0}
    for message in flips(round_.request["sum"]):
        try:
            differs = opened(round_, {**round_.request, "sum": message}) != honest
        except MalformedContribution:
            seen["refused"] += 1
        else:
            assert differs.sum() <= 1
            seen["one off" if differs.any() else "harmless"] += 1
    if isinstance(round_.secure_sum, CkksSum):
        assert seen["refused"] == 300
    elif isinstance(round_.secure_sum, BfvSum):
        assert seen["one off"] == 0
        assert seen["refused"] > 150
    else:
        assert seen["harmless"] == 0
        assert seen["refused"] > 0


# ---- what a server cannot make of uploads


def uploads(round_: Recorded) -> dict[Address, tuple[bytes, bytes]]:
    """Message and what the server adds to the tags for it."""
    replies = {address: reply for address, _, reply in round_.at("collect")}
    return {
        address: (r["message"], hashlib.sha256(r["message"]).digest() + r["tag"] + r["salt"])
        for address, r in replies.items()
    }


def forged(round_: Recorded, summed: list[Address], named: list[Address]) -> Records:
    """A request for the sum of some, which names others."""
    sent = uploads(round_)
    adder = round_.secure_sum.scheme(round_.spec).adder()
    for address in summed:
        adder.add(sent[address][0])
    tags = b"".join(sent[address][1] for address in named)
    return {"sum": adder.message(), "contributors": ",".join(named), "tags": tags}


ALL = [f"client/{client}" for client in range(COUNT)]


@pytest.mark.parametrize(
    ("summed", "named"),
    [
        (ALL, ALL[:-1]),
        (ALL[:-1], ALL),
        ([*ALL, ALL[0]], ALL),
        ([*ALL[:-1], ALL[0]], ALL),  # one twice in another's place: the count is right, the masks are not
        ([ALL[0]], ALL[:2]),
        (ALL[:2], ALL[2:]),
    ],
    ids=["out of the set", "out of the sum", "doubled", "in place of another", "alone", "others"],
)
def test_a_sum_of_others_than_are_named_is_not_opened(round_, summed, named):
    assert len(opened(round_, forged(round_, ALL, ALL))) == LENGTH + 1
    with pytest.raises(MalformedContribution, match=r"it was damaged, or is another sum"):
        opened(round_, forged(round_, summed, named))


@pytest.mark.parametrize("keys", HOLDERS)
@pytest.mark.parametrize("made", [BfvSum, CkksSum])
def test_each_ciphertext_of_a_sum_is_checked(made, keys):
    """Somebody left out of the last ciphertext alone."""
    round_ = recorded(made(keys, BOUND), count=3, length=9000)
    whole, less = (forged(round_, summed, ALL[:3])["sum"] for summed in (ALL[:3], ALL[:2]))
    count = 3 if made is CkksSum else 2
    start = len(whole) - (len(whole) - 8) // count
    assert len(opened(round_, {**round_.request, "sum": whole})) == 9001
    with pytest.raises(MalformedContribution, match=f"ciphertext {count - 1} of the sum"):
        opened(round_, {**round_.request, "sum": whole[:start] + less[start:]})


@pytest.mark.parametrize("keys", HOLDERS)
def test_what_a_server_takes_out_under_the_check_of_a_pad_is_uniform(keys):
    """The last integer alone is checked: elsewhere such a server is told what its mask makes uniform."""
    round_ = recorded(PadSum(keys, BOUND), count=3, length=16_000)
    scheme = round_.secure_sum.scheme(round_.spec)
    size = 8 * (15_000 * scheme.bits // 64)
    size -= size % scheme.bits
    whole, less = (forged(round_, summed, ALL[:3])["sum"] for summed in (ALL[:3], ALL[:2]))
    found = opened(round_, {**round_.request, "sum": less[:size] + whole[size:]})
    honest = opened(round_, round_.request)
    changed = 8 * size // scheme.bits
    assert np.array_equal(found[changed:], honest[changed:])
    fixed = FixedPoint.of(round_.spec, 16, "test")
    integers = np.rint(found[:changed] / (BOUND / fixed.levels)).astype(np.int64) % (1 << scheme.bits)
    assert chi_square_ratio(integers, 1 << scheme.bits) == pytest.approx(1, abs=0.4)


# ---- clients


def collected(round_: Recorded, address: Address, opener: Address) -> Records:
    vector = round_.vectors[address]
    return round_.secure_sum.respond(
        "collect", {"opener": opener}, replace(round_.party(address), memory={}), lambda: vector
    )


@pytest.mark.parametrize("made", SUMS)
def test_clients_mask_for_the_keyholder_alone(made):
    round_ = recorded(made("keyholder", BOUND))
    for opener in ("client/1", "client/0", "server", "party/1", ""):
        with pytest.raises(ProtocolError, match="is not who opens"):
            collected(round_, "client/0", opener)
    with pytest.raises(ProtocolError, match="is not who opens"):
        round_.secure_sum.respond("collect", {}, round_.party("client/0"), lambda: pytest.fail("trained"))


def test_asked_twice_in_one_attempt_a_client_masks_differently(secure_sum):
    round_ = Recorded(secure_sum, spec_of(16_000, 2), vectors(2, 16_000))
    round_.run()
    me = round_.party("client/1")
    me.randomness.key()  # as far along as a process that answered before
    again = round_.secure_sum.respond("collect", {"opener": round_.opener}, me, lambda: round_.vectors["client/1"])
    first = next(reply for address, _, reply in round_.at("collect") if address == "client/1")
    scheme = secure_sum.scheme(round_.spec)
    assert not {first[name] for name in first} & {again[name] for name in again}
    masks = [masks_of(round_, "client/1", reply["salt"]) for reply in (first, again)]
    secret = round_.stores[round_.opener].get(SECRET) or b""
    for reply, own, other in ((first, *masks), (again, *masks[::-1])):
        scheme.open(reply["message"], secret, 1, own)
        with pytest.raises(MalformedContribution, match="another sum"):
            scheme.open(reply["message"], secret, 1, other)
    if isinstance(secure_sum, PadSum):
        words = [unpack_words(reply["message"], 16_002, scheme.bits) for reply in (first, again)]
        assert chi_square_ratio((words[0] - words[1]) & np.uint64((1 << scheme.bits) - 1), 1 << scheme.bits) < 1.4


def mask_key_of(round_: Recorded, address: Address, salt: bytes) -> bytes:
    me = round_.party(address)
    return _mask_key(me, me.credentials, address, round_.opener, salt)


def masks_of(round_: Recorded, address: Address, salt: bytes) -> np.ndarray:
    return round_.secure_sum.scheme(round_.spec).draw_mask(_mask_seed(mask_key_of(round_, address, salt)))


@pytest.mark.parametrize("made", SUMS)
def test_two_openers_share_no_mask(made):
    """Nor does a client contribute to two of them in one round: they could be given two different sets."""
    round_ = recorded(made("clients", BOUND))
    me = round_.party("client/1")
    salt = bytes(32)
    keys = {_mask_key(me, me.credentials, "client/1", f"client/{opener}", salt) for opener in range(COUNT)}
    assert len(keys) == COUNT
    with pytest.raises(BadSignature):
        opened(round_, round_.request, at_opener(replace(round_, passed=[("open", "client/2", {}, {})])))
    for again in (me, replace(me, memory={}), replace(me, memory={}, attempt="another")):
        with pytest.raises(ProtocolError, match=r"client/2 is not client/0, for whom .* masked in round 1"):
            round_.secure_sum.respond("collect", {"opener": "client/2"}, again, lambda: round_.vectors["client/1"])
    assert collected(round_, "client/1", "client/0")
    other = replace(me, memory={}, round=2)
    assert round_.secure_sum.respond("collect", {"opener": "client/2"}, other, lambda: round_.vectors["client/1"])


# ---- keys that the clients share


@pytest.mark.parametrize("made", [BfvSum, CkksSum])
@pytest.mark.parametrize("keys", HOLDERS)
def test_who_missed_the_delivery_says_so(made, keys):
    class Missed(Recorded):
        def set_up(self):
            super().set_up()
            del self.stores["client/2"].values[PUBLIC if keys == "keyholder" else SECRET]

    round_ = Missed(made(keys, BOUND), spec_of(LENGTH, COUNT), vectors(COUNT, LENGTH))
    assert round_.run().survivors == ("client/0", "client/1", "client/3")
    assert isinstance(round_.refusals["client/2"], PrivacyRefusal)
    assert "it missed the set-up" in str(round_.refusals["client/2"])


@pytest.mark.parametrize("made", SUMS)
def test_a_round_without_its_opener(made):
    contributions = vectors(COUNT, LENGTH)

    def total_without(gone, minimum=2):
        round_ = Round(made("clients", BOUND), spec_of(LENGTH, COUNT, minimum), contributions, gone=gone)
        return round_.run()

    first, others = {"client/0"}, tuple(ALL[1:])
    assert total_without({"elect": first}).survivors == others  # another is elected
    assert total_without({"collect": first}).survivors == others  # it comes back to open
    with pytest.raises(PrivacyRefusal, match="client/0 did not open the sum"):
        total_without({"open": first})
    with pytest.raises(PrivacyRefusal, match="client/0 did not open the sum"):
        total_without({"collect": first, "open": first})
    with pytest.raises(TooFewContributors, match="3 contributors"):
        total_without({"collect": first}, minimum=4)


@pytest.mark.parametrize("made", [BfvSum, CkksSum])
@pytest.mark.parametrize("keys", HOLDERS)
def test_no_keys_no_round(made, keys):
    secure_sum = made(keys, BOUND)
    maker = "keyholder" if keys == "keyholder" else "client/0"
    for stage, match in [("keys", f"{maker} made no key"), ("deliver", "no client took its key")]:
        round_ = Round(secure_sum, spec_of(LENGTH, 2), vectors(2, LENGTH), gone={stage: {*ALL, "keyholder"}})
        with pytest.raises(PrivacyRefusal, match=match):
            round_.drive(secure_sum.setup([*round_.vectors, *secure_sum.roles], round_.spec))


@pytest.mark.parametrize("made", [BfvSum, CkksSum])
def test_a_key_comes_from_the_keyholder_or_not_at_all(made):
    round_ = recorded(made("keyholder", BOUND))
    me, parcel = round_.party("client/1"), next(sent for to, sent, _ in round_.at("deliver") if to == "client/1")
    for wrong in ({"maker": "client/0"}, {"maker": "server"}, {}):
        with pytest.raises(ProtocolError, match="makes no keys"):
            round_.secure_sum.respond("deliver", {"parcel": parcel["parcel"], **wrong}, me, lambda: None)
    for parcel_ in (b"", flipped(parcel["parcel"], 77), parcel["parcel"][:-1], 3):
        with pytest.raises(BadSignature):
            round_.secure_sum.respond("deliver", {"maker": "keyholder", "parcel": parcel_}, me, lambda: None)
    with pytest.raises(BadSignature):  # what was sealed to another
        round_.secure_sum.respond("deliver", dict(parcel), round_.party("client/2"), lambda: None)
    with pytest.raises(ProtocolError, match="client/1 makes no keys"):
        round_.secure_sum.respond("keys", {"clients": "client/1"}, me, lambda: None)


# ---- no secret crosses the server

WINDOW = 16


def windows(secret: bytes) -> set[bytes]:
    return {secret[start : start + WINDOW] for start in range(len(secret) - WINDOW + 1)}


def on_the_wire(round_: Recorded) -> set[bytes]:
    """Every 16 bytes that passed between the server and anybody, in either direction."""
    seen: set[bytes] = set()
    for _, _, sent, reply in round_.passed:
        for value in (*sent.values(), *reply.values()):
            data = value if isinstance(value, bytes) else value.tobytes() if isinstance(value, np.ndarray) else b""
            seen |= windows(data or str(value).encode())
    return seen


def plaintexts(spec: VectorSpec, vector_D: Vector) -> dict[str, bytes]:
    """The ways in which somebody could have written an update."""
    scheme = FixedPoint.of(spec, 16, "test")
    fixed, bits = scheme.encode(vector_D), scheme.sum_bits
    signed = fixed.astype(np.int64) - 32767
    dense = sum(int(value) << (bits * place) for place, value in enumerate(fixed))
    return {
        "float32": vector_D.tobytes(),
        "float64": vector_D.astype(np.float64).tobytes(),
        "in units of its bound": (vector_D / BOUND).astype(np.float64).tobytes(),
        "int64": signed.tobytes(),
        "uint64": fixed.tobytes(),
        "uint32": fixed.astype(np.uint32).tobytes(),
        "uint16": fixed.astype(np.uint16).tobytes(),
        "int16": signed.astype(np.int16).tobytes(),
        "packed": dense.to_bytes(-(-bits * len(fixed) // 8), "little"),
    }


def secrets_of(round_: Recorded) -> dict[str, bytes]:
    secrets = {f"identity of {name}": identity_of(name).to_bytes() for name in [*ALL, *round_.secure_sum.roles]}
    for address, vector in round_.vectors.items():
        secrets |= {f"{address} as {how}": data for how, data in plaintexts(round_.spec, vector).items()}
    for address, _, reply in round_.at("collect"):
        key = mask_key_of(round_, address, reply["salt"])
        secrets |= {f"mask key of {address}": key, f"mask seed of {address}": _mask_seed(key)}
        secrets[f"mask of {address}"] = masks_of(round_, address, reply["salt"]).tobytes()[:4096]
    parameters = round_.secure_sum.scheme(round_.spec).parameters
    if parameters is not None:
        file = round_.stores[round_.opener].values[SECRET]
        secrets["secret key"] = file[64:]  # behind headers that public keys have too
        secrets["residues of the secret key"] = ring(parameters).secret_key.parse(file).residues_PKN.tobytes()
    return secrets


def test_no_secret_passes_the_server(secure_sum):
    round_ = recorded(secure_sum)
    stages = {stage for stage, *_ in round_.passed}
    assert stages >= {"collect", "open"} | (set() if isinstance(secure_sum, PadSum) else {"keys", "deliver"})
    wire, secrets = on_the_wire(round_), secrets_of(round_)
    assert len(secrets) >= 2 * COUNT
    for name, secret in secrets.items():
        assert len(windows(secret)) > 10
        assert not windows(secret) & wire, name


def test_the_search_finds_what_a_plain_sum_sends():
    round_ = Recorded(PlainSum(), spec_of(LENGTH, COUNT), vectors(COUNT, LENGTH))
    round_.run()
    wire = on_the_wire(round_)
    for vector in round_.vectors.values():
        seen = {how for how, data in plaintexts(round_.spec, vector).items() if windows(data) & wire}
        assert seen == {"float32"}


def test_the_search_finds_a_pad_without_its_mask():
    round_ = recorded(PadSum("keyholder", BOUND))
    scheme, vector = round_.secure_sum.scheme(round_.spec), round_.vectors["client/1"]
    zero = scheme.encrypt(vector, b"", np.zeros(LENGTH + 2, np.uint64))
    assert windows(zero) & windows(plaintexts(round_.spec, vector)["packed"])


# ---- configuration


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: PadSum("server"), "secure_sum.keys=server: allowed are keyholder, clients"),
        (lambda: PadSum(None), "secure_sum.keys=None: allowed are keyholder, clients"),
        (lambda: CkksSum(bound=0.0), "secure_sum.bound=0.0: must be a finite number above 0"),
        (lambda: BfvSum(bound=float("inf")), "secure_sum.bound=inf: must be"),
        (lambda: PadSum(bound=float("nan")), "secure_sum.bound=nan: must be"),
        (lambda: PadSum(value_bits=1), "secure_sum.value_bits=1: must be from 2 to 32"),
        (lambda: BfvSum(value_bits=33), "secure_sum.value_bits=33: must be from 2 to 32"),
        (lambda: CkksSum(parameters="tiny"), "secure_sum.parameters=tiny: ckks has lean, tutorial"),
        (lambda: BfvSum(parameters="tutorial"), "secure_sum.parameters=tutorial: bfv has lean"),
        (lambda: CkksSum(parameters=None), "secure_sum.parameters=None: takes poly_modulus_degree"),
        (lambda: CkksSum(parameters=[54]), "secure_sum.parameters=[54]: takes poly_modulus_degree"),
        (lambda: CkksSum(parameters={}), "secure_sum.parameters={}: takes poly_modulus_degree"),
        (lambda: CkksSum(parameters=numbers(galois=True)), "galois"),
        (lambda: CkksSum(parameters=numbers(scheme="bfv")), "scheme"),
        (lambda: CkksSum(parameters=numbers(poly_modulus_degree=4096.0)), "poly_modulus_degree"),
        (lambda: CkksSum(parameters=numbers(coeff_modulus_bits=54)), "coeff_modulus_bits"),
        (lambda: CkksSum(parameters=numbers(coeff_modulus_bits=[60, 60])), "secure at 128 bits up to 109"),
        (lambda: CkksSum(parameters=numbers(poly_modulus_degree=5000)), "poly_modulus_degree=5000: must be one of"),
        (lambda: CkksSum(parameters=numbers(plain_modulus_bits=20)), "ckks has none: set it to null"),
        (lambda: BfvSum(parameters=numbers(scale_bits=20)), "bfv has none: set it to null"),
        (lambda: CkksSum(parameters=numbers(scale_bits=51)), "wraps above"),
        (lambda: BfvSum(parameters=numbers(plain_modulus_bits=48)), "decrypt wrongly"),
    ],
)
def test_configuration_errors_are_one_line(make, line):
    with pytest.raises(ConfigError) as caught:
        make().tolerance(spec_of(5, 10))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def numbers(**changed: object) -> dict[str, object]:
    return {"poly_modulus_degree": 4096, "coeff_modulus_bits": [54, 50], **changed}


@pytest.mark.parametrize("made", SUMS)
def test_an_update_without_a_bound_is_refused(made):
    segments = (Segment("update", 5), Segment("weight", 1, 1.0))
    with pytest.raises(ConfigError, match=r"secure_sum.bound=None: the update needs a bound"):
        made("keyholder", BOUND).tolerance(VectorSpec(segments, 3))


def test_sums_over_64_bits_are_refused():
    PadSum(value_bits=32).tolerance(spec_of(5, 2**32))
    with pytest.raises(ConfigError, match=r"secure_sum.value_bits=32: a sum of \d+ takes 65 bits, 64 at most"):
        PadSum(value_bits=32).tolerance(spec_of(5, 2**33))


@pytest.mark.parametrize("made", [CkksSum, BfvSum])
def test_a_set_may_be_given_in_numbers(made):
    contributions = vectors(3, LENGTH)
    for keys in HOLDERS:
        secure_sum = made(keys, BOUND, parameters=numbers())
        total = Round(secure_sum, spec_of(LENGTH, 3), contributions).run()
        assert_sum(total, contributions, secure_sum)


def test_a_role_without_keys_refuses(secure_sum):
    round_ = recorded(secure_sum)
    me = replace(round_.party("client/0"), credentials=None)
    with pytest.raises(PrivacyRefusal, match="client/0 has no keys: the roster was not set up"):
        secure_sum.respond("collect", {"opener": round_.opener}, me, lambda: pytest.fail("trained"))
