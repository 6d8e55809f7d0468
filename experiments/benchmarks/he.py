"""The cost of homomorphic and masked sums: bytes and processor time, beside float32 and the set of NVIDIA FLARE.

The published sets run as they are used elsewhere: to a public key, without masks. `lean`, `bfv` and `pad` run as in
their protocols, with masks that the opener draws again for every client. Each set has its own process, which keeps the
keys loaded as in a run; the sets take turns, repeat by repeat. Processor time of all threads counts, so rates are per
core. The first repeat loads the keys and is reported apart; every opened sum is checked. The steps are those that the
schemes record (`privacy.spans`), measured in separate passes: reading the clock takes some 2 % of a client's time.
"""

import argparse
import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np

from experiments.benchmarks import BenchFigure
from experiments.benchmarks.float32 import Float32
from privacy.errors import ConfigError
from privacy.randomness import OsRandomness
from privacy.secure_sums.he.ciphers import Keys, generate_keys
from privacy.secure_sums.he.codecs import CipherScheme, Mask, bfv_scheme, ckks_scheme, pad_scheme, sum_of_masks
from privacy.secure_sums.he.parameters import named
from privacy.secure_sums.vectors import Segment, Sum, VectorSpec
from privacy.spans import Recorder, recording, span
from results.progress import progress

CLIENTS = 16
VALUE_BITS = 16
ROUNDS = 100
MESSAGES = 4  # different ones in a sum: one message added 16 times has four times the noise of 16 messages
FP32 = "fp32"
NVFLARE = "nvflare"
BARS_FROM = 1_000_000  # parameters: a small model leaves much of its last ciphertext empty
CLIENT_STEPS = ("encode", "mask", "encrypt", "serialise")
OPENER_STEPS = ("unmask", "open", "decode")

T = TypeVar("T")


class HeSetting(NamedTuple):
    """One set under one arrangement of keys, and its bars (rates in million parameters a second)."""

    scheme: str
    parameters: str = ""
    symmetric: bool = False  # the clients share the secret key
    masked: bool = False
    up_bar: str | None = None
    published: tuple[float, float] | None = None  # bytes a parameter, and the allowed deviation
    rate_bar: str | None = None
    nvflare_bar: str | None = None

    @property
    def without_bars(self) -> "HeSetting":
        """The same setting without bars, for sizes that they do not apply to."""
        return HeSetting(self.scheme, self.parameters, self.symmetric, self.masked)


SETS = {
    FP32: HeSetting(FP32),
    "tutorial": HeSetting("ckks", "tutorial", published=(82, 3)),
    NVFLARE: HeSetting("ckks", "nvflare", published=(57, 2)),
    "fedml_he": HeSetting("ckks", "fedml_he"),
    "lean keyholder": HeSetting("ckks", "lean", masked=True, up_bar="<= 15.5", rate_bar=">= 1.5", nvflare_bar=">= 1.5"),
    "lean clients": HeSetting(
        "ckks", "lean", symmetric=True, masked=True, up_bar="<= 7.8", rate_bar=">= 3", nvflare_bar=">= 3"
    ),
    "bfv keyholder": HeSetting("bfv", "lean", masked=True, up_bar="<= 7.8"),
    "bfv clients": HeSetting("bfv", "lean", symmetric=True, masked=True, up_bar="<= 4.0"),
    "pad": HeSetting("pad", masked=True, up_bar="<= 2.7"),
}


class Sizes(NamedTuple):
    """Ciphertexts of a message (0 without encryption), bytes of a client's message, and bytes of the sum."""

    ciphertexts: int
    up_bytes: int
    down_bytes: int


class SchemeCost(NamedTuple):
    """Processor seconds: of a client (mask, encode, encrypt, serialise), of one addition, and of the opener.

    `unmask_s` is the part of `open_s` that draws and adds the masks of all clients; `steps_s` holds the steps of the
    client and of the opener, by name. `check_s` and `open_check_s`, the linear check of a client and of the opener, are
    in none of the others.
    """

    encrypt_s: float
    add_s: float
    open_s: float
    unmask_s: float
    check_s: float
    open_check_s: float
    steps_s: Mapping[str, float]


