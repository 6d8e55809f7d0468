"""A server and clients that collude below the threshold learn only the sum: an exact test on a small modulus.

Streams of ChaCha20 are replaced by their ideal: a table of random words by seed, from which the test can draw again.
For each input of the honest clients with the same sum there is then a table under which the same randomness gives the
same view, byte for byte; the tables differ only in entries of seeds that the coalition cannot know. So all such inputs
are equally likely, for any computation of the coalition. The view includes the message of a client that the server
declares late, which may be of any input at all.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from privacy.addresses import Address
from privacy.randomness import SeededRandomness
from privacy.secure_sums.contract import Exchange, Records
from privacy.secure_sums.secagg import masks as secagg_masks
from privacy.secure_sums.secagg.protocol import SecAggSum
from privacy.secure_sums.secagg.shamir import SHARE_BYTES
from privacy.secure_sums.vectors import VectorSpec
from privacy.testing.harness import residue_spec
from tests.privacy.secure_sums.he.opened_rounds import windows
from tests.privacy.secure_sums.secagg.rounds import STAGES, Lying, Sparse, addresses

BITS = 2
COUNT = 5
MODULUS = 1 << BITS
Table = dict[bytes, np.ndarray]  # words by seed


@dataclass
class Seen(Lying):
    """All messages, and each client's entries of the table. The server gets the message of `late`, and excludes it."""

    table: Table = field(default_factory=dict)
    late: frozenset[Address] = frozenset()
    used: dict[Address, tuple[set[bytes], set[bytes]]] = field(default_factory=dict)
    asking: Address = "server"

    def respond(self, exchange: Exchange, address: Address) -> Records:
        self.asking = address
        try:
            return super().respond(exchange, address)
        finally:
            self.asking = "server"

    def serve(self, exchange: Exchange) -> None:
        if exchange.stage == "mask":
            for address in self.late & set(exchange.outbox):
                self.respond(exchange, address)
        super().serve(exchange)

    def shift(self, words: np.ndarray, added: list[bytes], subtracted: list[bytes]) -> None:
        self.used[self.asking] = set(added), set(subtracted)
        for seeds, sign in ((added, 1), (subtracted, -1)):
            for seed in seeds:
                drawn = np.frombuffer(SeededRandomness(seed.hex()).bytes(len(words)), np.uint8)
                words += (sign * self.table.setdefault(seed, drawn).astype(np.int64)).astype(words.dtype)

    def view(self, colluding: frozenset[Address]) -> bytes:
        """All messages, and all of the coalition's memory before it is cleared."""
        memories = {client: self.before["unmask", client].memory for client in sorted(colluding & self.answering)}
        return repr(
            [sorted((key, seen(pair)) for key, pair in self.passed.items()), seen(tuple(memories.values()))]
        ).encode()

    @property
    def answering(self) -> frozenset[Address]:
        return frozenset(address for stage, address in self.passed if stage == "unmask")


def seen(both: tuple[Mapping, ...]) -> list:
    return [sorted((name, np.asarray(value).tobytes()) for name, value in records.items()) for records in both]


def round_of(
    secure_sum: SecAggSum,
    inputs: Mapping[Address, int],
    table: Table,
    gone: Mapping[str, set[Address]],
    late: set[Address],
) -> Seen:
    spec: VectorSpec = residue_spec(1, len(inputs), BITS, 2)
    vectors = {client: np.array([value, 1], np.int64) for client, value in inputs.items()}
    stopped = {stage: set(gone.get(stage, ())) | (late if STAGES.index(stage) >= 2 else set()) for stage in STAGES}
    round_ = Seen(secure_sum, spec, vectors, gone=stopped, table=dict(table), late=frozenset(late))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secagg_masks, "shift", round_.shift)
        total = round_.run()
    assert total.update_D.tolist() == [sum(inputs[client] for client in total.survivors) % MODULUS]
    return round_


def alternatives(
    honest: list[Address], inputs: Mapping[Address, int], late: set[Address]
) -> Iterator[dict[Address, int]]:
    """All inputs of the honest clients with the same sum over its survivors; any input of a late client."""
    counted = [client for client in honest if client not in late]
    for values in itertools.product(range(MODULUS), repeat=len(honest)):
        other = dict(zip(honest, values, strict=True))
        if sum(other[client] - inputs[client] for client in counted) % MODULUS == 0:
            yield {**inputs, **other}


def explained(
    first: Seen, other: Mapping[Address, int], colluding: frozenset[Address], survivors: list[Address]
) -> tuple[Table, set[bytes]]:
    """A table under which the other inputs give the same view, and the seeds with changed words."""
    table = {seed: words.copy() for seed, words in first.table.items()}
    changed = set[bytes]()

    def adjust(seed: bytes, by: int) -> None:
        table[seed][0] = (int(table[seed][0]) + by) % 256
        changed.add(seed)

    difference = {c: (other[c] - int(first.vectors[c][0])) % MODULUS for c in first.vectors}
    honest = [client for client in survivors if client not in colluding]
    for client in first.late:
        own = first.used[client][0] - set().union(*(a | s for c, (a, s) in first.used.items() if c != client))
        adjust(own.pop(), -difference[client])
    carried = 0
    for client, following in itertools.pairwise(path(first, honest)):
        carried += difference[client]
        (seed,) = set().union(*first.used[client]) & set().union(*first.used[following])
        adjust(seed, -carried if seed in first.used[client][0] else carried)
    return table, changed


