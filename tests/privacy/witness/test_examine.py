"""The wire witness: silent where protection is on, and an alarm for each way to switch it off."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from privacy.errors import PrivacyRefusal, WitnessAlarm
from privacy.randomness import OsRandomness
from privacy.secure_sums.contract import Participant, SecureSum
from privacy.secure_sums.he.sums import BfvSum, CkksSum, PadSum
from privacy.secure_sums.mpc.protocol import CryptenSum
from privacy.secure_sums.plain import PlainSum
from privacy.secure_sums.secagg.protocol import SecAggSum
from privacy.testing.harness import Round, residue_spec, spec_of
from privacy.witness.examine import FALSE_ALARM, Upload, allowance, examine
from tests.outside.hiding_sum import HidingSum
from tests.outside.masked_sum import MaskedSum
from tests.privacy.witness.sabotage import SABOTAGE, forged, masks_left_out, zero_second

BOUND = 4.0
LENGTH = 30_000
COUNT = 3
ALLOWED = allowance(rounds=100, cohort=10)


class Witnessed(Round):
    """A round with a witness on every client's upload, in which all clients rehearse if any does."""

    rehearse = True

    def respond(self, exchange, address):
        me = self.party(address)
        before = dict(self.memories.get(address, {}))
        inbound = exchange.outbox[address]
        records = self.answer(exchange.stage, inbound, me, self.contribution(exchange, address))
        if exchange.collect and address.startswith("client/"):
            upload = Upload(exchange.stage, inbound, records, me, self.vectors[address], before, ALLOWED)
            examine(self.secure_sum, upload, self.rehearse)
        return records

    def party(self, address) -> Participant:
        return replace(super().party(address), randomness=OsRandomness())

    def upload(self) -> None:
        """Run as far as the uploads, which needs no parties."""
        flow = self.secure_sum.server(self.cohort, self.spec)
        self.serve(self.until(flow, lambda exchange: exchange.collect))


def updates(seed: int) -> dict[str, np.ndarray]:
    """Updates like those of training, far below their bound."""
    generator = np.random.default_rng(seed)
    made = {f"client/{i}": generator.normal(0, 0.01, LENGTH + 1).astype(np.float32) for i in range(COUNT)}
    for vector in made.values():
        vector[-1] = 1.0
    return made


def uploaded(secure_sum: SecureSum, rounds: int = 1, rehearse: bool = True) -> None:
    """Several rounds as far as the uploads, with a witness on every upload."""
    round_ = Witnessed(secure_sum, spec_of(LENGTH, COUNT), updates(0))
    round_.rehearse = rehearse
    round_.set_up()
    for number in range(1, rounds + 1):
        round_.number = number
        round_.attempt = f"attempt {number}"
        round_.vectors = updates(number)
        round_.memories.clear()
        round_.upload()


SUMS: dict[str, Callable[[], SecureSum]] = {
    "ckks": lambda: CkksSum("keyholder", BOUND),
    "ckks-clients": lambda: CkksSum("clients", BOUND),
    "ckks-flooded": lambda: CkksSum("clients", BOUND, parameters="tutorial", masks=False, flooding_bits=10),
    "ckks-nvflare": lambda: CkksSum("clients", BOUND, parameters="nvflare", masks=False, flooding_bits=0),
    "ckks-a-part": lambda: CkksSum("keyholder", BOUND, encrypt_fraction=0.7),
    "ckks-sensitive": lambda: CkksSum("clients", BOUND, encrypt_fraction=0.7, encrypt_by="sensitivity"),
    "bfv": lambda: BfvSum("keyholder", BOUND),
    "bfv-clients": lambda: BfvSum("clients", BOUND),
    "bfv-two-primes": lambda: BfvSum(
        "keyholder", BOUND, parameters={"poly_modulus_degree": 8192, "coeff_modulus_bits": [54, 54, 55]}
    ),
    "bfv-unmasked": lambda: BfvSum("clients", BOUND, masks=False),
    "bfv-unmasked-keyholder": lambda: BfvSum("keyholder", BOUND, masks=False),
    "pad": lambda: PadSum("keyholder", BOUND),
    "secagg": lambda: SecAggSum(COUNT, bound=BOUND),
    "crypten": lambda: CryptenSum(3, BOUND),
    "hiding": lambda: HidingSum(BOUND),
    "crypten-median": lambda: CryptenSum(2, BOUND, aggregate={"name": "median"}),
}


@pytest.mark.parametrize("name", SUMS)
def test_an_honest_upload_raises_no_alarm(name):
    uploaded(SUMS[name](), rounds=3)


