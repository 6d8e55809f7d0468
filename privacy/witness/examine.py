"""The wire witness: a last check of a client's upload before it is sent, while the plaintext is known. It fails closed.

A secure sum declares the distribution of each record of an upload while protection is on (`declared`). The witness
checks that every sent record is declared, that no piece of the plaintext is visible in any encoding
(`plaintext_search`), and that the numbers declared as uniform are uniform (`uniformity`). It tests the numbers of the
upload, also inside boxes; their successive differences; the differences between the upload's ciphertexts; and the
differences to the same client's last upload. The store keeps a sample of that upload, so a reused mask or a reused
ciphertext randomness is found. One client per round also rehearses: it protects its vector once more, under keys with
which it can open the result. It then checks that the two uploads are independent, that the second one opens to the
vector, and that masks inside an encryption are uniform and differ.

The witness detects absent protection, and a client's own protection that comes twice. It does not detect a mask that
several clients share, for it compares none of them, nor weak seeds: a predictable generator with a good distribution
looks like a good one. It checks only the stage that carries the contribution, as the plaintext is not known at other
stages.

The probability that it stops a correct run is at most `FALSE_ALARM`, by the sum over all its tests.
"""

import io
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from privacy.errors import FedveilError, MalformedContribution, WitnessAlarm
from privacy.secure_sums.contract import Participant, Records, SecureSum, Store, Value
from privacy.secure_sums.declarations import Boxed, Declarations, Fixed, Integers, Numbers, Open, Rehearsal
from privacy.secure_sums.signed_replies import NUMBERS, SIGNATURE
from privacy.secure_sums.vectors import Vector
from privacy.witness.plaintext_search import Content, Plaintext, Written, find_piece, piece_bytes
from privacy.witness.uniformity import SERIES, too_regular

FALSE_ALARM = 1e-9  # probability per run
SAMPLE = 1024  # number of values of a series that the store keeps
LAST = "witness"  # name of these samples in the store
SIGNATURE_BYTES = 64
_SEARCHES = 8  # least number of searches of an upload that share their half of its chance: its update, and its boxes
_MOST_BYTES = (1 << 20, 1 << 10)  # of an upload and of its texts: a fixed part, and a part for each value
_SPARE = 4  # reserve factor on the uploads of a run, for rehearsals and rounds that are tried again


def allowance(rounds: int, cohort: int) -> float:
    """The allowed chance of a false alarm for one upload of a run."""
    return FALSE_ALARM / (_SPARE * rounds * cohort)


def least_piece_bytes(length: int, allowed: float, searched_bytes: int = 0, pieces: int = 0) -> int:
    """The least size of a piece of a vector of `length` values that an upload may not show.

    `allowed` is the chance of a false alarm for an upload, `searched_bytes` its size, `pieces` the number of pieces
    looked for; both count where they are larger than those of any secure sum here.
    """
    usual = _MOST_BYTES[0] + length * _MOST_BYTES[1]
    return piece_bytes(max(usual, searched_bytes), max(usual, pieces), allowed / 2 / _SEARCHES)


@dataclass(frozen=True)
class Upload:
    """An answer before it is sent, its inputs, and the client's memory `before` the answer was made.

    `allowed` is the allowed chance of a false alarm.
    """

    stage: str
    inbound: Records
    records: Records
    me: Participant
    vector_D: Vector
    before: Mapping[str, Value]
    allowed: float


def examine(secure_sum: SecureSum, upload: Upload, rehearse: bool) -> None:
    """Check an upload, and where `rehearse` is true, a second protection of the same vector.

    Raises:
        WitnessAlarm: the upload is not as declared.
    """
    try:
        declared = secure_sum.declare(upload.stage, upload.records, upload.me)
        if all(isinstance(kind, Open) for kind in declared.values()):
            return
        rehearsal = _rehearsed(secure_sum, upload) if rehearse else None
        _check_records(upload.records, declared)
        _check_pieces(secure_sum, declared, upload)
        _check_numbers(declared, rehearsal, upload)
    except FedveilError as error:
        raise _alarm(upload, f"it cannot check the upload: {error}") from error
    except _Seen as seen:
        raise _alarm(upload, str(seen)) from None


class _Seen(Exception):
    """An observation of the witness that stops the upload, in words."""


def _alarm(upload: Upload, what: str) -> WitnessAlarm:
    return WitnessAlarm(f"the witness of {upload.me.address} stops stage {upload.stage}: {what}; nothing was sent")


def _check_records(records: Records, declared: Declarations) -> None:
    """Check that every record is declared, and has the declared size."""
    signed = {SIGNATURE: Fixed(SIGNATURE_BYTES)} if SIGNATURE in records else {}
    kinds = {**declared, **signed}
    if unknown := sorted(records.keys() ^ kinds.keys()):
        raise _Seen(f"{unknown[0]} is sent or declared, but not both")
    for name, kind in kinds.items():
        value = records[name]
        wanted = kind.length_bytes if isinstance(kind, Fixed) else None
        if isinstance(kind, Boxed):
            wanted = len(kind.inside) + kind.overhead_bytes
        if wanted is not None and len(_as_bytes(name, value)) != wanted:
            raise _Seen(f"{name} is not {wanted} bytes")


