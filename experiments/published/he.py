"""Measurements for published tables of homomorphic sums: sizes and times of an aggregation by several systems.

Sources: FedML-HE (Jin et al., arXiv 2303.10837v3, Tables 4, 7 and 8); Di-Chai/he-benchmark (README-New.md). An
aggregation is a secure sum without any training: every client encrypts its vector, the server adds the
messages, and one client opens the sum. A system is a set of CKKS parameters under a public key, without masks, as
in those systems, and the fraction of the values that it encrypts; the others are float32. A system without parameters
encrypts nothing. Times are processor time. MiB are 1,024^2 bytes.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np

from experiments.benchmarks.float32 import Float32
from privacy.secure_sums.he.ciphers import generate_keys
from privacy.secure_sums.he.codecs import CipherScheme, ckks_scheme
from privacy.secure_sums.he.parameters import HeParameters
from privacy.secure_sums.vectors import Segment, Vector, VectorSpec
from results.progress import progress

MIB = 1 << 20
PIECE = 256  # ciphertexts that are in memory at a time, whatever the model's size
SAMPLES = 40  # samples of an operation, as in the benchmark

T = TypeVar("T")


class OperationCost(NamedTuple):
    """Cost of one aggregation: bytes sent by a client; seconds of one client, of one addition, and of one opening."""

    up_bytes: float
    client_s: float
    add_s: float
    open_s: float

    def plus(self, other: "OperationCost") -> "OperationCost":
        """The cost of both parts of a vector."""
        return OperationCost(*(mine + others for mine, others in zip(self, other, strict=True)))

    def whole_s(self, clients: int) -> float:
        """Seconds of the whole aggregation, one step after the other; one client opens."""
        return clients * (self.client_s + self.add_s) + self.open_s


NOTHING = OperationCost(0.0, 0.0, 0.0, 0.0)


class System:
    """One system's encoding of vectors, with its own keys.

    Raises:
        ConfigError: parameters that are not safe, or under which a sum could wrap.
    """

    def __init__(self, clients: int, parameters: Mapping[str, Any] | None = None, fraction: float = 1.0) -> None:
        self._clients = clients
        self.fraction = fraction if parameters else 0.0
        self._parameters = None
        if parameters:
            bits = tuple(parameters["coeff_modulus_bits"])
            self._parameters = HeParameters("ckks", **{**parameters, "coeff_modulus_bits": bits}, dense=False)
            self._keys = generate_keys(self._parameters)

    def aggregate(self, values: int) -> OperationCost:
        """The cost of aggregating vectors of `values` values."""
        encrypted = round(self.fraction * values)
        return self._in_pieces(encrypted, True).plus(self._in_pieces(values - encrypted, False))

    def _in_pieces(self, values: int, encrypted: bool) -> OperationCost:
        slots = 1 if self._parameters is None else self._parameters.poly_modulus_degree // 2 - 1
        cost = NOTHING
        piece = PIECE * slots if encrypted else 1 << 22
        for start in range(0, values, piece):
            cost = cost.plus(self._piece(min(piece, values - start), encrypted))
        return cost

    def _piece(self, values: int, encrypted: bool) -> OperationCost:
        spec = VectorSpec((Segment("update", values, 1.0),), self._clients)
        vector_D = np.random.default_rng(values).uniform(-1, 1, values).astype(np.float32)
        if not encrypted or self._parameters is None:
            return _aggregated(Float32(), vector_D, self._clients, b"", b"")
        scheme = ckks_scheme(spec, self._parameters, symmetric=False)
        return _aggregated(scheme, vector_D, self._clients, self._keys.public, self._keys.secret)


def _aggregated(
    scheme: CipherScheme | Float32, vector_D: Vector, clients: int, public: bytes, secret: bytes
) -> OperationCost:
    adder = scheme.adder()
    clients_s = list[float]()
    adds_s = list[float]()
    up_bytes = 0
    for _ in range(clients):
        client_s, message = _timed(lambda: scheme.encrypt(vector_D, public, None))
        add_s, _ = _timed(lambda message=message: adder.add(message))  # type: ignore[misc]
        clients_s.append(client_s)
        adds_s.append(add_s)
        up_bytes = len(message)
    open_s, sum_D = _timed(lambda: scheme.open(adder.message(), secret, clients, None))
    assert np.abs(sum_D - clients * vector_D.astype(np.float64)).max() < 1e-3, "it opens to the sum"
    return OperationCost(up_bytes, statistics.median(clients_s), statistics.median(adds_s), open_s)


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start_s = time.process_time()
    result = work()
    return time.process_time() - start_s, result


def he_system(
    system: str, base: str, systems: Mapping[str, Any], values: int, clients: int, repeats: int = 1
) -> dict[str, float]:
    """One system's upload in MiB and time of an aggregation, and the ratios of both to a base system.

    Raises:
        ConfigError: parameters that are not safe.
    """
    costs = _all_systems(json.dumps(_plain(systems)), values, clients, repeats)
    ours = costs[system]
    others = costs[base]
    return {
        "upload (MiB)": ours.up_bytes / MIB,
        "aggregation (s)": ours.whole_s(clients),
        f"upload / {base}": ours.up_bytes / others.up_bytes,
        f"time / {base}": ours.whole_s(clients) / others.whole_s(clients),
    }


def _plain(value: Any) -> Any:
    """A value of OmegaConf as plain dicts and lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, list | tuple) else value


