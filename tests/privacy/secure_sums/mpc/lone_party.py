"""One party alone, in this process: products and openings are done on the whole value, the circuits are the real ones.

Real parties take seconds to start and their tests minutes: these see at once what a circuit makes of a value.
"""

from contextlib import nullcontext

import pytest
import torch

from privacy.secure_sums.mpc.crypten import bit_circuits as mpc_circuits
from privacy.secure_sums.mpc.crypten import party as crypten_party


def _word_masks(size: torch.Size, device: object) -> tuple[object, object]:
    """The same word twice, as its two parts are for a party alone."""
    word = torch.randint(-(2**63), 2**63 - 1, size, generator=torch.Generator().manual_seed(len(size)))
    return _Shared(word), _Shared(word)


class _Shared:
    """Stands where CrypTen has a shared tensor."""

    def __init__(self, share: torch.Tensor) -> None:
        self.share = share


def stay_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the circuits run here: Beaver's products are products, and an opened share is the value."""
    alone = {
        "both": torch.bitwise_and,
        "product": torch.mul,
        "matrix_product": torch.matmul,
        "squared": torch.square,
        "opened": torch.clone,
        "opened_bits": torch.clone,
        "bits_to_integers": torch.clone,
        "parties": lambda: 1,
        "_is_first": lambda: True,
        "word_masks": _word_masks,
    }
    for name, function in alone.items():
        monkeypatch.setattr(mpc_circuits, name, function)
    monkeypatch.setattr(crypten_party, "computing", nullcontext)