def path(round_: Seen, clients: list[Address]) -> list[Address]:
    """A path through all clients along edges of the graph."""
    pairs = {
        (a, b)
        for a in clients
        for b in clients
        if a != b and set().union(*round_.used[a]) & set().union(*round_.used[b])
    }
    return next(
        list(order)
        for order in itertools.permutations(clients)
        if all(pair in pairs for pair in itertools.pairwise(order))
    )


PATTERNS = [
    ({}, set()),
    ({"share_keys": {"client/1"}}, set()),
    ({"mask": {"client/1"}}, set()),
    ({}, {"client/1"}),  # its vector came, and the server says that it did not
    ({"confirm": {"client/0"}}, set()),
    ({"unmask": {"client/2"}}, set()),
]


@pytest.mark.parametrize(("gone", "late"), PATTERNS)
@pytest.mark.parametrize(
    "colluding",
    [*(pytest.param(few, marks=pytest.mark.slow) for few in (set(), {"client/4"})), {"client/3", "client/4"}],
    ids=len,
)
def test_below_the_threshold_a_view_tells_the_sum_and_nothing_else(gone, late, colluding):
    """Five clients, of whom any three have enough shares."""
    secure_sum = SecAggSum(COUNT)
    assert secure_sum.plan(COUNT, COUNT).threshold == 3
    check(secure_sum, COUNT, gone, set(late), frozenset(colluding))


@pytest.mark.parametrize("late", [set(), {"client/1"}], ids=len)
@pytest.mark.parametrize(
    "colluding", [pytest.param({"client/6"}, marks=pytest.mark.slow), {"client/5", "client/6"}], ids=len
)
def test_so_it_does_where_the_graph_is_sparse(late, colluding):
    check(Sparse(7), 7, {}, late, frozenset(colluding), most=24)


def check(
    secure_sum: SecAggSum,
    count: int,
    gone: Mapping,
    late: set[Address],
    colluding: frozenset[Address],
    most: int = 10_000,
) -> None:
    draw = np.random.default_rng([count, len(late), len(colluding)])
    inputs = {client: int(draw.integers(MODULUS)) for client in addresses(count)}
    first = round_of(secure_sum, inputs, {}, gone, late)
    survivors = [client for stage, client in first.passed if stage == "mask" and client not in late]
    honest = [client for client in first.used if client not in colluding and client != "server"]
    tried = 0
    for other in itertools.islice(alternatives(honest, inputs, late), most):
        table, changed = explained(first, other, colluding, survivors)
        again = round_of(secure_sum, other, table, gone, late)
        assert again.view(colluding) == first.view(colluding)
        assert not changed & set().union(*first.used["server"]), "the server took this mask off itself"
        assert not any(changed & set().union(*first.used[client]) for client in colluding & set(first.used))
        assert not any(windows(seed) & windows(first.view(colluding)) for seed in changed)
        tried += 1
    assert tried >= min(most, MODULUS ** (len(honest) - 1))


def test_another_sum_looks_otherwise():
    """A control: the test detects a different sum."""
    inputs = dict.fromkeys(addresses(COUNT), 1)
    first = round_of(SecAggSum(COUNT), inputs, {}, {}, set())
    other = round_of(SecAggSum(COUNT), {**inputs, "client/0": 2}, first.table, {}, set())
    assert first.view(frozenset()) != other.view(frozenset())


@pytest.mark.parametrize("size", [2, 3])
def test_from_the_threshold_on_the_coalition_reads_an_update(size):
    """The limit is where it is said to be: with three of five it has both secrets of client/0."""
    from privacy.secure_sums.secagg.keys import ClosedList, parts, private_key, public_of
    from privacy.secure_sums.secagg.shamir import combine

    inputs = {client: i % MODULUS for i, client in enumerate(addresses(COUNT), 3)}
    round_ = round_of(SecAggSum(COUNT), inputs, {}, {}, set())
    shares = {}
    for client in addresses(COUNT)[-size:]:
        memory = round_.before["unmask", client].memory
        closed = ClosedList.read(memory["secagg.clients"], memory["secagg.public"])
        order = round_.secure_sum.ring(closed, round_.spec).holders("client/0")
        pair = list(parts(memory["secagg.shares"], 2 * SHARE_BYTES))[
            memory["secagg.sharers"].split(",").index("client/0")
        ]
        shares[order.index(client) + 1] = pair
    seed, key = (combine({n: pair[half : half + 32] for n, pair in shares.items()}, COUNT) for half in (0, 32))
    assert (public_of(private_key(key)) == closed.keys["client/0"][:32]) is (size == 3)
    if size == 3:
        words = np.frombuffer(round_.passed["mask", "client/0"][1]["masked"], np.uint8)[:1].astype(np.int64) % MODULUS
        masks = [
            round_.table[closed.mask_seed(private_key(key), "client/0", other, round_.given)][0]
            for other in addresses(COUNT)[1:]
        ]
        opened = int(words[0]) - int(round_.table[seed][0]) - sum(map(int, masks))
        assert opened % MODULUS == inputs["client/0"]