def _check_pieces(secure_sum: SecureSum, declared: Declarations, upload: Upload) -> None:
    """Check that no plaintext is visible in a protected record or its content, and no content of a box outside it."""
    protected = {name: kind for name, kind in declared.items() if not isinstance(kind, Open)}
    sent = {name: _as_bytes(name, upload.records[name]) for name in protected}
    encodings = tuple(secure_sum.encodings(upload.stage, upload.vector_D, upload.me))
    searched = [(name, data) for name, kind in protected.items() for data in (sent[name], *kind.searched)]
    boxes = {name: kind for name, kind in protected.items() if isinstance(kind, Boxed)}
    allowed = upload.allowed * min(1.0, _SEARCHES / (1 + len(boxes)))
    if name := _shows(searched, Plaintext(upload.vector_D, encodings), upload, allowed):
        raise _Seen(f"{name} holds a piece of the update")
    for name, box in boxes.items():
        if _shows([(name, sent[name])], Content(box.inside), upload, allowed):
            raise _Seen(f"{name} is a box that shows its content")


def _shows(searched: Sequence[tuple[str, bytes]], written: Written, upload: Upload, allowed: float) -> str | None:
    """Return the name of a byte string that holds a piece of what is written; None where none of them does."""
    data = b"".join(data for _, data in searched)
    least = least_piece_bytes(len(upload.vector_D), allowed, len(data), written.pieces)
    place = find_piece(data, written, least)
    if place is None:
        return None
    ends = np.cumsum([len(data) for _, data in searched]).tolist()
    return searched[bisect_right(ends, place)][0]


def _as_bytes(name: str, value: Value) -> bytes:
    """The content of a protected record: a byte string, or an array of numbers as it lies in memory."""
    if isinstance(value, np.ndarray) and value.dtype.kind in NUMBERS:
        return value.tobytes()
    if not isinstance(value, bytes):
        raise MalformedContribution(f"{name} must be bytes or an array of numbers, got {type(value).__name__}")
    return value


def _check_numbers(declared: Declarations, rehearsal: Rehearsal | None, upload: Upload) -> None:
    """Check that all protected numbers are uniform, and independent of the last upload and of a second protection."""
    own = _numbers(declared)
    again = {} if rehearsal is None else {n.name: n for n in _numbers(rehearsal.declared)}
    masks = [] if rehearsal is None else list(rehearsal.masks)
    last = _last(upload.me)
    one = upload.allowed / 2 / (SERIES * max(1, len(own) + len(again) + len(masks)))
    for numbers in (*own, *again.values(), *masks):
        for what, series in numbers.series():
            if too_regular(series, numbers.modulus, one):
                raise _Seen(f"{what} are not uniform")
    for numbers in own:
        for whom, others in (
            ("its last upload", last.get(_key(numbers))),
            ("a second protection", _sample_of(again, numbers)),
        ):
            if others is not None and too_regular(numbers.difference(_sample(numbers), others), numbers.modulus, one):
                raise _Seen(f"the differences of {numbers.name} to {whom} are not uniform: something is used twice")
    _keep(own, upload.me)


def _numbers(declared: Declarations) -> list[Numbers]:
    return [numbers for kind in declared.values() for numbers in kind.numbers]


def _sample(numbers: Numbers) -> Integers:
    """A sample of at most `SAMPLE` numbers at fixed, evenly spaced places."""
    flat = numbers.values_RN.reshape(-1)
    return flat[np.linspace(0, len(flat) - 1, min(SAMPLE, len(flat))).astype(np.intp)]


def _sample_of(again: Mapping[str, Numbers], numbers: Numbers) -> Integers | None:
    return _sample(again[numbers.name]) if numbers.name in again else None


def _key(numbers: Numbers) -> str:
    return f"{numbers.name} {numbers.values_RN.shape} {numbers.modulus}"


def _last(me: Participant) -> Mapping[str, Integers]:
    kept = None if me.credentials is None else me.credentials.store.get(LAST)
    if kept is None:
        return {}
    with np.load(io.BytesIO(kept), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays}


def _keep(own: Sequence[Numbers], me: Participant) -> None:
    if me.credentials is not None:
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **{_key(numbers): _sample(numbers) for numbers in own})
        me.credentials.store.put(LAST, file.getvalue())


class _Shadow(Store):
    """A store on top of another one: reads pass through to it, writes never reach it."""

    def __init__(self, below: Store) -> None:
        self._below = below
        self._own = dict[str, bytes]()

    def get(self, name: str) -> bytes | None:
        return self._own.get(name, self._below.get(name))

    def put(self, name: str, value: bytes) -> None:
        self._own[name] = value

    def claim(self, name: str) -> bool:
        """Ignore claims in the store below: the client itself made them for its upload."""
        first = name not in self._own
        self._own.setdefault(name, b"")
        return first


def _rehearsed(secure_sum: SecureSum, upload: Upload) -> Rehearsal | None:
    """A second protection of the vector by a double of the client, whose memory and store are discarded."""
    own = upload.me.credentials
    credentials = None if own is None else replace(own, store=_Shadow(own.store))
    double = replace(upload.me, memory=dict(upload.before), credentials=credentials, inside={}, ahead=None)
    rehearsal = secure_sum.rehearse(upload.stage, upload.inbound, double, upload.vector_D, upload.records)
    if rehearsal is not None:
        off = float(np.abs(rehearsal.opened_D - rehearsal.vector_D).max(initial=0))
        if not off <= rehearsal.tolerance:
            raise _Seen(f"a second protection opens to values that are off by {off:g}")
    return rehearsal
