"""The cost of CrypTen's parties: bytes of an upload, and the time of a sum against NumPy and against plain CrypTen.

Each party is a process on one thread, with CrypTen over gloo, as in a run. All ways to sum take turns, repeat by
repeat, over the same vectors; all parties begin together, and the time of the slowest counts. The first repeat is left
out, and every sum is checked. The ways:

    ours    shares are expanded and added, and CrypTen reveals the sum, which is decoded
    stage   the whole stage of a round: boxes are opened too, and the parties agree on a set
    numpy   the same key streams and additions in NumPy, and the sums reduced by gloo
    naive   `crypten.cryptensor(vector, src=party)` for each client, added and revealed: the parties see the vectors
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from experiments.benchmarks import BenchFigure
from fl.keys.folders import FileStore
from privacy.addresses import SERVER, Address, client_address
from privacy.errors import ConfigError
from privacy.sealing import Identity, Roster, open_box
from privacy.secure_sums.contract import Credentials, Flow, Participant, Records
from privacy.secure_sums.in_memory import Drawn, InMemory, fresh_credentials
from privacy.secure_sums.meeting import Meeting
from privacy.secure_sums.mpc.aggregates import by_name as mpc_aggregates
from privacy.secure_sums.mpc.protocol import PARTIES, CryptenSum, revealed
from privacy.secure_sums.mpc.shares import needed_bits
from privacy.secure_sums.vectors import Segment, Vector, VectorSpec
from results.progress import progress

SIZES = (26_010, 1_000_000)  # parameters: of the small CNN, and of the bar
RUN = "00" * 32
FRACTIONAL_BITS = 16
TIMEOUT_S = 600.0
WAYS = ("ours", "stage", "numpy", "naive")
UP_BAR = "<= 8.1"
NUMPY_BAR = "<= 3"
NAIVE_BAR = ">= 3"


def options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument(
        "--parties", type=int, default=3, choices=PARTIES, help="number of parties (default: %(default)s)"
    )
    parser.add_argument("--clients", type=int, default=10, help="number of clients (default: %(default)s)")
    parser.add_argument("--parameters", type=int, default=1_000_000, help="length of a vector (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="repeats after the first (default: %(default)s)")


def measure(arguments: argparse.Namespace) -> list[BenchFigure]:
    """The figures: bytes for every number of parties, then the ways to sum.

    Raises:
        ConfigError: a number below 1.
    """
    for name in ("clients", "parameters", "repeats"):
        if getattr(arguments, name) < 1:
            raise ConfigError.of(f"--{name}", getattr(arguments, name), "must be at least 1")
    figures = [figure for size in SIZES for figure in upload_figures(size, arguments.clients)]
    clients = Clients(MpcSetting(arguments.parties, arguments.clients, arguments.parameters))
    with progress("sum", (arguments.repeats + 1) * len(WAYS)) as sums:
        measured = race(clients, arguments.repeats, sums.advance)
    return [*figures, *race_figures(clients, measured)]


@dataclass(frozen=True)
class MpcSetting:
    """The numbers of parties, of clients, and of parameters in a vector."""

    parties: int
    clients: int
    parameters: int

    @property
    def secure_sum(self) -> CryptenSum:
        """The secure sum, for values up to 1."""
        return CryptenSum(self.parties, fractional_bits=FRACTIONAL_BITS)

    @property
    def spec(self) -> VectorSpec:
        """The vectors and their weights."""
        update = Segment("update", self.parameters, self.secure_sum.carries.bound)
        return VectorSpec((update, Segment("weight", 1, 1.0)), self.clients)

    def vector(self, client: int) -> Vector:
        """A client's vector, the same in every process, shape (D,)."""
        drawn_D = np.random.default_rng(client).uniform(-1, 1, self.spec.length)
        drawn_D[-1] = 1.0
        return drawn_D.astype(np.float32)

    def player(self, address: Address, own: Credentials) -> Participant:
        """A role in the only round."""
        return InMemory(self.secure_sum, self.spec, {}, known={address: own}).party(address)


# ---- what clients send


