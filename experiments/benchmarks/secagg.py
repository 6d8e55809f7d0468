"""Secure aggregation: ours beside Flower's SecAgg+, processor time and bytes of the server and of a client.

Both run in this process on one thread, in turns (Flower's secret sharing starts more threads, whose time counts). Both
sum the same vectors with the same clients dropped out after they shared their secrets and before they send a vector,
the costliest moment. A first round of each on short vectors is left out, and every sum is checked. Ours works as in a
run: replies are signed and verified, and state that must outlive a process is on disk. The comparison has two parts:

    same       at our number of neighbours and threshold, values of 16 bits, a modulus of as many bits as ours
    defaults   ours with the defaults of its configuration; Flower's with the defaults of its class, which leaves the
               shares to the caller: every client holds one, as in its SecAggWorkflow, and half of them reconstruct

The cost of our masks is compared with ChaCha20 alone for as many words. `--curves` measures only ours.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from experiments.benchmarks import BenchFigure
from experiments.benchmarks.secagg_costs import GONE_FROM, Costs, SecAggCase, number
from fl.keys.folders import FileStore
from privacy.addresses import SERVER, Address, client_address
from privacy.errors import ConfigError
from privacy.randomness import OsRandomness
from privacy.secure_sums.contract import Exchange, Records
from privacy.secure_sums.in_memory import Drawn, InMemory, fresh_credentials
from privacy.secure_sums.secagg.masks import MaskedVectors
from privacy.secure_sums.secagg.protocol import SecAggSum
from privacy.secure_sums.vectors import Segment, Total, VectorSpec
from privacy.spans import Recorder, recording
from results.progress import progress

STAGES = ("advertise", "share_keys", "mask", "confirm", "unmask")
# the setting of the bars
BAR_CLIENTS = 100
BAR_PARAMETERS = 100_000
FASTER_BAR = ">= 5"
PAYLOAD_BAR = "<= 1.05"
HANDSHAKE_BAR = "<= 1.15"
CURVE_CLIENTS = (10, 30, 100, 300, 1000)
CURVE_LENGTHS = (10_000, 100_000, 1_000_000, 10_000_000)
# the fixed value of the other axis of each curve
CURVE_PARAMETERS = 10_000
CURVE_COHORT = 10
_STREAM_BYTES = 1 << 28
_BLOCK_BYTES = 1 << 17


def options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--clients", type=int, default=BAR_CLIENTS, help="size of the cohort (default: %(default)s)")
    parser.add_argument(
        "--parameters", type=int, default=BAR_PARAMETERS, help="length of a vector (default: %(default)s)"
    )
    parser.add_argument("--dropouts", default="0,5,10,30", help="drop-out rates in percent (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of each round (default: %(default)s)")
    parser.add_argument(
        "--curves", action="store_true", help="measure curves over clients and over lengths instead of the comparison"
    )


def measure(arguments: argparse.Namespace) -> list[BenchFigure]:
    """The figures: the comparison, or the curves.

    Raises:
        ConfigError: a number below the least that is allowed.
    """
    for name, least in (("clients", 3), ("parameters", 1), ("repeats", 1)):
        if getattr(arguments, name) < least:
            raise ConfigError.of(f"--{name}", getattr(arguments, name), f"must be at least {least}")
    if arguments.curves:
        return curves(arguments.repeats)
    cases = [SecAggCase(arguments.clients, arguments.parameters, share / 100) for share in percents(arguments.dropouts)]
    ways = ways_of(arguments.clients)
    with progress("round", arguments.repeats * len(cases) * len(ways)) as rounds:
        measured = race(cases, ways, arguments.repeats, rounds.advance)
    return [*limits(cases[0], measured), *compare(cases, measured)]


def percents(text: str) -> list[int]:
    """Whole numbers from 0 to 30, with commas between them: the rates that the default configuration tolerates."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) <= 30 for part in parts):
        raise ConfigError.of("--dropouts", text, "must be whole numbers from 0 to 30, with commas between them")
    return [int(part) for part in parts]


# ---- ours