class Subject:
    """One set at one size, with keys and a vector, ready to be timed."""

    def __init__(self, name: str, parameters: int) -> None:
        self.setting = SETS[name]
        self.spec = VectorSpec((Segment("update", parameters, 1.0), Segment("weight", 1, 1.0)), CLIENTS)
        self.scheme = scheme_of(self.setting, self.spec)
        self.masks = self.scheme if isinstance(self.scheme, CipherScheme) and self.setting.masked else None
        held = None if isinstance(self.scheme, Float32) else self.scheme.parameters
        self.keys = Keys(b"", b"") if held is None else generate_keys(held)
        self.vector_D = np.random.default_rng(1).uniform(-1, 1, self.spec.length).astype(np.float32)
        self.mask_key = OsRandomness().key()

    def repeat(self) -> tuple[Sizes, SchemeCost]:
        """Encrypt some messages, add them in turn until each client has one, and open the sum.

        Raises:
            AssertionError: the opened sum is wrong.
        """
        encrypts_s, messages = zip(*(_timed(self._encrypt) for _ in range(MESSAGES)), strict=True)
        adder = self.scheme.adder()
        adds_s = list[float]()
        for client in range(CLIENTS):
            adds_s.append(_timed(functools.partial(adder.add, messages[client % MESSAGES]))[0])
        total = adder.message()
        unmask_s, mask = _timed(self._sum_of_masks)
        open_s, sum_D = _timed(lambda: self._open(total, mask))
        assert np.abs(sum_D - CLIENTS * self.vector_D.astype(np.float64)).max() <= CLIENTS * self.scheme.tolerance
        sizes = Sizes(self._ciphertexts, len(messages[0]), len(total))
        check_s, open_check_s = self._checks_s(messages, total)
        steps_s = _steps(self._encrypt) | _steps(lambda: self._open(total, self._sum_of_masks()))
        times_s = (statistics.median(encrypts_s), statistics.median(adds_s), unmask_s + open_s, unmask_s)
        return sizes, SchemeCost(*times_s, check_s, open_check_s, steps_s)

    def _checks_s(self, messages: Sequence[bytes], total: bytes) -> tuple[float, float]:
        """The time of the linear check at a client and at the opener; 0 where the set has none."""
        check = None if self.masks is None else self.masks.check
        if check is None:
            return 0.0, 0.0
        digests_s, digests = zip(
            *(_timed(functools.partial(check.digest, m, self.mask_key)) for m in messages), strict=True
        )
        sent = [digests[client % MESSAGES] for client in range(CLIENTS)]
        open_check_s, _ = _timed(lambda: check.require_sum(total, sent, self.mask_key))
        return statistics.median(digests_s), open_check_s

    def _encrypt(self) -> bytes:
        key = self.keys.secret if self.setting.symmetric else self.keys.public
        return self.scheme.encrypt(self.vector_D, key, self._mask())

    def _mask(self) -> Mask | None:
        if self.masks is None:
            return None
        with span("mask"):
            return self.masks.draw_mask(self.mask_key)

    def _open(self, total: bytes, mask: Mask | None) -> Sum:
        return self.scheme.open(total, self.keys.secret, CLIENTS, mask)

    def _sum_of_masks(self) -> Mask | None:
        """The sum of the clients' masks; they are equal here, but the opener draws each one, as in a run."""
        if self.masks is None:
            return None
        return sum_of_masks(self.masks, (self.masks.draw_mask(self.mask_key) for _ in range(CLIENTS)))

    @property
    def _ciphertexts(self) -> int:
        encoder = getattr(self.scheme, "ckks", None) or getattr(self.scheme, "bfv", None)
        return 0 if encoder is None else encoder.ciphertexts(self.spec.length)


def scheme_of(setting: HeSetting, spec: VectorSpec) -> CipherScheme | Float32:
    """The scheme that the protocol of a setting encodes its vectors with."""
    if setting.scheme == "ckks":
        return ckks_scheme(spec, named(setting.parameters, "ckks", setting.symmetric), setting.symmetric)
    if setting.scheme == "bfv":
        parameters = named(setting.parameters, "bfv", setting.symmetric)
        return bfv_scheme(spec, parameters, setting.symmetric, VALUE_BITS, ROUNDS)
    return pad_scheme(spec, VALUE_BITS) if setting.scheme == "pad" else Float32()


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    """Processor time of a call, over all threads, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def _steps(work: Callable[[], object]) -> dict[str, float]:
    """Processor time of the steps of a call, by name."""
    with recording(Recorder(time.process_time)) as recorder:
        work()
    return recorder.seconds


def options(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument(
        "--sizes", default="26010,1000000,10000000", help="parameters of a model (default: %(default)s)"
    )
    parser.add_argument(
        "--sets", default=",".join(SETS), help="the sets; fp32 and nvflare are always added (default: all)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="repeats after the first (default: %(default)s)")


def measure(arguments: argparse.Namespace) -> list[BenchFigure]:
    """The figures of every size and set.

    Raises:
        ConfigError: an unknown set, or a value that is not a valid number.
    """
    sets = chosen(arguments.sets)
    sizes = numbers(arguments.sizes)
    if arguments.repeats < 1:
        raise ConfigError.of("--repeats", arguments.repeats, "must be at least 1")
    figures: list[BenchFigure] = []
    for size in sizes:
        with progress(f"{size:,} parameters, sum", (arguments.repeats + 1) * len(sets)) as sums:
            measured = alternate(sets, size, arguments.repeats, sums.advance)
        figures += compare(size, measured)
    return figures


def chosen(text: str) -> list[str]:
    """The sets to measure, in the order of `SETS`, with both baselines."""
    names = text.split(",")
    for name in names:
        if name not in SETS:
            raise ConfigError.of("--sets", name, f"allowed are {', '.join(SETS)}")
    return [name for name in SETS if name in (FP32, NVFLARE, *names)]


def numbers(text: str) -> list[int]:
    """Positive whole numbers, with commas between them."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigError.of("--sizes", text, "must be positive whole numbers, with commas between them")
    return [int(part) for part in parts]