class Clients(InMemory):
    """The clients' side of one round, with the keys of all roles."""

    def __init__(self, setting: MpcSetting) -> None:
        addresses = [client_address(client) for client in range(setting.clients)]
        super().__init__(
            setting.secure_sum,
            setting.spec,
            Drawn(addresses, lambda address: setting.vector(addresses.index(address))),
            known=fresh_credentials(  # a client keeps nothing
                [*addresses, *setting.secure_sum.parties.roles], lambda _: FileStore(Path())
            ),
            strict=True,
        )
        self.setting = setting
        self.share_s: list[float] = []  # seconds of each upload

    @contextmanager
    def timed(self, address: Address) -> Iterator[None]:
        """Append the time of a client's upload to `share_s`."""
        start_s = time.perf_counter()
        yield
        if address != SERVER:
            self.share_s.append(time.perf_counter() - start_s)

    def upload(self, client: int) -> Records:
        """The upload of one client."""
        first = self.until(self._flow, lambda exchange: exchange.collect)
        return self.respond(first, client_address(client))

    def handed(self) -> Mapping[Address, Records]:
        """The records that the server relays from all clients to each party."""
        return self.until(self._flow, lambda exchange: exchange.stage == "reveal").outbox

    @property
    def _flow(self) -> Flow:
        return self.secure_sum.server(self.cohort, self.spec)


def upload_figures(size: int, clients: int) -> list[BenchFigure]:
    """Bytes of one upload per parameter, for every number of parties, beside the minimum that the values need."""
    floor_bits = needed_bits(MpcSetting(PARTIES[0], clients, size).spec, FRACTIONAL_BITS)
    figures = [BenchFigure(f"{size:,} parameters: the floor, {floor_bits} bits", floor_bits / 8, "B/param")]
    for parties in PARTIES:
        upload = Clients(MpcSetting(parties, clients, size)).upload(0)
        up_bytes = sum(len(name) + len(cast(bytes, value)) for name, value in upload.items())
        figures.append(BenchFigure(f"{size:,} parameters, {parties} parties: up", up_bytes / size, "B/param", UP_BAR))
    return figures


# ---- a party's process


class Seat:
    """One party in its own process, and its ways to sum."""

    def __init__(self, setting: MpcSetting, identity: bytes, roster: bytes, handed: Records, private: Path) -> None:
        from fl.runtimes.peers import join  # imports CrypTen, which the driver does not need

        torch.set_num_threads(1)
        self._setting = setting
        self._handed = handed
        self._private = private
        self._secure_sum = setting.secure_sum
        self._ring = setting.secure_sum.ring(setting.spec)
        self._keys = Identity.from_bytes(identity), Roster.from_bytes(roster)
        self._address = next(a for a in self._secure_sum.parties.roles if self._keys[1][a] == self._keys[0].public)
        self._rank = self._secure_sum.parties.roles.index(self._address)
        self._repeats = 0
        own, known = self._keys
        meeting = Meeting(self._secure_sum.parties.roles, TIMEOUT_S)
        unused = FileStore(private)
        self._peers = join(self._address, Credentials(own, known, unused), meeting, RUN, private)
        me = self._player()
        self._payloads = [
            open_box(own, known, me.header("mpc share", client, self._address), handed[client])
            for client in str(handed["contributors"]).split(",")
        ]
        self._vectors = [setting.vector(client) for client in range(setting.clients)]
        self._exact_D = np.sum(self._vectors, axis=0, dtype=np.float64)

    def _player(self) -> Participant:
        """This party with an empty store on disk."""
        store = FileStore(self._private / f"{self._rank}-{self._repeats}")
        return self._setting.player(self._address, Credentials(*self._keys, store, self._peers))

    def time_s(self, way: str) -> float:
        """Seconds of one way, from the moment all parties are ready until this party has the sum."""
        self._repeats += 1
        self._peers.exchange(b"ready")
        start_s = time.perf_counter()
        sum_D = getattr(self, way)()
        taken_s = time.perf_counter() - start_s
        if sum_D is not None:
            off_D = np.abs(sum_D - self._exact_D)
            assert off_D.max() <= self._setting.clients * 2.0**-15, f"{way} sums something else"
        return taken_s

    def stage_cost(self) -> tuple[float, float, float]:
        """Cost of the protocol's second stage: seconds, bytes received from the server, bytes received from parties."""
        self._peers.costs()
        taken_s = self.time_s("stage")
        handed_bytes = sum(len(cast(bytes, value)) for value in self._handed.values())
        return taken_s, handed_bytes, self._peers.costs()["peers.comm_bytes"] / 2  # the count includes sent bytes

    def ours(self) -> Vector:
        """Sum as the protocol does after the parties agreed on a set."""
        share_D = np.zeros(self._setting.spec.length, self._ring.dtype)
        for client, payload in enumerate(self._payloads):
            self._ring.add_share(share_D, payload, whole=self._holds_vector(client))
        integers_CD = torch.from_numpy(share_D.astype(np.int64)[None])
        return self._ring.decode(revealed(mpc_aggregates.Sum(), integers_CD).astype(self._ring.dtype))

    def _holds_vector(self, client: int) -> bool:
        return client % self._setting.parties == self._rank

    def stage(self) -> Vector | None:
        """Run the protocol's whole second stage; only the first party returns the sum."""
        report = self._secure_sum.respond("reveal", self._handed, self._player(), _never)
        return cast(Vector | None, report.get("sum"))

    def numpy(self) -> Vector:
        """Sum the same key streams with NumPy, one operation after the other."""
        length = self._setting.spec.length
        dtype = self._ring.dtype
        share_D = np.zeros(length, dtype)
        for client, payload in enumerate(self._payloads):
            if not self._holds_vector(client):
                payload = Cipher(ChaCha20(payload, bytes(16)), mode=None).encryptor().update(bytes(share_D.nbytes))
            share_D += np.frombuffer(payload, dtype)
        signed_D = torch.from_numpy(share_D.view(f"i{dtype.itemsize}"))
        dist.all_reduce(signed_D)
        return signed_D.numpy() * 2.0**-FRACTIONAL_BITS

    def naive(self) -> Vector:
        """Sum as CrypTen's own examples do: the party that holds a vector shares it."""
        from privacy.secure_sums.mpc.crypten.compat import crypten

        nothing = torch.zeros(self._setting.spec.length)
        parties = self._setting.parties
        shared = (
            crypten.cryptensor(
                torch.from_numpy(vector) if self._holds_vector(client) else nothing, src=client % parties
            )
            for client, vector in enumerate(self._vectors)
        )
        # not its get_plain_text, whose decoder is off by one where a negative value lies just above a whole number
        return cast(Vector, reduce(add, shared).reveal().numpy() * 2.0**-FRACTIONAL_BITS)