class OurRound(InMemory):
    """One round of our secure aggregation, with the keys of all clients, as once in a run."""

    def __init__(self, case: SecAggCase, costs: Costs, secure_sum: SecAggSum, folder: Path) -> None:
        addresses = [client_address(client) for client in range(case.clients)]
        known = fresh_credentials(addresses, lambda address: FileStore(folder / str(number(address))))
        gone = [client_address(client) for client in case.gone]
        segments = (Segment("update", case.parameters, secure_sum.carries.bound), Segment("weight", 1, 1.0))
        super().__init__(
            secure_sum,
            VectorSpec(segments, case.clients, 2),
            Drawn(addresses, lambda address: np.append(case.update(number(address)), np.float32(1))),
            gone=dict.fromkeys(STAGES[STAGES.index(GONE_FROM) :], gone),
            known=known,
            roster=known[addresses[0]].roster,
            strict=True,
        )
        self.case = case
        self.costs = costs

    def run(self) -> Costs:
        """Run all five stages, and check the sum."""
        self._check(self.aggregate())
        return self.costs

    def timed(self, address: Address) -> AbstractContextManager[None]:
        """Charge processor time to the server or to a client."""
        return self.costs.of_server() if address == SERVER else self.costs.of_client(number(address))

    def to_server(self, exchange: Exchange, address: Address, reply: Records) -> Records:
        """Count the bytes of a round trip."""
        self.costs.passed(number(address), _size(exchange.outbox[address]), _size(reply))
        if exchange.collect:
            self.costs.payload_bytes = len(reply["masked"])  # type: ignore[arg-type]
        return reply

    def _check(self, total: Total) -> None:
        allowed = len(total.survivors) * self.secure_sum.tolerance(self.spec)
        assert len(total.survivors) == self.case.clients - len(self.case.gone)
        assert np.abs(total.update_D - self.case.exact()).max() <= allowed, "ours sums something else"


def _size(records: Records) -> int:
    return sum(len(name) + len(value) for name, value in records.items() if isinstance(value, bytes | str))


def our_round(case: SecAggCase) -> Costs:
    """Run one round of ours with the defaults of its configuration."""
    with tempfile.TemporaryDirectory() as folder:
        return OurRound(case, Costs(), SecAggSum(case.clients), Path(folder)).run()


# ---- the race


Way = Callable[[SecAggCase], Costs]
Measured = Mapping[tuple[str, SecAggCase], Sequence[Costs]]


def ways_of(clients: int) -> dict[str, Way]:
    """The ways to compare: ours, and two settings of Flower's."""
    from experiments.benchmarks.flower_secagg import FlowerSettings, flower_round  # the curves do not need it

    plan = SecAggSum(clients).plan(clients, clients)
    bits = (clients * 0xFFFF).bit_length()
    same = FlowerSettings(min(plan.degree + 1, clients), plan.threshold, 1.0, 1 << 16, 1 << bits)
    whole = FlowerSettings(1.0, 0.5)
    return {
        "ours": our_round,
        "Flower's, same": lambda case: flower_round(case, same),
        "Flower's, defaults": lambda case: flower_round(case, whole),
    }


def race(cases: Sequence[SecAggCase], ways: Mapping[str, Way], repeats: int, done: Callable[[str], None]) -> Measured:
    """Measure all ways in turn on each case `repeats` times, after a small warm-up; `done` is called after each."""
    measured: dict[tuple[str, SecAggCase], list[Costs]] = {}
    for way in ways.values():
        way(replace(cases[0], parameters=100, dropout=0.0))
    for _ in range(repeats):
        for case in cases:
            for name, way in ways.items():
                measured.setdefault((name, case), []).append(way(case))
                done(f"{name}, {case.dropout:.0%} gone")
    return measured


def compare(cases: Sequence[SecAggCase], measured: Measured) -> list[BenchFigure]:
    """Medians of each way, and the ratios of Flower's times to ours."""
    figures = []
    names = dict.fromkeys(name for name, _ in measured)
    for case in cases:
        medians = {name: median(measured[name, case], case) for name in names}
        for name, (server_s, client_s, up, down) in medians.items():
            at = f"{case.clients} x {case.parameters:,}, {case.dropout:.0%} gone: {name}"
            figures += [
                BenchFigure(f"{at}: server", server_s, "s"),
                BenchFigure(f"{at}: a client", 1e3 * client_s, "ms"),
                BenchFigure(f"{at}: up", up / case.parameters, "B/param"),
                BenchFigure(f"{at}: down", down / case.parameters, "B/param"),
            ]
            if name != "ours":
                ours = medians["ours"]
                bar = FASTER_BAR if name.endswith("defaults") else None
                figures.append(BenchFigure(f"{at} / ours: server", server_s / ours[0], "1", bar))
                figures.append(BenchFigure(f"{at} / ours: a client", client_s / ours[1], "1", bar))
    return figures