@lru_cache(maxsize=8)  # the rows of a table share one measurement
def _all_systems(systems: str, values: int, clients: int, repeats: int) -> dict[str, OperationCost]:
    """Measure all systems in turn, after a piece that loads their keys; medians over the repeats."""
    known = {name: System(clients, **arguments) for name, arguments in json.loads(systems).items()}
    found: dict[str, list[OperationCost]] = {name: [] for name in known}
    with progress(f"{values:,} values, sum", repeats * len(known)) as sums:
        for system in known.values():
            system.aggregate(1000)
        for _ in range(repeats):
            for name, system in known.items():
                found[name].append(system.aggregate(values))
                sums.advance(name)
    return {name: OperationCost(*map(statistics.median, zip(*costs, strict=True))) for name, costs in found.items()}


def selective_size(values: int, slots: int, ciphertext_bytes: float, fraction: float) -> dict[str, float]:
    """MiB of a partly encrypted message: a fraction in whole ciphertexts, the rest in float32."""
    encrypted = round(fraction * values)
    size_bytes = -(-encrypted // slots) * ciphertext_bytes + 4 * (values - encrypted)
    return {"upload (MiB)": size_bytes / MIB}


def ciphertext_words(poly_modulus_degree: int, primes: int) -> dict[str, float]:
    """KiB of a ciphertext with residues in words of 64 bits: two polynomials, one word per coefficient and prime."""
    return {"ciphertext (KiB)": 2 * poly_modulus_degree * primes * 8 / 1024}


def ckks_operations(
    poly_modulus_degree: int, coeff_modulus_bits: list[int], scale_bits: int, samples: int = SAMPLES
) -> dict[str, float]:
    """Milliseconds of encoding and encrypting a value, of an addition, and of decrypting and decoding: means.

    As the benchmark does (seal_ckks_v2.py), a ciphertext holds one value, and one operation goes over all samples
    before the next, so that a ciphertext comes from memory and not from the processor's cache. A product is rescaled,
    so it is decrypted under one prime less than a sum. TenSEAL calls the SEAL that SEAL-Python calls.
    """
    import tenseal as ts

    kind = ts.SCHEME_TYPE.CKKS
    public = ts.ENCRYPTION_TYPE.ASYMMETRIC
    context = ts.context(
        kind, poly_modulus_degree, coeff_mod_bit_sizes=list(coeff_modulus_bits), encryption_type=public, n_threads=1
    )
    values = np.random.default_rng(1).uniform(0, 1, samples)

    def encrypted() -> list[Any]:
        return [ts.ckks_vector(context, [value], 2.0**scale_bits) for value in values]

    encrypt_s, left = _timed(encrypted)
    right = encrypted()
    add_s, sums = _timed(lambda: [one + other for one, other in zip(left, right, strict=True)])
    products = [one * other for one, other in zip(left, right, strict=True)]
    decrypt_s, opened = _timed(lambda: [total.decrypt()[0] for total in sums])
    rescaled_s, _ = _timed(lambda: [product.decrypt()[0] for product in products])
    assert np.abs(np.array(opened) - 2 * values).max() < 1e-3, "they open to the sums"
    all_s = {"encrypt": encrypt_s, "add": add_s, "decrypt": decrypt_s, "decrypt, rescaled": rescaled_s}
    times = {f"{name} (ms)": 1e3 * seconds / samples for name, seconds in all_s.items()}
    return times | {f"encrypt / {name}": encrypt_s / seconds for name, seconds in all_s.items() if name != "encrypt"}