Measured = dict[str, tuple[Sizes, list[SchemeCost]]]


def alternate(sets: Sequence[str], size: int, repeats: int, done: Callable[[str], None]) -> Measured:
    """Measure all sets in turn, once to load the keys and then `repeats` times; `done` is called after each."""
    measured: Measured = {}
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        alone = {name: stack.enter_context(ProcessPoolExecutor(1, spawn)) for name in sets}
        for _ in range(repeats + 1):
            for name, process in alone.items():
                sizes, cost = process.submit(_repeat, name, size).result()
                measured.setdefault(name, (sizes, []))[1].append(cost)
                done(name)
    return measured


def _repeat(name: str, size: int) -> tuple[Sizes, SchemeCost]:
    return _subject(name, size).repeat()


_subject = functools.lru_cache(maxsize=1)(Subject)  # kept in the process of its set


def compare(size: int, measured: Measured) -> list[BenchFigure]:
    """Medians over the repeats after the first, compared with float32 and NVIDIA FLARE."""
    medians = {name: _median(costs[1:]) for name, (_, costs) in measured.items()}
    figures: list[BenchFigure] = []
    for name, (sizes, costs) in measured.items():
        setting = SETS[name] if size >= BARS_FROM else SETS[name].without_bars
        lines = [
            *_bytes(size, sizes, setting),
            *_rates(size, medians[name], costs[0], setting),
            *_ratios(name, medians, setting),
        ]
        figures += [replace(line, name=f"{size:,}, {name}: {line.name}") for line in lines]
    return figures


def _median(costs: Sequence[SchemeCost]) -> SchemeCost:
    encrypt_s, add_s, open_s, unmask_s, check_s, open_check_s = (
        statistics.median(times) for times in zip(*(cost[:6] for cost in costs), strict=True)
    )
    steps_s = {step: statistics.median(cost.steps_s[step] for cost in costs) for step in costs[0].steps_s}
    return SchemeCost(encrypt_s, add_s, open_s, unmask_s, check_s, open_check_s, steps_s)


def _bytes(size: int, sizes: Sizes, setting: HeSetting) -> list[BenchFigure]:
    up = sizes.up_bytes / size
    figures = [BenchFigure("ciphertexts", sizes.ciphertexts, "1")] if sizes.ciphertexts else []
    figures += [
        BenchFigure("up", up, "B/param", setting.up_bar),
        BenchFigure("down, to the opener", sizes.down_bytes / size, "B/param"),
    ]
    if setting.published is not None:
        value, off = setting.published
        figures.append(BenchFigure(f"up, from the published {value:g}", abs(up - value), "B/param", f"<= {off:g}"))
    return figures


def _rates(size: int, cost: SchemeCost, first: SchemeCost, setting: HeSetting) -> list[BenchFigure]:
    """Rates in million parameters a second and core; the opener's time covers the masks of all clients."""
    opening = f"open, with the masks of {CLIENTS}" if setting.masked else "open"
    named_s = [("client", cost.encrypt_s, setting.rate_bar), ("client, first", first.encrypt_s, None)]
    named_s += [("add", cost.add_s, None), (opening, cost.open_s, None)]
    if setting.masked:
        named_s.append(("open, masks already added", cost.open_s - cost.unmask_s, None))
    for role, steps in (("client", CLIENT_STEPS), ("opener", OPENER_STEPS)):
        named_s += [(f"{role}: {step}", cost.steps_s[step], None) for step in steps if step in cost.steps_s]
    checks_s = {"client: linear check": cost.check_s, "opener: linear check": cost.open_check_s}
    named_s += [(name, seconds, None) for name, seconds in checks_s.items() if seconds]
    return [BenchFigure(name, size / max(seconds, 1e-9) / 1e6, "M params/s", bar) for name, seconds, bar in named_s]


def _ratios(name: str, medians: Mapping[str, SchemeCost], setting: HeSetting) -> list[BenchFigure]:
    client_s = medians[name].encrypt_s
    ratios = [] if name == FP32 else [BenchFigure("client time, / fp32's", client_s / medians[FP32].encrypt_s, "1")]
    if name not in (FP32, NVFLARE):
        ratios.append(
            BenchFigure("client time, nvflare's /", medians[NVFLARE].encrypt_s / client_s, "1", setting.nvflare_bar)
        )
    if medians[name].check_s:
        ratios.append(BenchFigure("linear check, / client time", medians[name].check_s / client_s, "1"))
    return ratios