def median(rounds: Sequence[Costs], case: SecAggCase) -> tuple[float, float, float, float]:
    """Median seconds of the server and of a client, and bytes of a client up and down."""
    server_s = statistics.median(costs.server_s for costs in rounds)
    client_s = statistics.median(costs.client_s(case.gone) for costs in rounds)
    return server_s, client_s, *rounds[0].bytes_of(case.gone)


# ---- lower limits


def limits(case: SecAggCase, measured: Measured) -> list[BenchFigure]:
    """Ratios to the lower limits: bytes to k bits a parameter, and mask time to the stream cipher alone."""
    masked = SecAggSum(case.clients).masked(
        VectorSpec((Segment("update", case.parameters, 1.0), Segment("weight", 1, 1.0)), case.clients)
    )
    costs = measured["ours", case][0]
    least = masked.bits * case.parameters / 8
    at = f"{case.clients} x {case.parameters:,}, {masked.bits} bits"
    barred = case.parameters >= BAR_PARAMETERS
    whole = sum(costs.bytes_of(case.gone)) / least
    plan = SecAggSum(case.clients).plan(case.clients, case.clients)
    stream = stream_bytes_per_s()
    masks = plan.degree + 1
    mask_s = mask_seconds(masked, masks)
    alone_s = masks * masked.words * masked.dtype.itemsize / stream
    return [
        BenchFigure(f"{at}: neighbours", plan.degree, "1"),
        BenchFigure(f"{at}: threshold", plan.threshold, "1"),
        BenchFigure(f"{at}: a masked vector", costs.payload_bytes / least, "1", PAYLOAD_BAR if barred else None),
        BenchFigure(f"{at}: all of a client, up and down", whole, "1", HANDSHAKE_BAR if barred else None),
        BenchFigure("ChaCha20 alone", stream / 1e9, "GB/s"),
        BenchFigure(f"{at}: {masks} masks", 1e3 * mask_s, "ms"),
        BenchFigure(f"{at}: {masks} masks / ChaCha20 alone", mask_s / alone_s, "1"),
    ]


def stream_bytes_per_s() -> float:
    """Throughput of ChaCha20 on one core, block by block, the best of three, in bytes a second."""
    stream = Cipher(ChaCha20(bytes(32), bytes(16)), mode=None).encryptor()
    zeros = bytes(_BLOCK_BYTES)
    out = bytearray(_BLOCK_BYTES)
    taken = []
    for _ in range(3):
        start_s = time.process_time()
        for _ in range(_STREAM_BYTES // _BLOCK_BYTES):
            stream.update_into(zeros, out)
        taken.append(time.process_time() - start_s)
    return _STREAM_BYTES / min(taken)


def mask_seconds(masked: MaskedVectors, masks: int) -> float:
    """Seconds of a client's mask step, the best of three."""
    vector_D = np.zeros(masked.words - 1, np.float32)
    seeds = [OsRandomness().key() for _ in range(masks)]
    taken = []
    for _ in range(3):
        with recording(Recorder(time.process_time)) as recorder:
            masked.protect(vector_D, seeds[::2], seeds[1::2])
        taken.append(recorder.seconds["mask"])
    return min(taken)


def curves(repeats: int) -> list[BenchFigure]:
    """Curves of ours without drop-outs: over clients at one length, and over lengths for one cohort."""
    cases = [SecAggCase(clients, CURVE_PARAMETERS, 0.0) for clients in CURVE_CLIENTS]
    cases += [SecAggCase(CURVE_COHORT, length, 0.0) for length in CURVE_LENGTHS]
    figures = []
    with progress("round", repeats * len(cases)) as rounds:
        for case in cases:
            measured = race([case], {"ours": our_round}, repeats, rounds.advance)
            figures += compare([case], measured)
    return figures
