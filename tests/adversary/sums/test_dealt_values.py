"""A dealer that deals wrong values has one client's update opened, as the card says; a malformed answer is refused."""

import numpy as np
import pytest
import torch

from privacy.errors import PeerLost
from privacy.secure_sums.mpc.aggregates.by_name import named
from privacy.secure_sums.mpc.crypten import bit_circuits, dealer
from privacy.secure_sums.mpc.protocol import CryptenSum
from privacy.testing.harness import spec_of
from tests.privacy.secure_sums.mpc.lone_party import stay_alone

VALUES = np.array([[7, -3, 1], [9, 100, 1], [-20, 500, 1]], np.int64)
MIDDLE = [21, 300, 3]  # three times the median, and the weight
VICTIM = 2
FAR = 1 << 40


def opened() -> np.ndarray:
    return named("median").reveal(torch.from_numpy(VALUES), 0, None)


def test_a_dealer_that_moves_the_values_of_the_others_has_one_update_opened_as_the_card_says(monkeypatch):
    """The masks' bits belong to another mask than the one that hides the values: the values come out moved."""
    stay_alone(monkeypatch)
    np.testing.assert_array_equal(opened(), MIDDLE)
    deal = bit_circuits.word_masks
    shift = torch.tensor([FAR, -FAR, 0])[:, None]

    def moved(size, device):
        additive, bits = deal(size, device)
        bits.share = bits.share - shift
        return additive, bits

    monkeypatch.setattr(bit_circuits, "word_masks", moved)
    np.testing.assert_array_equal(opened(), len(VALUES) * VALUES[VICTIM])
    card = CryptenSum(aggregate={"name": "median"}).trust(spec_of(2, 3))
    assert ("the dealer", "the server") in card.coalitions
    assert "A dealer that deals wrong values can have one client's update opened" in " ".join(
        card.sentences["protocol"]
    )


class Answers:
    """Stands where CrypTen's communicator is: the dealer's answer to one request has arrived."""

    ttp_group = None

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def send_obj(self, *_: object) -> None:
        pass

    def recv_obj(self, *_: object) -> object:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def receive_words(self, size: torch.Size, _: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.long)


def asked(monkeypatch, answer: object, *request: object) -> torch.Tensor:
    monkeypatch.setattr(dealer, "_communicator", lambda: (Answers(answer), 0))
    return dealer.Client(None).ttp_request(request[0], None, *request[1:])


REQUESTS = {
    "words": (("words", torch.Size((3, 64))), (3, 64)),
    "square": (("square", torch.Size((5,))), (5,)),
    "B2A": (("B2A", torch.Size((5,))), (5,)),
    "binary": (("binary", torch.Size((3, 1)), torch.Size((1, 4))), (3, 4)),
    "product": (("additive", torch.Size((3,)), torch.Size((3,)), "mul"), (3,)),
    "matrix product": (("additive", torch.Size((1, 3)), torch.Size((3, 7)), "matmul"), (1, 7)),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_has_the_shape_of_the_result(monkeypatch, name):
    request, size = REQUESTS[name]
    assert asked(monkeypatch, torch.Size(size), *request).shape == size
    for other in (torch.Size((1,)), torch.Size((2, *size)), torch.Size(size[:-1]), size, "many", None, 5):
        with pytest.raises(PeerLost, match=r"^the dealer deals another number of values than it was asked for$"):
            asked(monkeypatch, other, *request)


@pytest.mark.parametrize("error", [ValueError("restricted"), EOFError("none"), IndexError("pop"), TypeError("x")])
def test_an_answer_that_cannot_be_read_is_a_lost_dealer(monkeypatch, error):
    with pytest.raises(PeerLost, match=r"^the dealer's answer cannot be read: "):
        asked(monkeypatch, error, "square", torch.Size((5,)))


@pytest.mark.parametrize("report", [None, (1, 2), ("a", "b", "c", "d")])
def test_a_report_that_cannot_be_read_is_a_lost_dealer(monkeypatch, report):
    monkeypatch.setattr(dealer, "_communicator", lambda: (Answers(report), 0))
    with pytest.raises(PeerLost, match=r"^the dealer's answer cannot be read: "):
        dealer.Client(None).spent()
