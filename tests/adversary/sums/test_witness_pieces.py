"""The witness's promise: no ten values in a row leave a client unmasked, wherever they lie; honest clients leave alone.

The adversary is a backdoor in the client's own protection: masks are drawn and paid for, but are zero at a few places,
for instance on the biases of an output layer, whose updates tell how often each label occurs.
"""

import numpy as np
import pytest

from privacy.errors import ProtocolError, WitnessAlarm
from privacy.secure_sums.he import codecs
from privacy.secure_sums.he.ciphers import EncryptionKey
from privacy.secure_sums.mpc.shares import ShareRing
from privacy.secure_sums.secagg import masks as secagg_masks
from privacy.witness.plaintext_search import RUN
from tests.outside.hiding_sum import HidingSum
from tests.privacy.witness import sabotage
from tests.privacy.witness.test_examine import COUNT, LENGTH, SUMS, Witnessed, spec_of, updates

PLACES = {
    "the last": slice(LENGTH - RUN, LENGTH),
    "the first": slice(0, RUN),
    "some": slice(12_345, 12_345 + RUN),
}


class Stopped(Witnessed):
    """A round that goes on without the clients whose witness raises an alarm."""

    rehearse = False

    def respond(self, exchange, address):
        try:
            return super().respond(exchange, address)
        except WitnessAlarm as alarm:
            raise ProtocolError(str(alarm)) from alarm


def alarms(name: str, seed: int = 0) -> int:
    """The number of clients whose upload a witness stops, without a rehearsal."""
    round_ = Stopped(SUMS[name](), spec_of(LENGTH, COUNT), updates(seed))
    round_.set_up()
    round_.upload()
    assert all("holds a piece of the update" in str(error) for error in round_.refused.values())
    return len(round_.refused)


def bare_pad(monkeypatch, where: slice) -> None:
    honest = codecs._PadScheme.draw_mask

    def draw_mask(self, key):
        mask = honest(self, key)
        mask[where] = 0
        return mask

    monkeypatch.setattr(codecs._PadScheme, "draw_mask", draw_mask)


def bare_hiding(monkeypatch, where: slice) -> None:
    honest = HidingSum.expanded

    def expanded(self, seed, length):
        mask = honest(self, seed, length).copy()
        mask[where] = 0
        return mask

    monkeypatch.setattr(HidingSum, "expanded", expanded)


def bare_secagg(monkeypatch, where: slice) -> None:
    honest = secagg_masks.shift

    def shift(words, added, subtracted):
        before = words[where].copy()
        honest(words, added, subtracted)
        words[where] = before

    monkeypatch.setattr(secagg_masks, "shift", shift)


def bare_shares(monkeypatch, where: slice) -> None:
    honest = ShareRing.split

    def split(self, values_D, parties, whole, randomness):
        payloads = honest(self, values_D, parties, whole, randomness)
        share_D = np.frombuffer(payloads[whole], values_D.dtype).copy()
        share_D[where] = values_D[where]
        payloads[whole] = share_D.tobytes()
        return payloads

    monkeypatch.setattr(ShareRing, "split", split)


BARE = {"pad": bare_pad, "hiding": bare_hiding, "secagg": bare_secagg, "crypten": bare_shares}


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("name", BARE)
def test_ten_values_without_a_mask_stop_every_upload(name, places, monkeypatch):
    BARE[name](monkeypatch, PLACES[places])
    assert alarms(name) == COUNT


def test_the_last_ten_values_stop_every_upload_of_a_pad(monkeypatch):
    """A search of samples had missed them in 100 of 100 uploads."""
    bare_pad(monkeypatch, PLACES["the last"])
    assert sum(alarms("pad", seed) for seed in range(10)) == 10 * COUNT


def test_three_values_may_pass_as_the_card_says(monkeypatch):
    """The control: the limit that the card states is one."""
    bare_pad(monkeypatch, slice(LENGTH - 3, LENGTH))
    assert alarms("pad") == 0


def test_a_mask_that_all_clients_share_passes_as_the_card_says(monkeypatch):
    """Another limit that the card states: the difference of two uploads is that of their updates, and nobody looks."""
    honest = codecs._PadScheme.draw_mask
    monkeypatch.setattr(
        codecs._PadScheme, "draw_mask", lambda self, key: honest(self, b"of this round alone".ljust(32))
    )
    assert alarms("pad") == 0


def test_the_last_ciphertext_alone_without_encryption_stops_the_upload(monkeypatch):
    """SEAL writes plaintexts of CKKS as values at its roots of unity, which look uniform: only the search sees them."""
    count = ciphertexts_of("ckks-nvflare")
    honest = EncryptionKey._encrypt
    sabotage.unencrypted(monkeypatch)
    bare = EncryptionKey._encrypt
    made = []

    def encrypt(self, plaintext):
        made.append(plaintext)
        return bare(self, plaintext) if len(made) % count == 0 else honest(self, plaintext)

    monkeypatch.setattr(EncryptionKey, "_encrypt", encrypt)
    assert count > 1
    assert alarms("ckks-nvflare") == COUNT


def ciphertexts_of(name: str) -> int:
    """The number of ciphertexts of an upload."""
    secure_sum = SUMS[name]()
    return secure_sum.scheme(spec_of(LENGTH, COUNT)).ckks.ciphertexts(LENGTH + 1)


@pytest.mark.parametrize("name", ["pad", "hiding", "secagg", "crypten"])
def test_honest_uploads_raise_no_alarm_over_many_seeds(name):
    assert sum(alarms(name, seed) for seed in range(5)) == 0