@pytest.mark.parametrize("name", ["bfv", "pad", "secagg", "crypten", "hiding"])
@pytest.mark.parametrize("bits", [4, 16])
def test_nor_do_residues(name, bits):
    generator = np.random.default_rng(bits)
    vectors = {f"client/{i}": np.append(generator.integers(0, 2**bits, 500), 1) for i in range(COUNT)}
    round_ = Witnessed(SUMS[name](), residue_spec(500, COUNT, bits), vectors)
    round_.set_up()
    round_.upload()


@pytest.mark.parametrize("name", ["ckks", "bfv", "pad", "secagg", "crypten", "hiding"])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_nor_do_the_shortest_vectors(name, length):
    vectors = {f"client/{i}": np.full(length + 1, 0.5, np.float32) for i in range(COUNT)}
    round_ = Witnessed(SUMS[name](), spec_of(length, COUNT), vectors)
    round_.set_up()
    for attempt in ("first", "second"):
        round_.attempt = attempt
        round_.memories.clear()
        round_.upload()


def test_a_whole_run_is_allowed_one_false_alarm_in_a_billion():
    assert 2 * 50 * 7 * allowance(50, 7) <= FALSE_ALARM <= 1e-9


# ---- sabotage


@pytest.mark.parametrize(("how", "name"), [(how, name) for how, (_, names) in SABOTAGE.items() for name in names])
def test_sabotage_is_seen(how, name, monkeypatch):
    SABOTAGE[how][0](monkeypatch)
    with pytest.raises(WitnessAlarm, match=r"^the witness of client/0 stops stage .*; nothing was sent$"):
        uploaded(SUMS[name]())


@pytest.mark.parametrize("name", ["ckks", "bfv", "bfv-two-primes"])
def test_a_public_coefficient_of_zero_is_no_ciphertext_to_its_own_client(name, monkeypatch):
    """Under masks the client digests its message for the linear check, and refuses before the witness looks."""
    forged(monkeypatch, zero_second)
    with pytest.raises(PrivacyRefusal, match=r"no ciphertext, and was not sent: .* second polynomial of zeros"):
        uploaded(SUMS[name]())


def test_the_plaintext_itself_is_seen_as_such(monkeypatch):
    """Before any distribution is looked at."""
    masks_left_out(monkeypatch)
    with pytest.raises(WitnessAlarm, match="message holds a piece of the update"):
        uploaded(SUMS["pad"](), rehearse=False)


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("a mask of nothing", "pad"),
        ("one mask for all", "pad"),
        ("one generator for all ciphertexts", "ckks"),
        ("one generator for all ciphertexts", "bfv"),
        ("no encryption", "ckks-nvflare"),
        ("no encryption", "bfv"),
        ("the same keys again", "crypten"),
        ("one mask for everybody", "secagg"),
    ],
)
def test_without_a_rehearsal_it_is_seen_in_the_second_round_at_the_latest(how, name, monkeypatch):
    """It is seen by every client, independent of the turn to rehearse."""
    SABOTAGE[how][0](monkeypatch)
    if how == "one generator for all ciphertexts":
        kept = []
        forged(
            monkeypatch,
            lambda first, second: second.__setitem__(..., kept[0] if kept else kept.append(second[0]) or second[0]),
        )
    with pytest.raises(WitnessAlarm):
        uploaded(SUMS[name](), rounds=2, rehearse=False)


def test_what_is_not_declared_does_not_leave(monkeypatch):
    honest = PadSum.respond

    def respond(self, stage, inbound, me, contribution):
        records = honest(self, stage, inbound, me, contribution)
        return {**records, "note": "to the server"} if stage == "collect" else records

    monkeypatch.setattr(PadSum, "respond", respond)
    with pytest.raises(WitnessAlarm, match="note is sent or declared, but not both"):
        uploaded(SUMS["pad"]())


def test_a_sum_that_hides_and_declares_nothing_cannot_run():
    class Silent(MaskedSum):
        hides = True

    with pytest.raises(WitnessAlarm, match="does not declare its records"):
        uploaded(Silent())


def test_what_hides_nothing_is_let_through():
    uploaded(PlainSum(), rounds=2)


def test_a_look_leaves_nothing_behind_but_a_sample_of_the_upload():
    """The copy used for a rehearsal, with an attempt already claimed, forgets everything."""
    stores = {}
    for look in (False, True):
        round_ = (Witnessed if look else Round)(SUMS["secagg"](), spec_of(LENGTH, COUNT), updates(0))
        Witnessed.upload(round_)
        stores[look] = set(round_.stores["client/0"].values)
        memory = round_.memories["client/0"]
        assert {"secagg.seed", "secagg.shares"} <= set(memory)
    assert stores[True] - stores[False] == {"witness"}