def _never() -> Vector:
    raise AssertionError("a party contributes nothing")


_seat: Seat  # the seat of this process


def _sit(setting: MpcSetting, identity: bytes, roster: bytes, handed: Records, private: Path) -> None:
    global _seat
    _seat = Seat(setting, identity, roster, handed, private)


def _time_s(way: str) -> float:
    return _seat.time_s(way)


def stage_cost() -> tuple[float, float, float]:
    """`Seat.stage_cost` of this process."""
    return _seat.stage_cost()


# ---- the race


Measured = dict[str, list[float]]  # seconds of each repeat, by way


def _as_bytes(own: Credentials) -> tuple[bytes, bytes]:
    return own.identity.to_bytes(), own.roster.to_bytes()


@contextmanager
def seated(clients: Clients) -> Iterator[list[ProcessPoolExecutor]]:
    """A process for each party, which holds the records that the clients sent to the party."""
    spawn = multiprocessing.get_context("spawn")
    handed = clients.handed()
    with ExitStack() as stack:
        private = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pools = {role: stack.enter_context(ProcessPoolExecutor(1, spawn)) for role in handed}
        seats = [
            pool.submit(_sit, clients.setting, *_as_bytes(clients.known[role]), handed[role], private)
            for role, pool in pools.items()
        ]
        for seat in seats:
            seat.result()
        yield list(pools.values())


def race(clients: Clients, repeats: int, done: Callable[[str], None]) -> Measured:
    """Time all ways in turn, once to warm up and then `repeats` times; `done` is called after each."""
    measured: Measured = {way: [] for way in WAYS}
    with seated(clients) as pools:
        for _ in range(repeats + 1):
            for way in WAYS:
                times = [pool.submit(_time_s, way) for pool in pools]
                measured[way].append(max(future.result() for future in times))
                done(way)
    return measured


def race_figures(clients: Clients, measured: Measured) -> list[BenchFigure]:
    """Medians over the repeats after the first, and their ratios."""
    setting = clients.setting
    medians = {way: statistics.median(times[1:]) for way, times in measured.items()}
    rate = setting.parameters / statistics.median(clients.share_s[1:] or clients.share_s) / 1e6
    case = f"{setting.parties} parties, {setting.clients} x {setting.parameters:,}"
    return [
        BenchFigure(f"{case}: client", rate, "M params/s"),
        *(BenchFigure(f"{case}: {way}", 1e3 * seconds, "ms") for way, seconds in medians.items()),
        BenchFigure(f"{case}: ours / numpy's", medians["ours"] / medians["numpy"], "1", NUMPY_BAR),
        BenchFigure(f"{case}: naive / ours", medians["naive"] / medians["ours"], "1", NAIVE_BAR),
    ]
